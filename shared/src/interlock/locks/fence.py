"""Fencing tokens for files: a folder that remembers the highest token of each resource.

A writer that shows a lower token than was seen is refused, however long it was frozen, whichever
process it is. Which token is the newest is the lock's business; `fence_rules` decides, this module
keeps the records and makes writers of one resource take turns.
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from interlock.errors import FenceBusy, FenceUnusable, StaleToken
from interlock.locks import fence_rules, mounts
from interlock.state import write_private

__all__ = ["TIMEOUT_S", "FileFence", "Guard"]

#: How long a writer waits for its turn, seconds.
TIMEOUT_S = 10.0

_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05
#: The note is written over in one piece of this size, so no longer one shows through.
_NOTE_BYTES = 512


class Guard(msgspec.Struct, frozen=True):
    """The turn of one writer: its token is recorded, and no other writes the resource."""

    resource: str
    token: int
    descriptor: int
    """The open lock. A child process that writes has to inherit it (``pass_fds``): else the turn
    ends with this process, while the child still writes."""


class _Note(msgspec.Struct):
    """What a lock file says. Never flushed to disk: after a power cut it may be gone."""

    token: int = 0
    """A token that had been recorded for good when this was written."""
    pid: int = 0
    """Whose turn it is, 0 for nobody's."""
    host: str = ""


