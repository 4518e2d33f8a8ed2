"""Training runs: requests, progress, ends, and what stands in their way.

Also what belongs to one run: checkpoints, rollbacks, transfer between configurations and the
reanalysis of old games. The search for better hyperparameters is `optimization`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "CheckpointLoaded",
    "CheckpointSaved",
    "PlateauDetected",
    "ProgressRecovered",
    "ProgressStalled",
    "TrainingCompleted",
    "TrainingEarlyStopped",
    "TrainingFailed",
    "TrainingProcessKilled",
    "TrainingProgressed",
    "TrainingRequested",
    "TrainingRollbackCompleted",
    "TrainingRollbackRequested",
    "TrainingSlotDenied",
    "TrainingStarted",
    "TrainingThresholdReached",
    "TrainingTimedOut",
]


class TrainingRequested(Event, frozen=True, kw_only=True):
    """Somebody wants a configuration trained; emitted by an operator, a scheduler or a cascade."""

    event_type: ClassVar[str] = "training.requested"

    config: str | None = None
    job_id: str | None = None
    init_weights: str | None = None
    """Path of the weights to start from."""
    reason: str | None = None


class TrainingThresholdReached(Event, frozen=True, kw_only=True):
    """A configuration has gathered enough new games to be worth a run; emitted by whoever counts
    the games."""

    event_type: ClassVar[str] = "training.threshold_reached"

    config: str | None = None
    job_id: str | None = None
    games: int | None = None
    samples: int | None = None
    threshold: float | None = None
    """The number that was reached."""
    reason: str | None = None


class TrainingStarted(Event, frozen=True, kw_only=True):
    """A training run began on a node; emitted by the trainer."""

    event_type: ClassVar[str] = "training.started"

    config: str
    """Board and player configuration that is trained, for example ``hex8_2p``."""
    job_id: str | None = None
    node: str | None = None
    model: str | None = None
    """Identifier of the model that the run starts from."""
    model_path: str | None = None


class TrainingProgressed(Event, frozen=True, kw_only=True):
    """A running training finished an epoch; emitted by the trainer."""

    event_type: ClassVar[str] = "training.progressed"

    config: str | None = None
    job_id: str | None = None
    node: str | None = None
    epoch: int | None = None
    epochs_total: int | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    policy_accuracy: float | None = None
    """Fraction of positions where the policy's first choice was the target, 0 to 1."""
    learning_rate: float | None = None


class TrainingCompleted(Event, frozen=True, kw_only=True):
    """A training run ended and left a model; emitted by the trainer."""

    event_type: ClassVar[str] = "training.completed"

    config: str
    """Board and player configuration that was trained, for example ``hex8_2p``."""
    model: str | None = None
    """Identifier of the model that the run produced."""
    model_path: str | None = None
    """Where the model file lies on the node that trained it."""
    node: str | None = None
    job_id: str | None = None
    final_loss: float | None = None
    val_loss: float | None = None
    elo: float | None = None
    """The trainer's own estimate; the rating that counts comes from an evaluation."""
    epochs: int | None = None
    """Epochs completed."""
    samples: int | None = None
    """Training samples used."""
    duration_s: float | None = None
    success: bool | None = None
    """False where a stage of the predecessor ended, and ended badly."""


class TrainingFailed(Event, frozen=True, kw_only=True):
    """A training run ended without a usable model; emitted by the trainer or the supervisor of its
    process."""

    event_type: ClassVar[str] = "training.failed"

    config: str
    """Board and player configuration that was trained, for example ``hex8_2p``."""
    job_id: str | None = None
    node: str | None = None
    model: str | None = None
    reason: str | None = None
    epochs: int | None = None
    """Epochs completed before the failure."""
    duration_s: float | None = None


class TrainingEarlyStopped(Event, frozen=True, kw_only=True):
    """A run was ended before its last epoch because it no longer improved; emitted by the
    trainer."""

    event_type: ClassVar[str] = "training.early_stopped"

    config: str | None = None
    job_id: str | None = None
    node: str | None = None
    epoch: int | None = None
    epochs_without_improvement: int | None = None
    best_loss: float | None = None
    final_loss: float | None = None
    best_elo: float | None = None
    reason: str | None = None


class TrainingTimedOut(Event, frozen=True, kw_only=True):
    """A run exceeded its time limit and is about to be stopped; emitted by the training
    watchdog."""

    event_type: ClassVar[str] = "training.timed_out"

    config: str | None = None
    node: str | None = None
    pid: int | None = None
    timeout_hours: float | None = None
    grace_s: float | None = None
    """Time between the request to stop and the kill."""


class TrainingProcessKilled(Event, frozen=True, kw_only=True):
    """The watchdog killed a training process that had stopped sending heartbeats; emitted by the
    training watchdog."""

    event_type: ClassVar[str] = "training.process_killed"

    config: str | None = None
    node: str | None = None
    pid: int | None = None
    stale_s: float | None = None
    """Time since the last heartbeat."""
    killed_by: str | None = None


class TrainingSlotDenied(Event, frozen=True, kw_only=True):
    """A run could not start because no training slot was free for its configuration; emitted by
    the training coordinator."""

    event_type: ClassVar[str] = "training.slot_denied"

    config: str | None = None
    requester_node: str | None = None
    reason: str | None = None


class CheckpointSaved(Event, frozen=True, kw_only=True):
    """A run wrote a checkpoint from which it could resume; emitted by the trainer."""

    event_type: ClassVar[str] = "training.checkpoint_saved"

    config: str | None = None
    node: str | None = None
    checkpoint_path: str | None = None
    epoch: int | None = None
    step: int | None = None


