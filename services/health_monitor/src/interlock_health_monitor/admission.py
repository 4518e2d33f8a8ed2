"""May something heavy be started on a node? Yes, or no with the reason.

Admitted is only what is known to fit: a state that is known and good, a measurement that is fresh,
and room that is left when everything promised lately is taken off. What was not measured is not
free.

`decide` takes the request, what is written and held of the node (`NodeRecord`, `NodeHealth`), its
last heartbeat and that one's age, what is reserved there, the fleet's verdict and the node's limits
(`symptoms.limits_of`); `reservation` says what to store for a yes.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Final

import msgspec

from interlock_health_monitor import instants
from interlock_health_monitor.symptoms import DEFAULT_LIMITS, Limits, symptoms_of
from interlock_schemas.health import (
    Admission,
    Admit,
    ClusterHealth,
    NodeHealth,
    Reservation,
    State,
    Symptom,
)
from interlock_schemas.nodes import Beat, Disk, Gpu, Mark, NodeRecord

__all__ = ["AdmissionPolicy", "decide", "reservation"]


class AdmissionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How careful to be."""

    stale_s: float = 10.0
    """A heartbeat that is older says nothing of what is free."""
    stale_ssh_s: float = 90.0
    """The same of a node without an agent, which is looked at less often."""
    idle_cores_share: float = 0.1
    """So much of the cores may be busy with nothing in particular."""
    idle_gpu_percent: float = 10.0
    """A GPU that does more than this is not idle."""
    idle_gpu_memory_share: float = 0.05
    """Nor one of whose memory more than this is taken."""
    retry_s: float = 15.0
    """When to ask again where room is short."""


#: Not now, and when to ask again, seconds.
_STATES: Final[dict[State, tuple[str, float | None]]] = {
    "unknown": ("nothing is known of it that could be trusted", 5.0),
    "suspect": ("it has gone quiet", 5.0),
    "lost": ("it is lost", 60.0),
    "recovering": ("it is back and has yet to prove itself", 10.0),
    "retired": ("it is retired", None),
}

#: Symptoms that speak against whatever is to be started there.
_AGAINST_ALL: Final = frozenset({"agent_gone", "work_fails"})
#: Symptoms that speak against whatever needs any resource.
_AGAINST_LOAD: Final = frozenset({"memory_full", "overloaded", "no_progress"})
_DISK: Final = frozenset({"disk_full", "disk_fault", "disk_read_only"})
#: Symptoms of one GPU, whose index is the symptom's part.
_GPU: Final = frozenset({"gpu_fault", "gpu_ecc", "gpu_rows", "gpu_hot"})

_PAUSED_S: Final = 30.0


class _No(Exception):
    """What speaks against it."""

    def __init__(self, code: str, reason: str, retry_s: float | None = None) -> None:
        super().__init__(reason)
        self.answer = Admission(
            admitted=False,
            code=code,
            reason=reason[:500],
            retry_after_s=None if retry_s is None else max(1.0, retry_s),
        )


def decide(
    admit: Admit,
    *,
    record: NodeRecord | None,
    health: NodeHealth | None,
    beat: Beat | None,
    beat_age_s: float | None,
    reservations: Iterable[Reservation] = (),
    cluster: ClusterHealth | None = None,
    limits: Limits = DEFAULT_LIMITS,
    now: datetime,
    policy: AdmissionPolicy = AdmissionPolicy(),  # noqa: B008  # frozen
) -> Admission:
    """Decide. Where nothing is asked for, only the node's state and the fleet's are looked at.

    A reservation under the request's own id does not count against it. A yes says in `until` how
    long what was asked for is to be reserved, and in `gpus` which ones it may use.
    """
    try:
        _check_marks(record, now)
        _check_state(health, beat, record, now)
        _check_role(admit, record)
        _check_fleet(cluster, now)
        symptoms = _symptoms(health, beat, limits)
        _check_symptoms(symptoms, _AGAINST_ALL, policy)
        if not _asks(admit):
            return Admission(admitted=True, code="ok", id=admit.id or "")
        by_agent = record is None or record.agent
        stale_s = policy.stale_s if by_agent else policy.stale_ssh_s
        if beat is None or beat_age_s is None or beat_age_s > stale_s:
            age = "never" if beat is None or beat_age_s is None else f"{beat_age_s:.0f} s ago"
            raise _No("unknown", f"what is free there is not known: last measured {age}", 5.0)
        _check_symptoms(symptoms, _AGAINST_LOAD, policy)
        taken = [
            each
            for each in reservations
            if each.id != admit.id and instants.stands(each.until or None, now)
        ]
        _check_memory(admit, beat, taken, limits, policy)
        _check_cores(admit, beat, taken, policy)
        _check_disk(admit, beat, taken, limits, policy, symptoms)
        gpus = _pick_gpus(admit, beat, taken, policy, symptoms)
    except _No as no:
        return no.answer
    until = instants.text(now + timedelta(seconds=admit.reserve_s)) if admit.reserve_s else ""
    return Admission(admitted=True, code="ok", id=admit.id or "", until=until, gpus=gpus)


