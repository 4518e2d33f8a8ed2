"""Seals what a growing log has gained, segment after segment, none twice and none left out.

How far a log was sealed is noted in the store, and before a segment is sealed, where it ends: so
whoever was killed in between seals the very same one again, which is the same artifact.
"""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec

from interlock.artifacts import files, layout
from interlock.artifacts.errors import NotSealed
from interlock.artifacts.sealing import Made, finish
from interlock.artifacts.store import LocalStore
from interlock.state import write_private
from interlock_schemas.artifacts import CHUNK_BYTES, Artifact, FileEntry

__all__ = ["LARGEST_SEGMENT_BYTES", "seal_log"]

#: What a log gained is sealed in parts of about this size.
LARGEST_SEGMENT_BYTES: Final = 256 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024
_HEAD_BYTES: Final = 4_096


class _Progress(msgspec.Struct, kw_only=True):
    """How far a log was sealed."""

    path: str
    inode: int = 0
    generation: int = 0
    """So many files of this name came before."""
    offset: int = 0
    """Sealed up to here."""
    pending: int = 0
    """About to be sealed up to here; 0: nothing is."""
    head: str = ""
    """Digest of the first `head_bytes`, by which the file is known again."""
    head_bytes: int = 0


def seal_log(
    store: LocalStore,
    source: Path | str,
    *,
    dataset: str,
    config: str = "",
    name: str | None = None,
    origin: str,
    value: float = 0.0,
    steps: int | None = None,
    games: int | None = None,
) -> Artifact | None:
    """Seal the whole lines that a log has gained, as one artifact; None: there are none.

    Call it until it returns None: what is long comes in several. A file that was rotated away is
    sealed to its end first, where it still lies in the same folder. Segments are called
    ``<name>.<generation>.<offset>``, so that in the order of their names they are the log.

    Raises NotSealed, ArtifactError.
    """
    path = Path(os.path.abspath(source))  # noqa: PTH100 - what it is called, not where it leads
    key = hashlib.sha256(f"{dataset}\0{config}\0{path}".encode(errors="surrogateescape"))
    noted = store.root / layout.LOGS / f"{key.hexdigest()[:32]}.json"
    try:
        lock = files.hold(noted.with_suffix(".lock"))
        if lock is None:
            raise NotSealed(f"{path} is being sealed by another process: try again later")
        with contextlib.closing(os.fdopen(lock, "rb")):
            return _Log(store, path, noted).seal(
                dataset=dataset,
                config=config,
                name=name or path.name,
                origin=origin,
                value=value,
                steps=steps,
                games=games,
            )
    except FileNotFoundError as error:
        raise NotSealed(f"{path} is not there") from error
    except OSError as error:
        raise NotSealed(f"{path} was not sealed: {error.strerror or error}") from error


class _Log:
    def __init__(self, store: LocalStore, path: Path, noted: Path) -> None:
        self.store = store
        self.path = path
        self.noted = noted
        self.at = self._read()

    def _read(self) -> _Progress:
        try:
            return msgspec.json.decode(self.noted.read_bytes(), type=_Progress)
        except FileNotFoundError:
            return _Progress(path=str(self.path))
        except msgspec.DecodeError as error:
            raise NotSealed(
                f"{self.noted} is damaged, so it is not known how far {self.path} was sealed: "
                "delete it to have the log sealed from its beginning"
            ) from error

    def _note(self) -> None:
        write_private(self.noted, msgspec.json.encode(self.at))

    def seal(
        self,
        *,
        dataset: str,
        config: str,
        name: str,
        origin: str,
        value: float,
        steps: int | None,
        games: int | None,
    ) -> Artifact | None:
        path, last = self._current()
        with path.open("rb", buffering=0) as file:
            if self.at.inode == 0:
                self._begin(os.fstat(file.fileno()).st_ino)
            end = self.at.pending or self._end(file.fileno(), to_the_end=last)
            if end <= self.at.offset:
                if not last:
                    return None
                # All of the file that was rotated away is sealed: go on with its successor.
                self.at = _Progress(path=str(self.path), generation=self.at.generation + 1)
                self._note()
                return self.seal(
                    dataset=dataset,
                    config=config,
                    name=name,
                    origin=origin,
                    value=value,
                    steps=steps,
                    games=games,
                )
            self.at.pending = end
            self._note_head(file.fileno(), end)
            self._note()
            title = f"{name}.{self.at.generation:06d}.{self.at.offset:020d}"
            with self.store.sealing() as folder:
                (folder / layout.FILES).mkdir()
                made = Made(folder=folder)
                made.entries.append(self._copy(file.fileno(), folder / layout.FILES / title, end))
                about = finish(
                    self.store,
                    made,
                    kind="segment",
                    dataset=dataset,
                    config=config,
                    name=title,
                    origin=origin,
                    value=value,
                    steps=steps,
                    games=games,
                    source=str(self.path),
                )
        self.at.offset, self.at.pending = end, 0
        self._note()
        return about

    def _begin(self, inode: int) -> None:
        self.at.inode = inode

    def _current(self) -> tuple[Path, bool]:
        """The file to go on with, and whether it has been rotated away."""
        if self.at.inode == 0:
            return self.path, False
        try:
            if self._is_it(self.path):
                return self.path, False
        except FileNotFoundError:
            pass
        for other in self.path.parent.iterdir():
            if other != self.path and other.name.startswith(self.path.stem):
                with contextlib.suppress(OSError):
                    if self._is_it(other):
                        return other, True
        # It is gone, or was cut to begin anew.
        self.at = _Progress(path=str(self.path), generation=self.at.generation + 1)
        return self.path, False

    def _is_it(self, path: Path) -> bool:
        told = path.stat()
        if told.st_ino != self.at.inode or told.st_size < self.at.offset:
            return False
        with path.open("rb") as file:
            return _digest(file.read(self.at.head_bytes)) == self.at.head or not self.at.head_bytes

    def _note_head(self, opened: int, end: int) -> None:
        count = min(_HEAD_BYTES, end)
        self.at.head = _digest(os.pread(opened, count, 0))
        self.at.head_bytes = count

    def _end(self, opened: int, *, to_the_end: bool) -> int:
        """Where the last whole line ends that is sealed now."""
        size = os.fstat(opened).st_size
        limit = min(size, self.at.offset + LARGEST_SEGMENT_BYTES)
        if to_the_end and limit == size:
            return size
        at = limit
        while at > self.at.offset:
            begin = max(self.at.offset, at - _READ_BYTES)
            found = os.pread(opened, at - begin, begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            at = begin
        # A line without an end: it is cut where a segment is full.
        return limit if limit - self.at.offset == LARGEST_SEGMENT_BYTES else self.at.offset

    def _copy(self, opened: int, target: Path, end: int) -> FileEntry:
        whole = hashlib.sha256()
        pieces: list[str] = []
        at = self.at.offset
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(target, flags, 0o444), "wb") as file:
            while at < end:
                data = os.pread(opened, min(CHUNK_BYTES, end - at), at)
                while len(data) < min(CHUNK_BYTES, end - at):
                    more = os.pread(opened, min(CHUNK_BYTES, end - at) - len(data), at + len(data))
                    if not more:
                        raise NotSealed(f"{self.path} became shorter while it was sealed")
                    data += more
                whole.update(data)
                pieces.append(_digest(data))
                file.write(data)
                at += len(data)
        size = end - self.at.offset
        return FileEntry(
            path=target.name,
            size=size,
            sha256=whole.hexdigest(),
            chunks=tuple(pieces) if size > CHUNK_BYTES else (),
        )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
