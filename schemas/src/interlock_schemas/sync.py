"""Transfers of data between nodes: asked for, begun, received, failed.

A completed transfer is the receiver's statement. Copies of one named model are in `model`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "GamesPushed",
    "SyncChecksumFailed",
    "SyncCompleted",
    "SyncFailed",
    "SyncRequested",
    "SyncStalled",
    "SyncStarted",
]


class SyncRequested(Event, frozen=True, kw_only=True):
    """Data should be moved now instead of at the next regular turn; emitted by the freshness
    check, a pipeline or an operator."""

    event_type: ClassVar[str] = "sync.requested"

    config: str | None = None
    data_type: str | None = None
    """What to move, for example ``games`` or ``models``."""
    source_node: str | None = None
    """Node that has the data."""
    data_age_hours: float | None = None
    reason: str | None = None


class SyncStarted(Event, frozen=True, kw_only=True):
    """A transfer began; emitted by the sync router."""

    event_type: ClassVar[str] = "sync.started"

    config: str | None = None
    node: str | None = None
    """Node whose data is moved."""
    sync_type: str | None = None
    scope: str | None = None
    """``cluster`` where the whole fleet takes part."""


class SyncCompleted(Event, frozen=True, kw_only=True):
    """A transfer arrived complete, as its receiver confirmed; emitted by the sync router."""

    event_type: ClassVar[str] = "sync.completed"

    config: str | None = None
    node: str | None = None
    """Node whose data was moved."""
    sync_type: str | None = None
    scope: str | None = None
    """``cluster`` where the whole fleet took part."""
    games: int | None = None
    """Games moved."""
    games_generated: int | None = None
    """What self-play generated in the pipeline round that this belongs to."""
    files_synced: int | None = None
    bytes_transferred: int | None = None
    duration_s: float | None = None
    success: bool | None = None
    """False where a stage of the predecessor ended, and ended badly."""


class SyncFailed(Event, frozen=True, kw_only=True):
    """A transfer was given up; emitted by the sync router."""

    event_type: ClassVar[str] = "sync.failed"

    config: str | None = None
    node: str | None = None
    """Node whose data was to be moved."""
    sync_type: str | None = None
    scope: str | None = None
    """``cluster`` where the whole fleet was to take part."""
    retry_count: int | None = None
    reason: str | None = None


class SyncStalled(Event, frozen=True, kw_only=True):
    """A transfer has made no progress within its time limit; emitted by the sync router."""

    event_type: ClassVar[str] = "sync.stalled"

    source_node: str | None = None
    target_node: str | None = None
    data_type: str | None = None
    timeout_s: float | None = None
    retry_count: int | None = None


class SyncChecksumFailed(Event, frozen=True, kw_only=True):
    """What arrived is not what was sent; emitted by the receiver, which does not use it."""

    event_type: ClassVar[str] = "sync.checksum_failed"

    source_path: str | None = None
    dest_path: str | None = None
    target_node: str | None = None
    reason: str | None = None


class GamesPushed(Event, frozen=True, kw_only=True):
    """A node pushed games of its own to other nodes; emitted by the sync agent of that node."""

    event_type: ClassVar[str] = "sync.games_pushed"

    node: str | None = None
    games: int | None = None
    is_ephemeral: bool | None = None
    """Whether the pushing node may vanish with its disk."""


TYPES = (
    typed(SyncRequested),
    typed(SyncStarted),
    typed(SyncCompleted),
    typed(SyncFailed),
    typed(SyncStalled),
    typed(SyncChecksumFailed),
    typed(GamesPushed),
    open_type(
        "sync.node_unreached",
        "A transfer's target did not answer, so another one is sought; emitted by the sync router.",
    ),
    open_type(
        "sync.failure_escalated",
        "Transfers have failed so many times in a row that somebody must look; emitted by the "
        "sync router.",
    ),
    open_type(
        "sync.capacity_refreshed",
        "The free space and load of every target were measured anew; emitted by the sync router.",
    ),
    open_type(
        "sync.queued_events_delivered",
        "Events kept locally while the coordinator was away have reached it; emitted by the node "
        "that kept them.",
    ),
    open_type(
        "sync.transport_corruption_detected",
        "A transport to a node damaged binary data and should be avoided; emitted by the "
        "transport layer of the receiving node.",
    ),
)
