"""Takes publishes into the outbox: those that come at the same time share one commit.

A publish returns when its commit is on disk. What finds no room waits its turn, in order, until
its own deadline.
"""

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from opentelemetry.trace import SpanKind

from interlock import logs, metrics, telemetry
from interlock.errors import (
    MessageTooLarge,
    NotAcknowledged,
    OutboxFull,
    OutboxUnusable,
    PublishRefused,
)
from interlock.link import Link
from interlock.outbox.disk import Disk
from interlock.outbox.forwarder import Forwarder
from interlock.outbox.rules import Limits, Message, fits
from interlock.outbox.store import Refusal, Status, Stored
from interlock_schemas import envelope
from interlock_schemas.topology import LARGEST_MESSAGE_BYTES

__all__ = ["Outbox"]

#: Messages of one commit, so that none keeps the others waiting for long.
_LARGEST_COMMIT = 2_048

#: How often room that another process may have made is looked for, seconds.
_LOOK_S = 0.1

log = logs.get_logger("interlock.outbox")


class _Waiter:
    """One publish on its way to the disk."""

    __slots__ = ("future", "messages", "queued")

    def __init__(self, messages: Sequence[Message], future: asyncio.Future[list[Stored]]) -> None:
        self.messages = messages
        self.future = future
        self.queued = True


class Outbox:
    """An open outbox. Make one with `open`; it forwards once `forward` was called."""

    def __init__(self, disk: Disk, limits: Limits, drain_s: float) -> None:
        self._disk = disk
        self._drain_s = drain_s
        self._store = disk.store
        self._limits = limits
        self._queue: deque[_Waiter] = deque()
        self._room = asyncio.Event()
        self._committing: asyncio.Task[None] | None = None
        self._forwarding: tuple[Link, Forwarder, list[asyncio.Task[None]]] | None = None

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        limits: Limits | None = None,
        drain_s: float = 0.0,
        create: bool = True,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> "Outbox":
        """Open the outbox at `path`, on a local disk; make it where there is none.

        `drain_s` bounds how long `close` goes on forwarding, seconds.

        Raises OutboxUnusable where the file is damaged, of a newer format, or cannot be made.
        """
        disk = await Disk.open(Path(path), create=create, clock_ns=clock_ns)
        return cls(disk, limits or Limits(), drain_s)

    @property
    def path(self) -> Path:
        """Its file."""
        return self._store.path

    async def publish(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 30.0,
        own_id: bool | None = None,
    ) -> Stored:
        """Store one message, and return once it is on this disk.

        Its id, headers and trace are fixed now. `own_id` tells whether the id may have been used
        before (default: whether there is one). Where the outbox is full, waits for room.

        Raises OutboxFull when there was none for `timeout_s`, MessageTooLarge, PublishRefused
        where another message waits under the same id, OutboxUnusable, and NotAcknowledged when the
        disk did not answer in time.
        """
        return (await self._enter([_message(subject, body, headers, own_id)], timeout_s))[0]

    async def publish_many(
        self,
        messages: Iterable[tuple[str, bytes, Mapping[str, str]]],
        *,
        timeout_s: float = 60.0,
        own_id: bool | None = None,
    ) -> list[Stored]:
        """Store messages (subject, body, headers) in one commit: all of them, or none.

        Raises as `publish` does.
        """
        entering = [_message(*each, own_id) for each in messages]
        return await self._enter(entering, timeout_s) if entering else []

    async def _enter(self, messages: Sequence[Message], timeout_s: float) -> list[Stored]:
        size = sum(message.bytes for message in messages)
        if not fits(self._limits, waiting=0, bytes=0, more=len(messages), more_bytes=size):
            raise OutboxFull(
                f"{len(messages):,} messages of {size:,} bytes never fit into the outbox "
                f"{self.path}: publish fewer at a time, or raise INTERLOCK_OUTBOX_MAX_BYTES "
                f"({self._limits.bytes:,}) and INTERLOCK_OUTBOX_MAX_MESSAGES "
                f"({self._limits.messages:,})"
            )
        self._raise_if_dead()
        loop = asyncio.get_running_loop()
        waiter = _Waiter(messages, loop.create_future())
        self._queue.append(waiter)
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        try:
            async with asyncio.timeout(timeout_s):
                stored = await waiter.future
        except TimeoutError:
            if not waiter.queued:
                raise NotAcknowledged(
                    f"the disk of the outbox {self.path} did not answer within {timeout_s:g} s. "
                    "It may be stored or not; publishing it again under the same id is safe."
                ) from None
            raise self._full(timeout_s) from None
        finally:
            if waiter.queued:
                self._queue.remove(waiter)
        metrics.OUTBOX_STORED.add(sum(not each.duplicate for each in stored))
        metrics.OUTBOX_WAITING.set(stored[-1].waiting)
        if self._forwarding is not None:
            self._forwarding[1].wake()
        return stored

    def _full(self, timeout_s: float) -> OutboxFull:
        return OutboxFull(
            f"the outbox {self.path} is full ({self._limits.messages:,} messages or "
            f"{self._limits.bytes:,} bytes) and no room came within {timeout_s:g} s; this event is "
            "not stored. See `interlock outbox status` for why nothing is forwarded, publish less, "
            "or raise INTERLOCK_OUTBOX_MAX_MESSAGES and INTERLOCK_OUTBOX_MAX_BYTES."
        )

    async def _commit(self) -> None:
        """Store what waits, commit after commit, until nothing does."""
        while self._queue:
            batch: list[_Waiter] = []
            count = 0
            while self._queue and count < _LARGEST_COMMIT:
                batch.append(self._queue.popleft())
                batch[-1].queued = False
                count += len(batch[-1].messages)
            outcomes: Sequence[list[Stored] | Exception]
            self._room.clear()
            try:
                outcomes = await self._disk.do(
                    self._store.insert, [each.messages for each in batch], self._limits
                )
            except Exception as error:  # noqa: BLE001  # it is the publishers' to hear
                outcomes = [error] * len(batch)
            for waiter, outcome in zip(batch, outcomes, strict=False):
                if waiter.future.done():
                    continue
                if isinstance(outcome, Exception):
                    waiter.future.set_exception(outcome)
                else:
                    waiter.future.set_result(outcome)
            homeless = [each for each in batch[len(outcomes) :] if not each.future.done()]
            for each in homeless:
                each.queued = True
            if homeless:
                self._queue.extendleft(reversed(homeless))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._room.wait()

    def _raise_if_dead(self) -> None:
        """An unknown error of the forwarder is the publisher's business: nothing would arrive."""
        if self._disk.closed:
            raise OutboxUnusable(f"the outbox {self.path} is closed")
        for task in self._forwarding[2] if self._forwarding is not None else ():
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def forward(self, link: Link) -> None:
        """Begin to forward over this connection, as soon as it stands and nobody else forwards."""
        forwarder = Forwarder(self._disk, link, on_room=self._room.set)
        tasks = [asyncio.create_task(link.run()), asyncio.create_task(forwarder.run())]
        self._forwarding = (link, forwarder, tasks)

    async def status(self) -> Status:
        """How it stands."""
        return await self._disk.do(self._store.status)

    async def waiting(self) -> int:
        """How many messages wait."""
        return await self._disk.do(self._store.waiting)

    async def refused(self, limit: int = 100) -> list[Refusal]:
        """The first messages that were set aside because the broker will not take them."""
        return await self._disk.do(self._store.refusals, limit)

    async def retry(self, seqs: Sequence[int] | None = None) -> int:
        """Send messages that were set aside once more; None: all. Returns how many."""
        moved = await self._disk.do(self._store.retry, seqs)
        if self._forwarding is not None:
            self._forwarding[1].wake()
        return moved

    async def discard(self, seqs: Sequence[int] | None = None) -> int:
        """Delete messages that were set aside, for good; None: all. Returns how many."""
        return await self._disk.do(self._store.discard, seqs)

    async def close(self) -> None:
        """Forward for up to `drain_s` where the broker is there, and close.

        What waits then stays for whoever opens the file next.
        """
        if self._disk.closed:
            return
        forwarded = self._forwarding is not None
        try:
            await self._stop_forwarding()
            left = await self.waiting() if forwarded else 0
            if left:
                log.warning(
                    f"{left:,} messages wait in the outbox {self.path} for whoever opens it next",
                    waiting=left,
                )
        finally:
            for waiter in self._queue:
                waiter.queued = False
                if not waiter.future.done():
                    waiter.future.set_exception(
                        OutboxUnusable(
                            f"the outbox {self.path} was closed: the event is not stored"
                        )
                    )
            self._queue.clear()
            self._room.set()
            if self._committing is not None:
                await asyncio.wait((self._committing,))
            await self._disk.close()

    async def _stop_forwarding(self) -> None:
        if self._forwarding is None:
            return
        link, forwarder, tasks = self._forwarding
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._drain_s):
                    await forwarder.drained()
            self._raise_if_dead()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._forwarding = None
            await link.close()


