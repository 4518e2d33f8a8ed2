"""May something heavy be started on a node: by its state, its room, and what was promised."""

import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_health_monitor import instants
from interlock_health_monitor.admission import decide, reservation
from interlock_health_monitor.symptoms import Limits
from interlock_schemas.health import (
    STATES,
    Admission,
    Admit,
    ClusterHealth,
    Eviction,
    NodeHealth,
    Reservation,
    State,
    Symptom,
)
from interlock_schemas.nodes import Beat, Disk, Gpu, Leave, Mark, NodeRecord, Progress

GIB = 2**30
NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
#: Nothing is kept free, so that the arithmetic is plain.
ALL = Limits(disk_used_percent=100.0, memory_used_percent=100.0)


def at(seconds: float) -> str:
    return instants.text(NOW + datetime.timedelta(seconds=seconds))


def gpu(index: int, **changes: object) -> Gpu:
    idle = Gpu(
        index=index, utilization_percent=0.0, memory_used_bytes=0, memory_total_bytes=80 * GIB
    )
    return msgspec.structs.replace(idle, **changes)


BEAT = Beat(
    node="a", instance="i", seq=1, cores=16, load_per_core=0.0, cpu_percent=0.0,
    memory_available_bytes=64 * GIB, memory_total_bytes=128 * GIB, memory_used_percent=50.0,
    disks=(
        Disk(path="/data", free_bytes=100 * GIB, total_bytes=1000 * GIB, used_percent=90.0),
        Disk(path="/", free_bytes=10 * GIB, total_bytes=50 * GIB, used_percent=80.0),
    ),
    gpus=tuple(gpu(index) for index in range(8)),
)  # fmt: skip
RECORD = NodeRecord(name="a", roles=("selfplay",))
HEALTH = NodeHealth(node="a", state="healthy", since=at(-60), reason="beating")
EVERYTHING = Admit(
    node="a", cores=1, memory_bytes=GIB, disk_bytes=GIB, path="/data/x", gpus=1, role="selfplay"
)


def ask(
    admit: Admit = EVERYTHING,
    *,
    record: NodeRecord | None = RECORD,
    health: NodeHealth | None = HEALTH,
    beat: Beat | None = BEAT,
    age_s: float | None = 0.5,
    taken: tuple[Reservation, ...] = (),
    cluster: ClusterHealth | None = None,
    limits: Limits = ALL,
) -> Admission:
    return decide(
        admit, record=record, health=health, beat=beat, beat_age_s=age_s, reservations=taken,
        cluster=cluster, limits=limits, now=NOW,
    )  # fmt: skip


def held(**changes: object) -> NodeHealth:
    return msgspec.structs.replace(HEALTH, **changes)


def measured(**changes: object) -> Beat:
    return msgspec.structs.replace(BEAT, **changes)


def test_a_healthy_node_with_room_takes_it_and_says_until_when_it_is_reserved() -> None:
    answer = ask()
    assert answer == Admission(admitted=True, code="ok", until=at(30), gpus=(0,))
    made = reservation(EVERYTHING, answer, "r1")
    assert made is not None
    assert (made.gpu_indices, made.cores, made.until) == ((0,), 1, at(30))


def test_nothing_asked_reserves_nothing_and_needs_no_measurement() -> None:
    nothing = Admit(node="a")
    answer = ask(nothing, beat=None, age_s=None)
    assert answer.admitted
    assert reservation(nothing, answer, "r1") is None


@pytest.mark.parametrize("state", [each for each in STATES if each not in ("healthy", "degraded")])
@pytest.mark.parametrize("admit", [EVERYTHING, Admit(node="a")])
def test_only_a_node_that_answers_is_given_anything(state: State, admit: Admit) -> None:
    answer = ask(admit, health=held(state=state, detail="silent for 9 s"))
    assert (answer.admitted, answer.code) == (False, state)
    assert "silent for 9 s" in answer.reason
    assert (answer.retry_after_s is None) == (state == "retired")


