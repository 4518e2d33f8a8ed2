"""A TCP proxy on the loopback interface that can cut, hold back or slow what goes through it.

It stands for the network between two processes, without any rights over the real one. What TCP
promises holds: what was held back arrives later and in order, or the connection is reset; a
connection that lives never has a gap.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final

import msgspec

__all__ = ["Proxy", "Slow"]

_HOST: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 16 * 1024
#: What one direction of one connection holds back, in chunks; past it the sender's own buffers fill
#: up, as they do before a network that takes nothing.
_HELD_CHUNKS: Final = 256
_BACKLOG: Final = 256


class Slow(msgspec.Struct, frozen=True, kw_only=True):
    """A slow network."""

    bytes_per_s: float | None = None
    """For each direction of each connection. None: without limit."""
    latency_s: float = 0.0
    """Added to each direction."""


class Proxy:
    """Carries connections from its port to another. At first, and after `heal`, it just does."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self.connections = 0
        """How many it carries now."""
        self._open = asyncio.Event()
        self._open.set()
        self._slow = Slow()
        self._carrying: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._server: asyncio.Server | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        """Listen while the block lasts. Raises OSError when the port is taken."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await self._listen()
            try:
                yield self
            finally:
                self.cut()

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset()

    def hold(self) -> None:
        """Be a black hole: accept connections and bytes, and let nothing through."""
        self._open.clear()

    def slow(self, how: Slow) -> None:
        """Let everything through slowly."""
        self._slow = how

    async def heal(self, *, deliver: bool = True) -> None:
        """Let everything through again.

        ``deliver``: what was held back goes on its way; False: those connections are reset.
        """
        self._slow = Slow()
        if not self._open.is_set():
            if not deliver:
                self._reset()
            self._open.set()
        if self._server is None:
            await self._listen()

    def _reset(self) -> None:
        for task in self._carrying:
            task.cancel()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._accept, _HOST, self.port, limit=_CHUNK_BYTES, backlog=_BACKLOG
        )

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._group is None or self._server is None:
            writer.transport.abort()
            return
        task = self._group.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first byte to its end."""
        self.connections += 1
        ends = [writer]
        try:
            await self._open.wait()
            there_reader, there_writer = await asyncio.open_connection(
                _HOST, self.target, limit=_CHUNK_BYTES
            )
            ends.append(there_writer)
            async with asyncio.TaskGroup() as group:
                for source, target in ((reader, there_writer), (there_reader, writer)):
                    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD_CHUNKS)
                    group.create_task(_take(source, held))
                    group.create_task(self._give(target, held))
        except* OSError:
            pass  # an end went away: so does the other, below
        finally:
            self.connections -= 1
            for end in ends:
                _abort(end)

    async def _give(
        self, target: asyncio.StreamWriter, held: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        """Write what was taken, when it is due. Ends at the end of the stream, and closes."""
        loop = asyncio.get_running_loop()
        free_at = 0.0
        while True:
            taken_at, chunk = await held.get()
            await self._open.wait()
            how = self._slow
            due = taken_at + how.latency_s
            if how.bytes_per_s:
                free_at = max(free_at, loop.time()) + len(chunk) / how.bytes_per_s
                due = max(due, free_at)
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
                await self._open.wait()
            if not chunk:
                target.close()
                return
            target.write(chunk)
            await target.drain()


async def _take(source: asyncio.StreamReader, held: "asyncio.Queue[tuple[float, bytes]]") -> None:
    """Read until the end of the stream, which an empty chunk tells."""
    loop = asyncio.get_running_loop()
    chunk = b"-"
    while chunk:
        try:
            chunk = await source.read(_CHUNK_BYTES)
        except ConnectionError:
            chunk = b""
        await held.put((loop.time(), chunk))


def _abort(end: asyncio.StreamWriter) -> None:
    """Close with a reset where bytes are still on their way: the other side shall not think that
    it heard all."""
    sock = end.transport.get_extra_info("socket")
    if sock is not None and not end.transport.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    end.transport.abort()
