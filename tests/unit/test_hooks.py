"""Commands on the monitor's own host: bounded, and ended with all that they started."""

import asyncio
import os
from pathlib import Path

import pytest

from interlock_health_monitor.hooks import last_line, run_hook
from interlock_health_monitor.ladder import Ran
from tests.conftest import eventually


async def hook(command: str, timeout_s: float = 30.0) -> Ran:
    return await run_hook(command, node="n1", reason="lost: silent", timeout_s=timeout_s)


async def gone(pid_file: Path) -> None:
    """Wait until the process that left its number is no more."""

    async def check() -> bool:
        try:
            stat = Path(f"/proc/{int(pid_file.read_text())}/stat").read_text()
        except FileNotFoundError:
            return True
        # Of an orphan that nobody collects, only the number is left.
        return stat.rpartition(")")[2].split()[0] == "Z"

    await eventually(check)


async def test_a_hook_knows_which_node_and_why(tmp_path: Path) -> None:
    ran = await hook(f'echo "$INTERLOCK_NODE $INTERLOCK_REASON" > {tmp_path / "said"}')
    assert ran == Ran(begun=True, succeeded=True, detail="exit status 0")
    assert (tmp_path / "said").read_text() == "n1 lost: silent\n"


async def test_a_hook_that_fails_says_its_last_line() -> None:
    ran = await hook("echo one; echo no such image >&2; exit 3")
    assert ran == Ran(begun=True, succeeded=False, detail="exit status 3: no such image")


async def test_a_hook_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    ran = await hook(f"sleep 60 & echo $! > {tmp_path / 'pid'}; wait", timeout_s=0.5)
    assert ran == Ran(begun=True, succeeded=False, detail="ended after 0.5 s")
    await gone(tmp_path / "pid")


async def test_a_hook_that_is_cancelled_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    task = asyncio.ensure_future(hook(f"echo $$ > {pid}.part; mv {pid}.part {pid}; sleep 60"))

    async def begun() -> bool:
        return pid.exists()

    await eventually(begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(pid)


async def test_a_flood_of_output_is_read_and_not_kept() -> None:
    ran = await hook("yes | head -c 5000000; echo the end; exit 1")
    assert ran.detail == "exit status 1: the end"


async def test_what_looks_like_a_secret_of_ours_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLOUD_API_KEY", "s3cr3t-value")
    ran = await hook('echo "401 for $CLOUD_API_KEY"; exit 1')
    assert ran.detail == "exit status 1: 401 for …"


async def test_a_command_that_cannot_be_started_has_not_begun() -> None:
    assert not (await hook("true\0false")).begun


def test_the_last_line_is_one_short_printable_line() -> None:
    assert last_line(b"a\n\x1b[31mred\x00" + b"x" * 999 + b"\n\n") == " [31mred " + "x" * 191
    assert last_line(b"") == ""
    assert os.linesep not in last_line(b"a\r\nb\r\n")
