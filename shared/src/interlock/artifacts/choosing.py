"""Which source and which transport first. Pure: what was measured and `now` in, an order out.

A way is a pair of a source and a transport. What counts is how long it would take to have the bytes
by it, from what was measured lately; a way that failed is put last for a while that grows with each
failure in a row and always ends; and a way that nobody knows is tried now and then.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from interlock_schemas.artifacts import Transport
from interlock_schemas.orders import FailureCode, Source

__all__ = ["Measured", "Setback", "Tracks", "Way", "order_of"]

#: How much the newest measurement counts, of one whole transfer of `_FULL_BYTES` or more.
_WEIGHT: Final = 0.4
_FULL_BYTES: Final = 4 * 1024 * 1024
#: After so long half of what was measured is forgotten, seconds: it tends to what is usual.
_HALF_LIFE_S: Final = 1_800.0

#: How long a way that failed is put last: doubled with each failure in a row, seconds.
_SETBACK_S: Final = 5.0
_LONGEST_SETBACK_S: Final = 600.0

#: What is usual, before anything was measured: bytes per second, and seconds to begin.
_USUAL: Final[Mapping[Transport, tuple[float, float]]] = {
    "exec": (100e6, 0.2),
    "rsync": (60e6, 0.6),
    "sftp": (50e6, 0.4),
    "relay": (40e6, 0.02),
    "object": (25e6, 0.05),
}
#: What each file costs on top, seconds.
_PER_FILE_S: Final[Mapping[Transport, float]] = {
    "exec": 2e-5,
    "rsync": 1e-4,
    "sftp": 7e-4,
    "relay": 1e-4,
    "object": 3e-3,
}
#: Through the broker, bytes burden all others: larger amounts are sent by it only where nothing
#: else leads, which is what this factor on the time says.
_SMALL_BYTES: Final = 8 * 1024 * 1024
_BROKER_PENALTY: Final = 4.0
#: A way that was never tried, or not for so long, goes first every so many transfers, seconds.
_EXPLORE_S: Final = 600.0
#: It is tried with amounts of no more than this, bytes.
_EXPLORE_BYTES: Final = 64 * 1024 * 1024


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """How fast bytes came by a way."""

    bytes_per_s: float
    at: float
    """When it was measured last."""


class Setback(msgspec.Struct, frozen=True, kw_only=True):
    """A way failed."""

    failures: int
    """In a row."""
    until: float
    """It is put last until then."""
    code: FailureCode = "unreachable"


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A source, and a transport that may lead there."""

    source: str
    transport: Transport
    preferred: int | None = None
    """Its place among the transports that the policy would rather have. None: not among them."""
    place: int = 0
    """The place of the source among those of the order, the best being 0."""
    offered: int = 0
    """The place of the transport among those of the source."""
    measured: Measured | None = None
    setback: Setback | None = None
    explored_at: float | None = None
    """When this source was last asked by a way that was not known to be the best."""


def speed_of(way: Way, now: float) -> float:
    """Bytes per second to be expected."""
    usual, _ = _USUAL[way.transport]
    if way.measured is None:
        return usual
    kept: float = 0.5 ** (max(0.0, now - way.measured.at) / _HALF_LIFE_S)
    return max(1.0, way.measured.bytes_per_s * kept + usual * (1.0 - kept))


def expected_s(way: Way, size: int, files: int, now: float) -> float:
    """How long it would take, seconds."""
    _, begin_s = _USUAL[way.transport]
    took = begin_s + size / speed_of(way, now) + files * _PER_FILE_S[way.transport]
    if way.transport in ("relay", "object") and size > _SMALL_BYTES:
        took *= _BROKER_PENALTY
    return took


