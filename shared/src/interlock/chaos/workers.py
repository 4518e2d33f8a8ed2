"""The client processes of a chaos run: started, killed, frozen, and started again when they end."""

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from interlock.chaos import ledger
from interlock.chaos.lines import Effect, Entered, Line, Outcome, Started
from interlock.process import log_path, signal_group, spawn

__all__ = ["Worker"]

_AGAIN_S: Final = 0.2
_LOOK_S: Final = 0.05


class Worker:
    """One publisher or consumer, through all its lives, with its ledger."""

    def __init__(
        self,
        folder: Path,
        kind: Literal["publisher", "consumer"],
        name: str,
        env: Mapping[str, str],
        *arguments: str,
    ) -> None:
        """``arguments``: for the process, beyond its name and where its ledger is."""
        self.kind = kind
        self.name = name
        self.ledger = folder / f"{name}.ledger"
        self.log = log_path(folder, name)
        self.crashes = 0
        """How often it ended by itself with an error."""
        self.hung = False
        """Whether it did not end when it was asked to."""
        self.last_success_at = 0.0
        """When it last published or handled something, as far as `look` has read."""
        self._env = env
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self._away = asyncio.Event()
        self._back = asyncio.Event()
        self._back.set()
        self._read = 0
        self._begun = False

    async def run(self) -> None:
        """Keep it running until it ends well: it was asked to, or it is cancelled."""
        command = [
            *(sys.executable, "-m", f"interlock.chaos.{self.kind}"),
            *("--name", self.name, "--ledger", str(self.ledger), *self._arguments),
        ]
        try:
            while True:
                await self._back.wait()
                process = self._process = await spawn(
                    command, env=self._env, log=self.log, orphan_signal=signal.SIGKILL
                )
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

    def look(self) -> None:
        """Read what it has written since the last look."""
        lines, self._read = ledger.read_from(self.ledger, self._read)
        for line in lines:
            if isinstance(line, Started):
                self._begun = True
            elif _is_success(line):
                self.last_success_at = line.at

    def lines(self) -> list[Line]:
        """All that it has written."""
        return ledger.read(self.ledger)


def _is_success(line: Line) -> bool:
    if isinstance(line, Outcome):
        return line.result == "acknowledged"
    return isinstance(line, (Effect, Entered))
