"""Makes artifacts of what producers hand over. Needs a store on this host, and nobody else.

Nothing that changes is copied as it lies there: a SQLite database is sealed by its own online
backup, whoever writes to it meanwhile; of any other file it is checked that it stayed as it was;
growing logs have `seal_log` in `interlock.artifacts.segments`.
"""

import contextlib
import errno
import hashlib
import io
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from interlock.artifacts import files, layout, manifest, names
from interlock.artifacts.errors import ArtifactError, NotSealed
from interlock.artifacts.store import LocalStore
from interlock.clock import now, rfc3339
from interlock_schemas.artifacts import CHUNK_BYTES, Artifact, FileEntry, Kind, Manifest

__all__ = ["Made", "finish", "seal"]

_READ_BYTES: Final = 1024 * 1024
_TRIES: Final = 3
_SQLITE: Final = b"SQLite format 3\0"
_BESIDE_SQLITE: Final = ("-wal", "-shm", "-journal")
_TOLD: Final = 20


class Made(msgspec.Struct, kw_only=True):
    """An artifact that is being made: its files stand in a folder that nobody sees."""

    folder: Path
    entries: list[FileEntry] = []
    kinds: set[Kind] = set()
    databases: set[str] = set()


class _Changed(Exception):
    """The file was written to while it was copied."""


class _Work:
    """One attempt: where to, who is told, whether to stop."""

    def __init__(
        self,
        folder: Path,
        progress: Callable[[int], None] | None,
        cancelled: threading.Event | None,
        *,
        link: bool,
    ) -> None:
        self.made = Made(folder=folder)
        self.progress = progress
        self.cancelled = cancelled
        self.link = link
        self.folders = files.Folders(folder / layout.FILES, make=True)

    def check(self) -> None:
        if self.cancelled is not None and self.cancelled.is_set():
            raise NotSealed("it was stopped before it was sealed; nothing is left of it")

    def count(self, count: int) -> None:
        if self.progress is not None:
            self.progress(count)


def seal(
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
    move: bool = False,
    progress: Callable[[int], None] | None = None,
    cancelled: threading.Event | None = None,
) -> Artifact:
    """Make an artifact of a file, a SQLite database or a folder, and have it stand in the store.

    It is on the disk when this returns. What was sealed before, with the same content, dataset,
    configuration and name, is returned as it stands. `move`: delete the source then. `progress` is
    told of bytes. Links inside of a folder are stored as the files they point to; empty folders are
    not kept; a database's ``-wal``, ``-shm`` and ``-journal`` are part of its backup.

    Raises NotSealed, which names what is in the way, with nothing left behind: a file that is being
    written, links that lead out, devices, sockets, names that are refused, no room. ArtifactError
    where the store cannot be used.
    """
    path = Path(os.path.abspath(source))  # noqa: PTH100 - a link that was named is followed below
    title = name if name is not None else path.name
    if "/" in title or names.problem(title) is not None:
        raise NotSealed(f"the name {title[:200]!r} is refused: {names.problem(title) or 'a slash'}")
    try:
        real = path.resolve(strict=True)
        whole = real.is_dir()
        with store.sealing() as folder:
            (folder / layout.FILES).mkdir()
            work = _Work(folder, progress, cancelled, link=move)
            try:
                if whole:
                    _take_folder(work, real)
                else:
                    _take(work, real, path.name)
            finally:
                work.folders.close()
            kind: Kind = "folder" if whole else next(iter(work.made.kinds), "file")
            about = finish(
                store,
                work.made,
                kind=kind,
                dataset=dataset,
                config=config,
                name=title,
                origin=origin,
                value=value,
                steps=steps,
                games=games,
                source=str(path),
            )
    except FileNotFoundError as error:
        raise NotSealed(f"{error.filename or path} is not there") from error
    except OSError as error:
        raise _not_sealed(error, path) from error
    if move:
        _delete(real, work.made, whole=whole)
    return about


