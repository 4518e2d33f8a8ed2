"""Files that lines are appended to, so that a kill takes at most the line it hit."""

import os
import time
from pathlib import Path

import msgspec

from interlock.chaos.lines import Line

__all__ = ["Ledger", "now", "read", "read_from"]

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


class Ledger:
    """Appends lines to a file. Each is with the operating system when `write` returns."""

    def __init__(self, path: Path) -> None:
        """Opens the file, and closes a line that a kill left open."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def write(self, line: Line) -> None:
        """Append one line."""
        os.write(self._file, _encoder.encode(line) + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def now() -> float:
    """The time that ledgers carry: seconds on a clock that all processes of a machine share."""
    return time.monotonic()


def read(path: Path) -> list[Line]:
    """All whole lines of a ledger; none where there is no file yet."""
    return read_from(path, 0)[0]


def read_from(path: Path, offset: int) -> tuple[list[Line], int]:
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
    lines: list[Line] = []
    for each in whole.split(b"\n"):
        try:
            lines.append(_decoder.decode(each))
        except msgspec.DecodeError:
            continue
    return lines, offset + len(whole) + len(newline)
