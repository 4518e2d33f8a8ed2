"""Plays the cases: one large file, many small ones, a fan-out, and nothing to do.

Ours is timed as a caller sees it, from `fleet.sync` to the report that every receipt stands, which
includes each digest, the flush to disk, the fencing tokens and the commit. Peers take turns with it
over the same sshd, and only write into the page cache.
"""

import asyncio
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from interlock.artifacts import files
from interlock.artifacts.sealing import seal
from interlock.artifacts.store import LocalStore
from interlock.bench import machine, stats
from interlock.bench.compare import Say
from interlock.bench.play import scratch
from interlock.bench.sync import peers
from interlock.bench.sync.stage import Stage, staged
from interlock.broker import find_server
from interlock.errors import InterlockError
from interlock_schemas.artifacts import Artifact

__all__ = ["QUICK", "Case", "Size", "SyncBench", "play", "show"]

ORIGIN: Final = "origin"
_MIB: Final = 1024 * 1024
_TICKS: Final = 100.0
#: What OpenSSH is asked for by our transport: the peer is run with the same and with the defaults.
_CIPHERS: Final = "aes128-gcm@openssh.com,chacha20-poly1305@openssh.com"


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How much is moved."""

    big_bytes: int = 1024 * _MIB
    small_files: int = 10_000
    small_bytes: int = 4_096
    fan_out_bytes: int = 128 * _MIB
    fan_out_nodes: int = 8
    artifacts: int = 10_000
    runs: int = 3


QUICK: Final = Size(
    big_bytes=256 * _MIB,
    small_files=3_000,
    fan_out_bytes=32 * _MIB,
    artifacts=1_000,
    runs=2,
)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One thing moved, by one way."""

    name: str
    seconds: stats.Spread
    bytes: int
    mb_per_s: float
    cpu_s_per_gb: float | None = None
    """Of the whole machine while it ran, so that both ends and their helpers are in it."""


class SyncBench(msgspec.Struct, frozen=True, kw_only=True):
    """What ``interlock bench sync --json`` prints."""

    cases: tuple[Case, ...]
    ratios: dict[str, float]
    """Above 1 is better than the peer, but for `fanout_egress_vs_size`: bytes that left the origin,
    by the artifact's size."""
    unchanged_ms_per_10k: float
    """A request for artifacts that are all there."""
    unchanged_moved: int
    machine: machine.Machine
    skipped: dict[str, str] = {}


class _Times(msgspec.Struct):
    name: str
    bytes: int
    seconds: list[float] = []
    cpu_s: list[float] = []

    def case(self) -> Case:
        spread = stats.Spread.of([round(each, 4) for each in self.seconds])
        cpu = stats.median(self.cpu_s) / (self.bytes / 1e9) if self.cpu_s else None
        return Case(
            name=self.name,
            seconds=spread,
            bytes=self.bytes,
            mb_per_s=round(self.bytes / 1e6 / spread.median, 1),
            cpu_s_per_gb=None if cpu is None else round(cpu, 2),
        )


