"""`interlock chaos` with locks, as a person runs it: short runs, and bugs that it has to find."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.test_chaos import env, processes

LARGER = ("--clients", "24", "--processes", "4", "--locks", "8")
SMALL = ("--clients", "12", "--processes", "3", "--locks", "3")


def run(
    tmp_path: Path, workload: str, *arguments: str, timeout_s: float = 75.0
) -> tuple[int, dict[str, Any], str]:
    """Exit code, report, and what was said meanwhile."""
    told = subprocess.run(
        [sys.executable, "-m", "interlock", "chaos", "--workload", workload, *arguments, "--json"],
        capture_output=True,
        text=True,
        env=env(tmp_path),
        timeout=timeout_s,
        check=False,
    )
    assert told.stdout, told.stderr
    report: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    assert processes(tmp_path) == []
    return told.returncode, report, told.stderr


@pytest.mark.timeout(90)
def test_locks_hold_while_everything_breaks(tmp_path: Path) -> None:
    code, report, said = run(tmp_path, "locks", "--seconds", "7", "--seed", "5", *SMALL)
    assert code == 0, f"{report}\n{said}"
    assert set(report["violations"].values()) == {0}
    assert report["hand_overs"] > 0
    assert report["file_writes"] > 0
    assert report["kv_writes"] > 0
    assert report["faults"] == sum(report["faults_by_kind"].values()) > 0
    assert report["crashed"] == report["hung"] == 0
    assert report["worst_fresh_s"] <= 4.0
    # Else the rules judged little.
    assert report["missing"] < report["history"] / 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(90)
def test_no_waiter_is_lost_when_replicas_of_the_service_are_killed(tmp_path: Path) -> None:
    code, report, said = run(
        tmp_path, "locks", "--faults", "services", "--seconds", "6", "--seed", "5", *SMALL
    )
    assert code == 0, f"{report}\n{said}"
    assert report["faults_by_kind"] == {"service_kill": 3}
    assert report["timeouts"] == report["refused_asks"] == 0
    assert set(report["violations"].values()) == {0}


@pytest.mark.timeout(90)
def test_a_frozen_holder_cannot_write_when_it_wakes(tmp_path: Path) -> None:
    code, report, said = run(tmp_path, "frozen-holder", "--rounds", "20")
    assert code == 0, f"{report}\n{said}"
    for name in ("taken_over", "refused_by_file", "refused_by_lease", "refused_by_store"):
        assert report[name] == 20


@pytest.mark.timeout(90)
def test_a_frozen_holder_writes_where_nobody_asks_the_fence(tmp_path: Path) -> None:
    code, report, said = run(tmp_path, "frozen-holder", "--rounds", "5", "--plant", "unfenced")
    assert code == 1, f"{report}\n{said}"
    assert report["refused_by_file"] == report["refused_by_store"] == 0


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("plant", "how", "kinds"),
    [
        pytest.param(
            "blind-renewal",
            ("--seconds", "14", "--faults", "clients", "--ttl", "1", *LARGER),
            {"token", "overlap", "stale_write"},
            marks=pytest.mark.slow,
        ),
        (
            "two-step",
            ("--seconds", "3", "--faults", "none", *SMALL),
            {"token", "overlap", "barged"},
        ),
    ],
)
def test_a_bug_that_is_put_in_is_found(
    tmp_path: Path, plant: str, how: tuple[str, ...], kinds: set[str]
) -> None:
    code, report, said = run(tmp_path, "locks", *how, "--seed", "3", "--plant", plant)
    assert code == 1, f"{report}\n{said}"
    assert kinds & {kind for kind, count in report["violations"].items() if count}
    assert Path(report["folder"]).is_dir()
