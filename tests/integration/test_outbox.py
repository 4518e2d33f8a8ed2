"""The outbox: what this host has on disk arrives at the broker once and in order."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

import interlock
from interlock import provisioning
from interlock.broker import EmbeddedBroker
from interlock.bus import Bus, connected
from interlock.errors import BusUnavailable, ConnectFailed, OutboxFull, OutboxUnusable
from interlock.fleet import Fleet, Received
from interlock.link import Link
from interlock.outbox import Limits, Outbox
from interlock.outbox.forwarder import Forwarder
from interlock.reader import Reader
from interlock.settings import ConnectionSettings
from interlock_schemas import envelope, letters
from interlock_schemas.topology import EVENTS
from interlock_schemas.training import TrainingCompleted
from tests.conftest import PATIENCE_S, clean_env, eventually

#: Publishes numbered events: from, to, run's name. Says how many are stored, and when it is done.
PUBLISH = """
import asyncio, sys
import interlock
from interlock_schemas.training import TrainingCompleted

async def main(path, begin, end, name):
    async with interlock.connect(source=name, outbox=path) as fleet:
        print("open", flush=True)
        for start in range(begin, end, 50):
            await asyncio.gather(*(
                fleet.publish(TrainingCompleted(config="c", model=f"{name}-{n}"))
                for n in range(start, min(start + 50, end))
            ))
            print(min(start + 50, end), flush=True)
        print("done", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
"""


class Broker:
    """A broker of the test's own, with its streams, that may come and go."""

    def __init__(self, folder: Path) -> None:
        self._broker = EmbeddedBroker(folder)
        self._broker.prepare()
        self.settings = ConnectionSettings(
            nats_url=self._broker.url,
            nats_user=self._broker.user,
            nats_password=SecretStr(self._broker.password),
            outbox_drain_s=0,
        )
        self.env = clean_env() | {
            "INTERLOCK_NATS_URL": self._broker.url,
            "INTERLOCK_NATS_USER": self._broker.user,
            "INTERLOCK_NATS_PASSWORD": self._broker.password,
            "INTERLOCK_OUTBOX_DRAIN_S": "60",
        }

    async def start(self) -> None:
        await self._broker.start()
        async with self.bus() as bus:
            await provisioning.apply(bus, [])

    async def kill(self) -> None:
        await self._broker.kill()

    def freeze(self) -> None:
        assert self._broker.pid is not None
        os.kill(self._broker.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._broker.pid is not None
        os.kill(self._broker.pid, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        async with connected(self.settings, name="test") as bus:
            yield bus

    async def models(self) -> list[str]:
        """The `model` of every stored event, in order."""
        async with self.bus() as bus:
            reader = Reader(bus, EVENTS.name, EVENTS.subjects, {"deliver_policy": "all"})
            return [
                msgspec.json.decode(record.body)["model"]
                async for record in reader.records(until_end=True)
            ]

    async def cli(self, *arguments: str) -> tuple[int, Any]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "interlock", *arguments, "--json"),
            env=self.env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert out, err
        return process.returncode or 0, json.loads(out.splitlines()[-1])


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """Not yet started."""
    made = Broker(tmp_path / "state")
    yield made
    await made.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def worker(broker: Broker, path: Path, begin: int, end: int, name: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISH, str(path), str(begin), str(end), name],
        env=broker.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).strip()


async def until(process: "subprocess.Popen[str]", wanted: str) -> None:
    while (told := await line(process)) != wanted:
        assert told, "the worker ended"


async def kill(process: "subprocess.Popen[str]") -> list[str]:
    """SIGKILL, and what it had still said."""
    process.kill()
    return await end(process)


async def end(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    rest = (await asyncio.to_thread(process.stdout.read)).split()
    await asyncio.to_thread(process.wait, PATIENCE_S)
    process.stdout.close()
    return rest


def numbered(name: str, count: int) -> list[str]:
    return [f"{name}-{n}" for n in range(count)]


@contextlib.asynccontextmanager
async def opened(path: Path, broker: Broker) -> AsyncIterator[Outbox]:
    """An outbox that is forwarded."""
    outbox = await Outbox.open(path, create=False)
    outbox.forward(Link(broker.settings, name="test"))
    try:
        yield outbox
    finally:
        await outbox.close()


async def drain(path: Path, broker: Broker) -> None:
    async with opened(path, broker) as outbox:

        async def empty() -> bool:
            return await outbox.waiting() == 0

        await eventually(empty)


async def test_ten_thousand_events_of_a_worker_that_never_saw_the_broker_arrive(
    broker: Broker, path: Path
) -> None:
    process = worker(broker, path, 0, 10_000, "w")
    await until(process, "done")
    await kill(process)
    code, told = await broker.cli("outbox", "status", str(path))
    assert (code, told["waiting"], told["forwarder"]) == (0, 10_000, None)
    await broker.start()
    again = worker(broker, path, 10_000, 10_001, "w")
    await until(again, "done")
    await end(again)
    assert again.returncode == 0
    assert await broker.models() == numbered("w", 10_001)
    code, told = await broker.cli("outbox", "status", str(path))
    assert (told["waiting"], told["forwarded"]) == (0, 10_001)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_worker_killed_again_and_again_while_it_forwards(
    broker: Broker, path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    await broker.start()
    stored: list[int] = []
    for round in range(5):
        process = worker(broker, path, 0, 3_000, f"r{round}")
        acknowledged = 0
        for _ in range(dice.randint(2, 60)):
            told = await line(process)
            acknowledged = int(told) if told.isdigit() else acknowledged
            if told == "done":
                break
        await asyncio.sleep(dice.uniform(0, 0.05))
        rest = await kill(process)
        stored.append(max([acknowledged, *(int(word) for word in rest if word.isdigit())]))
    await drain(path, broker)
    models = await broker.models()
    expected: list[str] = []
    for round, least in enumerate(stored):
        arrived = [model for model in models if model.startswith(f"r{round}-")]
        assert len(arrived) >= least, f"round {round} lost events that it was told are stored"
        expected += numbered(f"r{round}", len(arrived))
    assert models == expected


async def test_a_broker_killed_while_it_is_forwarded_to(broker: Broker, path: Path) -> None:
    dice = random.Random(3)
    outbox = await Outbox.open(path)
    for n in range(0, 10_000, 1_000):
        await outbox.publish_many(
            (
                "events.training.completed.c",
                msgspec.json.encode({"config": "c", "model": f"w-{m}"}),
                {},
            )
            for m in range(n, n + 1_000)
        )
    await broker.start()
    outbox.forward(Link(broker.settings, name="test"))
    for _ in range(3):
        left = await outbox.waiting()
        goal = dice.randint(0, max(0, left - 1))

        async def fewer(goal: int = goal) -> bool:
            return await outbox.waiting() <= goal

        await eventually(fewer)
        await broker.kill()
        await broker.start()
    await eventually(lambda: _empty(outbox))
    await outbox.close()
    assert await broker.models() == numbered("w", 10_000)


@pytest.mark.parametrize("seed", [4, pytest.param(5, marks=pytest.mark.slow)])
async def test_a_broker_that_freezes_for_longer_than_a_sending_lasts(
    broker: Broker, path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("interlock.outbox.forwarder.SENDING_S", 0.5)
    dice = random.Random(seed)
    outbox = await Outbox.open(path)
    for n in range(0, 10_000, 1_000):
        await outbox.publish_many(
            ("events.training.completed.c", b'{"model":"w-%d"}' % m, {})
            for m in range(n, n + 1_000)
        )
    await broker.start()
    outbox.forward(Link(broker.settings, name="test"))
    for _ in range(4):
        goal = dice.randint(0, max(0, await outbox.waiting() - 1))

        async def fewer(goal: int = goal) -> bool:
            return await outbox.waiting() <= goal

        await eventually(fewer)
        broker.freeze()
        try:

            async def failed() -> bool:
                told = await outbox.status()
                return told.waiting == 0 or told.last_error_age_s is not None

            await eventually(failed)
            await asyncio.sleep(dice.uniform(0, 0.5))
        finally:
            broker.thaw()
    await eventually(lambda: _empty(outbox))
    await outbox.close()
    assert await broker.models() == numbered("w", 10_000)


async def _empty(outbox: Outbox) -> bool:
    return await outbox.waiting() == 0


async def test_two_processes_on_one_outbox(broker: Broker, path: Path) -> None:
    workers = [worker(broker, path, 0, 2_000, name) for name in ("a", "b")]
    for each in workers:
        await until(each, "open")
    await broker.start()
    for each in workers:
        await until(each, "done")
    forwarder = (await broker.cli("outbox", "status", str(path)))[1]["forwarder"]
    assert forwarder in {None, *(each.pid for each in workers)}
    # Whoever forwards dies; the other takes over.
    first = next((each for each in workers if each.pid == forwarder), workers[0])
    (second,) = (each for each in workers if each is not first)
    await kill(first)
    await end(second)
    assert second.returncode == 0
    models = await broker.models()
    for name in ("a", "b"):
        assert [model for model in models if model.startswith(name)] == numbered(name, 2_000)
    assert len(models) == 4_000


async def test_a_fleet_with_an_outbox_works_while_the_broker_is_away_from_the_start(
    broker: Broker, path: Path
) -> None:
    await broker.start()
    await broker.kill()
    async with interlock.connect(broker.settings, source="test", outbox=path) as fleet:
        stored = await fleet.publish(TrainingCompleted(config="c", model="m-0"), id="mine")
        assert stored == interlock.Stored("mine", 1)
        with pytest.raises(BusUnavailable, match="no connection to the broker"):
            await fleet.command(letters.COUNT, letters.CountLetters(), timeout_s=0.1)
        with pytest.raises(BusUnavailable):
            _ = fleet.bus
        received: list[str] = []
        stop = asyncio.Event()

        async def handle(event: Received[TrainingCompleted]) -> None:
            received.append(event.id)
            stop.set()

        consuming = asyncio.create_task(fleet.consume("test", handle, stop=stop))
        await broker.start()
        await asyncio.wait_for(consuming, PATIENCE_S)
        assert received == ["mine"]
        assert (await fleet.connected(PATIENCE_S)).connected


async def test_consuming_can_be_stopped_before_the_broker_was_there(
    broker: Broker, path: Path
) -> None:
    async def handle(event: Received[Any]) -> None:
        raise AssertionError(event.id)

    stop = asyncio.Event()
    async with interlock.connect(broker.settings, outbox=path) as fleet:
        consuming = asyncio.create_task(fleet.consume("test", handle, stop=stop))
        await asyncio.sleep(0)
        stop.set()
        await asyncio.wait_for(consuming, PATIENCE_S)


async def test_time_id_and_trace_are_those_of_the_publish(broker: Broker, path: Path) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with interlock.connect(broker.settings, source="test", outbox=path) as fleet:
        stored = await fleet.publish(
            TrainingCompleted(config="c", model="m"), headers={envelope.TRACEPARENT: trace}
        )
        published = time.time()
    await broker.start()
    await drain(path, broker)
    async with broker.bus() as bus:
        reader = Reader(bus, EVENTS.name, EVENTS.subjects, {"deliver_policy": "all"})
        (record,) = [each async for each in reader.records(until_end=True)]
    assert record.headers[envelope.MSG_ID] == record.headers[envelope.ID] == stored.id
    assert record.headers[envelope.TRACEPARENT] == trace
    assert record.headers[envelope.SOURCE] == "test"
    assert record.headers[envelope.TIME] < interlock_time(published)
    assert record.time_ns / 1e9 > published


def interlock_time(seconds: float) -> str:
    from interlock.clock import rfc3339_ns

    return rfc3339_ns(int(seconds * 1e9))


async def test_a_closing_worker_forwards_what_it_can(broker: Broker, path: Path) -> None:
    await broker.start()
    settings = broker.settings.model_copy(update={"outbox_drain_s": PATIENCE_S})
    async with interlock.connect(settings, outbox=path) as fleet:
        await fleet.publish_many(TrainingCompleted(config="c", model=f"w-{n}") for n in range(500))
    assert await broker.models() == numbered("w", 500)


async def test_a_closing_worker_tells_what_it_leaves(
    broker: Broker, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with interlock.connect(broker.settings, outbox=path) as fleet:
        await fleet.publish(TrainingCompleted(config="c"))
    assert "1 messages wait in the outbox" in caplog.text


async def test_a_full_outbox_takes_more_when_the_broker_is_back(broker: Broker, path: Path) -> None:
    settings = broker.settings.model_copy(update={"outbox_max_messages": 5})
    async with interlock.connect(settings, outbox=path) as fleet:
        for n in range(5):
            await fleet.publish(TrainingCompleted(config="c", model=f"w-{n}"))
        with pytest.raises(OutboxFull, match="INTERLOCK_OUTBOX_MAX_MESSAGES"):
            await fleet.publish(TrainingCompleted(config="c"), timeout_s=0.1)
        waiting = asyncio.create_task(
            fleet.publish(TrainingCompleted(config="c", model="w-5"), timeout_s=PATIENCE_S)
        )
        await broker.start()
        await waiting
        await eventually(lambda: _empty(fleet.outbox))
    assert await broker.models() == numbered("w", 6)


async def test_what_the_broker_refuses_is_set_aside_and_blocks_nobody(
    broker: Broker, path: Path
) -> None:
    await broker.start()
    await _change_stream(broker, max_msg_size=2_000)
    async with interlock.connect(broker.settings, outbox=path) as fleet:
        await fleet.publish(TrainingCompleted(config="c", model="w-0"))
        await fleet.publish(TrainingCompleted(config="c", model="x" * 5_000))
        await fleet.publish_raw("events.no subject", b"{}")
        await fleet.publish(TrainingCompleted(config="c", model="w-1"))
        await eventually(lambda: _empty(fleet.outbox))
        told = await fleet.outbox.status()
        assert (told.refused, told.forwarded) == (2, 2)
    assert await broker.models() == numbered("w", 2)
    code, told_cli = await broker.cli("outbox", "refused", str(path))
    large, bad = told_cli["refused"]
    assert code == 0
    assert "size" in large["reason"]
    assert bad["subject"] == "events.no subject"
    assert (await broker.cli("outbox", "discard", str(path), str(bad["seq"]))) == (
        0,
        {"discarded": 1},
    )
    await _change_stream(broker, max_msg_size=EVENTS.max_message_bytes)
    assert await broker.cli("outbox", "retry", str(path), "--all") == (0, {"retried": 1})
    code, told_cli = await broker.cli("outbox", "drain", str(path))
    assert (code, told_cli["waiting"], told_cli["refused"]) == (0, 0, 0)
    assert await broker.models() == [*numbered("w", 2), "x" * 5_000]


async def _change_stream(broker: Broker, **changes: Any) -> None:
    async with broker.bus() as bus:
        config = (await bus.api(f"STREAM.INFO.{EVENTS.name}"))["config"]
        await bus.api(f"STREAM.UPDATE.{EVENTS.name}", config | changes)


async def _window_passes(bus: Bus) -> None:
    """Wait until the broker has forgotten the ids that it has heard so far."""

    async def forgotten() -> bool:
        probe = {envelope.MSG_ID: "probe"}
        ack = await bus.publish("events.training.completed.p", b'{"model":"probe"}', probe)
        return not ack.duplicate

    assert await forgotten()
    await eventually(forgotten)


async def test_what_was_sent_longer_ago_than_the_broker_remembers_is_not_sent_again(
    broker: Broker, path: Path
) -> None:
    await broker.start()
    await _change_stream(broker, duplicate_window=int(1e9))
    outbox = await Outbox.open(path)
    fleet_link = Link(broker.settings, name="test")
    async with interlock.connect(
        broker.settings.model_copy(update={"nats_url": "nats://127.0.0.1:1"}), outbox=path
    ) as away:
        await away.publish_many(TrainingCompleted(config="c", model=f"w-{n}") for n in range(10))
    store = outbox._store
    rows = (await outbox._disk.do(store.advance, [], {}, limit=10, windows_s={})).rows
    async with broker.bus() as bus:
        # A forwarder that was killed before it saw six of ten acknowledgements.
        for row in rows[:6]:
            await bus.publish(row.subject, row.body, msgspec.json.decode(row.headers))
        await _window_passes(bus)
    outbox.forward(fleet_link)
    await eventually(lambda: _empty(outbox))
    told = await outbox.status()
    await outbox.close()
    assert told.forwarded == 10
    assert [model for model in await broker.models() if model != "probe"] == numbered("w", 10)


async def test_an_own_id_published_again_after_a_long_outage_counts_once(
    broker: Broker, path: Path
) -> None:
    await broker.start()
    await _change_stream(broker, duplicate_window=int(1e9))
    ago = 3_600 * 10**9
    outbox = await Outbox.open(path, clock_ns=lambda: time.time_ns() - ago)
    async with broker.bus() as bus:
        fleet = Fleet(bus, source="test")
        await fleet.publish(TrainingCompleted(config="c", model="w-0"), id="mine")
        await _window_passes(bus)
    for id in ("mine", "other"):
        await outbox.publish(
            "events.training.completed.c", b'{"config":"c","model":"w-1"}', {envelope.MSG_ID: id}
        )
    await outbox.close()
    await drain(path, broker)
    assert [model for model in await broker.models() if model != "probe"] == ["w-0", "w-1"]


async def test_a_drain_that_cannot_reach_the_broker_fails(broker: Broker, path: Path) -> None:
    async with interlock.connect(broker.settings, outbox=path) as fleet:
        await fleet.publish(TrainingCompleted(config="c", model="w-0"))
    code, told = await broker.cli("outbox", "drain", str(path), "--timeout", "0.5")
    assert (code, told["waiting"]) == (1, 1)
    await broker.start()
    code, told = await broker.cli("outbox", "drain", str(path))
    assert (code, told["waiting"]) == (0, 0)
    assert await broker.models() == ["w-0"]


async def test_status_says_why_nothing_is_forwarded(
    broker: Broker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interlock.outbox.forwarder._PATIENCE_S", 0.1)
    settings = broker.settings.model_copy(update={"connect_timeout_s": 0.5})
    async with interlock.connect(settings, outbox=path) as fleet:

        async def told() -> bool:
            return "no broker at" in ((await fleet.outbox.status()).last_error or "")

        await eventually(told)


async def test_an_unknown_error_of_the_forwarder_is_the_publishers_to_hear(
    broker: Broker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Forwarder) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Forwarder, "run", broken)

    async def work() -> None:
        async with interlock.connect(broker.settings, outbox=path) as fleet:
            await asyncio.sleep(0)
            await fleet.publish(TrainingCompleted(config="c"))

    with pytest.raises(RuntimeError, match="a bug"):
        await work()


async def test_a_plain_script_publishes_into_an_outbox(broker: Broker, path: Path) -> None:
    program = (
        "import sys, interlock\n"
        "from interlock_schemas.training import TrainingCompleted\n"
        "with interlock.connect_blocking(outbox=sys.argv[1]) as fleet:\n"
        "    fleet.publish(TrainingCompleted(config='c', model='w-0'))\n"
        "    fleet.publish_legacy('training_complete', {'config': 'c'})\n"
        "    print(fleet.outbox_status().waiting)\n"
    )
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", program, str(path)),
        env=broker.env | {"INTERLOCK_OUTBOX_DRAIN_S": "0.1"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await done.communicate()
    assert (done.returncode, out) == (0, b"2\n")
    await broker.start()
    await drain(path, broker)
    assert await broker.models() == ["w-0"]
    async with broker.bus() as bus:
        info = await bus.api("STREAM.INFO.LEGACY")
    assert info["state"]["messages"] == 1


async def test_a_file_that_is_no_outbox_stops_the_worker_at_once(
    broker: Broker, path: Path
) -> None:
    path.write_bytes(b"something else entirely" * 500)
    with pytest.raises(OutboxUnusable, match="Move it away"):
        async with interlock.connect(broker.settings, outbox=path):
            pytest.fail("it opened")


async def test_an_address_that_is_none_stops_the_worker_at_once(path: Path) -> None:
    with pytest.raises(ConnectFailed, match="no broker address"):
        async with interlock.connect(ConnectionSettings(nats_url="nats://"), outbox=path):
            pytest.fail("it opened")
    assert not path.exists()


async def test_a_frozen_forwarder_holds_its_lock_until_it_ends(broker: Broker, path: Path) -> None:
    await broker.start()
    frozen = worker(broker, path, 0, 10, "a")
    await until(frozen, "done")

    async def forwards() -> bool:
        return bool((await broker.cli("outbox", "status", str(path)))[1]["forwarder"] == frozen.pid)

    await eventually(forwards)
    os.kill(frozen.pid, signal.SIGSTOP)
    other = await Outbox.open(path, limits=Limits())
    other.forward(Link(broker.settings, name="test"))
    await other.publish("events.training.completed.c", b'{"model":"b-0"}')
    assert (await other.status()).forwarder == frozen.pid
    os.kill(frozen.pid, signal.SIGCONT)
    await kill(frozen)
    await eventually(lambda: _empty(other))
    await other.close()
    assert await broker.models() == [*numbered("a", 10), "b-0"]


async def test_the_example_in_the_documents_runs(broker: Broker, tmp_path: Path) -> None:
    example = Path(__file__).parent.parent.parent / "docs" / "examples" / "outbox.py"
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(example)),
        env=broker.env | {"INTERLOCK_OUTBOX_DRAIN_S": "0"},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await done.communicate()
    assert done.returncode == 0
    assert b"is on this disk, 1 wait" in out


async def test_what_no_stream_takes_is_set_aside_and_blocks_nobody(
    broker: Broker, path: Path
) -> None:
    await broker.start()
    async with interlock.connect(broker.settings, outbox=path) as fleet:
        await fleet.publish_raw("nosuch.x", b"{}")
        for number in range(5):
            await fleet.publish(TrainingCompleted(config="c", model=str(number)))

        async def settled() -> bool:
            told = await fleet.outbox.status()
            return (told.waiting, told.refused) == (0, 1)

        await eventually(settled)
        (refused,) = await fleet.outbox.refused()
        assert "no stream takes nosuch.x" in refused.reason
