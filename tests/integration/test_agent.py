"""node-agent: joins, beats, holds its lease, and leaves in good order."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from interlock.bus import Bus, connected
from interlock.conditional import Write, expecting, living
from interlock.errors import BusUnavailable
from interlock.fleet import Fleet
from interlock.kv import Store
from interlock.reader import Reader
from interlock_schemas import subjects
from interlock_schemas.nodes import (
    Member,
    NodeRecord,
    Probe,
    ProbeAnswer,
    Report,
    member_key,
    node_key,
)
from interlock_schemas.topology import EVENTS, MEMBERS, NODES
from tests.conftest import Up, eventually, run_cli
from tests.integration.agents import agent, beats


class AgentAlone(Up):
    def await_services(self) -> None:
        """The agents of these tests wait for what they need by themselves."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A broker, and this machine's own agent as `interlock up` runs it."""
    up = AgentAlone(tmp_path_factory.mktemp("agents"), "--only", "node-agent")
    try:
        up.start()
        yield up
    finally:
        assert up.stop() == 0


@pytest.fixture
async def bus(ground: Up) -> AsyncIterator[Bus]:
    async with connected(ground.settings, name="test") as connection:
        yield connection


@pytest.fixture
def node() -> str:
    return f"n-{uuid.uuid4().hex[:8]}"


async def member(bus: Bus, node: str) -> Member | None:
    entry = await Store(bus, MEMBERS).get(member_key(node))
    return None if entry.value is None else msgspec.json.decode(entry.value, type=Member)


async def probe(bus: Bus, node: str) -> ProbeAnswer:
    reply = await bus.request(subjects.probe(node), msgspec.json.encode(Probe()), timeout_s=5)
    return msgspec.json.decode(reply.data, type=ProbeAnswer)


async def told(bus: Bus, node: str) -> list[str]:
    """The types of the events about a node, in their order."""
    reader = Reader(bus, EVENTS.name, (f"events.node.*.{node}",), {"deliver_policy": "all"})
    return [
        ".".join(record.subject.split(".")[1:3]) async for record in reader.records(until_end=True)
    ]


async def test_in_up_it_is_the_agent_of_this_machine(bus: Bus) -> None:
    name = socket.gethostname()
    async with beats(bus, name) as heard:
        beat = await heard.next()
    assert beat.node == name
    assert beat.answers
    standing = await member(bus, name)
    assert standing is not None
    assert standing.instance == beat.instance
    assert (await probe(bus, name)).instance == beat.instance


async def test_a_beat_says_how_the_node_is(ground: Up, bus: Bus, node: str, tmp_path: Path) -> None:
    watched = f"{tmp_path},{tmp_path / 'nowhere'}"
    with agent(ground, node, tmp_path / "log", agent_watch=watched):
        async with beats(bus, node) as heard:
            first = await heard.next()
            # What is measured beside comes as soon as it is there.
            beat = first
            while beat.cpu_percent is None or not beat.disks[0].total_bytes or not beat.loop_lag_s:
                beat = await heard.next()
    assert [each.seq for each in heard.seen] == list(range(1, len(heard.seen) + 1))
    assert beat.interval_s == 0.1
    assert beat.cores
    assert beat.cores >= 1
    assert beat.memory_total_bytes
    assert beat.memory_used_percent is not None
    assert beat.load_per_core is not None
    disk, missing = beat.disks
    assert disk.path == str(tmp_path)
    assert disk.free_bytes is not None
    assert disk.used_percent is not None
    assert disk.read_only is False
    assert missing.fault
    assert missing.used_percent is None
    assert beat.progress is None
    assert beat.leaving is None


