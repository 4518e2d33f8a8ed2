"""Run a command under a lock, for shell scripts: the lock is held for as long as the command runs.

When the lease is lost, the command is ended. What it writes is its own business, and so is to show
its token there: until the signal reaches it, and where it does not heed it, it goes on.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from interlock.errors import BusUnavailable, InterlockError, LeaseLost
from interlock.locks.lease import Lease
from interlock.process import die_with

__all__ = [
    "LOST",
    "NAME_VARIABLE",
    "NOT_EXECUTABLE",
    "NOT_FOUND",
    "OWNER_VARIABLE",
    "TOKEN_VARIABLE",
    "CannotRun",
    "Outcome",
    "find",
    "run_locked",
]

#: What the command finds in its environment.
NAME_VARIABLE: Final = "INTERLOCK_LOCK_NAME"
TOKEN_VARIABLE: Final = "INTERLOCK_LOCK_TOKEN"  # noqa: S105  # a fencing token is no secret
OWNER_VARIABLE: Final = "INTERLOCK_LOCK_OWNER"

#: Exit codes: as a shell has them, and one of ours for a lease that was lost.
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
LOST: Final = 76

_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What a terminal stops a process by.
_TERMINAL_STOPS: Final = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_PAUSE_S: Final = 0.02


class CannotRun(InterlockError):
    """The command cannot be run; nothing was."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code
        """What a shell would exit with: 126 or 127."""

    @classmethod
    def by(cls, name: str, error: OSError) -> "CannotRun":
        """As the system says it."""
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        return cls(f"cannot run {name}: {error.strerror}", code=code)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended."""

    code: int
    """The exit code: the command's, 128 + n for signal n, or `LOST`."""
    token: int = 0
    """What it ran under; 0: it did not run."""
    held_s: float = 0.0
    lost: str = ""
    """Why the lease was lost."""


def find(name: str) -> None:
    """Raise CannotRun for a command that is not there, before anybody waits for a lock."""
    if shutil.which(name) is not None:
        return
    if os.sep in name and Path(name).exists():
        raise CannotRun(f"cannot run {name}: it is not executable", code=NOT_EXECUTABLE)
    raise CannotRun(f"cannot run {name}: there is no such command", code=NOT_FOUND)


async def run_locked(
    acquire: Callable[[], Awaitable[Lease]], argv: Sequence[str], *, grace_s: float, owner: str
) -> Outcome:
    """Take a lock, run ``argv`` while it is held, give it back.

    The command has our standard streams and environment, with the lock's name, token and owner
    added. It is a process group of its own: SIGINT, SIGTERM and SIGHUP are passed on to it, and
    when the lease is lost it gets SIGTERM, and SIGKILL where it is still there ``grace_s`` later.
    Where we are killed, it gets SIGTERM (Linux), and the lease runs out. On a terminal it is in the
    foreground. What it leaves in the background goes on without the lock.

    Called in the main thread. Raises what ``acquire`` raises, and CannotRun.
    """
    loop = asyncio.get_running_loop()
    waiting = asyncio.current_task()
    assert waiting is not None  # noqa: S101  # for the type checker
    command: _Command | None = None
    came: list[signal.Signals] = []

    def receive(number: signal.Signals) -> None:
        came.append(number)
        if command is not None:
            command.send(number)
        elif len(came) == 1:
            waiting.cancel()

    with _handled(loop, receive):
        try:
            lease = await acquire()
        except asyncio.CancelledError:
            if not came:
                raise
            waiting.uncancel()
            return Outcome(code=128 + came[0])
        began = loop.time()
        try:
            command = _Command(loop, argv, lease, owner)
            lost = loop.create_task(lease.lost.wait())
            await asyncio.wait((command.ended, lost), return_when=asyncio.FIRST_COMPLETED)
            lost.cancel()
            if not command.ended.done():
                await command.end(grace_s)
            code = await command.ended
            return _outcome(lease, code, loop.time() - began)
        finally:
            if command is not None:
                command.close()
            with contextlib.suppress(BusUnavailable):
                await lease.release()


def _outcome(lease: Lease, code: int, held_s: float) -> Outcome:
    try:
        # Also where we were frozen together with it, and learn of its end first.
        lease.check()
    except LeaseLost as error:
        return Outcome(code=LOST, token=lease.token, held_s=held_s, lost=str(error))
    return Outcome(code=code, token=lease.token, held_s=held_s)


