"""The benchmark of locks runs, and its JSON says what it promises. Never how fast anything is."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from interlock.bench.locks import play, servers
from interlock.bench.locks.hand import hand
from interlock.bench.locks.plan import Plan
from interlock.bench.locks.task import Task
from interlock.bench.workers import BenchFailed
from tests.conftest import clean_env, eventually, run_cli

pytestmark = pytest.mark.timeout(240)

_TINY = Plan(
    rounds=2,
    operations=12,
    round_s=5.0,
    handover_rounds=1,
    handovers=4,
    handover_s=0.1,
    runs=1,
    run_s=0.2,
)
_TIMES = (
    "acquire_release_ms",
    "acquire_ms",
    "release_ms",
    "acquire_release_fresh_ms",
    "handover_ms",
    "raw_kv_put_ms",
    "round_trip_ms",
)


def _check(figures: dict[str, Any]) -> None:
    for name in _TIMES:
        assert 0 < figures[name]["p50"] <= figures[name]["p99"] <= figures[name]["max"], name
        assert figures[name]["samples"] > 0
    assert figures["acquire_release_ms"]["p50"] > figures["acquire_ms"]["p50"]
    assert set(figures["throughput"]) == {"1", "16", "64"}
    assert set(figures["throughput_one_lock"]) == {"16", "64"}
    assert all(rate > 0 for rate in figures["throughput"].values())
    assert all(rate > 0 for rate in figures["throughput_one_lock"].values())
    for clients, served in figures["served_one_lock"].items():
        assert 1 <= served <= int(clients)
    assert figures["server"].split()[1][0].isdigit()
    assert figures["client"]
    assert figures["sync"]


@pytest.mark.slow
def test_a_quick_run_reports_ours_and_every_peer_that_is_here(tmp_path: Path) -> None:
    told = run_cli(
        None, "bench", "lock", "--quick", "--dir", str(tmp_path), "--json", timeout_s=200
    )
    assert told.returncode == 0, told.stderr + told.stdout[-2_000:]
    assert "this takes up to" in told.stderr
    report = json.loads(told.stdout.splitlines()[-1])
    _check(report)
    assert report["raw_compare_and_set_ms"]["p50"] > 0
    assert (report["replicas"], report["sync"], report["quick"]) == (1, "always", True)
    assert report["failed"] == {}
    assert report["absent"] == servers.absent()
    here = {"redis", "redis_everysec", "etcd"}
    for name in report["absent"]:
        here = {peer for peer in here if not peer.startswith(name)}
    assert set(report["peers"]) == here
    for peer in report["peers"].values():
        _check(peer)
    ratios = report["ratios"]
    assert ratios["acquire_release_vs_raw_put"] > 0
    for name in ("etcd", "redis"):
        for kind in ("acquire_release", "handover", "throughput_64"):
            ratio = ratios[f"{kind}_vs_{name}"]
            assert (ratio is None) == (name not in here)
    assert report["machine"]["fsync_ms"]["p50_ms"] > 0
    assert report["seconds"] > 0
    # Neither servers nor their stores are left.
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
async def test_three_replicas_without_a_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "of", lambda **_: _TINY)
    monkeypatch.setattr(servers, "absent", lambda: {"redis": "not here", "etcd": "not here"})
    said: list[str] = []
    report = await play.play(quick=True, replicas=3, parent=tmp_path, say=said.append)
    assert (report.replicas, report.peers) == (3, {})
    assert report.absent == {"redis": "not here", "etcd": "not here"}
    assert report.ratios["acquire_release_vs_etcd"] is None
    assert report.ratios["acquire_release_vs_raw_put"] is not None
    assert report.acquire_release_ms.samples == 24
    assert report.handover_ms.samples >= 1
    assert any("hand-overs" in line for line in said)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
async def test_a_peer_that_does_not_start_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "etcd"
    broken.write_text("#!/bin/sh\necho no such disk >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(Plan, "of", lambda **_: _TINY)
    monkeypatch.setattr(servers, "absent", lambda: {"redis": "not here"})
    report = await play.play(quick=True, replicas=1, parent=tmp_path, say=lambda _: None)
    assert report.peers == {}
    assert "etcd-0 ended with 3: no such disk" in report.failed["etcd"]


async def test_without_the_lock_service_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "contracts", list)
    with pytest.raises(BenchFailed, match="pip install interlock-sync-mutex"):
        await play.play(quick=True, replicas=1, parent=tmp_path, say=lambda _: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("redis" in servers.absent(), reason="Redis is not installed")
@pytest.mark.slow
async def test_a_lock_that_is_held_already_fails_the_measurement(tmp_path: Path) -> None:
    async with (
        servers.redis(tmp_path / "redis", fsync="everysec") as server,
        hand("redis", server.where, server.environment, tmp_path) as one,
        hand("redis", server.where, server.environment, tmp_path) as other,
    ):
        await one.do(Task(way="hold", name="a"))
        with pytest.raises(BenchFailed, match=r"redis, uncontended: .* a was held"):
            await other.do(Task(way="uncontended", name="a", count=1, seconds=10.0))


def _below(pid: int) -> set[int]:
    """The processes that a process started, and those that these started."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = {int(pid): int(above) for pid, above in map(str.split, listed.splitlines())}
    found: set[int] = set()
    while more := {one for one, above in parents.items() if above in {pid, *found}} - found:
        found |= more
    return found


def _alive(pids: set[int]) -> set[int]:
    listed = subprocess.run(
        ["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    states = (line.split() for line in listed.splitlines())
    return {int(pid) for pid, state in states if int(pid) in pids and state[0] != "Z"}


@pytest.mark.skipif(shutil.which("ps") is None, reason="there is no ps")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGINT, "starting redis_everysec"),
        (signal.SIGINT, "uncontended"),
        (signal.SIGTERM, "hand-overs"),
        (signal.SIGTERM, "throughput of 16"),
        (signal.SIGKILL, "uncontended"),
    ],
)
async def test_a_signal_ends_every_child(tmp_path: Path, number: signal.Signals, when: str) -> None:
    if "redis" in servers.absent() and "redis" in when:
        pytest.skip("Redis is not installed")
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("elsewhere children are not told that their parent was killed")
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "interlock", "bench", "lock", "--quick", "--dir", str(tmp_path)),
        env=clean_env(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert started.stderr is not None
    async for line in started.stderr:
        if when in line.decode():
            break
    children = await asyncio.to_thread(_below, started.pid)
    assert len(children) >= 4
    started.send_signal(number)
    rest = await started.stderr.read()
    assert await started.wait() != 0, rest
    assert b"Traceback" not in rest

    async def ended() -> bool:
        return not await asyncio.to_thread(_alive, children)

    if number == signal.SIGKILL:
        await eventually(ended)
    else:
        assert await ended()
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("replicas", ["2", "1,3", "none"])
def test_a_number_of_replicas_that_makes_no_sense_is_refused(replicas: str) -> None:
    told = run_cli(None, "bench", "lock", "--replicas", replicas)
    assert told.returncode == 2
    assert "--replicas" in told.stderr