async def test_it_describes_its_node_where_nobody_has_and_leaves_alone_what_stands(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    described = {
        "agent_zone": "z1",
        "agent_roles": "train, eval",
        "agent_labels": "rack=7",
        "agent_price_class": "spot",
    }
    told = NodeRecord(name=f"{node}-told", zone="operators-say", source="fleet.toml")
    store = Store(bus, NODES)
    await store.put(node_key(told.name), msgspec.json.encode(told), revision=0)
    with (
        agent(ground, node, tmp_path / "log", **described),
        agent(ground, told.name, tmp_path / "told", **described),
    ):
        async with beats(bus, node) as heard, beats(bus, told.name) as other:
            await heard.next()
            await other.next()
    entry = await store.get(node_key(node))
    assert entry.value is not None
    record = msgspec.json.decode(entry.value, type=NodeRecord)
    assert (record.zone, record.price_class, record.roles) == ("z1", "spot", ("train", "eval"))
    assert record.labels == {"rack": "7"}
    assert record.source == "agent"
    assert (await store.get(node_key(told.name))).value == msgspec.json.encode(told)


async def test_a_second_agent_of_one_name_is_refused(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    with agent(ground, node, tmp_path / "first"):
        async with beats(bus, node) as heard:
            instance = (await heard.next()).instance
            with agent(ground, node, tmp_path / "second") as second:
                assert await second.ended() == 1
            assert instance in second.log
            assert socket.gethostname() in second.log
            assert "INTERLOCK_NODE" in second.log
            await heard.next()
        assert {each.instance for each in heard.seen} == {instance}


async def test_killed_and_started_again_it_joins_at_once(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    async with beats(bus, node) as heard:
        with agent(ground, node, tmp_path / "log") as first:
            was = (await heard.next()).instance
            first.signal(signal.SIGKILL)
            await first.ended()
        left = await Store(bus, MEMBERS).get(member_key(node))
        assert left.value is not None
        with agent(ground, node, tmp_path / "log"):
            again = await heard.next(instance_not=was)
    standing = await member(bus, node)
    assert standing is not None
    assert standing.instance == again.instance


async def test_whose_lease_was_taken_ends(ground: Up, bus: Bus, node: str, tmp_path: Path) -> None:
    with agent(ground, node, tmp_path / "log", agent_lease_s="2") as process:
        async with beats(bus, node) as heard:
            await heard.next()
        key = member_key(node)
        entry = await Store(bus, MEMBERS).get(key)
        other = Member(node=node, instance="another", host="elsewhere")
        write = Write(
            MEMBERS.key_subject(key),
            msgspec.json.encode(other),
            {**living(30), **expecting(entry.revision)},
        )
        await bus.commit([write])
        assert await process.ended() == 1
        assert "another" in process.log
        assert "elsewhere" in process.log
    standing = await member(bus, node)
    assert standing is not None
    assert standing.instance == "another"


async def test_a_lease_ends_by_itself_where_nobody_renews_it(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    short = {"agent_lease_s": "2"}
    alive, frozen = f"{node}-alive", f"{node}-frozen"
    with (
        agent(ground, alive, tmp_path / "alive", **short),
        agent(ground, frozen, tmp_path / "frozen", **short) as freezes,
        agent(ground, node, tmp_path / "log", **short) as dies,
    ):
        async with (
            beats(bus, node) as heard,
            beats(bus, frozen) as of_frozen,
            beats(bus, alive) as of_alive,
        ):
            for each in (heard, of_frozen, of_alive):
                await each.next()
            before = await Store(bus, MEMBERS).get(member_key(alive))
            dies.signal(signal.SIGKILL)
            freezes.signal(signal.SIGSTOP)

            async def expired() -> bool:
                return await member(bus, node) is None and await member(bus, frozen) is None

            await eventually(expired)
            after = await Store(bus, MEMBERS).get(member_key(alive))
            assert after.value == before.value
            assert after.revision > before.revision

            # Whoever was only frozen is a member again, as the same.
            freezes.signal(signal.SIGCONT)

            async def back() -> bool:
                return await member(bus, frozen) is not None

            await eventually(back)
            await of_frozen.next()
        assert len({each.instance for each in of_frozen.seen}) == 1


async def test_of_several_that_start_at_once_one_becomes_the_agent(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    async with beats(bus, node) as heard:
        with contextlib.ExitStack() as stack:
            started = [
                stack.enter_context(agent(ground, node, tmp_path / f"log{number}"))
                for number in range(3)
            ]

            async def decided() -> bool:
                return sum(each.process.poll() is not None for each in started) == 2

            await eventually(decided)
            stands = await heard.next()
            assert sorted(each.process.poll() or 0 for each in started) == [0, 1, 1]
            assert (await probe(bus, node)).instance == stands.instance
    assert {each.instance for each in heard.seen} == {stands.instance}


async def test_a_broker_that_is_killed_costs_no_agent_its_place(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    with agent(ground, node, tmp_path / "log", agent_lease_s="2"):
        async with beats(bus, node) as heard:
            first = await heard.next()
            os.kill(ground.pids()["broker"], signal.SIGKILL)
            before = await Store(bus, MEMBERS).get(member_key(node))

            async def renewed() -> bool:
                entry = await Store(bus, MEMBERS).get(member_key(node))
                return entry.value is not None and entry.revision > before.revision + 1

            await eventually(renewed)
            last = await heard.next()
    assert last.instance == first.instance
    # What could not be sent is not made up for later.
    assert [each.seq for each in heard.seen] == sorted({each.seq for each in heard.seen})


async def test_sigterm_is_a_planned_leave(ground: Up, bus: Bus, node: str, tmp_path: Path) -> None:
    with agent(ground, node, tmp_path / "log") as process:
        async with beats(bus, node) as heard:
            await heard.next()
            process.signal(signal.SIGTERM)
            assert await process.ended() == 0

            async def told_so() -> bool:
                return heard.seen[-1].leaving is not None

            await eventually(told_so)
    assert await member(bus, node) is None
    assert heard.seen[-1].leaving is not None
    assert heard.seen[-1].leaving.reason == "sigterm"
    assert await told(bus, node) == ["node.leave_announced", "node.left"]
    with pytest.raises(BusUnavailable):
        await probe(bus, node)


async def test_a_leave_waits_for_the_workers_of_the_node(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    with agent(ground, node, tmp_path / "log", agent_grace_s="60") as process:
        async with beats(bus, node) as heard:
            await heard.next()
            worker = Fleet(bus, source="worker", node=node)
            await worker.progress(games=3)
            while (beat := await heard.next()).progress is None:
                pass
            assert beat.progress.counters == {"games": 3}
            assert beat.progress.workers == 1
            process.signal(signal.SIGTERM)
            while (beat := await heard.next()).leaving is None:
                pass
            # It beats on while it leaves, says how long there is, and answers.
            assert beat.leaving.deadline_s
            assert beat.leaving.deadline_s > 30
            assert (await probe(bus, node)).leaving is not None
            assert await told(bus, node) == ["node.leave_announced"]
            done = Report(worker="nobody", done=True)
            bus.post(subjects.progress(node), msgspec.json.encode(done))
            await heard.next()
            assert process.process.poll() is None
            assert worker._progress is not None
            await worker._progress.close()
            assert await process.ended() == 0
    assert await told(bus, node) == ["node.leave_announced", "node.left"]


async def test_a_second_signal_hurries_a_leave(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    with agent(ground, node, tmp_path / "log", agent_grace_s="600") as process:
        async with beats(bus, node) as heard:
            await heard.next()
            report = Report(worker="busy", counters={"steps": 1})
            bus.post(subjects.progress(node), msgspec.json.encode(report))
            while (await heard.next()).progress is None:
                pass
            process.signal(signal.SIGTERM)
            while (await heard.next()).leaving is None:
                pass
            process.signal(signal.SIGTERM)
            assert await process.ended() == 0
    assert await told(bus, node) == ["node.leave_announced", "node.left"]


async def test_workers_report_through_the_sdk_and_in_any_language(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    with agent(ground, node, tmp_path / "log"):
        async with beats(bus, node) as heard:
            await heard.next()
            for body in (b"", b"{", b'{"worker": 5}', b"[" * 100_000, b'{"worker":"' + b"x" * 500):
                bus.post(subjects.progress(node), body)
            worker = Fleet(bus, source="worker", node=node)
            await worker.progress(games=10, failures=1)
            await worker.progress(games=5, successes=15)
            await worker.checkpointed(tmp_path / "model-7.pt")
            other = {"worker": "cpp", "counters": {"games": 7, "steps": 2.5}, "failures": 2}
            bus.post(subjects.progress(node), json.dumps(other).encode())
            while True:
                beat = await heard.next()
                if beat.progress is not None and beat.progress.workers == 2 and beat.checkpoint:
                    break
            assert beat.progress.counters == {"games": 22, "steps": 2.5}
            assert (beat.progress.failures, beat.progress.successes) == (3, 15)
            assert beat.progress.age_s is not None
            assert beat.checkpoint.artifact == str(tmp_path / "model-7.pt")
            # Another process of the same source counts from nothing, and the sum goes on.
            again = Fleet(bus, source="worker", node=node)
            await again.progress(games=1)
            while (beat := await heard.next()).progress is None or beat.progress.workers < 3:
                pass
            assert beat.progress.counters["games"] == 23


async def test_a_file_that_appears_is_a_notice(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    notice = tmp_path / "going"
    watching = {"agent_notice_file": str(notice), "agent_notice_every_s": "0.05"}
    with agent(ground, node, tmp_path / "log", agent_after_leave="exit", **watching) as process:
        async with beats(bus, node) as heard:
            await heard.next()
            notice.touch()
            assert await process.ended() == 0
    assert await told(bus, node) == ["node.leave_announced", "node.left"]
    assert await member(bus, node) is None


async def test_having_left_it_stays_quiet_until_it_is_stopped(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    with agent(ground, node, tmp_path / "log") as process:
        async with beats(bus, node) as heard:
            await heard.next()
            asked = await asyncio.to_thread(
                run_cli, ground, "agent", "leave", "--node", node, "--reason", "upkeep", "--json"
            )
            assert asked.returncode == 0, asked.stderr
            assert json.loads(asked.stdout)["leaving"]["reason"] == "upkeep"

            async def gone() -> bool:
                return await member(bus, node) is None

            await eventually(gone)
            with pytest.raises(BusUnavailable):
                await probe(bus, node)
            count = len(heard.seen)
            # Three heartbeats later there was none.
            await asyncio.sleep(0.3)
            assert process.process.poll() is None
            assert len(heard.seen) == count
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert await told(bus, node) == ["node.leave_announced", "node.left"]


async def test_nobody_to_ask_to_leave_is_said(ground: Up, node: str) -> None:
    asked = await asyncio.to_thread(run_cli, ground, "agent", "leave", "--node", node, "--json")
    assert asked.returncode == 1
    assert node in json.loads(asked.stdout.splitlines()[-1])["error"]


async def test_join_runs_in_the_foreground_and_leaves_on_ctrl_c(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "interlock", "agent", "join", "--node", node, "--zone", "z9",
        "--watch", str(tmp_path), "--json",
        env=ground.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    async with beats(bus, node) as heard:
        await heard.next()
    process.send_signal(signal.SIGINT)
    out, _ = await process.communicate()
    assert process.returncode == 0
    last = json.loads(out.splitlines()[-1])
    assert (last["node"], last["joined"], last["left"]) == (node, True, "sigterm")


async def test_a_node_name_that_is_none_is_refused(ground: Up, tmp_path: Path) -> None:
    with agent(ground, "no such name", tmp_path / "log") as process:
        assert await process.ended() == 1
        assert "INTERLOCK_NODE" in process.log


def test_what_would_be_measured_is_shown_without_a_broker(tmp_path: Path) -> None:
    told = run_cli(None, "agent", "show", "--watch", str(tmp_path / "nowhere"), "--json")
    assert told.returncode == 0, told.stderr
    beat = json.loads(told.stdout)
    assert beat["cores"] >= 1
    assert beat["disks"][0]["fault"]


def test_a_unit_for_systemd_is_written_and_nothing_is_started(ground: Up, tmp_path: Path) -> None:
    unit = tmp_path / "interlock-agent.service"
    told = run_cli(
        ground, "agent", "join", "--node", "n7", "--label", "rack=7", "--label", "row=b",
        "--watch", "/data", "--systemd-unit", str(unit), "--json",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    environment = Path(json.loads(told.stdout)["environment"])
    password = ground.settings.nats_password
    assert password is not None
    assert password.get_secret_value() not in unit.read_text() + told.stdout
    assert password.get_secret_value() in environment.read_text()
    assert stat.S_IMODE(environment.stat().st_mode) == 0o600
    assert 'INTERLOCK_AGENT_LABELS="rack=7,row=b"\n' in environment.read_text()
    assert 'INTERLOCK_NODE="n7"\n' in environment.read_text()


async def test_stopped_while_it_starts_it_leaves_all_the_same(
    ground: Up, bus: Bus, node: str, tmp_path: Path
) -> None:
    with agent(ground, node, tmp_path / "log") as process:

        async def joined() -> bool:
            return await member(bus, node) is not None

        await eventually(joined)
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert await member(bus, node) is None
