import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import nats
import pytest

from interlock.backoff import RestartPolicy
from interlock.broker import EmbeddedBroker
from interlock.process import NotReadyError, log_path
from interlock.state import (
    ProcessRecord,
    StateError,
    StateLockedError,
    default_folder,
    ensure_credentials,
    hold_state,
    process_start_time,
    read_credentials,
    read_run,
    stop_leftovers,
    this_run,
    write_run,
)
from interlock.supervisor import Child, ProcessEvent, Supervisor, SupervisorError

AT_ONCE = RestartPolicy(base_s=0.001, cap_s=0.001)
SLEEP = ["sleep", "1000"]


def python(script: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(script)]


IGNORES_SIGTERM = python(
    """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(1000)
    """
)


async def until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - other processes send no events
            await asyncio.sleep(0.01)


async def wrote(state: Path, name: str, text: str) -> None:
    log = log_path(state, name)
    await until(lambda: log.exists() and text in log.read_text())


class Told:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[ProcessEvent] = []

    def __call__(self, event: ProcessEvent) -> None:
        self.events.append(event)

    def states(self, name: str) -> list[str]:
        return [event.state for event in self.events if event.name == name]

    def last(self, name: str, state: str) -> ProcessEvent:
        return [e for e in self.events if e.name == name and e.state == state][-1]


# Starting again


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    told = Told()
    async with Supervisor(tmp_path, on_event=told, policy=AT_ONCE) as supervisor:
        supervisor.start(Child(name="a", command=SLEEP))
        await supervisor.until_running("a")
        [before] = supervisor.processes()
        assert await supervisor.kill("a")
        await supervisor.until_running("a")
        [after] = supervisor.processes()
        assert after.pid != before.pid
        assert process_start_time(before.pid) is None
        [state] = supervisor.snapshot()
        assert (state.state, state.pid, state.restarts) == ("running", after.pid, 1)
    assert told.states("a") == [
        *("starting", "running", "backing_off"),
        *("starting", "running", "stopping", "stopped"),
    ]
    death = told.last("a", "backing_off")
    assert death.exit_code == -signal.SIGKILL
    assert death.restart_in_s is not None


async def test_a_child_that_keeps_dying_is_never_given_up(tmp_path: Path) -> None:
    told = Told()
    async with Supervisor(tmp_path, on_event=told, policy=AT_ONCE) as supervisor:
        supervisor.start(Child(name="a", command=["false"]))
        await until(lambda: told.states("a").count("backing_off") >= 10)
    assert told.last("a", "backing_off").exit_code == 1


async def test_the_wait_grows_with_each_early_death(tmp_path: Path) -> None:
    told = Told()
    policy = RestartPolicy(base_s=0.01, cap_s=0.04)
    async with Supervisor(tmp_path, on_event=told, policy=policy, rand=lambda: 1.0) as supervisor:
        supervisor.start(Child(name="a", command=["false"]))
        await until(lambda: told.states("a").count("backing_off") >= 4)
    waits = [event.restart_in_s for event in told.events if event.state == "backing_off"]
    assert waits[:4] == [0.01, 0.02, 0.04, 0.04]


async def test_a_program_that_is_not_there_is_told_and_tried_again(tmp_path: Path) -> None:
    told = Told()
    late = tmp_path / "late"
    async with Supervisor(tmp_path, on_event=told, policy=AT_ONCE) as supervisor:
        supervisor.start(Child(name="a", command=[str(late)]))
        await until(lambda: "backing_off" in told.states("a"))
        event = told.last("a", "backing_off")
        assert event.pid is None
        assert "No such file" in (event.reason or "")
        late.symlink_to("/bin/cat")  # which ends at once, with code 0: the input is empty
        await until(lambda: told.last("a", "backing_off").exit_code == 0)


