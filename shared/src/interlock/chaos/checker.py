"""Compares the ledgers of a run with what the broker holds at its end. Pure.

Lost, duplicated, reordered, stuck: each finding names the event, so that it can be looked up in the
ledgers of the run's folder.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Final

import msgspec

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
from interlock.chaos.schedule import Fault

__all__ = ["Found", "Happened", "Stored", "Verdict", "check"]

#: What a call may take beyond its deadline, seconds: the machine is shared.
MARGIN_S: Final = 5.0


class Stored(msgspec.Struct, frozen=True):
    """One message of the stream."""

    seq: int
    """Its place in the stream."""
    key: str
    number: int
    """Its place in its key, as the publisher counts."""

    @property
    def id(self) -> str:
        """The event's id."""
        return event_id(self.key, self.number)


class Happened(msgspec.Struct, frozen=True):
    """A fault that was carried out, and when: on the ledgers' clock."""

    fault: Fault
    start_at: float
    end_at: float
    whole_at: float = 0.0
    """When all servers were seen to be whole again, for a fault of the broker."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known at the end of a run."""

    publishers: Mapping[str, Sequence[Line]]
    consumers: Mapping[str, Sequence[Line]]
    """Those that share one durable."""
    ordered: Sequence[Line]
    """The one that handles each key in order."""
    stored: Sequence[Stored]
    """The stream, in its order."""
    effects: frozenset[str]
    """Ids whose effect stands."""
    drained: bool
    """Whether the broker said that nothing is pending any more."""
    happened: Sequence[Happened]
    publisher_names: Sequence[str] = ()
    """By the number that a fault names."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, by id; and how much there was."""

    published: int
    """Events whose publishing was tried."""
    acknowledged: int
    delivered: int
    """Acknowledged events whose effect stands."""
    redelivered: int
    """Deliveries whose effect had been done before, and was not done again."""
    lost: tuple[str, ...]
    """Acknowledged and not stored; or stored, not handled, and not pending either."""
    misplaced: tuple[str, ...]
    """Acknowledged as stored at another place than where it is."""
    duplicates: tuple[str, ...]
    """Stored twice, or done twice."""
    reordered: tuple[str, ...]
    """Stored or handled behind a later event of its key."""
    late: tuple[str, ...]
    """Handled behind a later event of the key because the first delivery was lost on its way. The
    broker delivers it again after the ack wait, so this is no defect of the run."""
    stuck: tuple[str, ...]
    """Acknowledged and not handled in time, never resolved, or its call outlived the deadline."""
    recoveries_s: tuple[float | None, ...]
    """For each fault that happened; None where the next one came before."""

    @property
    def worst_recovery_s(self) -> float:
        """The longest of the recoveries, seconds."""
        return max((each for each in self.recoveries_s if each is not None), default=0.0)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, and something was acknowledged."""
        wrong = (self.lost, self.misplaced, self.duplicates, self.reordered, self.stuck)
        return self.acknowledged > 0 and not any(wrong)


def check(found: Found) -> Verdict:
    """Draw up the verdict."""
    attempted: set[str] = set()
    places: dict[str, int] = {}
    for lines in found.publishers.values():
        for line in lines:
            if isinstance(line, Attempt):
                attempted.add(event_id(line.key, line.seq))
            elif isinstance(line, Outcome) and line.result == "acknowledged":
                places[event_id(line.key, line.seq)] = line.stream_seq
    acknowledged = places.keys()
    copies = Counter(message.id for message in found.stored)
    first = {message.id: message.seq for message in reversed(found.stored)}
    entered = {event_id(line.key, line.seq) for line in found.ordered if isinstance(line, Entered)}
    unhandled = {id for id in acknowledged if id not in found.effects or id not in entered}
    lost = {id for id in acknowledged if id not in copies}
    if found.drained:
        lost |= unhandled
    done: Counter[str] = Counter()
    redelivered = 0
    for lines in found.consumers.values():
        for line in lines:
            if isinstance(line, Effect):
                done[line.id] += line.done
                redelivered += not line.done
    ordered, late = _disordered_handling(found.ordered)
    stuck = attempted - acknowledged | (unhandled - lost)
    for number, name in enumerate(found.publisher_names):
        stuck |= _overdue(found.publishers.get(name, ()), _frozen(found.happened, number))
    recoveries = _Recoveries(found)
    return Verdict(
        published=len(attempted),
        acknowledged=len(acknowledged),
        delivered=len(acknowledged & found.effects),
        redelivered=redelivered,
        lost=_sorted(lost),
        misplaced=_sorted(id for id in acknowledged if first.get(id, places[id]) != places[id]),
        duplicates=_sorted(
            {id for id, count in copies.items() if count > 1}
            | {id for id, count in done.items() if count > 1}
        ),
        reordered=_sorted(_disordered_storing(found) | ordered),
        late=_sorted(late),
        stuck=_sorted(stuck),
        recoveries_s=tuple(map(recoveries.after, found.happened)),
    )


def _sorted(ids: Iterable[str]) -> tuple[str, ...]:
    def place(id: str) -> tuple[str, int]:
        key, _, number = id.rpartition(".")
        return key, int(number)

    return tuple(sorted(ids, key=place))


def _disordered_storing(found: Found) -> set[str]:
    """Events stored behind a later one of their key, where their publisher did not choose it.

    It did where it went on, within its key, before it learned that the event was not acknowledged.
    """
    first_tried: dict[str, float] = {}
    given_up: dict[str, float] = {}
    for lines in found.publishers.values():
        for line in lines:
            if isinstance(line, Attempt):
                first_tried.setdefault(event_id(line.key, line.seq), line.at)
            elif isinstance(line, Outcome) and line.result == "unknown":
                given_up[event_id(line.key, line.seq)] = line.at
    wrong = set()
    seen: set[str] = set()
    before: dict[str, Stored] = {}
    for message in found.stored:
        if message.id in seen:
            continue
        seen.add(message.id)
        highest = before.get(message.key)
        if highest is None or message.number > highest.number:
            before[message.key] = message
        elif first_tried.get(highest.id, 0.0) >= given_up.get(message.id, 0.0):
            wrong.add(message.id)
    return wrong


def _disordered_handling(lines: Sequence[Line]) -> tuple[set[str], set[str]]:
    """Events that the ordered handler began behind, or together with, another of their key.

    Where the first delivery of an event never came to a handler, because its connection broke on
    the way, the broker delivers it again later than what follows: that is counted apart.
    """
    wrong = set()
    late = set()
    seen: set[str] = set()
    highest: dict[str, int] = {}
    busy: dict[str, int] = {}
    for line in lines:
        if isinstance(line, Started):
            busy.clear()
        elif isinstance(line, Left):
            busy.pop(line.key, None)
        elif isinstance(line, Entered):
            id = event_id(line.key, line.seq)
            if busy.get(line.key, line.seq) != line.seq:
                wrong.add(id)
            busy[line.key] = line.seq
            if id in seen:
                continue
            seen.add(id)
            if line.seq > highest.get(line.key, -1):
                highest[line.key] = line.seq
            elif line.attempt > 1:
                late.add(id)
            else:
                wrong.add(id)
    return wrong, late


def _frozen(happened: Sequence[Happened], publisher: int) -> list[Happened]:
    return [
        each
        for each in happened
        if each.fault.kind == "publisher_freeze" and each.fault.target == publisher
    ]


def _overdue(lines: Sequence[Line], frozen: Sequence[Happened]) -> set[str]:
    """Events whose call came back after its deadline. A frozen process has more time."""
    wrong = set()
    calls: dict[str, Attempt] = {}
    for line in lines:
        if isinstance(line, Started):
            calls.clear()
        elif isinstance(line, Attempt):
            calls[event_id(line.key, line.seq)] = line
        elif isinstance(line, Outcome):
            id = event_id(line.key, line.seq)
            call = calls.pop(id, None)
            if call is None:
                continue
            pause = sum(
                max(0.0, min(line.at, each.end_at) - max(call.at, each.start_at)) for each in frozen
            )
            if line.at - call.at - pause > call.deadline_s + MARGIN_S:
                wrong.add(id)
    return wrong


class _Recoveries:
    """How long it took to get over each fault."""

    def __init__(self, found: Found) -> None:
        self._happened = found.happened
        self._acknowledged = [
            [
                line.at
                for line in found.publishers.get(name, ())
                if isinstance(line, Outcome) and line.result == "acknowledged"
            ]
            for name in found.publisher_names
        ]
        self._handled = sorted(
            line.at
            for lines in (*found.consumers.values(), found.ordered)
            for line in lines
            if isinstance(line, (Effect, Entered))
        )

    def after(self, one: Happened) -> float | None:
        """From the end of a fault until each live publisher had an acknowledgement and something
        was handled, seconds.

        A publisher that another fault hit meanwhile is not asked. None where another fault of the
        broker came first, or nothing did.
        """
        recovered = _next(self._handled, one.end_at)
        for number, times in enumerate(self._acknowledged):
            at = _next(times, one.end_at)
            if not self._hit(number, one, at):
                recovered = max(recovered, at)
        overtaken = any(
            each.fault.lane == "broker" and each.end_at > one.end_at and each.start_at < recovered
            for each in self._happened
        )
        return None if overtaken or recovered == inf else recovered - one.end_at

    def _hit(self, publisher: int, one: Happened, until: float) -> bool:
        """Whether another fault hit this publisher between the end of one and its recovery."""
        return any(
            each.fault.kind.startswith("publisher")
            and each.fault.target == publisher
            and each is not one
            and each.end_at >= one.end_at
            and each.start_at <= until
            for each in self._happened
        )


def _next(times: Sequence[float], after: float) -> float:
    """The first of ascending times that is not before; infinity where there is none."""
    at = bisect_left(times, after)
    return times[at] if at < len(times) else inf
