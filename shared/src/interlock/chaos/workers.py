"""The client processes of a chaos run: started, killed, frozen, and started again when they end."""

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from interlock.chaos import ledger
from interlock.chaos.ledger import Lines
from interlock.chaos.lines import Started
from interlock.process import log_path, signal_group, spawn

__all__ = ["AnyWorker", "Worker"]

_AGAIN_S: Final = 0.2
_LOOK_S: Final = 0.05

LineT = TypeVar("LineT")


class Worker(Generic[LineT]):
    """One process, through all its lives, with its ledger where it keeps one."""

    def __init__(
        self,
        folder: Path,
        name: str,
        env: Mapping[str, str],
        module: str,
        *arguments: str,
        lines: Lines[LineT],
        success: Callable[[LineT], float],
        clock: Path | None = None,
    ) -> None:
        """``arguments``: for the module, beyond its name and where its ledger is.

        ``success``: when a line says that something was done, 0 where it does not. ``clock``: the
        file that its wall clock is set by.
        """
        self.name = name
        self.ledger = folder / f"{name}.ledger"
        self.log = log_path(folder, name)
        self.crashes = 0
        """How often it ended by itself with an error."""
        self.hung = False
        """Whether it did not end when it was asked to."""
        self.pids: list[int] = []
        """Of each life."""
        self.last_success_at = 0.0
        """When it last published or handled something, as far as `look` has read."""
        self._env = env
        self._command = [
            *(sys.executable, "-m", module),
            *("--name", name, "--ledger", str(self.ledger), *arguments),
        ]
        self._lines = lines
        self._success = success
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._away = asyncio.Event()
        self._back = asyncio.Event()
        self._back.set()
        self._read = 0
        self._begun = False

    async def run(self) -> None:
        """Keep it running until it ends well: it was asked to, or it is cancelled."""
        try:
            while True:
                await self._back.wait()
                process = self._process = await spawn(
                    self._command, env=self._env, log=self.log, orphan_signal=signal.SIGKILL
                )
                self.pids.append(process.pid)
                code = await process.wait()
                # All that this life wrote has been written: what comes is the next one's.
                self.look()
                self._begun = False
                self._away.set()
                if code == 0:
                    return
                if self._back.is_set():
                    self.crashes += 1
                    await asyncio.sleep(_AGAIN_S)
        finally:
            if self._process is not None and self._process.returncode is None:
                signal_group(self._process, signal.SIGKILL)
                await self._process.wait()

    async def kill(self) -> bool:
        """SIGKILL it, and keep it away until `restart`. False where it was not running."""
        process = self._process
        if process is None or process.returncode is not None:
            return False
        self._back.clear()
        self._away.clear()
        signal_group(process, signal.SIGKILL)
        await self._away.wait()
        return True

    def restart(self) -> None:
        """Let it begin its next life."""
        self._back.set()

    def freeze(self) -> bool:
        """SIGSTOP it. False where it was not running."""
        return self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT it."""
        self._signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Ask it to finish and end (SIGTERM), once its present life has begun its work.

        Before, the signal would end it like any process that has no handler for it yet.
        """
        while not self._begun:
            await asyncio.sleep(_LOOK_S)
            self.look()
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> bool:
        if self._process is None or self._process.returncode is not None:
            return False
        signal_group(self._process, number)
        return True

    def jump(self, offset_s: float) -> bool:
        """Set its wall clock so far from the true time. False where it has none that can be set."""
        if self._clock is None:
            return False
        # Its threads read it at any moment.
        written = self._clock.with_suffix(".new")
        written.write_text(f"{offset_s:+.0f}\n")
        written.replace(self._clock)
        return True

    def look(self) -> None:
        """Read what it has written since the last look."""
        lines, self._read = ledger.read_from(self.ledger, self._read, self._lines)
        for line in lines:
            if isinstance(line, Started):
                self._begun = True
            else:
                self.last_success_at = self._success(line) or self.last_success_at

    def lines(self) -> list[LineT]:
        """All that it has written."""
        return ledger.read(self.ledger, self._lines)


AnyWorker = Worker[Any]