def reservation(admit: Admit, admission: Admission, id: str) -> Reservation | None:
    """What to store for an admission under `id`; None where nothing is to be reserved."""
    if not (admission.admitted and admission.until):
        return None
    return Reservation(
        node=admit.node,
        id=id,
        cores=admit.cores,
        memory_bytes=admit.memory_bytes,
        disk_bytes=admit.disk_bytes,
        gpus=len(admission.gpus),
        gpu_indices=admission.gpus,
        purpose=admit.purpose,
        until=admission.until,
    )


def _asks(admit: Admit) -> bool:
    return bool(
        admit.cores > 0
        or admit.memory_bytes
        or admit.disk_bytes
        or admit.path is not None
        or admit.gpus
        or admit.gpu_memory_bytes
    )


def _check_marks(record: NodeRecord | None, now: datetime) -> None:
    """What people have decided about it."""
    if record is not None:
        if record.retired is not None:
            raise _No("retired", _said("it is retired", record.retired))
        for code, text, mark in (
            ("draining", "it is being drained", record.drain),
            ("cordoned", "it is cordoned", record.cordon),
        ):
            if mark is not None and instants.stands(mark.until, now):
                raise _No(code, _said(text, mark), instants.seconds_until(mark.until, now))


def _check_role(admit: Admit, record: NodeRecord | None) -> None:
    if admit.role is not None and (record is None or admit.role not in record.roles):
        roles = ", ".join(record.roles) if record is not None and record.roles else "none"
        raise _No("role", f"it does not have the role {admit.role}; its roles: {roles}")


def _said(text: str, mark: Mark) -> str:
    until = f" until {mark.until}" if mark.until else ""
    return f"{text}{until}, by {mark.by}{f': {mark.reason}' if mark.reason else ''}"


def _check_state(
    health: NodeHealth | None, beat: Beat | None, record: NodeRecord | None, now: datetime
) -> None:
    """What the monitor holds of it."""
    if health is None:
        more = "" if record is not None or beat is not None else ", and no such node is described"
        raise _No("unknown", f"nothing is known of its health{more}", 5.0)
    evicted = health.eviction
    if evicted is not None and instants.stands(evicted.expires_at or None, now):
        raise _No("evicted", f"it was evicted at {evicted.at}: {evicted.reason}", 60.0)
    leaving = health.leaving or (beat.leaving if beat is not None else None)
    if leaving is not None and health.state != "retired":
        raise _No("leaving", f"it is about to go: {leaving.reason}")
    if health.state in _STATES:
        text, retry_s = _STATES[health.state]
        detail = health.detail or health.reason
        raise _No(health.state, f"{text}{f': {detail}' if detail else ''}", retry_s)
    if not instants.stands(health.expires_at, now):
        raise _No("unknown", f"its state, {health.state}, was not looked at in time", 5.0)


def _check_fleet(cluster: ClusterHealth | None, now: datetime) -> None:
    if cluster is not None and cluster.paused and instants.stands(cluster.expires_at or None, now):
        raise _No("paused", f"new work is paused: {cluster.reason}", _PAUSED_S)


def _symptoms(health: NodeHealth | None, beat: Beat | None, limits: Limits) -> list[Symptom]:
    """What is wrong with it by its last heartbeat and by what is held of it."""
    found = [*(symptoms_of(beat, limits) if beat is not None else ())]
    if health is not None:
        found += health.symptoms
        if health.state == "degraded" and health.reason not in {each.kind for each in found}:
            found.append(Symptom(kind=health.reason, detail=health.detail or health.reason))
    return found


def _check_symptoms(
    symptoms: Iterable[Symptom], kinds: frozenset[str], policy: AdmissionPolicy
) -> None:
    for symptom in symptoms:
        if symptom.kind in kinds:
            raise _No(symptom.kind, symptom.detail, policy.retry_s)


def _check_memory(
    admit: Admit,
    beat: Beat,
    taken: Sequence[Reservation],
    limits: Limits,
    policy: AdmissionPolicy,
) -> None:
    if not admit.memory_bytes:
        return
    if beat.memory_available_bytes is None:
        raise _No("unknown", "its free memory was not measured", policy.retry_s)
    promised = sum(each.memory_bytes for each in taken)
    kept = _kept(beat.memory_total_bytes, limits.memory_used_percent)
    free = beat.memory_available_bytes - promised - kept
    if admit.memory_bytes > free:
        reason = (
            f"memory: {_gib(admit.memory_bytes)} wanted, {_gib(free)} to be had "
            f"({_gib(beat.memory_available_bytes)} available, {_gib(promised)} promised, "
            f"{_gib(kept)} kept free)"
        )
        never = beat.memory_total_bytes is not None and (
            admit.memory_bytes > beat.memory_total_bytes - kept
        )
        raise _No("memory", reason, None if never else policy.retry_s)


