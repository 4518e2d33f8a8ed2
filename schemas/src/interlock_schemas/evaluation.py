"""Evaluations of models: requests, games, ratings, tournaments and their backlog.

Whether a model is promoted on the strength of its evaluation is decided in `promotion`; a drop in
strength is reported in `regression`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "EloShifted",
    "EloUpdated",
    "EvaluationBackpressureActivated",
    "EvaluationBackpressureReleased",
    "EvaluationCompleted",
    "EvaluationFailed",
    "EvaluationProgressed",
    "EvaluationRequested",
    "EvaluationShadowTournamentCompleted",
    "EvaluationStarted",
    "HarnessCompleted",
    "TournamentCompleted",
]


class EvaluationRequested(Event, frozen=True, kw_only=True):
    """Somebody wants a model's strength measured; emitted by the model scanner, the trainer's
    pipeline or an operator."""

    event_type: ClassVar[str] = "evaluation.requested"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    request_id: str | None = None
    job_id: str | None = None
    reason: str | None = None


class EvaluationStarted(Event, frozen=True, kw_only=True):
    """An evaluator began to play games with a model; emitted by the evaluator."""

    event_type: ClassVar[str] = "evaluation.started"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    node: str | None = None
    games_planned: int | None = None


class EvaluationProgressed(Event, frozen=True, kw_only=True):
    """An evaluation in progress finished more of its games; emitted by the evaluator."""

    event_type: ClassVar[str] = "evaluation.progressed"

    config: str | None = None
    model: str | None = None
    games: int | None = None
    """Games played so far."""
    games_total: int | None = None
    wins: int | None = None
    losses: int | None = None
    draws: int | None = None
    win_rate: float | None = None
    """Fraction won so far, 0 to 1."""


class EvaluationCompleted(Event, frozen=True, kw_only=True):
    """An evaluation ended and its result stands; emitted by the evaluator."""

    event_type: ClassVar[str] = "evaluation.completed"

    config: str
    """Board and player configuration that was evaluated, for example ``hex8_2p``."""
    model: str | None = None
    model_path: str | None = None
    node: str | None = None
    games: int | None = None
    """Games played."""
    games_generated: int | None = None
    """What self-play generated in the pipeline round that this belongs to."""
    win_rate: float | None = None
    """Fraction won, 0 to 1."""
    elo: float | None = None
    elo_change: float | None = None
    best_elo: float | None = None
    """Best rating over all harnesses, where several were used."""
    best_harness: str | None = None
    is_multi_harness: bool | None = None
    duration_s: float | None = None
    success: bool | None = None
    """False where a stage of the predecessor ended, and ended badly."""


class EvaluationFailed(Event, frozen=True, kw_only=True):
    """An evaluation ended without a result; emitted by the evaluator."""

    event_type: ClassVar[str] = "evaluation.failed"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    node: str | None = None
    reason: str | None = None


class EvaluationShadowTournamentCompleted(Event, frozen=True, kw_only=True):
    """A quick tournament beside the regular evaluations ended; emitted by the tournament worker.
    Its few games are a hint and no basis for a promotion."""

    event_type: ClassVar[str] = "evaluation.shadow_tournament_completed"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    games: int | None = None
    """Games played."""
    games_generated: int | None = None
    """What self-play generated in the pipeline round that this belongs to."""
    win_rate: float | None = None
    """Fraction won, 0 to 1."""
    elo: float | None = None
    elo_change: float | None = None
    success: bool | None = None
    """False where a stage of the predecessor ended, and ended badly."""


class HarnessCompleted(Event, frozen=True, kw_only=True):
    """One model was evaluated under one harness; emitted by the evaluator."""

    event_type: ClassVar[str] = "evaluation.harness_completed"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    harness: str | None = None
    elo: float | None = None
    win_rate: float | None = None
    """Fraction won, 0 to 1."""


class TournamentCompleted(Event, frozen=True, kw_only=True):
    """A tournament's games were played, as data to train on and not as a verdict on a model;
    emitted by the node that played it."""

    event_type: ClassVar[str] = "evaluation.tournament_completed"

    config: str | None = None
    node: str | None = None
    games: int | None = None
    duration_s: float | None = None


class EloUpdated(Event, frozen=True, kw_only=True):
    """A model's rating was recorded anew; emitted by the rating store."""

    event_type: ClassVar[str] = "evaluation.elo_updated"

    config: str | None = None
    model: str | None = None
    elo: float | None = None
    """The new rating."""
    old_elo: float | None = None
    elo_change: float | None = None
    games: int | None = None
    """Games the rating rests on."""


