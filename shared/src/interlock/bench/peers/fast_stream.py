"""FastStream, used as its documentation shows: ``broker.publish`` and ``@broker.subscriber``.

It gets what suits it best: msgspec instead of pydantic, no log line per message, and no parsing of
what is published, which is bytes already.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from fast_depends.msgspec import MsgSpecSerializer
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.security import SASLPlaintext

from interlock.bench import message, stats
from interlock.bench.pace import open_loop
from interlock.bench.peers import nats_py
from interlock.bench.task import Task, Timing, Where
from interlock_schemas.training import TrainingProgressed

__all__ = ["WAYS", "connect"]

_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.002
_REPLIED_S: Final = 0.2


class Connection:
    """A started broker object for publishing, and how to make another for subscribing.

    FastStream wants its subscribers before it starts.
    """

    def __init__(self, where: Where) -> None:
        self._where = where
        self.publisher = self.broker()

    def broker(self) -> NatsBroker:
        """A broker object that is not connected yet."""
        where = self._where
        return NatsBroker(
            where.urls,
            security=SASLPlaintext(username=where.user, password=where.password),
            serializer=MsgSpecSerializer(),
            logger=None,
            name="interlock-bench-faststream",
        )


@contextlib.asynccontextmanager
async def connect(where: Where) -> AsyncIterator[Connection]:
    """A connection as FastStream makes it."""
    connection = Connection(where)
    await connection.publisher.start()
    try:
        yield connection
    finally:
        await connection.publisher.stop()


async def publish(connection: Connection, task: Task) -> Timing:
    """`publish` in `window` tasks at the same time; ends when all are acknowledged."""
    broker = connection.publisher
    body = message.body(task.size)
    numbers = iter(range(task.count))

    async def work() -> None:
        for number in numbers:
            await broker.publish(
                body,
                task.subject,
                headers=message.headers(task.mark, number),
                stream=task.stream,
                timeout=_TIMEOUT_S,
            )

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(task.window):
            group.create_task(work())
    return Timing(seconds=time.perf_counter() - begin, count=task.count)


async def publish_at_rate(connection: Connection, task: Task) -> Timing:
    """`publish` in an open loop; latency from the intended time to the acknowledgement."""
    broker = connection.publisher
    body = message.body(task.size)
    taken: list[int] = []

    async def send(number: int, intended_ns: int) -> None:
        await broker.publish(
            body,
            task.subject,
            headers=message.headers(task.mark, number),
            stream=task.stream,
            timeout=_TIMEOUT_S,
        )
        taken.append(time.monotonic_ns() - intended_ns)

    seconds = await open_loop(task.rate, task.count, send)
    return Timing(seconds=seconds, count=task.count, latency=stats.latency(taken))


async def send_at_rate(connection: Connection, task: Task) -> Timing:
    """`publish` in an open loop, each message telling when it was meant to be sent."""
    broker = connection.publisher

    async def send(number: int, intended_ns: int) -> None:
        await broker.publish(
            message.body(task.size, at_ns=intended_ns),
            task.subject,
            headers=message.headers(task.mark, number),
            stream=task.stream,
            timeout=_TIMEOUT_S,
        )

    seconds = await open_loop(task.rate, task.count, send)
    return Timing(seconds=seconds, count=task.count)


async def subscriber(connection: Connection, task: Task) -> Timing:
    """A pull subscriber: decode, handle, acknowledge; ends when the broker has nothing pending."""
    handled = 0
    done = asyncio.Event()

    async def handle(_: TrainingProgressed) -> None:
        nonlocal handled
        handled += 1
        if handled >= task.count:
            done.set()

    async with _subscribed(connection, task, handle) as (broker, client):
        begin = time.perf_counter()
        await broker.start()
        await done.wait()
        while not await nats_py.nothing_pending(client, task):  # noqa: ASYNC110  # nobody is told
            await asyncio.sleep(_POLL_S)
        seconds = time.perf_counter() - begin
    return Timing(seconds=seconds, count=handled)


async def handle_at_rate(connection: Connection, task: Task) -> Timing:
    """A pull subscriber; latency from the intended time of sending to the handler."""
    taken: list[int] = []
    done = asyncio.Event()

    async def handle(payload: dict[str, Any]) -> None:
        taken.append(time.monotonic_ns() - payload[message.AT_NS])
        if len(taken) >= task.count:
            done.set()

    async with _subscribed(connection, task, handle) as (broker, _):
        begin = time.perf_counter()
        await broker.start()
        await done.wait()
        seconds = time.perf_counter() - begin
    return Timing(seconds=seconds, count=task.count, latency=stats.latency(taken))


@contextlib.asynccontextmanager
async def _subscribed(
    connection: Connection, task: Task, handle: Callable[..., Awaitable[None]]
) -> AsyncIterator[tuple[NatsBroker, Any]]:
    """A connected broker object with one subscriber, not started, and the client underneath."""
    broker = connection.broker()
    client = await broker.connect()
    await nats_py.make_consumer(client, task)
    broker.subscriber(
        task.subject,
        stream=JStream(task.stream, declare=False),
        durable=task.mark,
        pull_sub=PullSub(batch_size=task.batch, timeout=1.0),
    )(handle)
    try:
        yield broker, client
        await client.jetstream().delete_consumer(task.stream, task.mark)
    finally:
        await broker.stop()


async def ask_at_rate(connection: Connection, task: Task) -> Timing:
    """`request` in an open loop; latency from the intended time to the decoded reply."""
    broker = connection.publisher
    body = message.body(task.size)
    taken: list[int] = []

    async def send(_: int, intended_ns: int) -> None:
        reply = await broker.request(body, task.subject, timeout=_TIMEOUT_S)
        await reply.decode()
        taken.append(time.monotonic_ns() - intended_ns)

    seconds = await open_loop(task.rate, task.count, send)
    return Timing(seconds=seconds, count=task.count, latency=stats.latency(taken))


async def answer(connection: Connection, task: Task) -> Timing:
    """Answer `count` requests with what was asked, decoded and encoded again."""
    answered = 0
    done = asyncio.Event()

    async def reply(asked: TrainingProgressed) -> TrainingProgressed:
        nonlocal answered
        answered += 1
        if answered >= task.count:
            # The reply goes out when this has returned.
            asyncio.get_running_loop().call_later(_REPLIED_S, done.set)
        return asked

    broker = connection.broker()
    broker.subscriber(task.subject)(reply)
    begin = time.perf_counter()
    try:
        await broker.start()
        await done.wait()
        return Timing(seconds=time.perf_counter() - begin, count=answered)
    finally:
        await broker.stop()


WAYS: Final[Mapping[str, Callable[[Connection, Task], Awaitable[Timing]]]] = {
    "publish": publish,
    "publish_tasks": publish,
    "publish_at_rate": publish_at_rate,
    "send_at_rate": send_at_rate,
    "subscriber": subscriber,
    "handle_at_rate": handle_at_rate,
    "ask_at_rate": ask_at_rate,
    "answer": answer,
}
