"""When calls to something that keeps failing are held back, and when they are tried again. Pure.

A breaker is closed (calls go through), open (they are held back for a while) or half-open (one
trial is on its way, and its result decides). A trial that nobody reports on expires, and an open
breaker that nobody asks expires too: what it says is a negative fact, which never stands for ever.
`interlock.breakers` keeps one for each peer and does the calling.
"""

import math
from collections.abc import Callable
from typing import Final, Literal

import msgspec

__all__ = [
    "CLOSED",
    "PRESETS",
    "Asked",
    "BreakerPolicy",
    "BreakerState",
    "Result",
    "Standing",
    "Ticket",
    "ask",
    "idle",
    "level_at",
    "longest_wait_s",
    "record",
]

Standing = Literal["closed", "open", "half_open"]

#: ``neutral``: it says nothing about the peer: the call was cancelled, or failed on our side.
Result = Literal["success", "failure", "neutral"]


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a breaker is."""

    failures: int = 5
    """Failures in a row that open it. At least 1."""
    window_s: float = 600.0
    """A failure longer ago than this, seconds, does not count as in a row with the next."""
    base_s: float = 10.0
    """The first wait before a trial, seconds; each further opening doubles it."""
    cap_s: float = 300.0
    """The longest wait, seconds, before jitter."""
    jitter: float = 0.1
    """Each wait is longer or shorter by up to this share, 0 to below 1."""
    trial_s: float = 60.0
    """A trial without a result for so long, seconds, is given up, and the next may begin."""
    decay_s: float = 600.0
    """For each such time that it has been closed, seconds, the next wait is half as long again."""
    expires_s: float = 900.0
    """Open and not asked for so long after its wait ended, seconds, it is forgotten."""

    def __post_init__(self) -> None:
        """Raise ValueError for what makes no sense."""
        if self.failures < 1:
            raise ValueError(f"failures is at least 1, not {self.failures}")
        times = (self.window_s, self.base_s, self.trial_s, self.decay_s, self.expires_s)
        if not all(0 < each < math.inf for each in times):
            raise ValueError("every time of a breaker is above 0 and finite")
        if not self.base_s <= self.cap_s < math.inf:
            raise ValueError(f"cap_s ({self.cap_s:g}) is at least base_s ({self.base_s:g})")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter is from 0 to below 1, not {self.jitter}")

    @property
    def highest_level(self) -> int:
        """The level past which waits grow no more."""
        return max(0, math.ceil(math.log2(self.cap_s / self.base_s)))

    def wait_s(self, level: int, rand: Callable[[], float]) -> float:
        """Seconds until the first trial, having been opened ``level`` times before."""
        bound = min(self.cap_s, self.base_s * 2.0 ** min(max(level, 0), self.highest_level))
        return bound * (1 + self.jitter * (2 * rand() - 1))


#: ``lan``: calls within a site, which are cheap and answer in milliseconds. ``wan``: hosts over the
#: internet. ``ssh``: an attempt is dear on both sides, and a host that refuses us may lock us out.
PRESETS: Final = {
    "default": BreakerPolicy(),
    "lan": BreakerPolicy(base_s=1.0, cap_s=60.0, trial_s=15.0, decay_s=120.0),
    "wan": BreakerPolicy(base_s=10.0, cap_s=300.0),
    "ssh": BreakerPolicy(failures=3, base_s=10.0, cap_s=300.0, trial_s=120.0),
}


class BreakerState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a breaker stands. All times are those of the caller's clock, in seconds."""

    standing: Standing = "closed"
    failures: int = 0
    """In a row."""
    level: int = 0
    """How often it was opened without having been closed for long; the next wait grows with it."""
    since: float = 0.0
    """When it came to stand so."""
    until: float = 0.0
    """Open: no trial before. Half-open: the trial is given up then."""
    failed_at: float = 0.0
    """The last failure."""
    epoch: int = 0
    """Counts changes: a result of a call from before one says nothing about what stands now."""


