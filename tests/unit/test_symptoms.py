"""What is wrong with a node that answers: by what it measured, never by what it did not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_health_monitor.symptoms import DEFAULT_LIMITS, Limits, limits_of, symptoms_of
from interlock_schemas.nodes import Beat, Checkpoint, Disk, Gpu, NodeLimits, Progress


def beat(**fields: Any) -> Beat:
    return Beat(node="n1", instance="i", seq=1, **fields)


def kinds(found: Beat, limits: Limits = DEFAULT_LIMITS, **context: Any) -> list[tuple[str, str]]:
    return [(each.kind, each.part) for each in symptoms_of(found, limits, **context)]


def test_a_beat_that_measured_nothing_has_no_symptom() -> None:
    assert kinds(beat()) == []
    assert kinds(beat(), expected_gpus=8) == []


@given(
    st.builds(
        Gpu,
        index=st.integers(0, 7),
        utilization_percent=st.none(),
        memory_used_bytes=st.none(),
        temperature_c=st.none() | st.floats(0, 90),
        ecc_uncorrected=st.none() | st.just(0),
        rows_failed=st.none() | st.just(False),
    ),
    st.builds(
        Disk, path=st.just("/"), used_percent=st.none() | st.floats(0, 94), read_only=st.none()
    ),
    st.none() | st.builds(Progress, workers=st.integers(0, 9), age_s=st.none()),
)
def test_what_is_absent_is_no_symptom(gpu: Gpu, disk: Disk, progress: Progress | None) -> None:
    assert kinds(beat(gpus=(gpu,), disks=(disk,), progress=progress)) == []


def test_of_eight_gpus_the_bad_one_is_named() -> None:
    gpus = [Gpu(index=each, temperature_c=60.0, ecc_uncorrected=0) for each in range(8)]
    gpus[5] = Gpu(index=5, ecc_uncorrected=3)
    assert kinds(beat(gpus=tuple(gpus)), expected_gpus=8) == [("gpu_ecc", "5")]


@pytest.mark.parametrize(
    ("gpu", "kind"),
    [
        (Gpu(index=1, fault="fell off the bus", ecc_uncorrected=3), "gpu_fault"),
        (Gpu(index=1, ecc_uncorrected=1), "gpu_ecc"),
        (Gpu(index=1, rows_failed=True), "gpu_rows"),
        (Gpu(index=1, temperature_c=92.0), "gpu_hot"),
    ],
)
def test_each_way_a_gpu_is_bad(gpu: Gpu, kind: str) -> None:
    assert kinds(beat(gpus=(Gpu(index=0), gpu))) == [(kind, "1")]


def test_a_gpu_that_should_be_there_and_is_not() -> None:
    gpus = tuple(Gpu(index=each) for each in range(7))
    assert kinds(beat(gpus=gpus), expected_gpus=8) == [("gpu_missing", "")]
    assert kinds(beat(gpus=()), expected_gpus=1) == [("gpu_missing", "")]
    assert kinds(beat(gpus=gpus)) == []


def test_a_gpu_library_that_hangs_says_nothing_about_the_gpus() -> None:
    found = beat(gpu_fault="no answer within 2 s")
    assert kinds(found, expected_gpus=8) == [("gpu_library", "")]


@pytest.mark.parametrize(
    ("disk", "kind"),
    [
        (Disk(path="/data", used_percent=95.0), "disk_full"),
        (Disk(path="/data", used_percent=10.0, inodes_used_percent=99.0), "disk_full"),
        (Disk(path="/data", read_only=True), "disk_read_only"),
        (Disk(path="/data", fault="Input/output error", used_percent=99.0), "disk_fault"),
    ],
)
def test_each_way_a_disk_is_bad(disk: Disk, kind: str) -> None:
    found = beat(disks=(Disk(path="/", used_percent=50.0), disk))
    assert kinds(found) == [(kind, "/data")]


@pytest.mark.parametrize("skew_s", [7_200.0, -7_200.0])
def test_a_clock_two_hours_off(skew_s: float) -> None:
    (found,) = symptoms_of(beat(), DEFAULT_LIMITS, skew_s=skew_s)
    assert found.kind == "clock_skew"
    assert ("ahead" if skew_s > 0 else "behind") in found.detail


def test_alive_without_progress() -> None:
    stuck = Progress(workers=2, age_s=300.0)
    assert kinds(beat(progress=stuck)) == [("no_progress", "")]
    assert kinds(beat(progress=Progress(workers=0, age_s=9_000.0))) == []
    assert kinds(beat(progress=Progress(workers=2, age_s=299.0))) == []


def test_work_that_fails_on_a_node_that_beats_happily() -> None:
    assert kinds(beat(progress=Progress(workers=1, failures=5))) == [("work_fails", "")]
    assert kinds(beat(progress=Progress(workers=1, failures=4))) == []
    assert kinds(beat(progress=Progress(workers=1, failures=5, successes=2))) == []


def test_a_checkpoint_is_missed_only_where_somebody_works() -> None:
    old = Checkpoint(age_s=1_800.0)
    working, idle = Progress(workers=1, age_s=1.0), Progress()
    assert kinds(beat(checkpoint=old, progress=working)) == [("no_checkpoint", "")]
    assert kinds(beat(checkpoint=old, progress=idle)) == []
    assert kinds(beat(checkpoint=old)) == []


def test_a_node_that_slows_down_or_whose_beats_are_lost() -> None:
    assert kinds(beat(), beats_lost=0.3) == [("beats_lost", "")]
    assert kinds(beat(), beats_lost=0.01) == []
    assert kinds(beat(), beat_every_s=2.5) == [("beats_slow", "")]
    assert kinds(beat(), beat_every_s=1.2) == []
    assert kinds(beat(interval_s=5.0), beat_every_s=5.0) == []


def test_an_overloaded_node() -> None:
    found = beat(memory_used_percent=97.0, load_per_core=8.0, loop_lag_s=2.0)
    assert {kind for kind, _ in kinds(found)} == {"memory_full", "overloaded", "agent_slow"}


def test_many_symptoms_stay_few_enough_to_be_told() -> None:
    gpus = tuple(Gpu(index=each, fault="x" * 500) for each in range(1_000))
    found = symptoms_of(beat(gpus=gpus), DEFAULT_LIMITS)
    assert len(found) <= 33
    assert "more" in found[-1].detail
    assert all(len(each.detail) <= 500 for each in found)


def test_limits_come_from_the_node_then_the_fleet_then_the_default() -> None:
    fleet = NodeLimits(disk_used_percent=80.0, progress_s=60.0)
    node = NodeLimits(disk_used_percent=90.0)
    limits = limits_of(fleet, None, node)
    assert limits.disk_used_percent == 90.0
    assert limits.progress_s == 60.0
    assert limits.checkpoint_s == DEFAULT_LIMITS.checkpoint_s
    assert kinds(beat(disks=(Disk(path="/", used_percent=92.0),)), limits) == [("disk_full", "/")]
