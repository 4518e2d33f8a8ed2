"""What the node-agent is to the fleet. The only place that names its subjects."""

from interlock_schemas import nodes, subjects
from interlock_schemas.contracts import Contract, Publishes
from interlock_schemas.node import NodeLeaveAnnounced, NodeLeft
from interlock_schemas.topology import MEMBERS, NODES

__all__ = ["CONTRACT"]

CONTRACT = Contract(
    name=nodes.AGENT,
    version="0.1.0",
    summary="Says that a node lives and how it is; leaves in good order.",
    module="interlock_node_agent",
    publishes=(
        Publishes(subject=subjects.HEARTBEATS, summary="Its node lives; not kept."),
        Publishes(
            subject=subjects.event_filter(NodeLeaveAnnounced.event_type),
            summary="Its node is about to go.",
        ),
        Publishes(subject=subjects.event_filter(NodeLeft.event_type), summary="Its node went."),
    ),
    stores=(MEMBERS, NODES),
)