class _Run:
    def __init__(self, stage: Stage, size: Size, say: Say) -> None:
        self.stage = stage
        self.size = size
        self.say = say
        self.store = LocalStore(stage.root(ORIGIN))
        self.cases: list[_Times] = []
        self.ratios: dict[str, float] = {}
        self.skipped: dict[str, str] = {}
        self.sealed = 0

    def times(self, name: str, size: int) -> _Times:
        made = _Times(name, size)
        self.cases.append(made)
        return made

    async def seal(self, path: Path, dataset: str) -> Artifact:
        about = await asyncio.to_thread(
            seal, self.store, path, dataset=dataset, origin=ORIGIN, name=path.name
        )
        self.sealed += 1
        await self.stage.known(ORIGIN, self.sealed)
        return about

    async def ours(self, times: _Times, about: Artifact, targets: tuple[str, ...]) -> None:
        """Move an artifact by request; add how long that took."""
        await _settled()
        cpu, begin = _machine_cpu_s(), time.perf_counter()
        report = await self.stage.fleet.sync(
            about.dataset, artifacts=[about.id], targets=targets, priority="high", timeout=600
        )
        took = time.perf_counter() - begin
        if report.failed or report.pending or report.moved != len(targets):
            raise InterlockError(f"not everything was moved: {msgspec.json.encode(report)!r}")
        times.seconds.append(took)
        times.cpu_s.append(_machine_cpu_s() - cpu)

    async def theirs(
        self, times: _Times, source: Path, ciphers: str | None = None, *, keep: bool = False
    ) -> None:
        """Have rsync fetch it. `keep`: it is deleted with all else, as what follows has to be timed
        at once, and ext4 is slow to make files where many were deleted less than a minute ago."""
        target = self.stage.folder / f"theirs-{len(times.seconds)}"
        await _settled()
        cpu = _machine_cpu_s()
        took = await peers.rsync(self.stage.sshd, source, target, ciphers=ciphers)
        times.seconds.append(took)
        times.cpu_s.append(_machine_cpu_s() - cpu)
        if not keep:
            await asyncio.to_thread(shutil.rmtree, target)

    async def big_file(self) -> None:
        size = self.size.big_bytes
        ours, plain = self.times("big_file", size), self.times("big_file_rsync", size)
        same = self.times("big_file_rsync_same_cipher", size)
        path = self.stage.folder / "big.bin"
        for number in range(self.size.runs + 1):
            await asyncio.to_thread(_random_file, path, size)
            about = await self.seal(path, "bench-big")
            if number == 0:
                # Connections, and what is loaded on first use, are there from then on.
                await self.ours(_Times("", size), about, ("node:peer-1",))
                continue
            self.say(f"one file of {size // _MIB} MiB, {number} of {self.size.runs}")
            await self.theirs(plain, path)
            await self.ours(ours, about, ("node:peer-1",))
            await self.theirs(same, path, _CIPHERS)
        self.ratios["big_file_vs_rsync"] = _ratio(plain, ours)
        self.ratios["big_file_vs_rsync_same_cipher"] = _ratio(same, ours)
        path.unlink()

    async def small_files(self) -> None:
        count, each = self.size.small_files, self.size.small_bytes
        size = count * each
        ours, plain = self.times("small_files", size), self.times("small_files_rsync", size)
        slow = self.times("small_files_sftp", size)
        for number in range(self.size.runs + 1):
            path = self.stage.folder / f"small-{number}"
            names = await asyncio.to_thread(_random_files, path, count, each)
            about = await self.seal(path, "bench-small")
            if number == 0:
                await self.ours(_Times("", size), about, ("node:peer-1",))
                continue
            self.say(f"{count:,} files of {each} B, {number} of {self.size.runs}")
            await self.theirs(plain, path, keep=True)
            await self.ours(ours, about, ("node:peer-1",))
            if number == self.size.runs:
                target = self.stage.folder / "sftp"
                await _settled()
                slow.seconds.append(await peers.sftp(self.stage.sshd, path, target, names))
        self.ratios["small_files_vs_rsync"] = _ratio(plain, ours)
        self.ratios["small_files_vs_sftp"] = _ratio(slow, ours)

    async def fan_out(self) -> None:
        size, count = self.size.fan_out_bytes, self.size.fan_out_nodes
        path = self.stage.folder / "spread.bin"
        await asyncio.to_thread(_random_file, path, size)
        about = await self.seal(path, "bench-spread")
        times = self.times("fan_out", size * count)
        targets = tuple(f"node:peer-{number + 1}" for number in range(count))
        self.say(f"{size // _MIB} MiB to {count} nodes")
        await self.ours(times, about, targets)
        left = 0
        for number in range(count):
            copy = (await self.stage.receipts(f"peer-{number + 1}"))[about.id]
            left += (copy.moved or 0) if copy.source == ORIGIN else 0
        self.ratios["fanout_egress_vs_size"] = round(left / size, 3)

    async def unchanged(self) -> tuple[float, int]:
        count = self.size.artifacts
        folder = self.stage.folder / "many"
        self.say(f"{count:,} artifacts that are there already")
        names = await asyncio.to_thread(_random_files, folder, count, 64)
        await asyncio.to_thread(self._seal_all, folder, names)
        self.sealed += count
        await self.stage.known(ORIGIN, self.sealed)
        first = await self.stage.fleet.sync("bench-many", targets=("node:peer-1",), timeout=600)
        if first.failed or first.pending:
            raise InterlockError(f"not everything was moved: {msgspec.json.encode(first)!r}")
        took: list[float] = []
        moved = 0
        for _ in range(5):
            begin = time.perf_counter()
            report = await self.stage.fleet.sync("bench-many", targets=("node:peer-1",))
            took.append(time.perf_counter() - begin)
            moved += report.moved
            if report.already_there != count:
                raise InterlockError(f"{report.already_there} of {count} are said to be there")
        return stats.median(took) * 1e3 * 10_000 / count, moved

    def _seal_all(self, folder: Path, names: list[str]) -> None:
        for name in names:
            seal(self.store, folder / name, dataset="bench-many", origin=ORIGIN, move=True)


