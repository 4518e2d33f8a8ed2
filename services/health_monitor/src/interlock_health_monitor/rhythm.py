"""A node's own rhythm: how long between its heartbeats, and how unlikely a silence is.

The φ accrual failure detector (Hayashibara et al., 2004): φ is minus the decimal logarithm of the
probability that a beat is merely late by so much. Intervals are taken as normally distributed, with
mean and variance that follow the node slowly, and a floor under the deviation so that a very even
rhythm does not make every hiccup suspicious.
"""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Final

__all__ = ["Rhythm", "phi_of", "z_of"]

#: The share of the newest interval in mean and variance: they follow within about 30 beats.
_ALPHA: Final = 1 / 32
#: An interval counts as at most so many times the mean: an outage teaches nothing about rhythm.
_LONGEST: Final = 3.0
#: The least deviation, as a share of the mean.
_LEAST_DEVIATION: Final = 0.1
#: Beats closer together than this share of the mean come in a bunch: something held them up on
#: their way, which says nothing about how the node beats.
_BUNCH: Final = 0.1
#: It has slowed down where the mean is more than so many times what it says.
_SLOWED: Final = 1.5
#: Beats until a rhythm is known well enough to be relied upon.
KNOWN_AFTER: Final = 5


@lru_cache(maxsize=64)
def z_of(phi: float) -> float:
    """So many standard deviations late is φ."""
    return NormalDist().inv_cdf(1.0 - 10.0**-phi)


def phi_of(silence_s: float, mean_s: float, deviation_s: float) -> float:
    """φ of a silence; 0 to 300, where a double has no more to give."""
    z = (silence_s - mean_s) / deviation_s
    tail = 0.5 * math.erfc(z / math.sqrt(2.0))
    return -math.log10(tail) if tail > 1e-300 else 300.0


class Rhythm:
    """The rhythm of one node."""

    __slots__ = ("beats", "interval_s", "mean_s", "variance")

    def __init__(self, interval_s: float = 1.0) -> None:
        """`interval_s`: what the node says its rhythm is."""
        self.interval_s = interval_s
        self.mean_s = interval_s
        self.variance = (interval_s / 4) ** 2
        self.beats = 0

    def heard(self, gap_s: float) -> None:
        """A beat came so long after the one before."""
        mean = self.mean_s
        if gap_s < _BUNCH * mean:
            return
        if gap_s > _LONGEST * mean:
            gap_s = _LONGEST * mean
        off = gap_s - mean
        self.mean_s = mean + _ALPHA * off
        self.variance += _ALPHA * (off * off - self.variance)
        self.beats += 1

    @property
    def known(self) -> bool:
        """Whether enough beats came to judge by."""
        return self.beats >= KNOWN_AFTER

    @property
    def pace_s(self) -> float:
        """How long between two beats at present: what it says, or more where it has slowed down.

        That some of its beats are lost does not make it slow.
        """
        return max(self.interval_s, self.mean_s / _SLOWED)

    @property
    def deviation_s(self) -> float:
        """Standard deviation of the interval, with its floor."""
        return max(math.sqrt(self.variance), _LEAST_DEVIATION * self.mean_s)

    def phi(self, silence_s: float) -> float:
        """How unlikely it is that the next beat is still to come after such a silence."""
        return phi_of(silence_s, self.mean_s, self.deviation_s)

    def late_after_s(self, z: float) -> float:
        """The silence that is `z` standard deviations late."""
        return self.mean_s + z * self.deviation_s
