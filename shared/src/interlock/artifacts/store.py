"""The store of artifacts on a host: what stands in it is whole, verified and never written again.

Everything here blocks, so programs with an event loop call it in threads. Several processes may use
one store: producers that seal, the agent that receives. What is taken in becomes visible by one
rename, under the fencing tokens of the order and of whoever writes the store.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import msgspec

from interlock.artifacts import files, layout, manifest, names
from interlock.artifacts.errors import ArtifactError, TransferFailed
from interlock.artifacts.receiving import ARTIFACT, LOCK, Receiving, failed, is_complete
from interlock.errors import FenceBusy, FenceUnusable, StaleToken
from interlock.locks.fence import FileFence
from interlock_schemas.artifacts import Artifact, Manifest
from interlock_schemas.orders import FailureCode

__all__ = ["LocalStore", "Verified"]

_READ_BYTES: Final = 1024 * 1024
#: What nobody went on with for so long is deleted, seconds.
_STAGING_S: Final = 7 * 86_400.0
_ABANDONED: Final = "left."
_SEALING: Final = "seal."
#: Left free for what else is on the disk.
_SPARE_BYTES: Final = 16 * 1024 * 1024


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at every byte of an artifact found."""

    ok: bool
    bytes: int
    """That were read."""
    problems: tuple[str, ...] = ()


class _Pace(Protocol):
    def take(self, count: int, cancelled: threading.Event) -> None: ...


