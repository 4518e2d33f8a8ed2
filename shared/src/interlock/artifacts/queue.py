"""Decides which orders a node carries out next, and what comes after an attempt failed. Pure.

The most urgent come first. Several small artifacts out of one source go in one trip, because each
trip costs some round trips. A source that failed is not asked again in the same round; a round that
brought nothing is tried again a few times, after a pause, and then the order is given up: what is
next is the router's to decide.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from interlock_schemas.artifacts import Transport
from interlock_schemas.orders import FailureCode, Order, Priority, Source

__all__ = [
    "DAMAGED_TWICE",
    "LOOKS",
    "ROUNDS",
    "TRIPS",
    "URGENCY",
    "History",
    "Standing",
    "Tried",
    "Trip",
    "TripLimits",
    "after",
    "next_trips",
    "urgency",
    "wake_at",
]

#: How often all sources of an order are gone through before it is given up.
ROUNDS: Final = 3
#: A source that delivered damaged bytes so often has a damaged copy.
DAMAGED_TWICE: Final = 2

#: How often it is looked whether others have done what an order waits for: two minutes or so.
LOOKS: Final = 30

_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 4.0
_PAUSE_FACTOR: Final = 4.0

#: Of a priority; the lower comes first.
URGENCY: Final[Mapping[Priority, int]] = {
    "critical": 0,
    "high": 1,
    "normal": 2,
    "low": 3,
    "background": 4,
}

#: Of what was tried, the first of these that is found is what an order is given up with.
_TELLING: Final[tuple[FailureCode, ...]] = (
    "no_space",
    "refused_name",
    "source_damaged",
    "damaged",
    "denied",
    "io",
    "timeout",
    "unreachable",
    "source_gone",
    "too_few_copies",
)

#: What may be otherwise a moment later.
_PASSING: Final[frozenset[FailureCode]] = frozenset(
    ("damaged", "io", "timeout", "unreachable", "stale_token")
)

#: Failures here, and not at a source, that another source does not mend.
_FINAL_HERE: Final[frozenset[FailureCode]] = frozenset(
    ("no_space", "denied", "refused_name", "too_few_copies")
)


class Standing(msgspec.Struct, frozen=True):
    """An order as it stands in the bucket."""

    order: Order
    revision: int


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that failed."""

    code: FailureCode
    text: str
    source: str | None = None
    """None: it failed here, before or after any source."""
    transport: Transport | None = None
    waits: bool = False
    """It is not this node that has to do something."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the attempts at one order so far."""

    tried: tuple[Tried, ...] = ()
    skip: frozenset[str] = frozenset()
    """Sources that are not asked again in this round."""
    rounds: int = 0
    """That ended without success."""
    not_before: float = 0.0

    def damaged(self, source: str) -> bool:
        """Whether a source's copy is taken for damaged."""
        found = sum(1 for each in self.tried if each.source == source and each.code == "damaged")
        return found >= DAMAGED_TWICE


class TripLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What goes together."""

    bytes: int = 64 * 1024**2
    artifacts: int = 512
    files: int = 20_000


TRIPS: Final = TripLimits()


class Trip(msgspec.Struct, frozen=True, kw_only=True):
    """Orders that are carried out together."""

    orders: tuple[Standing, ...]
    """Of one action; several of them only to fetch."""
    source: Source | None = None
    """Where they are fetched from. None: there is none, or it is no fetch."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The artifacts."""
        return tuple(each.order.artifact for each in self.orders)


_NEW: Final = History()


def urgency(order: Order) -> tuple[int, float, str, str]:
    """What orders are sorted by: the most urgent first, then the one that was given first."""
    return (URGENCY[order.priority], -order.rank, order.issued_at, order.artifact)


def next_trips(
    standing: Iterable[Standing],
    *,
    epoch: int,
    now: float,
    slots: int,
    under_way: Sequence[Trip] = (),
    histories: Mapping[str, History] | None = None,
    paused: Callable[[Order], bool] = lambda _: False,
    ranked: Callable[[Order], Sequence[Source]] = lambda order: order.sources,
    limits: TripLimits = TRIPS,
    checks: int = 1,
) -> list[Trip]:
    """What may be begun now, the most urgent first.

    Of fetches, so many are under way at once as there are `slots`; besides, so many `checks`: drops
    and verifications. Orders of a router before `epoch`, orders that have failed and stand for the
    router to see, and those whose next attempt is not due, are left alone. `ranked`: the sources of
    an order, the best first.
    """
    histories = histories if histories is not None else {}
    busy = {id for trip in under_way for id in trip.ids}
    fetching = sum(1 for trip in under_way if _is_fetch(trip))
    free = {True: slots - fetching, False: checks - (len(under_way) - fetching)}
    if max(free.values()) <= 0:
        return []
    waiting = sorted(
        (
            each
            for each in standing
            if free[each.order.action == "fetch"] > 0
            and each.order.artifact not in busy
            and each.order.token >= epoch
            and each.order.failure is None
            and histories.get(each.order.artifact, _NEW).not_before <= now
            and not paused(each.order)
        ),
        key=lambda each: urgency(each.order),
    )
    trips: list[Trip] = []
    gone: set[str] = set()
    for place, first in enumerate(waiting):
        fetch = first.order.action == "fetch"
        if free[fetch] <= 0 or first.order.artifact in gone:
            continue
        free[fetch] -= 1
        if not fetch:
            trips.append(Trip(orders=(first,)))
            continue
        trip = _with_others(first, waiting[place + 1 :], gone, histories, ranked, limits)
        gone.update(trip.ids)
        trips.append(trip)
        if free[True] <= 0 and free[False] <= 0:
            break
    return trips


