"""The bulk lane: one long batch with the broker's own flow control (fast ingest, ADR-50).

For replays, migrations and telemetry: many times as fast as single publishes, in order, each
message stored once by its id. It trusts nothing but flow acknowledgements and a final one whose
count fits; after a gap, a refusal, a new connection or a silence it goes on in a new batch behind
the last message that was acknowledged. On a stream that syncs always each message costs a sync of
its own here: the durable lane is the fast one there.
"""

import asyncio
import contextlib
import itertools
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec
from nats.aio.subscription import Subscription

from interlock import logs
from interlock.acks import Ack, Refusal
from interlock.client import Client
from interlock.errors import InterlockError, NotAcknowledged, PublishRefused
from interlock.frames import hpub
from interlock.headers import parse as parse_headers

__all__ = ["BulkLane", "BulkReceipt", "Outgoing"]

#: Messages between two flow acknowledgements that we ask for; the broker may say otherwise.
_FLOW: Final = 500
#: What may be under way: so many intervals of the broker's flow control, and so many bytes.
_INTERVALS: Final = 8
_HELD_BYTES: Final = 16 * 1024 * 1024
#: Messages are handed to the connection in portions of this size, messages and bytes.
_PORTION: Final = 200
_PORTION_BYTES: Final = 256 * 1024
#: The broker drops a batch after 10 s of silence; we say something earlier, and ask after so long
#: without an acknowledgement that is due.
_QUIET_S: Final = 2.0
#: A new batch, when so many questions got no answer.
_UNANSWERED: Final = 2
#: So often may a batch end at the same message before that message is to blame.
_SAME_PLACE: Final = 4
_PAUSE_S: Final = 0.1
_TICK_S: Final = 0.1

#: Operations in the reply subject: 3 commits without storing its own message.
_START, _APPEND, _COMMIT, _PING = 0, 1, 3, 4
_EMPTY_HEAD: Final = b"NATS/1.0\r\n"
_BATCH_DISABLED: Final = 10205

log = logs.get_logger("interlock.bulk")


class _Answer(msgspec.Struct):
    """A flow acknowledgement, a gap, an error, or the final acknowledgement."""

    type: str = ""
    seq: int = 0
    msgs: int = 0
    stream: str = ""
    batch: str = ""
    count: int = -1
    error: Refusal | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class Outgoing(msgspec.Struct, frozen=True):
    """A message to be published."""

    subject: str
    body: bytes
    headers: Mapping[str, str] = {}


