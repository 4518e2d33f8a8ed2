"""Runs named child processes and keeps them running.

Each child is an operating system process of its own, with its own log file. What dies is started
again, after a wait that grows (`interlock.backoff`), for as long as the supervisor lives. What the
children are, and what to tell a person about them, is left to the caller.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from interlock.backoff import RestartPolicy
from interlock.errors import InterlockError
from interlock.process import NotReadyError, became_ready, log_path, signal_group, spawn
from interlock.state import ProcessRecord, process_start_time

__all__ = [
    "Child",
    "ProcessEvent",
    "ProcessState",
    "Supervisor",
    "SupervisorError",
]

#: ``starting``: has a pid, is not ready yet. ``backing_off``: ended, will be started again.
ProcessState = Literal["starting", "running", "backing_off", "stopping", "stopped"]

_HURRIED_GRACE_S = 0.5


class SupervisorError(InterlockError):
    """The supervisor cannot do what was asked. The message says why."""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """One process to run."""

    name: str
    """Unique within a supervisor; also the name of its log file."""
    command: list[str]
    """The program and its arguments. Never a secret: anyone on the machine may read them."""
    env: dict[str, str] = {}
    """Environment variables on top of those of the supervisor."""
    ready: Callable[[], Coroutine[Any, Any, None]] | None = None
    """Returns once the child does its work; without it, a child that has started is running.

    It is cancelled when the child ends first. It raises `NotReadyError` to have the child killed
    and started again; any other error is a fault and ends the supervisor.
    """
    stop_grace_s: float = 10.0
    """Seconds between the request to stop (SIGTERM) and the end (SIGKILL)."""

    def __repr__(self) -> str:
        """Without the environment: it may hold a password, and a repr ends up in logs."""
        return f"Child(name={self.name!r}, command={self.command!r})"


class ProcessEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A child came into a state."""

    name: str
    state: ProcessState
    pid: int | None
    """The process that the state is about; None when it could not even be started."""
    at: float
    """Seconds since the epoch."""
    exit_code: int | None = None
    """When it has ended: its exit code, or minus the number of the signal that ended it."""
    restart_in_s: float | None = None
    """When it backs off: seconds until the next start."""
    restarts: int = 0
    """How often it has been started again so far, healthy periods in between or not."""
    reason: str | None = None
    """When it backs off: why, where the exit code does not say it."""


class _Ended(msgspec.Struct, frozen=True):
    """How one run of a child ended."""

    pid: int | None
    exit_code: int | None
    ran_s: float
    reason: str | None = None


class _Entry:
    """One child and what is known of it."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.process: asyncio.subprocess.Process | None = None
        self.record: ProcessRecord | None = None
        self.last: ProcessEvent | None = None
        self.restarts = 0
        self.stop_wanted = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.overdue: asyncio.TimerHandle | None = None
        self.waiters: list[asyncio.Future[None]] = []

    def ran(self) -> None:
        """Release who waits for it to run."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()

    def ended(self, _task: asyncio.Task[None]) -> None:
        """Nothing supervises it any more: tell who still waits."""
        self.stop_wanted.set()
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(self.stopped_early())
        self.waiters.clear()

    def stopped_early(self) -> SupervisorError:
        """The error for who waited in vain."""
        return SupervisorError(f"{self.child.name} was stopped before it ran")


