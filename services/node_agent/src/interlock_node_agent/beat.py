"""Builds the heartbeat out of what was measured. Pure.

What could not be measured is absent, never zero; what makes no sense counts as not measured. A
heartbeat always fits: where there is too much to say, detail goes before facts.
"""

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from interlock_schemas.nodes import (
    LARGEST_BEAT_BYTES,
    Beat,
    Checkpoint,
    Disk,
    Gpu,
    Leave,
    Progress,
)

__all__ = ["Identity", "Machine", "at_least", "beat", "encode", "percent", "text"]

_ADDRESSES: Final = 16
_COUNTED: Final = 2**62


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who beats, and how often."""

    node: str
    instance: str
    version: str
    interval_s: float


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Processor and memory of a host at one moment."""

    cores: int | None = None
    cpu_percent: float | None = None
    load_per_core: float | None = None
    memory_used_percent: float | None = None
    memory_available_bytes: int | None = None
    memory_total_bytes: int | None = None


def percent(value: float | None) -> float | None:
    """A share between 0 and 100; None where it is none. Rounding errors are forgiven."""
    if value is None or not math.isfinite(value) or not -0.5 <= value <= 100.5:
        return None
    return round(min(100.0, max(0.0, value)), 2)


def at_least(value: float | None, least: float = 0.0) -> float | None:
    """A finite number not below `least`; None where it is none."""
    if value is None or not math.isfinite(value) or value < least:
        return None
    return round(float(value), 4)


def text(value: str, most: int = 200) -> str:
    """Text that fits a field of so many characters and can be encoded."""
    return value.encode("utf-8", "backslashreplace").decode()[:most]


def _count(value: int | None) -> int | None:
    return value if value is not None and 0 <= value <= _COUNTED else None


def beat(
    who: Identity,
    *,
    seq: int,
    sent_at: float,
    uptime_s: float,
    loop_lag_s: float | None,
    machine: Machine | None,
    disks: Iterable[Disk] = (),
    gpus: tuple[Gpu, ...] | None = None,
    gpu_fault: str | None = None,
    addresses: Iterable[str] = (),
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    leaving: Leave | None = None,
    answers: bool = True,
) -> Beat:
    """One heartbeat. `machine` None: nothing was measured lately."""
    seen = machine or Machine()
    return Beat(
        node=who.node,
        instance=who.instance,
        seq=seq,
        sent_at=sent_at,
        interval_s=who.interval_s,
        version=who.version,
        answers=answers,
        uptime_s=at_least(uptime_s),
        loop_lag_s=at_least(loop_lag_s),
        cores=seen.cores if seen.cores is not None and seen.cores >= 1 else None,
        cpu_percent=percent(seen.cpu_percent),
        load_per_core=at_least(seen.load_per_core),
        memory_used_percent=percent(seen.memory_used_percent),
        memory_available_bytes=_count(seen.memory_available_bytes),
        memory_total_bytes=_count(seen.memory_total_bytes),
        disks=tuple(disks),
        gpus=gpus,
        gpu_fault=text(gpu_fault, 500) if gpu_fault is not None else None,
        addresses=tuple(text(address) for address in addresses)[:_ADDRESSES],
        progress=progress,
        checkpoint=checkpoint,
        leaving=leaving,
    )


def encode(what: Beat) -> bytes:
    """A heartbeat as it is sent: never more than a reader looks at."""
    body = msgspec.json.encode(what)
    for shorten in (_without_names, _without_healthy_gpus, _bare):
        if len(body) <= LARGEST_BEAT_BYTES:
            break
        what = shorten(what)
        body = msgspec.json.encode(what)
    return body


def _without_names(what: Beat) -> Beat:
    gpus = what.gpus and tuple(
        msgspec.structs.replace(gpu, name=None, uuid=None, fault=gpu.fault and gpu.fault[:60])
        for gpu in what.gpus
    )
    disks = tuple(
        msgspec.structs.replace(disk, fault=disk.fault and disk.fault[:60]) for disk in what.disks
    )
    return msgspec.structs.replace(what, gpus=gpus, disks=disks)


def _without_healthy_gpus(what: Beat) -> Beat:
    gpus = what.gpus and tuple(Gpu(index=gpu.index, fault=gpu.fault) for gpu in what.gpus)
    progress = what.progress and msgspec.structs.replace(what.progress, counters={})
    return msgspec.structs.replace(what, gpus=gpus, progress=progress)


def _bare(what: Beat) -> Beat:
    return msgspec.structs.replace(
        what,
        disks=(),
        gpus=None,
        gpu_fault="there is more to say than fits in a heartbeat" if what.gpus else what.gpu_fault,
        addresses=(),
        checkpoint=None,
    )
