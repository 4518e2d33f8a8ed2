"""Locks: taken, released, waited for in vain, entangled.

The lock on one configuration's training that the predecessor's coordinator kept is in `training`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "LockAcquired",
    "LockExpired",
    "LockLost",
    "LockRefused",
    "LockReleased",
    "LockWaitTimedOut",
]


class LockAcquired(Event, frozen=True, kw_only=True):
    """A lock was granted; emitted by the lock service."""

    event_type: ClassVar[str] = "lock.acquired"

    lock: str | None = None
    """Name of the lock, for example ``export:hex8_2p``."""
    holder: str | None = None
    node: str | None = None
    token: int | None = None
    """The fencing token: it rises with each grant of this lock, for ever."""
    waited_s: float | None = None
    """Time between the first request and the grant."""


class LockReleased(Event, frozen=True, kw_only=True):
    """A lock was given back by its holder; emitted by the lock service."""

    event_type: ClassVar[str] = "lock.released"

    lock: str | None = None
    """Name of the lock, for example ``export:hex8_2p``."""
    holder: str | None = None
    node: str | None = None
    reason: str | None = None
    token: int | None = None
    held_s: float | None = None
    """Time between the grant and the release."""


class LockExpired(Event, frozen=True, kw_only=True):
    """A lease ran out because nobody renewed it; emitted by the lock service."""

    event_type: ClassVar[str] = "lock.expired"

    lock: str | None = None
    holder: str | None = None
    node: str | None = None
    token: int | None = None
    held_s: float | None = None


class LockLost(Event, frozen=True, kw_only=True):
    """A lock was taken from its holder: by an operator, because the node was lost, or because it
    was held longer than allowed; emitted by the lock service."""

    event_type: ClassVar[str] = "lock.lost"

    lock: str | None = None
    holder: str | None = None
    node: str | None = None
    token: int | None = None
    held_s: float | None = None
    reason: str | None = None
    """``ended``, ``node_lost``, ``max_age`` or ``not_taken_up``."""
    by: str | None = None
    """Who ended it, and why, in their words."""


class LockRefused(Event, frozen=True, kw_only=True):
    """A request for a lock was refused for good, for example because the wait would have been a
    deadlock; emitted by the lock service."""

    event_type: ClassVar[str] = "lock.refused"

    lock: str | None = None
    holder: str | None = None
    """Who asked."""
    node: str | None = None
    reason: str | None = None


class LockWaitTimedOut(Event, frozen=True, kw_only=True):
    """A caller gave up waiting for a lock that somebody else held; emitted by the lock service
    when that caller says so."""

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
    typed(LockExpired),
    typed(LockLost),
    typed(LockRefused),
    typed(LockWaitTimedOut),
    open_type(
        "lock.deadlock_detected",
        "Holders wait for one another's locks and none can go on; emitted by whoever found the "
        "cycle.",
    ),
)
