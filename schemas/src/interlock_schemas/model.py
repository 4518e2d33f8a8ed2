"""Models as files and as records: promoted, copied, imported, damaged.

Measuring a model is `evaluation`, deciding about it is `promotion`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "ModelCorruptionDetected",
    "ModelDistributionCompleted",
    "ModelDistributionFailed",
    "ModelDistributionStarted",
    "ModelPromoted",
    "ModelSyncRequested",
    "ModelSynced",
]


class ModelPromoted(Event, frozen=True, kw_only=True):
    """A model took a new role, for instance as the one that self-play uses; emitted by the
    promotion controller."""

    event_type: ClassVar[str] = "model.promoted"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    promotion_type: str | None = None
    """Which role or which path led there, for example ``production`` or ``auto``."""
    elo: float | None = None
    elo_change: float | None = None
    win_rate: float | None = None
    """Fraction won in the deciding evaluation, 0 to 1."""
    reason: str | None = None
    success: bool | None = None
    """False where a stage of the predecessor ended, and ended badly."""


class ModelSynced(Event, frozen=True, kw_only=True):
    """A node received a complete copy of a model; emitted by the receiver."""

    event_type: ClassVar[str] = "model.synced"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    node: str | None = None
    success: bool | None = None
    """False where a stage of the predecessor ended, and ended badly."""


class ModelSyncRequested(Event, frozen=True, kw_only=True):
    """A node needs a certain model; emitted by whoever is to use the model there."""

    event_type: ClassVar[str] = "model.sync_requested"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    target_node: str | None = None
    """Node that needs it."""
    reason: str | None = None


class ModelDistributionStarted(Event, frozen=True, kw_only=True):
    """Models are on their way to the fleet's nodes; emitted by the model distributor."""

    event_type: ClassVar[str] = "model.distribution_started"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None


class ModelDistributionCompleted(Event, frozen=True, kw_only=True):
    """Every model of a distribution reached its nodes; emitted by the model distributor."""

    event_type: ClassVar[str] = "model.distribution_completed"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    duration_s: float | None = None


class ModelDistributionFailed(Event, frozen=True, kw_only=True):
    """A distribution of models broke off; emitted by the model distributor."""

    event_type: ClassVar[str] = "model.distribution_failed"

    config: str | None = None
    model: str | None = None
    model_path: str | None = None
    reason: str | None = None


class ModelCorruptionDetected(Event, frozen=True, kw_only=True):
    """A model file does not match its checksum or cannot be loaded; emitted by whoever tried to
    read it."""

    event_type: ClassVar[str] = "model.corruption_detected"

    model: str | None = None
    model_path: str | None = None
    node: str | None = None
    corruption_type: str | None = None


TYPES = (
    typed(ModelPromoted),
    typed(ModelSynced),
    typed(ModelSyncRequested),
    typed(ModelDistributionStarted),
    typed(ModelDistributionCompleted),
    typed(ModelDistributionFailed),
    typed(ModelCorruptionDetected),
    open_type(
        "model.distribution_timed_out",
        "A model was not on the required number of nodes when the wait ended; emitted by the "
        "model distributor.",
    ),
    open_type(
        "model.updated",
        "A model's path or description changed while its role stayed; emitted by the model "
        "registry.",
    ),
    open_type(
        "model.registry_updated",
        "A record was added to, changed in or removed from the model registry; emitted by the "
        "registry.",
    ),
    open_type(
        "model.inventory_updated",
        "The list of which node has which models was refreshed; emitted by the model scanner.",
    ),
    open_type(
        "model.lookup_failed",
        "A job was about to start and its model file was missing; emitted by the dispatcher on "
        "that node.",
    ),
    open_type(
        "model.imported",
        "A model from the archive drive was copied into the fleet; emitted by the model importer.",
    ),
    open_type(
        "model.found_in_archive",
        "One model was found on the archive drive; emitted by the backlog evaluator.",
    ),
    open_type(
        "model.archive_scanned",
        "A scan of the archive drive ended, with counts of what it found; emitted by the model "
        "importer.",
    ),
)
