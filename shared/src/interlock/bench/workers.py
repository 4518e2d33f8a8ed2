"""Starts the benchmark's worker processes and hands them tasks."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from interlock.bench.task import Outcome, Task, Timing
from interlock.errors import InterlockError
from interlock.settings import ConnectionSettings

__all__ = ["BenchFailed", "Worker", "environment", "worker"]

_START_S: Final = 30.0
_TASK_S: Final = 300.0
_STOP_S: Final = 5.0
_LAST_LINES: Final = 6


class BenchFailed(InterlockError):
    """A measurement could not be made. The message says which and why."""


class Worker:
    """One client in a process of its own. Make one with `worker`."""

    def __init__(self, client: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.client = client
        self.idle_mib = 0.0
        """Peak memory before its first task, MiB."""
        self.peak_mib = 0.0
        """Peak memory so far, MiB."""
        self._process = process
        self._log = log

    async def end(self) -> None:
        """End the process; once it has ended, nothing."""
        assert self._process.stdin is not None  # noqa: S101  # it was started with pipes
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def do(self, task: Task) -> Timing:
        """Have one task done. Raises BenchFailed, also when it takes longer than five minutes."""
        assert self._process.stdin is not None  # noqa: S101  # it was started with pipes
        self._process.stdin.write(msgspec.json.encode(task) + b"\n")
        outcome = await self.heard(_TASK_S, task.way)
        if outcome.timing is None:
            raise BenchFailed(f"{self.client} {task.way}: {outcome.error}")
        return outcome.timing

    async def heard(self, timeout_s: float, what: str) -> Outcome:
        """Its next report. Raises BenchFailed when none comes in time."""
        assert self._process.stdout is not None  # noqa: S101  # it was started with pipes
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError as error:
            raise BenchFailed(f"{self.client} {what}: no result within {timeout_s:g} s") from error
        if not line:
            last = self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
            raise BenchFailed(f"{self.client} {what}: its process ended: " + "\n".join(last))
        outcome = msgspec.json.decode(line, type=Outcome)
        self.idle_mib, self.peak_mib = outcome.idle_mib, outcome.peak_mib
        return outcome


@contextlib.asynccontextmanager
async def worker(client: str, settings: ConnectionSettings, folder: Path) -> AsyncIterator[Worker]:
    """A connected worker process, ended at the end of the block.

    `client` is ``nats_py``, ``faststream`` or ``interlock``. Its log goes to `folder`.
    """
    log = folder / f"worker-{client}.log"
    # A descriptor of its own: the child keeps it, and we need none.
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "interlock.bench.worker",
            client,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            env=environment(settings),
            start_new_session=True,
        )
    finally:
        os.close(output)
    hand = Worker(client, process, log)
    try:
        outcome = await hand.heard(_START_S, "connecting")
        if outcome.error is not None:
            raise BenchFailed(f"{client} cannot connect: {outcome.error}")
        yield hand
    finally:
        await hand.end()


def environment(settings: ConnectionSettings) -> dict[str, str]:
    """Ours, without what would lead to another broker or an exporter, with this broker."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("INTERLOCK_", "OTEL_"))
    }
    password = settings.nats_password.get_secret_value() if settings.nats_password else ""
    return kept | {
        "INTERLOCK_NATS_URL": settings.nats_url or "",
        "INTERLOCK_NATS_USER": settings.nats_user or "",
        "INTERLOCK_NATS_PASSWORD": password,
    }