def test_what_is_not_known_is_not_free() -> None:
    assert ask(health=None).code == "unknown"
    assert "no such node is described" in ask(health=None, record=None, beat=None).reason
    assert ask(beat=None).code == "unknown"
    assert ask(age_s=None).code == "unknown"
    assert ask(age_s=60.0).code == "unknown"
    assert ask(health=held(expires_at=at(-1))).code == "unknown"
    over_ssh = msgspec.structs.replace(RECORD, agent=False)
    assert ask(record=over_ssh, age_s=60.0).admitted
    assert ask(record=over_ssh, age_s=100.0).code == "unknown"
    for unmeasured in (
        {"memory_available_bytes": None},
        {"cores": None},
        {"load_per_core": None, "cpu_percent": None},
        {"disks": ()},
        {"disks": (Disk(path="/data"),)},
        {"gpus": None},
        {"gpus": None, "gpu_fault": "the library hangs"},
    ):
        answer = ask(beat=measured(**unmeasured))
        assert (answer.admitted, answer.code) == (False, "unknown"), unmeasured


def test_what_operators_decided_comes_first() -> None:
    mark = Mark(by="anna", reason="new disk", until=at(600))
    for field, code in (("cordon", "cordoned"), ("drain", "draining"), ("retired", "retired")):
        answer = ask(record=msgspec.structs.replace(RECORD, **{field: mark}))
        assert answer.code == code
        assert "by anna: new disk" in answer.reason
    over = msgspec.structs.replace(mark, until=at(-1))
    assert ask(record=msgspec.structs.replace(RECORD, cordon=over, drain=over)).admitted
    assert ask(record=msgspec.structs.replace(RECORD, cordon=mark)).retry_after_s == 600


def test_a_node_that_goes_or_was_evicted_gets_nothing() -> None:
    assert ask(beat=measured(leaving=Leave(reason="preempted"))).code == "leaving"
    assert ask(health=held(leaving=Leave(reason="sigterm"))).code == "leaving"
    standing = Eviction(at=at(-10), expires_at=at(10))
    assert ask(health=held(eviction=standing)).code == "evicted"
    assert ask(health=held(eviction=Eviction(at=at(-10), expires_at=at(-1)))).admitted


def test_a_role_it_does_not_have() -> None:
    answer = ask(msgspec.structs.replace(EVERYTHING, role="training"))
    assert answer.code == "role"
    assert "selfplay" in answer.reason
    assert ask(record=None).code == "role"


def test_nothing_is_started_while_the_fleet_pauses() -> None:
    paused = ClusterHealth(level="critical", score=20.0, paused=True, reason="half is lost")
    assert ask(cluster=paused).code == "paused"
    assert ask(Admit(node="a"), cluster=paused).code == "paused"
    assert ask(cluster=msgspec.structs.replace(paused, expires_at=at(-1))).admitted
    assert ask(cluster=msgspec.structs.replace(paused, paused=False)).admitted


def test_a_symptom_counts_where_it_concerns_what_is_asked() -> None:
    def sick(kind: str, part: str = "") -> NodeHealth:
        symptom = Symptom(kind=kind, detail=f"{kind}!", part=part)
        return held(state="degraded", reason=kind, symptoms=(symptom,))

    nothing = Admit(node="a")
    assert ask(health=sick("disk_full", "/data")).code == "disk_full"
    assert ask(health=sick("disk_full", "/")).admitted
    assert ask(Admit(node="a", gpus=1), health=sick("disk_full", "/data")).admitted
    assert ask(health=sick("gpu_fault", "0")).gpus == (1,)
    assert ask(Admit(node="a", gpus=8), health=sick("gpu_fault", "0")).code == "gpus"
    assert ask(Admit(node="a", cores=1), health=sick("memory_full")).code == "memory_full"
    assert ask(nothing, health=sick("memory_full")).admitted
    assert ask(nothing, health=sick("agent_gone")).code == "agent_gone"
    assert ask(nothing, health=sick("work_fails")).code == "work_fails"
    assert ask(health=sick("clock_skew")).admitted


def test_what_the_last_heartbeat_says_counts_before_the_monitor_has_judged_it() -> None:
    bad = tuple(gpu(i, fault="fell off the bus") if i == 0 else gpu(i) for i in range(8))
    assert ask(beat=measured(gpus=bad)).gpus == (1,)
    failing = measured(progress=Progress(workers=1, failures=9, successes=0))
    assert ask(Admit(node="a"), beat=failing).code == "work_fails"


