"""Tasks: one attempt at something, as a process on one node.

The queue's view of what is to be done, across attempts, is `work`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "TaskAbandoned",
    "TaskCancelled",
    "TaskCompleted",
    "TaskFailed",
    "TaskOrphaned",
    "TaskPreempted",
    "TaskProgressed",
    "TaskSpawnFailed",
    "TaskSpawnVerified",
    "TaskSpawned",
]


class TaskSpawned(Event, frozen=True, kw_only=True):
    """A node started a task; emitted by the supervisor of its processes."""

    event_type: ClassVar[str] = "task.spawned"

    task_id: str | None = None
    task_type: str | None = None
    node: str | None = None


class TaskProgressed(Event, frozen=True, kw_only=True):
    """A task is alive and says how far it has come; emitted by the task as its heartbeat."""

    event_type: ClassVar[str] = "task.progressed"

    task_id: str | None = None
    task_type: str | None = None
    node: str | None = None
    progress_percent: float | None = None
    games: int | None = None
    samples: int | None = None
    duration_s: float | None = None
    """Time since its start."""


class TaskCompleted(Event, frozen=True, kw_only=True):
    """A task ended well; emitted by the task or its supervisor."""

    event_type: ClassVar[str] = "task.completed"

    task_id: str | None = None
    task_type: str | None = None
    node: str | None = None
    duration_s: float | None = None


class TaskFailed(Event, frozen=True, kw_only=True):
    """A task ended with an error; emitted by the task or its supervisor. The work item behind it
    may be tried again."""

    event_type: ClassVar[str] = "task.failed"

    task_id: str | None = None
    task_type: str | None = None
    node: str | None = None
    reason: str | None = None
    error_type: str | None = None
    retryable: bool | None = None
    duration_s: float | None = None


class TaskOrphaned(Event, frozen=True, kw_only=True):
    """A task has sent no heartbeat for so long that nobody can say what became of it; emitted by
    the task monitor."""

    event_type: ClassVar[str] = "task.orphaned"

    task_id: str | None = None
    task_type: str | None = None
    node: str | None = None
    silent_s: float | None = None
    """Time since its last heartbeat."""
    reason: str | None = None


class TaskCancelled(Event, frozen=True, kw_only=True):
    """A task was ended because somebody asked for it; emitted by its supervisor."""

    event_type: ClassVar[str] = "task.cancelled"

    task_id: str | None = None
    task_type: str | None = None
    node: str | None = None
    requested_by: str | None = None
    reason: str | None = None


class TaskAbandoned(Event, frozen=True, kw_only=True):
    """A task was given up on purpose, with its outcome no longer wanted; emitted by the component
    that gave it up."""

    event_type: ClassVar[str] = "task.abandoned"

    task_id: str | None = None
    task_type: str | None = None
    work_id: str | None = None
    node: str | None = None
    component: str | None = None
    reason: str | None = None


class TaskPreempted(Event, frozen=True, kw_only=True):
    """A running job had to make room for a more urgent one; emitted by the scheduler of that
    node."""

    event_type: ClassVar[str] = "task.preempted"

    node: str | None = None
    preempted_job_id: str | None = None
    preempted_job_type: str | None = None
    preempting_job_id: str | None = None
    preempting_job_type: str | None = None
    runtime_s: float | None = None
    """How long the preempted job had run."""


class TaskSpawnVerified(Event, frozen=True, kw_only=True):
    """A job that a node was told to start was seen running; emitted by the dispatcher."""

    event_type: ClassVar[str] = "task.spawn_verified"

    job_id: str | None = None
    node: str | None = None
    config: str | None = None
    verification_s: float | None = None
    """Time from the order to the sighting."""


class TaskSpawnFailed(Event, frozen=True, kw_only=True):
    """A job that a node was told to start was not seen running in time; emitted by the
    dispatcher."""

    event_type: ClassVar[str] = "task.spawn_failed"

    job_id: str | None = None
    node: str | None = None
    config: str | None = None
    timeout_s: float | None = None
    reason: str | None = None


TYPES = (
    typed(TaskSpawned),
    typed(TaskProgressed),
    typed(TaskCompleted),
    typed(TaskFailed),
    typed(TaskOrphaned),
    typed(TaskCancelled),
    typed(TaskAbandoned),
    typed(TaskPreempted),
    typed(TaskSpawnVerified),
    typed(TaskSpawnFailed),
    open_type(
        "task.cpu_job_completed",
        "A job on a rented CPU machine ended, well or not as its `success` says; emitted by the "
        "CPU pipeline.",
    ),
)
