"""One real monitor, a real broker, and thousands of simulated agents: what it costs, and how soon
it notices.

Every agent beats once a second. Some are killed, one after the other, as the kernel kills a
process: no more beats, and the broker knows of nobody there. What is measured is the time from
there to `node.lost`, the monitor's share of a core and its memory, and whether any heartbeat or
death was missed or anybody declared lost who lives.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from interlock.bench import machine, stats
from interlock.bench.compare import Say
from interlock.bench.play import scratch
from interlock.broker import find_server
from interlock.bus import Bus, connected
from interlock.clock import parse_ns
from interlock.discovery import select
from interlock.errors import BusUnavailable, InterlockError
from interlock.fleet import Fleet
from interlock.local import local_fleet
from interlock.process import die_with
from interlock.reader import Reader
from interlock_schemas import health, subjects
from interlock_schemas.node import NodeLost
from interlock_schemas.topology import EVENTS

__all__ = ["HealthBench", "play", "show"]

_TICKS: Final = 100.0
#: How long the fleet may take to be known, and a death to be noticed, seconds.
_PATIENCE_S: Final = 90.0
_SETTLE_S: Final = 15.0


class HealthBench(msgspec.Struct, frozen=True, kw_only=True):
    """What ``interlock bench health --json`` prints."""

    agents: int
    seconds: float
    """How long heartbeats were counted."""
    kills: int
    detected: int
    """Killed, and declared lost."""
    detection_s: dict[str, float]
    """Kill to `node.lost`, as its record says: p50, p99, max."""
    false_lost: int
    """Declared lost, and alive."""
    heartbeats: int
    heartbeats_missed: int
    cpu_share: float
    """Of one core, by the monitor, while beats were counted."""
    rss_mib: float
    """Memory of the monitor at the end."""
    machine: machine.Machine


async def play(agents: int, *, kills: int, seconds: float, seed: int, say: Say) -> HealthBench:
    """Run it. Raises InterlockError when the fleet does not come up."""
    rand = random.Random(seed)  # noqa: S311 - not for secrets
    with scratch(None) as made:
        folder = Path(made)
        found = machine.examine(folder, find_server().version_text)
        chosen = select([health.MONITOR])
        async with (
            local_fleet(folder / "state", services=chosen) as running,
            connected(running.settings, name="bench-health") as bus,
            _agents(agents, running.env) as process,
        ):
            await running.supervisor.until_running(health.MONITOR)
            processes = {each.name: each.pid for each in running.supervisor.processes()}
            pid = processes[health.MONITOR]
            fleet: Fleet = Fleet(bus, source="bench")
            await _known(fleet, agents, say)
            say(f"all {agents:,} are known; it settles for {_SETTLE_S:.0f} s")
            await asyncio.sleep(_SETTLE_S)
            before = await fleet.command(health.NODES_LIST, health.ListNodes(limit=1))
            cpu, begin = _cpu_s(pid), time.monotonic()
            killed = await _kill(process, agents, kills, seconds, rand, say)
            left = seconds - (time.monotonic() - begin)
            await asyncio.sleep(max(0.0, left))
            took = time.monotonic() - begin
            share = (_cpu_s(pid) - cpu) / took
            lost = await _lost(bus, set(killed))
            after = await fleet.command(health.NODES_LIST, health.ListNodes(limit=1))
            rss = _rss_mib(pid)
    times = [lost[name] - at for name, at in killed.items() if name in lost]
    return HealthBench(
        agents=agents,
        seconds=round(took, 1),
        kills=len(killed),
        detected=len(times),
        detection_s=_quantiles(times),
        false_lost=len(set(lost) - set(killed)),
        heartbeats=after.heartbeats - before.heartbeats,
        heartbeats_missed=after.heartbeats_missed,
        cpu_share=round(share, 3),
        rss_mib=round(rss, 1),
        machine=found,
    )


@asynccontextmanager
async def _agents(count: int, env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "interlock.bench.agents", "--count", str(count),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **env}, preexec_fn=die_with(os.getpid(), signal.SIGKILL),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _known(fleet: Fleet, agents: int, say: Say) -> None:
    begin = time.monotonic()
    said = 0.0
    while True:
        try:
            page = await fleet.command(
                health.NODES_LIST, health.ListNodes(states=("healthy",), limit=1), timeout_s=5
            )
            if page.total >= agents:
                return
            if time.monotonic() - said > 2:
                said = time.monotonic()
                say(f"{page.total:,} of {agents:,} known")
        except BusUnavailable:
            pass
        if time.monotonic() - begin > _PATIENCE_S:
            raise InterlockError("the agents were not all known in time: is the machine busy?")
        await asyncio.sleep(0.2)


async def _kill(
    process: asyncio.subprocess.Process,
    agents: int,
    kills: int,
    seconds: float,
    rand: random.Random,
    say: Say,
) -> dict[str, float]:
    """Kill some, evenly over the time but for the last seconds; when each died."""
    assert process.stdin is not None  # noqa: S101  # for the type checker
    assert process.stdout is not None  # noqa: S101
    killed: dict[str, float] = {}
    pause = max(0.05, (seconds - 10.0) / max(1, kills))
    for number, which in enumerate(rand.sample(range(agents), kills)):
        process.stdin.write(f"kill sim-{which:05d}\n".encode())
        await process.stdin.drain()
        while True:
            words = (await process.stdout.readline()).decode().split()
            if not words:
                raise InterlockError("the agents ended early")
            if words[0] == "killed":
                killed[words[1]] = float(words[2])
                break
        if number % 10 == 9:
            say(f"{number + 1} of {kills} killed")
        await asyncio.sleep(pause * rand.uniform(0.5, 1.5))
    return killed


async def _lost(bus: Bus, expected: set[str]) -> dict[str, float]:
    """When each node was declared lost, wall clock; waits for those expected."""
    deadline = time.monotonic() + 20
    while True:
        found: dict[str, float] = {}
        reader = Reader(
            bus,
            EVENTS.name,
            (subjects.event_filter(NodeLost.event_type),),
            {"deliver_policy": "all"},
        )
        async for record in reader.records(until_end=True):
            event = msgspec.json.decode(record.body, type=NodeLost)
            if event.node is not None and event.lost_at is not None:
                found.setdefault(event.node, parse_ns(event.lost_at) / 1e9)
        if expected <= set(found) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.5)


def _quantiles(times: list[float]) -> dict[str, float]:
    if not times:
        return {}
    ordered = sorted(times)
    return {
        "p50": round(stats.median(ordered), 3),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 3),
        "max": round(ordered[-1], 3),
    }


def _cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def show(found: HealthBench) -> None:
    """Print what was found, for people."""
    times = found.detection_s
    sys.stdout.write(
        f"{found.agents:,} agents at 1 Hz for {found.seconds:.0f} s: "
        f"{found.heartbeats:,} heartbeats heard, {found.heartbeats_missed:,} missed\n"
        f"monitor: {found.cpu_share:.0%} of one core, {found.rss_mib:.0f} MiB\n"
        f"kill to node.lost: {found.detected} of {found.kills}, "
        + (
            f"p50 {times['p50']:.2f} s, p99 {times['p99']:.2f} s, max {times['max']:.2f} s\n"
            if times
            else "none\n"
        )
        + f"declared lost and alive: {found.false_lost}\n"
    )
