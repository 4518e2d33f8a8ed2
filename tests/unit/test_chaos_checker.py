"""The checker of a chaos run can fail: each defect, fed to it, is found and named."""

from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.chaos.checker import MARGIN_S, Found, Happened, Stored, Verdict, check
from interlock.chaos.lines import (
    Attempt,
    Effect,
    Entered,
    Left,
    Line,
    Outcome,
    Started,
    event_id,
)
from interlock.chaos.schedule import Fault, Kind

FINDINGS = ("lost", "misplaced", "duplicates", "reordered", "stuck")


def attempt(number: int, at: float = 0.0, key: str = "k") -> Attempt:
    return Attempt(at=at, key=key, seq=number, deadline_s=4.0)


def outcome(
    number: int,
    at: float = 0.0,
    *,
    place: int = 0,
    result: Literal["acknowledged", "unknown"] = "acknowledged",
    key: str = "k",
) -> Outcome:
    return Outcome(at=at, key=key, seq=number, result=result, stream_seq=place)


def handled(number: int, at: float = 0.0, key: str = "k") -> list[Line]:
    return [
        Entered(at=at, key=key, seq=number, attempt=1),
        Left(at=at, key=key, seq=number),
    ]


def good(count: int = 4) -> Found:
    """A run of one publisher and one key, where all is well."""
    published: list[Line] = [Started(at=0.0)]
    effects: list[Line] = []
    ordered: list[Line] = []
    for number in range(count):
        at = float(number)
        published += [attempt(number, at), outcome(number, at + 0.1, place=number + 1)]
        effects.append(Effect(at=at + 0.2, id=event_id("k", number), attempt=1))
        ordered += handled(number, at + 0.2)
    return Found(
        publishers={"p": published},
        consumers={"c": effects},
        ordered=ordered,
        stored=[Stored(number + 1, "k", number) for number in range(count)],
        effects=frozenset(event_id("k", number) for number in range(count)),
        drained=True,
        happened=(),
        publisher_names=["p"],
    )


def only(verdict: Verdict, finding: str) -> tuple[str, ...]:
    """The ids of this finding, which must be the only one."""
    assert not verdict.clean
    for name in FINDINGS:
        assert bool(getattr(verdict, name)) == (name == finding), name
    ids: tuple[str, ...] = getattr(verdict, finding)
    return ids


def replace(found: Found, **changes: object) -> Found:
    return msgspec.structs.replace(found, **changes)


@given(count=st.integers(1, 20))
def test_a_good_run_is_clean(count: int) -> None:
    verdict = check(good(count))
    assert verdict.clean
    assert verdict.acknowledged == verdict.published == verdict.delivered == count


def test_a_run_without_an_acknowledgement_is_not_clean() -> None:
    assert not check(good(0)).clean


@given(count=st.integers(1, 20), data=st.data())
def test_an_acknowledged_event_that_is_not_stored_is_lost(count: int, data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, count - 1))
    found = good(count)
    found = replace(found, stored=[each for each in found.stored if each.number != gone])
    assert only(check(found), "lost") == (event_id("k", gone),)


def test_an_event_that_was_never_handled_and_is_not_pending_is_lost() -> None:
    found = good()
    found = replace(found, effects=found.effects - {"k.2"})
    assert only(check(found), "lost") == ("k.2",)


def test_an_event_that_the_ordered_handler_never_saw_is_lost() -> None:
    found = good()
    lines = [line for line in found.ordered if getattr(line, "seq", None) != 1]
    assert only(check(replace(found, ordered=lines)), "lost") == ("k.1",)


def test_an_event_that_is_not_handled_in_time_is_stuck() -> None:
    found = good()
    found = replace(found, effects=found.effects - {"k.2"}, drained=False)
    assert only(check(found), "stuck") == ("k.2",)


def test_an_event_whose_fate_was_never_resolved_is_stuck() -> None:
    found = good()
    lines = [
        *found.publishers["p"],
        attempt(4, 9.0),
        outcome(4, 13.0, result="unknown"),
    ]
    assert only(check(replace(found, publishers={"p": lines})), "stuck") == ("k.4",)


def test_a_call_that_outlived_its_deadline_is_stuck() -> None:
    found = good()
    late = 10.0 + 4.0 + MARGIN_S + 0.1
    lines: list[Line] = [line for line in found.publishers["p"] if getattr(line, "seq", 0) != 3]
    lines += [attempt(3, 10.0), outcome(3, late, place=4)]
    found = replace(found, publishers={"p": lines})
    assert only(check(found), "stuck") == ("k.3",)
    frozen = happened("publisher_freeze", 11.0, 13.0)
    assert check(replace(found, happened=[frozen])).clean


def test_an_event_stored_twice_is_a_duplicate() -> None:
    found = good()
    found = replace(found, stored=[*found.stored, Stored(5, "k", 1)])
    assert only(check(found), "duplicates") == ("k.1",)


def test_an_effect_done_twice_is_a_duplicate() -> None:
    found = good()
    again = Effect(at=9.0, id="k.1", attempt=2)
    lines = [*found.consumers["c"], again]
    assert only(check(replace(found, consumers={"c": lines})), "duplicates") == ("k.1",)
    # Also by another process.
    both = {"c": found.consumers["c"], "d": [again]}
    assert only(check(replace(found, consumers=both)), "duplicates") == ("k.1",)


def test_a_redelivery_that_is_absorbed_is_only_counted() -> None:
    found = good()
    again = Effect(at=9.0, id="k.1", attempt=2, done=False)
    verdict = check(replace(found, consumers={"c": [*found.consumers["c"], again]}))
    assert verdict.clean
    assert verdict.redelivered == 1


