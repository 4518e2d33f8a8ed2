"""Games and the training files made of them: added, consolidated, exported, backed up, repaired.

Moving them between nodes is `sync`; whether they are good enough is `quality`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "CombinationCompleted",
    "CombinationFailed",
    "CombinationStarted",
    "ConsolidationCompleted",
    "ConsolidationStarted",
    "ExportCompleted",
    "ExportStarted",
    "ExportValidationFailed",
    "FreshnessConfirmed",
    "GameSaveFailed",
    "GamesAdded",
    "RepairCompleted",
    "RepairFailed",
    "StalenessDetected",
    "StarvationDetected",
]


class GamesAdded(Event, frozen=True, kw_only=True):
    """Finished games reached a node's store and can be read; emitted by whoever stored them."""

    event_type: ClassVar[str] = "data.games_added"

    config: str | None = None
    node: str | None = None
    games: int | None = None
    """Games added now."""
    total_games: int | None = None
    """Games in the store after that."""


class StalenessDetected(Event, frozen=True, kw_only=True):
    """The newest training data of a configuration is older than the limit; emitted by the
    freshness check."""

    event_type: ClassVar[str] = "data.staleness_detected"

    config: str | None = None
    data_age_hours: float | None = None
    threshold_hours: float | None = None


class FreshnessConfirmed(Event, frozen=True, kw_only=True):
    """The newest training data of a configuration is young enough to train on; emitted by the
    freshness check."""

    event_type: ClassVar[str] = "data.freshness_confirmed"

    config: str | None = None
    data_age_hours: float | None = None
    threshold_hours: float | None = None


class StarvationDetected(Event, frozen=True, kw_only=True):
    """A configuration has so few games that it needs self-play before all others; emitted by the
    self-play scheduler."""

    event_type: ClassVar[str] = "data.starvation_detected"

    config: str | None = None
    games: int | None = None
    """Games it has."""
    threshold: float | None = None


class ConsolidationStarted(Event, frozen=True, kw_only=True):
    """A configuration's scattered games are being merged into its canonical database; emitted by
    the consolidator."""

    event_type: ClassVar[str] = "data.consolidation_started"

    config: str | None = None


class ConsolidationCompleted(Event, frozen=True, kw_only=True):
    """A configuration's canonical database holds the games merged from elsewhere; emitted by the
    consolidator."""

    event_type: ClassVar[str] = "data.consolidation_completed"

    config: str | None = None
    games: int | None = None
    """Games merged."""
    total_games: int | None = None
    """Games in the canonical database."""
    canonical_db: str | None = None
    """Path of the canonical database."""


class ExportStarted(Event, frozen=True, kw_only=True):
    """Games are being turned into a training file; emitted by the exporter."""

    event_type: ClassVar[str] = "data.export_started"

    config: str | None = None
    node: str | None = None
    games_pending: int | None = None
    """Games that wait for export."""


class ExportCompleted(Event, frozen=True, kw_only=True):
    """A training file is complete and readable; emitted by the exporter."""

    event_type: ClassVar[str] = "data.export_completed"

    config: str | None = None
    node: str | None = None
    samples: int | None = None
    """Training samples in the file."""
    games: int | None = None
    """Games they come from."""
    games_generated: int | None = None
    """What self-play generated in the pipeline round that this belongs to."""
    output_path: str | None = None
    duration_s: float | None = None
    success: bool | None = None
    """False where a stage of the predecessor ended, and ended badly."""


class ExportValidationFailed(Event, frozen=True, kw_only=True):
    """An export did not begin because its games failed the checks before it; emitted by the
    exporter."""

    event_type: ClassVar[str] = "data.export_validation_failed"

    config: str | None = None
    reason: str | None = None


class CombinationStarted(Event, frozen=True, kw_only=True):
    """Several training files of a configuration are being merged, weighted by quality; emitted by
    the combiner."""

    event_type: ClassVar[str] = "data.combination_started"

    config: str | None = None