def _message(
    subject: str, body: bytes, headers: Mapping[str, str] | None, own_id: bool | None
) -> Message:
    """A message with everything that must not change later: its id, its trace."""
    sent: dict[str, str] = dict(headers or {})
    told = envelope.lookup(sent, envelope.MSG_ID)
    id = told if told is not None else uuid.uuid4().hex
    if told is None:
        sent[envelope.MSG_ID] = id
    with telemetry.tracer.start_as_current_span(
        f"publish {subject.partition('.')[0]}",
        kind=SpanKind.PRODUCER,
        attributes={
            "messaging.system": "nats",
            "messaging.destination.name": subject,
            "messaging.message.id": id,
        },
    ):
        if envelope.lookup(sent, envelope.TRACEPARENT) is None:
            telemetry.inject(sent)
    try:
        subject.encode()
        packed = msgspec.json.encode(sent)
        size = len(body) + sum(len(k.encode()) + len(v.encode()) + 4 for k, v in sent.items())
    except UnicodeEncodeError as error:
        raise PublishRefused(f"{subject!r}: {error}", code=400) from error
    if size > LARGEST_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"the message has {size:,} bytes and the streams take {LARGEST_MESSAGE_BYTES:,}: "
            "hand large data over as an artifact, not as an event"
        )
    return Message(
        subject=subject,
        id=id,
        headers=packed,
        body=bytes(body),
        own_id=told is not None if own_id is None else own_id,
    )
