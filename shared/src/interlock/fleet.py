"""What a worker holds: it publishes events, consumes them and asks services."""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from interlock import metrics, provisioning, telemetry
from interlock.bus import Ack, Bus
from interlock.bus import connect as connect_bus
from interlock.consuming import Consumption
from interlock.delivery import Delivery
from interlock.errors import BusUnavailable, CommandFailed, Reject
from interlock.publishing import encode_event
from interlock.redelivery import RetryPolicy
from interlock.settings import ConnectionSettings
from interlock_schemas import catalogue, envelope, subjects
from interlock_schemas.contracts import Command
from interlock_schemas.event import Event, OpenEvent, Payload
from interlock_schemas.letters import Code
from interlock_schemas.topology import EVENTS, Consumer

__all__ = ["Fleet", "Received", "connect", "decode_event"]

EventT = TypeVar("EventT", bound=Event | OpenEvent)
RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")

#: Publishes of one `publish_many` that are under way at the same time.
_WINDOW = 256

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Received(Generic[EventT]):
    """An event in a handler's hands."""

    __slots__ = ("_delivery", "event", "payload")

    def __init__(self, delivery: Delivery, event: EventT, payload: Payload) -> None:
        self._delivery = delivery
        self.event = event
        self.payload = payload
        """The whole payload, with the fields that the type does not declare."""

    @property
    def id(self) -> str:
        """The same for every delivery of this event: what an effect is recorded under."""
        return self._delivery.id

    @property
    def attempt(self) -> int:
        """1 for the first delivery."""
        return self._delivery.position.deliveries

    @property
    def subject(self) -> str:
        """Where it was published."""
        return self._delivery.subject

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers: CloudEvents attributes, trace context, legacy name."""
        return self._delivery.headers


def decode_event(delivery: Delivery) -> tuple[Event | OpenEvent, Payload]:
    """The event that a delivery carries. Raises Reject where it carries none."""
    name = (
        envelope.lookup(delivery.headers, envelope.TYPE)
        or subjects.parse_event(delivery.subject)
        or ""
    )
    entry = catalogue.find(name)
    if entry is None:
        raise Reject(
            f"{name or delivery.subject!r} is no event type", code=Code.UNKNOWN_NAME, name=name
        )
    try:
        if "msgpack" in (envelope.lookup(delivery.headers, envelope.CONTENT_TYPE) or ""):
            payload = msgspec.msgpack.decode(delivery.body)
        else:
            payload = msgspec.json.decode(delivery.body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Reject(
            f"the body cannot be decoded: {error}", code=Code.UNDECODABLE, name=name
        ) from error
    if not isinstance(payload, dict):
        raise Reject("the payload is not an object", code=Code.INVALID, name=name)
    try:
        return entry.convert(payload), payload
    except msgspec.ValidationError as error:
        raise Reject(f"not a {name}: {error}", code=Code.INVALID, name=name) from error


class Fleet:
    """A worker's connection to the fleet. Make one with `connect`."""

    def __init__(self, bus: Bus, *, source: str) -> None:
        self.bus = bus
        """The connection underneath."""
        self.source = source
        """Who publishes: ``ce-source`` of every event."""

    async def publish(
        self,
        event: Event | OpenEvent,
        *,
        key: str | None = None,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> Ack:
        """Publish one event and return once the broker has it on disk.

        `key` (default: the event's config, else its node) ends the subject. `id` (default: a new
        one) is the event's identity: publishing twice under one id stores it once. Lost
        connections are ridden out until `timeout_s`.

        Raises NotAcknowledged at the deadline, MessageTooLarge, PublishRefused, and ValueError for
        an open event of an unknown type.
        """
        subject, body, sent = encode_event(
            event, source=self.source, key=key, id=id, headers=headers
        )
        ack = await self.bus.publish(subject, body, sent, timeout_s=timeout_s)
        metrics.PUBLISHED.add(1, {"type": event.type_name})
        return ack

    async def publish_many(
        self, events: Iterable[Event | OpenEvent], *, timeout_s: float = 60.0
    ) -> list[Ack]:
        """Publish many events; returns once all of them are acknowledged, in their order.

        Raises the first error after the others have ended: publishing the same events again is
        safe only under ids of your own.
        """
        places = asyncio.Semaphore(_WINDOW)
        results: list[asyncio.Task[Ack]] = []

        async def one(event: Event | OpenEvent) -> Ack:
            try:
                return await self.publish(event, timeout_s=timeout_s)
            finally:
                places.release()

        for event in events:
            await places.acquire()
            results.append(asyncio.create_task(one(event)))
        done = await asyncio.gather(*results, return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in done if isinstance(outcome, Ack)]

    async def publish_legacy(
        self,
        name: str,
        payload: Payload,
        *,
        id: str | None = None,
        timeout_s: float = 30.0,
    ) -> Ack:
        """Publish an event under its legacy name, as an old worker would."""
        headers = {envelope.MSG_ID: id} if id else {}
        body = msgspec.json.encode({"event_type": name, "payload": payload})
        return await self.bus.publish(subjects.legacy(name), body, headers, timeout_s=timeout_s)

    async def consume(
        self,
        name: str,
        handler: Callable[[Received[Any]], Awaitable[None]],
        *types: type[Event] | str,
        concurrency: int = 16,
        ack_wait_s: float = 30.0,
        from_start: bool = True,
        retry: RetryPolicy | None = None,
        stop: asyncio.Event | None = None,
    ) -> None:
        """Consume events under a durable name, until cancelled or until `stop` is set.

        All who consume under one name share the work. `types` are event classes, type names or
        domains (``"training"``); none means everything. The handler gets one `Received` at a
        time in up to `concurrency` tasks; when it returns, the event is done. When it raises, the
        event is tried again by `retry`, and at last becomes a dead letter; `Reject` makes it one
        at once. Deliveries may repeat: record effects under `Received.id`.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no consumer name: letters, digits, - and _, at most 64")
        consumer = Consumer(
            stream=EVENTS,
            name=name,
            filters=tuple(_filter(wanted) for wanted in types) or (subjects.EVENTS,),
            ack_wait_s=ack_wait_s,
            max_ack_pending=max(1_000, concurrency * 4),
            from_start=from_start,
        )
        if concurrency < 1:
            raise ValueError("concurrency is at least 1")
        await provisioning.ensure_worker_consumer(self.bus, consumer)

        async def handle(delivery: Delivery) -> None:
            event, payload = decode_event(delivery)
            await handler(Received(delivery, event, payload))

        consumption = Consumption(
            self.bus,
            service=name,
            stream=EVENTS.name,
            consumer=name,
            handler=handle,
            places=concurrency,
            ack_wait_s=ack_wait_s,
            policy=retry or RetryPolicy(),
        )
        async with asyncio.TaskGroup() as group:
            if stop is not None:
                watcher = group.create_task(_stop_when(stop, consumption))
            await consumption.run()
            if stop is not None:
                watcher.cancel()

    async def command(
        self,
        command: "Command[RequestT, ReplyT]",
        request: RequestT,
        *,
        timeout_s: float = 10.0,
        patience_s: float = 0.0,
    ) -> ReplyT:
        """Ask a service. Raises CommandFailed with its answer, BusUnavailable when none comes.

        For `patience_s` it is asked again when no answer comes within `timeout_s`: it may just be
        starting again. Only for commands that asked twice do once, as all of Interlock's do.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while True:
            try:
                return await self._command(command, request, timeout_s)
            except BusUnavailable:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(0.3)

    async def _command(
        self, command: "Command[RequestT, ReplyT]", request: RequestT, timeout_s: float
    ) -> ReplyT:
        try:
            reply = await self.bus.request(
                command.subject,
                msgspec.json.encode(request),
                timeout_s=timeout_s,
                headers=telemetry.inject({}),
            )
        except BusUnavailable as error:
            raise BusUnavailable(
                f"{command.service} did not answer {command.verb}: {error}"
            ) from error
        code = envelope.lookup(reply.headers, "Nats-Service-Error-Code")
        if code is not None:
            text = envelope.lookup(reply.headers, "Nats-Service-Error") or "no reason given"
            raise CommandFailed(text, code=code)
        return msgspec.json.decode(reply.data, type=command.reply)

    async def close(self) -> None:
        """Send what waits and disconnect."""
        await self.bus.close()


async def _stop_when(stop: asyncio.Event, consumption: Consumption) -> None:
    await stop.wait()
    consumption.stop()


def _filter(wanted: type[Event] | str) -> str:
    if not isinstance(wanted, str):
        return subjects.event_filter(wanted.event_type)
    known = catalogue.by_name()
    if wanted not in known and not any(entry.domain == wanted for entry in known.values()):
        raise ValueError(f"{wanted!r} is neither an event type nor a domain of event types")
    return subjects.event_filter(wanted)


def default_source() -> str:
    """Who we are, where nobody says: host and process."""
    return f"{socket.gethostname()}/{os.getpid()}"


@contextlib.asynccontextmanager
async def connect(
    settings: ConnectionSettings | None = None, *, source: str | None = None
) -> AsyncIterator[Fleet]:
    """Connect to the fleet: ``async with interlock.connect() as fleet``.

    Where to is told by ``INTERLOCK_NATS_URL`` and the other settings of
    `interlock.settings.ConnectionSettings`. Raises ConnectFailed.
    """
    source = source or default_source()
    bus = await connect_bus(settings, name=source)
    fleet = Fleet(bus, source=source)
    try:
        yield fleet
    finally:
        await fleet.close()
