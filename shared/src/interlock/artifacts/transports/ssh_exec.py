"""Bytes out of a command on the other host: the fastest way over SSH, for one file and for many.

The other host needs a POSIX shell and coreutils. With an OpenSSH client here, its program is used;
else asyncssh.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports import pipes, remote, threads
from interlock.artifacts.transports.base import Pace, Peer, Piece, Sink
from interlock.artifacts.transports.feed import Feed
from interlock.artifacts.transports.openssh import SSH, OpenSsh, Session, connection_failed
from interlock.artifacts.transports.packed import Unpacker
from interlock.artifacts.transports.remote import Trip
from interlock.artifacts.transports.ssh_options import SshOptions, access_of, why_not
from interlock_schemas.artifacts import LARGEST_MANIFEST_BYTES, Transport
from interlock_schemas.nodes import SshAccess

if TYPE_CHECKING:
    import asyncssh

__all__ = ["ExecCarrier"]

#: The client's exit code when it is itself that failed.
_CLIENT_FAILED = 255
_PART_BYTES = 1024 * 1024


class _Unpaced:
    """For what is too small to count."""

    def take(self, count: int, cancelled: object) -> None:
        del count, cancelled


class _Counted:
    """Passes on the content of as many bytes as were asked for, and knows when there are more."""

    def __init__(self, trip: Trip, sink: Sink) -> None:
        self.left = trip.length or LARGEST_MANIFEST_BYTES
        self.count = 0
        self._sink = sink
        self._unpacker = Unpacker(each.length for each in trip.pieces) if trip.packed else None

    def take(self, data: memoryview) -> None:
        """The next bytes that came."""
        if self._unpacker is not None:
            data = self._unpacker.feed(data)
        if len(data) > self.left:
            raise _too_long()
        if data:
            self._sink(data)
            self.left -= len(data)
            self.count += len(data)


class ExecCarrier:
    """Runs commands on the peer that print what is wanted."""

    name: Transport = "exec"

    def __init__(self, options: SshOptions, ssh: OpenSsh | None = None) -> None:
        self._options = options
        self._own = ssh is None
        self.ssh = ssh or OpenSsh(options)
        """The connections, for other carriers to share. They end with this one if they are its."""
        self._by_binary = options.binary and SSH is not None
        self._links: _AsyncRunner | None = None

    async def usable(self, peer: Peer) -> str | None:
        """See `Carrier`."""
        reason = why_not(peer, self._options)
        if reason is None and not self._by_binary:
            try:
                self._runner()
            except ImportError:
                return "neither an OpenSSH client nor asyncssh is installed here"
        return reason

    async def manifest(self, peer: Peer, id: str) -> bytes:
        """See `Carrier`."""
        data = await self._text(peer, remote.manifest_trip(peer.source.root, id))
        if not data:
            raise TransferFailed("source_gone", f"{peer.source.node} has an empty manifest")
        return data

    async def fetch(self, peer: Peer, pieces: Sequence[Piece], sink: Sink, pace: Pace) -> None:
        """See `Carrier`."""
        await self._check(peer)
        for trip in remote.trips(peer.source.root, pieces):
            try:
                await self._carry(peer, trip, sink, pace)
            except TransferFailed as error:
                if error.code not in ("damaged", "source_gone"):
                    raise
                # Bytes that are missing have all that follow at the wrong place.
                why = await self._look(peer, trip)
                if why is None:
                    raise
                raise why from error

    async def close(self) -> None:
        """See `Carrier`."""
        if self._own:
            await self.ssh.close()
        if self._links is not None:
            await self._links.close()

    async def _check(self, peer: Peer) -> SshAccess:
        reason = await self.usable(peer)
        access = access_of(peer)
        if reason is not None or access is None:
            raise TransferFailed("unreachable", reason or "there is no way by SSH")
        return access

    async def _carry(self, peer: Peer, trip: Trip, sink: Sink, pace: Pace) -> None:
        access = await self._check(peer)
        where = peer.source.node
        if not self._by_binary:
            await self._runner().carry(access, trip, sink, pace, where)
            return
        for last in (False, True):
            async with self.ssh.session(access) as session:
                counted = _Counted(trip, sink)
                try:
                    await threads.in_thread(
                        lambda cancel, session=session, counted=counted: self._run(  # type: ignore[misc]
                            session, access, trip, counted, pace, where, cancel
                        )
                    )
                except TransferFailed as error:
                    if error.code in ("unreachable", "timeout"):
                        session.condemn()
                    # A connection that stood from before may have broken since.
                    if last or session.fresh or counted.count or error.code != "unreachable":
                        raise
                else:
                    return

    def _run(
        self,
        session: Session,
        access: SshAccess,
        trip: Trip,
        counted: _Counted,
        pace: Pace,
        where: str,
        cancel: threads.Cancel,
    ) -> None:
        def take(data: memoryview) -> None:
            pace.take(len(data), cancel.event)
            cancel.check()
            counted.take(data)

        ended = pipes.run(
            session.argv(trip.command),
            stdin=trip.stdin,
            take=take,
            cancel=cancel,
            silence_s=self._options.silence_s,
        )
        if trip.length and not counted.left:
            return
        if ended.code == _CLIENT_FAILED or ended.code < 0:
            raise connection_failed(access, ended.said)
        known = remote.failure(ended.code, ended.said, where)
        if known is not None:
            raise known
        if trip.length or ended.code:
            raise _too_short(where, counted.left if trip.length else 0, ended.code, ended.said)

    async def _text(self, peer: Peer, trip: Trip) -> bytes:
        """What a command prints."""
        parts: list[bytes] = []
        await self._carry(peer, trip, lambda data: parts.append(bytes(data)), _Unpaced())
        return b"".join(parts)

    async def _look(self, peer: Peer, trip: Trip) -> TransferFailed | None:
        """What is wrong with a file there: it is missing, unreadable, or of another length."""
        try:
            text = await self._text(peer, remote.sizes_trip(peer.source.root, trip.pieces))
            sizes = [int(line) for line in text.split()]
        except TransferFailed as error:
            return error if error.code in ("source_gone", "denied") else None
        except ValueError:
            return None
        if len(sizes) != len(trip.pieces):
            return None
        for piece, size in zip(trip.pieces, sizes, strict=True):
            if size < piece.offset + piece.length:
                return TransferFailed(
                    "source_gone",
                    f"{peer.source.node} has {size:,} bytes of {piece.path[:200]!r}, which should "
                    f"have {piece.offset + piece.length:,} at least: have it checked there",
                )
            if piece.whole and size > piece.length:
                return _too_long()
        return None

    def _runner(self) -> "_AsyncRunner":
        if self._links is None:
            self._links = _AsyncRunner(self._options)
        return self._links


class _AsyncRunner:
    """Runs the same commands by asyncssh."""

    def __init__(self, options: SshOptions) -> None:
        # Not everywhere, and not needed where there is a client.
        from interlock.artifacts.transports.asyncssh_links import Links

        self._silence_s = options.silence_s
        self._links = Links(options)

    async def close(self) -> None:
        await self._links.close()

    async def carry(
        self, access: SshAccess, trip: Trip, sink: Sink, pace: Pace, where: str
    ) -> None:
        import asyncssh

        from interlock.artifacts.transports.asyncssh_links import broken

        counted = _Counted(trip, sink)
        code: int | None = None
        said = b""
        async with self._links.session(access) as connection:
            try:
                async with asyncio.timeout(self._silence_s):
                    process = await connection.create_process(trip.command, encoding=None)
                sending = asyncio.create_task(_send(process.stdin, trip.stdin))
                hearing = asyncio.create_task(process.stderr.read())
                try:
                    async with Feed(counted.take, pace) as feed:
                        while True:
                            async with asyncio.timeout(self._silence_s):
                                data = await process.stdout.read(_PART_BYTES)
                            if not data:
                                break
                            await feed.put(data)
                    async with asyncio.timeout(self._silence_s):
                        said = await hearing
                        code = (await process.wait()).exit_status
                finally:
                    # Its end is not waited for: a host that hangs would not tell of it.
                    process.close()
                    for task in (sending, hearing):
                        task.cancel()
                    await asyncio.wait([sending, hearing])
            except TimeoutError:
                connection.abort()
                raise TransferFailed(
                    "timeout",
                    f"no byte came for {self._silence_s:g} s: the other side hangs, or the network",
                ) from None
            except (OSError, asyncssh.Error) as error:
                raise broken(access, error) from error
            if trip.length and not counted.left:
                return
            if connection.is_closed() or code is None:
                raise TransferFailed("unreachable", f"{access.host}: the connection broke")
        text = said.decode(errors="replace")
        known = remote.failure(code, text, where)
        if known is not None:
            raise known
        if trip.length or code:
            raise _too_short(where, counted.left if trip.length else 0, code, text)


async def _send(writer: "asyncssh.SSHWriter[bytes]", stdin: bytes) -> None:
    import asyncssh

    with contextlib.suppress(OSError, asyncssh.Error):
        for at in range(0, len(stdin), _PART_BYTES):
            writer.write(stdin[at : at + _PART_BYTES])
            await writer.drain()
        writer.write_eof()


def _too_long() -> TransferFailed:
    return TransferFailed(
        "source_damaged", "a file there is longer than its manifest says: have it checked there"
    )


def _too_short(where: str, left: int, code: int, said: str) -> TransferFailed:
    return TransferFailed(
        "source_gone",
        f"{where} sent {left:,} bytes too few (exit code {code}): a file is shorter than it should "
        f"be, or cannot be read; have it checked there. {said[-200:]}".rstrip(),
    )