async def test_what_a_dead_child_left_running_ends_with_it(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, policy=RestartPolicy(base_s=1000, cap_s=1000)) as supervisor:
        supervisor.start(Child(name="a", command=["sh", "-c", "sleep 1000 & echo $!; wait"]))
        log = log_path(tmp_path, "a")
        await until(lambda: log.exists() and log.read_text().strip())
        helper = int(log.read_text())
        await supervisor.kill("a")
        await until(lambda: process_start_time(helper) is None)


# Ready


async def test_a_child_runs_once_its_ready_returns(tmp_path: Path) -> None:
    told = Told()
    ready = asyncio.Event()

    async def check() -> None:
        await ready.wait()

    async with Supervisor(tmp_path, on_event=told) as supervisor:
        supervisor.start(Child(name="a", command=SLEEP, ready=check))
        await until(lambda: told.states("a") == ["starting"])
        ready.set()
        await supervisor.until_running("a")
        assert told.states("a") == ["starting", "running"]


async def test_a_child_that_dies_before_it_is_ready_is_started_again(tmp_path: Path) -> None:
    told = Told()

    async def never() -> None:
        await asyncio.Event().wait()

    async with Supervisor(tmp_path, on_event=told, policy=AT_ONCE) as supervisor:
        supervisor.start(Child(name="a", command=["false"], ready=never))
        await until(lambda: told.states("a").count("starting") >= 2)
    assert "running" not in told.states("a")


async def test_a_child_that_does_not_become_ready_is_started_again_and_told_why(
    tmp_path: Path,
) -> None:
    told = Told()
    tries = 0

    async def second_time() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise NotReadyError("the port stays silent")

    async with Supervisor(tmp_path, on_event=told, policy=AT_ONCE) as supervisor:
        supervisor.start(Child(name="a", command=SLEEP, ready=second_time))
        await supervisor.until_running("a")
    assert told.last("a", "backing_off").reason == "the port stays silent"


async def test_who_waits_for_a_child_that_is_stopped_hears_of_it(tmp_path: Path) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async with Supervisor(tmp_path) as supervisor, asyncio.TaskGroup() as tasks:
        supervisor.start(Child(name="a", command=SLEEP, ready=never))

        async def wait() -> None:
            with pytest.raises(SupervisorError, match="a was stopped before it ran"):
                await supervisor.until_running("a")

        tasks.create_task(wait())
        await until(lambda: supervisor.processes())
        await supervisor.drain()


# Stopping


async def test_draining_stops_in_reverse_order_of_start(tmp_path: Path) -> None:
    told = Told()
    async with Supervisor(tmp_path, on_event=told) as supervisor:
        for name in ("broker", "first", "second"):
            supervisor.start(Child(name=name, command=SLEEP))
            await supervisor.until_running(name)
    ends = [(e.name, e.state) for e in told.events if e.state in ("stopping", "stopped")]
    assert ends == [
        (name, state) for name in ("second", "first", "broker") for state in ("stopping", "stopped")
    ]


async def test_a_child_that_ignores_the_request_is_killed_after_its_grace(tmp_path: Path) -> None:
    told = Told()
    async with Supervisor(tmp_path, on_event=told) as supervisor:
        supervisor.start(Child(name="a", command=IGNORES_SIGTERM, stop_grace_s=0.1))
        await wrote(tmp_path, "a", "deaf")
    assert told.last("a", "stopped").exit_code == -signal.SIGKILL


async def test_a_second_drain_shortens_the_grace(tmp_path: Path) -> None:
    told = Told()
    async with Supervisor(tmp_path, on_event=told) as supervisor, asyncio.TaskGroup() as tasks:
        supervisor.start(Child(name="a", command=IGNORES_SIGTERM, stop_grace_s=1000))
        await wrote(tmp_path, "a", "deaf")
        tasks.create_task(supervisor.drain())
        await until(lambda: "stopping" in told.states("a"))
        await supervisor.drain()
    assert told.last("a", "stopped").exit_code == -signal.SIGKILL


