"""What the node-agent is to the fleet. The only place that names its subjects."""

from interlock_schemas import nodes, subjects
from interlock_schemas.contracts import Contract, Publishes
from interlock_schemas.node import NodeLeaveAnnounced, NodeLeft
from interlock_schemas.sync import ArtifactDropped, ArtifactSealed, SyncChecksumFailed
from interlock_schemas.topology import INVENTORY, LOCKS, MEMBERS, NODES, ORDERS

__all__ = ["CONTRACT"]

CONTRACT = Contract(
    name=nodes.AGENT,
    version="0.1.0",
    summary="Says that a node lives and how it is, keeps its artifacts; leaves in good order.",
    module="interlock_node_agent",
    publishes=(
        Publishes(subject=subjects.HEARTBEATS, summary="Its node lives; not kept."),
        Publishes(
            subject=subjects.event_filter(NodeLeaveAnnounced.event_type),
            summary="Its node is about to go.",
        ),
        Publishes(subject=subjects.event_filter(NodeLeft.event_type), summary="Its node went."),
        Publishes(
            subject=subjects.event_filter(ArtifactSealed.event_type),
            summary="An artifact was made on its node.",
        ),
        Publishes(
            subject=subjects.event_filter(ArtifactDropped.event_type),
            summary="Its node has no copy of an artifact any more.",
        ),
        Publishes(
            subject=subjects.event_filter(SyncChecksumFailed.event_type),
            summary="A copy on its node was found damaged.",
        ),
    ),
    stores=(MEMBERS, NODES, INVENTORY, ORDERS, LOCKS),
)
