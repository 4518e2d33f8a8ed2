"""How long a holder may rest on its lease. Pure.

The broker counts a lease's time to live from when it stored the record, which is not before the
request was sent. Counted from the sending, on a clock that nobody sets, the holder is never later
than the broker.
"""

from typing import Final

import msgspec

from interlock_schemas.locks import TAKE_UP_S

__all__ = ["Hold", "confirmed", "margin_s", "renew_after_s"]

_SHORTEST_MARGIN_S: Final = 0.15
_LONGEST_MARGIN_S: Final = 1.0


def margin_s(ttl_s: float) -> float:
    """How long before its lease can end a holder stops, seconds.

    For what it has just begun to write, and for clocks that do not run alike. A tenth of the lease,
    between 0.15 and 1 s.
    """
    return min(_LONGEST_MARGIN_S, max(_SHORTEST_MARGIN_S, ttl_s / 10))


def renew_after_s(ttl_s: float) -> float:
    """How long after a renewal the next one is sent, seconds: two more can fail."""
    return ttl_s / 3


class Hold(msgspec.Struct, frozen=True):
    """What a holder knows of its hold. Times are monotonic seconds."""

    ttl_s: float
    since: float
    """When the request was sent that it was first held by."""
    sent: float
    """When the last renewal was sent that the broker acknowledged in time."""
    max_age_s: float | None = None

    @property
    def until(self) -> float:
        """Until when it may be rested on."""
        until = self.sent + self.ttl_s
        if self.max_age_s is not None:
            until = min(until, self.since + self.max_age_s)
        return until - margin_s(self.ttl_s)

    @property
    def why(self) -> str:
        """Why it ends then."""
        if self.max_age_s is not None and self.since + self.max_age_s <= self.sent + self.ttl_s:
            return f"it was held for its maximum age of {self.max_age_s:g} s"
        return f"it was not renewed for {self.ttl_s:g} s"

    def renewed(self, sent: float, acked: float) -> "Hold | None":
        """The hold after a renewal; None where its acknowledgement came too late.

        One that reaches the broker when the lease is due may be acknowledged and wiped all the same
        (with several servers the broker's own marker may be under way already).
        """
        if acked >= self.until:
            return None
        return msgspec.structs.replace(self, sent=sent)


def confirmed(ttl_s: float, waiting_at: float, acked: float) -> bool:
    """Whether a first renewal was surely stored before what was handed over could run out.

    `waiting_at`: when something was sent whose answer was that we still wait. What was handed over
    was so after that, and lives `TAKE_UP_S` or the time to live from then on.
    """
    return acked < waiting_at + min(float(TAKE_UP_S), ttl_s)
