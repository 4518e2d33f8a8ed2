"""Regressions: a model or configuration measurably worse than before, and its recovery."""

from typing import ClassVar

from interlock_schemas.event import Event, typed

__all__ = ["TYPES", "RegressionCleared", "RegressionDetected"]


class RegressionDetected(Event, frozen=True, kw_only=True):
    """A model or configuration got worse than it was; emitted by the regression detector."""

    event_type: ClassVar[str] = "regression.detected"

    config: str | None = None
    model: str | None = None
    severity: str | None = None
    """``minor``, ``moderate``, ``severe`` or ``critical``; critical calls for a rollback."""
    metric_name: str | None = None
    current_value: float | None = None
    previous_value: float | None = None
    regression_amount: float | None = None
    elo: float | None = None
    elo_drop: float | None = None
    """Rating points lost, as a positive number."""
    consecutive_regressions: int | None = None
    reason: str | None = None


class RegressionCleared(Event, frozen=True, kw_only=True):
    """A model or configuration is back to its former strength; emitted by the regression
    detector."""

    event_type: ClassVar[str] = "regression.cleared"

    config: str | None = None
    model: str | None = None
    metric_name: str | None = None
    reason: str | None = None


TYPES = (typed(RegressionDetected), typed(RegressionCleared))
