"""Every metric of the kit: its name, what it counts, and what to do about it."""

from typing import Final

from opentelemetry import metrics

__all__ = [
    "DEAD_LETTERED",
    "DEGRADED",
    "DELIVERED",
    "HANDLED",
    "HANDLE_SECONDS",
    "LOCK_ENDS",
    "LOCK_GRANTS",
    "LOCK_HOLD_SECONDS",
    "LOCK_WAITING",
    "LOCK_WAIT_SECONDS",
    "PAUSES",
    "PUBLISHED",
    "RETRIED",
]

_meter = metrics.get_meter("interlock")

#: Messages acknowledged by the broker, by type or subject root. Falls to zero: the broker is away
#: or a producer died; look at `interlock status`.
PUBLISHED: Final = _meter.create_counter("interlock.published", unit="{message}")

#: Messages handed to a consumer, redeliveries included. Much above `handled`: handlers fail.
DELIVERED: Final = _meter.create_counter("interlock.delivered", unit="{message}")

#: Messages whose handler returned. Should follow `delivered` closely.
HANDLED: Final = _meter.create_counter("interlock.handled", unit="{message}")

#: Messages put back for another attempt. A steady rate: a dependency of the handler is down.
RETRIED: Final = _meter.create_counter("interlock.retried", unit="{message}")

#: Messages that became dead letters, by code. Above zero: `interlock dlq list` says why.
DEAD_LETTERED: Final = _meter.create_counter("interlock.dead_lettered", unit="{message}")

#: Pauses of a consumer whose handler failed for most messages. Above zero: the event
#: `consumer.paused` and the service's log name the error; fix it, and the consumer resumes.
PAUSES: Final = _meter.create_counter("interlock.consumer.pauses", unit="{pause}")

#: Seconds that a handler took for one call. Near the handler's limit: raise it or split work.
HANDLE_SECONDS: Final = _meter.create_histogram("interlock.handle.duration", unit="s")

#: Promises of the broker that a service runs without, or cannot tell: 0 where all are kept. Above
#: zero: `interlock doctor` says which, and what to do.
DEGRADED: Final = _meter.create_gauge("interlock.degraded", unit="{finding}")

#: Messages that an outbox took onto the local disk. Should follow what the worker publishes.
OUTBOX_STORED: Final = _meter.create_counter("interlock.outbox.stored", unit="{message}")

#: Messages of an outbox that the broker acknowledged. Zero while some wait: the link is cut;
#: `interlock outbox status` has the last error.
OUTBOX_FORWARDED: Final = _meter.create_counter("interlock.outbox.forwarded", unit="{message}")

#: Messages that the broker will not take. Above zero: `interlock outbox refused` says why.
OUTBOX_REFUSED: Final = _meter.create_counter("interlock.outbox.refused", unit="{message}")

#: Messages that wait in an outbox. Rises for long: the link is cut, or slower than the worker;
#: near `INTERLOCK_OUTBOX_MAX_MESSAGES` publishes begin to wait for room.
OUTBOX_WAITING: Final = _meter.create_gauge("interlock.outbox.waiting", unit="{message}")

#: Locks granted, as each replica of the lock service sees it.
LOCK_GRANTS: Final = _meter.create_counter("interlock.lock.grants", unit="{grant}")

#: Locks that ended, by why. `expired` above zero: holders die or stand still longer than their
#: lease; `not_taken_up`: waiters do. `interlock tail --type lock` names them.
LOCK_ENDS: Final = _meter.create_counter("interlock.lock.ends", unit="{end}")

#: Seconds between a request and its grant. Rising: the locks are held too long, or too few slots.
LOCK_WAIT_SECONDS: Final = _meter.create_histogram("interlock.lock.wait", unit="s")

#: Seconds for which locks were held.
LOCK_HOLD_SECONDS: Final = _meter.create_histogram("interlock.lock.hold", unit="s")

#: Requests that wait now, as each replica sees it. `interlock lock list` says for what.
LOCK_WAITING: Final = _meter.create_up_down_counter("interlock.lock.waiting", unit="{request}")