def wake_at(
    standing: Iterable[Standing], histories: Mapping[str, History], now: float
) -> float | None:
    """When the next attempt that waits is due; None: none waits."""
    due = (histories.get(each.order.artifact, _NEW).not_before for each in standing)
    return min((at for at in due if at > now), default=None)


def after(
    order: Order, history: History, tried: Tried, now: float, *, jitter: float = 0.5
) -> History | Tried:
    """What comes of a failed attempt: the history to go on with, or why the order is given up.

    `jitter`: in [0, 1), a random part of the pause.
    """
    if tried.waits:
        return _waited(history, tried, now, jitter)
    history = msgspec.structs.replace(history, tried=(*history.tried, tried))
    if tried.source is None and tried.code in _FINAL_HERE:
        return _given_up(history)
    names = {source.node for source in order.sources}
    skip = history.skip if tried.source is None else history.skip | {tried.source}
    left = {name for name in names - skip if not history.damaged(name)}
    if left and tried.source is not None:
        return msgspec.structs.replace(history, skip=frozenset(skip))
    rounds = history.rounds + 1
    again = any(
        each.code in _PASSING
        for each in history.tried
        if each.source is None or (each.source in names and not history.damaged(each.source))
    )
    if rounds >= ROUNDS or not again:
        return _given_up(history)
    not_before = now + _pause_s(rounds, jitter)
    return msgspec.structs.replace(history, skip=frozenset(), rounds=rounds, not_before=not_before)


def _waited(history: History, tried: Tried, now: float, jitter: float) -> History | Tried:
    rounds = history.rounds + 1
    if rounds >= LOOKS:
        return tried
    not_before = now + _pause_s(rounds, jitter)
    return msgspec.structs.replace(history, rounds=rounds, not_before=not_before)


def _pause_s(rounds: int, jitter: float) -> float:
    """How long to wait after so many rounds, seconds."""
    return float(min(_LONGEST_PAUSE_S, _PAUSE_S * _PAUSE_FACTOR ** (rounds - 1)) * (0.5 + jitter))


def _is_fetch(trip: Trip) -> bool:
    return trip.orders[0].order.action == "fetch"


def _next_source(
    order: Order, history: History, ranked: Callable[[Order], Sequence[Source]]
) -> Source | None:
    for source in ranked(order):
        if source.node not in history.skip and not history.damaged(source.node):
            return source
    return None


def _with_others(
    first: Standing,
    others: Sequence[Standing],
    gone: Collection[str],
    histories: Mapping[str, History],
    ranked: Callable[[Order], Sequence[Source]],
    limits: TripLimits,
) -> Trip:
    """The trip of an order, with what may go along."""

    def source_of(each: Standing) -> Source | None:
        return _next_source(each.order, histories.get(each.order.artifact, _NEW), ranked)

    source = source_of(first)
    about = first.order.about
    together = [first]
    left = [limits.artifacts - 1, limits.bytes - about.bytes, limits.files - about.files]
    if source is None or min(left) < 0 or _was_damaged(histories, first):
        return Trip(orders=(first,), source=source)
    for each in others:
        if left[0] <= 0:
            break
        about = each.order.about
        if (
            each.order.action != "fetch"
            or each.order.artifact in gone
            or each.order.priority != first.order.priority
            or about.bytes > left[1]
            or about.files > left[2]
            or _was_damaged(histories, each)
            or source_of(each) != source
        ):
            continue
        left = [left[0] - 1, left[1] - about.bytes, left[2] - about.files]
        together.append(each)
    return Trip(orders=tuple(together), source=source)


def _was_damaged(histories: Mapping[str, History], each: Standing) -> bool:
    """Whether it goes alone, so as not to hold up others again."""
    history = histories.get(each.order.artifact, _NEW)
    return any(tried.code == "damaged" for tried in history.tried)


def _given_up(history: History) -> Tried:
    """The one attempt that says most, with the words of all."""
    found = history.tried
    worst = min(found, key=lambda each: _rank(each, history))
    code: FailureCode = worst.code
    if code == "damaged" and worst.source is not None:
        code = "source_damaged" if history.damaged(worst.source) else "damaged"
    words = []
    for each in (worst, *reversed(found)):
        where = " ".join(filter(None, (each.source, each.transport and f"({each.transport})")))
        text = f"{where}: {each.text}" if where else each.text
        if text not in words:
            words.append(text)
    return Tried(
        code=code, text="; ".join(words)[:500], source=worst.source, transport=worst.transport
    )


def _rank(tried: Tried, history: History) -> tuple[int, int]:
    code = tried.code
    if code == "damaged" and tried.source is not None and history.damaged(tried.source):
        code = "source_damaged"
    place = _TELLING.index(code) if code in _TELLING else len(_TELLING)
    # Of two alike, the later one.
    return place, -next(i for i, each in enumerate(history.tried) if each is tried)
