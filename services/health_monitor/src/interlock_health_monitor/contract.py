"""What the health-monitor is to the fleet. The only place that names its subjects."""

from interlock_schemas import health, subjects
from interlock_schemas.breaker import BreakerClosed, BreakerHalfOpened, BreakerOpened
from interlock_schemas.cluster import (
    ClusterHealthChanged,
    DisruptionDetected,
    DisruptionEnded,
    WorkPaused,
    WorkResumed,
)
from interlock_schemas.contracts import Contract, Publishes
from interlock_schemas.node import (
    NodeAttentionRequested,
    NodeDegraded,
    NodeEvicted,
    NodeJoined,
    NodeLeaveAnnounced,
    NodeLeft,
    NodeLost,
    NodeRecovered,
    NodeRecoveryCompleted,
    NodeRecoveryFailed,
    NodeRecoveryStarted,
    NodeSuspected,
)
from interlock_schemas.resource import BackpressureActivated, BackpressureReleased
from interlock_schemas.topology import EVENTS, HEALTH, LOCKS, MEMBERS, NODES, Consumer
from interlock_schemas.training import TrainingCompleted, TrainingFailed
from interlock_schemas.work import WorkCompleted, WorkFailed

__all__ = ["CONTRACT", "LEAVES", "WORK_DONE"]

#: Work that succeeds and fails: evidence about the node it ran on.
WORK_DONE = Consumer(
    stream=EVENTS,
    name=f"{health.MONITOR}-work",
    filters=tuple(
        subjects.event_filter(type.event_type)
        for type in (WorkCompleted, WorkFailed, TrainingCompleted, TrainingFailed)
    ),
    ack_wait_s=10.0,
    from_start=False,
)

#: Who goes in good order.
LEAVES = Consumer(
    stream=EVENTS,
    name=f"{health.MONITOR}-leaves",
    filters=tuple(
        subjects.event_filter(type.event_type) for type in (NodeLeaveAnnounced, NodeLeft)
    ),
    ack_wait_s=10.0,
    from_start=False,
)

CONTRACT = Contract(
    name=health.MONITOR,
    version="0.1.0",
    summary="Notices sick nodes, spares healthy ones, and repairs on a budget.",
    module="interlock_health_monitor",
    consumes=(WORK_DONE, LEAVES),
    publishes=(
        *(
            Publishes(subject=subjects.event_filter(type.event_type), summary=summary)
            for type, summary in (
                (NodeJoined, "A node is there."),
                (NodeSuspected, "A node went quiet."),
                (NodeLost, "A node is gone."),
                (NodeDegraded, "A node answers, and something is wrong with it."),
                (NodeRecovered, "A node is well again."),
                (NodeLeft, "A node that had announced its leave is gone."),
                (NodeEvicted, "A lost node was taken out of service."),
                (NodeRecoveryStarted, "A step of recovery began."),
                (NodeRecoveryCompleted, "A step of recovery helped."),
                (NodeRecoveryFailed, "A step of recovery did not help."),
                (NodeAttentionRequested, "A person has to look."),
                (ClusterHealthChanged, "The verdict on the fleet changed."),
                (WorkPaused, "Whoever starts work should wait."),
                (WorkResumed, "Work may be started again."),
                (DisruptionDetected, "Too many went quiet at once."),
                (DisruptionEnded, "They are back."),
                (BackpressureActivated, "A node or the fleet is overloaded."),
                (BackpressureReleased, "It is not any more."),
                (BreakerOpened, "SSH to a node is not tried for a while."),
                (BreakerHalfOpened, "It is tried once."),
                (BreakerClosed, "It works again."),
            )
        ),
        Publishes(
            subject=subjects.dead(health.MONITOR, "*"),
            summary="Heartbeats and records that cannot be read.",
        ),
        Publishes(subject=subjects.PROBES, summary="An agent is asked whether it is there."),
        Publishes(subject=subjects.ECHOES, summary="The monitor listens to itself; not kept."),
    ),
    answers=(
        health.NODES_LIST,
        health.NODE_SHOW,
        health.VERDICT,
        health.ADMIT,
        health.LEAVE,
    ),
    stores=(HEALTH, LOCKS),
    reads=(NODES, MEMBERS),
)
