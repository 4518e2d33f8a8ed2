"""The statistics of a benchmark: medians, paired ratios, percentiles, and when to send. Pure.

Two clients are compared by pairs of runs that followed one another, so that what a shared machine
does meanwhile falls on both. Latency is counted from when a message was meant to be sent: a client
that stalls cannot hide the messages which it kept waiting (coordinated omission).
"""

import math
from collections.abc import Sequence

import msgspec

__all__ = ["Latency", "Spread", "intended_ns", "latency", "median", "paired_ratios", "percentile"]

_MS = 1_000_000


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Several runs of one thing."""

    median: float
    min: float
    max: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Sum up at least one run. Raises ValueError for none."""
        return cls(median=median(values), min=min(values), max=max(values), runs=len(values))


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of latencies, milliseconds. Each is a latency that was measured."""

    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    samples: int


def median(values: Sequence[float]) -> float:
    """The middle value; of an even number of values, the mean of the middle two.

    Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no values: nothing was measured")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    below, above = ordered[middle - 1], ordered[middle]
    return below + (above - below) / 2


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours by theirs, run by run. Raises ValueError where a run has no partner or no rate."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} runs cannot be paired with {len(theirs)}")
    if any(rate <= 0 for rate in (*ours, *theirs)):
        raise ValueError("a rate is above 0")
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def percentile(ordered: Sequence[int], fraction: float) -> int:
    """The smallest of the ordered values that at least this fraction of them does not exceed.

    `fraction` is above 0 and at most 1. Raises ValueError for another, and for no values.
    """
    if not ordered:
        raise ValueError("no values: nothing was measured")
    if not 0 < fraction <= 1:
        raise ValueError(f"a fraction is above 0 and at most 1, not {fraction}")
    # Rounded first: 0.999 * 1000 is a little more than 999.
    rank = math.ceil(round(fraction * len(ordered), 6))
    return ordered[max(1, rank) - 1]


def latency(nanoseconds: Sequence[int]) -> Latency:
    """Sum up latencies in nanoseconds. Raises ValueError for none."""
    ordered = sorted(nanoseconds)
    return Latency(
        p50_ms=percentile(ordered, 0.5) / _MS,
        p99_ms=percentile(ordered, 0.99) / _MS,
        p999_ms=percentile(ordered, 0.999) / _MS,
        max_ms=ordered[-1] / _MS,
        samples=len(ordered),
    )


def intended_ns(start_ns: int, rate: float, number: int) -> int:
    """When message `number` (from 0) of a schedule is to be sent, on the clock of `start_ns`.

    The schedule of an open loop: it knows nothing of how long earlier messages took. `rate` is
    messages a second. Raises ValueError for a rate that is not above 0.
    """
    if rate <= 0:
        raise ValueError(f"a rate is above 0, not {rate}")
    return start_ns + round(number * 1e9 / rate)
