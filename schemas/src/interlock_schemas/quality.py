"""The quality of games and training data: scores, checks, gates and rule parity.

How strong the models are that come of it is `evaluation`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "GoodDataConfirmed",
    "PoorDataDetected",
    "QualityCheckFailed",
    "QualityCheckRequested",
    "QualityDegraded",
    "QualityIssuesFound",
    "QualityScoreUpdated",
    "TrainingBlocked",
]


class QualityScoreUpdated(Event, frozen=True, kw_only=True):
    """A game or a configuration's games got a new quality score; emitted by the quality scorer."""

    event_type: ClassVar[str] = "quality.score_updated"

    config: str | None = None
    game_id: str | None = None
    quality_score: float | None = None
    """0 to 1."""
    avg_quality: float | None = None
    """Mean over the configuration's games, 0 to 1."""
    training_weight: float | None = None
    game_length: int | None = None
    """In moves."""


class QualityDegraded(Event, frozen=True, kw_only=True):
    """A configuration's quality score fell below its threshold; emitted by the quality
    monitor."""

    event_type: ClassVar[str] = "quality.degraded"

    config: str | None = None
    quality_score: float | None = None
    previous_score: float | None = None
    threshold: float | None = None


class GoodDataConfirmed(Event, frozen=True, kw_only=True):
    """A configuration's games are good enough to train on; emitted by the quality monitor."""

    event_type: ClassVar[str] = "quality.good_data_confirmed"

    config: str | None = None
    quality_score: float | None = None
    avg_quality: float | None = None


class PoorDataDetected(Event, frozen=True, kw_only=True):
    """Games or samples of low quality were found in a configuration's data; emitted by the
    quality monitor or the trainer that met them."""

    event_type: ClassVar[str] = "quality.poor_data_detected"

    config: str | None = None
    quality_score: float | None = None
    avg_quality: float | None = None
    threshold: float | None = None
    reason: str | None = None


class QualityCheckRequested(Event, frozen=True, kw_only=True):
    """Somebody wants a configuration's data checked now; emitted by the trainer or the feedback
    loop."""

    event_type: ClassVar[str] = "quality.check_requested"

    config: str | None = None
    reason: str | None = None


class QualityCheckFailed(Event, frozen=True, kw_only=True):
    """A check of games or files ended with the verdict that they must not be used; emitted by
    the validator."""

    event_type: ClassVar[str] = "quality.check_failed"

    config: str | None = None
    validation_type: str | None = None
    check_type: str | None = None
    source_path: str | None = None
    total_items: int | None = None
    items_with_issues: int | None = None
    duration_s: float | None = None
    reason: str | None = None


class QualityIssuesFound(Event, frozen=True, kw_only=True):
    """A check of games or files ended and listed issues, grave or not; emitted by the
    validator."""

    event_type: ClassVar[str] = "quality.issues_found"

    config: str | None = None
    validation_type: str | None = None
    source_path: str | None = None
    is_valid: bool | None = None
    """Whether the data may be used all the same."""
    total_items: int | None = None
    items_with_issues: int | None = None
    duration_s: float | None = None


class TrainingBlocked(Event, frozen=True, kw_only=True):
    """A training run was held back because its data is too poor or too old; emitted by the
    quality gate before training."""

    event_type: ClassVar[str] = "quality.training_blocked"

    config: str | None = None
    quality_score: float | None = None
    threshold: float | None = None
    data_age_hours: float | None = None
    threshold_hours: float | None = None
    games_available: int | None = None
    blocked_by: str | None = None
    reason: str | None = None


TYPES = (
    typed(QualityScoreUpdated),
    typed(QualityDegraded),
    typed(GoodDataConfirmed),
    typed(PoorDataDetected),
    typed(QualityCheckRequested),
    typed(QualityCheckFailed),
    typed(QualityIssuesFound),
    typed(TrainingBlocked),
    open_type(
        "quality.distribution_changed",
        "The share of good and poor games of a configuration moved markedly; emitted by the "
        "quality monitor.",
    ),
    open_type(
        "quality.feedback_adjusted",
        "A configuration's search budget was changed in answer to its quality; emitted by the "
        "feedback loop.",
    ),
    open_type(
        "quality.penalty_applied",
        "A configuration's self-play rate is reduced because its games are poor; emitted by the "
        "quality monitor.",
    ),
    open_type(
        "quality.selfplay_dispatched",
        "Self-play with a higher search budget was ordered to raise quality; emitted by the "
        "quality monitor.",
    ),
    open_type(
        "quality.parity_validation_started",
        "Stored games are being replayed to compare the two rule engines; emitted by the parity "
        "validator.",
    ),
    open_type(
        "quality.parity_validation_completed",
        "The comparison of the two rule engines ended, with counts of divergences; emitted by the "
        "parity validator.",
    ),
    open_type(
        "quality.parity_failure_rate_changed",
        "The share of games on which the rule engines differ moved; emitted by the parity "
        "validator.",
    ),
)
