"""What is wrong with a node that answers, by its heartbeat and its work.

A value that is absent is no symptom and no proof of health either. Limits come from the node's
description, then from the fleet's, then from here.
"""

from typing import Final

import msgspec

from interlock_schemas.health import Symptom
from interlock_schemas.nodes import Beat, Gpu, NodeLimits

__all__ = ["DEFAULT_LIMITS", "Limits", "limits_of", "symptoms_of"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Past what a node counts as degraded. See `NodeLimits`."""

    disk_used_percent: float = 95.0
    memory_used_percent: float = 97.0
    load_per_core: float = 8.0
    gpu_temperature_c: float = 92.0
    progress_s: float = 300.0
    checkpoint_s: float = 1_800.0
    clock_skew_s: float = 30.0
    loop_lag_s: float = 2.0


#: So many symptoms are told of.
_MOST: Final = 32

DEFAULT_LIMITS: Final = Limits()


def limits_of(*said: NodeLimits | None) -> Limits:
    """The limits, by what was said of the fleet first and of the node last."""
    found = msgspec.structs.asdict(DEFAULT_LIMITS)
    for each in said:
        if each is not None:
            found.update({k: v for k, v in msgspec.structs.asdict(each).items() if v is not None})
    return Limits(**found)


def symptoms_of(
    beat: Beat,
    limits: Limits,
    *,
    skew_s: float | None = None,
    expected_gpus: int | None = None,
    beats_lost: float | None = None,
    beat_every_s: float | None = None,
) -> tuple[Symptom, ...]:
    """What is wrong, the worst first; of very much, the beginning.

    `skew_s`: the node's clock minus ours, positive where it is ahead. `beats_lost`: the share of
    its heartbeats that did not arrive lately. `beat_every_s`: how long between two of them, lately
    and on average.
    """
    found: list[Symptom] = []
    found += _gpus(beat, limits, expected_gpus)
    for disk in beat.disks:
        if disk.fault is not None:
            found.append(_symptom("disk_fault", f"{disk.path}: {disk.fault}", disk.path))
            continue
        if disk.read_only:
            found.append(_symptom("disk_read_only", f"{disk.path} is read-only", disk.path))
        for what, used in (("", disk.used_percent), ("inodes ", disk.inodes_used_percent)):
            if used is not None and used >= limits.disk_used_percent:
                limit = f"{limits.disk_used_percent:g} %"
                found.append(
                    _symptom(
                        "disk_full",
                        f"{disk.path}: {what}{used:.1f} % used, limit {limit}",
                        disk.path,
                    )
                )
    if skew_s is not None and abs(skew_s) >= limits.clock_skew_s:
        way = "ahead" if skew_s > 0 else "behind"
        found.append(
            _symptom(
                "clock_skew",
                f"its clock is {abs(skew_s):.0f} s {way}, limit {limits.clock_skew_s:g} s",
            )
        )
    found += _work(beat, limits)
    used = beat.memory_used_percent
    if used is not None and used >= limits.memory_used_percent:
        found.append(
            _symptom(
                "memory_full", f"{used:.1f} % of memory, limit {limits.memory_used_percent:g} %"
            )
        )
    if beat.load_per_core is not None and beat.load_per_core >= limits.load_per_core:
        found.append(
            _symptom(
                "overloaded",
                f"load of {beat.load_per_core:.1f} per core, limit {limits.load_per_core:g}",
            )
        )
    if beat.loop_lag_s is not None and beat.loop_lag_s >= limits.loop_lag_s:
        found.append(
            _symptom(
                "agent_slow",
                f"its agent was {beat.loop_lag_s:.1f} s late, limit {limits.loop_lag_s:g} s",
            )
        )
    if beats_lost is not None and beats_lost >= 0.25:
        found.append(_symptom("beats_lost", f"{beats_lost:.0%} of its heartbeats do not arrive"))
    # Beats that get lost make the rest look slow, up to a point.
    if beat_every_s is not None and beat_every_s >= 2 * beat.interval_s:
        found.append(
            _symptom(
                "beats_slow",
                f"it beats each {beat_every_s:.1f} s, and says that it does each "
                f"{beat.interval_s:g} s",
            )
        )
    if len(found) > _MOST:
        more = f"{len(found) - _MOST} more"
        found[_MOST:] = [_symptom("more", more)]
    return tuple(found)


def _gpus(beat: Beat, limits: Limits, expected: int | None) -> list[Symptom]:
    found: list[Symptom] = []
    if beat.gpu_fault is not None:
        found.append(_symptom("gpu_library", f"GPUs cannot be measured: {beat.gpu_fault}"))
    if beat.gpus is None:
        return found
    for gpu in beat.gpus:
        why = _bad(gpu, limits)
        if why is not None:
            kind, detail = why
            found.append(_symptom(kind, f"GPU {gpu.index}: {detail}", str(gpu.index)))
    if expected is not None and len(beat.gpus) < expected and beat.gpu_fault is None:
        found.append(_symptom("gpu_missing", f"{len(beat.gpus)} of {expected} GPUs are there"))
    return found


def _bad(gpu: Gpu, limits: Limits) -> tuple[str, str] | None:
    if gpu.fault is not None:
        return "gpu_fault", gpu.fault
    if gpu.ecc_uncorrected:
        return "gpu_ecc", f"{gpu.ecc_uncorrected} memory errors that could not be corrected"
    if gpu.rows_failed:
        return "gpu_rows", "memory rows could not be remapped: replace the board"
    if gpu.temperature_c is not None and gpu.temperature_c >= limits.gpu_temperature_c:
        return "gpu_hot", f"{gpu.temperature_c:g} °C, limit {limits.gpu_temperature_c:g} °C"
    return None


def _work(beat: Beat, limits: Limits) -> list[Symptom]:
    found: list[Symptom] = []
    progress = beat.progress
    if progress is not None:
        if progress.workers and progress.age_s is not None and progress.age_s >= limits.progress_s:
            found.append(
                _symptom(
                    "no_progress",
                    f"{progress.workers} workers, and no counter rose for {progress.age_s:.0f} s, "
                    f"limit {limits.progress_s:g} s",
                )
            )
        done = progress.failures + progress.successes
        if progress.failures >= 5 and progress.failures >= 0.8 * done:
            found.append(
                _symptom("work_fails", f"{progress.failures} of {done} pieces of work failed")
            )
    checkpoint = beat.checkpoint
    if (
        checkpoint is not None
        and progress is not None
        and progress.workers
        and checkpoint.age_s >= limits.checkpoint_s
    ):
        found.append(
            _symptom(
                "no_checkpoint",
                f"the last durable artifact is {checkpoint.age_s:.0f} s old, "
                f"limit {limits.checkpoint_s:g} s",
            )
        )
    return found


def _symptom(kind: str, detail: str, part: str = "") -> Symptom:
    return Symptom(kind=kind, detail=detail[:500], part=part[:200])
