"""What a host tells is read with suspicion: what is missing or malformed is absent, never zero."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_health_monitor.ssh_report import COMMAND, HostReport, parse, script

MARK = "mark42"
PATHS = ("/data", "/scratch")
WHOLE = {
    "begin": "1",
    "clock": "1700000000.5",
    "host": "gpu-1",
    "boot": "0c0e",
    "uptime": "100.5 200.0",
    "load": "1.50 1.00 0.50 1/90 123",
    "cores": "8",
    "memory": "MemTotal:       1000 kB\nMemAvailable:    250 kB",
    "agent": "status 1",
    "gpus": "status 0\n0, H100, GPU-a, 97, 1024, 81920, 61, 412.5, 0, No",
    "disk 0": "status 0\nspace /dev/sda1 1000 600 200 75% /data\n"
    "inodes /dev/sda1 100 10 90 10% /data\noptions rw,noatime",
    "disk 1": "status 124\nspace \ninodes \noptions ",
    "end": "1",
}


def told(sections: dict[str, str]) -> bytes:
    return "".join(f"\n{MARK} {name}\n{text}\n" for name, text in sections.items()).encode()


def read(data: bytes) -> HostReport:
    return parse(data, mark=MARK, paths=PATHS)


def test_a_whole_report() -> None:
    report = read(b"Welcome to gpu-1!\n" + told(WHOLE))
    assert report.complete
    assert (report.hostname, report.boot_id, report.uptime_s) == ("gpu-1", "0c0e", 100.5)
    assert report.clock_s == 1_700_000_000.5
    assert report.agent_running is False
    data, scratch = report.disks
    assert (data.used_percent, data.free_bytes, data.total_bytes) == (75.0, 204_800, 1_024_000)
    assert data.inodes_used_percent == 10.0
    assert data.read_only is False
    assert scratch.used_percent is None
    assert scratch.fault is not None
    beat = report.beat("gpu-1", seq=3, interval_s=30)
    assert beat.load_per_core == 1.5 / 8
    assert beat.memory_used_percent == 75.0
    assert beat.gpus is not None
    gpu = beat.gpus[0]
    assert (gpu.utilization_percent, gpu.memory_total_bytes) == (97.0, 81920 * 1024 * 1024)
    assert gpu.rows_failed is False
    assert gpu.fault is None


@given(st.binary(max_size=2_000))
def test_no_bytes_ever_raise(data: bytes) -> None:
    report = read(data)
    assert not report.complete
    assert report.cores is None
    assert report.gpus is None


@given(
    st.dictionaries(
        st.sampled_from([*WHOLE, "other"]),
        st.text(max_size=60) | st.sampled_from(list(WHOLE.values())),
    )
)
def test_no_section_ever_raises_and_what_is_read_fits_a_heartbeat(sections: dict[str, str]) -> None:
    report = read(told(sections))
    beat = report.beat("n", seq=1, interval_s=30)
    assert beat.memory_used_percent is None or 0 <= beat.memory_used_percent <= 100
    assert beat.cores is None or beat.cores > 0
    for disk in report.disks:
        assert disk.used_percent is None or 0 <= disk.used_percent <= 100


FIELDS = {
    "clock": "clock_s",
    "host": "hostname",
    "boot": "boot_id",
    "uptime": "uptime_s",
    "load": "load",
    "cores": "cores",
    "agent": "agent_running",
    "gpus": "gpus",
    "memory": "memory_total_bytes",
}


@given(st.sets(st.sampled_from(sorted(FIELDS))))
def test_a_section_that_is_missing_is_absent_and_said(dropped: set[str]) -> None:
    report = read(told({name: text for name, text in WHOLE.items() if name not in dropped}))
    for name, field in FIELDS.items():
        assert (getattr(report, field) is None) == (name in dropped)
    assert len([name for name in report.missing if not name.startswith("disk")]) >= len(dropped)


@given(st.integers(0, len(told(WHOLE))))
def test_a_report_that_is_cut_says_so_and_nothing_of_it_is_wrong(length: int) -> None:
    whole = read(told(WHOLE))
    report = read(told(WHOLE)[:length])
    if not report.complete:
        assert "end" in report.missing
    for field in FIELDS.values():
        assert getattr(report, field) in (None, getattr(whole, field))


def test_what_makes_no_sense_is_absent() -> None:
    report = read(
        told(
            WHOLE
            | {
                "cores": "0",
                "load": "nan",
                "uptime": "-5 1",
                "clock": "soon",
                "memory": "MemTotal: lots",
                "agent": "status 2",
                "disk 0": "status 0\nspace none 0 0 0 - /data",
            }
        )
    )
    assert report.cores is report.load is report.uptime_s is report.clock_s is None
    assert report.memory_total_bytes is report.agent_running is None
    assert report.disks[0].used_percent is None
    assert report.beat("n", seq=1, interval_s=30).load_per_core is None


def test_more_available_than_there_is_gives_no_share() -> None:
    memory = "MemTotal: 100 kB\nMemAvailable: 200 kB"
    beat = read(told(WHOLE | {"memory": memory})).beat("n", seq=1, interval_s=30)
    assert beat.memory_used_percent is None


def test_eight_gpus_one_of_them_bad() -> None:
    lines = [f"{n}, H100, GPU-{n}, 99, 70000, 81920, 60, 600.0, 0, No" for n in range(8)]
    lines[3] = "3, H100, GPU-3, [Unknown Error], [N/A], [N/A], [N/A], [N/A], [N/A], Yes"
    report = read(told(WHOLE | {"gpus": "status 0\n" + "\n".join(lines)}))
    assert report.gpus is not None
    assert [gpu.index for gpu in report.gpus] == list(range(8))
    bad = report.gpus[3]
    assert bad.fault == "Unknown Error"
    assert bad.rows_failed is True
    assert bad.utilization_percent is bad.memory_used_bytes is bad.temperature_c is None
    assert [gpu.utilization_percent for gpu in report.gpus].count(99.0) == 7


@pytest.mark.parametrize(
    ("section", "gpus", "fault"),
    [
        ("status none", (), False),
        ("status unknown", None, True),
        ("status 124\n", None, True),
        ("status 9\nUnable to determine the device handle", None, True),
        ("status 0\nNo devices were found", (), False),
    ],
)
def test_no_gpu_is_another_thing_than_not_known(
    section: str, gpus: tuple[()] | None, fault: bool
) -> None:
    report = read(told(WHOLE | {"gpus": section}))
    assert report.gpus == gpus
    assert (report.gpu_fault is not None) == fault


def test_a_date_without_nanoseconds_is_read() -> None:
    assert read(told(WHOLE | {"clock": "1700000000.N"})).clock_s == 1_700_000_000
    assert read(told(WHOLE | {"clock": "1700000000N"})).clock_s == 1_700_000_000


def test_a_section_that_comes_twice_is_not_believed() -> None:
    assert read(told(WHOLE) + f"\n{MARK} cores\n64\n\n{MARK} end\n1\n".encode()).cores is None


def test_the_load_of_a_bsd_is_read() -> None:
    assert read(told(WHOLE | {"load": "{ 2.19 2.02 1.90 }"})).load == 2.19


def test_a_mark_that_would_have_to_be_quoted_is_refused() -> None:
    with pytest.raises(ValueError, match="mark"):
        script((), mark="a b")


def test_the_script_runs_here_and_takes_any_path() -> None:
    paths = ("/", "/it's $(not) `here`", "-rf", "/two\nlines", "/with\0zero")
    ran = subprocess.run(
        ["/bin/sh", "-c", COMMAND],
        input=script(paths, mark=MARK),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert ran.stderr == b""
    report = parse(ran.stdout, mark=MARK, paths=paths)
    assert report.complete
    assert report.hostname
    assert report.cores
    assert report.memory_total_bytes
    assert report.clock_s
    root, *others = report.disks
    assert root.used_percent is not None
    assert all(other.fault is not None for other in others)


def test_a_hanging_gpu_tool_keeps_nothing_else_back(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    asked = script(("/",), mark=MARK).replace(b"timeout -k 1 5", b"timeout -k 1 0.2")
    ran = subprocess.run(
        ["/bin/sh", "-s"],
        input=asked,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    report = parse(ran.stdout, mark=MARK, paths=("/",))
    assert report.complete
    assert report.gpus is None
    assert report.gpu_fault is not None
    assert "did not answer" in report.gpu_fault
    assert report.disks[0].used_percent is not None