@given(count=st.integers(2, 20), data=st.data())
def test_any_disorder_in_the_stream_is_found(count: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(count)))
    found = good(count)
    stored = [Stored(place + 1, "k", number) for place, number in enumerate(order)]
    places = {each.number: each.seq for each in stored}
    lines = [
        msgspec.structs.replace(line, stream_seq=places[line.seq])
        if isinstance(line, Outcome)
        else line
        for line in found.publishers["p"]
    ]
    verdict = check(replace(found, stored=stored, publishers={"p": lines}))
    assert bool(verdict.reordered) == (order != list(range(count)))
    assert not any(getattr(verdict, name) for name in FINDINGS if name != "reordered")


def test_keys_do_not_bind_one_another() -> None:
    found = good(2)
    lines = [*found.publishers["p"], attempt(0, key="l"), outcome(0, place=3, key="l")]
    found = replace(
        found,
        publishers={"p": lines},
        stored=[*found.stored, Stored(3, "l", 0)],
        effects=found.effects | {"l.0"},
        ordered=[*found.ordered, *handled(0, key="l")],
    )
    assert check(found).clean


def test_a_later_event_that_was_begun_before_the_earlier_failed_may_be_stored_first() -> None:
    found = good(2)
    stored = [Stored(1, "k", 1), Stored(2, "k", 0)]
    pipelined = [
        Started(at=0.0),
        attempt(0, 0.0),
        attempt(1, 0.1),
        outcome(1, 0.2, place=1),
        outcome(0, 4.0, result="unknown"),
        attempt(0, 4.1),
        outcome(0, 4.2, place=2),
    ]
    assert check(replace(found, stored=stored, publishers={"p": pipelined})).clean
    in_turn = [
        Started(at=0.0),
        attempt(0, 0.0),
        outcome(0, 4.0, result="unknown"),
        attempt(1, 4.1),
        outcome(1, 4.2, place=1),
        attempt(0, 4.3),
        outcome(0, 4.4, place=2),
    ]
    verdict = check(replace(found, stored=stored, publishers={"p": in_turn}))
    assert only(verdict, "reordered") == ("k.0",)


def test_an_event_handled_behind_a_later_one_is_reordered() -> None:
    found = good()
    lines = [*handled(0), *handled(2), *handled(1), *handled(3)]
    assert only(check(replace(found, ordered=lines)), "reordered") == ("k.1",)


def test_two_of_one_key_in_hand_at_once_are_reordered() -> None:
    found = good()
    first, second = handled(1), handled(2)
    lines = [*handled(0), first[0], second[0], first[1], second[1], *handled(3)]
    assert only(check(replace(found, ordered=lines)), "reordered") == ("k.2",)


def test_an_event_whose_first_delivery_was_lost_on_its_way_is_late_and_not_reordered() -> None:
    found = good()
    again = [Entered(at=9.0, key="k", seq=1, attempt=2), Left(at=9.0, key="k", seq=1)]
    lines = [*handled(0), *handled(2), *again, *handled(3)]
    verdict = check(replace(found, ordered=lines))
    assert verdict.clean
    assert verdict.late == ("k.1",)


def test_an_event_that_is_handled_again_is_not_reordered() -> None:
    found = good()
    again = [Entered(at=9.0, key="k", seq=1, attempt=2), Left(at=9.0, key="k", seq=1)]
    assert check(replace(found, ordered=[*found.ordered, *again])).clean


def test_what_a_killed_handler_had_in_hand_does_not_bind_the_next_life() -> None:
    found = good()
    lines = [*handled(0), handled(1)[0], Started(at=9.0), *handled(2), *handled(1), *handled(3)]
    lines[6] = Entered(at=9.0, key="k", seq=1, attempt=2)
    assert check(replace(found, ordered=lines)).clean


def test_an_acknowledgement_that_names_another_place_is_found() -> None:
    found = good()
    lines = [
        msgspec.structs.replace(line, stream_seq=9)
        if isinstance(line, Outcome) and line.seq == 2
        else line
        for line in found.publishers["p"]
    ]
    assert only(check(replace(found, publishers={"p": lines})), "misplaced") == ("k.2",)


def happened(kind: Kind, start: float, end: float, target: int = 0) -> Happened:
    fault = Fault(kind=kind, target=target, start_s=start, end_s=end)
    return Happened(fault, start, end)


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        # Acknowledged at n + 0.1, handled at n + 0.2.
        ([happened("kill", 0.5, 1.5)], [0.7]),
        ([happened("kill", 0.5, 1.0)], [0.2]),
        # Nothing came after it.
        ([happened("kill", 0.5, 9.0)], [None]),
        # The next one came before.
        ([happened("kill", 0.3, 0.5), happened("freeze", 0.6, 2.05)], [None, 0.15]),
        # Its only publisher was frozen: nobody is asked but the consumers.
        ([happened("kill", 0.3, 0.5), happened("publisher_freeze", 0.6, 2.05)], [0.7, 0.15]),
    ],
)
def test_recovery_is_measured_from_the_end_of_a_fault(
    faults: list[Happened], expected: list[float | None]
) -> None:
    verdict = check(replace(good(), happened=faults))
    assert list(verdict.recoveries_s) == pytest.approx(expected, nan_ok=False)
    assert verdict.worst_recovery_s == pytest.approx(
        max((each for each in expected if each is not None), default=0.0)
    )
