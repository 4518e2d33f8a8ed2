"""One operating system process: started so that it ends with us, signalled, waited for.

What is run and what happens when it ends is left to `interlock.supervisor`.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from interlock.errors import InterlockError
from interlock.state import make_private_folder

__all__ = ["NotReadyError", "became_ready", "die_with", "log_path", "signal_group", "spawn"]

_LOG_LIMIT_BYTES = 10 * 1024 * 1024
_PR_SET_PDEATHSIG = 1


class NotReadyError(InterlockError):
    """Raised by a child's ``ready``: it runs and will not become ready. It is started again."""


def log_path(state: Path, name: str) -> Path:
    """Where a child's output is kept."""
    return state / "logs" / f"{name}.log"


def die_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """What a child runs between fork and exec, so that it does not outlive a killed parent.

    SIGKILL leaves the parent no time to stop its children, and a broker or service that nobody
    supervises would hold its port and answer for a fleet that was meant to be down. Linux sends
    the child that signal when the *thread* that forked it ends: start children from a thread that
    stays (the main one). Other systems have no such signal; there, `state.stop_leftovers` finds
    what was left at the next start.
    """
    if sys.platform != "linux":
        return None
    # Loaded here, before the fork: after it, another thread's lock may be held for ever, so the
    # function below does as little as it can.
    prctl = ctypes.CDLL(None).prctl

    def arrange() -> None:
        # Until exec the child still has our handler for it, which would only take a note.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, number)
        # The parent may have died before the line above: then the signal will never come.
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def _open_log(path: Path) -> int:
    """Open for appending; a log past its limit is moved aside first, and the one before is lost."""
    make_private_folder(path.parent)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_LIMIT_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


async def spawn(
    command: list[str],
    *,
    env: Mapping[str, str],
    log: Path,
    orphan_signal: signal.Signals = signal.SIGTERM,
) -> asyncio.subprocess.Process:
    """Start a process in a session of its own, its output appended to ``log``.

    In its own session it does not get the terminal's Ctrl-C: in which order things stop is our
    decision. On Linux it ends with us (see `die_with`), by ``orphan_signal``: SIGKILL for what may
    be stopped (SIGSTOP) at that moment, and would never come to read another. ``env`` is added to
    our environment.

    Raises OSError when it cannot be started.
    """
    output = _open_log(log)
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,
            preexec_fn=die_with(os.getpid(), orphan_signal),
        )
    finally:
        os.close(output)


def signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal a process from `spawn` and whatever it started itself. One that is gone is no error.

    A session leader's pid names its group for as long as the group has members, so the kernel
    gives it to no other process meanwhile.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


async def became_ready(
    process: asyncio.subprocess.Process, ready: Callable[[], Coroutine[Any, Any, None]]
) -> bool:
    """Whether ``ready`` returned before the process ended. Raises what ``ready`` raises."""
    checking = asyncio.ensure_future(ready())
    ended = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait((checking, ended), return_when=asyncio.FIRST_COMPLETED)
        if not checking.done():
            return False
        checking.result()
        return True
    finally:
        checking.cancel()
        ended.cancel()
        await asyncio.wait((checking, ended))
