"""Bytes by rsync over SSH, for hosts where a command may not be run but rsync may.

It writes files and not a stream: they come into a private folder in portions, and are read from
there. Whole files only, so that a piece costs its whole file. It cannot be told to share a rate
with others: it is stopped for moments while what it brought is paid for.
"""

import asyncio
import contextlib
import math
import os
import shutil
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from interlock.artifacts import layout
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports import pipes, threads
from interlock.artifacts.transports.base import Pace, Peer, Piece, Sink
from interlock.artifacts.transports.openssh import SSH, OpenSsh, Session, connection_failed
from interlock.artifacts.transports.ssh_options import SshOptions, access_of, why_not
from interlock_schemas.artifacts import LARGEST_MANIFEST_BYTES, Transport
from interlock_schemas.nodes import SshAccess

__all__ = ["RSYNC", "RsyncCarrier", "portions"]

#: Its program; None: it is not installed.
RSYNC: Final = shutil.which("rsync")

#: Of one run, unless a single file is larger: so much room is needed besides.
_PORTION_BYTES: Final = 64 * 1024 * 1024
#: Where the rate is limited, of one run: seconds' worth, and bytes at least.
_PORTION_S: Final = 0.5
_LEAST_BYTES: Final = 1024 * 1024
_PORTION_FILES: Final = 10_000
_PART_BYTES: Final = 1024 * 1024
_LOOK_S: Final = 0.02
#: How it ends when it could not send some files; and when nothing came for long.
_PARTIAL: Final = (23, 24)
_SILENT: Final = (30, 35)
_NOT_THERE: Final = 127


def portions(pieces: Sequence[Piece], most_bytes: int = _PORTION_BYTES) -> Iterator[list[Piece]]:
    """Pieces that are fetched by one run each, in order. Pure."""
    portion: list[Piece] = []
    size = 0
    for piece in pieces:
        # A run brings the file as a whole, so pieces of the same one belong together.
        same = bool(portion) and (portion[-1].id, portion[-1].path) == (piece.id, piece.path)
        count = 0 if same else piece.offset + piece.length
        full = size + count > most_bytes or len(portion) >= _PORTION_FILES
        if portion and full and not same:
            yield portion
            portion, size = [], 0
        portion.append(piece)
        size += count
    if portion:
        yield portion


class RsyncCarrier:
    """Has the peer's rsync send files."""

    name: Transport = "rsync"

    def __init__(self, options: SshOptions, ssh: OpenSsh | None = None) -> None:
        self._options = options
        self._own = ssh is None
        self._ssh = ssh or OpenSsh(options)

    async def usable(self, peer: Peer) -> str | None:
        """See `Carrier`."""
        if RSYNC is None or SSH is None:
            return "rsync or the OpenSSH client is not installed here"
        return why_not(peer, self._options)

    async def manifest(self, peer: Peer, id: str) -> bytes:
        """See `Carrier`."""
        name = layout.manifest_path(id)
        with self._folder() as folder:
            await self._bring(peer, folder, [name], None)
            return await asyncio.to_thread(_manifest, folder / name, peer.source.node)

    async def fetch(self, peer: Peer, pieces: Sequence[Piece], sink: Sink, pace: Pace) -> None:
        """See `Carrier`."""
        rate = _rate(pace)
        most = _PORTION_BYTES
        if rate is not None:
            most = max(_LEAST_BYTES, min(most, int(rate * _PORTION_S)))
        for portion in portions(pieces, most):
            names = list(dict.fromkeys(layout.file_path(each.id, each.path) for each in portion))
            with self._folder() as folder:
                await self._bring(peer, folder, names, pace)
                hand_on = _HandOn(folder, portion, sink, peer.source.node)
                await threads.in_thread(hand_on.run)

    async def close(self) -> None:
        """See `Carrier`."""
        if self._own:
            await self._ssh.close()

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        scratch = self._options.scratch
        with tempfile.TemporaryDirectory(
            prefix="rsync-", dir=scratch, ignore_cleanup_errors=True
        ) as folder:
            yield Path(folder)

    async def _bring(self, peer: Peer, folder: Path, names: list[str], pace: Pace | None) -> None:
        """Have the files below `folder`. One that is not there afterwards, the peer does not have.

        Raises TransferFailed for anything else.
        """
        reason = await self.usable(peer)
        access = access_of(peer)
        if reason is not None or access is None:
            raise TransferFailed("unreachable", reason or "there is no way by SSH")
        for last in (False, True):
            async with self._ssh.session(access) as session:
                run = _Run(self._options, session, access, peer.source.root, folder, names, pace)
                try:
                    await threads.in_thread(run.run)
                except TransferFailed as error:
                    if error.code in ("unreachable", "timeout"):
                        session.condemn()
                    # A connection that stood from before may have broken since.
                    if last or session.fresh or run.paid or error.code != "unreachable":
                        raise
                else:
                    return