async def test_draining_does_not_wait_for_a_backoff_to_pass(tmp_path: Path) -> None:
    told = Told()
    policy = RestartPolicy(base_s=1000, cap_s=1000)
    async with Supervisor(tmp_path, on_event=told, policy=policy) as supervisor:
        supervisor.start(Child(name="a", command=["false"]))
        await until(lambda: "backing_off" in told.states("a"))
    assert told.states("a") == ["starting", "running", "backing_off", "stopped"]


async def test_a_child_is_stopped_even_while_it_is_being_started(tmp_path: Path) -> None:
    told = Told()
    async with Supervisor(tmp_path, on_event=told) as supervisor:
        supervisor.start(Child(name="a", command=SLEEP))
        await asyncio.sleep(0)
        await supervisor.drain()
    assert told.states("a")[-1] == "stopped"
    assert supervisor.processes() == []


async def test_draining_again_changes_nothing(tmp_path: Path) -> None:
    told = Told()
    async with Supervisor(tmp_path, on_event=told) as supervisor:
        supervisor.start(Child(name="a", command=SLEEP))
        await supervisor.until_running("a")
        await supervisor.drain()
        count = len(told.events)
        await supervisor.drain(hurry=True)
        assert len(told.events) == count
        with pytest.raises(SupervisorError, match="being stopped"):
            supervisor.start(Child(name="b", command=SLEEP))


async def test_an_interrupted_drain_still_ends_every_child(tmp_path: Path) -> None:
    started: list[ProcessRecord] = []

    async def run() -> None:
        async with Supervisor(tmp_path) as supervisor:
            for name in ("a", "b"):
                supervisor.start(Child(name=name, command=IGNORES_SIGTERM, stop_grace_s=0.5))
                await wrote(tmp_path, name, "deaf")
            started.extend(supervisor.processes())
            async with asyncio.timeout(0.01):
                await supervisor.drain()

    with pytest.raises(TimeoutError):
        await run()
    assert len(started) == 2
    assert [process_start_time(process.pid) for process in started] == [None, None]


