"""Commands that run where the monitor runs: what reprovisions a node, what calls a person.

Each is a line for the shell, from the fleet's file, bounded in time and in what is kept of its
output, and ended with everything that it started when its time is up or we end. What looks like a
secret of our own environment is not repeated.
"""

import asyncio
import contextlib
import os
import signal
from typing import Final

from interlock.process import die_with
from interlock_health_monitor.ladder import Ran

__all__ = ["last_line", "run_hook"]

_KEPT_BYTES: Final = 4_096
_SHOWN: Final = 200
_SECRET: Final = ("PASSWORD", "SECRET", "TOKEN", "KEY", "CREDS", "CREDENTIAL")
#: How long to wait for the last output of a command that has ended.
_DRAIN_S: Final = 0.2


async def run_hook(command: str, *, node: str, reason: str, timeout_s: float) -> Ran:
    """Run a command with ``INTERLOCK_NODE`` and ``INTERLOCK_REASON`` in its environment.

    When it is cancelled, the command is killed. Raises nothing: what cannot be started is said.
    """
    env = {**os.environ, "INTERLOCK_NODE": node, "INTERLOCK_REASON": reason[:500]}
    try:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
            start_new_session=True,
            preexec_fn=die_with(os.getpid(), signal.SIGKILL),
        )
    except (OSError, ValueError) as error:
        return Ran(begun=False, succeeded=False, detail=f"not run: {error}")
    kept = bytearray()
    reading = asyncio.get_running_loop().create_task(_read(process, kept))
    try:
        async with asyncio.timeout(timeout_s):
            status = await process.wait()
        # What it left running in the background may hold the pipe open for ever.
        await asyncio.wait((reading,), timeout=_DRAIN_S)
    except TimeoutError:
        _kill(process)
        return Ran(begun=True, succeeded=False, detail=f"ended after {timeout_s:g} s")
    except asyncio.CancelledError:
        _kill(process)
        raise
    finally:
        reading.cancel()
        await asyncio.wait((reading,))
        await _reap(process)
    detail = f"exit status {status}" if status >= 0 else f"ended by signal {-status}"
    said = last_line(bytes(kept))
    return Ran(
        begun=True, succeeded=status == 0, detail=f"{detail}: {said}" if status and said else detail
    )


async def _read(process: asyncio.subprocess.Process, kept: bytearray) -> None:
    assert process.stdout is not None  # noqa: S101  # for the type checker
    while data := await process.stdout.read(65_536):
        kept += data
        del kept[:-_KEPT_BYTES]


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Collect one that was killed, and close our end of its pipe."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5.0):
            await process.wait()
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


def last_line(output: bytes) -> str:
    """The last line that says something, without what could be a secret of ours."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    said = next((line for line in reversed(lines) if line), "")
    for name, value in os.environ.items():
        if len(value) >= 6 and any(word in name.upper() for word in _SECRET):
            said = said.replace(value, "…")
    return "".join(each if each.isprintable() else " " for each in said)[:_SHOWN]
