"""What the fleet is told: the record of each verdict, and the event that follows from it.

A record is stored first and its event after, under an id made of the record, so that whoever takes
over may tell it once more and it is stored once.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from interlock import logs
from interlock.bus import Bus
from interlock.conditional import ALONE, PURGE, living
from interlock.errors import BusUnavailable, InterlockError
from interlock.publishing import encode_event
from interlock_schemas import health
from interlock_schemas.event import Event
from interlock_schemas.health import NodeHealth
from interlock_schemas.node import (
    NodeDegraded,
    NodeJoined,
    NodeLeft,
    NodeLost,
    NodeRecovered,
    NodeSuspected,
)
from interlock_schemas.topology import HEALTH

__all__ = ["Teller", "event_id", "event_of"]

_RETRY_S: Final = 0.5
#: What is stored with one wait for the broker.
_GROUP: Final = 2_000

log = logs.get_logger("interlock.health")


def event_id(told: NodeHealth) -> str:
    """The id of the event that a record makes: the same whoever tells it."""
    return f"health-{told.node}-{told.state}-{told.reason}-{told.since}"


def event_of(told: NodeHealth) -> Event | None:
    """The event that a record makes, or None where nobody needs to hear of it."""
    evidence = [f"{each.kind}: {each.detail}" for each in told.evidence] or None
    node = told.node
    zone = told.zone or None
    match told.state:
        case "suspect":
            return NodeSuspected(
                node=node,
                silent_s=told.silent_s,
                last_heard_at=told.last_heard_at,
                suspected_at=told.since,
                reason=told.reason,
                evidence=evidence,
                phi=told.phi,
                zone=zone,
            )
        case "lost":
            return NodeLost(
                node=node,
                offline_s=told.silent_s,
                reason=f"{told.reason}: {told.detail}",
                last_heard_at=told.last_heard_at,
                suspected_at=told.suspected_at,
                lost_at=told.since,
                evidence=evidence,
                zone=zone,
            )
        case "degraded":
            return NodeDegraded(
                node=node,
                reason=f"{told.reason}: {told.detail}",
                symptoms=[each.kind for each in told.symptoms] or None,
                evidence=evidence,
            )
        case "healthy" if told.previous in (None, "unknown", "retired"):
            return NodeJoined(node=node)
        case "healthy":
            return NodeRecovered(node=node, recovery_type=told.reason, from_state=told.previous)
        case "retired" if told.reason == "gone_as_announced":
            # One that said goodbye, or was taken out by an operator, is told of by whoever did it.
            return NodeLeft(node=node, reason=told.detail, instance=told.instance)
        case _:
            return None


class Teller:
    """Stores records and publishes events, in order, until the broker has them."""

    def __init__(self, bus: Bus, source: str) -> None:
        self._bus = bus
        self._source = source
        self._waiting: list[tuple[str, bytes, Mapping[str, str]]] = []
        self._wake = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Messages that the broker does not have yet."""
        return len(self._waiting)

    def verdict(self, told: NodeHealth) -> None:
        """Store a verdict on a node, and tell of it."""
        self.record(health.health_key(told.node), told)
        event = event_of(told)
        if event is not None:
            self.emit(event, event_id(told))

    def record(self, key: str, value: object, ttl_s: int | None = None) -> None:
        """Store a record of the bucket of health."""
        headers = ALONE if ttl_s is None else living(ttl_s)
        self._add(HEALTH.key_subject(key), msgspec.json.encode(value), headers)

    def remove(self, key: str) -> None:
        """Remove one."""
        self._add(HEALTH.key_subject(key), b"", {**PURGE, **living(HEALTH.marker_ttl_s)})

    def emit(self, event: Event, id: str) -> None:
        """Publish an event, once under this id."""
        self._add(*encode_event(event, source=self._source, id=id))

    def publish(self, subject: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Publish anything that is kept: a dead letter."""
        self._add(subject, body, headers)

    def _add(self, subject: str, body: bytes, headers: Mapping[str, str]) -> None:
        self._waiting.append((subject, body, headers))
        self._wake.set()

    def drop(self) -> None:
        """Forget what waits: another monitor tells from now on."""
        self._waiting.clear()

    async def run(self) -> None:
        """Send what comes, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send what waits. What the broker does not take now is tried again."""
        while self._waiting:
            group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
            sent = []
            for message in group:
                try:
                    sent.append((message, await self._bus.publish_soon(*message)))
                except InterlockError as error:
                    log.error("not told", subject=message[0], why=str(error))
            outcomes = await asyncio.gather(*(ack for _, ack in sent), return_exceptions=True)
            again = []
            for (message, _), outcome in zip(sent, outcomes, strict=True):
                if isinstance(outcome, BusUnavailable):
                    again.append(message)
                elif isinstance(outcome, BaseException):
                    log.error("not told", subject=message[0], why=str(outcome))
            if again:
                self._waiting[:0] = again
                await asyncio.sleep(_RETRY_S)
