"""Reads what a host sends of many small files: packed by GNU tar, or one after the other. Pure.

The first line says which of the two. A tar is used because it reads and writes many files with
fewer calls than anything else that is on every host; of what it says about a file only the size is
looked at, as the names are known and the bytes are checked by their digests.
"""

from collections.abc import Iterable
from typing import Final

from interlock.artifacts.errors import TransferFailed

__all__ = ["PLAIN", "TAR", "Unpacker"]

#: The first line.
TAR: Final = b"tar\n"
PLAIN: Final = b"cat\n"

_BLOCK: Final = 512
_KIND: Final = 156
_SIZE: Final = slice(124, 136)
_MAGIC: Final = slice(257, 262)
_FILE: Final = frozenset((b"0"[0], 0))
#: A name that is too long for the header.
_LONG_NAME: Final = b"L"[0]


class Unpacker:
    """Gets the content out of what comes."""

    def __init__(self, sizes: Iterable[int]) -> None:
        """`sizes`: of the files that are to come, in their order, bytes."""
        self._sizes = iter(sizes)
        self._ended = False
        self._head = bytearray()
        #: Length of what is read as one: the first line, then each header; 0: nothing but content.
        self._wanted = len(TAR)
        self._begun = False
        self._content = 0
        self._skip = 0

    def feed(self, data: memoryview) -> memoryview:
        """The content in the next bytes; it is only there until `data` changes.

        Raises TransferFailed, ``damaged``: it is not what is to come.
        """
        if self._wanted == 0:
            return data
        parts: list[memoryview] = []
        while len(data) and not self._ended:
            if self._content:
                parts.append(data[: self._content])
                self._content -= len(parts[-1])
                data = data[len(parts[-1]) :]
            elif self._skip:
                skipped = min(self._skip, len(data))
                self._skip -= skipped
                data = data[skipped:]
            else:
                data = self._read_head(data)
                if self._wanted == 0:
                    return data
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    def _read_head(self, data: memoryview) -> memoryview:
        if not self._head and len(data) >= self._wanted:
            head = bytes(data[: self._wanted])
            data = data[self._wanted :]
        else:
            part = data[: self._wanted - len(self._head)]
            self._head += part
            data = data[len(part) :]
            if len(self._head) < self._wanted:
                return data
            head = bytes(self._head)
            self._head.clear()
        if self._begun:
            self._begin_member(head)
            return data
        self._begun = True
        self._wanted = 0 if head == PLAIN else _BLOCK
        if head not in (TAR, PLAIN):
            raise _damaged(f"it begins with {head!r}")
        return data

    def _begin_member(self, head: bytes) -> None:
        if not head[0]:
            self._ended = True
            return
        try:
            size = int(head[_SIZE].rstrip(b" \0") or b"0", 8)
        except ValueError:
            raise _damaged("a size is no number") from None
        if head[_MAGIC] != b"ustar":
            raise _damaged("what should be the header of a file is none")
        padding = -size % _BLOCK
        if head[_KIND] == _LONG_NAME:
            self._skip = size + padding
        elif head[_KIND] in _FILE:
            if size != next(self._sizes, -1):
                raise _damaged(f"there is a file of {size:,} bytes, where another should be")
            self._content, self._skip = size, padding
        else:
            raise _damaged(f"there is something of kind {chr(head[_KIND])!r}")


def _damaged(what: str) -> TransferFailed:
    return TransferFailed("damaged", f"the files did not come as they were asked for: {what}")
