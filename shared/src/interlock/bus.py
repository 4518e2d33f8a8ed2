"""One connection to the broker: acknowledged publishes, requests and the JetStream API.

Everything above speaks to the broker through a `Bus`. It retries what is safe to retry, under the
same message id, until a deadline; and it turns what the broker says into the errors of
`interlock.errors`.
"""

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from opentelemetry.trace import SpanKind

from interlock import endpoint, logs, telemetry
from interlock.backoff import delay_s
from interlock.client import Client, Listener
from interlock.errors import (
    BusUnavailable,
    ConnectFailed,
    ContractBroken,
    InterlockError,
    MessageTooLarge,
    NotAcknowledged,
    PublishRefused,
    WrongRevision,
)
from interlock.settings import ConnectionSettings
from interlock_schemas import envelope

__all__ = ["Ack", "ApiError", "Bus", "Message", "connect"]

Message = Msg
T = TypeVar("T")

#: One try of an acknowledged publish; then it is sent again under the same id.
_TRY_S: Final = 4.0
_RETRY_BASE_S: Final = 0.05
_RETRY_CAP_S: Final = 1.0

#: Largest batch of writes that wait in memory while the broker is away, bytes.
_PENDING_BYTES: Final = 16 * 1024 * 1024

_WRONG_LAST_SEQUENCE: Final = 10071
_TOO_LARGE: Final = 10054
_DUPLICATE_IN_FLIGHT: Final = 10158

log = logs.get_logger("interlock.bus")


class Ack(msgspec.Struct, frozen=True):
    """The broker's acknowledgement: the message is stored, and where."""

    stream: str
    seq: int
    duplicate: bool = False
    """The broker had stored a message of that id before."""


class ApiError(InterlockError):
    """The JetStream API refused."""

    def __init__(self, message: str, *, code: int, err_code: int) -> None:
        super().__init__(message)
        self.code = code
        """HTTP-like status: 404 not found, 503 not available now."""
        self.err_code = err_code


