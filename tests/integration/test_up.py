"""`interlock up`: killed, stopped and started again, with nothing lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from interlock import state
from interlock.bus import connected
from interlock.fleet import Fleet
from interlock_schemas import envelope
from tests.conftest import PATIENCE_S, Up, clean_env, cli_json, eventually, run_cli


async def test_up_killed_in_mid_traffic_goes_on_where_it_stopped(own_up: Up) -> None:
    acked: list[str] = []

    async def traffic(fleet: Fleet, enough: asyncio.Event) -> None:
        number = 0
        while not enough.is_set():
            number += 1
            id = f"t{number}"
            name = "training_complete" if number % 5 else "nobody_knows_this"
            body = {"event_type": name, "payload": {"config_key": "hex8_2p", "n": number}}
            await fleet.bus.publish(
                "legacy.bus", json.dumps(body).encode(), {envelope.MSG_ID: id}, timeout_s=60
            )
            acked.append(id)

    # The worker connects to an address that stays the same across the restart.
    async with connected(own_up.settings, name="test") as bus:
        fleet = Fleet(bus, source="test")
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                task = group.create_task(traffic(fleet, enough))
                await asyncio.sleep(0.8)
                await asyncio.to_thread(own_up.kill)
                assert not task.done()
                await asyncio.to_thread(own_up.start)
                await asyncio.sleep(0.4)
            enough.set()

        async def all_ended() -> bool:
            for name in ("event-normalizer", "dead-letter-queue"):
                stream = "LEGACY" if name == "event-normalizer" else "DEAD"
                info = await bus.api(f"CONSUMER.INFO.{stream}.{name}")
                if info["num_pending"] or info["num_ack_pending"]:
                    return False
            return True

        await eventually(all_ended)
        canonical = await bus.api("STREAM.INFO.EVENTS", {"subjects_filter": "events.training.>"})
        events = sum((canonical["state"]["subjects"] or {}).values())
        letters = cli_json(own_up, "dlq", "list", "--limit", "1")["total"]
        stored = (await bus.api("STREAM.INFO.LEGACY"))["state"]["messages"]
    assert len(acked) > 50
    assert stored >= len(set(acked))
    assert events + letters == stored


def test_what_dies_is_started_again(own_up: Up) -> None:
    before = own_up.pids()
    for name in before:
        os.kill(before[name], signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            running = state.read_run(own_up.folder)
            pids = {p.name: p.pid for p in running.processes} if running else {}
            if pids.get(name) not in (None, before[name]):
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"{name} was not started again")
    own_up.await_services()


def test_a_second_up_on_the_same_folder_is_refused(up: Up) -> None:
    told = run_cli(up, "up", "--state", str(up.folder))
    assert told.returncode == 1
    assert "in use" in told.stderr


def test_only_one_service(tmp_path: Path) -> None:
    alone = Up(tmp_path / "state", "--only", "event-normalizer")
    others = ["dead-letter-queue", "health-monitor", "node-agent", "sync-mutex", "sync-router"]
    alone.await_services = lambda: None  # type: ignore[method-assign]
    alone.start()
    try:
        deadline = time.monotonic() + PATIENCE_S
        told = cli_json(alone, "status")
        while told["silent"] != others and time.monotonic() < deadline:
            told = cli_json(alone, "status")
        assert [service["name"] for service in told["services"]] == ["event-normalizer"]
        assert told["silent"] == others
    finally:
        assert alone.stop() == 0


def test_stopping_leaves_nothing_running_and_says_so(tmp_path: Path) -> None:
    fleet = Up(tmp_path / f"state-{uuid.uuid4().hex[:6]}")
    fleet.start()
    pids = fleet.pids()
    assert fleet.stop() == 0
    assert state.read_run(fleet.folder) is None
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_broker_that_does_not_start_ends_up_with_the_reason(tmp_path: Path) -> None:
    fleet = Up(tmp_path / "state")
    fleet.start()
    assert fleet.stop() == 0
    (meta,) = fleet.folder.rglob("streams/EVENTS/meta.inf")
    meta.write_bytes(b"garbage")
    told = run_cli(fleet, "up", "--state", str(fleet.folder))
    assert told.returncode == 1
    assert "EVENTS" in told.stderr
    assert "Traceback" not in told.stderr
    assert state.read_run(fleet.folder) is None


def test_up_can_be_stopped_while_it_starts(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "interlock", "up", "--state", str(tmp_path / "state")],
        env=clean_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output + errors
    assert "Traceback" not in errors
    assert state.read_run(tmp_path / "state") is None


def test_a_spoilt_record_of_the_broker_costs_a_new_port_and_no_more(tmp_path: Path) -> None:
    fleet = Up(tmp_path / "state")
    fleet.start()
    assert fleet.stop() == 0
    (record,) = fleet.folder.rglob("broker.json")
    for spoilt in ('{"server_name": "", "port": 0}', '{"server_name": "x", "port": -5}', "[]"):
        record.write_text(spoilt)
        fleet.start()
        assert fleet.stop() == 0