def finish(
    store: LocalStore,
    made: Made,
    *,
    kind: Kind,
    dataset: str,
    config: str,
    name: str,
    origin: str,
    value: float,
    steps: int | None,
    games: int | None,
    source: str,
) -> Artifact:
    """Have what was made stand as an artifact. Raises NotSealed and OSError."""
    made.entries.sort(key=lambda entry: entry.path.encode())
    try:
        data = manifest.encode(
            Manifest(
                dataset=dataset, config=config, name=name, kind=kind, files=tuple(made.entries)
            )
        )
        found = manifest.decode(data)
        id = manifest.id_of(data)
        about = Artifact(
            id=id,
            dataset=dataset,
            name=name,
            config=config,
            kind=kind,
            bytes=manifest.total_bytes(found),
            files=len(found.files),
            origin=origin,
            sealed_at=rfc3339(now()),
            value=value,
            steps=steps,
            games=games,
            source=source.encode(errors="replace").decode()[-500:],
        )
        told = msgspec.json.encode(about)
        msgspec.json.decode(told, type=Artifact)
    except (ArtifactError, msgspec.ValidationError) as error:
        raise NotSealed(f"it cannot be described so: {error}") from error
    if not store.has(id):
        for file, body in ((layout.MANIFEST, data), (layout.ABOUT, told)):
            target = made.folder / file
            target.write_bytes(body)
            target.chmod(0o444)
        # The lock that says who makes it stays behind.
        inner = made.folder / "artifact"
        inner.mkdir()
        for file in (layout.MANIFEST, layout.ABOUT, layout.FILES):
            (made.folder / file).rename(inner / file)
        if store.place(inner, id):
            return about
    return store.about(id)


def _not_sealed(error: OSError, path: Path) -> NotSealed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NotSealed(f"{path} was not sealed: there is no room for it in the store")
    where = error.filename or path
    return NotSealed(f"{path} was not sealed: {where}: {error.strerror or error}")


def _delete(path: Path, made: Made, *, whole: bool) -> None:
    """What was sealed and moved. It is safe in the store by now."""
    with contextlib.suppress(FileNotFoundError):
        if whole:
            _delete_sealed(path, made)
            return
        path.unlink()
        if made.databases:
            for suffix in _BESIDE_SQLITE:
                path.with_name(path.name + suffix).unlink(missing_ok=True)


def _delete_sealed(top: Path, made: Made) -> None:
    """Delete what was sealed of a folder. What came into it meanwhile stays, with its folders."""
    for entry in made.entries:
        path = top / entry.path
        path.unlink(missing_ok=True)
        if entry.path in made.databases:
            for suffix in _BESIDE_SQLITE:
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # noqa: PTH106 - as os.walk tells it


def _take_folder(work: _Work, top: Path) -> None:
    found: list[tuple[str, Path]] = []
    wrong: list[str] = []
    for relative, told in files.walk(top):
        why = names.problem(relative)
        path = top / relative
        if why is not None:
            wrong.append(f"{relative[:200]!r}: {why}")
        elif stat.S_ISLNK(told.st_mode):
            target = _inside(top, path)
            if isinstance(target, str):
                wrong.append(f"{relative!r}: {target}")
            else:
                found.append((relative, target))
        elif not stat.S_ISREG(told.st_mode):
            wrong.append(f"{relative!r}: is {_kind(told.st_mode)}")
        else:
            found.append((relative, path))
    if wrong:
        more = f" and {len(wrong) - _TOLD:,} more" if len(wrong) > _TOLD else ""
        raise NotSealed(
            f"{top} was not sealed, as this in it cannot be moved: "
            + "; ".join(sorted(wrong)[:_TOLD])
            + more
        )
    if not found:
        raise NotSealed(f"{top} was not sealed: there is no file in it")
    there = {relative for relative, _ in found}
    for relative, path in found:
        if not _is_beside(relative, there, top):
            _take(work, path, relative)


