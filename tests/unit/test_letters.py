"""The life of a dead letter: told twice or late, it comes out the same."""

from collections import Counter
from typing import Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock_dead_letter_queue import letters as life
from interlock_schemas.letters import Code, DeadLetter, LetterFilter, LetterRecord, Step

Did = Literal["died", "replayed", "resolved", "discarded"]
Happening = tuple[Did, int]

BORN: Happening = ("died", 0)
#: What can have happened at a hop when its replay was sent: nothing yet, one outcome, or both,
#: where an acknowledgement got lost and the message was handled a second time.
OUTCOMES: list[tuple[Did, ...]] = [
    (),
    ("died",),
    ("resolved",),
    ("died", "resolved"),
]


def at(second: int) -> str:
    return f"2026-01-05T10:00:{second:02}.000000Z"


def letter(hop: int = 0, **facts: object) -> DeadLetter:
    told = {
        "id": "abc",
        "code": Code.HANDLER_FAILED,
        "reason": f"attempt {hop} failed",
        "service": "exporter",
        "consumer": "exporter-games",
        "message_id": "m1",
        "subject": "events.training.completed.hex8_2p",
        "stream": "EVENTS",
        "stream_seq": 10 + hop,
        "attempts": 5 + hop,
        "first_at": at(10 * hop),
        "last_at": at(10 * hop + 5),
        "hop": hop,
        "name": "training.completed",
        "body": b"{}",
    }
    return msgspec.convert(told | facts, DeadLetter)


def told(record: LetterRecord | None, *happenings: Happening) -> LetterRecord:
    """The record after these were told, in this order."""
    for did, hop in happenings:
        after: LetterRecord | None
        if did == "died":
            after = life.captured(record, letter(hop), 100 + hop)
        elif record is None:
            raise AssertionError("nothing is told of a letter before it is one")
        elif did == "replayed":
            after = life.replayed(record, hop=hop, at=at(hop), by="kim", reason="fixed")
        elif did == "resolved":
            after = life.resolved(record, hop=hop, at=at(hop))
        else:
            after = life.discarded(record, at=at(59), by="kim", reason="obsolete")
        record = after or record
    assert record is not None
    return record


def born(hop: int = 0, **facts: object) -> LetterRecord:
    record = life.captured(None, letter(hop, **facts), 100)
    assert record is not None
    return record


@st.composite
def lives(draw: st.DrawFn) -> list[Happening]:
    """What happened to a letter, in order."""
    happened = [BORN]
    for hop in range(1, draw(st.integers(0, 4)) + 1):
        happened += [("replayed", hop), *((did, hop) for did in draw(st.sampled_from(OUTCOMES)))]
    return happened


@st.composite
def garbled(draw: st.DrawFn, happened: list[Happening]) -> list[Happening]:
    """The same in any order, some of it told again; only that it is a letter is known first."""
    again = draw(st.lists(st.sampled_from(happened), max_size=5))
    first = draw(st.sampled_from([each for each in happened if each[0] == "died"]))
    rest = [*happened, *again]
    rest.remove(first)
    return [first, *draw(st.permutations(rest))]


def steps(record: LetterRecord) -> list[Happening]:
    return [(step.did, step.hop) for step in record.history]


@given(st.data(), lives())
@settings(max_examples=300)
def test_told_in_any_order_and_again_the_record_is_the_same(
    data: st.DataObject, happened: list[Happening]
) -> None:
    assert told(None, *data.draw(garbled(happened))) == told(None, *happened)


@given(st.data(), lives(), st.integers(0, 20))
def test_no_step_is_in_the_history_twice_nor_out_of_order(
    data: st.DataObject, happened: list[Happening], discarded_after: int
) -> None:
    order = data.draw(garbled(happened))
    order.insert(max(1, discarded_after), ("discarded", 0))
    record = told(None, *order)
    assert len(set(steps(record))) == len(steps(record))
    assert [hop for _, hop in steps(record)] == sorted(hop for _, hop in steps(record))
    assert record.hop == steps(record)[-1][1] == max(hop for _, hop in happened)


@given(st.data(), lives(), st.integers(1, 20))
def test_a_discarded_letter_never_opens_again(
    data: st.DataObject, happened: list[Happening], discarded_after: int
) -> None:
    order = data.draw(garbled(happened))
    before = told(None, *order[:discarded_after])
    record = told(before, ("discarded", 0), *order[discarded_after:])
    if before.status != "resolved":
        assert record.status in {"discarded", "resolved"}
        assert (record.status == "resolved") == (told(None, *happened).status == "resolved")