def _check_cores(
    admit: Admit, beat: Beat, taken: Sequence[Reservation], policy: AdmissionPolicy
) -> None:
    if admit.cores <= 0:
        return
    shares = [
        share
        for share in (
            beat.load_per_core,
            None if beat.cpu_percent is None else beat.cpu_percent / 100,
        )
        if share is not None
    ]
    if beat.cores is None or not shares:
        raise _No("unknown", "its cores and their load were not measured", policy.retry_s)
    busy = max(0.0, max(shares) - policy.idle_cores_share) * beat.cores
    promised = sum(each.cores for each in taken)
    free = beat.cores - busy - promised
    if admit.cores > free:
        reason = (
            f"cores: {admit.cores:g} wanted, {max(0.0, free):.1f} to be had ({beat.cores} in all, "
            f"{busy:.1f} busy, {promised:g} promised)"
        )
        raise _No("cores", reason, None if admit.cores > beat.cores else policy.retry_s)


def _check_disk(
    admit: Admit,
    beat: Beat,
    taken: Sequence[Reservation],
    limits: Limits,
    policy: AdmissionPolicy,
    symptoms: Sequence[Symptom],
) -> None:
    if not admit.disk_bytes and admit.path is None:
        return
    disks = _disks(beat.disks, admit.path)
    if not disks:
        where = f"{admit.path} is in no watched folder" if admit.path else "no folder is watched"
        raise _No("unknown", f"its free disk is not known: {where}; see `paths` of the node")
    paths = {disk.path for disk in disks}
    for symptom in symptoms:
        if symptom.kind in _DISK and (symptom.part in paths or not symptom.part):
            raise _No(symptom.kind, symptom.detail, policy.retry_s)
    promised = sum(each.disk_bytes for each in taken)
    for disk in disks:
        if disk.free_bytes is None:
            raise _No("unknown", f"the free disk of {disk.path} was not measured", policy.retry_s)
        free = disk.free_bytes - promised - _kept(disk.total_bytes, limits.disk_used_percent)
        if admit.disk_bytes > free:
            reason = (
                f"disk: {_gib(admit.disk_bytes)} wanted at {disk.path}, {_gib(free)} to be had "
                f"({_gib(disk.free_bytes)} free, {_gib(promised)} promised)"
            )
            raise _No("disk", reason, policy.retry_s)


def _disks(disks: Sequence[Disk], path: str | None) -> list[Disk]:
    """Those that matter: all of them, or the one of the nearest watched folder above `path`."""
    if path is None:
        return list(disks)
    wanted = PurePosixPath(path)
    above = [disk for disk in disks if wanted.is_relative_to(disk.path)]
    return [max(above, key=lambda disk: len(PurePosixPath(disk.path).parts))] if above else []


def _pick_gpus(
    admit: Admit,
    beat: Beat,
    taken: Sequence[Reservation],
    policy: AdmissionPolicy,
    symptoms: Sequence[Symptom],
) -> tuple[int, ...]:
    wanted = max(admit.gpus, 1 if admit.gpu_memory_bytes else 0)
    if not wanted:
        return ()
    library = [each.detail for each in symptoms if each.kind == "gpu_library"]
    if beat.gpus is None or library:
        why = library[0] if library else "they were not measured"
        raise _No("unknown", f"its GPUs are not known: {why}", policy.retry_s)
    bad = {each.part for each in symptoms if each.kind in _GPU}
    promised = {index for each in taken for index in each.gpu_indices}
    unnamed = sum(max(0, each.gpus - len(each.gpu_indices)) for each in taken)
    fitting = [
        gpu.index
        for gpu in beat.gpus
        if str(gpu.index) not in bad
        and gpu.index not in promised
        and _fits(gpu, admit.gpu_memory_bytes, policy)
    ][unnamed:]
    if len(fitting) < wanted:
        need = f" with {_gib(admit.gpu_memory_bytes)} free" if admit.gpu_memory_bytes else ""
        reason = (
            f"GPUs: {wanted} wanted{need}, {len(fitting)} to be had ({len(beat.gpus)} in all, "
            f"{len(bad)} faulty, {len(promised) + unnamed} promised)"
        )
        raise _No("gpus", reason, None if wanted > len(beat.gpus) else policy.retry_s)
    return tuple(fitting[:wanted])


def _fits(gpu: Gpu, memory_bytes: int, policy: AdmissionPolicy) -> bool:
    """Whether it has that much free; where nothing is said of memory, whether it is idle."""
    total, used = gpu.memory_total_bytes, gpu.memory_used_bytes
    if total is None or used is None:
        return False
    if memory_bytes:
        return total - used >= memory_bytes
    return (
        gpu.utilization_percent is not None
        and gpu.utilization_percent <= policy.idle_gpu_percent
        and used <= total * policy.idle_gpu_memory_share
        and not gpu.processes
    )


def _kept(total_bytes: int | None, limit_percent: float) -> int:
    """What is to stay free, so that the limit is not reached."""
    return 0 if total_bytes is None else int(total_bytes * (100 - limit_percent) / 100)


def _gib(size_bytes: float) -> str:
    return f"{max(0.0, size_bytes) / 2**30:.1f} GiB"
