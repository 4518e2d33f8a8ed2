"""Holders that are frozen past their lease, overtaken, and wake in the middle of a write.

Each holder has a lock of its own and stands just before its writes when its process is stopped.
While it is, its lease ends, somebody else takes the lock and writes to both stores. Then the
process goes on, and the holder writes at once: to the file, by its lease, and, as if it had been
stopped between the lease's own look at the clock and the network, straight to the broker.
"""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from interlock.bus import Bus
from interlock.chaos import ledger
from interlock.chaos.locks.client import Shared, lock_name
from interlock.chaos.locks.holder import GO, HOLDER_LINES, Late, Ready
from interlock.chaos.locks.planting import Plant
from interlock.chaos.locks.records import Value
from interlock.chaos.locks.stage import Processes, environment, prepare, served
from interlock.chaos.stage import Progress, bus_to, serving
from interlock.chaos.workers import AnyWorker
from interlock.cluster import LocalCluster
from interlock.errors import InterlockError
from interlock.fleet import Fleet

__all__ = ["Report", "run"]

_PROCESSES: Final = 5
_TTL_S: Final = 1.0
_START_S: Final = 60.0
_WAIT_S: Final = 20.0
_FINISH_S: Final = 30.0
_LOOK_S: Final = 0.05
_SHOWN: Final = 10


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the late writes. Counts of holders."""

    ok: bool
    workload: str = "frozen-holder"
    rounds: int
    brokers: int
    took_s: float
    taken_over: int
    """Whose lock somebody else had, and wrote under, while they were frozen."""
    refused_by_file: int
    """Whose late write the fence of files refused."""
    refused_by_lease: int
    """Whose lease refused to write."""
    refused_by_store: int
    """Whose late write the broker refused."""
    offending: list[str]
    """The first few that went wrong."""
    planted: str | None
    folder: str | None


async def run(rounds: int, *, brokers: int, plant: Plant | None, keep: bool) -> Report:
    """Freeze so many holders and let each write late. Raises InterlockError when it cannot."""
    begun = time.monotonic()
    tell = Progress()
    folder = Path(tempfile.mkdtemp(prefix="interlock-chaos-"))
    kept = False
    try:
        late, wrong, taken_over = await _run(folder, rounds, brokers, plant, tell)
        refused = {
            how: sum(getattr(each, how) == "refused" for each in late)
            for how in ("file", "lease", "store")
        }
        ok = not wrong and taken_over == rounds and set(refused.values()) == {rounds}
        kept = keep or not ok
        if kept:
            tell(f"kept: {folder}")
        return Report(
            ok=ok,
            rounds=rounds,
            brokers=brokers,
            took_s=round(time.monotonic() - begun, 1),
            taken_over=taken_over,
            refused_by_file=refused["file"],
            refused_by_lease=refused["lease"],
            refused_by_store=refused["store"],
            offending=wrong[:_SHOWN],
            planted=plant,
            folder=str(folder) if kept else None,
        )
    except Exception:
        kept = True
        tell(f"kept: {folder}")
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


async def _run(
    folder: Path, rounds: int, brokers: int, plant: Plant | None, tell: Progress
) -> tuple[list[Late], list[str], int]:
    cluster = LocalCluster(folder / "cluster", size=brokers)
    cluster.prepare()
    processes = Processes(folder, environment(cluster), plant, clocks_jump=False)
    shared = Shared(folder / "shared")
    count = min(rounds, _PROCESSES)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(serving(cluster))
        await prepare(cluster)
        bus = await stack.enter_async_context(bus_to(cluster))
        async with asyncio.TaskGroup() as group:
            service = processes.service("service")
            serve = group.create_task(service.run())
            tell("broker up; starting the lock service and holders")
            await served(bus, 1)
            holders = [
                processes.make(
                    f"holders-{n + 1}",
                    "interlock.chaos.locks.holder",
                    *("--folder", str(folder / "shared")),
                    *("--ttl", str(_TTL_S)),
                    *("--first", str(rounds * n // count)),
                    *("--last", str(rounds * (n + 1) // count)),
                    lines=HOLDER_LINES,
                )
                for n in range(count)
            ]
            work = [group.create_task(each.run()) for each in holders]
            tokens = await _ready(holders, rounds)
            tell(f"{rounds} holders hold; freezing them")
            for each in holders:
                each.freeze()
            taken = await _take_over(bus, shared, rounds)
            (folder / "shared" / GO).touch()
            tell("others have written under their locks; waking the holders")
            for each in holders:
                each.thaw()
            # They end by themselves once they have written.
            _, late_ones = await asyncio.wait(work, timeout=_FINISH_S)
            for task in late_ones:
                task.cancel()
            serve.cancel()
        wrong = await _wrong(bus, shared, taken, tokens)
    late = [line for each in holders for line in _lines(each, Late)]
    wrong += [
        f"{each.lock}: {each}" for each in late if "accepted" in msgspec.structs.astuple(each)
    ]
    return late, wrong, sum(mine > tokens[lock] for lock, mine in taken.items())


def _lines(worker: AnyWorker, kind: type[Late]) -> list[Late]:
    return [line for line in ledger.read(worker.ledger, HOLDER_LINES) if isinstance(line, kind)]


async def _ready(holders: Sequence[AnyWorker], rounds: int) -> dict[str, int]:
    """Wait until every holder is about to write; their tokens."""
    deadline = time.monotonic() + _START_S
    while True:
        found = {
            line.lock: line.token
            for each in holders
            for line in ledger.read(each.ledger, HOLDER_LINES)
            if isinstance(line, Ready)
        }
        if len(found) == rounds:
            return found
        if time.monotonic() > deadline:
            raise InterlockError(f"{len(found)} of {rounds} holders hold: see their logs")
        await asyncio.sleep(_LOOK_S)


async def _take_over(bus: Bus, shared: Shared, rounds: int) -> dict[str, int]:
    """Take every lock and write under it; the new tokens."""
    fleet = Fleet(bus, source="chaos/frozen")
    at_once = asyncio.Semaphore(16)

    async def one(lock: str) -> int:
        lease = await fleet.acquire_lock(lock, ttl=10.0, wait=_WAIT_S, note=f"new.{lock}")
        async with at_once:
            await asyncio.to_thread(shared.read, lock, lease.token)
            value = Value(value=1, token=lease.token, op="new")
            await asyncio.to_thread(shared.write, lock, value)
            await lease.put(lock, msgspec.json.encode(value))
        await lease.release()
        return lease.token

    async with asyncio.TaskGroup() as group:
        tasks = {lock_name(n): group.create_task(one(lock_name(n))) for n in range(rounds)}
    return {lock: task.result() for lock, task in tasks.items()}


async def _wrong(
    bus: Bus, shared: Shared, taken: dict[str, int], tokens: dict[str, int]
) -> list[str]:
    """Whose value is not the one that the new holder wrote."""
    fleet = Fleet(bus, source="chaos/frozen")
    found = []
    for lock, token in taken.items():
        body = await fleet.fenced_state(lock)
        stored = msgspec.json.decode(body, type=Value) if body is not None else None
        written = Value(value=1, token=token, op="new")
        if shared.values(lock) != [written]:
            found.append(f"{lock}: the file took a write with the old token {tokens[lock]}")
        if stored != written:
            found.append(f"{lock}: the broker took a write with the old token {tokens[lock]}")
    return found
