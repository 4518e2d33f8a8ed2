"""Files that lines are appended to, so that a kill takes at most the line it hit."""

import os
import time
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from interlock.chaos.lines import Line

__all__ = ["EVENT_LINES", "Ledger", "Lines", "now", "read", "read_from"]

LineT = TypeVar("LineT")

_encoder = msgspec.json.Encoder()


class Lines(Generic[LineT]):
    """One kind of lines, and how they are read."""

    def __init__(self, kind: Any) -> None:
        """``kind``: the union of their types."""
        self._decoder = msgspec.json.Decoder(kind)

    def decode(self, line: bytes) -> LineT | None:
        """One line, or None for one that is torn."""
        try:
            found: LineT = self._decoder.decode(line)
        except msgspec.DecodeError:
            return None
        return found


#: What publishers and consumers of events write.
EVENT_LINES = Lines[Line](Line)


class Ledger:
    """Appends lines to a file. Each is with the operating system when `write` returns."""

    def __init__(self, path: Path) -> None:
        """Opens the file, and closes a line that a kill left open."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def write(self, line: msgspec.Struct) -> None:
        """Append one line."""
        os.write(self._file, _encoder.encode(line) + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def now() -> float:
    """The time that ledgers carry: seconds on a clock that all processes of a machine share."""
    return time.monotonic()


def read(path: Path, lines: Lines[Any] = EVENT_LINES) -> list[Any]:
    """All whole lines of a ledger; none where there is no file yet."""
    return read_from(path, 0, lines)[0]


def read_from(path: Path, offset: int, lines: Lines[Any] = EVENT_LINES) -> tuple[list[Any], int]:
    """The whole lines from a byte offset on, and the offset behind them.

    A torn line, which a kill left and the next life closed, is passed over: what it was to say was
    not attempted yet, or counts as unknown.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole, newline, _ = data.rpartition(b"\n")
    decoded = (lines.decode(each) for each in whole.split(b"\n"))
    return [each for each in decoded if each is not None], offset + len(whole) + len(newline)
