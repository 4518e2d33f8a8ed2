"""Takes an artifact in: cuts the stream of its content into files, and checks every byte.

What is verified outlasts the process: a journal beside the files says how far each is. It holds
until the system is restarted, as only till then all that was written is sure to be there; after
that, what lies there is hashed anew. A folder belongs to the process that has it locked: what a
frozen one still writes goes to where nobody looks any more.
"""

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from interlock.artifacts import files, layout, manifest
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports.base import Piece
from interlock_schemas.artifacts import CHUNK_BYTES, FileEntry, Manifest
from interlock_schemas.orders import FailureCode

__all__ = ["ARTIFACT", "JOURNAL", "LOCK", "Receiving", "failed", "is_complete"]

#: In the folder of an artifact that is taken in: what becomes the artifact, how far it is, and
#: whose it is.
ARTIFACT: Final = "artifact"
JOURNAL: Final = "journal"
LOCK: Final = "lock"

#: The journal is written after so many bytes.
_NOTED_BYTES: Final = CHUNK_BYTES
_READ_BYTES: Final = 1024 * 1024
#: So many small files at once are written by two threads.
_SHARED_FILES: Final = 16

#: A file, and all of its bytes.
_Small: TypeAlias = tuple[FileEntry, memoryview]
#: How many files were written, and what stopped it.
_Done: TypeAlias = tuple[int, OSError | TransferFailed | None]

_CODES: Final[dict[int, FailureCode]] = {
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EFBIG: "no_space",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "denied",
    errno.ENAMETOOLONG: "refused_name",
    errno.EILSEQ: "refused_name",
}


def failed(error: OSError, doing: str) -> TransferFailed:
    """What it means for a transfer that the disk refused."""
    code = _CODES.get(error.errno or 0, "io")
    return TransferFailed(code, f"{doing}: {error.strerror or error}")


class _Helper:
    """A thread that writes whole files, at the same time as whoever has it do so."""

    def __init__(self, top: Path) -> None:
        self._folders = files.Folders(top, make=True)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="write")

    def begin(self, jobs: Sequence[_Small]) -> Future[_Done]:
        return self._executor.submit(_write_small, self._folders, jobs)

    def close(self) -> None:
        self._executor.shutdown()
        self._folders.close()