@pytest.mark.parametrize(
    ("admit", "code", "never"),
    [
        (Admit(node="a", memory_bytes=65 * GIB), "memory", False),
        (Admit(node="a", memory_bytes=129 * GIB), "memory", True),
        (Admit(node="a", cores=17), "cores", True),
        (Admit(node="a", disk_bytes=11 * GIB), "disk", False),
        (Admit(node="a", disk_bytes=101 * GIB, path="/data"), "disk", False),
        (Admit(node="a", gpus=9), "gpus", True),
        (Admit(node="a", gpu_memory_bytes=81 * GIB), "gpus", False),
    ],
)
def test_what_does_not_fit(admit: Admit, code: str, never: bool) -> None:
    answer = ask(admit)
    assert (answer.admitted, answer.code) == (False, code)
    assert (answer.retry_after_s is None) == never


def test_disk_is_looked_at_where_it_is_needed() -> None:
    assert ask(Admit(node="a", disk_bytes=50 * GIB, path="/data/games/x")).admitted
    assert ask(Admit(node="a", disk_bytes=50 * GIB, path="/database")).code == "disk"
    assert ask(Admit(node="a", disk_bytes=50 * GIB)).code == "disk"
    only = measured(disks=(Disk(path="/data", free_bytes=GIB),))
    assert ask(Admit(node="a", disk_bytes=1, path="/database"), beat=only).code == "unknown"


def test_the_limits_of_the_node_are_kept_free() -> None:
    strict = Limits(memory_used_percent=75.0)
    assert ask(Admit(node="a", memory_bytes=33 * GIB), limits=strict).code == "memory"
    assert ask(Admit(node="a", memory_bytes=31 * GIB), limits=strict).admitted


def test_a_gpu_is_idle_only_where_all_says_so() -> None:
    for busy in (
        {"utilization_percent": None},
        {"utilization_percent": 50.0},
        {"memory_used_bytes": None},
        {"memory_used_bytes": 40 * GIB},
        {"memory_total_bytes": None},
        {"processes": 1},
    ):
        beat = measured(gpus=(gpu(0, **busy), gpu(1)))
        assert ask(Admit(node="a", gpus=1), beat=beat).gpus == (1,), busy
    shared = measured(gpus=(gpu(0, utilization_percent=90.0, memory_used_bytes=40 * GIB),))
    assert ask(Admit(node="a", gpu_memory_bytes=30 * GIB), beat=shared).gpus == (0,)


def test_what_is_promised_to_others_is_taken_and_to_oneself_is_not() -> None:
    admit = Admit(node="a", gpus=8, cores=16, id="mine")
    mine = reservation(admit, ask(admit), "mine")
    assert mine is not None
    other = msgspec.structs.replace(mine, id="other")
    past = msgspec.structs.replace(other, until=at(-1))
    assert ask(admit, taken=(mine, past)).admitted
    assert not ask(admit, taken=(mine, other)).admitted
    unnamed = Reservation(node="a", id="other", gpus=3, until=at(9))
    assert ask(Admit(node="a", gpus=5), taken=(unnamed,)).gpus == (3, 4, 5, 6, 7)
    assert ask(Admit(node="a", gpus=6), taken=(unnamed,)).code == "gpus"


