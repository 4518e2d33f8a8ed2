"""The fence for files between processes that are frozen and killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.errors import FenceBusy, StaleToken
from interlock.locks.fence import FileFence

PATIENCE_S = 60.0
ROUNDS = 100

#: Writes under the token that it is told, again and again, until it is refused.
HOLDER = """
import sys, time
from interlock.errors import StaleToken
from interlock.locks.fence import FileFence

fence = FileFence(sys.argv[1], create=False)
for line in sys.stdin:
    writes, until = 0, time.monotonic() + 30.0
    try:
        while time.monotonic() < until:
            fence.write("ratings", int(line), sys.argv[2], line.strip().encode())
            writes += 1
            if writes == 1:
                print("writes", flush=True)
        print("was not refused", flush=True)
        break
    except StaleToken:
        print("refused", flush=True)
"""

#: Stops itself in the middle of its turn.
FROZEN = """
import os, pathlib, signal, sys
from interlock.locks.fence import FileFence

with FileFence(sys.argv[1]).guard("ratings", 1):
    os.kill(os.getpid(), signal.SIGSTOP)
    pathlib.Path(sys.argv[2]).write_text("1")
"""

#: Eight processes write as fast as they can, and are stopped and killed while they do.
CROWD = """
import contextlib, os, random, signal, sys, time
from interlock.errors import StaleToken
from interlock.locks.fence import FileFence

folder, history, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
chance = random.Random(seed)
until = time.monotonic() + 30.0

def work(seed):
    fence, mine = FileFence(folder), random.Random(seed)
    lines = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while time.monotonic() < until and os.getppid() == parent:
        token = max(1, fence.highest("ratings") + mine.randint(-3, 3))
        with contextlib.suppress(StaleToken), fence.guard("ratings", token):
            os.write(lines, f"{token}\\n".encode())

def start():
    seed = chance.random()
    child = os.fork()
    if child == 0:
        try:
            work(seed)
        finally:
            os._exit(1)
    return child

parent = os.getpid()
children = [start() for _ in range(8)]
for _ in range(40):
    time.sleep(chance.uniform(0.0, 0.04))
    victim = chance.randrange(8)
    os.kill(children[victim], signal.SIGSTOP)
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0.0, 0.02))
        os.kill(children[victim], signal.SIGCONT)
    else:
        os.kill(children[victim], signal.SIGKILL)
        assert os.waitpid(children[victim], 0)[1] == signal.SIGKILL
        children[victim] = start()
for child in children:
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it ended by itself"
"""

GUARDED = """
import sys
from interlock.locks.fence_command import run_guarded

sys.exit(run_guarded(sys.argv[1], "ratings", 5, sys.argv[2:]))
"""


@pytest.fixture
def fence(tmp_path: Path) -> FileFence:
    return FileFence(tmp_path / "fence")


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        with process:
            process.kill()


def start(
    processes: list[subprocess.Popen[str]], script: str, *arguments: Path | str
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    processes.append(process)
    return process


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def await_stop(process: subprocess.Popen[str]) -> None:
    assert os.waitid(os.P_PID, process.pid, os.WSTOPPED) is not None


def test_a_holder_frozen_past_its_lease_is_refused_every_time(
    fence: FileFence, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    target = tmp_path / "ratings.json"
    holder = start(processes, HOLDER, fence.folder, target)
    refused = 0
    for old in range(1, 2 * ROUNDS, 2):
        say(holder, str(old))
        assert hear(holder) == "writes"
        while True:
            # At any moment of its writing.
            time.sleep(random.uniform(0.0, 0.002))
            holder.send_signal(signal.SIGSTOP)
            await_stop(holder)
            try:
                fence.write("ratings", old + 1, target, str(old + 1).encode(), timeout_s=0)
            except FenceBusy:
                # In its turn: nobody has written under a higher token, so it may finish.
                holder.send_signal(signal.SIGCONT)
            else:
                break
        holder.send_signal(signal.SIGCONT)
        assert hear(holder) == "refused"
        refused += 1
        assert target.read_text() == str(old + 1)
    assert refused == ROUNDS


def test_a_holder_frozen_in_its_turn_is_named_and_keeps_it(
    fence: FileFence, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    target = tmp_path / "ratings.json"
    frozen = start(processes, FROZEN, fence.folder, target)
    await_stop(frozen)
    with pytest.raises(FenceBusy, match=f"process {frozen.pid} is stopped .*kill -KILL"):
        fence.write("ratings", 2, target, b"2", timeout_s=0)
    frozen.send_signal(signal.SIGCONT)
    fence.write("ratings", 2, target, b"2", timeout_s=PATIENCE_S)
    assert frozen.wait(PATIENCE_S) == 0
    assert target.read_text() == "2"


def test_a_holder_killed_in_its_turn_gives_it_up(
    fence: FileFence, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    frozen = start(processes, FROZEN, fence.folder, tmp_path / "ratings.json")
    await_stop(frozen)
    frozen.kill()
    frozen.wait(PATIENCE_S)
    assert fence.highest("ratings") == 1
    fence.write("ratings", 2, tmp_path / "ratings.json", b"2", timeout_s=0)


def test_writers_that_are_killed_at_random_never_write_in_the_wrong_order(
    fence: FileFence, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    history, seed = tmp_path / "history", random.randrange(1_000_000)
    crowd = start(processes, CROWD, fence.folder, history, str(seed))
    assert crowd.wait(PATIENCE_S) == 0, f"seed {seed}"
    written = [int(line) for line in history.read_text().splitlines()]
    assert len(written) > 20
    assert written == sorted(written), f"seed {seed}"
    # What was killed between record and write leaves the record higher, never lower.
    again = FileFence(fence.folder, create=False)
    highest = again.highest("ratings")
    assert highest >= written[-1]
    for token in range(max(1, highest - 20), highest):
        with pytest.raises(StaleToken), again.guard("ratings", token):
            pytest.fail("it was admitted")
    with again.guard("ratings", highest + 1, timeout_s=0):
        pass
    assert again.highest("ratings") == highest + 1


def test_a_command_outlives_its_guard_and_others_wait_for_it(
    fence: FileFence, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    final = tmp_path / "final"
    script = f"echo started; read line; echo done > '{final}'"
    guard = start(processes, GUARDED, fence.folder, "sh", "-c", script)
    assert hear(guard) == "started"
    guard.kill()
    guard.wait(PATIENCE_S)
    with (
        pytest.raises(FenceBusy, match=f"process {guard.pid} began to write and has ended"),
        fence.guard("ratings", 6, timeout_s=0),
    ):
        pytest.fail("two at a time")
    say(guard, "go on")
    with fence.guard("ratings", 6, timeout_s=PATIENCE_S):
        assert final.exists()


def test_a_guard_passes_a_signal_on_and_ends_after_its_command(
    fence: FileFence, processes: list[subprocess.Popen[str]]
) -> None:
    script = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); "
        "print('started', flush=True); signal.pause()"
    )
    guard = start(processes, GUARDED, fence.folder, sys.executable, "-c", script)
    assert hear(guard) == "started"
    guard.terminate()
    assert guard.wait(PATIENCE_S) == 9
    with fence.guard("ratings", 5, timeout_s=0):
        pass
