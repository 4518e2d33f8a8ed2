"""Resources running short and coming back: memory, disk, sockets, GPUs, money.

Backpressure of one queue belongs to that queue's domain (`work`, `evaluation`); here it is the
node's or the fleet's.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "BackpressureActivated",
    "BackpressureReleased",
    "ConstraintDetected",
    "DiskCleaned",
    "DiskShortageDetected",
    "MemoryPressureDetected",
    "MemoryPressureRelieved",
]


class BackpressureActivated(Event, frozen=True, kw_only=True):
    """A node or a shared resource is overloaded and producers should slow down; emitted by the
    resource monitor."""

    event_type: ClassVar[str] = "resource.backpressure_activated"

    node: str | None = None
    level: str | None = None
    resource_type: str | None = None
    utilization: float | None = None
    queue_depth: int | None = None
    reason: str | None = None


class BackpressureReleased(Event, frozen=True, kw_only=True):
    """An overload has passed and producers may go on as before; emitted by the resource
    monitor."""

    event_type: ClassVar[str] = "resource.backpressure_released"

    node: str | None = None
    previous_level: str | None = None
    duration_s: float | None = None
    """How long the backpressure lasted."""
    reason: str | None = None


class ConstraintDetected(Event, frozen=True, kw_only=True):
    """A resource hit its limit on a node; emitted by the resource monitor of that node."""

    event_type: ClassVar[str] = "resource.constraint_detected"

    node: str | None = None
    resource_type: str | None = None
    """The resource, for example ``memory`` or ``disk``."""
    action_taken: str | None = None


class MemoryPressureDetected(Event, frozen=True, kw_only=True):
    """A node's memory use reached a tier that calls for action; emitted by the memory monitor of
    that node."""

    event_type: ClassVar[str] = "resource.memory_pressure_detected"

    node: str | None = None
    tier: str | None = None
    """``caution``, ``warning``, ``critical`` or ``emergency``, in either case."""
    ram_percent: float | None = None
    ram_used_gb: float | None = None
    action: str | None = None
    """What the monitor does about it."""


class MemoryPressureRelieved(Event, frozen=True, kw_only=True):
    """A node's memory use fell below its lowest tier; emitted by the memory monitor of that
    node."""

    event_type: ClassVar[str] = "resource.memory_pressure_relieved"

    node: str | None = None
    tier: str | None = None
    ram_percent: float | None = None


class DiskShortageDetected(Event, frozen=True, kw_only=True):
    """A node's disk is fuller than the limit; emitted by the disk monitor of that node."""

    event_type: ClassVar[str] = "resource.disk_shortage_detected"

    node: str | None = None
    usage_percent: float | None = None
    free_gb: float | None = None
    threshold: float | None = None
    """Limit in percent."""


class DiskCleaned(Event, frozen=True, kw_only=True):
    """A cleanup of a node's disk ended, with what it freed; emitted by the disk monitor of that
    node."""

    event_type: ClassVar[str] = "resource.disk_cleaned"

    node: str | None = None
    bytes_freed: int | None = None
    duration_s: float | None = None


TYPES = (
    typed(BackpressureActivated),
    typed(BackpressureReleased),
    typed(ConstraintDetected),
    typed(MemoryPressureDetected),
    typed(MemoryPressureRelieved),
    typed(DiskShortageDetected),
    typed(DiskCleaned),
    open_type(
        "resource.socket_leak_detected",
        "A process has far more open sockets or files than it should; emitted by the socket "
        "monitor of that node.",
    ),
    open_type(
        "resource.socket_leak_recovered",
        "A process that leaked sockets is back to a normal number; emitted by the socket monitor "
        "of that node.",
    ),
    open_type(
        "resource.capacity_shortage_detected",
        "The fleet has fewer GPUs than its minimum; emitted by the provisioner.",
    ),
    open_type(
        "resource.capacity_restored",
        "The fleet has its minimum of GPUs again; emitted by the provisioner.",
    ),
    open_type(
        "resource.budget_threshold_reached",
        "Spending comes close to a budget; emitted by the provisioner.",
    ),
    open_type(
        "resource.budget_exceeded",
        "Spending passed a budget, so nothing more is rented; emitted by the provisioner.",
    ),
    open_type(
        "resource.utilization_recovery_started",
        "Work is going to be added because GPUs idle; emitted by the utilization recovery.",
    ),
    open_type(
        "resource.utilization_recovery_completed",
        "Work was added for idle GPUs, with how much and for which configurations; emitted by the "
        "utilization recovery.",
    ),
    open_type(
        "resource.utilization_recovery_failed",
        "No work could be added for idle GPUs; emitted by the utilization recovery.",
    ),
)
