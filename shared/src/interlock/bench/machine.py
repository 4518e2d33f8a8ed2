"""The machine and the versions that a benchmark ran on, and what a sync to its disk costs."""

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Final

import msgspec

from interlock.bench import stats

__all__ = ["Machine", "examine", "filesystem"]

_SYNCS: Final = 60
_SYNCED_BYTES: Final = 4_096


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a figure has to be read with."""

    cores: int
    """Those that this process may use."""
    cpu: str
    memory_gib: float | None
    kernel: str
    python: str
    nats_server: str
    packages: dict[str, str | None]
    """Versions of the clients; None where one is not installed."""
    filesystem: str | None
    """Type of the one that the brokers store on."""
    fsync_ms: stats.Latency
    """Appending 4 KiB to a file and syncing it, in the brokers' folder."""


def examine(folder: Path, nats_server: str) -> Machine:
    """Look at the machine; writes and syncs a small file in `folder`, for up to a few seconds."""
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        cpu=_cpu(),
        memory_gib=_memory_gib(),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        nats_server=nats_server,
        packages={name: _version(name) for name in ("interlock", "nats-py", "faststream")},
        filesystem=filesystem(folder),
        fsync_ms=_fsync(folder),
    )


def _cores() -> int:
    return os.cpu_count() or 1


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def filesystem(folder: Path) -> str | None:
    """The type of the file system that holds a folder, ``ext4``; None where nobody tells."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return None
    found, longest = None, -1
    for line in mounts:
        _, mounted, kind, *_ = line.split(" ")
        point = Path(mounted.replace("\\040", " "))
        if folder.resolve().is_relative_to(point) and len(mounted) >= longest:
            found, longest = kind, len(mounted)
    return found


def _fsync(folder: Path) -> stats.Latency:
    path = folder / "sync-probe"
    block = b"\0" * _SYNCED_BYTES
    taken = []
    probe = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(_SYNCS):
            begin = time.perf_counter_ns()
            os.write(probe, block)
            os.fsync(probe)
            taken.append(time.perf_counter_ns() - begin)
    finally:
        os.close(probe)
        path.unlink()
    return stats.latency(taken)
