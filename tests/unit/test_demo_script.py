"""The demo's script: the same for everybody, and true."""

from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.demo.script import MAPPED_NAME, MAPPED_TYPE, Item, script
from interlock_event_normalizer.mapping import Canonical, Refusal, normalize
from interlock_schemas import catalogue, envelope, legacy, mappings, subjects
from interlock_schemas.letters import Code

LONG = list(script(4_000, 7))
MAPPED = {
    legacy.fold(MAPPED_NAME): mappings.Mapping(
        name=MAPPED_NAME, target=MAPPED_TYPE, at="2026-01-05T10:00:00.000000Z"
    )
}
KINDS = {"canonical", "legacy", "unknown", "broken", "misshapen"}


def outcome(item: Item, made: dict[str, mappings.Mapping]) -> Canonical | Refusal:
    headers = {envelope.MSG_ID: item.id}
    return normalize(item.subject, headers, item.body, lambda name: mappings.resolve(name, made))


def names_in(items: Iterable[Item]) -> set[str]:
    """The names as the normalizer reads them."""
    outcomes = [outcome(item, {}) for item in items if item.kind == "legacy"]
    return {found.name for found in outcomes}


@given(st.integers(0, 300), st.integers(0, 2**30))
@settings(max_examples=20)
def test_a_seed_makes_one_script(count: int, seed: int) -> None:
    items = list(script(count, seed))
    assert items == list(script(count, seed))
    assert len(items) == count
    assert items == list(script(count + 10, seed))[:count]


def test_another_seed_makes_another() -> None:
    assert [item.body for item in script(100, 1)] != [item.body for item in script(100, 2)]


def test_no_two_messages_share_an_id() -> None:
    ids = [item.id for seed in range(3) for item in script(500, seed)]
    event_ids = [item.event_id for seed in range(3) for item in script(500, seed)]
    assert len(set(ids)) == len(set(event_ids)) == len(ids)


@given(st.integers(0, 2**30))
@settings(max_examples=10, deadline=None)
def test_every_name_of_the_table_is_spelled_in_a_long_script(seed: int) -> None:
    assert names_in(script(3_000, seed)) >= {name for name, _ in legacy.known_names()}


def test_and_in_every_case_in_a_longer_one() -> None:
    spelled = names_in(LONG)
    for name, _ in legacy.known_names():
        assert {name, name.upper(), name.lower(), name.replace("_", "-")} <= spelled


def test_every_kind_of_message_and_of_failure_is_in_a_long_script() -> None:
    assert {item.kind for item in LONG} == KINDS
    assert {item.failing for item in LONG} == {"never", "once", "until_fixed", "always"}
    codes = {item.code for item in LONG}
    assert codes == {
        None,
        Code.HANDLER_FAILED,
        Code.UNKNOWN_NAME,
        Code.UNDECODABLE,
        Code.INVALID,
    }


def test_canonical_events_are_valid_on_the_subject_of_their_type() -> None:
    for item in LONG:
        if item.kind == "canonical":
            assert item.type is not None
            assert subjects.parse_event(item.subject) == item.type
            catalogue.by_name()[item.type].convert(msgspec.json.decode(item.body))


@pytest.mark.parametrize("seed", [7, 8])
def test_the_normalizer_makes_of_each_message_what_the_script_says(seed: int) -> None:
    for item in script(4_000, seed):
        if item.kind == "canonical":
            continue
        found = outcome(item, {})
        if item.kind == "legacy":
            assert isinstance(found, Canonical), (item, found)
            assert found.type == item.type
            assert found.payload["demo"] == item.failing
        else:
            assert isinstance(found, Refusal), (item, found)
            assert found.code is item.code


def test_the_repair_makes_known_what_the_script_says_it_does() -> None:
    for item in LONG:
        if item.kind == "unknown":
            found = outcome(item, MAPPED)
            assert (found.type if isinstance(found, Canonical) else None) == item.type


def test_a_failing_handler_is_the_only_reason_for_its_letters() -> None:
    for item in LONG:
        failed = item.code is Code.HANDLER_FAILED
        assert failed == (item.failing in ("until_fixed", "always"))
