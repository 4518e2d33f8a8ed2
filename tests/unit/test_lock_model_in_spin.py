"""The locks' protocol in spin: another hand's model and another checker, with the same verdict."""

import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parent.parent / "model" / "locks.pml"

pytestmark = [
    pytest.mark.skipif(
        shutil.which("spin") is None or shutil.which("gcc") is None,
        reason="spin and gcc are needed to search locks.pml: apt-get install spin gcc libc6-dev",
    ),
]


def verdict(folder: Path, *flags: str) -> str:
    """What spin says of every state of the model."""
    for command in (
        ["spin", "-a", *flags, str(MODEL)],
        ["gcc", "-O1", "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=2000", "-o", "pan", "pan.c"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    searched = subprocess.run(
        ["./pan", "-m200000"], cwd=folder, capture_output=True, text=True, timeout=100
    )
    told = searched.stdout
    assert "Search not completed" not in told or "assertion violated" in told, told
    assert "max search depth too small" not in told
    return told


def test_no_interleaving_breaks_a_rule(tmp_path: Path) -> None:
    told = verdict(tmp_path)
    assert "errors: 0" in told, told


@pytest.mark.parametrize(
    ("flaw", "rule"),
    [
        ("TWO_STEPS", "waiters"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("SETTLE_UNCONDITIONAL", "kind[i]==4"),
                ("RENEW_UNCONDITIONAL", "n<=1"),
                ("LATE_ACK", "kind[i]==4"),
                ("ALONE_FOR_EVER", "waiters"),
                ("EARLY_EXPIRY", "kind[i]==4"),
            )
        ),
    ],
)
def test_a_protocol_broken_on_purpose_is_found_out(tmp_path: Path, flaw: str, rule: str) -> None:
    told = verdict(tmp_path, f"-D{flaw}")
    (broken,) = (line for line in told.splitlines() if "assertion violated" in line)
    assert rule in broken
