"""How attentive the monitor itself is: it suspects itself first.

The monitor sends itself an echo through the broker, on the connection that heartbeats come by, and
measures silence on a clock that only advances with what came back. While it is stopped, cut off, or
behind, the clock stands: what it did not hear in that time says nothing about anybody. How well it
did lately is a score, as in memberlist's local health, by which it is more patient.
"""

from typing import Final

import msgspec

__all__ = ["Attention", "Climate"]

#: Between two echoes so much counts as attentive, at most, seconds.
_LARGEST_STEP_S: Final = 0.6
#: An echo so much later than usual counts against ourselves, seconds.
_SLOW_S: Final = 0.25
#: The share of the newest round trip in what is usual, where it is longer: about 30 s of echoes.
_FOLLOW: Final = 1 / 200
#: No longer way is usual, seconds.
_FARTHEST_S: Final = 0.5
#: What comes back later than this proves nothing: it, and what came with it, lay somewhere.
_TOO_LATE_S: Final = 1.0
#: The worst score.
_CEILING: Final = 8
#: Echoes in time that take one off the score.
_TO_MEND: Final = 4


class Climate(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every node at a moment, whatever it did itself."""

    now_s: float
    """Attentive time."""
    score: int = 0
    """How badly the monitor itself did lately, 0 to 8: it is more patient by 1 + score."""
    settling: bool = False
    """It has just begun, come back, or been cut off: agents may still be connecting again."""
    crowd: bool = False
    """Several went quiet at the same time: a common cause is likelier than several deaths."""
    disrupted: frozenset[str] = frozenset()
    """Zones of which too large a part is quiet; ``*`` is the fleet as a whole."""


class Attention:
    """The clock of what was heard. Times are of one monotonic clock, in seconds."""

    def __init__(self, now_s: float, *, settle_s: float = 10.0) -> None:
        self._settle_s = settle_s
        self._heard_until = now_s
        self._attentive = 0.0
        self._settled_at = settle_s
        self._in_time = 0
        self._usual_s: float | None = None
        self.score = 0
        self.round_trip_s = 0.0

    @property
    def now_s(self) -> float:
        """Attentive time: seconds in which a heartbeat would have been heard."""
        return self._attentive

    @property
    def settling(self) -> bool:
        """Whether it began, or was away, only just now."""
        return self._attentive < self._settled_at

    def echoed(self, sent_s: float, back_s: float) -> None:
        """An echo came back: everything that the broker had before `sent_s` has been heard."""
        step = sent_s - self._heard_until
        if step <= 0:
            return
        self._heard_until = sent_s
        self.round_trip_s = max(0.0, back_s - sent_s)
        if self.round_trip_s > _TOO_LATE_S:
            self.cut_off()
        else:
            self._attentive += min(step, _LARGEST_STEP_S)
        if step > 3 * _LARGEST_STEP_S:
            self.cut_off()
        if self.round_trip_s > self._usual() + _SLOW_S or step > _LARGEST_STEP_S:
            self.score = min(_CEILING, self.score + 1)
            self._in_time = 0
        else:
            self._in_time += 1
            if self._in_time >= _TO_MEND:
                self._in_time = 0
                self.score = max(0, self.score - 1)

    def _usual(self) -> float:
        """How long an echo usually takes, this one taken in: a broker far away is not slow."""
        newest, usual = min(self.round_trip_s, _FARTHEST_S), self._usual_s
        if usual is None or newest < usual:
            usual = newest
        self._usual_s = usual + _FOLLOW * (newest - usual)
        return self._usual_s

    def cut_off(self) -> None:
        """The connection was lost: nodes may have lost theirs, and take a while to come back."""
        self._settled_at = self._attentive + self._settle_s

    def deaf_s(self, now_s: float) -> float:
        """For how long nothing has come back."""
        return max(0.0, now_s - self._heard_until)