class CheckpointLoaded(Event, frozen=True, kw_only=True):
    """A run resumed from a checkpoint; emitted by the trainer."""

    event_type: ClassVar[str] = "training.checkpoint_loaded"

    config: str | None = None
    node: str | None = None
    checkpoint_path: str | None = None
    epoch: int | None = None
    step: int | None = None


class TrainingRollbackRequested(Event, frozen=True, kw_only=True):
    """A model got worse and training should return to an earlier checkpoint; emitted by the
    regression detector."""

    event_type: ClassVar[str] = "training.rollback_requested"

    config: str | None = None
    model: str | None = None
    checkpoint_path: str | None = None
    """Checkpoint to return to."""
    severity: str | None = None
    reason: str | None = None


class TrainingRollbackCompleted(Event, frozen=True, kw_only=True):
    """Training returned to an earlier checkpoint; emitted by whoever carried the rollback out."""

    event_type: ClassVar[str] = "training.rollback_completed"

    config: str | None = None
    model: str | None = None
    checkpoint_path: str | None = None
    """Checkpoint that is now in use."""
    rollback_from: str | None = None
    """Checkpoint or model that was abandoned."""
    reason: str | None = None


class PlateauDetected(Event, frozen=True, kw_only=True):
    """A metric has stopped moving for many epochs or games; emitted by the trainer or the
    evaluator that follows the metric."""

    event_type: ClassVar[str] = "training.plateau_detected"

    config: str | None = None
    metric_name: str | None = None
    plateau_type: str | None = None
    current_value: float | None = None
    best_value: float | None = None
    elo: float | None = None
    epochs_since_improvement: int | None = None


class ProgressStalled(Event, frozen=True, kw_only=True):
    """A configuration's rating has not risen for hours and recovery begins; emitted by the
    progress watchdog."""

    event_type: ClassVar[str] = "training.progress_stalled"

    config: str | None = None
    action: str | None = None
    """What the watchdog does about it."""
    stall_duration_hours: float | None = None
    current_velocity: float | None = None
    """Rating points per hour."""


class ProgressRecovered(Event, frozen=True, kw_only=True):
    """A stalled configuration gains rating again; emitted by the progress watchdog."""

    event_type: ClassVar[str] = "training.progress_recovered"

    config: str | None = None
    recovery_duration_hours: float | None = None
    current_velocity: float | None = None
    """Rating points per hour."""


TYPES = (
    typed(TrainingRequested),
    typed(TrainingThresholdReached),
    typed(TrainingStarted),
    typed(TrainingProgressed),
    typed(TrainingCompleted),
    typed(TrainingFailed),
    typed(TrainingEarlyStopped),
    typed(TrainingTimedOut),
    typed(TrainingProcessKilled),
    typed(TrainingSlotDenied),
    typed(CheckpointSaved),
    typed(CheckpointLoaded),
    typed(TrainingRollbackRequested),
    typed(TrainingRollbackCompleted),
    typed(PlateauDetected),
    typed(ProgressStalled),
    typed(ProgressRecovered),
    open_type(
        "training.heartbeat_sent",
        "A training process is alive and still holds its lock; emitted by the trainer every few "
        "minutes for the watchdog.",
    ),
    open_type(
        "training.lock_acquired",
        "A node won the right to train a configuration; emitted by the training coordinator.",
    ),
    open_type(
        "training.lock_expired",
        "A training lock was held past its time to live and taken away; emitted by the training "
        "coordinator.",
    ),
    open_type(
        "training.data_recovered",
        "A corrupt training file was exported again and is usable; emitted by the training data "
        "recovery.",
    ),
    open_type(
        "training.data_recovery_failed",
        "A corrupt training file could not be exported again after every retry; emitted by the "
        "training data recovery.",
    ),
    open_type(
        "training.cascade_transfer_triggered",
        "A model became strong enough to seed training with more players; emitted by the cascade "
        "scheduler.",
    ),
    open_type(
        "training.cascade_transfer_failed",
        "The weights of a model could not be transferred to more players; emitted by the cascade "
        "scheduler.",
    ),
    open_type(
        "training.reanalysis_started",
        "Old games are being searched again with a stronger model to give better targets; emitted "
        "by the reanalysis worker.",
    ),
    open_type(
        "training.reanalysis_completed",
        "Old games have new targets from a stronger model; emitted by the reanalysis worker.",
    ),
    open_type(
        "training.reanalysis_failed",
        "A reanalysis of old games ended without output; emitted by the reanalysis worker.",
    ),
    open_type(
        "training.loss_anomaly_detected",
        "The loss jumped far from its recent mean; emitted by the trainer's loss monitor.",
    ),
    open_type(
        "training.loss_trend_changed",
        "The loss turned from improving to degrading or back; emitted by the trainer's loss "
        "monitor.",
    ),
    open_type(
        "training.replay_buffer_rebuilt",
        "The prioritized replay buffer was built anew from the stored games; emitted by the "
        "trainer.",
    ),
    open_type(
        "training.replay_priorities_updated",
        "Samples in the prioritized replay buffer got new priorities; emitted by the trainer.",
    ),
    open_type(
        "training.tournament_run_triggered",
        "Exported tournament games are enough for a run of their own; emitted by the tournament "
        "data pipeline.",
    ),
    open_type(
        "training.iteration_completed",
        "One round of self-play, export, training and evaluation ended; emitted by the pipeline "
        "that drives the rounds.",
    ),
    open_type(
        "training.stall_recovery_escalated",
        "A stalled configuration gets a stronger remedy because the last one did not help; "
        "emitted by the progress watchdog.",
    ),
)
