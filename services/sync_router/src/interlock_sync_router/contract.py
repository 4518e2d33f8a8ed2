"""What the sync-router is to the fleet. The only place that names its subjects."""

from interlock_schemas import orders, subjects
from interlock_schemas.contracts import Contract, Publishes
from interlock_schemas.node import NodeLeaveAnnounced, NodeLeft, NodeLost
from interlock_schemas.sync import (
    NodeEvacuated,
    SyncCompleted,
    SyncFailed,
    SyncRequested,
    SyncStarted,
)
from interlock_schemas.topology import (
    EVENTS,
    HEALTH,
    INVENTORY,
    LOCKS,
    MEMBERS,
    NODES,
    ORDERS,
    Consumer,
)

__all__ = ["CONTRACT", "HAPPENINGS"]

#: What changes a plan at once: a node goes, or somebody asks for data.
HAPPENINGS = Consumer(
    stream=EVENTS,
    name=f"{orders.ROUTER}-happenings",
    filters=tuple(
        subjects.event_filter(type.event_type)
        for type in (NodeLeaveAnnounced, NodeLeft, NodeLost, SyncRequested)
    ),
    ack_wait_s=10.0,
    from_start=False,
)

CONTRACT = Contract(
    name=orders.ROUTER,
    version="0.1.0",
    summary="Decides what data goes where, and counts as moved what the receiver has verified.",
    module="interlock_sync_router",
    consumes=(HAPPENINGS,),
    publishes=tuple(
        Publishes(subject=subjects.event_filter(type.event_type), summary=summary)
        for type, summary in (
            (SyncStarted, "A node was told to fetch an artifact."),
            (SyncCompleted, "Its receipt stands."),
            (SyncFailed, "A transfer was given up."),
            (NodeEvacuated, "A node that goes has handed over what only it had, or could not."),
        )
    ),
    answers=(
        orders.SYNC,
        orders.REPORT,
        orders.PLAN,
        orders.STATUS,
        orders.PAUSE,
        orders.SET_POLICY,
        orders.POLICIES,
        orders.EVACUATE,
    ),
    stores=(ORDERS, INVENTORY, LOCKS),
    reads=(NODES, MEMBERS, HEALTH),
)
