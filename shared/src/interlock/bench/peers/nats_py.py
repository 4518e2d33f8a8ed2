"""nats-py, used as its documentation shows: ``publish``, ``publish_async``, ``fetch``, requests."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as FetchTimeout
from nats.js.api import AckPolicy, ConsumerConfig, PubAck
from nats.js.errors import ServiceUnavailableError

from interlock.bench import message, stats
from interlock.bench.pace import open_loop
from interlock.bench.task import Task, Timing, Where
from interlock_schemas.training import TrainingProgressed

__all__ = ["WAYS", "connect", "make_consumer", "nothing_pending"]

#: nats-py's own limit of publishes under way is 4,000, unless one is named.
_OWN_WINDOW: Final = 4_000
_FETCH_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.002
#: Ends of a fetch after which one asks again: nothing there yet, or, in a cluster, no way yet to a
#: consumer that was just made.
_AGAIN: Final = (FetchTimeout, ServiceUnavailableError)

_decode = msgspec.json.Decoder(TrainingProgressed).decode


@contextlib.asynccontextmanager
async def connect(where: Where) -> AsyncIterator[Client]:
    """A connection as ``nats.connect`` makes it."""
    client = await nats.connect(
        list(where.urls),
        user=where.user,
        password=where.password,
        name="interlock-bench-nats-py",
    )
    try:
        yield client
    finally:
        await client.close()


async def publish_async(client: Client, task: Task) -> Timing:
    """One after another with `publish_async`; ends when all are acknowledged."""
    stream = client.jetstream(publish_async_max_pending=task.window or _OWN_WINDOW)
    body = message.body(task.size)
    waiting: deque[asyncio.Future[PubAck]] = deque()
    begin = time.perf_counter()
    for number in range(task.count):
        waiting.append(
            await stream.publish_async(
                task.subject, body, headers=message.headers(task.mark, number)
            )
        )
        while waiting and waiting[0].done():
            waiting.popleft().result()
    for future in waiting:
        await future
    return Timing(seconds=time.perf_counter() - begin, count=task.count)


async def publish(client: Client, task: Task) -> Timing:
    """`publish` in `window` tasks at the same time; ends when all are acknowledged."""
    stream = client.jetstream(timeout=30)
    body = message.body(task.size)
    numbers = iter(range(task.count))

    async def work() -> None:
        for number in numbers:
            await stream.publish(task.subject, body, headers=message.headers(task.mark, number))

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(task.window):
            group.create_task(work())
    return Timing(seconds=time.perf_counter() - begin, count=task.count)


async def publish_at_rate(client: Client, task: Task) -> Timing:
    """`publish` in an open loop; latency from the intended time to the acknowledgement."""
    stream = client.jetstream(timeout=30)
    body = message.body(task.size)
    taken: list[int] = []

    async def send(number: int, intended_ns: int) -> None:
        await stream.publish(task.subject, body, headers=message.headers(task.mark, number))
        taken.append(time.monotonic_ns() - intended_ns)

    seconds = await open_loop(task.rate, task.count, send)
    return Timing(seconds=seconds, count=task.count, latency=stats.latency(taken))


async def send_at_rate(client: Client, task: Task) -> Timing:
    """`publish` in an open loop, each message telling when it was meant to be sent."""
    stream = client.jetstream(timeout=30)

    async def send(number: int, intended_ns: int) -> None:
        body = message.body(task.size, at_ns=intended_ns)
        await stream.publish(task.subject, body, headers=message.headers(task.mark, number))

    seconds = await open_loop(task.rate, task.count, send)
    return Timing(seconds=seconds, count=task.count)


async def fetch(client: Client, task: Task) -> Timing:
    """A loop of `fetch`: decode, handle, acknowledge; ends when the broker has nothing pending."""
    handled = 0

    async def handle(_: TrainingProgressed) -> None:
        nonlocal handled
        handled += 1

    stream = client.jetstream()
    await make_consumer(client, task)
    subscription = await stream.pull_subscribe_bind(consumer=task.mark, stream=task.stream)
    begin = time.perf_counter()
    while handled < task.count:
        with contextlib.suppress(*_AGAIN):
            for msg in await subscription.fetch(task.batch, timeout=_FETCH_TIMEOUT_S):
                await handle(_decode(msg.data))
                await msg.ack()
    while not await nothing_pending(client, task):  # noqa: ASYNC110  # nobody is told
        await asyncio.sleep(_POLL_S)
    seconds = time.perf_counter() - begin
    await subscription.unsubscribe()
    await stream.delete_consumer(task.stream, task.mark)
    return Timing(seconds=seconds, count=handled)


async def handle_at_rate(client: Client, task: Task) -> Timing:
    """A loop of `fetch`; latency from the intended time of sending to the handler."""
    taken: list[int] = []

    async def handle(payload: Mapping[str, int]) -> None:
        taken.append(time.monotonic_ns() - payload[message.AT_NS])

    stream = client.jetstream()
    await make_consumer(client, task)
    subscription = await stream.pull_subscribe_bind(consumer=task.mark, stream=task.stream)
    begin = time.perf_counter()
    while len(taken) < task.count:
        with contextlib.suppress(*_AGAIN):
            for msg in await subscription.fetch(task.batch, timeout=_FETCH_TIMEOUT_S):
                await handle(msgspec.json.decode(msg.data))
                await msg.ack()
    seconds = time.perf_counter() - begin
    await subscription.unsubscribe()
    await stream.delete_consumer(task.stream, task.mark)
    return Timing(seconds=seconds, count=task.count, latency=stats.latency(taken))


async def ask_at_rate(client: Client, task: Task) -> Timing:
    """`request` in an open loop; latency from the intended time to the decoded reply."""
    taken: list[int] = []
    body = message.body(task.size)

    async def send(_: int, intended_ns: int) -> None:
        reply = await client.request(task.subject, body, timeout=30)
        _decode(reply.data)
        taken.append(time.monotonic_ns() - intended_ns)

    seconds = await open_loop(task.rate, task.count, send)
    return Timing(seconds=seconds, count=task.count, latency=stats.latency(taken))


async def answer(client: Client, task: Task) -> Timing:
    """Answer `count` requests with what was asked, decoded and encoded again."""
    answered = 0
    done = asyncio.Event()

    async def reply(msg: Msg) -> None:
        nonlocal answered
        await msg.respond(msgspec.json.encode(_decode(msg.data)))
        answered += 1
        if answered == task.count:
            done.set()

    begin = time.perf_counter()
    subscription = await client.subscribe(task.subject, cb=reply)
    await done.wait()
    await client.flush()
    await subscription.unsubscribe()
    return Timing(seconds=time.perf_counter() - begin, count=answered)


async def make_consumer(client: Client, task: Task) -> None:
    """A durable consumer for this run alone, wide enough for any batch."""
    await client.jetstream().add_consumer(
        task.stream,
        ConsumerConfig(
            durable_name=task.mark,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=30.0,
            max_ack_pending=10_000,
            filter_subject=task.subject,
        ),
    )


async def nothing_pending(client: Client, task: Task) -> bool:
    """Whether the broker counts every message as delivered and acknowledged."""
    info = await client.jetstream().consumer_info(task.stream, task.mark)
    return not info.num_pending and not info.num_ack_pending


WAYS: Final[Mapping[str, Callable[[Client, Task], Awaitable[Timing]]]] = {
    "publish_async": publish_async,
    "publish": publish,
    "publish_at_rate": publish_at_rate,
    "send_at_rate": send_at_rate,
    "fetch": fetch,
    "handle_at_rate": handle_at_rate,
    "ask_at_rate": ask_at_rate,
    "answer": answer,
}
