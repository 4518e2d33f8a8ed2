"""`interlock lock`, as people and shell scripts use it."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE_S, Up, clean_env, cli_json, run_cli

#: Says that it runs, and goes on until it is stopped.
FOREVER = "echo runs $$ $INTERLOCK_LOCK_TOKEN; exec sleep 600"


def fresh(what: str) -> str:
    return f"cli:{what}/{uuid.uuid4().hex[:8]}"


@contextlib.contextmanager
def started(up: Up, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "interlock", "lock", "run", *arguments],
        env=clean_env() | {"INTERLOCK_STATE": str(up.folder)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        process.communicate(timeout=PATIENCE_S)


def told(process: subprocess.Popen[str]) -> list[str]:
    """The next line of its output, in words: what it prints once it runs."""
    assert process.stdout is not None
    return process.stdout.readline().split()


def until(check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := check()):
        if time.monotonic() > deadline:
            pytest.fail("it never came to be")
        time.sleep(0.05)
    return answer


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A zombie that nobody fetches (an orphan in a container without an init) has ended too.
    with contextlib.suppress(OSError):
        return b") Z " in Path(f"/proc/{pid}/stat").read_bytes()
    return False


def free(up: Up, name: str) -> bool:
    view = cli_json(up, "lock", "show", name)
    return not view["holders"] and not view["waiting"]


def waiting(up: Up, name: str, count: int) -> bool:
    return len(cli_json(up, "lock", "show", name)["waiting"]) == count


def test_a_command_runs_under_a_lock_whose_token_it_is_told(up: Up) -> None:
    name = fresh("run")
    script = 'test "$INTERLOCK_LOCK_NAME" = "$1" && echo $INTERLOCK_LOCK_TOKEN && exit 7'
    tokens = []
    for _ in range(2):
        done = run_cli(up, "lock", "run", name, "--", "sh", "-c", script, "sh", name)
        assert done.returncode == 7, done.stderr
        tokens.append(int(done.stdout))
    assert tokens[0] < tokens[1]
    assert free(up, name)


def test_json_comes_last_and_is_not_taken_from_the_command(up: Up) -> None:
    name = fresh("json")
    done = run_cli(up, "lock", "run", name, "--json", "--", "echo", "hello")
    first, last = done.stdout.splitlines()
    assert first == "hello"
    assert json.loads(last)["code"] == 0
    assert json.loads(last)["token"] > 0
    done = run_cli(up, "lock", "run", name, "--", "echo", "--json")
    assert done.stdout == "--json\n"
    assert run_cli(up, "lock", "run", name, "--", "nonsuch", "--json").stdout == ""


@pytest.mark.parametrize(("command", "code"), [("nonsuch-command", 127), ("/", 126)])
def test_what_cannot_be_run_is_said_before_anybody_waits(up: Up, command: str, code: int) -> None:
    done = run_cli(up, "lock", "run", fresh("none"), "--json", "--", command)
    assert done.returncode == code
    assert "cannot run" in json.loads(done.stdout)["error"]


def test_a_program_that_the_system_cannot_run_leaves_the_lock_free(up: Up, tmp_path: Path) -> None:
    name = fresh("shebang")
    script = tmp_path / "script"
    script.write_text("#!/nonsuch/interpreter\n")
    script.chmod(0o700)
    assert run_cli(up, "lock", "run", name, "--", str(script)).returncode == 127
    assert free(up, name)


def test_who_holds_and_who_waits_is_shown_in_the_order_of_service(up: Up) -> None:
    name = fresh("queue")
    with started(up, name, "--note", "the first", "--", "sh", "-c", FOREVER) as holder:
        token = int(told(holder)[2])
        busy = run_cli(up, "lock", "run", name, "--wait", "0", "--", "true")
        assert busy.returncode == 75
        assert str(token) in busy.stderr
        late = run_cli(up, "lock", "run", name, "--wait", "0.3", "--", "true")
        assert late.returncode == 75
        assert "was not granted within 0.3 s" in late.stderr
        with started(up, name, "--", "sh", "-c", FOREVER):
            until(lambda: waiting(up, name, 1))
            with started(up, name, "--priority", "high", "--", "sh", "-c", FOREVER) as urgent:
                until(lambda: waiting(up, name, 2))
                queue = cli_json(up, "lock", "queue", name)
                assert [each["position"] for each in queue["waiting"]] == [1, 2]
                assert [each["priority"] for each in queue["waiting"]] == ["high", "normal"]
                shown = run_cli(up, "lock", "show", name).stdout
                assert f"token    {token}" in shown
                assert "note     the first" in shown
                lines = run_cli(up, "lock", "queue", name).stdout.splitlines()
                assert lines[0].split()[:2] == ["1", "high"]
                assert lines[2] == f"2 waiting for {name}"
                listed = cli_json(up, "lock", "list", "--prefix", name)
                assert [each["waiting"] for each in listed["locks"]] == [2]
                assert "2 waiting" in run_cli(up, "lock", "list", "--prefix", name).stdout
                holder.terminate()
                assert int(told(urgent)[2]) > token
    assert cli_json(up, "lock", "list", "--prefix", name, "--node", "nonsuch")["total"] == 0


def test_a_lock_is_taken_from_its_holder_with_a_reason_that_is_kept(up: Up) -> None:
    name = fresh("end")
    missing = run_cli(up, "lock", "release", name)
    assert missing.returncode == 2
    assert "--reason" in missing.stderr
    assert run_cli(up, "lock", "release", name, "--reason", " ").returncode == 2
    nobody = run_cli(up, "lock", "release", name, "--reason", "test")
    assert nobody.returncode == 1
    assert "nobody holds" in nobody.stderr
    with started(up, name, "--ttl", "600", "--", "sh", "-c", FOREVER) as holder:
        token = int(told(holder)[2])
        other = run_cli(up, "lock", "release", name, "--reason", "test", "--token", "5")
        assert other.returncode == 1
        assert "with token 5" in other.stderr
        with started(up, name, "--", "sh", "-c", FOREVER) as next:
            until(lambda: waiting(up, name, 1))
            done = cli_json(
                up, "lock", "release", name, "--reason", "it hangs", "--by", "anna",
                "--token", str(token),
            )  # fmt: skip
            assert done["tokens"] == [token]
            assert done["next_token"] == int(told(next)[2])
            assert holder.wait(timeout=PATIENCE_S) == 76
            assert "was lost" in holder.communicate()[1]
            text = run_cli(up, "lock", "release", name, "--reason", "this one too").stdout
            assert "holds no more" in text
            assert "nobody waited" in text
    lost = until(
        lambda: [
            event["payload"]
            for line in run_cli(
                up, "tail", "lock", "--since", "5m", "--no-follow", "--json"
            ).stdout.splitlines()
            if (event := json.loads(line))["payload"].get("lock") == name
            and "lock.lost" in event["subject"]
        ]
    )
    assert lost[0]["by"] == "anna: it hangs"
    assert lost[0]["token"] == token


def test_when_the_lease_is_lost_nothing_of_the_command_goes_on(up: Up) -> None:
    name = fresh("lost")
    stubborn = "trap '' TERM; (while :; do sleep 0.05; done) & echo runs $$ $!; wait; wait"
    options = ("--ttl", "1", "--max-age", "2", "--grace", "0.2")
    with started(up, name, *options, "--", "sh", "-c", stubborn) as process:
        _, leader, child = told(process)
        assert process.wait(timeout=PATIENCE_S) == 76
        assert "maximum age" in process.communicate()[1]
        until(lambda: gone(int(leader)))
        until(lambda: gone(int(child)))


def test_a_holder_that_was_frozen_past_its_lease_does_not_end_in_success(up: Up) -> None:
    name = fresh("frozen")
    with started(up, name, "--ttl", "1", "--", "sh", "-c", FOREVER) as process:
        pid = int(told(process)[1])
        process.send_signal(signal.SIGSTOP)
        until(lambda: free(up, name))
        os.kill(pid, signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=PATIENCE_S) == 76


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_command_and_the_lock_is_given_back(
    up: Up, number: signal.Signals
) -> None:
    name = fresh("signal")
    # Python and not a shell, which ignores SIGINT where it was started in the background.
    sleep = "import os,signal,time; signal.signal(2, signal.SIG_DFL); print('runs', flush=True)"
    with started(
        up, name, "--ttl", "600", "--", sys.executable, "-c", f"{sleep}; time.sleep(600)"
    ) as process:
        assert told(process) == ["runs"]
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE_S) == 128 + number
    assert free(up, name)


def test_whoever_is_stopped_while_waiting_leaves_the_queue(up: Up) -> None:
    name = fresh("leave")
    with started(up, name, "--", "sh", "-c", FOREVER) as holder:
        told(holder)
        with started(up, name, "--", "true") as waiter:
            until(lambda: waiting(up, name, 1))
            waiter.terminate()
            assert waiter.wait(timeout=PATIENCE_S) == 128 + signal.SIGTERM
            until(lambda: waiting(up, name, 0))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that we were killed")
def test_a_command_does_not_outlive_a_holder_that_was_killed(up: Up) -> None:
    with started(up, fresh("killed"), "--ttl", "1", "--", "sh", "-c", FOREVER) as process:
        pid = int(told(process)[1])
        process.kill()
        until(lambda: gone(pid))


def test_a_lock_inside_of_itself_is_a_deadlock_and_is_refused(up: Up) -> None:
    name = fresh("inside")
    inner = [sys.executable, "-m", "interlock", "lock", "run", name, "--", "true"]
    done = run_cli(up, "lock", "run", name, "--", *inner)
    assert done.returncode == 75
    assert "error: " in done.stderr
    assert free(up, name)


def test_on_a_terminal_the_command_is_in_the_foreground(up: Up) -> None:
    name = fresh("terminal")
    ours, theirs = pty.openpty()
    script = 'read line; echo "got:$line"; exec sleep 600'
    argv = [sys.executable, "-m", "interlock", "lock", "run", name, "--", "sh", "-c", script]
    # `script` or a shell would do, but neither is on every machine.
    leader = (
        "import fcntl,os,sys,termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", leader, *argv],
        env=clean_env() | {"INTERLOCK_STATE": str(up.folder)},
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    try:
        until(lambda: not free(up, name))
        os.write(ours, b"hello\n")
        seen = b""
        while b"got:hello" not in seen:
            seen += os.read(ours, 1_000)
        os.write(ours, b"\x03")
        assert process.wait(timeout=PATIENCE_S) == 128 + signal.SIGINT
    finally:
        process.kill()
        process.wait(timeout=PATIENCE_S)
        os.close(ours)
    assert free(up, name)


def test_a_guarded_command_is_refused_once_a_higher_token_was_shown(tmp_path: Path) -> None:
    def guard(token: str, *command: str) -> subprocess.CompletedProcess[str]:
        return run_cli(
            None, "lock", "guard", str(tmp_path / "fence"), "ratings", token, "--json", "--",
            *command,
        )  # fmt: skip

    target = tmp_path / "target"
    write = ("sh", "-c", 'echo "$1" > "$2"; exit 4', "sh")
    assert guard("12", *write, "new", str(target)).returncode == 4
    stale = guard("11", *write, "old", str(target))
    assert stale.returncode == 76
    assert "stale" in json.loads(stale.stdout.splitlines()[-1])["error"]
    assert target.read_text() == "new\n"
    assert guard("12", "nonsuch-command").returncode == 127
    assert guard("12", "/").returncode == 126
    for token in ("0", "-1", str(2**64)):
        assert guard(token, "true").returncode == 2
    assert guard("twelve", "true").returncode == 2


def test_a_fence_that_cannot_be_used_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "fence")
    done = run_cli(None, "lock", "guard", folder, "ratings", "3", "--", "true")
    assert done.returncode == 125
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a.>", "a*", ">", "*", ".a", "$KV", "a\nb", "\N{SNOWMAN}", "\N{ROCKET}", "x" * 201],
)
def test_a_name_that_is_none_says_what_a_name_is(name: str) -> None:
    done = run_cli(None, "lock", "run", name, "--", "echo", "ran")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no name of a lock" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("show",), ("queue",), ("release", "--reason", "test")])
def test_every_command_looks_at_the_name(command: tuple[str, ...]) -> None:
    done = run_cli(None, "lock", *command, "a.>")
    assert done.returncode == 2
    assert "no name of a lock" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--ttl", "0"), ("--ttl", "-1"), ("--ttl", "86401"), ("--ttl", "nan"), ("--ttl", "inf"),
        ("--ttl", "soon"), ("--wait", "-1"), ("--wait", "nan"), ("--priority", "urgent"),
        ("--slots", "0"), ("--slots", "1.5"), ("--max-age", "0"), ("--max-age", "nan"),
        ("--grace", "-1"),
    ],
)  # fmt: skip
def test_an_option_that_makes_no_sense_runs_nothing(options: tuple[str, str]) -> None:
    done = run_cli(None, "lock", "run", fresh("odd"), *options, "--", "echo", "ran")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert options[0] in done.stderr
    assert "Traceback" not in done.stderr


class Alone(Up):
    def await_services(self) -> None:
        """Some of them do not run."""


def test_without_the_service_an_error_says_so(tmp_path: Path) -> None:
    alone = Alone(tmp_path / "state", "--only", "event-normalizer")
    alone.start()
    try:
        for command in (("list",), ("show", "a"), ("release", "a", "--reason", "test")):
            done = run_cli(alone, "lock", *command, "--json")
            assert done.returncode == 1
            assert "sync-mutex did not answer" in json.loads(done.stdout)["error"]
        assert run_cli(alone, "lock", "run", "a", "--", "true").returncode == 0
    finally:
        alone.stop()


def test_without_a_broker_nothing_is_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "interlock", "lock", "run", "a", "--json", "--", "echo", "ran"],
        env=clean_env() | {"INTERLOCK_STATE": str(tmp_path), "INTERLOCK_NATS_URL": "127.0.0.1:1"},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 125
    assert "interlock up" in json.loads(done.stdout)["error"]
