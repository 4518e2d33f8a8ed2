"""Lets bytes through at no more than a rate, fairly between those who want them through.

`Bucket` is the decision, without a clock; `Pacer` is the thread-safe shell around it. A pacer may
have a parent, which then bounds all of its children together: the node's ingress above the share
of each source, for one.
"""

import threading
import time
from collections import deque
from typing import Final

import msgspec

__all__ = ["Bucket", "Pacer"]

#: What may come at once after a pause, seconds' worth.
_BURST_S: Final = 0.05
#: Who asks for more stands in line again after each such part, seconds' worth and bytes. Small
#: enough that parts of different sizes share fairly, large enough to cost nothing.
_PART_S: Final = 0.003
_PART_BYTES: Final = (4_096, 262_144)
#: The longest that a waiting thread does not look whether it is cancelled, seconds.
_LOOK_S: Final = 0.025


class Bucket(msgspec.Struct, frozen=True):
    """How far ahead of its rate a flow may be. All times on one clock, seconds."""

    rate: float
    """Bytes per second."""
    tokens: float
    """Bytes that may pass at once; below 0: that have passed too early."""
    at: float
    """When `tokens` was true."""

    def level(self, now: float) -> float:
        """Bytes that may pass at `now`."""
        return min(self.rate * _BURST_S, self.tokens + max(0.0, now - self.at) * self.rate)

    def wait_s(self, now: float) -> float:
        """How long until something may pass, seconds; 0: now."""
        return max(0.0, -self.level(now) / self.rate)

    def taken(self, count: int, now: float) -> "Bucket":
        """After `count` bytes passed."""
        return Bucket(self.rate, self.level(now) - count, max(now, self.at))

    def at_rate(self, rate: float, now: float) -> "Bucket":
        """With another rate from now on. What was taken too early is waited for at the new one."""
        return Bucket(rate, min(self.level(now), rate * _BURST_S), max(now, self.at))

    @property
    def part(self) -> int:
        """The most that passes before the next one in line may, bytes."""
        least, most = _PART_BYTES
        return int(min(most, max(least, self.rate * _PART_S)))


class Pacer:
    """A limit that several transfers share. `rate` in bytes per second; None: no limit.

    Those who wait are served in turn, a small part each, so that they get the same share.
    """

    def __init__(self, rate: float | None = None, parent: "Pacer | None" = None) -> None:
        self._parent = parent
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        self._bucket: Bucket | None = None
        self.set_rate(rate)

    @property
    def rate(self) -> float | None:
        """Bytes per second; None: no limit of its own."""
        bucket = self._bucket
        return bucket.rate if bucket is not None else None

    @property
    def tightest(self) -> float | None:
        """The lowest rate of this one and those above it, bytes per second."""
        rates = [self.rate, self._parent.tightest if self._parent is not None else None]
        return min((rate for rate in rates if rate is not None), default=None)

    def set_rate(self, rate: float | None) -> None:
        """Have another limit from now on; those who wait for the old one profit at once."""
        if rate is not None and not rate > 0:
            raise ValueError(f"{rate} bytes per second: a rate is above 0, or None for no limit")
        now = time.monotonic()
        with self._changed:
            if rate is None:
                self._bucket = None
            elif self._bucket is None:
                self._bucket = Bucket(rate, 0.0, now)
            else:
                self._bucket = self._bucket.at_rate(rate, now)
            self._changed.notify_all()

    def take(self, count: int, cancelled: threading.Event) -> None:
        """Wait until so many bytes may have come. Returns early once `cancelled` is set."""
        left = count
        while left > 0 and not cancelled.is_set():
            part = self._take_part(left, cancelled)
            if self._parent is not None:
                self._parent.take(part, cancelled)
            left -= part

    def _take_part(self, left: int, cancelled: threading.Event) -> int:
        if self.rate is None:
            return left
        me = object()
        with self._changed:
            self._line.append(me)
            try:
                while not cancelled.is_set():
                    bucket = self._bucket
                    if bucket is None:
                        return left
                    now = time.monotonic()
                    wait_s = bucket.wait_s(now)
                    if self._line[0] is me and not wait_s:
                        part = min(left, bucket.part)
                        self._bucket = bucket.taken(part, now)
                        return part
                    self._changed.wait(min(wait_s, _LOOK_S) if self._line[0] is me else _LOOK_S)
            finally:
                self._line.remove(me)
                self._changed.notify_all()
        return left
