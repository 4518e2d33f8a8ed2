"""The life of a dead letter: what each happening makes of its record. Pure.

A letter is open, then replayed, and then either resolved or open again; or it is discarded. Each
replay has a number, its hop. The history holds each happening once, in the order of the hops, and
the status is read from it: the latest hop decides, and what is told about an earlier one no longer
does. So every happening may be told twice, or late, and the record comes out the same.
"""

import datetime
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from interlock_schemas.letters import (
    DeadLetter,
    LetterCounts,
    LetterFilter,
    LetterPage,
    LetterRecord,
    Status,
    Step,
)
from interlock_schemas.topology import EVENTS, LEGACY

__all__ = [
    "MAX_HOPS",
    "captured",
    "count",
    "discarded",
    "matches",
    "page",
    "refuse_discard",
    "refuse_replay",
    "replayed",
    "resolved",
]

#: After so many replays a letter stays where it is: replaying it does not help.
MAX_HOPS = 8

#: Where letters are sent back to: to these streams, and there to no subject but their own. A letter
#: is only a message, and anybody who may write one could otherwise have us publish anywhere.
_HOMES = {stream.name: stream.subjects[0].removesuffix(">") for stream in (LEGACY, EVENTS)}

#: What can happen at one hop, in order. That a replay was handled outweighs all else.
_ORDER_AT_A_HOP: Final = ("replayed", "died", "discarded", "resolved")


def captured(
    record: LetterRecord | None, letter: DeadLetter, letter_seq: int
) -> LetterRecord | None:
    """The record after a letter arrived; None where it tells nothing new."""
    step = Step(at=letter.last_at, did="died", hop=letter.hop, reason=letter.reason)
    if record is not None and any(s.hop > step.hop for s in record.history if s.did == "died"):
        late = _after(record, step)
        return late and msgspec.structs.replace(
            late,
            attempts=record.attempts + letter.attempts,
            first_at=min(record.first_at, letter.first_at),
        )
    latest = LetterRecord(
        id=letter.id,
        status="open",
        code=letter.code,
        reason=letter.reason,
        service=letter.service,
        consumer=letter.consumer,
        message_id=letter.message_id,
        subject=letter.subject,
        stream=letter.stream,
        stream_seq=letter.stream_seq,
        letter_seq=letter_seq,
        attempts=letter.attempts + (record.attempts if record else 0),
        first_at=min(letter.first_at, record.first_at) if record else letter.first_at,
        last_at=letter.last_at,
        body_bytes=len(letter.body),
        hop=letter.hop,
        name=letter.name,
        error=letter.error,
        traceparent=letter.traceparent,
        suggestions=letter.suggestions,
        history=record.history if record else (),
    )
    return _after(latest, step)


def _after(record: LetterRecord, step: Step) -> LetterRecord | None:
    """The record with one more step in its history; None where the step is there already."""
    if any((each.did, each.hop) == (step.did, step.hop) for each in record.history):
        return None
    history = sorted(
        (*record.history, step), key=lambda each: (each.hop, _ORDER_AT_A_HOP.index(each.did))
    )
    hop = history[-1].hop
    return msgspec.structs.replace(
        record, status=_status(history, hop), hop=hop, history=tuple(history)
    )


def _status(history: Iterable[Step], hop: int) -> Status:
    at_last = {step.did for step in history if step.hop == hop}
    if "resolved" in at_last:
        return "resolved"
    if any(step.did == "discarded" for step in history):
        return "discarded"
    return "open" if "died" in at_last else "replayed"


def refuse_replay(record: LetterRecord) -> str | None:
    """Why a letter may not be replayed; None when it may."""
    if record.status == "discarded":
        return "discarded letters stay closed"
    home = _HOMES.get(record.stream)
    if home is None or not record.subject.startswith(home) or set(record.subject) & set("*> "):
        return f"{record.subject} of {record.stream} is no place that letters are sent back to"
    if record.hop >= MAX_HOPS:
        return f"replayed {record.hop} times already: it needs another remedy, or `discard`"
    return None


def refuse_discard(record: LetterRecord) -> str | None:
    """Why a letter may not be discarded; None when it may."""
    return "it was resolved: there is nothing to discard" if record.status == "resolved" else None


def replayed(
    record: LetterRecord, *, hop: int, at: str, by: str, reason: str
) -> LetterRecord | None:
    """The record after replay number `hop` was sent; None where that was told before.

    Its outcome may be known already.
    """
    return _after(record, Step(at=at, did="replayed", hop=hop, by=by, reason=reason))


def resolved(record: LetterRecord, *, hop: int, at: str) -> LetterRecord | None:
    """The record after replay number `hop` was handled; None where that was told before."""
    return _after(record, Step(at=at, did="resolved", hop=hop))


def discarded(record: LetterRecord, *, at: str, by: str, reason: str) -> LetterRecord | None:
    """The record after an operator closed it; None where it is closed already."""
    if record.status in ("resolved", "discarded"):
        return None
    return _after(record, Step(at=at, did="discarded", hop=record.hop, by=by, reason=reason))


def matches(wanted: LetterFilter, record: LetterRecord) -> bool:
    """Whether a record passes a filter."""
    return (
        (wanted.status is None or record.status == wanted.status)
        and (wanted.code is None or record.code == wanted.code)
        and (wanted.service is None or record.service == wanted.service)
        and (wanted.consumer is None or record.consumer == wanted.consumer)
        and (wanted.name is None or record.name.casefold() == wanted.name.casefold())
        and (wanted.subject is None or record.subject.startswith(wanted.subject))
        and (wanted.since is None or _instant(record.last_at) >= _instant(wanted.since))
    )


def _instant(text: str) -> str:
    """One spelling for every RFC 3339 time, so that text order is time order."""
    try:
        at = datetime.datetime.fromisoformat(text)
        at = at.replace(tzinfo=at.tzinfo or datetime.UTC).astimezone(datetime.UTC)
    except (OverflowError, ValueError):
        return text
    return at.isoformat(timespec="microseconds")


def _order(record: LetterRecord) -> tuple[str, str]:
    return record.last_at, record.id


def page(
    records: Iterable[LetterRecord], wanted: LetterFilter, *, limit: int, after: str | None
) -> LetterPage:
    """One page of the letters that pass, newest first.

    The cursor names a place in that order, so letters that come or go between two pages neither
    repeat nor hide others.
    """
    fitting = sorted((r for r in records if matches(wanted, r)), key=_order, reverse=True)
    total = len(fitting)
    if after is not None:
        last_at, _, letter = after.partition("~")
        fitting = [record for record in fitting if _order(record) < (last_at, letter)]
    shown = fitting[:limit]
    more = len(fitting) > len(shown)
    return LetterPage(
        letters=tuple(shown),
        total=total,
        next=f"{shown[-1].last_at}~{shown[-1].id}" if more and shown else None,
    )


def count(records: Iterable[LetterRecord]) -> LetterCounts:
    """The figures."""
    by_status: Counter[str] = Counter()
    by_code: Counter[str] = Counter()
    by_service: Counter[str] = Counter()
    for record in records:
        by_status[record.status] += 1
        if record.status == "open":
            by_code[record.code.value] += 1
            by_service[record.service] += 1
    return LetterCounts(
        by_status=dict(by_status), open_by_code=dict(by_code), open_by_service=dict(by_service)
    )
