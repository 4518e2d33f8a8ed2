"""sync.toml: what it may say, and what is said, with line and field, where it is wrong."""

import tomllib
from pathlib import Path

import pytest

from interlock.artifacts import policy_file
from interlock.artifacts.policy_file import PolicyFileInvalid, parse, read
from interlock_schemas.orders import Policy

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "sync.toml"


def test_the_example_says_everything_that_can_be_said() -> None:
    games, models = read(EXAMPLE)
    assert (games.dataset, games.copies, games.largest_bytes) == ("games", 3, 20 * 10**9)
    assert games.transports == ("exec", "rsync")
    assert models == Policy(dataset="models", targets=("all",), priority="high")
    told = tomllib.loads(EXAMPLE.read_text())["policy"]["games"]
    fields = set(Policy.__struct_fields__) - {"dataset"}
    assert set(told) == set(policy_file._Policy.model_fields) == fields


def test_what_is_not_said_is_as_the_policy_has_it() -> None:
    assert parse("[policy.a]\n") == (Policy(dataset="a"),)
    assert parse("") == ()


@pytest.mark.parametrize(
    ("text", "line", "field", "message"),
    [
        ("[policy.a]\ncopies = 0", 2, "policy.a.copies", "1 or more"),
        ("[policy.a]\n\ncopys = 1", 3, "policy.a.copys", "did you mean copies?"),
        ("[policies.a]", 1, "policies", "did you mean policy?"),
        ("[policy.a]\ntargets = ['all',\n 'everyone']", 3, "policy.a.targets[1]", "role:<role>"),
        ("[policy.a]\navoid = 'all'", 2, "policy.a.avoid", "has to be a list"),
        ("[policy.a]\npriority = 'urgent'", 2, "policy.a.priority", "'critical'"),
        ("[policy.a]\nlargest_bytes = '5 GiB'", 2, "policy.a.largest_bytes", "number of bytes"),
        ("[policy.a]\nkeep_last = 1.5", 2, "policy.a.keep_last", "a whole number"),
        ("[policy.a]\ntransports = ['http']", 2, "policy.a.transports[0]", "'relay'"),
        ("[policy.'No Name']", 1, 'policy."No Name"', "no name of a dataset"),
        ("[policy]\na = 1", 2, "policy.a", "write [policy.a]"),
        ("x = ", 1, "", "is no TOML"),
    ],
)
def test_an_error_names_line_and_field(text: str, line: int, field: str, message: str) -> None:
    with pytest.raises(PolicyFileInvalid) as told:
        parse(text)
    (problem,) = told.value.problems
    assert (problem.line, problem.field) == (line, field)
    assert message in problem.message


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(PolicyFileInvalid, match=r"2 problems in s\.toml, nothing was applied"):
        parse("[policy.a]\ncopies = 0\n[policy.b]\ncopies = 'x'\n", "s.toml")