async def test_a_cancelled_drain_on_leaving_still_ends_every_child(tmp_path: Path) -> None:
    told = Told()

    async def run() -> None:
        async with Supervisor(tmp_path, on_event=told) as supervisor:
            for name in ("a", "b"):
                supervisor.start(Child(name=name, command=IGNORES_SIGTERM, stop_grace_s=0.5))
                await wrote(tmp_path, name, "deaf")

    running = asyncio.create_task(run())
    await until(lambda: "stopping" in told.states("b"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    pids = {event.pid for event in told.events if event.pid is not None}
    assert [process_start_time(pid) for pid in pids] == [None, None]


# Faults of the supervisor itself


async def test_an_unknown_error_in_a_ready_check_comes_out_and_no_child_is_left(
    tmp_path: Path,
) -> None:
    seen: list[ProcessRecord] = []
    go = asyncio.Event()

    async def broken() -> None:
        await go.wait()
        raise ZeroDivisionError

    async def run() -> None:
        async with Supervisor(tmp_path) as supervisor:
            supervisor.start(Child(name="good", command=SLEEP))
            supervisor.start(Child(name="bad", command=SLEEP, ready=broken))
            await until(lambda: len(supervisor.processes()) == 2)
            seen.extend(supervisor.processes())
            go.set()
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(ZeroDivisionError, depth=1)
    assert [process_start_time(process.pid) for process in seen] == [None, None]


async def test_an_error_in_the_listener_comes_out(tmp_path: Path) -> None:
    def listener(event: ProcessEvent) -> None:
        if event.state == "running":
            raise ZeroDivisionError

    async def run() -> None:
        async with Supervisor(tmp_path, on_event=listener) as supervisor:
            supervisor.start(Child(name="a", command=SLEEP))
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(ZeroDivisionError)


async def test_an_error_in_the_block_comes_out_as_it_is_after_the_children_have_ended(
    tmp_path: Path,
) -> None:
    told = Told()

    async def run() -> None:
        async with Supervisor(tmp_path, on_event=told) as supervisor:
            supervisor.start(Child(name="a", command=SLEEP))
            await supervisor.until_running("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run()
    assert told.states("a")[-1] == "stopped"


async def test_a_name_is_given_once_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        supervisor.start(Child(name="a", command=SLEEP))
        with pytest.raises(SupervisorError, match="a is already there"):
            supervisor.start(Child(name="a", command=SLEEP))
        with pytest.raises(SupervisorError, match="no child named b; there are: a"):
            await supervisor.kill("b")


# Processes


async def test_output_is_kept_in_one_log_for_each_child(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo $GREETING; echo oops >&2; exec sleep 1000"]
    async with Supervisor(tmp_path) as supervisor:
        supervisor.start(Child(name="a", command=command, env={"GREETING": "hello"}))
        await wrote(tmp_path, "a", "oops")
    assert log_path(tmp_path, "a").read_text() == "hello\noops\n"


async def test_a_log_that_has_grown_is_moved_aside_at_the_next_start(tmp_path: Path) -> None:
    log = log_path(tmp_path, "a")
    log.parent.mkdir()
    log.write_bytes(b"x" * (10 * 1024 * 1024 + 1))
    async with Supervisor(tmp_path) as supervisor:
        supervisor.start(Child(name="a", command=["sh", "-c", "echo new; exec sleep 1000"]))
        await until(lambda: log.exists() and log.read_text() == "new\n")
    assert log.with_name("a.log.1").stat().st_size == 10 * 1024 * 1024 + 1


async def test_children_do_not_get_the_terminals_interrupt(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        supervisor.start(Child(name="a", command=SLEEP))
        await supervisor.until_running("a")
        [process] = supervisor.processes()
        assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_the_environment_of_a_child_is_in_no_repr() -> None:
    child = Child(name="a", command=SLEEP, env={"INTERLOCK_NATS_PASSWORD": "hidden"})
    assert "hidden" not in repr(child)


SUPERVISES_A_SLEEPER = """
    import asyncio, sys
    from pathlib import Path
    from interlock.supervisor import Child, Supervisor

    async def main():
        async with Supervisor(Path(sys.argv[1])) as supervisor:
            supervisor.start(Child(name="a", command=["sleep", "1000"]))
            await supervisor.until_running("a")
            print(supervisor.processes()[0].pid, flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
"""


@contextmanager
def started(script: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python process, and the first line it writes."""
    with subprocess.Popen(
        [*python(script), *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
async def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    with started(SUPERVISES_A_SLEEPER, str(tmp_path)) as (process, line):
        child = int(line)
        assert process_start_time(child) is not None
        process.kill()
        await until(lambda: process_start_time(child) is None)


# The broker as a child


async def test_the_broker_can_be_one_of_the_children(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    async with Supervisor(tmp_path, policy=AT_ONCE) as supervisor:
        supervisor.start(broker.child())
        for _ in range(2):
            await supervisor.until_running("broker")
            connection = await nats.connect(broker.url, user=broker.user, password=broker.password)
            await connection.jetstream().account_info()
            await connection.close()
            await supervisor.kill("broker")


# The state folder


HOLDS = """
    import sys, time
    from pathlib import Path
    from interlock.state import hold_state

    with hold_state(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(1000)
"""


def test_a_second_up_on_the_same_state_is_refused(tmp_path: Path) -> None:
    with started(HOLDS, str(tmp_path)) as (process, _):
        with (
            pytest.raises(StateLockedError, match=f"process {process.pid} .*stop that") as refusal,
            hold_state(tmp_path),
        ):
            pass
        assert refusal.value.pid == process.pid


def test_the_state_is_free_again_when_its_holder_was_killed(tmp_path: Path) -> None:
    with started(HOLDS, str(tmp_path)) as (process, _):
        process.kill()
        process.wait()
        with hold_state(tmp_path):
            pass


async def test_a_child_that_lives_on_does_not_hold_the_state(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        with hold_state(tmp_path):
            supervisor.start(Child(name="a", command=SLEEP))
            await supervisor.until_running("a")
        with hold_state(tmp_path):
            assert supervisor.processes()


def test_credentials_are_made_once(tmp_path: Path) -> None:
    made = ensure_credentials(tmp_path)
    assert ensure_credentials(tmp_path) == read_credentials(tmp_path) == made
    assert made.password not in repr(made)
    assert len(made.password) >= 32


def test_missing_credentials_are_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="run `interlock up`"):
        read_credentials(tmp_path)


def test_spoilt_credentials_are_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text("{")
    with pytest.raises(StateError, match="Delete it"):
        read_credentials(tmp_path)


def test_the_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("INTERLOCK_STATE", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_folder() == Path("/home/somebody/.local/state/interlock")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/states")
    assert default_folder() == Path("/var/states/interlock")
    monkeypatch.setenv("INTERLOCK_STATE", "/elsewhere")
    assert default_folder() == Path("/elsewhere")


def record_of(process: subprocess.Popen[bytes], name: str = "a") -> ProcessRecord:
    start_time = process_start_time(process.pid)
    assert start_time is not None
    return ProcessRecord(name, process.pid, start_time)


def write(state: Path, url: str, *processes: ProcessRecord) -> None:
    run = this_run(
        url=url,
        started=datetime(2026, 1, 1, tzinfo=UTC),
        broker_version="2.14.0",
        processes=list(processes),
    )
    write_run(state, run)


async def test_what_runs_can_be_read_while_it_runs(tmp_path: Path) -> None:
    assert read_run(tmp_path) is None
    broker = EmbeddedBroker(tmp_path)
    await broker.start()
    try:
        write(tmp_path, broker.url)
        running = await asyncio.to_thread(read_run, tmp_path)
        assert running is not None
        assert (running.url, running.pid) == (broker.url, os.getpid())
        assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600
    finally:
        await broker.stop()
    assert read_run(tmp_path) is None, "its broker does not answer"


async def test_a_record_whose_up_is_gone_is_not_believed(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    await broker.start()
    try:
        write(tmp_path, broker.url)
        path = tmp_path / "run.json"
        mark = process_start_time(os.getpid())
        assert mark is not None
        path.write_text(path.read_text().replace(mark, "another boot/1"))
        assert await asyncio.to_thread(read_run, tmp_path) is None
    finally:
        await broker.stop()


def test_a_spoilt_record_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(StateError, match="delete the file"):
        read_run(tmp_path)


def test_leftovers_are_stopped_and_the_record_removed(tmp_path: Path) -> None:
    with (
        subprocess.Popen(SLEEP) as willing,
        subprocess.Popen(IGNORES_SIGTERM, stdout=subprocess.PIPE) as deaf,
    ):
        assert deaf.stdout is not None
        deaf.stdout.readline()
        records = [record_of(willing), record_of(deaf, "b")]
        write(tmp_path, "nats://127.0.0.1:1", *records)
        assert asyncio.run(stop_leftovers(tmp_path, grace_s=0.1)) == records
        assert willing.wait() == -signal.SIGTERM
        assert deaf.wait() == -signal.SIGKILL
    assert not (tmp_path / "run.json").exists()


def test_a_process_that_was_given_the_pid_of_a_leftover_is_left_alone(
    tmp_path: Path,
) -> None:
    with subprocess.Popen(SLEEP) as innocent:
        try:
            write(tmp_path, "nats://127.0.0.1:1", ProcessRecord("a", innocent.pid, "boot/1"))
            assert asyncio.run(stop_leftovers(tmp_path)) == []
            assert innocent.poll() is None
        finally:
            innocent.kill()


def test_a_process_that_has_ended_and_was_not_collected_counts_as_gone() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process_start_time(process.pid) is None


def test_another_process_has_another_mark() -> None:
    with subprocess.Popen(SLEEP) as process:
        try:
            mark = process_start_time(process.pid)
            assert mark == process_start_time(process.pid)
            assert mark != process_start_time(os.getpid())
        finally:
            process.kill()
    assert process_start_time(process.pid) is None
