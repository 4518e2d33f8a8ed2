"""One connection to the broker: acknowledged publishes, requests and the JetStream API.

Everything above speaks to the broker through a `Bus`. It retries what is safe to retry, under the
same message id, until a deadline; and it turns what the broker says into the errors of
`interlock.errors`.
"""

import asyncio
import contextlib
import functools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from interlock import endpoint, logs, telemetry
from interlock.acks import Ack
from interlock.backoff import delay_s
from interlock.bulk import BulkLane, Outgoing
from interlock.client import Client, Listener
from interlock.coalescing import BATCH_MESSAGES, Facts
from interlock.conditional import Conditional, Write
from interlock.errors import (
    BusUnavailable,
    ConnectFailed,
    ContractBroken,
    InterlockError,
    MessageTooLarge,
    NobodyThere,
    NotAcknowledged,
)
from interlock.frames import head_of, hpub, subject_bytes
from interlock.headers import parse as parse_headers
from interlock.lanes import Entry
from interlock.publisher import Publisher
from interlock.replies import Replies
from interlock.settings import ConnectionSettings
from interlock_schemas import envelope

__all__ = ["Ack", "ApiError", "Bus", "Message", "Outgoing", "Write", "connect"]

Message = Msg
T = TypeVar("T")

#: One try of a request to the JetStream API.
_TRY_S: Final = 4.0
_RETRY_BASE_S: Final = 0.05
_RETRY_CAP_S: Final = 1.0

#: Largest batch of writes that wait in memory while the broker is away, bytes.
_PENDING_BYTES: Final = 16 * 1024 * 1024

#: What a batch adds to the headers of a message, at most, bytes.
_HEADROOM_BYTES: Final = 256

#: What a message costs in memory besides its bytes, roughly.
_OVERHEAD_BYTES: Final = 512

#: What may be stored all or not at all, bytes.
_GROUP_BYTES: Final = 32 * 1024 * 1024

log = logs.get_logger("interlock.bus")


class Reply(msgspec.Struct, frozen=True):
    """The answer to a request."""

    data: bytes
    headers: Mapping[str, str]


class ApiError(InterlockError):
    """The JetStream API refused."""

    def __init__(self, message: str, *, code: int, err_code: int) -> None:
        super().__init__(message)
        self.code = code
        """HTTP-like status: 404 not found, 503 not available now."""
        self.err_code = err_code


