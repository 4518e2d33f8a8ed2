"""Where each key of a TOML document stands, so that an error can name its line.

The standard library's parser tells no positions, and has the last word on what is valid: this reads
documents that it has accepted, and no others.
"""

import bisect
import re
import tomllib
from typing import Final

__all__ = ["Path", "lines_of"]

#: Keys, and places in arrays, from the outside in.
Path = tuple[str | int, ...]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")
#: The long ones first: they may end in up to two quotes of their own.
_STRINGS: Final = (
    re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}', re.DOTALL),
    re.compile(r"'''(?:[^']|'(?!''))*'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


def lines_of(text: str) -> dict[Path, int]:
    """The line, from 1, of each key, table and element of an array in a valid document.

    A table that is spread over several places is where it is first named.
    """
    return _Scan(text).run()


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._breaks = [place.start() for place in re.finditer("\n", text)]
        self._found: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}
        """How many tables each array of tables has so far."""

    def run(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            line = self._line()
            if self._text.startswith("[[", self._at):
                self._at += 2
                *outer, last = self._keys()
                self._at += 2
                array = (*self._resolved(tuple(outer)), last)
                self._arrays[array] = number = self._arrays.get(array, 0) + 1
                table = (*array, number - 1)
                self._note(table, line)
            elif self._text[self._at] == "[":
                self._at += 1
                table = self._resolved(tuple(self._keys()))
                self._at += 1
                self._note(table, line)
            else:
                self._pair(table)
            self._skip(_BLANK)
        return self._found

    def _resolved(self, keys: tuple[str, ...]) -> Path:
        """The table that a header names: of an array of tables, the last one."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            if path in self._arrays:
                path = (*path, self._arrays[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        """``key = value``, or ``a.b = value``."""
        line = self._line()
        path = (*table, *self._keys())
        self._note(path, line)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _keys(self) -> list[str]:
        """A key with its dots, up to what stands behind it."""
        keys = []
        while True:
            self._skip(_SPACE)
            quoted = self._text[self._at] in "\"'"
            raw = self._string() if quoted else self._take(_BARE_KEY)
            keys.append(tomllib.loads(f"key = {raw}")["key"] if quoted else raw)
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _value(self, path: Path) -> None:
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._inside("]", path)
        elif first == "{":
            self._inside("}", path)
        else:
            self._take(_SCALAR)

    def _inside(self, end: str, path: Path) -> None:
        """An array or an inline table."""
        self._at += 1
        number = 0
        while True:
            self._skip(_BLANK)
            if self._text[self._at] == end:
                self._at += 1
                return
            if end == "}":
                self._pair(path)
            else:
                self._note((*path, number), self._line())
                self._value((*path, number))
                number += 1
            self._skip(_BLANK)
            if self._text[self._at] == ",":
                self._at += 1

    def _string(self) -> str:
        for pattern in _STRINGS:
            match = pattern.match(self._text, self._at)
            if match:
                self._at = match.end()
                return match[0]
        raise ValueError(f"line {self._line()}: a string without an end")

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None or not match[0]:
            raise ValueError(f"line {self._line()}: something else was expected")
        self._at = match.end()
        return match[0]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _note(self, path: Path, line: int) -> None:
        for end in range(1, len(path) + 1):
            self._found.setdefault(path[:end], line)

    def _line(self) -> int:
        return bisect.bisect_left(self._breaks, self._at) + 1
