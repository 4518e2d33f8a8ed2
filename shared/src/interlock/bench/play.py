"""The whole benchmark of the bus: brokers, groups, latency, normalizer, and the report."""

import importlib.util
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from interlock.bench import cases, compare, latency, machine, normalizer, stats
from interlock.bench.cases import Choice, Group
from interlock.bench.compare import Say
from interlock.bench.result import LatencyRow, Measured, Memory, Report, rate_of, ratios
from interlock.bench.session import Session, session
from interlock.broker import find_server

__all__ = ["play", "scratch"]

_MISSING: Final = "not installed: pip install 'interlock[bench]'"
_NO_NORMALIZER: Final = "not installed: pip install interlock-event-normalizer"


def scratch(parent: Path | None) -> "tempfile.TemporaryDirectory[str]":
    """A folder for brokers, below `parent`, gone at the end of a `with` block."""
    return tempfile.TemporaryDirectory(
        prefix="interlock-bench-", dir=parent, ignore_cleanup_errors=True
    )


class _Found(msgspec.Struct):
    measured: list[Measured] = []
    latency: list[LatencyRow] = []
    memory: list[Memory] = []
    normalizer: list[float] = []
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}


async def play(choice: Choice, *, parent: Path | None, say: Say) -> Report:
    """Measure what was chosen. Brokers live in a temporary folder below `parent`.

    Raises BenchFailed when something of ours does not work, BrokerError when there is no broker.
    """
    begin = time.monotonic()
    found = _Found()
    clients = _clients(found.skipped)
    contract = normalizer.installed()
    if "normalizer" in choice.parts and contract is None:
        found.skipped["normalizer"] = _NO_NORMALIZER
    chosen = cases.groups(choice, clients)
    with_latency = "latency" in choice.parts and not choice.quick
    with_normalizer = "normalizer" in choice.parts and contract is not None
    latency_runs, latency_s = choice.latency_runs
    normalizer_runs, legacy = choice.normalizer_runs
    brokers = list(dict.fromkeys((g.setting.replicas, g.setting.sync) for g in chosen))
    if with_latency:
        brokers += [
            (replicas, "always")
            for replicas in choice.replicas
            if (replicas, "always") not in brokers
        ]
    expected_s = cases.estimate_s(
        chosen,
        latency_s=with_latency
        * len(choice.replicas)
        * latency.estimate_s(clients, runs=latency_runs, run_s=latency_s),
        normalizer_s=with_normalizer * normalizer.estimate_s(legacy, normalizer_runs),
    )
    say(f"this takes about {_rounded(expected_s)}; other work on this machine falsifies it")
    with scratch(parent) as made:
        folder = Path(made)
        found_machine = machine.examine(folder, find_server().version_text)
        if found_machine.filesystem in ("tmpfs", "ramfs"):
            say(f"{folder} is in memory: a sync costs nothing there. Name a disk with --dir")
        for replicas, sync in brokers:
            store = folder / f"{replicas}-{sync}"
            async with session(store, replicas=replicas, sync_always=sync == "always") as running:
                await _groups(running, chosen, sync, found, say)
                if with_latency and sync == "always":
                    found.latency += await latency.measure(
                        running,
                        clients,
                        sync=sync,
                        runs=latency_runs,
                        run_s=latency_s,
                        say=say,
                        failed=found.failed,
                    )
            shutil.rmtree(store, ignore_errors=True)
        if with_normalizer and contract is not None:
            async with session(folder / "normalizer", replicas=1, sync_always=True) as running:
                found.normalizer += await normalizer.measure(
                    running, contract, count=legacy, runs=normalizer_runs, say=say
                )
    medians, pairs = ratios(found.measured)
    return Report(
        ratios=dict(medians),
        ratio_runs=dict(pairs),
        rates=[rate_of(each) for each in found.measured],
        latency=found.latency,
        memory=found.memory,
        normalizer_e2e=stats.Spread.of(found.normalizer) if found.normalizer else None,
        machine=found_machine,
        skipped=found.skipped,
        failed=found.failed,
        quick=choice.quick,
        seconds=round(time.monotonic() - begin, 1),
    )


async def _groups(
    running: Session, chosen: list[Group], sync: str, found: _Found, say: Say
) -> None:
    """The groups of one broker."""
    for group in chosen:
        if (group.setting.replicas, group.setting.sync) != (running.replicas, sync):
            continue
        found.measured += await compare.measure(running, group, say, found.failed)
        if group.setting.size == cases.COMPARED_SIZE and running.replicas == 1:
            found.memory += _memory(running, group)


def _memory(running: Session, group: Group) -> list[Memory]:
    rows = []
    for case in group.cases:
        hand = running.standing(case.client, case.way)
        if hand is None:
            continue
        rows.append(
            Memory(
                role="publisher" if group.kind == "publish" else "consumer",
                client=case.client,
                way=case.way,
                sync=group.setting.sync,
                idle_mib=round(hand.idle_mib, 1),
                peak_mib=round(hand.peak_mib, 1),
            )
        )
    return rows


def _clients(skipped: dict[str, str]) -> list[str]:
    """The clients that can be measured here, ours first."""
    clients = ["interlock", "nats_py"]
    wanted = ("faststream", "fast_depends")
    if all(importlib.util.find_spec(package) is not None for package in wanted):
        clients.append("faststream")
    else:
        skipped["faststream"] = _MISSING
    return clients


def _rounded(seconds: float) -> str:
    if seconds < 90:
        return f"{max(10, round(seconds / 10) * 10)} seconds"
    return f"{round(seconds / 60)} minutes"
