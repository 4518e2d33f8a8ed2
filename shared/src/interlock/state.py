"""The state folder of one machine: its lock, its credentials, and the record of what runs.

One ``interlock up`` owns a folder at a time. Other commands read the record and the credentials to
find the broker. The broker and the supervisor keep their own files in the same folder.
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import msgspec

from interlock.errors import InterlockError

if TYPE_CHECKING:
    from interlock.settings import ConnectionSettings

__all__ = [
    "Credentials",
    "ProcessRecord",
    "Running",
    "StateError",
    "StateLockedError",
    "clear_run",
    "default_folder",
    "ensure_credentials",
    "hold_state",
    "make_private_folder",
    "process_command",
    "process_start_time",
    "read_credentials",
    "read_run",
    "stop_leftovers",
    "store_root",
    "this_run",
    "write_private",
    "write_run",
]

_ANSWER_TIMEOUT_S = 1.0
_LEFTOVER_POLL_S = 0.02
# Linux; elsewhere the same is asked of ps, which in turn slim containers lack.
_HAS_PROC = Path("/proc/self/stat").exists()


class StateError(InterlockError):
    """The state folder cannot be used as it is. The message says what to do."""


class StateLockedError(StateError):
    """Another ``interlock up`` holds the folder. ``pid`` is its process, None when not known."""

    def __init__(self, state: Path, pid: int | None) -> None:
        """Name the folder and who holds it."""
        holder = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"{state} is in use by {holder} (`interlock up`): stop that one first, "
            "or name another folder with INTERLOCK_STATE"
        )
        self.pid = pid


class Credentials(msgspec.Struct, frozen=True):
    """Who may speak to the embedded broker of this folder."""

    user: Annotated[str, msgspec.Meta(min_length=1)]
    password: Annotated[str, msgspec.Meta(min_length=16)]

    def __repr__(self) -> str:
        """Without the password: a repr ends up in logs and tracebacks."""
        return f"Credentials(user={self.user!r}, password=…)"


class ProcessRecord(msgspec.Struct, frozen=True):
    """One process, told apart from a later one that was given the same pid."""

    name: str
    pid: int
    start_time: str
    """What `process_start_time` said of it: opaque, only ever compared."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What a running ``interlock up`` says of itself, in ``run.json``."""

    url: str
    """Where its broker listens."""
    pid: int
    """The process of ``up``."""
    start_time: str
    """The start time of that process."""
    started: datetime
    """When ``up`` began, with a time zone."""
    broker_version: str
    processes: list[ProcessRecord] = []
    """Its children in order of start."""


def default_folder() -> Path:
    """``$INTERLOCK_STATE``, else ``$XDG_STATE_HOME/interlock``, else ``~/.local/state/interlock``.

    The folder may not exist yet.
    """
    if named := os.environ.get("INTERLOCK_STATE"):
        return Path(named).expanduser().absolute()
    if base := os.environ.get("XDG_STATE_HOME"):
        return Path(base).expanduser().absolute() / "interlock"
    return Path.home() / ".local" / "state" / "interlock"


def store_root(settings: "ConnectionSettings") -> Path:
    """The folder of this host's store of artifacts, absolute. It may not exist yet."""
    named = settings.data or (settings.state or default_folder()) / "store"
    return named.expanduser().absolute()


def make_private_folder(path: Path) -> None:
    """Make ``path`` and its missing parents, ``path`` with mode 0700.

    A folder that exists keeps its mode: it may be one that a person made and shares on purpose.
    Every file we write is 0600 all the same.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"cannot make the folder {path}: {error.strerror}. "
            "Name one that can be written with INTERLOCK_STATE"
        ) from error


def write_private(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` at once and for good, mode 0600.

    A reader sees the old content or the new, also after a power cut.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # 0600 from the first byte: with a chmod after the write, a secret would lie open in between.
    target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(target, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def hold_state(state: Path) -> Iterator[None]:
    """Hold the folder for this process, making it where it is missing.

    The lock is the kernel's, on an open file that no child inherits, so it is free the moment this
    process is gone, however it went. The file itself stays: removing it would let two processes
    each lock a file of that name.

    Raises StateLockedError when another holds it.
    """
    make_private_folder(state)
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).strip()
            raise StateLockedError(state, int(holder) if holder.isdigit() else None) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


def ensure_credentials(state: Path) -> Credentials:
    """The folder's credentials, made on first use. Only the owner of the folder may call this."""
    path = state / "credentials.json"
    if not path.exists():
        made = Credentials(user="interlock", password=secrets.token_urlsafe(32))
        write_private(path, msgspec.json.encode(made))
    return read_credentials(state)