class EloShifted(Event, frozen=True, kw_only=True):
    """A rating moved by more than the threshold that calls for a new curriculum; emitted by the
    rating store."""

    event_type: ClassVar[str] = "evaluation.elo_shifted"

    config: str | None = None
    model: str | None = None
    elo: float | None = None
    """The new rating."""
    elo_change: float | None = None
    threshold: float | None = None


class EvaluationBackpressureActivated(Event, frozen=True, kw_only=True):
    """The evaluation queue is too long and new training runs should wait; emitted by the
    evaluation queue."""

    event_type: ClassVar[str] = "evaluation.backpressure_activated"

    queue_depth: int | None = None
    threshold: float | None = None
    release_threshold: float | None = None


class EvaluationBackpressureReleased(Event, frozen=True, kw_only=True):
    """The evaluation queue has drained and training may go on; emitted by the evaluation queue."""

    event_type: ClassVar[str] = "evaluation.backpressure_released"

    queue_depth: int | None = None
    threshold: float | None = None
    release_threshold: float | None = None


TYPES = (
    typed(EvaluationRequested),
    typed(EvaluationStarted),
    typed(EvaluationProgressed),
    typed(EvaluationCompleted),
    typed(EvaluationFailed),
    typed(EvaluationShadowTournamentCompleted),
    typed(HarnessCompleted),
    typed(TournamentCompleted),
    typed(EloUpdated),
    typed(EloShifted),
    typed(EvaluationBackpressureActivated),
    typed(EvaluationBackpressureReleased),
    open_type(
        "evaluation.queued",
        "A requested evaluation was accepted into the evaluation queue; emitted by that queue.",
    ),
    open_type(
        "evaluation.stalled",
        "An evaluation has run far longer than it may; emitted by the watchdog of the evaluation "
        "queue.",
    ),
    open_type(
        "evaluation.recovered",
        "A stalled evaluation was taken back and queued again; emitted by the watchdog of the "
        "evaluation queue.",
    ),
    open_type(
        "evaluation.blocked",
        "A model cannot be evaluated because too few nodes have its file; emitted by the "
        "evaluation queue.",
    ),
    open_type(
        "evaluation.reevaluation_requested",
        "A stalled configuration wants its models measured again from scratch; emitted by the "
        "progress watchdog.",
    ),
    open_type(
        "evaluation.elo_calibrated",
        "The whole rating pool was recalibrated against its anchors; emitted by the calibration "
        "tournament.",
    ),
    open_type(
        "evaluation.elo_recording_failed",
        "A result could not be written to the rating store; emitted by the recorder, which keeps "
        "the result for a retry.",
    ),
    open_type(
        "evaluation.elo_validation_failed",
        "A result was refused because model and harness do not fit each other; emitted by the "
        "recorder.",
    ),
    open_type(
        "evaluation.elo_velocity_changed",
        "A configuration gains rating markedly faster or slower than before; emitted by the "
        "rating tracker.",
    ),
    open_type(
        "evaluation.multi_harness_completed",
        "A model was evaluated under every compatible harness; emitted by the evaluator with the "
        "best of them.",
    ),
    open_type(
        "evaluation.head_to_head_completed",
        "A new model played its predecessor in the same configuration; emitted by the evaluator.",
    ),
    open_type(
        "evaluation.cross_config_tournament_completed",
        "Model families met across configurations; emitted by the tournament scheduler.",
    ),
    open_type(
        "evaluation.round_robin_completed",
        "The best models of each configuration all played one another; emitted by the tournament "
        "scheduler.",
    ),
    open_type(
        "evaluation.sweep_started",
        "A periodic pass over every model and harness began; emitted by the evaluation scheduler.",
    ),
    open_type(
        "evaluation.sweep_completed",
        "A periodic pass over every model and harness ended, with counts of what is still "
        "unrated; emitted by the evaluation scheduler.",
    ),
    open_type(
        "evaluation.unevaluated_models_found",
        "A scan found models that have no rating yet; emitted by the model scanner.",
    ),
    open_type(
        "evaluation.archived_model_queued",
        "A model from the archive drive was queued for evaluation; emitted by the backlog "
        "evaluator.",
    ),
    open_type(
        "evaluation.archived_model_started",
        "The evaluation of a model from the archive drive began; emitted by the backlog evaluator.",
    ),
    open_type(
        "evaluation.archived_model_completed",
        "The evaluation of a model from the archive drive has a result; emitted by the backlog "
        "evaluator.",
    ),
    open_type(
        "evaluation.archived_model_failed",
        "The evaluation of a model from the archive drive ended without a result; emitted by the "
        "backlog evaluator.",
    ),
    open_type(
        "evaluation.backlog_discovery_completed",
        "One round of searching the archive for unrated models ended; emitted by the backlog "
        "evaluator.",
    ),
)
