"""Interlock's own public interface: `Bus`, `Fleet`, `Service`, as workers and services use it."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from pydantic import SecretStr

from interlock.bench import message, stats
from interlock.bench.pace import open_loop
from interlock.bench.task import Task, Timing, Where
from interlock.bus import Ack
from interlock.fleet import Fleet, Received
from interlock.fleet import connect as connect_fleet
from interlock.service import Service
from interlock.settings import ConnectionSettings, ServiceSettings
from interlock_schemas.contracts import Contract
from interlock_schemas.training import TrainingProgressed

__all__ = ["WAYS", "connect"]

_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.002

_ANSWERS: Final = Contract(
    name=message.ECHO.service,
    version="1.0.0",
    summary="Answers the benchmark's requests.",
    module=__name__,
    answers=(message.ECHO,),
)


@contextlib.asynccontextmanager
async def connect(where: Where) -> AsyncIterator[Fleet]:
    """A connection as a worker makes it."""
    settings = ConnectionSettings(
        nats_url=",".join(where.urls),
        nats_user=where.user,
        nats_password=SecretStr(where.password),
    )
    async with connect_fleet(settings, source="interlock-bench") as fleet:
        yield fleet


async def publish_soon(fleet: Fleet, task: Task) -> Timing:
    """One after another with `Bus.publish_soon`; ends when all are acknowledged."""
    bus = fleet.bus
    body = message.body(task.size)
    waiting: deque[asyncio.Future[Ack]] = deque()
    begin = time.perf_counter()
    for number in range(task.count):
        waiting.append(
            await bus.publish_soon(
                task.subject, body, message.headers(task.mark, number), timeout_s=_TIMEOUT_S
            )
        )
        while waiting and waiting[0].done():
            waiting.popleft().result()
    for future in waiting:
        await future
    return Timing(seconds=time.perf_counter() - begin, count=task.count)


async def publish(fleet: Fleet, task: Task) -> Timing:
    """`Bus.publish` in `window` tasks at the same time; ends when all are acknowledged."""
    bus = fleet.bus
    body = message.body(task.size)
    numbers = iter(range(task.count))

    async def work() -> None:
        for number in numbers:
            await bus.publish(
                task.subject, body, message.headers(task.mark, number), timeout_s=_TIMEOUT_S
            )

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(task.window):
            group.create_task(work())
    return Timing(seconds=time.perf_counter() - begin, count=task.count)


async def publish_event(fleet: Fleet, task: Task) -> Timing:
    """`Fleet.publish` of a typed event in `window` tasks, with all of its CloudEvents headers."""
    event = TrainingProgressed(
        config=message.KEY, job_id="x" * max(0, task.size - 100), epoch=12, train_loss=0.4183
    )
    numbers = iter(range(task.count))

    async def work() -> None:
        for number in numbers:
            await fleet.publish(event, id=f"{task.mark}-{number}", timeout_s=_TIMEOUT_S)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(task.window):
            group.create_task(work())
    return Timing(seconds=time.perf_counter() - begin, count=task.count)


async def bulk(fleet: Fleet, task: Task) -> Timing:
    """The bulk lane; ends when the broker has acknowledged and counted all."""
    body = message.body(task.size)
    begin = time.perf_counter()
    async with fleet.bus.bulk() as lane:
        for number in range(task.count):
            await lane.publish(task.subject, body, message.headers(task.mark, number))
    return Timing(seconds=time.perf_counter() - begin, count=task.count)


async def publish_at_rate(fleet: Fleet, task: Task) -> Timing:
    """`Bus.publish` in an open loop; latency from the intended time to the acknowledgement."""
    bus = fleet.bus
    body = message.body(task.size)
    taken: list[int] = []

    async def send(number: int, intended_ns: int) -> None:
        await bus.publish(task.subject, body, message.headers(task.mark, number))
        taken.append(time.monotonic_ns() - intended_ns)

    seconds = await open_loop(task.rate, task.count, send)
    return Timing(seconds=seconds, count=task.count, latency=stats.latency(taken))


async def send_at_rate(fleet: Fleet, task: Task) -> Timing:
    """`Bus.publish` in an open loop, each message telling when it was meant to be sent."""
    bus = fleet.bus

    async def send(number: int, intended_ns: int) -> None:
        body = message.body(task.size, at_ns=intended_ns)
        await bus.publish(task.subject, body, message.headers(task.mark, number))

    seconds = await open_loop(task.rate, task.count, send)
    return Timing(seconds=seconds, count=task.count)


async def consume_batches(fleet: Fleet, task: Task) -> Timing:
    """`Fleet.consume` with a handler of batches; ends when the broker has nothing pending."""
    handled = 0
    done = asyncio.Event()

    async def handle(batch: list[Received[TrainingProgressed]]) -> None:
        nonlocal handled
        handled += len(batch)
        if handled >= task.count:
            done.set()

    return await _consume(fleet, task, handle, done, batch=task.batch)


async def consume(fleet: Fleet, task: Task) -> Timing:
    """`Fleet.consume` with a handler of one message; ends when the broker has nothing pending."""
    handled = 0
    done = asyncio.Event()

    async def handle(_: Received[TrainingProgressed]) -> None:
        nonlocal handled
        handled += 1
        if handled >= task.count:
            done.set()

    return await _consume(fleet, task, handle, done, concurrency=task.batch)


async def _consume(
    fleet: Fleet, task: Task, handle: Any, done: asyncio.Event, **options: Any
) -> Timing:
    stop = asyncio.Event()
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            fleet.consume(task.mark, handle, TrainingProgressed, stop=stop, **options)
        )
        await done.wait()
        while not await _nothing_pending(fleet, task):  # noqa: ASYNC110  # nobody is told
            await asyncio.sleep(_POLL_S)
        seconds = time.perf_counter() - begin
        stop.set()
    await fleet.bus.api(f"CONSUMER.DELETE.{task.stream}.{task.mark}")
    return Timing(seconds=seconds, count=task.count)


async def handle_at_rate(fleet: Fleet, task: Task) -> Timing:
    """`Fleet.consume`; latency from the intended time of sending to the handler."""
    taken: list[int] = []
    stop = asyncio.Event()

    async def handle(received: Received[TrainingProgressed]) -> None:
        at_ns = received.payload[message.AT_NS]
        taken.append(time.monotonic_ns() - at_ns)
        if len(taken) >= task.count:
            stop.set()

    begin = time.perf_counter()
    await fleet.consume(task.mark, handle, TrainingProgressed, concurrency=task.batch, stop=stop)
    seconds = time.perf_counter() - begin
    await fleet.bus.api(f"CONSUMER.DELETE.{task.stream}.{task.mark}")
    return Timing(seconds=seconds, count=task.count, latency=stats.latency(taken))


async def ask_at_rate(fleet: Fleet, task: Task) -> Timing:
    """`Fleet.command` in an open loop; latency from the intended time to the decoded reply."""
    taken: list[int] = []
    asked = TrainingProgressed(
        config=message.KEY, job_id="x" * max(0, task.size - 100), epoch=12, train_loss=0.4183
    )

    async def send(_: int, intended_ns: int) -> None:
        await fleet.command(message.ECHO, asked, timeout_s=_TIMEOUT_S)
        taken.append(time.monotonic_ns() - intended_ns)

    seconds = await open_loop(task.rate, task.count, send)
    return Timing(seconds=seconds, count=task.count, latency=stats.latency(taken))


async def answer(fleet: Fleet, task: Task) -> Timing:
    """A service that answers `count` requests with what was asked."""
    answered = 0
    stop, ready = asyncio.Event(), asyncio.Event()

    async def reply(asked: TrainingProgressed) -> TrainingProgressed:
        nonlocal answered
        answered += 1
        if answered >= task.count:
            # The reply goes out when this has returned.
            asyncio.get_running_loop().call_later(0.2, stop.set)
        return asked

    service = Service(_ANSWERS, ServiceSettings(), fleet)
    service.answer(message.ECHO, reply)
    begin = time.perf_counter()
    await service.serve(stop, ready)
    return Timing(seconds=time.perf_counter() - begin, count=answered)


async def _nothing_pending(fleet: Fleet, task: Task) -> bool:
    info = await fleet.bus.api(f"CONSUMER.INFO.{task.stream}.{task.mark}")
    return not info["num_pending"] and not info["num_ack_pending"]


WAYS: Final[Mapping[str, Callable[[Fleet, Task], Awaitable[Timing]]]] = {
    "publish_soon": publish_soon,
    "publish": publish,
    "publish_event": publish_event,
    "bulk": bulk,
    "publish_at_rate": publish_at_rate,
    "send_at_rate": send_at_rate,
    "consume_batches": consume_batches,
    "consume": consume,
    "handle_at_rate": handle_at_rate,
    "ask_at_rate": ask_at_rate,
    "answer": answer,
}
