"""What workers tell the agent of their node: totals, seldom, and never in their way."""

import asyncio
import math
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import interlock
from interlock.bus import Bus, Message
from interlock.fleet import Fleet
from interlock.progress import EVERY_S, Progress
from interlock.settings import ConnectionSettings
from interlock_schemas import subjects
from interlock_schemas.nodes import Report
from tests.conftest import PATIENCE_S, Up


class Reports:
    """What is told to the agent of one node."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Report] = asyncio.Queue()

    async def on_message(self, message: Message) -> None:
        self.queue.put_nowait(msgspec.json.decode(message.data, type=Report))

    async def next(self) -> Report:
        async with asyncio.timeout(PATIENCE_S):
            return await self.queue.get()


async def listen(bus: Bus, node: str) -> Reports:
    reports = Reports()
    await bus.subscribe(subjects.progress(node), reports.on_message)
    await bus.flush()
    return reports


async def test_totals_go_out_at_once_and_then_not_too_often(bus: Bus) -> None:
    reports = await listen(bus, "p-often")
    fleet = Fleet(bus, source="w1", node="p-often")
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(500):
        await fleet.progress(games=1, failures=1)
    first = await reports.next()
    for _ in range(500):
        await fleet.progress(games=1, steps=0.5, successes=2)
    last = await reports.next()
    # So many calls, two messages; and what was said last is not kept back.
    assert loop.time() - began >= EVERY_S
    assert (first.counters, first.failures, first.successes) == ({"games": 500}, 500, 0)
    assert last.counters == {"games": 1_000, "steps": 250}
    assert (last.failures, last.successes) == (500, 1_000)
    assert first.worker == last.worker
    assert first.worker.startswith("w1#")
    assert reports.queue.empty()


async def test_at_the_end_it_says_that_it_is_done(up: Up, bus: Bus, tmp_path: Path) -> None:
    node = socket.gethostname()
    reports = await listen(bus, node)
    async with interlock.connect(up.settings, source="ends") as fleet:
        await fleet.progress(games=3)
        await fleet.checkpointed(tmp_path / "model.pt")
    while not (report := await reports.next()).worker.startswith("ends#"):
        pass
    assert report.done
    assert report.counters == {"games": 3}
    assert report.checkpoint == str(tmp_path / "model.pt")


async def test_an_artifact_is_told_once(bus: Bus) -> None:
    reports = await listen(bus, "p-once")
    fleet = Fleet(bus, source="w", node="p-once")
    await fleet.checkpointed("a.pt")
    assert (await reports.next()).checkpoint == "a.pt"
    await fleet.progress(games=1)
    assert (await reports.next()).checkpoint is None


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf])
async def test_what_is_no_gain_is_refused_and_changes_nothing(bus: Bus, wrong: float) -> None:
    reports = await listen(bus, "p-wrong")
    fleet = Fleet(bus, source="w", node="p-wrong")
    with pytest.raises(ValueError, match="steps"):
        await fleet.progress(games=5, steps=wrong)
    await fleet.progress(games=1)
    assert (await reports.next()).counters == {"games": 1}


async def test_without_a_broker_a_worker_is_not_disturbed(tmp_path: Path) -> None:
    settings = ConnectionSettings(nats_url="nats://127.0.0.1:9", connect_timeout_s=0.5)
    async with interlock.connect(settings, source="w", outbox=tmp_path / "outbox") as fleet:
        await fleet.progress(games=1)
        await fleet.checkpointed("x")


async def test_what_was_told_while_the_broker_was_away_is_told_when_it_is_back(bus: Bus) -> None:
    reports = await listen(bus, "p-away")
    there: list[Bus] = []

    def connection() -> Bus:
        if not there:
            raise interlock.errors.BusUnavailable("not yet")
        return there[0]

    progress = Progress(connection, node="p-away", source="w")
    progress.add({"games": 2})
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    there.append(bus)
    assert (await reports.next()).counters == {"games": 2}
    await progress.close()
    await progress.close()
    assert (await reports.next()).done


def test_a_plain_script_tells_as_well(up: Up) -> None:
    with interlock.connect_blocking(up.settings, source="script") as fleet:
        fleet.progress(games=2, failures=1)
        fleet.checkpointed("y")
        with pytest.raises(ValueError, match="games"):
            fleet.progress(games=-1)


def test_the_example_tells(up: Up) -> None:
    example = Path(__file__).parents[2] / "docs" / "examples" / "progress.py"
    told = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        env=up.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "told the agent" in told.stdout