async def play(size: Size, say: Say, *, parent: Path | None = None) -> SyncBench:
    """Run every case. Raises InterlockError when the fleet does not come up or does not move."""
    if not peers.have_rsync():
        raise InterlockError("rsync and ssh are needed to compare with: apt-get install rsync")
    with scratch(parent) as made:
        folder = Path(made)
        # Neither side is to be slow because of what a run before has deleted.
        files.spread(folder)
        found = machine.examine(folder, find_server().version_text)
        nodes = [ORIGIN, *(f"peer-{number + 1}" for number in range(size.fan_out_nodes))]
        async with staged(folder, nodes) as stage:
            for dataset in ("bench-big", "bench-small", "bench-spread", "bench-many"):
                await stage.only_where_asked(dataset)
            run = _Run(stage, size, say)
            await run.big_file()
            await run.small_files()
            await run.fan_out()
            unchanged_ms, moved = await run.unchanged()
    return SyncBench(
        cases=tuple(each.case() for each in run.cases if each.seconds),
        ratios=run.ratios,
        unchanged_ms_per_10k=round(unchanged_ms, 1),
        unchanged_moved=moved,
        machine=found,
        skipped=run.skipped,
    )


def _ratio(theirs: _Times, ours: _Times) -> float:
    """By how much ours is quicker: the medians of both."""
    return round(stats.median(theirs.seconds) / stats.median(ours.seconds), 2)


def _random_file(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(size // _MIB):
            file.write(os.urandom(_MIB))


async def _settled() -> None:
    """Nothing that was written before is still on its way to the disk."""
    await asyncio.to_thread(os.sync)


def _random_files(folder: Path, count: int, size: int) -> list[str]:
    folder.mkdir()
    names = [f"game-{number:05d}.bin" for number in range(count)]
    for name in names:
        (folder / name).write_bytes(os.urandom(size))
    return names


def _machine_cpu_s() -> float:
    """Seconds that all cores have worked, as far as the kernel tells."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, soft, *_ = (int(field) for field in fields)
    return (user + nice + system + irq + soft) / _TICKS


def show(found: SyncBench) -> None:
    """Print what was found, for people."""
    for case in found.cases:
        cpu = "" if case.cpu_s_per_gb is None else f", {case.cpu_s_per_gb:.1f} CPU s/GB"
        sys.stdout.write(
            f"{case.name:28} {case.seconds.median:8.3f} s  {case.mb_per_s:8.1f} MB/s{cpu}\n"
        )
    sys.stdout.write(f"nothing changed: {found.unchanged_ms_per_10k:.1f} ms per 10,000 artifacts\n")
    for name, ratio in found.ratios.items():
        sys.stdout.write(f"{name:32} {ratio:.2f}\n")
