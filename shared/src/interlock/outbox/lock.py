"""Which process forwards an outbox: whoever holds the lock beside its file.

A record lock, so that it goes with its process, however that ends, and a forked child does not
keep it. Closing any handle of the file would give it up, so no process opens it twice.
"""

import contextlib
import fcntl
import os
import threading
from pathlib import Path

__all__ = ["ForwarderLock", "holder"]

_held: set[Path] = set()
_guard = threading.Lock()


def _beside(path: Path) -> Path:
    # Resolved first: whoever comes by a link has to meet the others.
    whole = path.resolve()
    return whole.with_name(whole.name + "-forwarder")


class ForwarderLock:
    """The right to forward one outbox."""

    def __init__(self, path: Path) -> None:
        self._path = _beside(path)
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take it if it is free. Raises OSError when the file cannot be made."""
        with _guard:
            if self._path in _held:
                return False
            opened = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(opened)
                return False
            except BaseException:
                os.close(opened)
                raise
            os.ftruncate(opened, 0)
            os.pwrite(opened, str(os.getpid()).encode(), 0)
            self._file = opened
            _held.add(self._path)
            return True

    def release(self) -> None:
        """Let the next one have it."""
        with _guard:
            if self._file is not None:
                os.ftruncate(self._file, 0)
                os.close(self._file)
                self._file = None
                _held.discard(self._path)


def holder(path: Path) -> int | None:
    """The process that forwards this outbox, None where none does."""
    beside = _beside(path)
    with _guard:
        if beside in _held:
            return os.getpid()
        try:
            opened = os.open(beside, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            try:
                fcntl.lockf(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                with contextlib.suppress(ValueError):
                    return int(os.pread(opened, 32, 0))
            return None
        finally:
            os.close(opened)
