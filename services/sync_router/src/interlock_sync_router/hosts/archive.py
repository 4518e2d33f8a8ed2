"""Many files as one stream, as tar unpacks it, made while it is sent. In a thread.

The headers are those of GNU tar, which carry names as the bytes that they are, of any length; a
``tar`` that knows nothing of extended headers would put other names on the disk. Pure but for the
files that it reads.
"""

import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from interlock.artifacts.errors import TransferFailed

__all__ = ["Member", "archive", "content"]

_BLOCK_BYTES: Final = 512
_PART_BYTES: Final = 256 * 1024
#: Two empty blocks end an archive.
_END: Final = bytes(2 * _BLOCK_BYTES)


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the stream."""

    name: str
    """Where it goes."""
    path: Path
    """Where it is."""
    size: int
    executable: bool = False


def archive(members: Iterable[Member], mtime: int) -> Iterator[bytes]:
    """The stream, in parts of at least some size, the last one but. Raises TransferFailed."""
    held: list[bytes] = []
    count = 0
    for part in _blocks(members, mtime):
        held.append(part)
        count += len(part)
        if count >= _PART_BYTES:
            yield b"".join(held)
            held, count = [], 0
    yield b"".join(held)


def content(path: Path, offset: int, size: int) -> Iterator[bytes]:
    """The bytes of a file from `offset` to `size`. Raises TransferFailed."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(opened, "rb", buffering=0) as file:
            file.seek(offset)
            left = size - offset
            while left:
                data = file.read(min(_PART_BYTES, left))
                if not data:
                    raise TransferFailed("damaged", f"{path} is shorter than it should be")
                left -= len(data)
                yield data
    except OSError as error:
        raise TransferFailed("io", f"{path} cannot be read: {error.strerror}") from error


def _blocks(members: Iterable[Member], mtime: int) -> Iterator[bytes]:
    for member in members:
        info = tarfile.TarInfo(f"./{member.name}")
        info.size = member.size
        info.mode = 0o755 if member.executable else 0o644
        info.mtime = mtime
        yield info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        if member.size:
            yield from content(member.path, 0, member.size)
            yield bytes(-member.size % _BLOCK_BYTES)
    yield _END
