"""How far something is that moves or reads bytes: a bar on a terminal, else a line now and then."""

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

from interlock import amounts

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Meter"]

_FIRST_S: Final = 1.0
_EVERY_S: Final = 5.0


class Meter:
    """Progress on standard error while the block lasts. It may be told from any thread."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._begun = time.monotonic()
        self._next_at = self._begun + _FIRST_S
        self._done = 0
        self._guard = threading.Lock()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Begin. Nothing is shown of what is over within a second."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Take the bar away: what came of it is printed by the command."""
        with self._guard:
            self._next_at = float("inf")
            if self._bar is not None:
                self._bar.stop()

    def add(self, count: int) -> None:
        """So many bytes more."""
        self.show(self._done + count)

    def show(self, done: int, total: int | None = None, note: str = "") -> None:
        """So many bytes are done, of so many as far as known."""
        with self._guard:
            self._done = done
            now = time.monotonic()
            if now < self._next_at:
                return
            if sys.stderr.isatty():
                self._draw(done, total, note)
                return
            self._next_at = now + _EVERY_S
            rate = amounts.rate(done / (now - self._begun))
            of = f" of {amounts.size(total)}" if total is not None else ""
            told = f"{self._what}: {amounts.size(done)}{of}, {rate}{f', {note}' if note else ''}"
            sys.stderr.write(f"{told}\n")
            sys.stderr.flush()

    def _draw(self, done: int, total: int | None, note: str) -> None:
        if self._bar is None or self._task is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=total, note=note)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, note=note)
