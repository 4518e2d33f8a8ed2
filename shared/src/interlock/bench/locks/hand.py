"""Starts a client process and hands it tasks."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from interlock.bench.locks.task import Outcome, Task
from interlock.bench.workers import BenchFailed

__all__ = ["Hand", "hand"]

_START_S: Final = 30.0
_TASK_S: Final = 120.0
_STOP_S: Final = 5.0
_LINE_BYTES: Final = 4 * 1024 * 1024
_LAST_LINES: Final = 6


class Hand:
    """One client process. Make one with `hand`."""

    def __init__(self, contender: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._contender = contender
        self._process = process
        self._log = log

    async def do(self, task: Task) -> Outcome:
        """Have one task done. Raises BenchFailed, also when it takes longer than two minutes."""
        assert self._process.stdin is not None  # noqa: S101  # it was started with pipes
        self._process.stdin.write(msgspec.json.encode(task) + b"\n")
        return await self.heard(_TASK_S, task.way)

    async def heard(self, timeout_s: float, what: str) -> Outcome:
        """Its next report. Raises BenchFailed when none comes in time, or one of a failure."""
        assert self._process.stdout is not None  # noqa: S101  # it was started with pipes
        what = f"{self._contender}, {what.replace('_', ' ')}"
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError as error:
            raise BenchFailed(f"{what}: no result within {timeout_s:g} s") from error
        if not line:
            last = self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
            raise BenchFailed(f"{what}: its process ended: " + "\n".join(last))
        outcome = msgspec.json.decode(line, type=Outcome)
        if outcome.error is not None:
            raise BenchFailed(f"{what}: {outcome.error}")
        return outcome

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


@contextlib.asynccontextmanager
async def hand(
    contender: str, where: str, environment: Mapping[str, str], folder: Path
) -> AsyncIterator[Hand]:
    """A connected client process, ended at the end of the block. Its log goes to `folder`.

    `where` is the ``host:port`` of a peer; Interlock's broker is named by the environment. Raises
    BenchFailed.
    """
    log = folder / f"client-{contender}.log"
    # A descriptor of its own: the child keeps it, and we need none.
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "interlock.bench.locks.worker",
            contender,
            where,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            env=dict(environment),
            limit=_LINE_BYTES,
            start_new_session=True,
        )
    finally:
        os.close(output)
    started = Hand(contender, process, log)
    try:
        await started.heard(_START_S, "connecting")
        yield started
    finally:
        await started.end()