class FileFence:
    """Refuses writers that show a lower fencing token than was seen, for stores without a check.

    ``folder`` holds the records. It is on a local disk of the host that holds the files: turns are
    kernel locks, which last for as long as their process does, frozen or not. A network file system
    takes a lock away from a client that it has not heard of, which then does not know, so such a
    folder is refused where the system tells (Linux). All writers of a file use the same folder,
    which nobody else touches: keep it out of reach of whatever cleans up old files. Several
    containers of a host share it as a volume.

    Methods may be called from any thread and any process, also after a fork. They wait for the disk
    and for other writers, so in asyncio programs they are called in a thread. A thread that was
    started goes on when its task is cancelled, and whatever it writes is checked::

        await asyncio.to_thread(fence.replace, "ratings/hex8", lease.token, temporary, target)

    A writer that is frozen in the middle of its turn keeps it: others get FenceBusy, which names
    it, until it goes on or is killed. None of them has written by then.
    """

    def __init__(self, folder: Path | str, *, create: bool = True) -> None:
        """Use ``folder``; make it where it is missing, unless ``create`` is False.

        A fence that is made anew has seen no token: where one has to be there, say so.

        Raises FenceUnusable when it is missing, cannot be made, or is shared between hosts.
        """
        self.folder = Path(folder).absolute()
        with _usable(self.folder):
            if create:
                _make(self.folder)
            elif not self.folder.is_dir():
                raise FenceUnusable(
                    f"there is no fence in {self.folder}: is the right disk mounted? "
                    "It is made by the first FileFence that may create it"
                )
        kind = mounts.file_system(self.folder)
        if kind is not None and mounts.is_shared(kind):
            raise FenceUnusable(
                f"{self.folder} is on a network file system ({kind}), where a frozen process loses "
                "its lock without knowing. Keep the fence on a local disk of the host that holds "
                "the files, and write them from there"
            )

    def highest(self, resource: str) -> int:
        """The highest token seen, 0 where none was. Does not wait for writers.

        Raises FenceUnusable when the record cannot be trusted, ValueError for an impossible name.
        """
        seen = self._record(resource)
        # The note is read after the record, which a first writer may have made in between.
        if seen is None and self._note(resource).token:
            seen = self._record(resource)
            if seen is None:
                raise self._damaged(resource, "it is gone")
        return seen or 0

    @contextlib.contextmanager
    def guard(self, resource: str, token: int, *, timeout_s: float = TIMEOUT_S) -> Iterator[Guard]:
        """Write inside of this, under the token of a lease.

        The block begins when no other writes the resource, and the token is on disk as the highest
        seen. An equal one is admitted: its holder writes again. ``timeout_s`` 0 does not wait.

        Do in the block what takes effect (the rename), and before it what takes long: others wait.
        Of what the block starts, nothing may outlast it; see `Guard.descriptor` for processes. A
        guard inside a guard of the same resource waits for itself.

        Raises StaleToken when a higher token was seen, FenceBusy when its turn did not come,
        FenceUnusable when the record cannot be trusted or written, TypeError and ValueError for
        what is no token or no name, RuntimeError in a thread that runs an event loop.
        """
        fence_rules.check_token(token)
        if not timeout_s >= 0:
            raise ValueError(f"timeout_s is {timeout_s}: give seconds, 0 or more")
        _refuse_event_loop()
        # Tokens only rise, so a stale one need not wait for its turn.
        self._refuse_stale(resource, token, self.highest(resource))
        lock = self._take_turn(resource, timeout_s)
        owner = os.getpid()
        try:
            with _usable(self._lock_path(resource)):
                self._record_token(lock, resource, token)
            yield Guard(resource, token, lock)
        finally:
            try:
                # In a process that was forked inside the block, the turn is still its parent's.
                if os.getpid() == owner:
                    # The note only helps people, and the write that it tells of is done.
                    with contextlib.suppress(OSError):
                        _write_note(lock, _Note(token=_read_note(lock).token))
                    # Not by closing alone: a process forked meanwhile by another thread has the
                    # lock open too, and would keep it.
                    fcntl.flock(lock, fcntl.LOCK_UN)
            finally:
                os.close(lock)

    def replace(
        self,
        resource: str,
        token: int,
        source: Path | str,
        target: Path | str,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Move a finished file to ``target`` for good, under the token of a lease.

        Readers see the old file or the new, also after a power cut. Both are on one file system;
        a link at ``target`` is followed. ``source`` is left where it is when this raises.

        Raises what `guard` raises, and OSError for the files.
        """
        whole = Path(target).resolve()
        _sync(Path(source))
        with self.guard(resource, token, timeout_s=timeout_s):
            os.replace(source, whole)  # noqa: PTH105  (it takes text and paths alike)
            _sync(whole.parent)

    def write(
        self,
        resource: str,
        token: int,
        path: Path | str,
        data: bytes,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Replace the content of ``path`` for good, under the token of a lease.

        As `replace`. A file that exists keeps its mode. A process killed in the middle may leave a
        file with a leading dot beside it.
        """
        _refuse_event_loop()
        whole = Path(path).resolve()
        # First, so that a stale writer does not fill the disk.
        self._refuse_stale(resource, fence_rules.check_token(token), self.highest(resource))
        temporary = whole.with_name(f".{whole.name[:48]}.{secrets.token_hex(4)}")
        opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(opened, "wb") as file:
                with contextlib.suppress(FileNotFoundError):
                    os.fchmod(file.fileno(), stat.S_IMODE(whole.stat().st_mode))
                file.write(data)
            self.replace(resource, token, temporary, whole, timeout_s=timeout_s)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def repair(self, resource: str, token: int, *, timeout_s: float = TIMEOUT_S) -> int:
        """Write a damaged record anew, and return the highest token that it now holds.

        ``token`` is that of the lock's present holder, or the last one given: `interlock lock show`
        tells. What can still be read is never lowered.

        Raises FenceBusy, FenceUnusable, TypeError, ValueError and RuntimeError as `guard` does.
        """
        fence_rules.check_token(token)
        _refuse_event_loop()
        lock = self._take_turn(resource, timeout_s)
        try:
            with _usable(self._lock_path(resource)):
                known = _read_note(lock).token
                with contextlib.suppress(FenceUnusable):
                    known = max(known, self._record(resource) or 0)
                whole = max(known, token)
                write_private(self._record_path(resource), fence_rules.encode(resource, whole))
                _write_note(lock, _Note(token=whole))
                fcntl.flock(lock, fcntl.LOCK_UN)
            return whole
        finally:
            os.close(lock)

    def _record_path(self, resource: str) -> Path:
        return self.folder / f"{fence_rules.file_stem(resource)}.json"

    def _lock_path(self, resource: str) -> Path:
        return self.folder / f"{fence_rules.file_stem(resource)}.lock"

    def _record(self, resource: str) -> int | None:
        path = self._record_path(resource)
        with _usable(path):
            try:
                return fence_rules.decode(path.read_bytes(), resource)
            except FileNotFoundError:
                # A folder that is gone took its records with it: that is not "none".
                self.folder.stat()
                return None
            except ValueError as error:
                raise self._damaged(resource, str(error)) from error

    def _note(self, resource: str) -> _Note:
        path = self._lock_path(resource)
        with _usable(path):
            try:
                return _parse_note(path.read_bytes())
            except FileNotFoundError:
                return _Note()

    def _record_token(self, lock: int, resource: str, token: int) -> None:
        """Have the token on disk as the highest seen, with the lock held."""
        known = _read_note(lock).token
        _write_note(lock, _Note(known, os.getpid(), socket.gethostname()))
        seen = self._record(resource)
        if (seen or 0) < known:
            raise self._damaged(
                resource, f"it held token {known} and {f'says {seen}' if seen else 'is gone'}"
            )
        if self._refuse_stale(resource, token, seen or 0) == "higher":
            write_private(self._record_path(resource), fence_rules.encode(resource, token))
            _write_note(lock, _Note(token, os.getpid(), socket.gethostname()))
        else:
            # Whoever recorded it may have been killed before the folder was flushed: a power cut
            # would bring the record before it back, after we wrote.
            _sync(self.folder)

    @staticmethod
    def _refuse_stale(resource: str, shown: int, seen: int) -> fence_rules.Admission:
        admission = fence_rules.admit(seen, shown)
        if admission == "stale":
            raise StaleToken(
                f"{resource}: token {shown} is stale, {seen} has been seen since. The lease is "
                "lost and nothing was written: acquire the lock again, and start from what stands "
                "there now",
                resource=resource,
                shown=shown,
                seen=seen,
            )
        return admission

    def _take_turn(self, resource: str, timeout_s: float) -> int:
        """Lock the resource's lock file, and return its descriptor."""
        path = self._lock_path(resource)
        deadline = time.monotonic() + timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            with _usable(path):
                lock = _try_lock(path)
            if lock is not None:
                return lock
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise FenceBusy(
                    f"{resource}: no turn to write came within {timeout_s:g} s, "
                    + _describe(self._note(resource), path)
                )
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _damaged(self, resource: str, why: str) -> FenceUnusable:
        path = self._record_path(resource)
        return FenceUnusable(
            f"{resource}: the record {path} of the highest token cannot be trusted: {why}. "
            "Nothing was written. Call FileFence.repair with the token of the lock's present "
            "holder, or the last one given: `interlock lock show` tells it"
        )


@contextlib.contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FenceUnusable(
            f"the fence cannot use {error.filename or path}: {error.strerror}. Nothing was "
            "written. Its folder has to exist, be writable and have room"
        ) from error


def _make(folder: Path) -> None:
    """Make the folder and its missing parents, so that they outlast a power cut."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        _sync(each.parent)


def _sync(path: Path) -> None:
    """Flush a file, or a folder's names, to disk."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _refuse_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "a fence waits for the disk and for other writers, and would stop the event loop, which "
        "renews the lease: `await asyncio.to_thread(fence.write, ...)`, or call a function there "
        "that holds the whole `with fence.guard(...)`"
    )