class Bus:
    """A live connection. Make one with `connect`."""

    def __init__(self, client: Client, url: str) -> None:
        self._nc = client
        self.url = url
        """The broker's address, without credentials."""
        self._reconnects: list[Callable[[], None]] = []
        self._publisher = Publisher(client, self._facts)
        self._replies = Replies(client)
        self._conditional = Conditional(self._replies)

    async def start(self) -> None:
        """Make ready to publish, once connected."""
        await self._publisher.start()
        await self._replies.start()

    def closed(self) -> None:
        """End what waits for a connection that will not come back."""
        self._publisher.close("the connection is closed")

    @property
    def client(self) -> Client:
        """The client underneath, for what this class does not offer."""
        return self._nc

    @property
    def connected(self) -> bool:
        """Whether the connection stands at this moment."""
        return self._nc.is_connected

    @property
    def server(self) -> dict[str, Any]:
        """What the broker said of itself when it greeted us."""
        info: dict[str, Any] = getattr(self._nc, "_server_info", {})
        return info

    @contextlib.contextmanager
    def on_reconnect(self, callback: Callable[[], None]) -> Iterator[None]:
        """Have `callback` called after each reconnection, while the context lasts."""
        self._reconnects.append(callback)
        try:
            yield
        finally:
            self._reconnects.remove(callback)

    def reconnected(self) -> None:
        """Tell everybody who asked that the connection is back."""
        self._publisher.reconnected()
        self._replies.reconnected()
        for callback in list(self._reconnects):
            callback()

    async def publish(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 30.0,
        expected_revision: int | None = None,
    ) -> Ack:
        """Publish and return once the broker has it on disk.

        Publishes that are called at the same time go out together, in the order of the calls, and
        are stored in that order. Where more is waiting than memory is set aside for, it waits for
        room first; that counts towards `timeout_s`.

        Without a ``Nats-Msg-Id`` header one is made, so that a retry stores nothing twice.
        `expected_revision` makes it a compare-and-set on the subject's last sequence (0: none).

        The trace goes on in a ``traceparent`` header, unless there is one already.

        Raises NotAcknowledged at the deadline, WrongRevision when the compare-and-set lost,
        MessageTooLarge and PublishRefused when no retry would help.
        """
        if not telemetry.recording():
            return await self._publish(subject, body, headers, timeout_s, expected_revision)
        sent, span = _producer(subject, headers)
        with trace.use_span(span, end_on_exit=True):
            return await self._publish(subject, body, sent, timeout_s, expected_revision)

    async def _publish(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        timeout_s: float,
        expected_revision: int | None,
    ) -> Ack:
        if expected_revision is not None:
            expected = {"Nats-Expected-Last-Subject-Sequence": str(expected_revision)}
            headers = {**(headers or {}), **expected}
        entry = self._entry(subject, body, headers, timeout_s)
        lane = self._publisher.lane(subject, ordered=expected_revision is None)
        lane.add(entry)
        if lane.full:
            await lane.room(entry.future)
        return await entry.future

    async def publish_soon(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> "asyncio.Future[Ack]":
        """Publish without waiting for the acknowledgement, which the future brings.

        It waits only where more is waiting already than memory is set aside for. Messages are
        stored in the order of the calls. The future ends as `publish` would, at `timeout_s` at the
        latest. Raises MessageTooLarge and PublishRefused for what cannot be sent at all.
        """
        if telemetry.recording():
            sent, span = _producer(subject, headers)
            with trace.use_span(span):
                entry = self._entry(subject, body, sent, timeout_s)
            entry.future.add_done_callback(functools.partial(_end, span))
        else:
            entry = self._entry(subject, body, headers, timeout_s)
        lane = self._publisher.lane(subject)
        lane.add(entry)
        if lane.full:
            await lane.room(entry.future)
        elif lane.due:
            # Let answers in, and what waits out.
            await asyncio.sleep(0)
        return entry.future

    async def publish_many(
        self, messages: Sequence[Outgoing], *, timeout_s: float = 30.0
    ) -> list[Ack]:
        """Publish messages of one stream all or not at all; their acknowledgements in their order.

        At most 1,000, the broker's limit, and 32 MiB: ValueError for more. Where some of the ids
        are stored already, the broker refuses the whole; each is then published by itself under
        its id, so that at the end each is stored once.

        Raises NotAcknowledged at the deadline: all of it is stored, or nothing, but for the case
        above; MessageTooLarge and PublishRefused when nothing was stored.
        """
        if not messages:
            return []
        if len(messages) > BATCH_MESSAGES:
            raise ValueError(
                f"{len(messages):,} messages: the broker stores at most {BATCH_MESSAGES:,} as one"
            )
        loop = asyncio.get_running_loop()
        lane = self._publisher.lane(messages[0].subject)
        if any(self._publisher.lane(each.subject) is not lane for each in messages):
            raise ValueError("messages of different streams cannot be stored as one")
        deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await lane.room(loop.create_future())
        except TimeoutError as error:
            raise NotAcknowledged(
                f"{len(messages):,} messages were not sent: for {timeout_s:g} s there was no room "
                "among what waits for the broker. Nothing of them is stored."
            ) from error
        timeout_s = max(0.0, deadline - loop.time())
        entries = [
            self._entry(each.subject, each.body, each.headers, timeout_s) for each in messages
        ]
        for entry in entries:
            lane.check_size(entry)
        size = sum(entry.size for entry in entries)
        if size > _GROUP_BYTES:
            raise ValueError(f"{size:,} bytes: at most {_GROUP_BYTES:,} are stored as one")
        group: asyncio.Future[list[Ack]] = loop.create_future()
        lane.add_group(entries, group)
        return await group

    async def commit(self, writes: Sequence[Write], *, timeout_s: float = 10.0) -> Ack:
        """Store up to a few messages of one stream all or not at all, if what they expect holds.

        For compare-and-set. The acknowledgement of the last one; its sequence is 0 where the broker
        only says that they are stored already. Raises WrongRevision, PublishRefused, and
        NotAcknowledged when nothing is known.
        """
        return await self._conditional.commit(writes, timeout_s=timeout_s)

    def bulk(self, *, timeout_s: float = 60.0) -> BulkLane:
        """A lane for many messages to one stream: ``async with bus.bulk() as lane``.

        Ends with NotAcknowledged when nothing was acknowledged for `timeout_s`.
        """
        return BulkLane(self._nc, self, timeout_s=timeout_s)

    def encode(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None
    ) -> tuple[dict[str, str], bytes, bytes]:
        """Make a message ready: all its headers; subject and headers as bytes.

        It gets an id and the trace context where it has none. Raises MessageTooLarge, and
        PublishRefused for what cannot be sent.
        """
        sent = dict(headers) if headers else {}
        if envelope.MSG_ID not in sent and envelope.lookup(sent, envelope.MSG_ID) is None:
            sent[envelope.MSG_ID] = os.urandom(16).hex()
        if envelope.TRACEPARENT not in sent:
            telemetry.inject(sent)
        head = head_of(sent)
        if len(head) + len(body) > self._nc.max_payload - _HEADROOM_BYTES:
            raise MessageTooLarge(
                f"the message has {len(head) + len(body):,} bytes and the broker takes "
                f"{self._nc.max_payload - _HEADROOM_BYTES:,}: "
                "hand large data over as an artifact, not as an event"
            )
        return sent, subject_bytes(subject), head

    def _entry(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None, timeout_s: float
    ) -> Entry:
        _, address, head = self.encode(subject, body, headers)
        loop = asyncio.get_running_loop()
        size = len(address) + len(head) + len(body) + _OVERHEAD_BYTES
        deadline = loop.time() + timeout_s
        return Entry(address, head, body, size, timeout_s, deadline, loop.create_future())

    async def _facts(self, stream: str) -> Facts:
        """What a lane has to know of its stream."""
        try:
            config = (await self.api(f"STREAM.INFO.{stream}"))["config"]
        except (ApiError, BusUnavailable) as error:
            # We may not be allowed to ask. The broker refuses a batch that it does not take, and
            # then each message goes by itself.
            log.debug("the stream does not tell about itself", stream=stream, why=str(error))
            return Facts(atomic=True, replicas=3)
        return Facts(
            atomic=bool(config.get("allow_atomic", False)),
            replicas=int(config.get("num_replicas", 1)),
            largest_bytes=int(config.get("max_msg_size", -1)),
        )

    @property
    def held_bytes(self) -> int:
        """Memory of the publishes that are waiting or under way, bytes."""
        return self._publisher.held_bytes

    async def signal(
        self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send without acknowledgement: acknowledgements of deliveries, heartbeats."""
        with contextlib.suppress(nats.errors.OutboundBufferLimitError):
            await self._nc.publish(subject, body, headers=dict(headers) if headers else None)

    async def request(
        self,
        subject: str,
        body: bytes,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request, one reply. Raises BusUnavailable when nobody answers in time; NobodyThere,
        which is one, when the broker knows of nobody who could.

        While the connection is away it waits for it; what was asked on one that broke is not asked
        again, since it may have been done.
        """
        token, reply = self._replies.question()
        if headers:
            frame = hpub(subject_bytes(subject), reply, head_of(headers), b"", body)
        else:
            frame = b"PUB %b %b %d\r\n%b\r\n" % (subject_bytes(subject), reply, len(body), body)
        if len(frame) > self._nc.max_payload:
            raise MessageTooLarge(
                f"{subject}: the request has {len(frame):,} bytes and the broker takes "
                f"{self._nc.max_payload:,}"
            )
        if self._nc.is_closed:
            raise BusUnavailable(f"the connection is closed: {subject} was not asked")
        answer = await self._replies.ask(token, frame, timeout_s)
        if answer is None:
            raise BusUnavailable(f"no answer on {subject} within {timeout_s:g} s")
        block, data = answer
        found = parse_headers(block) if block else {}
        if not data and found.get("Status") == "503":
            raise NobodyThere(f"nobody answers on {subject}: is the service running?")
        return Reply(data, found)

    async def api(
        self, verb: str, payload: Mapping[str, Any] | None = None, *, timeout_s: float = 10.0
    ) -> dict[str, Any]:
        """Call the JetStream API, for example ``STREAM.INFO.EVENTS``.

        Asks again while JetStream is starting. Raises ApiError when it refuses.
        """
        body = msgspec.json.encode(payload) if payload is not None else b""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        attempt = 0
        while True:
            attempt += 1
            left = deadline - loop.time()
            try:
                reply = await self.request(
                    f"$JS.API.{verb}", body, timeout_s=max(0.05, min(_TRY_S, left))
                )
            except BusUnavailable:
                if deadline - loop.time() <= 0:
                    raise
            else:
                answer: dict[str, Any] = msgspec.json.decode(reply.data)
                error = answer.get("error")
                if error is None:
                    return answer
                if error.get("code") != 503 or deadline - loop.time() <= 0:
                    raise ApiError(
                        f"{verb}: {error.get('description', 'refused')}",
                        code=error.get("code", 0),
                        err_code=error.get("err_code", 0),
                    )
            pause = delay_s(attempt, base_s=_RETRY_BASE_S, cap_s=_RETRY_CAP_S, rand=random.random)
            await asyncio.sleep(max(0.0, min(pause, deadline - loop.time())))

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]], queue: str = ""
    ) -> Subscription:
        """Subscribe on core NATS. The callback is called for one message at a time."""
        return await self._nc.subscribe(
            subject, queue=queue, cb=callback, pending_msgs_limit=-1, pending_bytes_limit=-1
        )

    async def listen(self, subject: str, listener: Listener, queue: str = "") -> Subscription:
        """Subscribe and be called back from the read loop: the fast way in.

        `listener` gets subject, reply subject, header block and body as bytes, in order, and
        neither blocks nor raises.
        """
        return await self._nc.listen(subject, listener, queue)

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription of either kind, also while the connection is away."""
        await self._nc.unlisten(subscription)

    def post(self, subject: str, body: bytes, *, reply: str = "") -> None:
        """Send without acknowledgement and without waiting: the fast way out.

        What is posted in one turn of the event loop goes out together. While the connection is
        away it waits, up to a limit; past it, it is dropped. `subject` and `reply` must be valid.
        """
        head = (
            f"PUB {subject} {reply} {len(body)}\r\n" if reply else f"PUB {subject} {len(body)}\r\n"
        )
        self._nc.post(head.encode() + body + b"\r\n")

    def inbox(self) -> str:
        """A subject that nobody else uses."""
        return self._nc.new_inbox()

    async def flush(self) -> None:
        """Wait until the broker has read what was sent, or three seconds."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await self._nc.flush(timeout=3)

    async def close(self) -> None:
        """Send what waits and close. A publish that is not acknowledged yet ends in its error."""
        self._publisher.close("the connection was closed before the broker acknowledged")
        if not self._nc.is_closed:
            if self._nc.is_connected:
                self._nc.send_posted()
                await self.flush()
            await self._nc.leave()