def _inside(top: Path, link: Path) -> Path | str:
    """The file inside of the folder that a link leads to, or what is wrong with it."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return "is a link that leads nowhere"
    if not target.is_relative_to(top):
        return "is a link that leads out of the folder"
    if not target.is_file():
        return "is a link to what is no file"
    return target


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISBLK, "a device"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return name
    return "no regular file"


def _is_beside(relative: str, there: set[str], top: Path) -> bool:
    """Whether a file is what SQLite keeps beside a database."""
    for suffix in _BESIDE_SQLITE:
        base = relative.removesuffix(suffix)
        if base != relative and base in there:
            with (top / base).open("rb") as file:
                return file.read(len(_SQLITE)) == _SQLITE
    return False


def _take(work: _Work, path: Path, relative: str) -> None:
    """Copy one file, hashing it on the way."""
    for left in reversed(range(_TRIES)):
        work.check()
        try:
            _copy(work, path, relative)
        except _Changed:
            if left == 0:
                raise NotSealed(
                    f"{path} is being written, so it was not sealed. Seal it when it is finished, "
                    "and a growing log with `interlock artifact add --log`"
                ) from None
        else:
            return


def _copy(work: _Work, path: Path, relative: str) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(opened, "rb", buffering=0) as file:
        before = os.fstat(opened)
        if not stat.S_ISREG(before.st_mode):
            raise NotSealed(f"{path} was not sealed: it is {_kind(before.st_mode)}")
        first = file.read(_READ_BYTES)
        if first.startswith(_SQLITE):
            _back_up(work, path, relative)
            return
        target = _target(work, relative)
        executable = bool(before.st_mode & stat.S_IXUSR)
        linked = work.link and before.st_nlink == 1 and _link(path, target)
        copy = None if linked else _create(target)
        try:
            entry = _hash(work, file, first, copy, relative, executable=executable)
        finally:
            if copy is not None:
                os.close(copy)
        after = path.stat(follow_symlinks=False)
        if _identity(before) != _identity(after) or entry.size != before.st_size:
            _unlink(target)
            raise _Changed
        folder, name = target
        os.chmod(name, 0o555 if executable else 0o444, dir_fd=folder)
    work.made.entries.append(entry)
    work.made.kinds.add("file")


def _target(work: _Work, relative: str) -> tuple[int, str]:
    target = work.folders.of(relative)
    _unlink(target)
    return target


def _unlink(target: tuple[int, str]) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target[1], dir_fd=target[0])


def _create(target: tuple[int, str]) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(target[1], flags, 0o600, dir_fd=target[0])


def _link(path: Path, target: tuple[int, str]) -> bool:
    """Give the file a second name in the store; False where that cannot be."""
    try:
        os.link(path, target[1], dst_dir_fd=target[0], follow_symlinks=False)
    except OSError:
        return False
    return True


def _identity(told: os.stat_result) -> tuple[int, int, int, int]:
    return (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns)


def _hash(
    work: _Work, file: io.RawIOBase, first: bytes, copy: int | None, path: str,
    *, executable: bool,
) -> FileEntry:  # fmt: skip
    whole = hashlib.sha256()
    piece = hashlib.sha256()
    pieces: list[str] = []
    size = in_piece = 0
    data = first
    while data:
        work.check()
        whole.update(data)
        if copy is not None:
            view = memoryview(data)
            while len(view):
                view = view[os.write(copy, view) :]
        begin = 0
        while begin < len(data):
            part = data[begin : begin + CHUNK_BYTES - in_piece]
            piece.update(part)
            begin += len(part)
            in_piece += len(part)
            if in_piece == CHUNK_BYTES:
                pieces.append(piece.hexdigest())
                piece, in_piece = hashlib.sha256(), 0
        size += len(data)
        work.count(len(data))
        data = file.read(_READ_BYTES) or b""
    if in_piece:
        pieces.append(piece.hexdigest())
    return FileEntry(
        path=path,
        size=size,
        sha256=whole.hexdigest(),
        executable=executable,
        chunks=tuple(pieces) if size > CHUNK_BYTES else (),
    )


def _back_up(work: _Work, path: Path, relative: str) -> None:
    """Seal a database that others may write to: its state at one moment."""
    folder, name = _target(work, relative)
    copy = work.made.folder / f"backup.{len(work.made.entries)}"
    try:
        with (
            contextlib.closing(
                sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30)
            ) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            # In one step: in several, each write of others would begin it anew.
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
            told = target.execute("PRAGMA quick_check(1)").fetchone()
            if told != ("ok",):
                raise NotSealed(f"{path} was not sealed: the database is damaged: {told[0]}")
    except sqlite3.Error as error:
        raise NotSealed(f"{path} was not sealed: SQLite says: {error}") from error
    os.rename(copy, name, dst_dir_fd=folder)
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(opened, "rb", buffering=0) as file:
        entry = _hash(work, file, file.read(_READ_BYTES), None, relative, executable=False)
        os.fchmod(opened, 0o444)
    work.made.entries.append(entry)
    work.made.kinds.add("sqlite")
    work.made.databases.add(relative)
