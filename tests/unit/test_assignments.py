"""``key=value`` arguments of the command line as a payload."""

from typing import Any

import msgspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from interlock.cli.events import assignments

FIELDS: dict[str, Any] = {
    "config": str | None,
    "games": int | None,
    "final_loss": float | None,
    "success": bool | None,
    "nodes": tuple[str, ...] | None,
}

keys = st.text(min_size=1).filter(lambda key: "=" not in key)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("pair", "payload"),
    [
        ("x=1", {"x": 1}),
        ("x=1.5", {"x": 1.5}),
        ("x=true", {"x": True}),
        ("x=null", {"x": None}),
        ("x=v12", {"x": "v12"}),
        ("x=", {"x": ""}),
        ("x=a=b", {"x": "a=b"}),
        ("x=NaN", {"x": "NaN"}),
        ('x={"a": [1]}', {"x": {"a": [1]}}),
        ('x="7"', {"x": "7"}),
    ],
)
def test_a_value_is_json_where_it_is_json_else_text(pair: str, payload: dict[str, Any]) -> None:
    assert assignments([pair]) == payload


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("config=7", "7"),
        ("config=null", "null"),
        ("games=7", 7),
        ("final_loss=7", 7.0),
        ("success=true", True),
        ('nodes=["a"]', ["a"]),
        ("games=many", "many"),
    ],
)
def test_a_value_is_read_as_its_field_wants_it(pair: str, value: object) -> None:
    key = pair.partition("=")[0]
    found = assignments([pair], FIELDS)[key]
    assert found == value
    assert type(found) is type(value)


@given(st.dictionaries(keys, values))
def test_any_json_value_comes_through(payload: dict[str, Any]) -> None:
    pairs = [f"{key}={msgspec.json.encode(value).decode()}" for key, value in payload.items()]
    assert assignments(pairs) == payload


@given(keys, st.text(st.characters(codec="utf-8")))
def test_any_text_is_a_value(key: str, text: str) -> None:
    assert assignments([f"{key}={text}"]).keys() == {key}


def test_a_value_nested_too_deeply_is_text() -> None:
    deep = "[" * 100_000
    assert assignments([f"x={deep}"]) == {"x": deep}


def test_the_last_of_two_values_counts() -> None:
    assert assignments(["x=1", "x=2"]) == {"x": 2}


@pytest.mark.parametrize("pair", ["x", "=1", ""])
def test_what_is_no_assignment_is_refused(pair: str) -> None:
    with pytest.raises(typer.BadParameter, match="not key=value"):
        assignments([pair])
