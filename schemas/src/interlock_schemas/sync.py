"""Transfers of data between nodes: asked for, begun, received, failed.

A completed transfer is the receiver's statement. Copies of one named model are in `model`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "ArtifactDropped",
    "ArtifactSealed",
    "GamesPushed",
    "NodeEvacuated",
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
    artifact: str | None = None
    """The digest that the receiver's receipt names."""
    dataset: str | None = None
    source_node: str | None = None
    transport: str | None = None
    bytes: int | None = None
    """Of the artifact; `bytes_transferred` came over the wire for it."""


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
    artifact: str | None = None
    dataset: str | None = None
    source_node: str | None = None
    transport: str | None = None
    code: str | None = None
    """For example ``no_space``, ``denied``, ``damaged``."""


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
    artifact: str | None = None


class ArtifactSealed(Event, frozen=True, kw_only=True):
    """Something immutable was made of data, and may be moved; emitted by the agent of its node."""

    event_type: ClassVar[str] = "sync.artifact_sealed"

    artifact: str
    dataset: str
    config: str | None = None
    node: str | None = None
    name: str | None = None
    bytes: int | None = None
    files: int | None = None


class ArtifactDropped(Event, frozen=True, kw_only=True):
    """A node deleted its copy, because others have it or nobody wants it any more; emitted by the
    node's agent."""

    event_type: ClassVar[str] = "sync.artifact_dropped"

    artifact: str
    node: str
    dataset: str | None = None
    replicas: int | None = None
    """Verified copies that stood elsewhere."""
    reason: str | None = None


class NodeEvacuated(Event, frozen=True, kw_only=True):
    """A node that goes has handed over what only it had, or ran out of time; emitted by the sync
    router."""

    event_type: ClassVar[str] = "sync.node_evacuated"

    node: str
    saved: int | None = None
    saved_bytes: int | None = None
    saved_value: float | None = None
    lost: int | None = None
    """Artifacts that nobody else has."""
    lost_bytes: int | None = None
    lost_value: float | None = None
    lost_artifacts: tuple[str, ...] | None = None
    """The most valuable first, a thousand at most."""


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
    typed(ArtifactSealed),
    typed(ArtifactDropped),
    typed(NodeEvacuated),
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
