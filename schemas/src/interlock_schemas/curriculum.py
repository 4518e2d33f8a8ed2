"""The curriculum: how training effort is weighted over configurations, tiers and opponents."""

from typing import Any, ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "CurriculumAdvanced",
    "CurriculumRebalanced",
    "CurriculumResetRequested",
    "CurriculumRollbackCompleted",
    "CurriculumRollbackRequested",
    "CurriculumWeightUpdated",
]


class CurriculumRebalanced(Event, frozen=True, kw_only=True):
    """The weights of the configurations were computed anew; emitted by the curriculum
    controller."""

    event_type: ClassVar[str] = "curriculum.rebalanced"

    config: str | None = None
    """The configuration that gave the reason, where one did."""
    old_weights: dict[str, Any] | None = None
    """Weight of each configuration before."""
    new_weights: dict[str, Any] | None = None
    """Weight of each configuration from now on."""
    trigger: str | None = None
    reason: str | None = None


class CurriculumWeightUpdated(Event, frozen=True, kw_only=True):
    """One weight changed; emitted by the component that owns it."""

    event_type: ClassVar[str] = "curriculum.weight_updated"

    config: str | None = None
    component: str | None = None
    old_weight: float | None = None
    new_weight: float | None = None
    trigger_event: str | None = None
    reason: str | None = None


class CurriculumAdvanced(Event, frozen=True, kw_only=True):
    """A configuration moved on to a harder tier; emitted by the curriculum controller."""

    event_type: ClassVar[str] = "curriculum.advanced"

    config: str | None = None
    elo: float | None = None
    win_rate: float | None = None
    """Fraction won, 0 to 1."""
    games_at_tier: int | None = None
    reason: str | None = None


class CurriculumRollbackRequested(Event, frozen=True, kw_only=True):
    """A configuration regressed and its earlier weights should be restored; emitted by the
    regression watch of the curriculum."""

    event_type: ClassVar[str] = "curriculum.rollback_requested"

    config: str | None = None
    elo_drop: float | None = None
    """Rating points lost, as a positive number."""
    consecutive_regressions: int | None = None
    trigger: str | None = None


class CurriculumRollbackCompleted(Event, frozen=True, kw_only=True):
    """A configuration's weight was set back after a regression; emitted by the curriculum
    controller."""

    event_type: ClassVar[str] = "curriculum.rollback_completed"

    config: str | None = None
    old_weight: float | None = None
    new_weight: float | None = None
    elo_change: float | None = None
    reason: str | None = None


class CurriculumResetRequested(Event, frozen=True, kw_only=True):
    """A configuration has stalled so long that its curriculum should start over; emitted by the
    progress watchdog."""

    event_type: ClassVar[str] = "curriculum.reset_requested"

    config: str | None = None
    stall_duration_hours: float | None = None
    reason: str | None = None


TYPES = (
    typed(CurriculumRebalanced),
    typed(CurriculumWeightUpdated),
    typed(CurriculumAdvanced),
    typed(CurriculumRollbackRequested),
    typed(CurriculumRollbackCompleted),
    typed(CurriculumResetRequested),
    open_type(
        "curriculum.advancement_requested",
        "A configuration's rating stagnates and it should move to a harder tier; emitted by the "
        "training coordinator.",
    ),
    open_type(
        "curriculum.propagation_requested",
        "A configuration's advance should help similar configurations too; emitted by the "
        "curriculum controller.",
    ),
    open_type(
        "curriculum.allocation_changed",
        "Self-play was shared out anew after a change of curriculum; emitted by the self-play "
        "orchestrator.",
    ),
    open_type(
        "curriculum.aggressive_mode_requested",
        "Milder remedies for a stall did not help: equal weights and full exploration are wanted; "
        "emitted by the progress watchdog.",
    ),
    open_type(
        "curriculum.architecture_weights_updated",
        "The shares of training among network architectures were computed anew; emitted by the "
        "architecture tracker.",
    ),
    open_type(
        "curriculum.opponent_mastered",
        "A model beats an opponent so surely that nothing is left to learn from it; emitted by "
        "the evaluator.",
    ),
    open_type(
        "curriculum.difficulty_calibrated",
        "The difficulty levels were measured anew against real play; emitted by the difficulty "
        "calibrator.",
    ),
)
