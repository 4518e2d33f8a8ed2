"""Circuit breakers: when calls to a node or component are held back, and when they resume."""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = ["TYPES", "BreakerClosed", "BreakerHalfOpened", "BreakerOpened"]


class BreakerOpened(Event, frozen=True, kw_only=True):
    """Calls failed too often and are held back for a while; emitted by the breaker's owner."""

    event_type: ClassVar[str] = "breaker.opened"

    node: str | None = None
    component: str | None = None
    failure_count: int | None = None
    recovery_timeout_s: float | None = None
    """Time until the first trial call."""


class BreakerHalfOpened(Event, frozen=True, kw_only=True):
    """One trial call is let through; emitted by the breaker's owner."""

    event_type: ClassVar[str] = "breaker.half_opened"

    node: str | None = None
    component: str | None = None
    failure_count: int | None = None


class BreakerClosed(Event, frozen=True, kw_only=True):
    """Trial calls succeeded and all calls go through again; emitted by the breaker's owner."""

    event_type: ClassVar[str] = "breaker.closed"

    node: str | None = None
    component: str | None = None
    failure_count: int | None = None


TYPES = (
    typed(BreakerOpened),
    typed(BreakerHalfOpened),
    typed(BreakerClosed),
    open_type(
        "breaker.threshold_reached",
        "So many nodes have an open breaker that the fault is probably not theirs; emitted by the "
        "health monitor.",
    ),
    open_type(
        "breaker.tier_changed",
        "A breaker that keeps opening waits longer between trials, or shorter again; emitted by "
        "the breaker's owner.",
    ),
    open_type(
        "breaker.reset",
        "A breaker was closed ahead of time because its peer was seen to work; emitted by the "
        "recovery that saw it.",
    ),
)