class Receiving:
    """An artifact that is being taken in. For one thread at a time."""

    def __init__(self, folder: Path, id: str, found: Manifest, lock: int) -> None:
        """`folder` is locked by `lock`, and has `ARTIFACT` in it. Raises OSError."""
        self.id = id
        self.manifest = found
        self.received = 0
        """Bytes that came in this run."""
        self._folder = folder
        self._lock = lock
        self._turn = threading.Lock()
        self._closed = False
        self._failed = False
        self._hash = hashlib.sha256()
        self._file = -1
        self._at = 0
        self._unit_end = 0
        self._next = 0
        self._since_noted = 0
        self._notes: list[str] = []
        self._helper: _Helper | None = None
        top = folder / ARTIFACT / layout.FILES
        try:
            top.mkdir()
            is_new = True
        except FileExistsError:
            is_new = False
        self._folders = files.Folders(top, make=True)
        try:
            self.have = {} if is_new else _found(folder, found)
            self._index = {entry.path: n for n, entry in enumerate(found.files)}
            self._entries = {entry.path: entry for entry in found.files}
            self._journal = _open_journal(folder, self.have, self._index)
        except BaseException:
            self._folders.close()
            raise
        self.missing: list[Piece] = manifest.pieces(id, found, self.have)
        self._make_empty_files()
        if self.complete:
            self._note_all()

    @property
    def closed(self) -> bool:
        """Whether it takes nothing any more."""
        return self._closed

    @property
    def complete(self) -> bool:
        """Whether all of it is here and verified."""
        return self._next == len(self.missing)

    def owns(self, folder: Path) -> bool:
        """Whether this is what takes an artifact in there, at this moment."""
        try:
            there = (folder / LOCK).stat()
            with self._turn:
                return not self._closed and os.path.samestat(there, os.fstat(self._lock))
        except OSError:
            return False

    def write(self, data: memoryview) -> None:
        """The next bytes of `missing`. Raises TransferFailed; what is verified by then is kept."""
        with self._turn:
            if self._closed or self._failed:
                raise TransferFailed("io", "it is not taken in any more")
            try:
                self._write(data)
            except OSError as error:
                self._fail()
                raise failed(error, f"artifact {self.id[:12]} cannot be written") from error
            except TransferFailed:
                self._fail()
                raise

    def close(self) -> None:
        """Keep what is verified for the next time."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(OSError):
                self._note_all()
            self._close_file()
            if self._helper is not None:
                self._helper.close()
            self._folders.close()
            os.close(self._journal)
            os.close(self._lock)

    def _make_empty_files(self) -> None:
        for number, entry in enumerate(self.manifest.files):
            if entry.size == 0 and entry.path not in self.have:
                if entry.sha256 != hashlib.sha256().hexdigest():
                    raise TransferFailed("damaged", f"{entry.path!r} is empty, its digest is not")
                os.close(_create(self._folders, entry))
                self.have[entry.path] = 0
                self._notes.append(f"{number} 0\n")

    def _reopen(self, entry: FileEntry, offset: int) -> int:
        folder, name = self._folders.of(entry.path)
        # Its mode is that of a finished file already.
        os.chmod(name, 0o600, dir_fd=folder)
        opened = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.ftruncate(opened, offset)
            os.lseek(opened, offset, os.SEEK_SET)
            os.fchmod(opened, 0o555 if entry.executable else 0o444)
        except BaseException:
            os.close(opened)
            raise
        return opened

    def _write(self, data: memoryview) -> None:
        while len(data):
            if self._next == len(self.missing):
                raise TransferFailed("source_damaged", "more bytes came than the artifact has")
            piece = self.missing[self._next]
            entry = self._entries[piece.path]
            if self._file < 0:
                small = self._at_hand(data)
                if small:
                    data = data[self._take_in(small) :]
                    continue
                self._begin(piece, entry)
            part = data[: self._unit_end - self._at]
            self._hash.update(part)
            _write_all(self._file, part)
            self._at += len(part)
            self._count(len(part))
            data = data[len(part) :]
            if self._at == self._unit_end:
                self._end_unit(piece, entry)

    def _at_hand(self, data: memoryview) -> list[_Small]:
        """The next files, as far as they are small and all of their bytes are there."""
        found: list[_Small] = []
        at, count = 0, len(data)
        for place in range(self._next, len(self.missing)):
            piece = self.missing[place]
            end = at + piece.length
            if end > count or not piece.whole:
                break
            entry = self._entries[piece.path]
            if entry.chunks:
                break
            found.append((entry, data[at:end]))
            at = end
        return found

    def _take_in(self, small: list[_Small]) -> int:
        """Write whole files, many of them in two threads; the bytes of them. Raises what either
        did; what was verified before that counts."""
        half = len(small) // 2 if len(small) >= _SHARED_FILES else 0
        if half:
            if self._helper is None:
                self._helper = _Helper(self._folders.top)
            others = self._helper.begin(small[half:])
            parts = [_write_small(self._folders, small[:half]), others.result()]
        else:
            parts = [_write_small(self._folders, small)]
        done = 0
        for count, error in parts:
            for entry, _ in small[done : done + count]:
                self._count(entry.size)
                self._have(entry.path, entry.size)
                self._next += 1
            done += count
            if error is not None:
                raise error
        return sum(entry.size for entry, _ in small)

    def _begin(self, piece: Piece, entry: FileEntry) -> None:
        offset = self.have.get(piece.path, 0)
        self._file = self._reopen(entry, offset) if offset else _create(self._folders, entry)
        self._at = offset
        self._begin_unit(entry)

    def _begin_unit(self, entry: FileEntry) -> None:
        self._hash = hashlib.sha256()
        self._unit_end = min(entry.size, self._at + CHUNK_BYTES)

    def _end_unit(self, piece: Piece, entry: FileEntry) -> None:
        _check(entry, self.have.get(piece.path, 0), self._hash.hexdigest())
        self._have(piece.path, self._at)
        if self._at < entry.size:
            self._begin_unit(entry)
            return
        self._close_file()
        self._next += 1
        if self.complete:
            self._note_all()

    def _fail(self) -> None:
        """Take no more: what is missing now is not what the pieces of this run say."""
        self._failed = True
        self._close_file()
        with contextlib.suppress(OSError):
            self._note_all()

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _count(self, count: int) -> None:
        self.received += count
        self._since_noted += count

    def _have(self, path: str, count: int) -> None:
        self.have[path] = count
        self._notes.append(f"{self._index[path]} {count}\n")
        if self._since_noted >= _NOTED_BYTES or self._next + 1 == len(self.missing):
            self._note_all()

    def _note_all(self) -> None:
        self._since_noted = 0
        if self._notes:
            notes, self._notes = self._notes, []
            _write_all(self._journal, memoryview("".join(notes).encode()))


def _create(folders: files.Folders, entry: FileEntry) -> int:
    folder, name = folders.of(entry.path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    mode = 0o555 if entry.executable else 0o444
    try:
        return os.open(name, flags, mode, dir_fd=folder)
    except FileExistsError:
        # Left half-written by an attempt before.
        os.unlink(name, dir_fd=folder)
        return os.open(name, flags, mode, dir_fd=folder)


def _check(entry: FileEntry, offset: int, digest: str) -> None:
    wanted = entry.chunks[offset // CHUNK_BYTES] if entry.chunks else entry.sha256
    if digest != wanted:
        raise TransferFailed(
            "damaged",
            f"{entry.path!r} did not arrive as it was sealed: from byte {offset:,} on its "
            "digest is another. Nothing of it is used",
        )


def _write_small(folders: files.Folders, jobs: Sequence[_Small]) -> _Done:
    """Check and write whole files."""
    for done, (entry, data) in enumerate(jobs):
        try:
            _check(entry, 0, hashlib.sha256(data).hexdigest())
            opened = _create(folders, entry)
            try:
                _write_all(opened, data)
            finally:
                os.close(opened)
        except (OSError, TransferFailed) as error:
            return done, error
    return len(jobs), None


def _write_all(opened: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(opened, data) :]


def _boot() -> str:
    """What is another one after each start of the system."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        # Not told here: what lies there is hashed anew each time.
        return f"unknown {os.getpid()}"


