"""Other detectors on the same heartbeats: a fixed timeout, and φ accrual as Akka has it.

They watch beats alone, on the wall clock, and declare a node lost when a silence is too long. They
are flattered in one thing: when the monitor was stopped, they read all that piled up before they
look at any timeout.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate
from operator import mul, sub
from typing import Final

import msgspec

from interlock_health_monitor.rhythm import z_of
from interlock_health_monitor.simulate.clock import DRAIN_S
from interlock_health_monitor.simulate.world import Away, Host

__all__ = ["DETECTORS", "Declared", "Outcome", "declare"]

_FIXED_S: Final = (3.0, 10.0, 30.0, 60.0, 90.0)
_WINDOW: Final = 1_000
_LEAST_DEVIATION_S: Final = 0.1
_FIRST_S: Final = (0.75, 1.25)
#: No silence shorter than this is looked at: no detector here declares so early.
_SHORTEST_S: Final = 1.4

#: Silences that were too long: place of the beat before, and when it was declared.
Detector = Callable[[list[float], list[float], list[int], float], Iterator[tuple[int, float]]]


class Declared(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A node was declared lost for long enough to matter to evictions."""

    name: str
    zone: str
    at_s: float
    until_s: float
    """When it was heard of again."""


class Outcome(msgspec.Struct, kw_only=True, array_like=True):
    """What a detector made of some hosts."""

    detected: dict[str, list[float]] = {}
    """Seconds from death to declaration, by cause."""
    missed: int = 0
    falsely: dict[str, int] = {}
    """Declared while alive, by what was wrong with it."""
    unreachable: int = 0
    """Declared while cut off with its zone."""
    declared: list[Declared] = []

    def add(self, other: "Outcome") -> None:
        """Take in what it made of others."""
        for cause, times in other.detected.items():
            self.detected.setdefault(cause, []).extend(times)
        for cause, count in other.falsely.items():
            self.falsely[cause] = self.falsely.get(cause, 0) + count
        self.missed += other.missed
        self.unreachable += other.unreachable
        self.declared += other.declared


def _fixed(timeout_s: float) -> Detector:
    def detect(
        beats: list[float], gaps: list[float], long: list[int], until_s: float
    ) -> Iterator[tuple[int, float]]:
        for place in long:
            if gaps[place] > timeout_s and beats[place] + timeout_s < until_s:
                yield place, beats[place] + timeout_s

    return detect


def _accrual(threshold: float, pause_s: float) -> Detector:
    """φ accrual: the silence at which φ reaches the threshold, by the last 1,000 intervals.

    As in Akka, an interval that was a failure is not taken into the window, and what is known at
    first are two intervals around 1 s. `pause_s` is Akka's acceptable heartbeat pause.
    """
    z = z_of(threshold)

    def detect(
        beats: list[float], gaps: list[float], long: list[int], until_s: float
    ) -> Iterator[tuple[int, float]]:
        known = [*_FIRST_S, *gaps]
        sums = list(accumulate(known))
        squares = list(accumulate(map(mul, known, known)))
        failures: deque[int] = deque()
        for place in long:
            # The intervals before this one: known[start:end].
            end = place + len(_FIRST_S)
            start = max(0, end - _WINDOW)
            while failures and failures[0] < start:
                failures.popleft()
            count = end - start - len(failures)
            total = sums[end - 1] - (sums[start - 1] if start else 0.0)
            square = squares[end - 1] - (squares[start - 1] if start else 0.0)
            for each in failures:
                total -= known[each]
                square -= known[each] ** 2
            mean = total / count
            deviation = max(_LEAST_DEVIATION_S, max(0.0, square / count - mean * mean) ** 0.5)
            late = mean + pause_s + z * deviation
            if gaps[place] > late:
                failures.append(end)
                if beats[place] + late < until_s:
                    yield place, beats[place] + late

    return detect


#: By name, how each detects.
DETECTORS: Final[dict[str, Detector]] = {
    **{f"fixed_{timeout:g}s": _fixed(timeout) for timeout in _FIXED_S},
    "phi_8": _accrual(8.0, 0.0),
    "phi_8_pause_3s": _accrual(8.0, 3.0),
}


def declare(
    host: Host,
    beats: list[float],
    away: tuple[Away, ...],
    until_s: float,
    evict_after_s: float,
) -> dict[str, Outcome]:
    """What each detector makes of the heartbeats of one host."""
    gaps = list(map(sub, beats[1:], beats))
    long = [place for place, gap in enumerate(gaps) if gap > _SHORTEST_S]
    if beats:
        gaps.append(float("inf"))
        long.append(len(gaps) - 1)
    stops = [each for each in away if each.kind == "stopped"]
    found = {}
    for name, detect in DETECTORS.items():
        outcome = found[name] = Outcome()
        seen: set[float] = set()
        spans: list[tuple[float, float]] = []
        for place, at in detect(beats, gaps, long, until_s):
            back = beats[place + 1] if place + 1 < len(beats) else until_s
            for stop in stops:
                if stop.start_s <= at < stop.end_s + DRAIN_S:
                    at = stop.end_s + DRAIN_S
            if at >= back:
                continue
            _count(host, at, outcome, seen)
            spans.append((at, back))
            if back - at >= evict_after_s:
                outcome.declared.append(
                    Declared(name=host.name, zone=host.zone, at_s=at, until_s=back)
                )
        for trouble in host.troubles:
            died = trouble.start_s
            if not trouble.deadly or died >= until_s - 120 or died in seen:
                continue
            if not any(at <= died < back for at, back in spans):
                outcome.missed += 1
    return found


def _count(host: Host, at_s: float, outcome: Outcome, seen: set[float]) -> None:
    trouble = host.at(at_s)
    if trouble is None:
        outcome.falsely["alive"] = outcome.falsely.get("alive", 0) + 1
    elif trouble.deadly:
        seen.add(trouble.start_s)
        outcome.detected.setdefault(trouble.cause, []).append(at_s - trouble.start_s)
    elif trouble.cause == "outage":
        outcome.unreachable += 1
    elif trouble.cause != "left":
        outcome.falsely[trouble.cause] = outcome.falsely.get(trouble.cause, 0) + 1
