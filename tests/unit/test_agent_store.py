"""What an agent makes of its store: what is held, what differs, what has settled, when to go."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_node_agent import leave
from interlock_node_agent.holdings import Holdings, differences, is_news
from interlock_node_agent.occupancy import StoreOccupied, occupied
from interlock_node_agent.settling import Item, Seen, is_ignored, look
from interlock_schemas.artifacts import Copy, StoreReport


def id_of(number: int) -> str:
    return f"{number:02x}" + "0" * 60 + f"{number % 100:02d}"


def copy(number: int, **given: Any) -> Copy:
    return Copy(
        id=id_of(number),
        node="n",
        bytes=given.pop("bytes", 10),
        at="2026-01-01T00:00:00Z",
        verified_at=given.pop("verified_at", "2026-01-01T00:00:00Z"),
        **given,
    )


REPORT = StoreReport(
    node="n", instance="i", root="/s", at="2026-01-01T00:00:00Z", total_bytes=1_000, free_bytes=500
)


def changed(**given: Any) -> StoreReport:

    return msgspec.structs.replace(REPORT, **given)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["held", "damaged", "dropped", "gone"])))
)
def test_holdings_are_what_was_last_told(steps: list[tuple[int, Any]]) -> None:
    holdings = Holdings()
    model: dict[str, int] = {}
    for number, state in steps:
        model.pop(id_of(number), None)
        if state == "gone":
            holdings.forget(id_of(number))
        else:
            holdings.note(copy(number, state=state, bytes=number + 1))
            if state == "held":
                model[id_of(number)] = number + 1
    assert len(holdings) == len(model)
    assert holdings.bytes == sum(model.values())
    assert all(id in holdings for id in model)
    assert {id for number in range(21) for id in holdings.of_part(f"{number:02x}")} == set(model)


def test_the_one_that_was_not_checked_for_longest_is_next() -> None:
    holdings = Holdings()
    holdings.note(copy(1, verified_at="2026-01-03T00:00:00Z"))
    holdings.note(copy(2, verified_at="2026-01-02T00:00:00Z"))
    found = holdings.longest_unverified("2026-01-04T00:00:00Z")
    assert found is not None
    assert found.id == id_of(2)
    found = holdings.longest_unverified("2026-01-04T00:00:00Z", but={id_of(2)})
    assert found is not None
    assert found.id == id_of(1)
    assert holdings.longest_unverified("2026-01-01T00:00:00Z") is None


def test_disk_and_receipts_are_compared() -> None:
    receipts = {id_of(n): copy(n) for n in (1, 2)} | {id_of(3): copy(3, state="dropped")}
    found = differences([id_of(1), id_of(3), id_of(4), id_of(5)], receipts, [id_of(5)])
    assert found.untold == (id_of(3), id_of(4))
    assert found.missing == (id_of(2),)


def test_only_what_matters_is_told_at_once() -> None:
    assert is_news(REPORT, None)
    assert not is_news(changed(at="2026-01-02T00:00:00Z", free_bytes=495), REPORT)
    assert is_news(changed(free_bytes=480), REPORT)
    assert is_news(changed(free_bytes=None), REPORT)
    assert is_news(changed(held=1), REPORT)
    assert is_news(changed(fetching=1), REPORT)


def test_a_store_is_of_one_node_at_a_time(tmp_path: Path) -> None:
    with (
        occupied(tmp_path, "a"),
        occupied(tmp_path, "a"),
        pytest.raises(StoreOccupied, match="node a"),
        occupied(tmp_path, "b"),
    ):
        pass
    with occupied(tmp_path, "b"):
        pass


ITEM = Item("games", "hex8", "x")


def test_what_changes_is_not_taken() -> None:
    seen, settled = look({}, [(ITEM, (1, 10))], 0.0, settle_s=5)
    assert settled == []
    seen, settled = look(seen, [(ITEM, (1, 20))], 4.0, settle_s=5)
    assert settled == []
    seen, settled = look(seen, [(ITEM, (1, 20))], 8.9, settle_s=5)
    assert settled == []
    seen, settled = look(seen, [(ITEM, (1, 20))], 9.0, settle_s=5)
    assert settled == [ITEM]
    assert look(seen, [], 10.0, settle_s=5) == ({}, [])
    assert seen == {ITEM: Seen((1, 20), 4.0)}


def test_names_say_what_is_not_to_be_taken() -> None:
    assert is_ignored(".x")
    assert is_ignored("x.part")
    assert is_ignored("x.tmp")
    assert not is_ignored("x.npz")


def handover(**given: Any) -> leave.Handover:
    return leave.Handover(**{"held": 3, "since": 100.0, **given})


def test_with_nothing_in_the_store_nothing_is_waited_for() -> None:
    assert not leave.at_risk(handover(held=0), 100.0)


def test_not_knowing_is_waited_for_and_not_for_long() -> None:
    assert leave.at_risk(handover(), 100.5)
    assert not leave.at_risk(handover(), 100.0 + leave.NOBODY_S)


def test_what_is_at_risk_is_waited_for_while_the_router_speaks() -> None:
    told = handover(at_risk=2, asked_at=101.0, heard_at=101.0)
    assert leave.at_risk(told, 101.5)
    assert not leave.at_risk(told, 101.0 + leave.SILENT_S)
    assert not leave.at_risk(handover(at_risk=0, asked_at=101.0, heard_at=101.0), 101.5)


def test_what_was_sealed_since_the_router_was_asked_counts_as_not_known() -> None:
    told = handover(since=102.0, at_risk=0, asked_at=101.0, heard_at=101.5)
    assert leave.at_risk(told, 102.5)
    assert not leave.at_risk(told, 102.0 + leave.SILENT_S)


@given(
    held=st.integers(0, 5),
    at_risk=st.none() | st.integers(0, 5),
    asked=st.floats(0, 200),
    now=st.floats(100, 1_000),
)
def test_artifacts_never_hold_a_node_past_its_time(
    held: int, at_risk: int | None, asked: float, now: float
) -> None:
    going = leave.begin("x", 100.0, grace_s=20, deadline_s=None)
    found = handover(held=held, at_risk=at_risk, asked_at=asked, heard_at=asked)
    goes = leave.may_go(going, now, working=0, hurried=False, handover=found)
    assert goes or now < 120.0
    if goes and now < 120.0:
        assert not leave.at_risk(found, now)
    assert leave.may_go(going, now, working=0, hurried=True, handover=found)