def _try_lock(path: Path) -> int | None:
    """The locked file, None where another has it.

    Opened anew each time: a lock belongs to what was opened, so threads exclude each other too.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Somebody may have removed the file meanwhile, and others lock the next of its name.
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _parse_note(data: bytes) -> _Note:
    try:
        return msgspec.json.decode(data, type=_Note)
    except msgspec.DecodeError:
        return _Note()


def _read_note(lock: int) -> _Note:
    return _parse_note(os.pread(lock, _NOTE_BYTES, 0))


def _write_note(lock: int, note: _Note) -> None:
    os.pwrite(lock, msgspec.json.encode(note).ljust(_NOTE_BYTES), 0)


def _describe(note: _Note, path: Path) -> str:
    """Who has the turn, for an error, and what to do about it."""
    if not note.pid:
        return f"and nobody said who writes: `fuser -v {path}` names the process. Try again"
    if note.host != socket.gethostname():
        return f"process {note.pid} on {note.host} writes. Look there whether it goes on"
    if note.pid == os.getpid():
        return (
            "another thread of this process writes, or this thread itself: a guard inside a guard "
            "of the same resource waits for itself"
        )
    try:
        os.kill(note.pid, 0)
    except ProcessLookupError:
        return (
            f"process {note.pid} began to write and has ended, but one that it started has not: "
            f"`fuser -v {path}` names it"
        )
    except PermissionError:
        pass
    if _is_stopped(note.pid):
        return (
            f"process {note.pid} is stopped in the middle of writing: let it go on "
            f"(kill -CONT {note.pid}) or end it (kill -KILL {note.pid})"
        )
    return f"process {note.pid} writes. Try again, or look what keeps it"


def _is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal; False where the system does not tell."""
    try:
        told = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    # The name in brackets may hold anything, so count from its end.
    return told.rpartition(b")")[2].split()[0] in (b"T", b"t")
