"""What a worker holds: it publishes events, consumes them and asks services."""

import asyncio
import contextlib
import os
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import msgspec

from interlock import health_sdk, metrics, provisioning, state, telemetry
from interlock.artifacts import syncing
from interlock.artifacts.sdk import Artifacts
from interlock.bulk import BulkReceipt
from interlock.bus import Ack, Bus, Outgoing
from interlock.bus import connect as connect_bus
from interlock.clock import now, rfc3339
from interlock.coalescing import storable_as_one
from interlock.consuming import Consumption, Decision, key_of_event
from interlock.delivery import Delivery
from interlock.errors import BusUnavailable, CommandFailed, InterlockError, Reject
from interlock.flood import FloodPolicy
from interlock.link import Link
from interlock.locks.demand import demand
from interlock.locks.fence import FileFence
from interlock.locks.lease import Lease, LockContext, OnLost
from interlock.locks.locker import Locker
from interlock.locks.many import LocksContext
from interlock.outbox import Limits, Outbox, Stored
from interlock.progress import Progress
from interlock.publishing import encode_event
from interlock.redelivery import RetryPolicy
from interlock.settings import ConnectionSettings
from interlock_schemas import catalogue, envelope, subjects
from interlock_schemas.artifacts import Artifact
from interlock_schemas.contracts import Command
from interlock_schemas.event import Event, OpenEvent, Payload
from interlock_schemas.health import Admission, Admit, ClusterHealth, Pressure
from interlock_schemas.letters import Code
from interlock_schemas.locks import Priority
from interlock_schemas.orders import Priority as SyncPriority
from interlock_schemas.orders import SyncReport
from interlock_schemas.topology import EVENTS, Consumer

__all__ = ["Fleet", "Received", "connect", "decode_event"]

EventT = TypeVar("EventT", bound=Event | OpenEvent)
RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")
if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultTypeVar

    ReceiptT = DefaultTypeVar("ReceiptT", bound=Ack | Stored, default=Ack)
else:
    ReceiptT = TypeVar("ReceiptT")

#: When a worker's consumer is paused, unless it says otherwise.
FLOOD = FloodPolicy()

#: How long a lock waits for the first connection, seconds.
_CONNECTED_S = 30.0

