"""Bytes over SFTP, for hosts that allow nothing else.

Several reads are under way at a time, of one file or of many, and their bytes are handed on in
order.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from interlock.artifacts import layout
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports.base import Pace, Peer, Piece, Sink
from interlock.artifacts.transports.feed import Feed
from interlock.artifacts.transports.ssh_options import SshOptions, access_of, why_not
from interlock_schemas.artifacts import LARGEST_MANIFEST_BYTES, Transport

if TYPE_CHECKING:
    import asyncssh

    from interlock.artifacts.transports.asyncssh_links import Links

__all__ = ["SftpCarrier"]

#: The largest read that OpenSSH's server answers whole, and how many of them for one of ours.
_BLOCK_BYTES: Final = 261_120
_BLOCKS: Final = 16
_READ_BYTES: Final = 8 * _BLOCK_BYTES
#: What may be under way: reads, and bytes.
_AT_ONCE: Final = 32
_AHEAD_BYTES: Final = 4 * _READ_BYTES


class SftpCarrier:
    """Reads files of the peer's store by asyncssh."""

    name: Transport = "sftp"

    def __init__(self, options: SshOptions) -> None:
        self._options = options
        self._links: Links | None = None

    async def usable(self, peer: Peer) -> str | None:
        """See `Carrier`."""
        try:
            self._connections()
        except ImportError:
            return "asyncssh is not installed here: install interlock[ssh]"
        return why_not(peer, self._options)

    async def manifest(self, peer: Peer, id: str) -> bytes:
        """See `Carrier`."""
        path = f"{peer.source.root}/{layout.manifest_path(id)}"
        data = b""
        async with self._client(peer) as client:
            while True:
                part = await self._read(client, peer, path, len(data), _READ_BYTES)
                data += part
                if len(part) < _READ_BYTES:
                    break
                if len(data) > LARGEST_MANIFEST_BYTES:
                    raise TransferFailed(
                        "source_damaged",
                        f"{peer.source.node} has a manifest of more than {len(data):,} bytes",
                    )
        if not data:
            raise TransferFailed("source_gone", f"{peer.source.node} has an empty manifest")
        return data

    async def fetch(self, peer: Peer, pieces: Sequence[Piece], sink: Sink, pace: Pace) -> None:
        """See `Carrier`."""
        asked: deque[tuple[int, asyncio.Task[bytes]]] = deque()
        ahead = 0
        async with self._client(peer) as client:
            try:
                async with Feed(sink, pace) as feed:
                    for piece, at, count in _reads(pieces):
                        while asked and (len(asked) >= _AT_ONCE or ahead + count > _AHEAD_BYTES):
                            ahead -= asked[0][0]
                            await feed.put(await asked.popleft()[1])
                        task = asyncio.create_task(self._part(client, peer, piece, at, count))
                        asked.append((count, task))
                        ahead += count
                    while asked:
                        await feed.put(await asked.popleft()[1])
            finally:
                left = [task for _, task in asked]
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)

    async def close(self) -> None:
        """See `Carrier`."""
        if self._links is not None:
            await self._links.close()

    def _connections(self) -> "Links":
        if self._links is None:
            from interlock.artifacts.transports.asyncssh_links import Links

            self._links = Links(self._options)
        return self._links

    @contextlib.asynccontextmanager
    async def _client(self, peer: Peer) -> "AsyncIterator[asyncssh.SFTPClient]":
        """An SFTP session. What goes wrong in it comes out as TransferFailed."""
        reason = await self.usable(peer)
        access = access_of(peer)
        if reason is not None or access is None:
            raise TransferFailed("unreachable", reason or "there is no way by SSH")
        import asyncssh

        from interlock.artifacts.transports.asyncssh_links import broken

        async with self._connections().session(access) as connection:
            try:
                async with asyncio.timeout(self._options.connect_s):
                    client = await connection.start_sftp_client()
                try:
                    yield client
                finally:
                    client.exit()
                # The server counts the session until then. One that failed is not waited for.
                async with asyncio.timeout(self._options.connect_s):
                    await client.wait_closed()
            except TimeoutError:
                connection.abort()
                raise TransferFailed(
                    "timeout", f"{access.host} did not answer: it hangs, or the network"
                ) from None
            except asyncssh.ChannelOpenError as error:
                if error.code != asyncssh.OPEN_REQUEST_SESSION_FAILED:
                    raise broken(access, error) from error
                raise TransferFailed("denied", f"{access.host} allows no SFTP: {error}") from error
            except (OSError, asyncssh.Error) as error:
                raise broken(access, error) from error

    async def _part(
        self, client: "asyncssh.SFTPClient", peer: Peer, piece: Piece, at: int, count: int
    ) -> bytes:
        path = f"{peer.source.root}/{layout.file_path(piece.id, piece.path)}"
        data = await self._read(client, peer, path, at, count)
        if len(data) != count:
            raise TransferFailed(
                "source_gone",
                f"{peer.source.node} has too few bytes of {piece.path[:200]!r}: have it checked "
                "there",
            )
        return data

    async def _read(
        self, client: "asyncssh.SFTPClient", peer: Peer, path: str, at: int, count: int
    ) -> bytes:
        import asyncssh

        try:
            async with asyncio.timeout(self._options.silence_s):
                file = await client.open(
                    path, "rb", encoding=None, block_size=_BLOCK_BYTES, max_requests=_BLOCKS
                )
                data: bytes = await file.read(count, at)
                # After a failure the session ends, and with it what is open.
                await file.close()
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise TransferFailed(
                "source_gone", f"{peer.source.node} does not have {path[-200:]!r}"
            ) from error
        except asyncssh.SFTPPermissionDenied as error:
            raise TransferFailed(
                "denied", f"{peer.source.node} may not read {path[-200:]!r}"
            ) from error
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
            raise
        except asyncssh.SFTPError as error:
            raise TransferFailed("io", f"{peer.source.node}: {error.reason}") from error
        return data


def _reads(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, int, int]]:
    """Piece, offset and length of each read."""
    for piece in pieces:
        at = piece.offset
        end = at + piece.length
        while at < end:
            count = min(end - at, _READ_BYTES)
            yield piece, at, count
            at += count