def _read_journal(folder: Path, found: Manifest) -> dict[str, int] | None:
    """How far each file is, as far as that can be trusted; None: it cannot."""
    try:
        lines = (folder / JOURNAL).read_text().split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if lines[0] != _boot():
        return None
    have: dict[str, int] = {}
    # What is behind the last line feed was cut off.
    for line in lines[1:-1]:
        try:
            number, count = (int(word) for word in line.split())
            entry = found.files[number]
        except (ValueError, IndexError):
            return None
        have[entry.path] = count
    return have


def _found(folder: Path, found: Manifest) -> dict[str, int]:
    """How many bytes of each file are there and verified."""
    noted = _read_journal(folder, found)
    top = folder / ARTIFACT / layout.FILES
    have: dict[str, int] = {}
    for entry in found.files:
        if noted is not None and entry.path not in noted:
            continue
        try:
            opened = files.open_file(top, entry.path)
        except OSError:
            continue
        try:
            if noted is None:
                count = _verified(opened, entry)
            else:
                count = noted[entry.path]
                if os.fstat(opened).st_size < count:
                    count = _verified(opened, entry)
        finally:
            os.close(opened)
        if count or (entry.size == 0 and noted is not None):
            have[entry.path] = count
    return have


def _verified(opened: int, entry: FileEntry) -> int:
    """How many bytes from the beginning are as they should be, in whole pieces."""
    good = 0
    for digest in entry.chunks or (entry.sha256,):
        left = min(CHUNK_BYTES, entry.size - good)
        hashed = hashlib.sha256()
        while left:
            part = os.read(opened, min(left, _READ_BYTES))
            if not part:
                return good
            hashed.update(part)
            left -= len(part)
        if hashed.hexdigest() != digest:
            return good
        good += min(CHUNK_BYTES, entry.size - good)
    return good


def _open_journal(folder: Path, have: dict[str, int], index: dict[str, int]) -> int:
    """Begin the journal anew, with what is there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    temporary = folder / f"{JOURNAL}.new"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    opened = os.open(temporary, flags, 0o600)
    try:
        lines = [_boot(), *(f"{index[path]} {count}" for path, count in have.items()), ""]
        _write_all(opened, memoryview("\n".join(lines).encode()))
        temporary.replace(folder / JOURNAL)
    except BaseException:
        os.close(opened)
        raise
    return opened


def is_complete(folder: Path, data: bytes) -> bool:
    """Whether all of what is taken in there is verified, by its journal."""
    found = msgspec.json.decode(data, type=Manifest)
    noted = _read_journal(folder, found)
    return noted is not None and all(
        noted.get(entry.path, -1) == entry.size for entry in found.files
    )