class BulkFallback(Protocol):
    """The part of a bus that the lane needs."""

    def encode(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None
    ) -> tuple[Mapping[str, str], bytes, bytes]:
        """Its headers with an id, its subject and its header block without the closing line."""

    async def publish_soon(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> "asyncio.Future[Ack]":
        """Publish one message by itself."""


class BulkReceipt(msgspec.Struct, frozen=True):
    """What the broker has acknowledged for good."""

    messages: int
    """All that were handed to the lane; those that were stored before are among them."""
    batches: int
    """Into how many batches breaks have divided them. 1: nothing broke."""
    stream: str
    """Where they are. Empty when there was nothing to store."""


#: A message that is not acknowledged yet: subject, body, headers, the same encoded, its size.
_Held = tuple[str, bytes, Mapping[str, str], bytes, bytes, int]


class BulkLane:
    """Publishes a long run of messages to one stream. Made by `interlock.bus.Bus.bulk`.

    Used in a block; when it ends without an exception everything is acknowledged, and `receipt`
    tells what. For one task at a time.
    """

    def __init__(self, client: Client, publisher: BulkFallback, *, timeout_s: float) -> None:
        self._client = client
        self._bus = publisher
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._inbox = client.new_inbox().encode() + b"."
        self._subscription: Subscription | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._held: deque[_Held] = deque()
        self._held_bytes = 0
        self._acknowledged = 0
        self._why = "no stream answered: has `interlock setup` been run on this broker?"
        self._fatal: InterlockError | None = None
        self._receipt: BulkReceipt | None = None
        self._stream = ""
        self._batches = 0
        self._breaks_here = 0
        self._not_before = 0.0
        self._moved_at = self._loop.time()
        self._changed = asyncio.Event()
        # Of the batch that is open:
        self._batch = b""
        self._prefix = b""
        self._epoch = -1
        self._started = False
        self._sent = 0
        """Messages of `_held` that are part of it."""
        self._seq = 0
        """Number of the last message sent."""
        self._flow = _FLOW
        self._last = b""
        """Subject of the last message sent."""
        self._committing = False
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flush_due = False
        self._heard_at = 0.0
        self._asked = 0

    @property
    def receipt(self) -> BulkReceipt:
        """What was stored. Raises NotAcknowledged before the block has ended well."""
        if self._receipt is None:
            raise NotAcknowledged("the bulk lane has not been committed")
        return self._receipt

    @property
    def acknowledged(self) -> int:
        """Messages that are known to be stored so far: the first ones of those handed over."""
        return self._acknowledged

    @property
    def held_bytes(self) -> int:
        """Memory of what is not acknowledged yet, bytes. At most 16 MiB and one message."""
        return self._held_bytes

    async def __aenter__(self) -> "BulkLane":
        """Begin."""
        if self._client.is_closed:
            raise NotAcknowledged("the connection is closed")
        self._subscription = await self._client.listen(self._inbox.decode() + ">", self._on_answer)
        self._keeper = self._loop.create_task(self._keep())
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        """Commit, unless the block failed: then what is not acknowledged may be stored or not."""
        try:
            if kind is None:
                await self._finish()
        finally:
            if self._keeper is not None:
                self._keeper.cancel()
                await asyncio.gather(self._keeper, return_exceptions=True)
            if self._subscription is not None:
                await self._client.unlisten(self._subscription)

    async def publish(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Hand over one message; returns at once as long as the broker keeps up.

        Without a ``Nats-Msg-Id`` header one is made. Raises NotAcknowledged when nothing moves for
        the lane's time limit, PublishRefused when the stream takes no bulk or refuses a message,
        MessageTooLarge.
        """
        sent, address, head = self._bus.encode(subject, body, headers)
        size = len(address) + len(head) + len(body) + 128
        if self._fatal is not None or self._full(size):
            await self._until(lambda: not self._full(size))
        held = (subject, body, sent, address, head, size)
        self._held.append(held)
        self._held_bytes += size
        if self._started and self._sent == len(self._held) - 1:
            self._append(held)
            if not self._out:
                # Let answers in.
                await asyncio.sleep(0)
        else:
            self._pump()

    def _full(self, size: int) -> bool:
        return len(self._held) >= self._flow * _INTERVALS or (
            self._held_bytes + size > _HELD_BYTES and bool(self._held)
        )

    async def _until(self, done: Callable[[], bool]) -> None:
        """Wait for progress. Raises what ends the lane, or NotAcknowledged when nothing moves."""
        self._flush()
        self._moved_at = max(self._moved_at, self._loop.time())
        while True:
            if self._fatal is not None:
                raise self._fatal
            if done():
                return
            if self._breaks_here >= _SAME_PLACE:
                await self._one_by_one()
                continue
            self._changed.clear()
            left = self._moved_at + self._timeout_s - self._loop.time()
            if left <= 0:
                why = self._why if self._client.is_connected else "the broker is away"
                raise NotAcknowledged(
                    f"{self._acknowledged:,} messages are stored, and for {self._timeout_s:g} s "
                    f"no more were acknowledged ({why}). Publishing the rest again under "
                    "the same ids is safe."
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    async def _finish(self) -> None:
        """Commit, and go on until the count fits."""
        committed = not self._held and not self._batch

        def done() -> bool:
            nonlocal committed
            if not self._batch and not self._held:
                committed = True
            if self._batch and self._started and self._sent == len(self._held):
                self._commit()
            return committed

        await self._until(done)
        self._receipt = BulkReceipt(self._acknowledged, self._batches, self._stream)

    async def _one_by_one(self) -> None:
        """A batch ends at the same place again and again: find out which message is to blame."""
        log.info("bulk batch refused, publishing one by one", messages=len(self._held))
        self._batch = b""
        futures = [
            await self._bus.publish_soon(subject, body, headers, timeout_s=self._timeout_s)
            for subject, body, headers, _, _, _ in self._held
        ]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, InterlockError):
                self._fatal = outcome
                return
            if isinstance(outcome, BaseException):
                raise outcome
            self._stream = outcome.stream
            self._settle(1)
        self._breaks_here = 0

    # Sending

    def _pump(self) -> None:
        """Begin a batch where none is open, and send what may go."""
        if self._batch and self._epoch != self._client.epoch:
            self._break("the connection was lost")
        if not self._client.is_connected or self._loop.time() < self._not_before:
            return
        if not self._batch:
            if self._held:
                self._begin()
            return
        if self._started and not self._committing:
            for held in list(itertools.islice(self._held, self._sent, None)):
                self._append(held)

    def _begin(self) -> None:
        self._batch = secrets.token_hex(11).encode()
        self._prefix = b"%b%b.%d.fail." % (self._inbox, self._batch, _FLOW)
        self._batches += 1
        self._epoch = self._client.epoch
        self._started = False
        self._committing = False
        self._sent = 0
        self._seq = 0
        self._asked = 0
        self._heard_at = self._loop.time()
        self._out.clear()
        self._out_bytes = 0
        self._append(self._held[0], _START)
        self._flush()

    def _append(self, held: _Held, op: int = _APPEND) -> None:
        self._seq += 1
        self._sent += 1
        _, body, _, subject, head, _ = held
        self._last = subject
        frame = hpub(subject, self._reply(self._seq, op), head, b"", body)
        self._out.append(frame)
        self._out_bytes += len(frame)
        if len(self._out) >= _PORTION or self._out_bytes >= _PORTION_BYTES:
            self._flush()
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_soon)

    def _reply(self, seq: int, op: int) -> bytes:
        return b"%b%d.%d.$FI" % (self._prefix, seq, op)

    def _flush_soon(self) -> None:
        self._flush_due = False
        self._flush()

    def _flush(self) -> None:
        if self._out and self._batch and self._epoch == self._client.epoch:
            self._client.write(b"".join(self._out))
        self._out.clear()
        self._out_bytes = 0

    def _commit(self) -> None:
        if self._committing:
            return
        self._committing = True
        self._flush()
        self._client.write(
            hpub(self._last, self._reply(self._seq + 1, _COMMIT), _EMPTY_HEAD, b"", b"")
        )

    def _ask(self) -> None:
        """Is the batch still there, and how far has it come?"""
        self._asked += 1
        self._flush()
        self._client.write(hpub(self._last, self._reply(self._seq, _PING), _EMPTY_HEAD, b"", b""))

    # Answers

    def _on_answer(self, subject: bytes, _: bytes, headers: bytes, body: bytes) -> None:
        if not self._batch or not subject.startswith(self._batch, len(self._inbox)):
            return
        self._heard_at = self._loop.time()
        self._asked = 0
        if headers and not body:
            if parse_headers(headers).get("Status") == "503":
                self._break("no stream takes it: has `interlock setup` been run on this broker?")
            return
        try:
            answer = _decode(body)
        except msgspec.DecodeError:
            self._break("something else than a stream answered")
            return
        if answer.error is not None:
            if answer.error.err_code == _BATCH_DISABLED:
                self._fatal = PublishRefused(
                    f"stream {answer.stream} takes no bulk publishing: let `interlock setup` "
                    "bring it to what is declared",
                    code=_BATCH_DISABLED,
                )
                self._changed.set()
            else:
                self._break(answer.error.description)
        elif answer.count >= 0 and answer.stream:
            if self._committing and answer.count == self._seq:
                self._stream = answer.stream
                self._batch = b""
                self._settle(self._sent)
            else:
                self._break(f"the batch ended after {answer.count} of {self._seq} messages")
        elif answer.type == "ack":
            self._flow = max(1, answer.msgs)
            self._started = True
            self._why = "the broker did not answer"
            self._settle(answer.seq - (self._seq - self._sent))
            if self._sent < len(self._held):
                self._pump()
        else:
            self._break(answer.type or "an answer that makes no sense")

    def _settle(self, count: int) -> None:
        """The first `count` of what is held are stored."""
        for _ in range(min(count, len(self._held))):
            self._held_bytes -= self._held.popleft()[5]
            self._acknowledged += 1
            self._sent = max(0, self._sent - 1)
        if count > 0:
            self._moved_at = self._loop.time()
            self._breaks_here = 0
        self._changed.set()

    def _break(self, why: str) -> None:
        """The batch is over; what is not acknowledged goes into a new one."""
        log.debug("bulk batch broke", why=why, acknowledged=self._acknowledged)
        self._why = why
        self._batch = b""
        self._started = False
        self._committing = False
        self._sent = 0
        if self._epoch == self._client.epoch:
            self._breaks_here += 1
        self._not_before = self._loop.time() + _PAUSE_S * min(10, self._breaks_here)
        self._changed.set()

    async def _keep(self) -> None:
        """Notice a new connection, a silence, and that a pause is over."""
        while True:
            await asyncio.sleep(_TICK_S)
            if self._batch and self._client.is_connected and self._epoch == self._client.epoch:
                quiet = self._loop.time() - self._heard_at
                if self._asked > _UNANSWERED:
                    self._break(self._why)
                elif quiet > _QUIET_S * (1 + self._asked) and not self._client.unsent_bytes():
                    self._ask()
            self._pump()
            self._changed.set()