class CombinationCompleted(Event, frozen=True, kw_only=True):
    """The merged training file of a configuration is complete and readable; emitted by the
    combiner."""

    event_type: ClassVar[str] = "data.combination_completed"

    config: str | None = None
    samples: int | None = None
    """Training samples in the merged file."""
    output_path: str | None = None


class CombinationFailed(Event, frozen=True, kw_only=True):
    """The training files of a configuration could not be merged; emitted by the combiner."""

    event_type: ClassVar[str] = "data.combination_failed"

    config: str | None = None
    reason: str | None = None


class GameSaveFailed(Event, frozen=True, kw_only=True):
    """A finished game could not be written and is lost unless its player still has it; emitted by
    the self-play worker."""

    event_type: ClassVar[str] = "data.game_save_failed"

    config: str | None = None
    game_id: str | None = None
    node: str | None = None
    db_path: str | None = None
    reason: str | None = None
    error_type: str | None = None


class RepairCompleted(Event, frozen=True, kw_only=True):
    """A game that had too few copies was copied to more nodes; emitted by the replication
    repair."""

    event_type: ClassVar[str] = "data.repair_completed"

    game_id: str | None = None
    new_replica_count: int | None = None
    duration_s: float | None = None


class RepairFailed(Event, frozen=True, kw_only=True):
    """A game that has too few copies could not be copied; emitted by the replication repair."""

    event_type: ClassVar[str] = "data.repair_failed"

    game_id: str | None = None
    current_replica_count: int | None = None
    duration_s: float | None = None
    reason: str | None = None


TYPES = (
    typed(GamesAdded),
    typed(StalenessDetected),
    typed(FreshnessConfirmed),
    typed(StarvationDetected),
    typed(ConsolidationStarted),
    typed(ConsolidationCompleted),
    typed(ExportStarted),
    typed(ExportCompleted),
    typed(ExportValidationFailed),
    typed(CombinationStarted),
    typed(CombinationCompleted),
    typed(CombinationFailed),
    typed(GameSaveFailed),
    typed(RepairCompleted),
    typed(RepairFailed),
    open_type(
        "data.database_created",
        "A new game database exists on a node and should be known at once; emitted by the worker "
        "that created it.",
    ),
    open_type(
        "data.orphan_games_detected",
        "Game databases were found that nobody had registered; emitted by the orphan scan of a "
        "node.",
    ),
    open_type(
        "data.orphan_games_registered",
        "Game databases that nobody knew are registered now and count as data; emitted by the "
        "orphan scan of a node.",
    ),
    open_type(
        "data.orphan_game_prevented",
        "A game with too few moves was refused before it could become an orphan; emitted by the "
        "game store.",
    ),
    open_type(
        "data.replication_alert_raised",
        "Games have fewer copies than the fleet wants; emitted by the replication monitor.",
    ),
    open_type(
        "data.encoding_batch_completed",
        "A batch of games was encoded into features; emitted by the encoder.",
    ),
    open_type(
        "data.tournament_export_completed",
        "Tournament games were exported and can be trained on; emitted by the tournament data "
        "pipeline.",
    ),
    open_type(
        "data.tournament_cycle_completed",
        "The tournament data pipeline went through all its databases once, with counts; emitted "
        "by that pipeline.",
    ),
    open_type(
        "data.backup_completed",
        "Games and models were copied to the backup drives; emitted by the backup worker.",
    ),
    open_type(
        "data.s3_backup_completed",
        "Promoted models and their data were uploaded to object storage; emitted by the S3 "
        "backup worker.",
    ),
    open_type(
        "data.database_contended",
        "A writer waited too long for a connection to a local database; emitted by that "
        "database's connection pool.",
    ),
    open_type(
        "data.connection_limit_approached",
        "A local database has nearly as many open connections as it may have; emitted by that "
        "database's connection pool.",
    ),
)
