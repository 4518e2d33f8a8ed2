"""A measurement that hangs or fails hurts nobody."""

import os
import threading
from pathlib import Path

import pytest

from interlock_node_agent.machine import addresses, disk, host_meter
from interlock_node_agent.sampler import Sampler


def test_the_newest_value_is_told() -> None:
    sampler = Sampler("x", lambda: 7, every_s=60)
    assert newest(sampler) == (None, None)
    sampler.start()
    assert sampler.wait(30)
    assert newest(sampler) == (7, None)
    sampler.stop()


def test_an_error_is_a_fault_and_no_value() -> None:
    def fails() -> int:
        raise OSError(5, "Input/output error")

    sampler = Sampler("x", fails, every_s=60)
    sampler.start()
    assert sampler.wait(30)
    assert (sampler.value, sampler.fault) == (None, "Input/output error")
    sampler.stop()


def newest(sampler: Sampler[int]) -> tuple[int | None, str | None]:
    return sampler.value, sampler.fault


def test_what_hangs_grows_old_and_is_not_waited_for() -> None:
    now = [100.0]
    begun, released = threading.Event(), threading.Event()
    values = iter([1])

    def hangs_the_second_time() -> int:
        value = next(values, None)
        if value is None:
            begun.set()
            released.wait(30)
            return 2
        return value

    sampler = Sampler("x", hangs_the_second_time, every_s=0.01, clock=lambda: now[0])
    sampler.start()
    assert begun.wait(30)
    assert newest(sampler) == (1, None)
    now[0] += 60
    assert newest(sampler) == (None, "it has not answered for 60 s: it hangs")
    sampler.stop()
    released.set()


def test_what_never_answered_is_a_fault_after_a_while() -> None:
    now = [0.0]
    sampler = Sampler("x", lambda: 1, every_s=1, clock=lambda: now[0])
    assert newest(sampler) == (None, None)
    now[0] = 30.0
    assert newest(sampler) == (None, "it has not answered for 30 s: it hangs")


def test_a_disk_counts_as_df_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((4096, 4096, 1_000, 50, 0, 100, 0, 0, os.ST_RDONLY, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    found = disk(tmp_path)
    # What is left is kept back for root: for everybody else it is full.
    assert (found.used_percent, found.free_bytes, found.read_only) == (100.0, 0, True)
    assert found.inodes_used_percent == 100.0


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        disk(tmp_path / "nowhere")


def test_this_host_can_be_measured() -> None:
    machine = host_meter()()
    assert machine.cores
    assert machine.memory_total_bytes
    assert machine.cpu_percent is not None
    assert not any(each.startswith(("127.", "fe80")) or each == "::1" for each in addresses())