@given(lives())
def test_telling_something_again_changes_nothing(happened: list[Happening]) -> None:
    record = told(None, *happened)
    for did, hop in happened:
        if did == "died":
            assert life.captured(record, letter(hop), 100 + hop) is None
        elif did == "replayed":
            assert life.replayed(record, hop=hop, at=at(0), by="lee", reason="again") is None
        else:
            assert life.resolved(record, hop=hop, at=at(0)) is None


@given(st.data(), lives())
def test_all_attempts_count_once_from_the_first_to_the_last(
    data: st.DataObject, happened: list[Happening]
) -> None:
    record = told(None, *data.draw(garbled(happened)))
    deaths = [hop for did, hop in happened if did == "died"]
    assert record.attempts == sum(letter(hop).attempts for hop in deaths)
    assert record.first_at == letter(min(deaths)).first_at
    assert record.last_at == letter(max(deaths)).last_at


@given(st.data(), lives())
def test_the_facts_are_those_of_the_last_death(
    data: st.DataObject, happened: list[Happening]
) -> None:
    record = told(None, *data.draw(garbled(happened)))
    last = max(hop for did, hop in happened if did == "died")
    assert record.reason == letter(last).reason
    assert record.stream_seq == letter(last).stream_seq
    assert record.letter_seq == 100 + last


def test_a_letter_is_open_until_it_is_replayed() -> None:
    record = told(None, BORN)
    assert (record.status, record.hop) == ("open", 0)
    assert record.history == (Step(at=at(5), did="died", hop=0, reason="attempt 0 failed"),)
    record = told(record, ("replayed", 1))
    assert (record.status, record.hop) == ("replayed", 1)
    assert record.history[-1] == Step(at=at(1), did="replayed", hop=1, by="kim", reason="fixed")


def test_a_replay_that_was_handled_resolves_it() -> None:
    assert told(None, BORN, ("replayed", 1), ("resolved", 1)).status == "resolved"


def test_a_replay_that_failed_opens_it_again() -> None:
    record = told(None, BORN, ("replayed", 1), ("died", 1))
    assert (record.status, record.hop, record.attempts) == ("open", 1, 11)


def test_an_outcome_may_be_known_before_the_replay_is_recorded() -> None:
    assert told(None, BORN, ("resolved", 1), ("replayed", 1)).status == "resolved"
    assert told(None, BORN, ("died", 1), ("replayed", 1)).status == "open"


def test_what_is_told_of_an_earlier_hop_does_not_change_the_status() -> None:
    record = told(None, BORN, ("replayed", 1), ("replayed", 2), ("resolved", 1))
    assert (record.status, record.hop) == ("replayed", 2)


def test_handled_is_handled_although_it_failed_as_well() -> None:
    replayed = told(None, BORN, ("replayed", 1))
    assert told(replayed, ("died", 1), ("resolved", 1)).status == "resolved"
    assert told(replayed, ("resolved", 1), ("died", 1)).status == "resolved"


def test_a_replay_in_flight_may_still_resolve_a_discarded_letter() -> None:
    record = told(None, BORN, ("replayed", 1), ("discarded", 0), ("resolved", 1))
    assert record.status == "resolved"


def test_a_replay_in_flight_does_not_open_a_discarded_letter() -> None:
    assert told(None, BORN, ("discarded", 0), ("replayed", 1)).status == "discarded"
    assert told(None, BORN, ("discarded", 0), ("replayed", 1), ("died", 1)).status == "discarded"


def test_what_is_closed_cannot_be_discarded() -> None:
    for closed in (
        told(None, BORN, ("discarded", 0)),
        told(None, BORN, ("replayed", 1), ("resolved", 1)),
    ):
        assert life.discarded(closed, at=at(59), by="lee", reason="again") is None


def test_a_discarded_letter_says_who_closed_it_and_why() -> None:
    record = told(None, BORN, ("discarded", 0))
    assert record.history[-1] == Step(
        at=at(59), did="discarded", hop=0, by="kim", reason="obsolete"
    )


def test_which_letters_may_be_replayed() -> None:
    assert life.refuse_replay(told(None, BORN)) is None
    assert life.refuse_replay(born(hop=life.MAX_HOPS - 1)) is None
    assert "discard" in (life.refuse_replay(born(hop=life.MAX_HOPS)) or "")
    assert "closed" in (life.refuse_replay(told(None, BORN, ("discarded", 0))) or "")