class Supervisor:
    """Runs children for as long as its ``async with`` block does.

    Leaving the block drains, and an error of the block comes out as it is. An error inside the
    supervisor itself (from ``on_event`` or from a child's ``ready``) cancels the block, ends all
    children and comes out as an ExceptionGroup. A child that dies is no such error, however often.
    """

    def __init__(
        self,
        state: Path,
        *,
        on_event: Callable[[ProcessEvent], None] | None = None,
        policy: RestartPolicy | None = None,
        rand: Callable[[], float] = random.random,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Logs go to ``<state>/logs``. ``on_event`` is called in the loop and must not block."""
        self._state = state
        self._on_event = on_event
        self._policy = policy or RestartPolicy()
        self._rand = rand
        self._wall_clock = wall_clock
        self._entries: dict[str, _Entry] = {}
        self._tasks = asyncio.TaskGroup()
        self._draining = False
        self._hurried = False

    async def __aenter__(self) -> Self:
        """Begin. Children are started one by one with `start`."""
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drain, then raise what went wrong inside."""
        try:
            await self.drain()
        except BaseException as broken_off:
            # Cancelled while it drained: the group then ends all that is left at once.
            await self._tasks.__aexit__(type(broken_off), broken_off, broken_off.__traceback__)
            raise
        # The group must know of a cancellation, because it may be its own doing. Any other error
        # of the block is none of the group's, which would wrap it.
        if isinstance(error, asyncio.CancelledError):
            await self._tasks.__aexit__(kind, error, trace)
        else:
            await self._tasks.__aexit__(None, None, None)

    def start(self, child: Child) -> None:
        """Start a child, and again whenever it ends, until `drain`.

        Raises SupervisorError when the name is taken or the supervisor is draining.
        """
        if self._draining:
            raise SupervisorError(f"cannot start {child.name}: everything is being stopped")
        if child.name in self._entries:
            raise SupervisorError(f"a child named {child.name} is already there")
        entry = self._entries[child.name] = _Entry(child)
        # The callback, not a `finally` in the task: one cancelled before its first step runs none.
        entry.task = self._tasks.create_task(self._supervise(entry), name=f"supervise {child.name}")
        entry.task.add_done_callback(entry.ended)

    async def until_running(self, name: str) -> None:
        """Return when the child runs (at once, if it does). Waits as long as it takes.

        Raises SupervisorError when it is stopped first, or there is none of that name.
        """
        entry = self._entry(name)
        process, last = entry.process, entry.last
        if process is not None and process.returncode is None and last and last.state == "running":
            return
        if entry.stop_wanted.is_set():
            raise entry.stopped_early()
        waiter = asyncio.get_running_loop().create_future()
        entry.waiters.append(waiter)
        await waiter

    async def kill(self, name: str) -> bool:
        """Kill the child's process (SIGKILL) and return when it is gone; it will be restarted.

        Only the process itself, as the kernel does when memory runs out. False when there was no
        process. For fault tests. Raises SupervisorError when there is no child of that name.
        """
        process = self._entry(name).process
        if process is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        return True

    def snapshot(self) -> list[ProcessEvent]:
        """The latest event of each child, in order of start."""
        return [entry.last for entry in self._entries.values() if entry.last is not None]

    def processes(self) -> list[ProcessRecord]:
        """The live processes, in order of start, for the record of what runs."""
        return [entry.record for entry in self._entries.values() if entry.record is not None]

    async def drain(self, *, hurry: bool = False) -> None:
        """Stop every child, the last started first, and return when all have ended.

        Each is asked (SIGTERM) and, after its own grace, killed. A second call, or ``hurry``,
        shortens what is left of every grace to half a second. Once begun, it cannot be taken back.
        """
        if self._draining or hurry:
            self._hurry()
        self._draining = True
        for entry in reversed(self._entries.values()):
            self._request_stop(entry)
            if entry.task is not None:
                await asyncio.wait((entry.task,))

    def _hurry(self) -> None:
        self._hurried = True
        soon = asyncio.get_running_loop().time() + _HURRIED_GRACE_S
        for entry in self._entries.values():
            if entry.overdue is not None and entry.overdue.when() > soon:
                self._schedule_kill(entry)

    def _request_stop(self, entry: _Entry) -> None:
        if entry.stop_wanted.is_set():
            return
        entry.stop_wanted.set()
        if entry.process is not None:
            self._begin_stop(entry, entry.process)
            self._emit(entry, "stopping", pid=entry.process.pid)

    def _begin_stop(self, entry: _Entry, process: asyncio.subprocess.Process) -> None:
        # To the process alone: how its own children are to end well is for it to say.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        self._schedule_kill(entry)

    def _schedule_kill(self, entry: _Entry) -> None:
        process = entry.process
        if process is None:
            return
        grace_s = entry.child.stop_grace_s
        if self._hurried:
            grace_s = min(grace_s, _HURRIED_GRACE_S)
        if entry.overdue is not None:
            entry.overdue.cancel()
        loop = asyncio.get_running_loop()
        entry.overdue = loop.call_later(grace_s, signal_group, process, signal.SIGKILL)

    async def _supervise(self, entry: _Entry) -> None:
        failures = 0
        while True:
            ended = await self._run_once(entry)
            if entry.stop_wanted.is_set():
                break
            failures = self._policy.failures(failures, ended.ran_s)
            delay_s = self._policy.delay_s(failures, self._rand)
            self._emit(
                entry,
                "backing_off",
                pid=ended.pid,
                exit_code=ended.exit_code,
                restart_in_s=delay_s,
                reason=ended.reason,
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await entry.stop_wanted.wait()
                break
            entry.restarts += 1
        self._emit(entry, "stopped", pid=ended.pid, exit_code=ended.exit_code)

    async def _run_once(self, entry: _Entry) -> _Ended:
        """Start the child and see it to its end."""
        child = entry.child
        try:
            process = await spawn(
                child.command, env=child.env, log=log_path(self._state, child.name)
            )
        except OSError as error:
            # A full process table or a program being replaced passes; and one that does not is
            # shown, with this reason, for as long as it lasts.
            return _Ended(pid=None, exit_code=None, ran_s=0.0, reason=f"cannot start: {error}")
        entry.process = process
        try:
            return await self._see_through(entry, process)
        finally:
            # We are being cancelled, or failed ourselves.
            if process.returncode is None and entry.overdue is None:
                self._begin_stop(entry, process)
            await process.wait()
            entry.process = entry.record = None
            if entry.overdue is not None:
                entry.overdue.cancel()
                entry.overdue = None
            # Helpers that it left behind would work on beside those of its next run.
            signal_group(process, signal.SIGKILL)

    async def _see_through(self, entry: _Entry, process: asyncio.subprocess.Process) -> _Ended:
        child = entry.child
        if (start_time := process_start_time(process.pid)) is not None:
            entry.record = ProcessRecord(child.name, process.pid, start_time)
        if entry.stop_wanted.is_set():  # while it was being started
            self._begin_stop(entry, process)
            self._emit(entry, "stopping", pid=process.pid)
            return _Ended(pid=process.pid, exit_code=await process.wait(), ran_s=0.0)
        self._emit(entry, "starting", pid=process.pid)
        reason = None
        running_since: float | None = None
        loop = asyncio.get_running_loop()
        try:
            if child.ready is None or await became_ready(process, child.ready):
                running_since = loop.time()
        except NotReadyError as error:
            reason = str(error)
            signal_group(process, signal.SIGKILL)
        if running_since is not None and not entry.stop_wanted.is_set():
            self._emit(entry, "running", pid=process.pid)
            entry.ran()
        exit_code = await process.wait()
        ran_s = 0.0 if running_since is None else loop.time() - running_since
        return _Ended(pid=process.pid, exit_code=exit_code, ran_s=ran_s, reason=reason)

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(self._entries) or "none"
            raise SupervisorError(f"no child named {name}; there are: {known}") from None

    def _emit(
        self,
        entry: _Entry,
        state: ProcessState,
        *,
        pid: int | None,
        exit_code: int | None = None,
        restart_in_s: float | None = None,
        reason: str | None = None,
    ) -> None:
        event = ProcessEvent(
            name=entry.child.name,
            state=state,
            pid=pid,
            at=self._wall_clock(),
            exit_code=exit_code,
            restart_in_s=restart_in_s,
            restarts=entry.restarts,
            reason=reason,
        )
        entry.last = event
        if self._on_event is not None:
            self._on_event(event)
