"""The life of a dead letter: what each happening makes of its record. Pure.

A letter is open, then replayed, and then either resolved or open again; or it is discarded. Each
replay has a number, its hop, and whatever is told about an earlier hop than the record's is old
news. So every happening may be told twice, or late, and the record comes out the same.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from interlock_schemas.letters import (
    DeadLetter,
    LetterCounts,
    LetterFilter,
    LetterPage,
    LetterRecord,
    Step,
)

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


def captured(
    record: LetterRecord | None, letter: DeadLetter, letter_seq: int
) -> LetterRecord | None:
    """The record after a letter arrived; None where it tells nothing new."""
    step = Step(at=letter.last_at, did="died", hop=letter.hop, reason=letter.reason)
    if record is None:
        history: tuple[Step, ...] = (step,)
    elif letter.hop > record.hop or (letter.hop == record.hop and record.status == "replayed"):
        history = (*record.history, step)
    else:
        return None
    return LetterRecord(
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
        history=history,
    )


def refuse_replay(record: LetterRecord) -> str | None:
    """Why a letter may not be replayed; None when it may."""
    if record.status == "discarded":
        return "discarded letters stay closed"
    if record.hop >= MAX_HOPS:
        return f"replayed {record.hop} times already: it needs another remedy, or `discard`"
    return None


def refuse_discard(record: LetterRecord) -> str | None:
    """Why a letter may not be discarded; None when it may."""
    return "it was resolved: there is nothing to discard" if record.status == "resolved" else None


def replayed(record: LetterRecord, *, hop: int, at: str, by: str, reason: str) -> LetterRecord:
    """The record after replay number `hop` was sent. Its outcome may be known already."""
    step = Step(at=at, did="replayed", hop=hop, by=by, reason=reason)
    if record.hop < hop:
        return msgspec.structs.replace(
            record, status="replayed", hop=hop, history=(*record.history, step)
        )
    earlier = tuple(s for s in record.history if s.hop < hop)
    later = tuple(s for s in record.history if s.hop >= hop)
    return msgspec.structs.replace(record, history=(*earlier, step, *later))


def resolved(record: LetterRecord, *, hop: int, at: str) -> LetterRecord | None:
    """The record after replay number `hop` was handled; None where that is old news."""
    if record.status in ("resolved", "discarded") or hop < record.hop:
        return None
    step = Step(at=at, did="resolved", hop=hop)
    return msgspec.structs.replace(
        record, status="resolved", hop=hop, history=(*record.history, step)
    )


def discarded(record: LetterRecord, *, at: str, by: str, reason: str) -> LetterRecord:
    """The record after an operator closed it."""
    step = Step(at=at, did="discarded", hop=record.hop, by=by, reason=reason)
    return msgspec.structs.replace(record, status="discarded", history=(*record.history, step))


def matches(wanted: LetterFilter, record: LetterRecord) -> bool:
    """Whether a record passes a filter."""
    return (
        (wanted.status is None or record.status == wanted.status)
        and (wanted.code is None or record.code == wanted.code)
        and (wanted.service is None or record.service == wanted.service)
        and (wanted.consumer is None or record.consumer == wanted.consumer)
        and (wanted.name is None or record.name.casefold() == wanted.name.casefold())
        and (wanted.subject is None or record.subject.startswith(wanted.subject))
        and (wanted.since is None or record.last_at >= wanted.since)
    )


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
