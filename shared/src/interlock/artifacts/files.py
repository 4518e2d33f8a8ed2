"""What the store needs of the file system: folders by descriptor, flushing, locks of processes.

Everything below a folder is opened part by part without following links, so that nothing that
stands in it can lead elsewhere.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["Folders", "flush_all", "hold", "open_file", "remove", "spread", "sync_folder", "walk"]

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_OPEN: Final = 64

# <linux/fs.h>: the two requests, and what `chattr +T` sets.
_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_TOP_OF_TREES: Final = 0x00020000


class Folders:
    """The folders below one, by descriptor; made on the way where `make` says so."""

    def __init__(self, top: Path, *, make: bool) -> None:
        self.top = top
        """The folder that all are below."""
        self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._make = make
        self._open: dict[str, int] = {}

    def of(self, path: str) -> tuple[int, str]:
        """The folder of a file, and the file's own name in it. Raises OSError."""
        folder, _, name = path.rpartition("/")
        return (self._folder(folder) if folder else self._top), name

    def _folder(self, path: str) -> int:
        known = self._open.get(path)
        if known is not None:
            return known
        parent, _, name = path.rpartition("/")
        above = self._folder(parent) if parent else self._top
        if self._make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o777, dir_fd=above)
        opened = os.open(name, _FOLDER, dir_fd=above)
        if len(self._open) >= _MOST_OPEN:
            self._close_all()
        self._open[path] = opened
        return opened

    def _close_all(self) -> None:
        for opened in self._open.values():
            os.close(opened)
        self._open.clear()

    def close(self) -> None:
        """Close all of them."""
        self._close_all()
        if self._top >= 0:
            os.close(self._top)
            self._top = -1


def open_file(top: Path, path: str) -> int:
    """Open a regular file below a folder for reading, following no link. Raises OSError."""
    folders = Folders(top, make=False)
    try:
        folder, name = folders.of(path)
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    finally:
        folders.close()
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise FileNotFoundError(2, "is no regular file", path)
    return opened


def walk(top: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder that is no folder: its relative path, and what it is itself."""
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(top / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                else:
                    yield path, entry.stat(follow_symlinks=False)


def flush_all(folder: Path) -> None:
    """Have all that was written on the file system of a folder on its disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        syncfs = getattr(library, "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(opened) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(opened)


def spread(folder: Path) -> None:
    """Have the folders in this one be put apart on the disk, where the file system knows of that.

    ext4 gives no inode anew for some minutes after its file was deleted, and looks at each such one
    for every file that is made near it: without this, ten thousand files take ten times as long
    where as many were deleted shortly before.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Other file systems refuse it, and do not need it.
        with contextlib.suppress(OSError):
            flags = bytearray(struct.calcsize("L"))
            fcntl.ioctl(opened, _GET_FLAGS, flags)
            (found,) = struct.unpack("L", flags)
            if not found & _TOP_OF_TREES:
                fcntl.ioctl(opened, _SET_FLAGS, struct.pack("L", found | _TOP_OF_TREES))
    finally:
        os.close(opened)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def hold(path: Path) -> int | None:
    """Lock a file for as long as this process has it open; None: another process does.

    A frozen process keeps its lock, a dead one does not. Close the descriptor to give it back.
    """
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        return None
    except BaseException:
        os.close(opened)
        raise
    return opened


def remove(folder: Path) -> None:
    """Delete a folder and all below it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