class _Run:
    """One run of the program."""

    def __init__(
        self,
        options: SshOptions,
        session: Session,
        access: SshAccess,
        root: str,
        folder: Path,
        names: list[str],
        pace: Pace | None,
    ) -> None:
        self._options = options
        self._session = session
        self._access = access
        self._root = root
        self._folder = folder
        self._names = names
        self._pace = pace
        self._growing = deque(folder / name for name in sorted(names, key=os.fsencode))
        self._done = 0
        self.paid = 0
        """Bytes that were allowed so far."""

    def run(self, cancel: threads.Cancel) -> None:
        """In a thread. Raises TransferFailed."""
        with tempfile.TemporaryFile() as names, tempfile.TemporaryFile() as said:
            names.write(b"".join(name.encode() + b"\0" for name in self._names))
            names.seek(0)
            code = self._wait(names, said, cancel)
            said.seek(0)
            words = said.read(65_536).decode(errors="replace")
        if code == 0 or code in _PARTIAL:
            return
        if code in _SILENT:
            raise TransferFailed("timeout", f"rsync: nothing came for long: {words[-200:]}")
        if code == _NOT_THERE or "command not found" in words:
            raise TransferFailed("denied", f"{self._access.host} has no rsync: {words[-200:]}")
        raise connection_failed(self._access, words)

    def _wait(self, names: IO[bytes], said: IO[bytes], cancel: threads.Cancel) -> int:
        process = pipes.start(self._argv(), stdin=names, stdout=subprocess.DEVNULL, stderr=said)
        try:
            while True:
                code = process.poll()
                self._pay(process, cancel)
                if code is not None:
                    return code
                if cancel.event.wait(_LOOK_S):
                    raise threads.Stopped
        finally:
            pipes.end(process)

    def _argv(self) -> list[str]:
        options = [
            "--whole-file",
            "--inplace",
            "--files-from=-",
            "--from0",
            "--protect-args",
            f"--timeout={max(1, math.ceil(self._options.silence_s))}",
        ]
        rate = _rate(self._pace)
        if rate is not None:
            options.append(f"--bwlimit={max(1, int(rate / 1024))}")
        return [
            RSYNC or "rsync",
            *options,
            "-e",
            self._session.program,
            f"node:{self._root}/",
            f"{self._folder}/",
        ]

    def _pay(self, process: "subprocess.Popen[bytes]", cancel: threads.Cancel) -> None:
        """Have what has come since the last time be allowed; until then, no more comes."""
        if self._pace is None:
            return
        running = process.poll() is None
        new = self._come(running) - self.paid
        if new <= 0:
            return
        running = running and _rate(self._pace) is not None
        if running:
            _tell(process, signal.SIGSTOP)
        self._pace.take(new, cancel.event)
        self.paid += new
        if running:
            _tell(process, signal.SIGCONT)

    def _come(self, running: bool) -> int:
        """Bytes that have come so far, as far as the sizes of files tell."""
        # It writes them roughly in this order: where the next one has begun, this one is done.
        while self._growing and (
            not running or (len(self._growing) > 1 and _size(self._growing[1]))
        ):
            self._done += _size(self._growing.popleft())
        return self._done + (_size(self._growing[0]) if self._growing else 0)


class _HandOn:
    """Reads what was brought, and passes it on."""

    def __init__(self, folder: Path, pieces: Sequence[Piece], sink: Sink, node: str) -> None:
        self._folder = folder
        self._pieces = pieces
        self._sink = sink
        self._node = node

    def run(self, cancel: threads.Cancel) -> None:
        """In a thread. Raises TransferFailed, ``source_gone``, and what the sink raises."""
        buffer = memoryview(bytearray(_PART_BYTES))
        for piece in self._pieces:
            path = self._folder / layout.file_path(piece.id, piece.path)
            try:
                file = path.open("rb", buffering=0)
            except FileNotFoundError:
                raise TransferFailed(
                    "source_gone", f"{self._node} did not send {piece.path[:200]!r}"
                ) from None
            with file:
                file.seek(piece.offset)
                left = piece.length
                while left:
                    got = file.readinto(buffer[: min(left, _PART_BYTES)])
                    if not got:
                        raise TransferFailed(
                            "source_gone",
                            f"{self._node} has {left:,} bytes too few of {piece.path[:200]!r}: "
                            "have it checked there",
                        )
                    self._sink(buffer[:got])
                    cancel.check()
                    left -= got


def _manifest(path: Path, node: str) -> bytes:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise TransferFailed("source_gone", f"{node} has no such artifact") from None
    if size > LARGEST_MANIFEST_BYTES:
        raise TransferFailed("source_damaged", f"{node} has a manifest of {size:,} bytes")
    if not size:
        raise TransferFailed("source_gone", f"{node} has an empty manifest")
    return path.read_bytes()


def _rate(pace: Pace | None) -> float | None:
    """What rsync itself is to keep to, bytes per second."""
    rate: float | None = getattr(pace, "tightest", None)
    return rate


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _tell(process: "subprocess.Popen[bytes]", what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, what)
