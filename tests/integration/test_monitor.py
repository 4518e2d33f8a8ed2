"""The health monitor with a real broker: who is suspect, who is lost, and who never is."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.chaos.proxy import Proxy
from interlock.kv import Store
from interlock.reader import Reader
from interlock_schemas import health, nodes, subjects
from interlock_schemas.health import NodeHealth
from interlock_schemas.nodes import Disk, Gpu, NodeRecord
from interlock_schemas.topology import DEAD, HEALTH, NODES
from tests.conftest import Up, eventually
from tests.integration.agents import agent
from tests.integration.watching import HealthUp, MadeUp, in_state, seen, watching
from tests.sshd import free_port


@pytest.fixture(scope="module")
def fleet_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = HealthUp(tmp_path_factory.mktemp("health"))
    up.start()
    yield up
    up.stop()


def start(stack: ExitStack, up: Up, folder: Path, *names: str) -> dict[str, int]:
    """Real agents at the default rhythm; their processes."""
    pids = {}
    for name in names:
        process = stack.enter_context(
            agent(up, name, folder / f"{name}.log", agent_heartbeat_s="1")
        ).process
        pids[name] = process.pid
        # In good order, so that what is left of a test is not taken for many that vanish.
        stack.callback(process.wait)
        stack.callback(process.terminate)
    return pids


async def test_a_killed_agent_is_suspected_then_lost_and_recovers(
    fleet_up: Up, tmp_path: Path
) -> None:
    async with watching(fleet_up) as (bus, fleet, told):
        with ExitStack() as stack:
            pids = start(stack, fleet_up, tmp_path, "k1", "k2", "k3")
            for name in pids:
                await in_state(fleet, name, "healthy", "degraded")
            os.kill(pids["k1"], signal.SIGKILL)
            suspected = await told.until("node.suspected", "k1")
            lost = await told.until("node.lost", "k1")
            assert suspected["last_heard_at"] < suspected["suspected_at"] <= lost["suspected_at"]
            assert lost["suspected_at"] < lost["lost_at"]
            assert lost["evidence"]
            record = await Store(bus, HEALTH).get(health.health_key("k1"))
            stored = msgspec.json.decode(record.value or b"", type=NodeHealth)
            assert stored.state == "lost"
            assert stored.expires_at is not None
            for name in ("k2", "k3"):
                assert "node.suspected" not in told.of(name)
            start(stack, fleet_up, tmp_path, "k1")
            await in_state(fleet, "k1", "recovering")
            await told.until("node.recovered", "k1")


async def test_an_agent_that_is_frozen_for_less_than_is_tolerated_is_not_lost(
    fleet_up: Up, tmp_path: Path
) -> None:
    async with watching(fleet_up) as (_, fleet, told):
        with ExitStack() as stack:
            pids = start(stack, fleet_up, tmp_path, "f1")
            await in_state(fleet, "f1", "healthy", "degraded")
            os.kill(pids["f1"], signal.SIGSTOP)
            try:
                await told.until("node.suspected", "f1")
                await asyncio.sleep(2)
            finally:
                os.kill(pids["f1"], signal.SIGCONT)
            await in_state(fleet, "f1", "healthy", "degraded")
            assert "node.lost" not in told.of("f1")


async def test_who_leaves_in_good_order_worries_nobody_and_frees_its_locks(
    fleet_up: Up, tmp_path: Path
) -> None:
    async with watching(fleet_up) as (_, fleet, told):
        with ExitStack() as stack:
            process = stack.enter_context(
                agent(fleet_up, "leaver", tmp_path / "l.log", agent_heartbeat_s="1")
            )
            await in_state(fleet, "leaver", "healthy", "degraded")
            fleet.node = "leaver"
            lease = await fleet.acquire_lock("held-by-leaver", ttl=60)
            process.signal(signal.SIGTERM)
            assert await process.ended() == 0
            await told.until("node.left", "leaver")
            await in_state(fleet, "leaver", "retired")
            async with asyncio.timeout(30):
                await lease.lost.wait()
            assert not {"node.suspected", "node.lost", "node.evicted"} & set(told.of("leaver"))


@pytest.mark.parametrize(
    "seconds", [pytest.param(8, id="8 s"), pytest.param(30, id="30 s", marks=pytest.mark.slow)]
)
async def test_a_monitor_that_was_stopped_blames_itself(fleet_up: Up, seconds: float) -> None:
    async with watching(fleet_up) as (bus, fleet, told):
        names = [f"s{seconds}-{n}" for n in range(4)]
        agents = [await MadeUp(bus, name).start() for name in names]
        for name in names:
            await in_state(fleet, name, "healthy")
        begin = len(told.events)
        monitor = fleet_up.pids()["health-monitor"]
        os.kill(monitor, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(monitor, signal.SIGCONT)
        for name in names:
            await in_state(fleet, name, "healthy")
        await asyncio.sleep(3)
        after = {type for type, key, _ in told.events[begin:] if key in names}
        assert not after & {"node.suspected", "node.lost", "node.evicted"}
        for each in agents:
            await each.leave()


async def test_whatever_is_no_heartbeat_becomes_a_letter_and_breaks_nothing(fleet_up: Up) -> None:
    monitor = fleet_up.pids()["health-monitor"]
    async with watching(fleet_up) as (bus, fleet, _):
        made_up = await MadeUp(bus, "odd").start()
        await in_state(fleet, "odd", "healthy")
        made_up.beating = False
        bodies = {
            "types": b'{"node":"odd","instance":"x","seq":"seven"}',
            "garbage": b"\xff\xfe{",
            "other": b'{"node":"another","instance":"x","seq":1}',
            "huge": b'{"node":"odd","pad":"' + b"x" * 2_000_000 + b'"}',
        }
        for body in bodies.values():
            bus.post(subjects.heartbeat("odd"), body)

        async def letters() -> dict[bytes, str]:
            found = {}
            reader = Reader(
                bus, DEAD.name, (subjects.dead(health.MONITOR, "*"),), {"deliver_policy": "all"}
            )
            async for record in reader.records(until_end=True):
                found[record.body] = record.subject.rpartition(".")[2]
            return found if set(bodies.values()) <= set(found) else {}

        found = await eventually(letters)
        assert found[bodies["types"]] == "invalid"
        assert found[bodies["garbage"]] == "undecodable"
        assert found[bodies["other"]] == "invalid"
        assert found[bodies["huge"]] == "too_large"
        # It lives, and something is wrong with it.
        view = await in_state(fleet, "odd", "degraded")
        assert view.reason == "heartbeat_invalid"
        made_up.beating = True
        await in_state(fleet, "odd", "healthy")
        await made_up.leave()
    assert fleet_up.pids()["health-monitor"] == monitor


async def test_what_a_heartbeat_tells_makes_the_right_verdict(fleet_up: Up) -> None:
    def gpu(index: int, **fields: object) -> Gpu:
        return msgspec.structs.replace(
            Gpu(index=index, utilization_percent=90.0, temperature_c=60.0), **fields
        )

    eight = tuple(gpu(n) for n in range(8))
    bad = (*eight[:5], gpu(5, fault="GPU is lost"), *eight[6:])
    cases: dict[str, tuple[dict[str, Any], str | None]] = {
        "v-well": ({"gpus": eight}, None),
        "v-gpu": ({"gpus": bad}, "gpu_fault"),
        "v-hang": ({"gpu_fault": "the GPU library hangs"}, "gpu_library"),
        "v-disk": ({"disks": (Disk(path="/data", used_percent=99.9),)}, "disk_full"),
        "v-clock": ({"sent_at": 7_200.0}, "clock_skew"),
        "v-stuck": (
            {"progress": nodes.Progress(workers=3, counters={"games": 7}, age_s=4_000)},
            "no_progress",
        ),
        "v-fails": ({"progress": nodes.Progress(failures=20, age_s=1)}, "work_fails"),
    }
    async with watching(fleet_up) as (bus, fleet, told):
        agents = []
        for name, (fields, _) in cases.items():
            given = dict(fields)
            if "sent_at" in given:
                given["sent_at"] = time.time() + 7_200
            agents.append(await MadeUp(bus, name, **given).start())
        for name, (_, reason) in cases.items():
            view = await in_state(fleet, name, "healthy" if reason is None else "degraded")
            if reason is not None:
                assert view.reason == reason
                degraded = await told.until("node.degraded", name)
                assert degraded["symptoms"] == [reason]
        for each in agents:
            await each.leave()


async def test_a_restarted_monitor_goes_on_from_what_it_knew(fleet_up: Up) -> None:
    async with watching(fleet_up) as (bus, fleet, told):
        alive = [await MadeUp(bus, f"r{n}").start() for n in range(3)]
        dead = await MadeUp(bus, "r-dead").start()
        for name in ("r0", "r1", "r2", "r-dead"):
            await in_state(fleet, name, "healthy")
        await dead.kill()
        await told.until("node.lost", "r-dead")
        begin = len(told.events)
        os.kill(fleet_up.pids()["health-monitor"], signal.SIGKILL)
        died_meanwhile = alive.pop()
        await died_meanwhile.kill()
        # Whoever died while nobody looked is found all the same.
        await told.until("node.lost", died_meanwhile.name)
        view = await in_state(fleet, "r-dead", "lost")
        assert view.health is not None
        for each in alive:
            assert await in_state(fleet, each.name, "healthy")
        after = {(type, key) for type, key, _ in told.events[begin:] if key.startswith("r")}
        assert after <= {
            ("node.suspected", died_meanwhile.name),
            ("node.lost", died_meanwhile.name),
        }
        for each in alive:
            await each.leave()


async def test_a_large_part_of_a_zone_that_vanishes_is_one_event_and_no_eviction(
    tmp_path: Path,
) -> None:
    up = HealthUp(
        tmp_path / "state",
        env={"INTERLOCK_HEALTH_EVICT_AFTER_S": "1", "INTERLOCK_HEALTH_RECOVERY": "act"},
    )
    up.start()
    try:
        async with watching(up) as (bus, fleet, told):
            book = Store(bus, NODES)
            agents = {}
            for n in range(20):
                zone = "b" if n < 8 else f"a{n % 2}"
                record = NodeRecord(name=f"z{n:02}", zone=zone)
                await book.put(nodes.node_key(record.name), msgspec.json.encode(record), revision=0)
                agents[record.name] = await MadeUp(bus, record.name).start()
            for name in agents:
                await in_state(fleet, name, "healthy")
            gone = [f"z{n:02}" for n in range(8)]
            for name in gone:
                await agents[name].kill()
            detected = await told.until("cluster.disruption_detected")
            assert detected["reason"]
            await asyncio.sleep(6)
            zones = [each.get("zone") for each in told.all("cluster.disruption_detected")]
            assert sorted(zones, key=str) == sorted({*zones}, key=str), "each is told once"
            assert not told.all("node.evicted")
            assert not told.all("node.recovery_started")
            assert not [key for type, key, _ in told.events if type == "node.lost"]
            for name in gone:
                view = await seen(fleet, name)
                assert view is not None
                assert view.state == "suspect"
            verdict = await fleet.command(health.VERDICT, health.ShowVerdict())
            assert verdict.disruption
    finally:
        up.stop()


@pytest.mark.slow
async def test_a_disruption_ends_when_they_are_back(tmp_path: Path) -> None:
    up = HealthUp(tmp_path / "state")
    up.start()
    try:
        async with watching(up) as (bus, fleet, told):
            agents = [await MadeUp(bus, f"d{n}").start() for n in range(6)]
            for each in agents:
                await in_state(fleet, each.name, "healthy")
            for each in agents[:4]:
                await each.kill()
            await told.until("cluster.disruption_detected")
            for each in agents[:4]:
                await each.start()
            await told.until("cluster.disruption_ended")
            for each in agents:
                await in_state(fleet, each.name, "healthy")
            assert not told.all("node.lost")
    finally:
        up.stop()


async def test_a_killed_broker_is_nobodys_death(tmp_path: Path) -> None:
    up = HealthUp(tmp_path / "state")
    up.start()
    try:
        with ExitStack() as stack:
            pids = start(stack, up, tmp_path, "b1", "b2")
            async with watching(up) as (_, fleet, told):
                for name in pids:
                    await in_state(fleet, name, "healthy", "degraded")
                for _ in range(2):
                    os.kill(up.pids()["broker"], signal.SIGKILL)
                    await asyncio.sleep(6)
                for name in pids:
                    await in_state(fleet, name, "healthy", "degraded")
                assert not {"node.lost", "node.evicted"} & {type for type, _, _ in told.events}
    finally:
        up.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_fifty_kills_and_fifty_freezes(tmp_path: Path) -> None:
    """Prints the times from kill to lost; nobody who is merely frozen is lost."""
    up = HealthUp(tmp_path / "state")
    up.start()
    rand = random.Random(7)
    times = []
    try:
        async with watching(up) as (_, fleet, told):
            with ExitStack() as stack:
                pids = start(stack, up, tmp_path, "p1", "p2", "p3")
                for name in pids:
                    await in_state(fleet, name, "healthy", "degraded")
                for round in range(50):
                    name = f"p{1 + round % 3}"
                    await in_state(fleet, name, "healthy", "degraded")
                    os.kill(pids[name], signal.SIGSTOP)
                    await asyncio.sleep(rand.uniform(0.1, 6.0))
                    os.kill(pids[name], signal.SIGCONT)
                    await asyncio.sleep(rand.uniform(0.5, 2.0))
                assert not told.all("node.lost")
                for round in range(50):
                    name = f"p{1 + round % 3}"
                    await in_state(fleet, name, "healthy", "degraded", "recovering")
                    await asyncio.sleep(rand.uniform(2.0, 3.0))
                    begin = len(told.events)
                    at = asyncio.get_running_loop().time()
                    os.kill(pids[name], signal.SIGKILL)
                    await told.until("node.lost", name, after=begin)
                    times.append(asyncio.get_running_loop().time() - at)
                    pids |= start(stack, up, tmp_path, name)
    finally:
        up.stop()
    times.sort()
    print(json.dumps({"p50": times[24], "p99": times[49], "kills": len(times)}))


@pytest.mark.slow
async def test_a_second_monitor_stands_by_and_goes_on(tmp_path: Path) -> None:
    up = HealthUp(tmp_path / "state")
    up.start()
    second = subprocess.Popen(
        [sys.executable, "-m", "interlock_health_monitor"],
        env=up.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with watching(up) as (bus, fleet, told):
            agents = {name: await MadeUp(bus, name).start() for name in ("t1", "t2", "t3")}
            for name in agents:
                await in_state(fleet, name, "healthy")
            first = up.pids()["health-monitor"]

            async def by() -> str:
                verdict = await fleet.command(health.VERDICT, health.ShowVerdict())
                return verdict.by

            leader = await by()
            await agents["t1"].kill()
            await told.until("node.lost", "t1")
            # Frozen, it loses its place; woken, it takes nothing back and repeats nothing.
            os.kill(first, signal.SIGSTOP)
            try:

                async def another() -> bool:
                    record = await Store(bus, HEALTH).get(health.CLUSTER_KEY)
                    told_by = msgspec.json.decode(record.value or b"{}").get("by")
                    return told_by not in (None, leader)

                await eventually(another)
                await agents["t2"].kill()
                await told.until("node.lost", "t2")
            finally:
                os.kill(first, signal.SIGCONT)
            await asyncio.sleep(3)
            for name in ("t1", "t2"):
                assert told.of(name).count("node.lost") == 1
                assert told.of(name).count("node.suspected") == 1
            assert told.of("t3") == ["node.joined"]
            await agents["t3"].leave()
    finally:
        second.kill()
        second.wait()
        up.stop()


@pytest.mark.slow
async def test_a_monitor_whose_network_is_cut_blames_nobody(tmp_path: Path) -> None:
    up = HealthUp(tmp_path / "state")
    # The monitor of its own reaches the broker through a proxy; the other one is not run.
    up.arguments = ("--only", "sync-mutex")
    up.await_services = lambda: None  # type: ignore[method-assign]
    up.start()
    target = int(str(up.settings.nats_url).rpartition(":")[2])
    port = free_port()
    try:
        async with Proxy(port, target).running() as proxy:
            monitor = subprocess.Popen(
                [sys.executable, "-m", "interlock_health_monitor"],
                env=up.env | {"INTERLOCK_NATS_URL": f"nats://127.0.0.1:{port}"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                async with watching(up) as (bus, fleet, told):
                    names = ("n1", "n2", "n3")
                    agents = [await MadeUp(bus, name).start() for name in names]
                    for name in names:
                        await in_state(fleet, name, "healthy")
                    # A black hole for longer than a lease and than any silence that is tolerated.
                    proxy.hold()
                    await asyncio.sleep(11)
                    await proxy.heal(deliver=False)
                    for name in names:
                        await in_state(fleet, name, "healthy")
                    proxy.cut()
                    await asyncio.sleep(4)
                    await proxy.heal()
                    for name in names:
                        await in_state(fleet, name, "healthy")
                    await asyncio.sleep(3)
                    assert {type for type, _, _ in told.events} <= {
                        "node.joined",
                        "cluster.health_changed",
                    }
                    for each in agents:
                        await each.leave()
            finally:
                monitor.kill()
                monitor.wait()
    finally:
        up.stop()
