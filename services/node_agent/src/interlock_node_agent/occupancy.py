"""Sees to it that one store is the store of one node.

Two agents with one folder would each write a receipt for the same bytes, and one disk would count
as two copies. The agents of one node may be several at a time, as one that was frozen and its
successor: which of them writes is the lock's business.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from interlock.errors import InterlockError

__all__ = ["StoreOccupied", "occupied"]

_FILE: Final = "node"


class StoreOccupied(InterlockError):
    """The agent of another node uses the store."""


@contextlib.contextmanager
def occupied(root: Path, node: str) -> Iterator[None]:
    """Have the store be the node's while the block lasts. Raises StoreOccupied, OSError."""
    opened = os.open(root / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Nobody else is here: whoever was before may have had another name.
            os.ftruncate(opened, 0)
            os.pwrite(opened, node.encode(), 0)
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refusal(root, "another") from None
        name = os.pread(opened, 1_000, 0).decode(errors="replace")
        if name != node:
            raise _refusal(root, name)
        yield
    finally:
        os.close(opened)


def _refusal(root: Path, name: str) -> StoreOccupied:
    return StoreOccupied(
        f"{root} is the store of node {name}, whose agent runs: give this node a folder of its own "
        "with INTERLOCK_DATA"
    )