_TYPE_NAME = envelope.TYPE.encode()
_TYPE_LINE = b"\r\n" + _TYPE_NAME + b":"

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
        return self._delivery.attempt

    @property
    def subject(self) -> str:
        """Where it was published."""
        return self._delivery.subject

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers: CloudEvents attributes, trace context, legacy name."""
        return self._delivery.headers

    def in_trace(self) -> AbstractContextManager[None]:
        """Have this event's trace be the current one, in a handler of batches.

        In a handler of single events it is already.
        """
        return self._delivery.in_trace()


def _type_of(delivery: Delivery) -> str:
    """The type that a delivery names: in its header, else in its subject.

    The header block is searched, not read: a header that stands there once, as we spell it, is the
    one that reading it would find.
    """
    block = delivery.block
    if block.count(_TYPE_NAME) == 1:
        _, found, rest = block.partition(_TYPE_LINE)
        value = rest.partition(b"\r\n")[0].decode("utf-8", "backslashreplace").strip()
        if found and value:
            return value
    told = envelope.lookup(delivery.headers, envelope.TYPE) if block else None
    return told or subjects.parse_event(delivery.subject) or ""


def _is_msgpack(delivery: Delivery) -> bool:
    return b"msgpack" in delivery.block and "msgpack" in (
        envelope.lookup(delivery.headers, envelope.CONTENT_TYPE) or ""
    )


def decode_event(delivery: Delivery) -> tuple[Event | OpenEvent, Payload]:
    """The event that a delivery carries. Raises Reject where it carries none."""
    name = _type_of(delivery)
    entry = catalogue.find(name)
    if entry is None:
        raise Reject(
            f"{name or delivery.subject!r} is no event type", code=Code.UNKNOWN_NAME, name=name
        )
    try:
        if _is_msgpack(delivery):
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


class Fleet(Generic[ReceiptT]):
    """A worker's connection to the fleet. Make one with `connect`.

    What a publish returns is in the type: `Fleet` is ``Fleet[Ack]``, whose events are at the broker
    when a publish returns; with an outbox it is ``Fleet[Stored]``, whose events are on this host's
    disk then.
    """

    @overload
    def __init__(
        self: "Fleet[Ack]",
        bus: Bus,
        *,
        source: str,
        node: str | None = None,
        data: Path | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: "Fleet[Stored]",
        bus: Link,
        *,
        source: str,
        node: str | None = None,
        data: Path | None = None,
        outbox: Outbox,
    ) -> None: ...

    def __init__(
        self,
        bus: Bus | Link,
        *,
        source: str,
        node: str | None = None,
        data: Path | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        """`data`: the store of artifacts of this host; by default as the environment says."""
        self._connection = bus
        self._outbox = outbox
        self._data = data
        self._artifacts: Artifacts | None = None
        self._locker: Locker | None = None
        self._progress: Progress | None = None
        self.node = node or socket.gethostname()
        """The host that we run on, as the fleet knows it."""
        self.source = source
        """Who publishes: ``ce-source`` of every event."""

    @property
    def bus(self) -> Bus:
        """The connection underneath. Raises BusUnavailable before it stands, with an outbox."""
        return self._connection if isinstance(self._connection, Bus) else self._connection.bus

    @property
    def outbox(self) -> Outbox:
        """The outbox that publishes go through. Raises InterlockError where there is none."""
        if self._outbox is None:
            raise InterlockError("there is no outbox: connect with interlock.connect(outbox=PATH)")
        return self._outbox

    async def connected(self, timeout_s: float | None = None) -> Bus:
        """The connection once it stands: at once, but for a fleet with an outbox.

        Raises BusUnavailable after `timeout_s`.
        """
        if isinstance(self._connection, Bus):
            return self._connection
        return await self._connection.wait(timeout_s)

    async def publish(
        self,
        event: Event | OpenEvent,
        *,
        key: str | None = None,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> ReceiptT:
        """Publish one event and return once the broker has it on disk.

        With an outbox: once this host has it on disk; its id, time and trace are fixed then.

        `key` (default: the event's config, else its node) ends the subject. `id` (default: a new
        one) is the event's identity: publishing twice under one id stores it once. Lost
        connections are ridden out until `timeout_s`.

        Raises NotAcknowledged at the deadline, MessageTooLarge, PublishRefused, and ValueError for
        an open event of an unknown type; with an outbox also OutboxFull, when no room came within
        `timeout_s`, and OutboxUnusable.
        """
        subject, body, sent = encode_event(
            event, source=self.source, key=key, id=id, headers=headers
        )
        if self._outbox is not None:
            stored = await self._outbox.publish(
                subject, body, sent, timeout_s=timeout_s, own_id=id is not None
            )
            return cast(ReceiptT, stored)
        ack = await self.bus.publish(subject, body, sent, timeout_s=timeout_s)
        metrics.PUBLISHED.add(1, {"type": event.type_name})
        return cast(ReceiptT, ack)

    async def publish_many(
        self, events: Iterable[Event | OpenEvent], *, timeout_s: float = 60.0
    ) -> list[ReceiptT]:
        """Publish many events; returns once all of them are acknowledged, in their order.

        Up to 1,000 events, the broker's limit, and 16 MiB are stored all or not at all; of more, so
        is each such group, one after the other. With an outbox, all of them are stored on this
        host, or none.

        Raises what `publish` does; a note on the error says how many of the first ones are stored.
        Publishing the same events again is safe only under ids of your own.
        """
        if self._outbox is not None:
            messages = [encode_event(event, source=self.source) for event in events]
            stored = await self._outbox.publish_many(messages, timeout_s=timeout_s, own_id=False)
            return cast(list[ReceiptT], stored)
        acks: list[Ack] = []
        encoded = (Outgoing(*encode_event(event, source=self.source)) for event in events)
        for group in storable_as_one(encoded):
            try:
                acks += await self.bus.publish_many(group, timeout_s=timeout_s)
            except InterlockError as error:
                error.add_note(f"The first {len(acks):,} of the events are stored.")
                raise
            types = Counter(each.headers[envelope.TYPE] for each in group)
            for name, count in types.items():
                metrics.PUBLISHED.add(count, {"type": name})
        return cast(list[ReceiptT], acks)

    async def publish_bulk(
        self, events: Iterable[Event | OpenEvent], *, timeout_s: float = 60.0
    ) -> BulkReceipt:
        """Publish any number of events through the bulk lane; for telemetry and migrations.

        Returns once all of them are acknowledged. Past any outbox: it goes straight to the broker.

        Raises NotAcknowledged when nothing was acknowledged for `timeout_s`: the first ones may be
        stored. Publishing the same events again is safe only under ids of your own.
        """
        async with (await self.connected(timeout_s)).bulk(timeout_s=timeout_s) as lane:
            for event in events:
                subject, body, headers = encode_event(event, source=self.source)
                await lane.publish(subject, body, headers)
        return lane.receipt

    async def publish_legacy(
        self,
        name: str,
        payload: Payload,
        *,
        id: str | None = None,
        timeout_s: float = 30.0,
    ) -> ReceiptT:
        """Publish an event under its legacy name, as an old worker would."""
        headers = {envelope.MSG_ID: id} if id else {}
        if self._outbox is not None:
            # It may be stored at the broker much later than it happened.
            headers[envelope.TIME] = rfc3339(now())
        body = msgspec.json.encode({"event_type": name, "payload": payload})
        return await self.publish_raw(subjects.legacy(name), body, headers, timeout_s=timeout_s)

    async def publish_raw(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> ReceiptT:
        """Publish bytes as they are, acknowledged, as a worker in any language would."""
        lane = self._outbox if self._outbox is not None else self.bus
        return cast(ReceiptT, await lane.publish(subject, body, headers, timeout_s=timeout_s))

    @overload
    async def consume(
        self,
        name: str,
        handler: Callable[[Received[Any]], Awaitable[None]],
        *types: type[Event] | str,
        concurrency: int = 16,
        ack_wait_s: float = 30.0,
        from_start: bool = True,
        order_by_key: bool = False,
        retry: RetryPolicy | None = None,
        flood: FloodPolicy | None = FLOOD,
        fence: FileFence | None = None,
        stop: asyncio.Event | None = None,
    ) -> None: ...

    @overload
    async def consume(
        self,
        name: str,
        handler: Callable[[list[Received[Any]]], Awaitable[Sequence[Decision] | None]],
        *types: type[Event] | str,
        batch: int,
        linger_s: float = 0.0,
        concurrency: int = 16,
        ack_wait_s: float = 30.0,
        from_start: bool = True,
        order_by_key: bool = False,
        retry: RetryPolicy | None = None,
        flood: FloodPolicy | None = FLOOD,
        stop: asyncio.Event | None = None,
    ) -> None: ...

    async def consume(
        self,
        name: str,
        handler: Callable[[Any], Awaitable[Any]],
        *types: type[Event] | str,
        batch: int | None = None,
        linger_s: float = 0.0,
        concurrency: int = 16,
        ack_wait_s: float = 30.0,
        from_start: bool = True,
        order_by_key: bool = False,
        retry: RetryPolicy | None = None,
        flood: FloodPolicy | None = FLOOD,
        fence: FileFence | None = None,
        stop: asyncio.Event | None = None,
    ) -> None:
        """Consume events under a durable name, until cancelled or until `stop` is set.

        All who consume under one name share the work. `types` are event classes, type names or
        domains (``"training"``); none means everything. The handler gets one `Received` at a
        time in up to `concurrency` tasks; when it returns, the event is done. When it raises, the
        event is tried again by `retry`, and at last becomes a dead letter; `Reject` makes it one
        at once. Deliveries may repeat: record effects under `Received.id`.

        With `batch`, the handler gets a list of up to so many events, whatever is there (after
        waiting `linger_s` for more), in up to `concurrency` calls at a time. It returns None, all
        are handled, or a list with one decision for each: `Handled`, `Retry`, or an exception,
        such as `Reject`. When it raises, the events are tried again one by one.

        With `order_by_key`, events of one key are handled one after the other in stream order,
        across retries too, and different keys in parallel. That holds within this process: several
        that share a name share out the events of a key.

        `flood` says when the consumer is paused because the handler fails for most events; None:
        never.

        With `fence`, it takes only events that were published under a lock, with
        ``headers=lease.headers()``, and only while no higher token of that lock has been seen: what
        comes late from a holder that lost it becomes a dead letter. Not with `batch`.

        Raises ContractBroken when the name stands for something else.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no consumer name: letters, digits, - and _, at most 64")
        consumer = Consumer(
            stream=EVENTS,
            name=name,
            filters=tuple(_filter(wanted) for wanted in types) or (subjects.EVENTS,),
            ack_wait_s=ack_wait_s,
            max_ack_pending=max(1_000, concurrency * (batch or 1) * 4),
            from_start=from_start,
        )
        if concurrency < 1 or (batch is not None and batch < 1):
            raise ValueError("concurrency and batch are at least 1")
        if fence is not None:
            if batch is not None:
                raise ValueError("a fence takes events one by one: leave batch out")
            handler = demand(handler, fence)
        bus = await self._connected_unless(stop)
        if bus is None:
            return
        await provisioning.ensure_worker_consumer(bus, consumer)
        stream_info = f"STREAM.INFO.{EVENTS.name}"
        created = (await bus.api(stream_info))["created"]

        async def make_again(begin_at: int | None) -> None:
            # In a stream made anew, everything is new.
            anew = (await bus.api(stream_info))["created"] != created
            await provisioning.ensure_worker_consumer(
                bus, consumer, begin_at=1 if anew else begin_at
            )

        consumption = Consumption(
            bus,
            service=name,
            stream=EVENTS.name,
            consumer=name,
            handler=handler,
            places=concurrency,
            ack_wait_s=ack_wait_s,
            policy=retry or RetryPolicy(),
            batch=batch,
            linger_s=linger_s,
            decode=_received,
            key=key_of_event if order_by_key else None,
            flood=flood,
            remake=make_again,
        )
        async with asyncio.TaskGroup() as group:
            if stop is not None:
                watcher = group.create_task(_stop_when(stop, consumption))
            await consumption.run()
            if stop is not None:
                watcher.cancel()

    async def _connected_unless(self, stop: asyncio.Event | None) -> Bus | None:
        """The connection once it stands, or None when told to stop before."""
        async with asyncio.TaskGroup() as group:
            connecting = group.create_task(self.connected())
            stopping = group.create_task((stop or asyncio.Event()).wait())
            await asyncio.wait((connecting, stopping), return_when=asyncio.FIRST_COMPLETED)
            bus = connecting.result() if connecting.done() else None
            connecting.cancel()
            stopping.cancel()
        return bus

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
            bus = await self.connected(timeout_s)
            reply = await bus.request(
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

    def lock(
        self,
        name: str,
        *,
        ttl: float = 30.0,
        wait: float = 60.0,
        priority: Priority = "normal",
        slots: int = 1,
        max_age: float | None = None,
        note: str = "",
        owner: str | None = None,
        on_lost: OnLost = "cancel",
    ) -> LockContext:
        """Hold a lock for a block: ``async with fleet.lock("export:hex8_2p") as lease``.

        It is renewed by itself and given back at the end. `ttl` (1 to 86,400 s): how long it stays
        with a holder that has vanished. `wait`: how long to queue, 0 not at all, `math.inf` for
        ever; by `priority`, then arrival, each level being worth 30 s of waiting. `slots`: so many
        may hold it at once; all who use it name the same number. `max_age`: ends after so many
        seconds, renewed or not. `owner`: who asks, in deadlocks; the running task, if left out.

        Where the lease is lost, the block is cancelled and LeaseLost raised out of it; with
        ``on_lost="signal"`` only `Lease.lost` is set. A lease cannot keep a process from writing
        that was frozen and does not know: show ``lease.token`` to whatever stores, with
        `Lease.put`, `Lease.headers` or `interlock.locks.fence.FileFence`.

        Raises LockBusy (held, and `wait` is 0), LockTimeout, LockDeadlock, LockRefused for what
        makes no sense, BusUnavailable.
        """

        async def acquire() -> Lease:
            return await self.acquire_lock(
                name,
                ttl=ttl,
                wait=wait,
                priority=priority,
                slots=slots,
                max_age=max_age,
                note=note,
                owner=owner,
            )

        return LockContext(acquire, on_lost)

    def locks(
        self,
        names: Iterable[str],
        *,
        ttl: float = 30.0,
        wait: float = 60.0,
        priority: Priority = "normal",
        max_age: float | None = None,
        note: str = "",
        owner: str | None = None,
        on_lost: OnLost = "cancel",
    ) -> LocksContext:
        """Hold several locks for a block, all or none; the leases by name.

        They are taken in the order of their names. `wait` is for all of them together.
        """

        def one(name: str, left: float) -> LockContext:
            return self.lock(
                name,
                ttl=ttl,
                wait=left,
                priority=priority,
                max_age=max_age,
                note=note,
                owner=owner,
                on_lost=on_lost,
            )

        return LocksContext(names, one, wait)

    async def acquire_lock(
        self,
        name: str,
        *,
        ttl: float = 30.0,
        wait: float = 60.0,
        priority: Priority = "normal",
        slots: int = 1,
        max_age: float | None = None,
        note: str = "",
        owner: str | None = None,
    ) -> Lease:
        """As `lock`, for what is no block: call `Lease.release` yourself, and watch `Lease.lost`.

        It is renewed by itself until then.
        """
        locker = await self._lockers()
        ask = locker.asking(
            name,
            ttl=ttl,
            wait=wait,
            priority=priority,
            slots=slots,
            max_age=max_age,
            note=note,
            owner=owner,
        )
        return await locker.acquire(ask)

    async def fenced_state(self, key: str) -> bytes | None:
        """What `Lease.put` has stored under a key; None where nothing is."""
        return await (await self._lockers()).state(key)

    async def _lockers(self) -> Locker:
        bus = await self.connected(_CONNECTED_S)
        if self._locker is None or self._locker.bus is not bus:
            self._locker = Locker(bus, self.command, source=self.source, node=self.node)
        return self._locker

    async def progress(self, *, failures: int = 0, successes: int = 0, **counters: float) -> None:
        """Tell the agent of this node what was got done: ``await fleet.progress(games=10)``.

        Each number is added to this worker's total of that name, which the node's heartbeat shows.
        `failures` and `successes` are pieces of work; many failures are evidence against a node.
        Call it as often as you like: at most two messages a second go out. Nothing is stored, and
        without a broker nothing is raised; the totals then wait.

        Raises ValueError for what is negative or no number.
        """
        self._progressing().add(counters, failures=failures, successes=successes)

    async def checkpointed(self, artifact: str | Path) -> None:
        """Tell the agent of this node that an artifact has just been made durable.

        Of its path or name, 500 characters are shown. As `progress`, it never waits for a broker.
        """
        self._progressing().checkpointed(str(artifact))

    @property
    def artifacts(self) -> Artifacts:
        """Data that is kept and moved: ``await fleet.artifacts.add("games.db", dataset="games")``.

        Adding needs neither a broker nor an agent.
        """
        if self._artifacts is None:
            self._artifacts = Artifacts(
                node=self.node,
                root=self._data or state.store_root(ConnectionSettings()),
                bus=lambda: self.bus,
                connected=self.connected,
            )
        return self._artifacts

    async def sync(
        self,
        dataset: str | None = None,
        *,
        config: str | None = None,
        artifacts: Iterable[str | Artifact] = (),
        targets: str | Sequence[str] = ("all",),
        priority: SyncPriority = "normal",
        timeout: float = 3_600.0,  # noqa: ASYNC109 - the router keeps it, and a report comes back
        on_progress: Callable[[SyncReport], None] | None = None,
    ) -> SyncReport:
        """Have data at some nodes, and wait until each has said that it has it, whole.

        What: all artifacts of a dataset, of one configuration if named, or exactly `artifacts`,
        among them what was added here just now. `targets`: ``all``, ``role:<role>``,
        ``label:<name>=<value>``, ``zone:<zone>``, ``node:<name>``. What is there already is not
        moved again.

        The report says what became of each pair of artifact and node; see `interlock.succeeded`.
        After `timeout` seconds (a week at most) it comes back as far as it got, with `timed_out`.
        `on_progress` is called with each report that differs. Restarts of the router or the broker
        are ridden out. Cancelled, nobody waits any more, and the router goes on until then.

        Raises NobodyThere where no sync-router runs, BusUnavailable where the broker does not
        answer, CommandFailed for a dataset, artifact or target that makes no sense, and
        ArtifactError where what was added here is not known to the fleet, as its agent is away.
        """
        request = syncing.make_request(
            dataset,
            config=config,
            artifacts=artifacts,
            targets=targets,
            priority=priority,
            by=self.source,
        )
        return await syncing.sync(self, request, timeout_s=timeout, on_progress=on_progress)

    async def health(self, *, timeout_s: float = 30.0) -> ClusterHealth:
        """How the fleet as a whole is doing: level, figure and parts, and whether work is paused.

        The level is ``unknown``, and `reason` says why, where no monitor has looked lately. Raises
        BusUnavailable when the broker does not answer.
        """
        return await health_sdk.cluster_health(await self.connected(timeout_s))

    async def admit(
        self,
        node: str | None = None,
        *,
        cores: float = 0.0,
        memory_bytes: int = 0,
        disk_bytes: int = 0,
        path: str | None = None,
        gpus: int = 0,
        gpu_memory_bytes: int = 0,
        role: str | None = None,
        purpose: str = "",
        id: str | None = None,
        reserve_s: float = 30.0,
        timeout_s: float = 5.0,
        patience_s: float = 5.0,
    ) -> Admission:
        """May something heavy be started on a node (default: this one)? Ask before starting it.

        Yes comes with the indices of the GPUs that fit, and what was asked for is reserved for
        `reserve_s` (600 at most), until it shows in what is measured; no with the reason and, where
        waiting may help, with `retry_after_s`. Disk is looked at where `path` is, else on every
        watched folder; `gpu_memory_bytes` is to be free on each GPU. Asked again under the same
        `id`, it reserves once. Where nothing is asked for, only the state counts.

        Where no monitor answers within `patience_s`, the answer is no, with code ``no_monitor``:
        the node may be well, and nobody knows. Raises CommandFailed for a request that makes no
        sense.
        """
        request = Admit(
            node=node or self.node,
            purpose=purpose,
            cores=cores,
            memory_bytes=memory_bytes,
            disk_bytes=disk_bytes,
            path=path,
            gpus=gpus,
            gpu_memory_bytes=gpu_memory_bytes,
            role=role,
            id=id,
            reserve_s=reserve_s,
        )
        return await health_sdk.admit(self, request, timeout_s=timeout_s, patience_s=patience_s)

    async def pressure(self, scope: str = "fleet", *, timeout_s: float = 30.0) -> Pressure | None:
        """How overloaded the fleet is, or one node (``node.<name>``): a level that expires.

        None: not known, which is not the level ``none``. Raises BusUnavailable when the broker does
        not answer.
        """
        return await health_sdk.pressure(await self.connected(timeout_s), scope)

    def _progressing(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(lambda: self.bus, node=self.node, source=self.source)
        return self._progress

    async def close(self) -> None:
        """Give back every lock, send what waits, and disconnect."""
        if self._progress is not None:
            await self._progress.close()
        if self._locker is not None:
            await self._locker.close()
        if self._outbox is not None:
            await self._outbox.close()
        else:
            await self.bus.close()


def _received(delivery: Delivery) -> Received[Any]:
    event, payload = decode_event(delivery)
    return Received(delivery, event, payload)


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


@overload
def connect(
    settings: ConnectionSettings | None = None, *, source: str | None = None, outbox: None = None
) -> AbstractAsyncContextManager[Fleet]: ...


@overload
def connect(
    settings: ConnectionSettings | None = None, *, source: str | None = None, outbox: str | Path
) -> AbstractAsyncContextManager[Fleet[Stored]]: ...


def connect(
    settings: ConnectionSettings | None = None,
    *,
    source: str | None = None,
    outbox: str | Path | None = None,
) -> AbstractAsyncContextManager[Fleet] | AbstractAsyncContextManager[Fleet[Stored]]:
    """Connect to the fleet: ``async with interlock.connect() as fleet``.

    Where to is told by ``INTERLOCK_NATS_URL`` and the other settings of
    `interlock.settings.ConnectionSettings`. Raises ConnectFailed.

    With `outbox`, a file on a local disk, it returns at once, whether or not the broker can be
    reached; publishes return once this host has them on disk, and are forwarded in the background.
    What is left when the block ends is forwarded by whoever names the file next. Raises
    OutboxUnusable, and ConnectFailed only for an address that is none.
    """
    settings = settings or ConnectionSettings()
    source = source or default_source()
    if outbox is None:
        return _connected(settings, source)
    return _with_outbox(settings, source, Path(outbox))


@contextlib.asynccontextmanager
async def _connected(settings: ConnectionSettings, source: str) -> AsyncIterator[Fleet]:
    bus = await connect_bus(settings, name=source)
    fleet = Fleet(bus, source=source, node=settings.node, data=state.store_root(settings))
    try:
        yield fleet
    finally:
        await fleet.close()


@contextlib.asynccontextmanager
async def _with_outbox(
    settings: ConnectionSettings, source: str, path: Path
) -> AsyncIterator[Fleet[Stored]]:
    limits = Limits(messages=settings.outbox_max_messages, bytes=settings.outbox_max_bytes)
    link = Link(settings, name=source)
    outbox = await Outbox.open(path, limits=limits, drain_s=settings.outbox_drain_s)
    outbox.forward(link)
    data = state.store_root(settings)
    fleet = Fleet(link, source=source, node=settings.node, data=data, outbox=outbox)
    try:
        yield fleet
    finally:
        await fleet.close()