def _producer(subject: str, headers: Mapping[str, str] | None) -> tuple[dict[str, str], Span]:
    """The span of a publish, and its headers with an id."""
    sent = dict(headers or {})
    id = envelope.lookup(sent, envelope.MSG_ID)
    if id is None:
        id = sent[envelope.MSG_ID] = os.urandom(16).hex()
    span = telemetry.tracer.start_span(
        f"publish {subject.partition('.')[0]}",
        kind=SpanKind.PRODUCER,
        attributes={
            "messaging.system": "nats",
            "messaging.destination.name": subject,
            "messaging.message.id": id,
        },
    )
    return sent, span


def _end(span: Span, published: "asyncio.Future[Ack]") -> None:
    """The span of a publish ends with its acknowledgement or its error."""
    error = None if published.cancelled() else published.exception()
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, str(error)))
    span.end()


async def connect(settings: ConnectionSettings | None = None, *, name: str = "interlock") -> Bus:
    """Connect to the broker that the settings name, or to this machine's own.

    Raises ConnectFailed, saying which address and why, after `connect_timeout_s`.
    """
    settings = settings or ConnectionSettings()
    where = endpoint.resolve(settings)
    client = Client()
    bus = Bus(client, where.url)
    reasons: list[str] = []

    async def on_error(error: Exception) -> None:
        text = str(error) or type(error).__name__
        # What follows a refused log-in, a reset connection, says less.
        if not any("authorization" in reason.lower() for reason in reasons):
            reasons[:] = [text]
        if client.is_connected:
            log.warning("broker error", error=text)

    async def on_disconnect() -> None:
        if not client.is_closed:
            log.warning("broker connection lost, reconnecting", url=where.url)

    async def on_closed() -> None:
        bus.closed()

    async def on_reconnect() -> None:
        log.info("broker connection back", url=where.url)
        client.send_posted()
        bus.reconnected()

    options: dict[str, Any] = {"reconnect_time_wait": 0.2}
    if where.creds is not None:
        options["user_credentials"] = str(where.creds)
    elif where.token is not None:
        options["token"] = where.token
    elif where.user is not None:
        options |= {"user": where.user, "password": where.password or ""}
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            await client.connect(
                servers=where.url.split(","),
                name=name,
                error_cb=on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
                closed_cb=on_closed,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                connect_timeout=2,
                ping_interval=3,
                max_outstanding_pings=2,
                pending_size=_PENDING_BYTES,
                **options,
            )
    except (TimeoutError, OSError, nats.errors.Error) as error:
        await _close(client)
        why = reasons[0] if reasons else (str(error) or "no answer")
        raise ConnectFailed(
            f"no broker at {where.url} ({where.origin}): {why}. Start one on this machine with "
            "`interlock up`, or set INTERLOCK_NATS_URL (and INTERLOCK_NATS_USER, "
            "INTERLOCK_NATS_PASSWORD)."
        ) from error
    if not bus.server.get("jetstream", False):
        await client.close()
        raise ContractBroken(f"the broker at {where.url} runs without JetStream: start it with -js")
    await bus.start()
    return bus


async def _close(client: Client) -> None:
    """Close a client that did not come to connect: it may be stuck in the attempt."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(3):
            await client.leave()


@contextlib.asynccontextmanager
async def connected(
    settings: ConnectionSettings | None = None, *, name: str = "interlock"
) -> AsyncIterator[Bus]:
    """`connect`, closed at the end of the block."""
    bus = await connect(settings, name=name)
    try:
        yield bus
    finally:
        await bus.close()
