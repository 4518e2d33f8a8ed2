"""When failures are a flood rather than a few bad messages, and what to do about it. Pure.

A bad deploy or a dead dependency fails every message. Retrying each to its last attempt would
drain the stream into the dead letters, so past a limit the consumer is paused at the broker
instead, tried with single messages, and resumed by the first success. `interlock.floodgate` does
what is decided here.

All processes of one consumer share its state through the one thing that they share, the consumer:
the nanoseconds of its ``pause_until`` say how many pauses there have been in a row and whether the
flood is over (`Mark`). So no process has to be told anything, and none is needed to end a pause.
"""

import datetime
import math
from collections import deque
from typing import Final

import msgspec

__all__ = [
    "Closed",
    "FloodPolicy",
    "Follow",
    "Mark",
    "Open",
    "Outcomes",
    "Standing",
    "on_start",
    "on_trip",
    "pause_s",
    "slack",
]

_HIGHEST_LEVEL: Final = 499
_OVER: Final = 1_000
_SLICES: Final = 12
#: Messages whose failure is remembered, so that a retry is not counted as another one.
_REMEMBERED: Final = 10_000


class FloodPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a consumer is paused because its handler fails.

    Two limits, as arroyo's ``DlqLimit`` has them: a ratio (with a least number of outcomes, as in
    resilience4j's and Polly's breakers), and failures in a row for a consumer too slow for a ratio.
    Messages count, not attempts: one message that fails five times is one failure. What counts is
    a handler that raises or runs out of time. What does not: `Reject`, which is the handler working
    and the message at fault, and a failure of the bus, which says nothing about the handler.
    """

    ratio: float = 0.5
    """Share of messages that failed within the window at which the consumer is paused, 0 to 1."""
    least: int = 20
    """Outcomes within the window below which no ratio is drawn. At least 1."""
    window_s: float = 60.0
    """How far back outcomes count, seconds."""
    consecutive: int = 25
    """Messages failed in a row, none handled between, at which it is paused, however slowly."""
    pause_s: float = 5.0
    """The first pause, seconds, rounded up to a whole one; each failed probe doubles the next."""
    cap_s: float = 300.0
    """The longest pause, seconds."""

    def __post_init__(self) -> None:
        """Raise ValueError for a limit that makes no sense."""
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio is above 0 and at most 1, not {self.ratio}")
        if self.least < 1 or self.consecutive < 1:
            raise ValueError("least and consecutive are at least 1")
        if not (self.window_s > 0 and self.pause_s > 0 and self.cap_s > 0):
            raise ValueError("window_s, pause_s and cap_s are above 0")


class Outcomes:
    """What became of the messages of the last `window_s` seconds, in one process."""

    def __init__(self, policy: FloodPolicy) -> None:
        self._policy = policy
        self._slice_s = policy.window_s / _SLICES
        #: Per slice of the window: its number, messages handled, messages failed.
        self._slices: deque[list[int]] = deque()
        self._seen: dict[bytes, float] = {}
        self._row = 0

    def _slice(self, now: float) -> list[int]:
        number = int(now / self._slice_s)
        while self._slices and self._slices[0][0] <= number - _SLICES:
            self._slices.popleft()
        if not self._slices or self._slices[-1][0] < number:
            self._slices.append([number, 0, 0])
        return self._slices[-1]

    def handled(self, count: int, now: float) -> None:
        """So many messages were handled since the last call."""
        if count:
            self._slice(now)[1] += count
            self._row = 0

    def failed(self, message: bytes, now: float) -> str | None:
        """A handler failed for that message. Says why, where a limit is reached."""
        seen = self._seen.pop(message, None)
        self._seen[message] = now
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        if seen is None or now - seen > self._policy.window_s:
            self._slice(now)[2] += 1
            self._row += 1
        return self.verdict(now)

    def counts(self, now: float) -> tuple[int, int]:
        """Messages handled and messages failed within the window."""
        self._slice(now)
        return sum(s[1] for s in self._slices), sum(s[2] for s in self._slices)

    def verdict(self, now: float) -> str | None:
        """Why the consumer should be paused, in one clause; None where it should not."""
        policy = self._policy
        handled, failed = self.counts(now)
        total = handled + failed
        if total >= policy.least and failed >= policy.ratio * total:
            return f"{failed} of {total} messages failed within {policy.window_s:g} s"
        if self._row >= policy.consecutive:
            return f"{self._row} messages in a row failed"
        return None

    def forget(self) -> None:
        """Begin anew: what was counted led to a pause, or is from before one."""
        self._slices.clear()
        self._seen.clear()
        self._row = 0


class Mark(msgspec.Struct, frozen=True):
    """The state of a flood, as ``pause_until`` of the consumer keeps it."""

    until_s: int
    """End of the pause (of the flood, once it is over), seconds since the epoch."""
    level: int
    """How many pauses in a row, this one included. 0: somebody else paused the consumer."""
    over: bool = False

    def write(self) -> str:
        """As RFC 3339: whole seconds, and the level in the nanoseconds."""
        at = datetime.datetime.fromtimestamp(self.until_s, datetime.UTC)
        nanoseconds = self.level + (_OVER if self.over else 0)
        return f"{at:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"

    @staticmethod
    def read(text: str | None) -> "Mark | None":
        """The mark in a ``pause_until``; None where there is no pause at all."""
        if not text or text.startswith("0001-"):
            return None
        seconds, _, fraction = text.rstrip("Z").partition(".")
        try:
            at = datetime.datetime.fromisoformat(seconds).replace(tzinfo=datetime.UTC)
            nanoseconds = int(fraction.ljust(9, "0")[:9] or 0)
        except ValueError:
            return None
        until_s = int(at.timestamp())
        if 0 < nanoseconds <= _HIGHEST_LEVEL:
            return Mark(until_s, nanoseconds)
        if _OVER < nanoseconds <= _OVER + _HIGHEST_LEVEL:
            return Mark(until_s, nanoseconds - _OVER, over=True)
        return Mark(until_s + (nanoseconds > 0), 0)


class Standing(msgspec.Struct, frozen=True):
    """What the broker says of the consumer."""

    mark: Mark | None
    paused: bool


class Closed(msgspec.Struct, frozen=True):
    """No flood: take messages as usual."""


class Follow(msgspec.Struct, frozen=True):
    """Somebody has paused the consumer: wait with it, then probe."""

    mark: Mark


class Open(msgspec.Struct, frozen=True):
    """Pause the consumer."""

    mark: Mark
    first: bool
    """The flood begins: say so, once."""


def pause_s(policy: FloodPolicy, level: int) -> float:
    """Length of the pause of that number in a row, seconds."""
    return float(min(policy.cap_s, policy.pause_s * 2.0 ** min(level - 1, 64)))


def _recent(policy: FloodPolicy, mark: Mark, now_s: float) -> bool:
    """Whether a flood whose pause has ended is still going on."""
    return now_s <= mark.until_s + max(policy.window_s, pause_s(policy, mark.level or 1))


def on_trip(
    policy: FloodPolicy, standing: Standing, now_s: float, *, probing: bool
) -> Open | Follow | Closed:
    """Decide after a limit was reached, or after a probe failed."""
    mark = standing.mark
    if standing.paused and mark is not None:
        return Follow(mark)
    if probing and (mark is None or mark.over or not mark.level):
        # Another process has seen a message handled since, or it was no flood that ended: one
        # failure says nothing.
        return Closed()
    level = 1
    if mark is not None and mark.level and not mark.over and _recent(policy, mark, now_s):
        level = min(mark.level + 1, _HIGHEST_LEVEL)
    until_s = math.ceil(now_s + pause_s(policy, level))
    return Open(Mark(until_s, level), first=level == 1)


def on_start(policy: FloodPolicy, standing: Standing, now_s: float) -> Follow | Closed:
    """Decide how a process begins that finds the consumer so."""
    mark = standing.mark
    if mark is None or mark.over:
        return Closed()
    if standing.paused or (mark.level and _recent(policy, mark, now_s)):
        return Follow(mark)
    return Closed()


def slack(mark: Mark | None, attempts: int, stored_s: float) -> int:
    """Deliveries that are not held against a message, because a flood may have spent them.

    During a flood a message is delivered at most once for each pause; before it, fewer times than
    make a letter. So whatever was stored before the flood's end has all of its attempts once more.
    """
    if mark is None or not mark.level or (mark.over and stored_s > mark.until_s):
        return 0
    return attempts + mark.level