def read_credentials(state: Path) -> Credentials:
    """The credentials of the folder's broker.

    Raises StateError when there are none or they cannot be read.
    """
    path = state / "credentials.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except FileNotFoundError:
        raise StateError(
            f"no credentials in {state}: run `interlock up` there first, "
            "or name the right folder with INTERLOCK_STATE"
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise StateError(
            f"cannot read {path}: {error}. Delete it, and `interlock up` makes a new one"
        ) from error


def process_start_time(pid: int) -> str | None:
    """A mark of the process that now has ``pid``; None when there is none, or it has ended.

    Two processes that are given the same pid have different marks. Compare marks, nothing else.
    """
    return _start_time_from_proc(pid) if _HAS_PROC else _start_time_from_ps(pid)


def process_command(pid: int) -> str:
    """The command line of a process, its words joined by spaces; empty when there is none."""
    if not _HAS_PROC:
        return _ps(pid, "args=")
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return os.fsdecode(words).replace("\0", " ").strip()


def _start_time_from_proc(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, and may itself hold spaces and
    # parentheses: fields count from behind the last one (proc_pid_stat(5): 3 state, 22 start).
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":  # ended, and not collected by its parent
        return None
    # The start counts from boot, and after the next boot a service may well get the same pid at
    # the same tick.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{fields[19]}"


def _start_time_from_ps(pid: int) -> str | None:
    status, _, started = _ps(pid, "stat=,lstart=").partition(" ")
    return None if not started or status.startswith("Z") else started.strip()


def _ps(pid: int, columns: str) -> str:
    command = ["/bin/ps", "-ww", "-o", columns, "-p", str(pid)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed program, a number
    return said.stdout.strip()


def this_run(
    *, url: str, started: datetime, broker_version: str, processes: list[ProcessRecord]
) -> Running:
    """The record of an ``up`` that runs in this process."""
    pid = os.getpid()
    return Running(
        url=url,
        pid=pid,
        start_time=process_start_time(pid) or "",
        started=started,
        broker_version=broker_version,
        processes=processes,
    )


def write_run(state: Path, running: Running) -> None:
    """Replace the record of what runs. Call it again whenever a process has started."""
    write_private(state / "run.json", msgspec.json.format(msgspec.json.encode(running), indent=2))


def clear_run(state: Path) -> None:
    """Remove the record, once everything in it has ended."""
    (state / "run.json").unlink(missing_ok=True)


def read_run(state: Path, *, answering: bool = True) -> Running | None:
    """What runs on this folder, or None: no record, its ``up`` is gone, or its broker is silent.

    Waits up to 1 s for the broker; with ``answering=False`` a silent one counts as running too: it
    may just be starting again. Raises StateError when the record cannot be read.
    """
    running = _recorded_run(state)
    if running is None or process_start_time(running.pid) != running.start_time:
        return None
    return running if not answering or _answers(running.url) else None


def _recorded_run(state: Path) -> Running | None:
    path = state / "run.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Running)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StateError(
            f"cannot read {path}: {error}. Stop what still runs, then delete the file"
        ) from error


def _answers(url: str) -> bool:
    """Whether a NATS server greets at ``url``."""
    where = urlsplit(url)
    try:
        with socket.create_connection(
            (where.hostname or "", where.port or 0), timeout=_ANSWER_TIMEOUT_S
        ) as connection:
            return connection.recv(5) == b"INFO "
    except OSError:
        return False


async def stop_leftovers(state: Path, *, grace_s: float = 5.0) -> list[ProcessRecord]:
    """End what an ``up`` that was killed left running; return what was still there.

    Call it while holding the folder, before anything is started. Services end before the broker,
    that is, in reverse order of start; each is asked first (SIGTERM), and killed after ``grace_s``
    seconds. A process whose start time is not the recorded one is left alone: it is another.
    """
    running = _recorded_run(state)
    left = [] if running is None else [p for p in running.processes if _is_alive(p)]
    for process in reversed(left):
        await _end(process, grace_s)
    clear_run(state)
    return left


def _is_alive(process: ProcessRecord) -> bool:
    return process_start_time(process.pid) == process.start_time


def _signal(process: ProcessRecord, number: signal.Signals) -> None:
    # Looked at again right before each signal: the process may have ended since.
    if _is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


async def _end(process: ProcessRecord, grace_s: float) -> None:
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(grace_s):
            await _gone(process)
    except TimeoutError:
        _signal(process, signal.SIGKILL)
        await _gone(process)


async def _gone(process: ProcessRecord) -> None:
    # It is not our child, so there is no exit to await; asking is all that every system offers.
    while _is_alive(process):  # noqa: ASYNC110 - no event to wait for
        await asyncio.sleep(_LEFTOVER_POLL_S)
