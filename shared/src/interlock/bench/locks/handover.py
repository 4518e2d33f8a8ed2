"""The latency of handing a lock over, from what its two holders wrote down. Pure.

That it was held by one at a time is checked on the way.
"""

import itertools
from collections.abc import Sequence

__all__ = ["NotAlternating", "latencies"]

Holds = Sequence[tuple[int, int]]


class NotAlternating(ValueError):
    """The two did not hold the lock in turns, one at a time. The message says where."""


def latencies(first: Holds, second: Holds) -> list[int]:
    """Nanoseconds from each call for a release until the other has the lock.

    Both are pairs of times on one clock: when a process got the lock, and when it called for the
    release. `first` is of the process that held it first; they held it equally often. Raises
    NotAlternating when one got it before the other had called for its release.
    """
    if len(first) != len(second):
        raise NotAlternating(f"one held the lock {len(first)} times, the other {len(second)} times")
    turns = [turn for pair in zip(first, second, strict=True) for turn in pair]
    found = []
    for number, ((_, released), (got, _)) in enumerate(itertools.pairwise(turns), 1):
        if got < released:
            raise NotAlternating(
                f"hand-over {number}: the next had the lock {(released - got) / 1e6:.3f} ms before "
                "the one before gave it up: both held it"
            )
        found.append(got - released)
    return found
