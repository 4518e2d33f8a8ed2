"""A service names its subjects in its contract and nowhere else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVICES = Path(__file__).parents[2] / "services"
SOURCES = sorted(SERVICES.glob("*/src/**/*.py"))

SUBJECT = re.compile(r"(events|legacy|dead|cmd|heartbeat)\.|\$(KV|JS|SYS|SRV)\b")


def named_subjects(source: str) -> Iterator[str]:
    """The string literals that begin like a subject."""
    for node in ast.walk(ast.parse(source)):
        literal = node.value if isinstance(node, ast.Constant) else None
        if isinstance(literal, str) and SUBJECT.match(literal):
            yield literal


def test_there_are_services_to_look_at() -> None:
    assert {source.parts[-4] for source in SOURCES} >= {"event_normalizer", "dead_letter_queue"}


@pytest.mark.parametrize(
    "source",
    [source for source in SOURCES if source.name != "contract.py"],
    ids=lambda source: "/".join(source.parts[-2:]),
)
def test_no_subject_is_named_outside_a_contract(source: Path) -> None:
    assert list(named_subjects(source.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "literal",
    [
        '"events.>"',
        '"legacy.training"',
        'f"dead.{service}.{code}"',
        '"cmd." + verb',
        '"$KV.letters.x"',
        'f"$JS.API.{verb}"',
    ],
)
def test_a_subject_would_be_noticed(literal: str) -> None:
    assert list(named_subjects(f"publish({literal}, b'')"))


@pytest.mark.parametrize(
    "literal", ['"STREAM.MSG.GET.DEAD"', 'f"resolved.{id}"', '"not a letter.resolved"', '"events"']
)
def test_what_is_no_subject_would_not(literal: str) -> None:
    assert not list(named_subjects(f"call({literal})"))