sizes = st.integers(0, 200 * GIB)
requests = st.builds(
    Admit,
    node=st.just("a"),
    cores=st.floats(0, 32),
    memory_bytes=sizes,
    disk_bytes=sizes,
    path=st.sampled_from([None, "/data/x", "/elsewhere"]),
    gpus=st.integers(0, 10),
    gpu_memory_bytes=st.sampled_from([0, GIB, 70 * GIB]),
)
maybe_percent = st.none() | st.floats(0, 100)
gpus = st.lists(
    st.builds(
        Gpu,
        index=st.integers(0, 7),
        utilization_percent=maybe_percent,
        memory_used_bytes=st.none() | st.integers(0, 80 * GIB),
        memory_total_bytes=st.none() | st.just(80 * GIB),
        temperature_c=st.none() | st.floats(0, 120),
        ecc_uncorrected=st.none() | st.integers(0, 2),
        fault=st.none() | st.just("lost"),
    ),
    max_size=8,
    unique_by=lambda each: each.index,
).map(tuple)
beats = st.builds(
    Beat,
    node=st.just("a"), instance=st.just("i"), seq=st.just(1),
    cores=st.none() | st.integers(1, 32),
    cpu_percent=maybe_percent,
    load_per_core=st.none() | st.floats(0, 20),
    memory_available_bytes=st.none() | sizes,
    memory_total_bytes=st.none() | sizes,
    memory_used_percent=maybe_percent,
    disks=st.lists(
        st.builds(
            Disk,
            path=st.sampled_from(["/data", "/"]),
            free_bytes=st.none() | sizes,
            total_bytes=st.none() | sizes,
            used_percent=maybe_percent,
            read_only=st.none() | st.booleans(),
            fault=st.none() | st.just("io"),
        ),
        max_size=2,
    ).map(tuple),
    gpus=st.none() | gpus,
    gpu_fault=st.none() | st.just("hangs"),
)  # fmt: skip
healths = st.builds(
    NodeHealth,
    node=st.just("a"),
    state=st.sampled_from(STATES),
    since=st.just(at(-9)),
    reason=st.sampled_from(["beating", "silent", "agent_gone", "disk_full"]),
    expires_at=st.sampled_from([None, at(-1), at(60)]),
)
taken = st.lists(
    st.builds(
        Reservation,
        node=st.just("a"),
        id=st.uuids().map(str),
        cores=st.floats(0, 8),
        memory_bytes=sizes,
        disk_bytes=sizes,
        gpus=st.integers(0, 3),
        gpu_indices=st.lists(st.integers(0, 7), max_size=3).map(tuple),
        until=st.sampled_from([at(-1), at(20)]),
    ),
    max_size=3,
).map(tuple)


@given(requests, healths, st.none() | beats, st.none() | st.floats(0, 30), taken)
def test_any_answer_is_safe(
    admit: Admit,
    health: NodeHealth,
    beat: Beat | None,
    age_s: float | None,
    reservations: tuple[Reservation, ...],
) -> None:
    answer = ask(admit, health=health, beat=beat, age_s=age_s, taken=reservations)
    msgspec.json.decode(msgspec.json.encode(answer), type=Admission)
    if not answer.admitted:
        assert answer.code != "ok"
        assert answer.reason
        assert not answer.gpus
        return
    assert health.state in ("healthy", "degraded")
    assert len(answer.gpus) == max(admit.gpus, 1 if admit.gpu_memory_bytes else 0)
    if answer.gpus:
        assert beat is not None
        assert beat.gpus is not None
        chosen = {each.index: each for each in beat.gpus if each.index in answer.gpus}
        assert len(chosen) == len(answer.gpus)
        for each in chosen.values():
            assert each.fault is None
            assert not each.ecc_uncorrected
            assert each.memory_used_bytes is not None
        standing = [each for each in reservations if each.until != at(-1)]
        assert not {i for each in standing for i in each.gpu_indices} & set(answer.gpus)
    # Less is admitted where more is.
    less = Admit(node="a", cores=admit.cores / 2, memory_bytes=admit.memory_bytes // 2,
                 gpus=admit.gpus // 2)  # fmt: skip
    assert ask(less, health=health, beat=beat, age_s=age_s, taken=reservations).admitted
    # What others are promised makes no room.
    assert ask(admit, health=health, beat=beat, age_s=age_s).admitted


@given(st.lists(requests, max_size=12), beats)
def test_all_that_is_promised_at_once_fits(admits: list[Admit], beat: Beat) -> None:
    promised: list[Reservation] = []
    for number, admit in enumerate(admits):
        made = reservation(admit, ask(admit, beat=beat, taken=tuple(promised)), str(number))
        promised += [made] if made is not None else []
    if not promised:
        return
    given_out = [index for each in promised for index in each.gpu_indices]
    assert len(given_out) == len(set(given_out))
    if beat.memory_available_bytes is not None:
        assert sum(each.memory_bytes for each in promised) <= beat.memory_available_bytes
    if beat.cores is not None:
        assert sum(each.cores for each in promised) <= beat.cores + 1e-6
