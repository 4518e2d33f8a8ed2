"""What the sync-mutex is to the fleet. The only place that names its subjects."""

from interlock_schemas import locks, subjects
from interlock_schemas.contracts import Contract, Publishes
from interlock_schemas.lock import (
    LockAcquired,
    LockExpired,
    LockLost,
    LockRefused,
    LockReleased,
    LockWaitTimedOut,
)
from interlock_schemas.node import NodeLeft, NodeLost
from interlock_schemas.topology import EVENTS, LOCKS, Consumer

__all__ = ["CONTRACT", "NODES_LOST"]

NODES_LOST = Consumer(
    stream=EVENTS,
    name=f"{locks.SERVICE}-nodes-lost",
    filters=tuple(subjects.event_filter(type.event_type) for type in (NodeLost, NodeLeft)),
    ack_wait_s=10.0,
    from_start=False,
)

CONTRACT = Contract(
    name=locks.SERVICE,
    version="0.1.0",
    summary="Locks with fencing tokens, fair queues and slots.",
    module="interlock_sync_mutex",
    consumes=(NODES_LOST,),
    publishes=(
        *(
            Publishes(subject=subjects.event_filter(type.event_type), summary=summary)
            for type, summary in (
                (LockAcquired, "A lock was granted."),
                (LockReleased, "A lock was given back."),
                (LockExpired, "A lease ran out."),
                (LockLost, "A lock was taken from its holder."),
                (LockRefused, "A request for a lock was refused."),
                (LockWaitTimedOut, "A waiter gave up."),
            )
        ),
        Publishes(
            subject=subjects.dead(locks.SERVICE, "*"),
            summary="What stood in the bucket of locks and is no claim.",
        ),
        Publishes(
            subject=subjects.lock_notice("*"), summary="A client is told of its locks; not kept."
        ),
    ),
    answers=(
        locks.ACQUIRE,
        locks.RENEW,
        locks.KEEP,
        locks.RELEASE,
        locks.END,
        locks.LIST,
        locks.SHOW,
    ),
    stores=(LOCKS,),
)