def test_which_letters_may_be_discarded() -> None:
    assert life.refuse_discard(told(None, BORN)) is None
    assert life.refuse_discard(told(None, BORN, ("replayed", 1))) is None
    assert life.refuse_discard(told(None, BORN, ("replayed", 1), ("resolved", 1)))


# Finding letters.

RECORD = born()


@pytest.mark.parametrize(
    "wanted",
    [
        LetterFilter(),
        LetterFilter(status="open", code=Code.HANDLER_FAILED),
        LetterFilter(service="exporter", consumer="exporter-games"),
        LetterFilter(name="Training.COMPLETED"),
        LetterFilter(subject="events.training."),
        LetterFilter(since=at(5)),
        LetterFilter(since="2026-01-05T10:00:05Z"),
        LetterFilter(since="2026-01-05T10:00:05"),
        LetterFilter(since="2026-01-05T12:00:05+02:00"),
    ],
)
def test_a_letter_passes_a_filter_that_it_fits(wanted: LetterFilter) -> None:
    assert life.matches(wanted, RECORD)


@pytest.mark.parametrize(
    "wanted",
    [
        LetterFilter(status="resolved"),
        LetterFilter(code=Code.POISON),
        LetterFilter(service="export"),
        LetterFilter(consumer="other"),
        LetterFilter(name="training"),
        LetterFilter(subject="events.selfplay."),
        LetterFilter(since=at(6)),
        LetterFilter(since="2026-01-05T10:00:06Z"),
        LetterFilter(since="2026-01-05T10:00:05+00:00", status="discarded"),
        LetterFilter(since="2026-01-05T10:00:05-02:00"),
    ],
)
def test_and_no_other(wanted: LetterFilter) -> None:
    assert not life.matches(wanted, RECORD)


@given(st.text())
def test_a_beginning_that_is_no_time_is_no_error(since: str) -> None:
    life.matches(LetterFilter(since=since), RECORD)


records = st.lists(
    st.builds(
        lambda id, second, closed: told(born(id=id, last_at=at(second)), *closed),
        st.text("0123456789abcdef", min_size=1, max_size=4),
        st.integers(0, 5),
        st.sampled_from([[], [("discarded", 0)]]),
    ),
    unique_by=lambda record: record.id,
    max_size=30,
)
filters = st.sampled_from([LetterFilter(), LetterFilter(status="open"), LetterFilter(since=at(3))])


def newest_first(found: list[LetterRecord]) -> list[LetterRecord]:
    return sorted(found, key=lambda record: (record.last_at, record.id), reverse=True)


def all_pages(found: list[LetterRecord], wanted: LetterFilter, limit: int) -> list[LetterRecord]:
    shown: list[LetterRecord] = []
    after = None
    while True:
        page = life.page(found, wanted, limit=limit, after=after)
        assert len(page.letters) <= limit
        shown += page.letters
        after = page.next
        if after is None:
            return shown


@given(records, filters, st.integers(1, 7))
def test_the_pages_together_are_all_that_fit_newest_first(
    found: list[LetterRecord], wanted: LetterFilter, limit: int
) -> None:
    fitting = [record for record in found if life.matches(wanted, record)]
    assert all_pages(found, wanted, limit) == newest_first(fitting)
    assert life.page(found, wanted, limit=limit, after=None).total == len(fitting)


@given(records, st.integers(1, 7), st.data())
def test_letters_that_come_or_go_neither_repeat_nor_hide_others(
    found: list[LetterRecord], limit: int, data: st.DataObject
) -> None:
    first = life.page(found, LetterFilter(), limit=limit, after=None)
    if first.next is None:
        return
    gone = {r.id for r in found if data.draw(st.booleans())}
    come = [born(id=f"new{n}", last_at=at(30 + n)) for n in range(3)]
    rest = newest_first([r for r in found if r not in first.letters and r.id not in gone])
    left = [r for r in found if r.id not in gone]
    second = life.page([*left, *come], LetterFilter(), limit=100, after=first.next)
    assert list(second.letters) == rest


def test_the_last_page_has_no_cursor() -> None:
    two = [born(id="a"), born(id="b")]
    assert life.page(two, LetterFilter(), limit=2, after=None).next is None
    assert life.page([], LetterFilter(), limit=2, after=None).next is None


@given(records)
def test_the_figures_add_up(found: list[LetterRecord]) -> None:
    counts = life.count(found)
    assert counts.by_status == dict(Counter(record.status for record in found))
    assert sum(counts.by_status.values()) == len(found)
    still_open = counts.by_status.get("open", 0)
    assert sum(counts.open_by_code.values()) == still_open
    assert sum(counts.open_by_service.values()) == still_open
