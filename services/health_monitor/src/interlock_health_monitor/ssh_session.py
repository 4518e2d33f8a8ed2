"""One command on one connection: its output, bounded, and how it ended."""

import asyncio
from typing import Any, Final

import asyncssh
import msgspec

__all__ = ["Ran", "Session"]

#: A command that prints so many times more than is kept is ended: it would keep us busy.
_FLOOD: Final = 16


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """A command that was run, and what came of it."""

    exit_status: int | None
    """None: it was ended by a signal, by us, or its connection."""
    signal: str | None = None
    """The signal that ended it, as the server names it."""
    stdout: bytes = b""
    stderr: bytes = b""
    took_s: float = 0.0
    """Seconds, from the moment that the connection stood."""
    truncated: bool = False
    """It printed more than was to be kept."""
    timed_out: bool = False
    """It did not end in time, and was ended. What it had printed is here."""


class Session(asyncssh.SSHClientSession[bytes]):
    """Collects what one command prints, up to a limit for both of its outputs together."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept = 0
        self._came = 0
        self._out = bytearray()
        self._err = bytearray()
        self.exit_status: int | None = None
        self.signal: str | None = None
        self.flooded = False
        self.error: Exception | None = None
        self.exited = asyncio.Event()
        """It said how it ended, or never will."""
        self.ended = asyncio.Event()
        """There is no more to come."""

    @property
    def told(self) -> bool:
        """Whether it said how it ended."""
        return self.exit_status is not None or self.signal is not None

    def ran(self, took_s: float, *, timed_out: bool = False) -> Ran:
        """What came of it so far."""
        return Ran(
            exit_status=self.exit_status,
            signal=self.signal,
            stdout=bytes(self._out),
            stderr=bytes(self._err),
            took_s=took_s,
            truncated=self._came > self._kept,
            timed_out=timed_out,
        )

    def data_received(self, data: bytes, datatype: Any) -> None:
        """Keep what there is room for."""
        self._came += len(data)
        room = self._most - self._kept
        if room > 0:
            kept = data[:room]
            self._kept += len(kept)
            into = self._err if datatype == asyncssh.EXTENDED_DATA_STDERR else self._out
            into += kept
        if self._came > self._most * _FLOOD and not self.flooded:
            self.flooded = True
            self._end()

    def exit_status_received(self, status: int) -> None:
        """It ended by itself."""
        self.exit_status = status
        self.exited.set()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """It was ended by a signal."""
        del core_dumped, msg, lang
        self.signal = signal
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Its channel is closed, in good order or not."""
        self.error = exc
        self._end()

    def _end(self) -> None:
        self.exited.set()
        self.ended.set()