@contextlib.contextmanager
def _handled(
    loop: asyncio.AbstractEventLoop, receive: Callable[[signal.Signals], None]
) -> Iterator[None]:
    for number in _FORWARDED:
        loop.add_signal_handler(number, receive, number)
    try:
        yield
    finally:
        for number in _FORWARDED:
            loop.remove_signal_handler(number)


class _Command:
    """The process group that runs under the lock."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, argv: Sequence[str], lease: Lease, owner: str
    ) -> None:
        self._loop = loop
        self.ended: asyncio.Future[int] = loop.create_future()
        """Its exit code."""
        self._terminal = _our_terminal()
        loop.add_signal_handler(signal.SIGCHLD, self._look)
        loop.add_signal_handler(signal.SIGCONT, self._go_on)
        try:
            self._child = subprocess.Popen(  # noqa: S603  (asked)
                list(argv),
                env={
                    **os.environ,
                    NAME_VARIABLE: lease.name,
                    TOKEN_VARIABLE: str(lease.token),
                    OWNER_VARIABLE: owner,
                },
                process_group=0,
                preexec_fn=self._before_exec(),
            )
        except OSError as error:
            self._forget_signals()
            self._take_back()
            raise CannotRun.by(argv[0], error) from error

    def _before_exec(self) -> Callable[[], None]:
        die_with_us = die_with(os.getpid(), signal.SIGTERM)
        terminal = self._terminal

        def arrange() -> None:
            if die_with_us is not None:
                die_with_us()
            if terminal is not None:
                # Here and not in the parent: the command may read from it at once.
                _lend(terminal, os.getpgrp())

        return arrange

    def send(self, number: signal.Signals) -> None:
        """Signal the group, if there still is one."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)
                # What is stopped takes note of no other signal.
                os.killpg(self._child.pid, signal.SIGCONT)

    async def end(self, grace_s: float) -> None:
        """Ask it to end; make it, after so long."""
        deadline = time.monotonic() + grace_s
        self.send(signal.SIGTERM)
        await asyncio.wait((self.ended,), timeout=grace_s)
        # A shell may be gone before what it has started, which nobody tells us of.
        while self._stands() and time.monotonic() < deadline:  # noqa: ASYNC110  (no event tells)
            await asyncio.sleep(_PAUSE_S)
        if self._stands():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _stands(self) -> bool:
        try:
            os.killpg(self._child.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # There is somebody, who is not ours to signal.
            return True
        return True

    def _look(self) -> None:
        """SIGCHLD: it has ended, or the terminal has stopped it."""
        if self.ended.done():
            return
        pid, status = os.waitpid(self._child.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            if self._terminal is not None and os.WSTOPSIG(status) in _TERMINAL_STOPS:
                # The shell that started us is to see its job stop. The lease then runs out.
                self._take_back()
                os.killpg(os.getpgrp(), signal.SIGTSTP)
                self._go_on()
            return
        code = self._child.returncode = os.waitstatus_to_exitcode(status)
        self.ended.set_result(code if code >= 0 else 128 - code)

    def _go_on(self) -> None:
        """SIGCONT: we were stopped, or brought to the foreground."""
        if self._terminal is not None and os.tcgetpgrp(self._terminal) == os.getpgrp():
            _lend(self._terminal, self._child.pid)
        self.send(signal.SIGCONT)

    def _take_back(self) -> None:
        if self._terminal is not None:
            _lend(self._terminal, os.getpgrp())

    def _forget_signals(self) -> None:
        self._loop.remove_signal_handler(signal.SIGCHLD)
        self._loop.remove_signal_handler(signal.SIGCONT)

    def close(self) -> None:
        """Leave nothing of it behind that is under our command."""
        self._forget_signals()
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self._take_back()


def _our_terminal() -> int | None:
    """The terminal, if we are in its foreground with both ends; a pager behind us needs it too."""
    try:
        ours = (
            sys.__stdin__ is not None
            and os.isatty(0)
            and os.isatty(1)
            and os.tcgetpgrp(0) == os.getpgrp()
        )
    except OSError:
        return None
    return 0 if ours else None


def _lend(terminal: int, group: int) -> None:
    """Put a process group in a terminal's foreground, also from its background."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
    try:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, group)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
