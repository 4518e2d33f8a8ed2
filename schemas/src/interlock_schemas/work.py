"""Work items: the queue's units of work from submission to their end, and the queue itself.

An item may need several attempts on several nodes. One attempt, as a process on one node, is a
`task`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "WorkBackpressureActivated",
    "WorkBackpressureReleased",
    "WorkCancelled",
    "WorkClaimed",
    "WorkCompleted",
    "WorkFailed",
    "WorkQueued",
    "WorkRetryScheduled",
    "WorkStarted",
    "WorkSubmitted",
    "WorkTimedOut",
]


class WorkSubmitted(Event, frozen=True, kw_only=True):
    """Somebody handed an item to the queue; emitted by the submitter. The queue may still refuse
    it."""

    event_type: ClassVar[str] = "work.submitted"

    work_id: str | None = None
    work_type: str | None = None


class WorkQueued(Event, frozen=True, kw_only=True):
    """The queue accepted an item; emitted by the work queue."""

    event_type: ClassVar[str] = "work.queued"

    work_id: str | None = None
    work_type: str | None = None


class WorkClaimed(Event, frozen=True, kw_only=True):
    """A node took an item for itself; emitted by the work queue."""

    event_type: ClassVar[str] = "work.claimed"

    work_id: str | None = None
    work_type: str | None = None
    node: str | None = None


class WorkStarted(Event, frozen=True, kw_only=True):
    """The node that claimed an item began to work on it; emitted by that node."""

    event_type: ClassVar[str] = "work.started"

    work_id: str | None = None
    work_type: str | None = None
    node: str | None = None


class WorkCompleted(Event, frozen=True, kw_only=True):
    """An item is done; emitted by the work queue once the node has reported it."""

    event_type: ClassVar[str] = "work.completed"

    work_id: str | None = None
    work_type: str | None = None
    node: str | None = None
    duration_s: float | None = None


class WorkFailed(Event, frozen=True, kw_only=True):
    """An item failed for good and will not be tried again; emitted by the work queue."""

    event_type: ClassVar[str] = "work.failed"

    work_id: str | None = None
    work_type: str | None = None
    node: str | None = None
    attempts: int | None = None
    reason: str | None = None


class WorkRetryScheduled(Event, frozen=True, kw_only=True):
    """An attempt at an item failed and another one will follow; emitted by the work queue."""

    event_type: ClassVar[str] = "work.retry_scheduled"

    work_id: str | None = None
    work_type: str | None = None
    node: str | None = None
    attempts: int | None = None
    reason: str | None = None


class WorkTimedOut(Event, frozen=True, kw_only=True):
    """An item's node did not finish in time; emitted by the work queue."""

    event_type: ClassVar[str] = "work.timed_out"

    work_id: str | None = None
    work_type: str | None = None
    node: str | None = None
    duration_s: float | None = None
    timeout_s: float | None = None


class WorkCancelled(Event, frozen=True, kw_only=True):
    """An item was withdrawn before its end; emitted by the work queue."""

    event_type: ClassVar[str] = "work.cancelled"

    work_id: str | None = None
    work_type: str | None = None
    node: str | None = None
    reason: str | None = None


class WorkBackpressureActivated(Event, frozen=True, kw_only=True):
    """The queue is so full that producers should slow down; emitted by the work queue."""

    event_type: ClassVar[str] = "work.backpressure_activated"

    level: str | None = None
    queue_depth: int | None = None
    utilization: float | None = None
    """Part of the queue's hard limit that is used."""
    reduction_factor: float | None = None
    """What producers should multiply their rate by."""


class WorkBackpressureReleased(Event, frozen=True, kw_only=True):
    """The queue has room and producers may go on as before; emitted by the work queue."""

    event_type: ClassVar[str] = "work.backpressure_released"

    level: str | None = None
    queue_depth: int | None = None
    utilization: float | None = None
    """Part of the queue's hard limit that is used."""


TYPES = (
    typed(WorkSubmitted),
    typed(WorkQueued),
    typed(WorkClaimed),
    typed(WorkStarted),
    typed(WorkCompleted),
    typed(WorkFailed),
    typed(WorkRetryScheduled),
    typed(WorkTimedOut),
    typed(WorkCancelled),
    typed(WorkBackpressureActivated),
    typed(WorkBackpressureReleased),
    open_type(
        "work.injected",
        "Idle nodes were given extra self-play to do; emitted by the idle resource scheduler.",
    ),
    open_type(
        "work.batch_scheduled",
        "A batch of jobs was chosen for dispatch; emitted by the job scheduler.",
    ),
    open_type(
        "work.batch_dispatched",
        "A batch of jobs was sent to its nodes, with counts of what was accepted; emitted by the "
        "job scheduler.",
    ),
    open_type(
        "work.queue_stalled",
        "Nothing was dispatched for too long although items wait; emitted by the queue monitor.",
    ),
    open_type(
        "work.queue_recovered",
        "Dispatch resumed after a stall; emitted by the queue monitor.",
    ),
    open_type(
        "work.queue_exhausted",
        "The queue ran empty and nodes are about to idle; emitted by the queue populator.",
    ),
    open_type(
        "work.autonomous_queue_activated",
        "A node without a leader fills a queue of its own; emitted by that node.",
    ),
    open_type(
        "work.autonomous_queue_deactivated",
        "A node has a leader again and gave up the queue of its own; emitted by that node.",
    ),
)
