"""The heartbeat: what could not be measured is absent, and it always fits."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock_node_agent.beat import Identity, Machine, beat, encode, percent, text
from interlock_schemas.nodes import LARGEST_BEAT_BYTES, Beat, Disk, Gpu, Progress

WHO = Identity(node="n1", instance="abc", version="1", interval_s=1.0)


def made(machine: Machine | None = None, **rest: object) -> Beat:
    facts = {"seq": 1, "sent_at": 0.0, "uptime_s": 0.0, "loop_lag_s": None} | rest
    return beat(WHO, machine=machine, **facts)  # type: ignore[arg-type]


def test_what_was_not_measured_is_absent_on_the_wire() -> None:
    sent = msgspec.json.decode(encode(made()))
    known = {"node", "instance", "seq", "sent_at", "interval_s", "version", "answers", "uptime_s"}
    assert sent.keys() <= known


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -3.0, 140.0, None])
def test_a_share_that_is_none_counts_as_not_measured(value: float | None) -> None:
    assert percent(value) is None
    assert made(Machine(cpu_percent=value)).cpu_percent is None


def test_rounding_errors_are_forgiven() -> None:
    assert percent(100.2) == 100.0
    assert percent(-0.1) == 0.0


def test_no_gpu_is_not_the_same_as_not_known() -> None:
    assert msgspec.json.decode(encode(made(gpus=())))["gpus"] == []
    assert "gpus" not in msgspec.json.decode(encode(made(gpus=None)))


def test_the_bad_gpu_keeps_its_fault_when_there_are_too_many() -> None:
    gpus = tuple(
        Gpu(
            index=index,
            name="x" * 200,
            uuid="y" * 200,
            utilization_percent=50.0,
            fault="it fell off the bus" if index == 700 else None,
        )
        for index in range(1_024)
    )
    body = encode(made(gpus=gpus))
    assert len(body) <= LARGEST_BEAT_BYTES
    told = msgspec.json.decode(body, type=Beat)
    assert told.gpus is not None
    assert [gpu.index for gpu in told.gpus if gpu.fault] == [700]
    assert len(told.gpus) == 1_024


texts = st.text(max_size=500)
numbers = st.none() | st.floats() | st.floats(-200, 200)


@settings(deadline=None)
@given(
    machine=st.builds(
        Machine,
        cores=st.none() | st.integers(-1, 100_000),
        cpu_percent=numbers,
        load_per_core=numbers,
        memory_used_percent=numbers,
        memory_available_bytes=st.none() | st.integers(-1, 2**64),
        memory_total_bytes=st.none() | st.integers(-1, 2**64),
    ),
    disks=st.lists(st.builds(Disk, path=texts, fault=st.none() | texts), max_size=32),
    faults=st.lists(st.none() | texts, max_size=1_024),
    gpu_fault=st.none() | st.text(max_size=2_000),
    counters=st.dictionaries(st.text(max_size=200), st.floats(0, 1e15), max_size=64),
    addresses=st.lists(st.text(max_size=300), max_size=50),
)
def test_whatever_was_measured_a_reader_can_read_it(
    machine: Machine,
    disks: list[Disk],
    faults: list[str | None],
    gpu_fault: str | None,
    counters: dict[str, float],
    addresses: list[str],
) -> None:
    body = encode(
        made(
            machine,
            disks=disks,
            gpus=tuple(Gpu(index=at, fault=fault) for at, fault in enumerate(faults)),
            gpu_fault=gpu_fault,
            addresses=addresses,
            progress=Progress(counters=counters),
        )
    )
    assert len(body) <= LARGEST_BEAT_BYTES
    assert msgspec.json.decode(body, type=Beat).node == "n1"


def test_text_that_cannot_be_encoded_is_spelled_out() -> None:
    assert text("a\udcff") == "a\\udcff"