def order_of(ways: Sequence[Way], size: int, files: int, now: float) -> list[Way]:
    """The ways in the order in which to try them: every one of `ways`, once.

    `size` in bytes, of `files` files in all.
    """
    held_back = [way for way in ways if _held_back(way, now)]
    free = [way for way in ways if not _held_back(way, now)]
    free.sort(key=lambda way: _rank(way, size, files, now))
    if size <= _EXPLORE_BYTES:
        free = _explore(free, now)
    held_back.sort(key=lambda way: (way.setback.until if way.setback else 0.0, *_names(way)))
    return free + held_back


def _held_back(way: Way, now: float) -> bool:
    return way.setback is not None and now < way.setback.until


def _names(way: Way) -> tuple[str, str]:
    return way.source, way.transport


def _rank(way: Way, size: int, files: int, now: float) -> tuple[float, float, int, int, str, str]:
    preferred = float(way.preferred) if way.preferred is not None else float("inf")
    took = expected_s(way, size, files, now)
    # The router puts sources in an order with reasons of its own: a place is worth a tenth.
    return preferred, took * (1.0 + 0.1 * way.place), way.place, way.offered, *_names(way)


def _explore(free: list[Way], now: float) -> list[Way]:
    """Put one that is not known first, if it is time for that."""
    if not free or free[0].measured is None:
        return free
    best = free[0]
    for way in free[1:]:
        if way.measured is not None or way.preferred != best.preferred:
            continue
        if way.explored_at is None or now - way.explored_at >= _EXPLORE_S:
            return [way, *(each for each in free if each is not way)]
    return free


class Tracks:
    """What is remembered of each way. Of one process; not for several threads at once."""

    def __init__(self) -> None:
        self._measured: dict[tuple[str, Transport], Measured] = {}
        self._setbacks: dict[tuple[str, Transport], Setback] = {}
        self._explored: dict[str, float] = {}

    def ways(self, sources: Sequence[Source], preferred: Sequence[Transport] = ()) -> list[Way]:
        """Every way that an order offers, with what is remembered of it."""
        found: list[Way] = []
        for place, source in enumerate(sources):
            for offered, transport in enumerate(dict.fromkeys(source.transports)):
                key = (source.node, transport)
                found.append(
                    Way(
                        source=source.node,
                        transport=transport,
                        preferred=(
                            list(preferred).index(transport) if transport in preferred else None
                        ),
                        place=place,
                        offered=offered,
                        measured=self._measured.get(key),
                        setback=self._setbacks.get(key),
                        explored_at=self._explored.get(source.node),
                    )
                )
        return found

    def begun(self, way: Way, now: float) -> None:
        """A transfer by this way begins."""
        if way.measured is None:
            self._explored[way.source] = now

    def went(
        self, source: str, transport: Transport, count: int, seconds: float, now: float
    ) -> None:
        """So many bytes came by this way."""
        key = (source, transport)
        self._setbacks.pop(key, None)
        if count <= 0 or seconds <= 0:
            return
        speed = count / seconds
        before = self._measured.get(key)
        if before is not None:
            # A small transfer says little about how fast a large one would be.
            weight = _WEIGHT * min(1.0, count / _FULL_BYTES)
            speed = before.bytes_per_s * (1 - weight) + speed * weight
        elif count < _FULL_BYTES:
            usual, _ = _USUAL[transport]
            share = count / _FULL_BYTES
            speed = usual * (1 - share) + speed * share
        self._measured[key] = Measured(bytes_per_s=speed, at=now)

    def failed(self, source: str, transport: Transport, code: FailureCode, now: float) -> Setback:
        """A transfer by this way failed."""
        key = (source, transport)
        before = self._setbacks.get(key)
        failures = before.failures + 1 if before is not None else 1
        pause = min(_LONGEST_SETBACK_S, _SETBACK_S * 2.0 ** min(failures - 1, 30))
        setback = self._setbacks[key] = Setback(failures=failures, until=now + pause, code=code)
        return setback

    def rates(self) -> dict[str, float]:
        """The best of what was measured from each source, bytes per second."""
        best: dict[str, float] = {}
        for (source, _), measured in self._measured.items():
            best[source] = max(best.get(source, 0.0), measured.bytes_per_s)
        return best