class _Refusal(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubReply(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Refusal | None = None


_NOT_A_STREAM: Final = _Refusal(
    code=400, err_code=400, description="something else than a stream answered"
)

_decode_pub_reply = msgspec.json.Decoder(_PubReply).decode


class Bus:
    """A live connection. Make one with `connect`."""

    def __init__(self, client: Client, url: str) -> None:
        self._nc = client
        self.url = url
        """The broker's address, without credentials."""
        self._reconnects: list[Callable[[], None]] = []

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

        Without a ``Nats-Msg-Id`` header one is made, so that a retry stores nothing twice.
        `expected_revision` makes it a compare-and-set on the subject's last sequence (0: none).

        The trace goes on in a ``traceparent`` header, unless there is one already.

        Raises NotAcknowledged at the deadline, WrongRevision when the compare-and-set lost,
        MessageTooLarge and PublishRefused when no retry would help.
        """
        sent = dict(headers or {})
        if envelope.lookup(sent, envelope.MSG_ID) is None:
            sent[envelope.MSG_ID] = uuid.uuid4().hex
        if expected_revision is not None:
            sent["Nats-Expected-Last-Subject-Sequence"] = str(expected_revision)
        with telemetry.tracer.start_as_current_span(
            f"publish {subject.partition('.')[0]}",
            kind=SpanKind.PRODUCER,
            attributes={
                "messaging.system": "nats",
                "messaging.destination.name": subject,
                "messaging.message.id": sent[envelope.MSG_ID],
            },
        ):
            if envelope.lookup(sent, envelope.TRACEPARENT) is None:
                telemetry.inject(sent)
            self._check_size(body, sent)
            return await self._publish(subject, body, sent, timeout_s)

    async def _ask(
        self, subject: str, body: bytes, timeout_s: float, headers: dict[str, str] | None
    ) -> Msg:
        """One request, under a time limit of ours.

        nats-py's own limit is `asyncio.wait_for`, which before Python 3.12 swallows a
        cancellation that comes together with the reply: the task then goes on for ever.
        """
        forever: Any = None
        async with asyncio.timeout(timeout_s):
            return await self._nc.request(subject, body, timeout=forever, headers=headers)

    async def _publish(
        self, subject: str, body: bytes, sent: dict[str, str], timeout_s: float
    ) -> Ack:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        why = "the broker did not answer"
        attempt = 0
        while (left := deadline - loop.time()) > 0:
            attempt += 1
            try:
                reply = await self._ask(subject, body, min(_TRY_S, left), sent)
            except nats.errors.NoRespondersError:
                why = f"no stream takes {subject}: has `interlock setup` been run on this broker?"
            except TimeoutError:
                why = "the broker did not answer"
            except nats.errors.OutboundBufferLimitError:
                why = "the broker is away and the buffer for it is full"
            except (
                nats.errors.ConnectionClosedError,
                nats.errors.ConnectionDrainingError,
            ) as error:
                raise NotAcknowledged(f"{subject}: the connection is closed") from error
            except nats.errors.BadSubjectError as error:
                raise PublishRefused(f"{subject!r} is not a subject", code=400) from error
            except (nats.errors.Error, UnicodeEncodeError) as error:
                raise PublishRefused(f"{subject}: {error!r}", code=400) from error
            else:
                answer = _ack_of(reply)
                if isinstance(answer, Ack):
                    return answer
                refused = _refusal(subject, answer)
                if refused is not None:
                    raise refused
                why = answer.description
            pause = delay_s(attempt, base_s=_RETRY_BASE_S, cap_s=_RETRY_CAP_S, rand=random.random)
            await asyncio.sleep(max(0.0, min(pause, deadline - loop.time())))
        raise NotAcknowledged(
            f"{subject} was not acknowledged within {timeout_s:g} s ({why}). It may be stored or "
            "not; publishing it again under the same id is safe."
        )

    def _check_size(self, body: bytes, headers: Mapping[str, str]) -> None:
        size = len(body) + sum(len(k.encode()) + len(v.encode()) + 4 for k, v in headers.items())
        limit = self._nc.max_payload - 64
        if size > limit:
            raise MessageTooLarge(
                f"the message has {size:,} bytes and the broker takes {limit:,}: "
                "hand large data over as an artifact, not as an event"
            )

    async def signal(
        self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send without acknowledgement: acknowledgements of deliveries, heartbeats."""
        with contextlib.suppress(nats.errors.OutboundBufferLimitError):
            await self._nc.publish(subject, body, headers=dict(headers) if headers else None)

    async def request(
        self, subject: str, body: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Msg:
        """One request, one reply. Raises BusUnavailable when nobody answers in time."""
        try:
            return await self._ask(subject, body, timeout_s, headers)
        except nats.errors.NoRespondersError as error:
            raise BusUnavailable(f"nobody answers on {subject}: is the service running?") from error
        except TimeoutError as error:
            raise BusUnavailable(f"no answer on {subject} within {timeout_s:g} s") from error
        except (
            nats.errors.ConnectionClosedError,
            nats.errors.ConnectionDrainingError,
            nats.errors.OutboundBufferLimitError,
        ) as error:
            raise BusUnavailable(f"the broker is away: {subject} was not asked") from error

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
        """Send what waits and close."""
        if not self._nc.is_closed:
            if self._nc.is_connected:
                self._nc.send_posted()
                await self.flush()
            await self._nc.close()


def _ack_of(reply: Msg) -> "Ack | _Refusal":
    try:
        answer = _decode_pub_reply(reply.data)
    except msgspec.DecodeError:
        return _NOT_A_STREAM
    if answer.error is not None:
        return answer.error
    if not answer.stream or answer.seq < 1:
        return _NOT_A_STREAM
    return Ack(answer.stream, answer.seq, answer.duplicate)


def _refusal(subject: str, error: _Refusal) -> InterlockError | None:
    """The error to raise, or None where the same publish may succeed in a moment."""
    if error.err_code == _WRONG_LAST_SEQUENCE:
        return WrongRevision(f"{subject}: {error.description}", code=error.err_code)
    if error.err_code == _TOO_LARGE:
        return MessageTooLarge(f"{subject}: {error.description}")
    if error.code == 503 or error.err_code == _DUPLICATE_IN_FLIGHT:
        return None
    return PublishRefused(f"{subject}: {error.description}", code=error.err_code)


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
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                connect_timeout=2,
                ping_interval=10,
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
    return bus


async def _close(client: Client) -> None:
    """Close a client that did not come to connect: it may be stuck in the attempt."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(3):
            await client.close()


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