class LocalStore:
    """A store below `root`."""

    def __init__(self, root: Path | str, *, create: bool = True) -> None:
        """Use a store; make it where it is missing, unless `create` is False.

        Raises ArtifactError where it cannot be used.
        """
        self.root = Path(root).absolute()
        self._reserved: dict[str, int] = {}
        self._taking: dict[str, Receiving] = {}
        self._guard = threading.Lock()
        try:
            for folder in (
                layout.ARTIFACTS,
                layout.STAGING,
                layout.QUARANTINE,
                layout.TRASH,
                layout.INBOX,
                layout.LOGS,
            ):
                if create:
                    (self.root / folder).mkdir(parents=True, exist_ok=True)
                elif not (self.root / folder).is_dir():
                    raise ArtifactError(f"{self.root} is no store: is the right disk mounted?")
            if create:
                files.spread(self.root / layout.STAGING)
            self.fence = FileFence(self.root / layout.FENCE, create=create)
        except OSError as error:
            raise ArtifactError(
                f"the store {self.root} cannot be used: {error.strerror or error}. Its folder has "
                "to be writable: see INTERLOCK_DATA"
            ) from error
        except FenceUnusable as error:
            raise ArtifactError(str(error)) from error

    # What stands

    def ids(self, part: str | None = None) -> list[str]:
        """What stands under its final name, of all, or of the ids that begin with two digits."""
        parts = [part] if part is not None else [f"{number:02x}" for number in range(256)]
        found: list[str] = []
        for each in parts:
            with contextlib.suppress(FileNotFoundError):
                found += sorted(
                    name
                    for name in os.listdir(self.root / layout.ARTIFACTS / each)  # noqa: PTH208
                    if len(name) == 64
                )
        return found

    def changed_parts(self, seen: dict[str, int]) -> list[str]:
        """Which parts have gained or lost something since `seen`, which is brought up to date."""
        changed = []
        with os.scandir(self.root / layout.ARTIFACTS) as entries:
            for entry in entries:
                at = entry.stat().st_mtime_ns
                if seen.get(entry.name) != at:
                    seen[entry.name] = at
                    changed.append(entry.name)
        return changed

    def has(self, id: str) -> bool:
        """Whether an artifact stands under its final name."""
        return self._folder(id).is_dir()

    def manifest_bytes(self, id: str) -> bytes:
        """Its manifest as it stands. Raises TransferFailed."""
        return self._read(id, layout.MANIFEST, 0, None)

    def manifest(self, id: str) -> Manifest:
        """Its manifest, checked. Raises ArtifactError."""
        return manifest.decode(self.manifest_bytes(id), id)

    def about(self, id: str) -> Artifact:
        """Where it came from and what it is worth. Raises ArtifactError."""
        data = self._read(id, layout.ABOUT, 0, None)
        try:
            return msgspec.json.decode(data, type=Artifact)
        except msgspec.DecodeError as error:
            raise ArtifactError(f"about.json of artifact {id} is damaged: {error}") from error

    def path(self, id: str) -> Path:
        """Where its content is: the file, where it consists of one; else the folder."""
        if not self.has(id):
            raise ArtifactError(f"artifact {id} is not in {self.root}")
        found = self.manifest(id)
        folder = self._folder(id) / layout.FILES
        return folder / found.files[0].path if found.kind != "folder" else folder

    def read(self, id: str, path: str | None, offset: int, length: int) -> bytes:
        """Bytes of a file of an artifact; of its manifest where `path` is None.

        Shorter only at the end of the file. Raises TransferFailed: ``source_gone``, ``io``.
        """
        if path is None:
            return self._read(id, layout.MANIFEST, offset, length)
        why = names.problem(path)
        if why is not None:
            raise TransferFailed("refused_name", f"the name {path[:200]!r} is refused: {why}")
        return self._read(id, f"{layout.FILES}/{path}", offset, length)

    def _read(self, id: str, path: str, offset: int, length: int | None) -> bytes:
        try:
            opened = files.open_file(self._folder(id), path)
            try:
                left = os.fstat(opened).st_size - offset if length is None else length
                parts = []
                while left > 0:
                    part = os.pread(opened, min(left, _READ_BYTES), offset)
                    if not part:
                        break
                    parts.append(part)
                    offset += len(part)
                    left -= len(part)
            finally:
                os.close(opened)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise TransferFailed(
                    "source_gone", f"artifact {id[:12]} has no {path!r} here"
                ) from error
            raise failed(error, f"{path!r} of artifact {id[:12]} cannot be read") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # Taking in

    def receive(self, about: Artifact, manifest_data: bytes) -> Receiving:
        """Begin to take in an artifact, or go on where it was left.

        Raises TransferFailed: ``damaged`` for a manifest that is not the artifact's,
        ``refused_name``, ``no_space``, ``denied``, ``io``; also while this process has it open.
        """
        try:
            found = manifest.decode(manifest_data, about.id)
        except manifest.ManifestInvalid as error:
            code: FailureCode = "refused_name" if error.name_refused else "damaged"
            raise TransferFailed(code, str(error)) from error
        try:
            return self._receive(about, manifest_data, found)
        except OSError as error:
            raise failed(error, f"artifact {about.id[:12]} cannot be taken in") from error

    def _receive(self, about: Artifact, manifest_data: bytes, found: Manifest) -> Receiving:
        folder = self.root / layout.STAGING / about.id
        with self._guard:
            open_here = self._taking.get(about.id)
            if open_here is not None and not open_here.closed:
                raise TransferFailed("io", f"artifact {about.id[:12]} is being taken in already")
            folder.mkdir(exist_ok=True)
            lock = files.hold(folder / LOCK)
            if lock is None:
                # Of a process that is frozen: it may go on to write there, where nobody looks.
                folder.rename(folder.with_name(f"{_ABANDONED}{about.id}.{secrets.token_hex(4)}"))
                folder.mkdir()
                lock = files.hold(folder / LOCK)
                if lock is None:
                    raise TransferFailed("io", f"artifact {about.id[:12]} is taken in elsewhere")
            try:
                inner = folder / ARTIFACT
                inner.mkdir(exist_ok=True)
                _write(inner / layout.MANIFEST, manifest_data)
                _write(inner / layout.ABOUT, msgspec.json.encode(about))
                receiving = Receiving(folder, about.id, found, lock)
            except BaseException:
                os.close(lock)
                raise
            self._taking[about.id] = receiving
            return receiving

    def flush(self) -> None:
        """Have all that was written so far on the disk; once for several commits."""
        files.flush_all(self.root)

    def commit(self, id: str, *, order_token: int, store_token: int, flushed: bool = False) -> None:
        """Have what was taken in stand under its final name. Nothing is done where it does.

        Raises TransferFailed: ``stale_token``, with what was taken in left for others; ``damaged``
        where it is not complete; ``io``.
        """
        staging = self.root / layout.STAGING / id
        try:
            if self.has(id):
                self._finish(id, staging)
                return
            inner = staging / ARTIFACT
            if not self._is_complete(id, staging):
                raise TransferFailed("damaged", f"artifact {id[:12]} is not complete: fetch it")
            if not flushed:
                self.flush()
            final = self._folder(id)
            with (
                self.fence.guard("orders", order_token),
                self.fence.guard("store", store_token),
            ):
                self._place(inner, final)
            self._finish(id, staging)
        except StaleToken as error:
            raise TransferFailed("stale_token", str(error)) from error
        except (FenceBusy, FenceUnusable) as error:
            raise TransferFailed("io", str(error)) from error
        except OSError as error:
            raise failed(error, f"artifact {id[:12]} cannot be committed") from error

    def _is_complete(self, id: str, staging: Path) -> bool:
        with self._guard:
            receiving = self._taking.get(id)
        if receiving is not None and receiving.owns(staging):
            return receiving.complete
        try:
            return is_complete(staging, (staging / ARTIFACT / layout.MANIFEST).read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            return False

    def _finish(self, id: str, staging: Path) -> None:
        with self._guard:
            receiving = self._taking.pop(id, None)
        if receiving is not None:
            receiving.close()
        files.remove(staging)

    def place(self, made: Path, id: str) -> bool:
        """Have a finished folder stand as an artifact; False: it stood already. Raises OSError."""
        files.flush_all(self.root)
        return self._place(made, self._folder(id))

    def _place(self, made: Path, final: Path) -> bool:
        part = final.parent
        if not part.is_dir():
            part.mkdir(exist_ok=True)
            files.sync_folder(part.parent)
        try:
            made.rename(final)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and final.is_dir():
                return False
            raise
        files.sync_folder(part)
        return True

    # Looking after what stands

    def verify(
        self, id: str, *, pace: _Pace | None = None, cancelled: threading.Event | None = None
    ) -> Verified:
        """Read every byte again. Raises TransferFailed where it cannot be read, or was cancelled.

        Also what is there and not in the manifest is a problem.
        """
        ended = cancelled or threading.Event()
        try:
            found = self.manifest(id)
        except manifest.ManifestInvalid as error:
            return Verified(ok=False, bytes=0, problems=(str(error),))
        folder = self._folder(id) / layout.FILES
        problems: list[str] = []
        count = 0
        try:
            for entry in found.files:
                try:
                    opened = files.open_file(folder, entry.path)
                except FileNotFoundError:
                    problems.append(f"{entry.path!r} is missing")
                    continue
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EIO):
                        raise
                    problems.append(f"{entry.path!r} cannot be read: {error.strerror}")
                    continue
                try:
                    size, digest = _digest(opened, pace, ended)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    problems.append(f"{entry.path!r} cannot be read: {error.strerror}")
                    continue
                finally:
                    os.close(opened)
                count += size
                if size != entry.size:
                    problems.append(f"{entry.path!r} has {size:,} bytes instead of {entry.size:,}")
                elif digest != entry.sha256:
                    problems.append(f"{entry.path!r} has another digest")
            wanted = {entry.path for entry in found.files}
            problems += [
                f"{path!r} does not belong there"
                for path, _ in files.walk(folder)
                if path not in wanted
            ]
        except OSError as error:
            if not self.has(id):
                raise TransferFailed("source_gone", f"artifact {id[:12]} is not here") from error
            raise failed(error, f"artifact {id[:12]} cannot be read") from error
        return Verified(ok=not problems, bytes=count, problems=tuple(problems[:100]))

    def quarantine(self, id: str, why: str) -> Path:
        """Put a damaged artifact where nobody uses it; where that is. Raises OSError."""
        target = self.root / layout.QUARANTINE / f"{id}.{time.time_ns()}"
        self._folder(id).rename(target)
        files.sync_folder(target.parent)
        files.sync_folder(self._folder(id).parent)
        _write(target.with_name(f"{target.name}.txt"), f"{why}\n".encode(errors="replace"))
        return target

    def drop(self, id: str, *, order_token: int, store_token: int) -> None:
        """Delete an artifact; nothing is done where it is not there.

        Raises TransferFailed: ``stale_token``, ``io``.
        """
        target = self.root / layout.TRASH / f"{id}.{secrets.token_hex(4)}"
        try:
            with (
                self.fence.guard("orders", order_token),
                self.fence.guard("store", store_token),
                contextlib.suppress(FileNotFoundError),
            ):
                self._folder(id).rename(target)
                files.sync_folder(self._folder(id).parent)
            files.remove(target)
        except StaleToken as error:
            raise TransferFailed("stale_token", str(error)) from error
        except (FenceBusy, FenceUnusable) as error:
            raise TransferFailed("io", str(error)) from error
        except OSError as error:
            raise failed(error, f"artifact {id[:12]} cannot be deleted") from error

    def free(self) -> tuple[int, int]:
        """Bytes that may be written, less what is reserved here, and those of the whole disk."""
        told = os.statvfs(self.root)
        with self._guard:
            reserved = sum(self._lacking(id, count) for id, count in self._reserved.items())
        free = told.f_bavail * told.f_frsize - reserved - _SPARE_BYTES
        return max(0, free), told.f_blocks * told.f_frsize

    def _lacking(self, id: str, count: int) -> int:
        taking = self._taking.get(id)
        return max(0, count - (taking.received if taking is not None else 0))

    @contextlib.contextmanager
    def reserve(self, id: str, count: int) -> Iterator[None]:
        """Keep room for what an artifact still lacks, within this process: the one that receives.

        Raises TransferFailed: ``no_space``.
        """
        free, total = self.free()
        if count > free:
            raise TransferFailed(
                "no_space",
                f"{count:,} bytes are needed and {free:,} of {total:,} are free in {self.root}",
            )
        with self._guard:
            self._reserved[id] = count
        try:
            yield
        finally:
            with self._guard:
                self._reserved.pop(id, None)

    def clean(self) -> None:
        """Delete what is left of deletions, of dead producers, and of transfers long given up."""
        for each in self._below(layout.TRASH):
            files.remove(each)
        for each in self._below(layout.STAGING):
            with contextlib.suppress(FileNotFoundError):
                dead = each.name.startswith((_SEALING, _ABANDONED))
                old = time.time() - each.stat().st_mtime > _STAGING_S
                if (dead or old) and each.is_dir():
                    self._remove_if_free(each)

    def _below(self, folder: str) -> list[Path]:
        return [self.root / folder / name for name in os.listdir(self.root / folder)]  # noqa: PTH208

    def _remove_if_free(self, folder: Path) -> None:
        lock = files.hold(folder / LOCK)
        if lock is None:
            return
        try:
            files.remove(folder)
        finally:
            os.close(lock)

    def _folder(self, id: str) -> Path:
        return self.root / layout.artifact_dir(id)

    @contextlib.contextmanager
    def sealing(self) -> Iterator[Path]:
        """A folder in which an artifact is made, gone at the end of the block. Raises OSError."""
        folder = self.root / layout.STAGING / f"{_SEALING}{os.getpid()}.{secrets.token_hex(6)}"
        folder.mkdir()
        lock = files.hold(folder / LOCK)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def _digest(opened: int, pace: _Pace | None, cancelled: threading.Event) -> tuple[int, str]:
    hashed = hashlib.sha256()
    count = 0
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    while True:
        got = os.readv(opened, [buffer])
        if not got:
            return count, hashed.hexdigest()
        hashed.update(view[:got])
        count += got
        if pace is not None:
            pace.take(got, cancelled)
        if cancelled.is_set():
            raise TransferFailed("timeout", "it was not read to its end: it was stopped")


def _write(path: Path, data: bytes) -> None:
    """Write a file in one step as others see it, read-only."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with os.fdopen(opened, "wb") as file:
        file.write(data)
    temporary.replace(path)
