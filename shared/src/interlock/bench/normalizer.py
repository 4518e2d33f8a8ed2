"""The event-normalizer from end to end: a backlog of legacy messages, and how fast it is done."""

import asyncio
import datetime
import sys
import time
from pathlib import Path
from typing import Any, Final

from interlock import process, provisioning
from interlock.bench.compare import Say
from interlock.bench.session import Session
from interlock.bench.workers import BenchFailed, environment
from interlock.bus import ApiError
from interlock.demo.script import script
from interlock.discovery import contracts
from interlock_schemas import envelope, mappings
from interlock_schemas.contracts import Contract
from interlock_schemas.topology import DEAD, EVENTS, LEGACY

__all__ = ["estimate_s", "installed", "measure"]

_POLL_S: Final = 0.005
_DONE_S: Final = 120.0
_STOP_S: Final = 20.0
_SEED: Final = 7
_WINDOW: Final = 256


def installed() -> Contract | None:
    """The contract of the normalizer, None where it is not installed."""
    return next((each for each in contracts() if each.name == mappings.SERVICE), None)


def estimate_s(messages: int, runs: int) -> float:
    """Roughly how long it takes, seconds."""
    return runs * (4.0 + messages / 3_000)


async def measure(
    running: Session, contract: Contract, *, count: int, runs: int, say: Say
) -> list[float]:
    """Messages a second, run by run: each with an empty store and a normalizer just started.

    Raises BenchFailed when a message did not become one event.
    """
    rates = []
    for number in range(runs):
        say(f"normalizer, {count:,} legacy messages, run {number + 1} of {runs}")
        rates.append(await _run(running, contract, count))
    return rates


async def _run(running: Session, contract: Contract, count: int) -> float:
    bus = running.bus
    for stream in (LEGACY, EVENTS, DEAD):
        await _delete(running, stream.name)
    await provisioning.apply(bus, contracts())
    await _preload(running, count)
    log = running.folder / "normalizer.log"
    started = await process.spawn(
        [sys.executable, "-m", contract.module], env=environment(running.settings), log=log
    )
    try:
        async with asyncio.timeout(_DONE_S):
            ended = await _until_done(running, contract, started, log)
    except TimeoutError as error:
        raise BenchFailed(
            f"the normalizer did not finish {count:,} messages within {_DONE_S:g} s: see {log}"
        ) from error
    finally:
        await _stop(started)
    await _check(running, count)
    answer = await bus.api(f"STREAM.MSG.GET.{EVENTS.name}", {"seq": 1})
    begun = datetime.datetime.fromisoformat(answer["message"]["time"])
    return count / (ended - begun.timestamp())


async def _preload(running: Session, count: int) -> None:
    """Every spelling of every legacy name, in each of the ways in which old workers send theirs."""
    items = iter(item for item in script(count * 3, _SEED) if item.kind == "legacy")
    left = count

    async def work() -> None:
        nonlocal left
        for item in items:
            if left <= 0:
                return
            left -= 1
            await running.bus.publish(item.subject, item.body, {envelope.MSG_ID: item.id})

    async with asyncio.TaskGroup() as group:
        for _ in range(_WINDOW):
            group.create_task(work())
    info = await running.bus.api(f"STREAM.INFO.{LEGACY.name}")
    if info["state"]["messages"] != count:
        raise BenchFailed(f"{count} legacy messages are wanted, {info['state']['messages']} stand")


async def _until_done(
    running: Session, contract: Contract, started: asyncio.subprocess.Process, log: Path
) -> float:
    """When its consumer had nothing left, seconds since the epoch."""
    verb = f"CONSUMER.INFO.{LEGACY.name}.{contract.consumes[0].name}"
    while True:
        info = await running.bus.api(verb)
        if not info["num_pending"] and not info["num_ack_pending"]:
            return time.time()
        if started.returncode is not None:
            raise BenchFailed(f"the normalizer ended with {started.returncode}: see {log}")
        await asyncio.sleep(_POLL_S)


async def _check(running: Session, count: int) -> None:
    held = {}
    for stream in (EVENTS, DEAD):
        info: dict[str, Any] = await running.bus.api(f"STREAM.INFO.{stream.name}")
        held[stream.name] = info["state"]["messages"]
    if held != {EVENTS.name: count, DEAD.name: 0}:
        raise BenchFailed(f"{count} legacy messages became {held}")


async def _stop(started: asyncio.subprocess.Process) -> None:
    if started.returncode is not None:
        return
    started.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await started.wait()
    except TimeoutError:
        started.kill()
        await started.wait()


async def _delete(running: Session, stream: str) -> None:
    try:
        await running.bus.api(f"STREAM.DELETE.{stream}")
    except ApiError as error:
        if error.code != 404:
            raise
