"""Self-play: games asked for, games played, and how much of it each configuration gets.

That finished games have reached a store is `data.games_added`; training on them is `training`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "ExplorationBoostRequested",
    "SelfplayCompleted",
    "SelfplayRateChanged",
    "SelfplayRequested",
    "SelfplayTargetUpdated",
]


class SelfplayRequested(Event, frozen=True, kw_only=True):
    """Somebody wants self-play games of a configuration; emitted by a scheduler or an operator."""

    event_type: ClassVar[str] = "selfplay.requested"

    config: str | None = None
    games: int | None = None
    """Games wanted."""
    node: str | None = None
    reason: str | None = None


class SelfplayCompleted(Event, frozen=True, kw_only=True):
    """A self-play task played its games; emitted by the self-play worker."""

    event_type: ClassVar[str] = "selfplay.completed"

    config: str
    """Board and player configuration that was played, for example ``hex8_2p``."""
    games: int | None = None
    """Games played by this task."""
    samples: int | None = None
    node: str | None = None
    task_id: str | None = None
    model: str | None = None
    """Identifier of the model that played."""
    selfplay_type: str | None = None
    """Kind of self-play, for example ``gpu`` or ``canonical``."""
    db_path: str | None = None
    """Where the games lie on the node that played them."""
    duration_s: float | None = None
    success: bool | None = None
    """False where a stage of the predecessor ended, and ended badly."""


class SelfplayTargetUpdated(Event, frozen=True, kw_only=True):
    """A configuration should get more or fewer games; emitted by the feedback loop."""

    event_type: ClassVar[str] = "selfplay.target_updated"

    config: str | None = None
    target_games: int | None = None
    reason: str | None = None


class SelfplayRateChanged(Event, frozen=True, kw_only=True):
    """A configuration's self-play rate changed by more than a fifth; emitted by the self-play
    scheduler."""

    event_type: ClassVar[str] = "selfplay.rate_changed"

    config: str | None = None
    old_rate: float | None = None
    """Rate multiplier before; 1 is normal."""
    new_rate: float | None = None
    """Rate multiplier from now on; 1 is normal."""
    reason: str | None = None


class ExplorationBoostRequested(Event, frozen=True, kw_only=True):
    """Training or rating stagnates and self-play should explore more; emitted by the feedback
    loop."""

    event_type: ClassVar[str] = "selfplay.exploration_boost_requested"

    config: str | None = None
    boost_factor: float | None = None
    anomaly_count: int | None = None
    reason: str | None = None


TYPES = (
    typed(SelfplayRequested),
    typed(SelfplayCompleted),
    typed(SelfplayTargetUpdated),
    typed(SelfplayRateChanged),
    typed(ExplorationBoostRequested),
    open_type(
        "selfplay.allocation_updated",
        "The shares of self-play among configurations were computed anew; emitted by the "
        "self-play scheduler.",
    ),
    open_type(
        "selfplay.budget_adjusted",
        "The search budget per move was raised or lowered for a configuration; emitted by the "
        "self-play scheduler.",
    ),
    open_type(
        "selfplay.scaled",
        "One node got more or fewer self-play games to match its hardware; emitted by the "
        "cluster's job manager.",
    ),
    open_type(
        "selfplay.exploration_adjusted",
        "The exploration parameters of a configuration changed with the quality of its games; "
        "emitted by the feedback loop.",
    ),
    open_type(
        "selfplay.temperature_scheduler_registered",
        "A configuration's temperature schedule takes part in the quality feedback; emitted by "
        "the self-play worker at its start.",
    ),
)