CLOSED: Final = BreakerState()


class Ticket(msgspec.Struct, frozen=True):
    """The leave to make one call; its result is recorded with it."""

    epoch: int
    trial: bool


class Asked(msgspec.Struct, frozen=True):
    """The answer to whether a call may be made."""

    state: BreakerState
    ticket: Ticket | None
    """None: it is held back."""
    retry_after_s: float = 0.0
    """Held back: seconds until it makes sense to ask again."""


def longest_wait_s(policy: BreakerPolicy) -> float:
    """No wait is longer, seconds."""
    return policy.cap_s * (1 + policy.jitter)


def level_at(policy: BreakerPolicy, state: BreakerState, now: float) -> int:
    """The level, less what it has lost by having been closed."""
    if state.standing != "closed":
        return state.level
    return max(0, state.level - int(max(0.0, now - state.since) / policy.decay_s))


def idle(policy: BreakerPolicy, state: BreakerState, now: float) -> bool:
    """Whether nothing would change if it were forgotten."""
    if state.standing == "closed":
        recent = state.failures and now - state.failed_at <= policy.window_s
        return not recent and level_at(policy, state, now) == 0
    return _until(policy, state, now) + policy.expires_s <= now


def _until(policy: BreakerPolicy, state: BreakerState, now: float) -> float:
    """The end of a wait; a clock that was set back makes none longer than it can be."""
    longest = longest_wait_s(policy) if state.standing == "open" else policy.trial_s
    return min(state.until, now + longest)


def ask(policy: BreakerPolicy, state: BreakerState, now: float) -> Asked:
    """Whether a call may be made at ``now``."""
    if state.standing == "closed":
        return Asked(state, Ticket(state.epoch, trial=False))
    until = _until(policy, state, now)
    if until > now:
        if until != state.until:
            state = msgspec.structs.replace(state, until=until)
        longest = max(longest_wait_s(policy), policy.trial_s)
        return Asked(state, None, min(until - now, longest))
    if idle(policy, state, now):
        state = BreakerState(since=now, epoch=state.epoch + 1)
        return Asked(state, Ticket(state.epoch, trial=False))
    state = msgspec.structs.replace(
        state,
        standing="half_open",
        since=now,
        until=now + policy.trial_s,
        epoch=state.epoch + 1,
    )
    return Asked(state, Ticket(state.epoch, trial=True))


def record(
    policy: BreakerPolicy,
    state: BreakerState,
    ticket: Ticket,
    result: Result,
    now: float,
    rand: Callable[[], float],
) -> BreakerState:
    """Note what came of the call that `ticket` allowed.

    ``rand`` returns a number in [0, 1).
    """
    if ticket.epoch != state.epoch:
        return state
    if state.standing == "half_open":
        if result == "success":
            return BreakerState(level=state.level, since=now, epoch=state.epoch + 1)
        if result == "neutral":
            # It was no trial after all: the next caller makes one.
            return msgspec.structs.replace(
                state, standing="open", since=now, until=now, epoch=state.epoch + 1
            )
        return _open(policy, state, state.failures + 1, state.level, now, rand)
    if state.standing == "open" or result == "neutral":
        return state
    if result == "success":
        return msgspec.structs.replace(state, failures=0) if state.failures else state
    apart = now - state.failed_at > policy.window_s
    failures = 1 if apart else state.failures + 1
    if failures >= policy.failures:
        return _open(policy, state, failures, level_at(policy, state, now), now, rand)
    return msgspec.structs.replace(state, failures=failures, failed_at=now)


def _open(
    policy: BreakerPolicy,
    state: BreakerState,
    failures: int,
    level: int,
    now: float,
    rand: Callable[[], float],
) -> BreakerState:
    return BreakerState(
        standing="open",
        failures=failures,
        level=min(level + 1, policy.highest_level),
        since=now,
        until=now + policy.wait_s(level, rand),
        failed_at=now,
        epoch=state.epoch + 1,
    )
