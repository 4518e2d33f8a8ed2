"""Locks: taken, released, waited for in vain, entangled.

The lock on one configuration's training that the predecessor's coordinator kept is in `training`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = ["TYPES", "LockAcquired", "LockReleased", "LockWaitTimedOut"]


class LockAcquired(Event, frozen=True, kw_only=True):
    """A lock was granted; emitted by the lock service."""

    event_type: ClassVar[str] = "lock.acquired"

    lock: str | None = None
    """Name of the lock, for example ``export:hex8_2p``."""
    holder: str | None = None
    node: str | None = None


class LockReleased(Event, frozen=True, kw_only=True):
    """A lock was given back, or taken back at the end of its lease; emitted by the lock
    service."""

    event_type: ClassVar[str] = "lock.released"

    lock: str | None = None
    """Name of the lock, for example ``export:hex8_2p``."""
    holder: str | None = None
    node: str | None = None
    reason: str | None = None


class LockWaitTimedOut(Event, frozen=True, kw_only=True):
    """A caller gave up waiting for a lock that somebody else held; emitted by that caller."""

    event_type: ClassVar[str] = "lock.wait_timed_out"

    lock: str | None = None
    """Name of the lock, for example ``export:hex8_2p``."""
    node: str | None = None
    """Node that waited."""
    operation: str | None = None
    """What the lock was wanted for."""
    wait_s: float | None = None
    timeout_s: float | None = None
    holder_node: str | None = None
    """Node that held it."""


TYPES = (
    typed(LockAcquired),
    typed(LockReleased),
    typed(LockWaitTimedOut),
    open_type(
        "lock.deadlock_detected",
        "Holders wait for one another's locks and none can go on; emitted by whoever found the "
        "cycle.",
    ),
)
