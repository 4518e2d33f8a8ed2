"""The examples in the documents run as they stand."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from interlock.errors import StaleToken
from interlock.locks.fence import FileFence
from tests.conftest import PATIENCE_S, Up

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"


def test_a_node_worker_publishes_legacy_events_and_reads_canonical_ones(
    up: Up, tmp_path: Path
) -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no Node.js on this machine")
    (tmp_path / "package.json").write_text(json.dumps({"private": True, "type": "module"}))
    done = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "nats@2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    if done.returncode != 0 and "ENOTFOUND" in done.stderr + done.stdout:
        pytest.skip("the npm registry cannot be reached")
    assert done.returncode == 0, done.stderr
    shutil.copy(EXAMPLES / "worker.mjs", tmp_path)
    told = subprocess.run(
        ["node", "worker.mjs"],
        cwd=tmp_path, env=up.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert len(lines) == 2
    assert any('"final_loss":0.41' in line and "from old-worker" in line for line in lines)
    assert any('"model":"v13"' in line for line in lines)


def test_a_shell_worker_publishes(up: Up) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    told = subprocess.run(
        ["bash", str(EXAMPLES / "worker.sh")],
        env=up.env | {"PATH": path},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "stored as LEGACY" in told.stdout
    assert "stored as EVENTS" in told.stdout


@pytest.mark.parametrize("name", ["publish.py", "plain_script.py"])
def test_a_python_worker_publishes(up: Up, name: str) -> None:
    told = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        env=up.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "EVENTS" in told.stdout


def test_a_python_consumer_handles_what_is_published(up: Up) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", str(EXAMPLES / "consume.py")],
        env=up.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        subprocess.run(
            [sys.executable, str(EXAMPLES / "publish.py")],
            env=up.env, check=True, capture_output=True, timeout=PATIENCE_S,
        )  # fmt: skip
        while "hex8_2p: evaluate v12" not in process.stdout.readline():
            assert process.poll() is None
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)
        process.stdout.close()


def test_exports_under_a_lock_replace_one_another_and_no_newer_one(up: Up, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    tokens = []
    for command in ([sys.executable, "-W", "error", "lock.py"], ["bash", "lock.sh"]):
        told = subprocess.run(
            [*command[:-1], str(EXAMPLES / command[-1])],
            env=up.env | {"PATH": path, "EXPORTS": str(tmp_path)},
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        tokens.append(int(told.stdout.split("exported under token ")[1]))
        assert (tmp_path / "hex8_2p.txt").read_text() == "games\n"
    assert tokens[0] < tokens[1]
    assert sorted(each.name for each in tmp_path.iterdir()) == [".fence", "hex8_2p.txt"]
    stale = FileFence(tmp_path / ".fence")
    with pytest.raises(StaleToken):
        stale.write("hex8_2p.txt", tokens[0], tmp_path / "hex8_2p.txt", b"old")
