"""`interlock chaos` as a person runs it: a short run of each size, and Ctrl-C in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE_S, clean_env

SECONDS = 10


def command(brokers: int, seconds: int) -> list[str]:
    return [
        *(sys.executable, "-m", "interlock", "chaos", "--workload", "events"),
        *("--brokers", str(brokers), "--seed", "7", "--seconds", str(seconds), "--json"),
    ]


def env(tmp_path: Path) -> dict[str, str]:
    """The run makes its folder where we can look."""
    return clean_env() | {"TMPDIR": str(tmp_path)}


def processes(tmp_path: Path) -> list[str]:
    """Command lines of what still works in a run's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = os.fsdecode(path.read_bytes()).replace("\0", " ")
        except OSError:
            continue
        if str(tmp_path / "interlock-chaos-") in line:
            found.append(line)
    return found


@pytest.mark.timeout(180)
@pytest.mark.parametrize("brokers", [1, 3])
def test_nothing_acknowledged_is_lost_doubled_disordered_or_stuck(
    tmp_path: Path, brokers: int
) -> None:
    told = subprocess.run(
        command(brokers, SECONDS),
        capture_output=True,
        text=True,
        env=env(tmp_path),
        timeout=SECONDS + 120,
        check=False,
    )
    assert told.stdout, told.stderr
    report: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    assert told.returncode == 0, f"{report}\n{told.stderr}"
    for name in ("lost", "duplicates", "reordered", "stuck", "misplaced", "crashed", "hung"):
        assert report[name] == 0, name
    assert report["acknowledged"] == report["published"] == report["delivered"] > 0
    assert report["faults"] == sum(report["faults_by_kind"].values()) > 0
    assert report["brokers"] == brokers
    assert report["seed"] == 7
    # One line for each fault, and what happened.
    assert told.stderr.count(" for ") >= report["faults"]
    assert list(tmp_path.iterdir()) == []
    assert processes(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at all processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(command(1, 60), stderr=subprocess.PIPE, text=True, env=env(tmp_path))
    assert process.stderr is not None
    for line in process.stderr:
        if "breaking things" in line:
            break
    assert processes(tmp_path)
    # While something is frozen, as often as not.
    time.sleep(1)
    process.send_signal(number)
    process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=PATIENCE_S) == 130
    assert processes(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_is_none_is_refused(tmp_path: Path) -> None:
    told = subprocess.run(
        command(2, 1), capture_output=True, text=True, env=env(tmp_path), check=False
    )
    assert told.returncode == 1
    assert "one server or three" in json.loads(told.stdout)["error"]
