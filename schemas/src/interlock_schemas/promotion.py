"""Decisions about promotion: who is a candidate, what was decided, what was taken back.

That a model now stands in a new role is `model.promoted`; a vote among nodes is `consensus`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "PromotionCandidateNominated",
    "PromotionFailed",
    "PromotionRejected",
    "PromotionRolledBack",
    "PromotionStarted",
    "TierAdvanced",
    "TierGatingCompleted",
]


class PromotionCandidateNominated(Event, frozen=True, kw_only=True):
    """A model did well enough to be considered for promotion; emitted by the evaluator or the
    training pipeline."""

    event_type: ClassVar[str] = "promotion.candidate_nominated"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    elo: float | None = None
    win_rate_vs_heuristic: float | None = None
    """Fraction won against the fixed heuristic player, 0 to 1."""


class PromotionStarted(Event, frozen=True, kw_only=True):
    """The promotion of one candidate began; emitted by the promotion controller."""

    event_type: ClassVar[str] = "promotion.started"

    config: str | None = None
    model: str | None = None


class PromotionRejected(Event, frozen=True, kw_only=True):
    """A candidate was examined and not promoted; emitted by the promotion controller."""

    event_type: ClassVar[str] = "promotion.rejected"

    config: str | None = None
    model: str | None = None
    reason: str | None = None
    elo_change: float | None = None


class PromotionFailed(Event, frozen=True, kw_only=True):
    """A promotion broke off through an error, so that nothing was decided; emitted by the
    promotion controller."""

    event_type: ClassVar[str] = "promotion.failed"

    config: str | None = None
    model: str | None = None
    reason: str | None = None


class PromotionRolledBack(Event, frozen=True, kw_only=True):
    """A promoted model was withdrawn and its predecessor put back; emitted by the rollback
    manager."""

    event_type: ClassVar[str] = "promotion.rolled_back"

    config: str | None = None
    model: str | None = None
    """The model that was withdrawn, where only one is named."""
    from_model: str | None = None
    to_model: str | None = None
    """The model that is in place again."""
    triggered_by: str | None = None
    reason: str | None = None


class TierGatingCompleted(Event, frozen=True, kw_only=True):
    """A model's tests for its next difficulty tier ended, passed or not; emitted by the tier
    gate."""

    event_type: ClassVar[str] = "promotion.tier_gating_completed"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    promoted: bool | None = None
    """Whether the model passed the gate."""
    win_rate: float | None = None
    """Fraction won, 0 to 1."""
    elo_change: float | None = None
    reason: str | None = None
    success: bool | None = None
    """False where a stage of the predecessor ended, and ended badly."""


class TierAdvanced(Event, frozen=True, kw_only=True):
    """A model moved up to the next difficulty tier; emitted by the tier gate."""

    event_type: ClassVar[str] = "promotion.tier_advanced"

    config: str | None = None
    model: str | None = None
    win_rate: float | None = None
    """Fraction won, 0 to 1."""
    elo: float | None = None
    games: int | None = None


TYPES = (
    typed(PromotionCandidateNominated),
    typed(PromotionStarted),
    typed(PromotionRejected),
    typed(PromotionFailed),
    typed(PromotionRolledBack),
    typed(TierGatingCompleted),
    typed(TierAdvanced),
    open_type(
        "promotion.deferred",
        "A candidate was neither promoted nor rejected because evidence is still missing; emitted "
        "by the promotion controller.",
    ),
    open_type(
        "promotion.batch_started",
        "Several candidates are being examined together; emitted by the automatic promoter.",
    ),
    open_type(
        "promotion.batch_completed",
        "Every candidate of a batch has been decided; emitted by the automatic promoter.",
    ),
    open_type(
        "promotion.crossboard_decided",
        "A candidate was judged over several configurations at once, eligible or not; emitted by "
        "the promotion controller.",
    ),
)
