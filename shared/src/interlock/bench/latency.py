"""Latency at a fixed rate, in an open loop, the clients in turns."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Final

from interlock.bench import message, stats
from interlock.bench.cases import COMPARED_SIZE
from interlock.bench.compare import Say
from interlock.bench.result import LatencyRow
from interlock.bench.session import Session
from interlock.bench.task import Task, Timing
from interlock.bench.workers import BenchFailed
from interlock.bus import ApiError
from interlock.errors import BusUnavailable
from interlock_schemas.topology import EVENTS

__all__ = ["RATE", "estimate_s", "measure"]

#: Messages a second: well below what any of the clients can do, so that nobody only queues.
RATE: Final = 500.0
_OVERHEAD_S: Final = 0.6
_BATCH: Final = 100
_POLL_S: Final = 0.01
_READY_S: Final = 20.0

_WHAT: Final = ("publish_to_ack", "publish_to_handler", "request_to_reply")


def estimate_s(clients: Collection[str], *, runs: int, run_s: float) -> float:
    """Roughly how long it takes on one broker, seconds."""
    return len(_WHAT) * len(clients) * runs * (run_s + _OVERHEAD_S)


async def measure(
    running: Session,
    clients: Sequence[str],
    *,
    sync: str,
    runs: int,
    run_s: float,
    say: Say,
    failed: dict[str, str],
) -> list[LatencyRow]:
    """All latencies of all clients, `runs` of `run_s` seconds each.

    One of others that fails is noted and left out.

    Raises BenchFailed when ours fails.
    """
    await running.start((client, role) for client in clients for role in ("sender", "receiver"))
    found = []
    for what in _WHAT:
        say(f"latency, {what.replace('_', ' ')}, {running.replicas} replica(s), sync {sync}")
        taken: dict[str, list[stats.Latency]] = {client: [] for client in clients}
        for _ in range(runs):
            for client in list(taken):
                try:
                    taken[client].append(await _run(running, client, what, round(RATE * run_s)))
                except BenchFailed as error:
                    if client == "interlock":
                        raise
                    failed[f"{client} {what}, {running.replicas} replica(s)"] = str(error)
                    del taken[client]
        found += [_row(running, client, what, sync, each) for client, each in taken.items()]
    return found


def _row(
    running: Session, client: str, what: str, sync: str, runs: Sequence[stats.Latency]
) -> LatencyRow:
    return LatencyRow(
        what=what,
        client=client,
        size=COMPARED_SIZE,
        replicas=running.replicas,
        sync=sync,
        rate=RATE,
        p50_ms=stats.median([run.p50_ms for run in runs]),
        p99_ms=stats.median([run.p99_ms for run in runs]),
        p999_ms=stats.median([run.p999_ms for run in runs]),
        max_ms=max(run.max_ms for run in runs),
        runs=len(runs),
        samples=sum(run.samples for run in runs),
    )


async def _run(running: Session, client: str, what: str, count: int) -> stats.Latency:
    if what == "request_to_reply":
        asked = asyncio.ensure_future(
            # One more, for the question whether it is there.
            running.run(
                client,
                _task(running, "answer", message.ECHO.subject, count + 1),
                role="receiver",
            )
        )
        async with _ending(asked):
            await _until_answered(running)
            task = _task(running, "ask_at_rate", message.ECHO.subject, count)
            timing = await running.run(client, task, role="sender")
            await asked
        # A service is there for as long as its process, and would answer for the next client too.
        await running.retire(client, "receiver")
    elif what == "publish_to_handler":
        await running.fresh_stream()
        handle = _task(running, "handle_at_rate", message.SUBJECT, count)
        handled = asyncio.ensure_future(running.run(client, handle, role="receiver"))
        async with _ending(handled):
            await _until_pulled(running, handle.mark)
            send = _task(running, "send_at_rate", message.SUBJECT, count)
            await running.run(client, send, role="sender")
            timing = await handled
    else:
        await running.fresh_stream()
        task = _task(running, "publish_at_rate", message.SUBJECT, count)
        timing = await running.run(client, task, role="sender")
    if timing.latency is None:
        raise BenchFailed(f"{client} {what}: no latency was reported")
    return timing.latency


@contextlib.asynccontextmanager
async def _ending(background: asyncio.Future[Timing]) -> AsyncIterator[None]:
    """Cancel what runs in the background when the block fails."""
    try:
        yield
    except BaseException:
        background.cancel()
        await asyncio.wait((background,))
        raise


def _task(running: Session, way: str, subject: str, count: int) -> Task:
    return Task(
        way=way,
        count=count,
        stream=EVENTS.name,
        subject=subject,
        size=COMPARED_SIZE,
        mark=running.mark(),
        batch=_BATCH,
        rate=RATE,
    )


async def _until_answered(running: Session) -> None:
    """Return when somebody answers the command."""
    async with asyncio.timeout(_READY_S):
        while True:
            try:
                await running.bus.request(
                    message.ECHO.subject, message.body(COMPARED_SIZE), timeout_s=5.0
                )
            except BusUnavailable:
                await asyncio.sleep(_POLL_S)
            else:
                return


async def _until_pulled(running: Session, consumer: str) -> None:
    """Return when somebody waits for messages of the consumer."""
    async with asyncio.timeout(_READY_S):
        while True:
            try:
                info = await running.bus.api(f"CONSUMER.INFO.{EVENTS.name}.{consumer}")
            except ApiError as error:
                if error.code != 404:
                    raise
            else:
                if info["num_waiting"]:
                    return
            await asyncio.sleep(_POLL_S)
