"""Runs commands on one host over a connection that is kept open: bytes in, bytes out, exit code.

What is sent is produced piece by piece and waits for the other side; a command to which nothing
comes and from which nothing comes for long is given up. Cancelled, it ends the command's channel.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncssh
import msgspec

from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports.asyncssh_links import Links, broken
from interlock.artifacts.transports.ssh_options import SshOptions
from interlock_schemas.nodes import SshAccess
from interlock_sync_router.hosts import outcomes

__all__ = ["Ran", "RemoteHost"]

#: Commands on one connection. By default sshd refuses more than ten.
_AT_ONCE: Final = 8
_READ_BYTES: Final = 256 * 1024
#: Of what a command says about itself, its beginning.
_SAID_BYTES: Final = 4_096
#: Nothing that is asked for prints more: digests of a million files.
_LARGEST_BYTES: Final = 512 * 1024 * 1024


class Ran(msgspec.Struct, frozen=True):
    """A command that has ended."""

    code: int
    out: bytes
    said: str
    """On its standard error, the beginning."""


class RemoteHost:
    """One host, and the folder of its store. `close` it."""

    def __init__(self, node: str, access: SshAccess, root: str, options: SshOptions) -> None:
        self.node = node
        self.root = root
        self._access = access
        self._silence_s = options.silence_s
        self._links = Links(options)
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def close(self) -> None:
        """End the connection."""
        await self._links.close()

    async def run(
        self,
        command: str,
        stdin: bytes | AsyncIterator[bytes] = b"",
        *,
        fine: tuple[int, ...] = (0,),
    ) -> Ran:
        """Run a command to its end.

        Raises TransferFailed: ``unreachable``, ``denied``, ``timeout``; and what an exit code that
        is not among `fine` means.
        """
        async with self._places, self._links.session(self._access) as connection:
            try:
                ran = await self._run(connection, command, stdin)
            except TimeoutError:
                await _end(connection)
                raise TransferFailed(
                    "timeout",
                    f"{self.node}: nothing came for {self._silence_s:g} s: it hangs, or the "
                    "network does",
                ) from None
            except (OSError, asyncssh.Error) as error:
                if not isinstance(error, asyncssh.ChannelOpenError):
                    await _end(connection)
                raise broken(self._access, error) from error
            if ran is None:
                await _end(connection)
                raise TransferFailed("unreachable", f"{self.node}: the connection broke")
        if ran.code not in fine:
            raise outcomes.failure(ran.code, ran.said, self.node)
        return ran

    async def _run(
        self,
        connection: asyncssh.SSHClientConnection,
        command: str,
        stdin: bytes | AsyncIterator[bytes],
    ) -> Ran | None:
        async with asyncio.timeout(self._silence_s) as limit:
            process = await connection.create_process(command, encoding=None)
            try:
                return await _Talk(process, limit, self._silence_s).hold(stdin)
            finally:
                # Not waited for: the host closes its side when the command has ended, if ever.
                process.close()


async def _end(connection: asyncssh.SSHClientConnection) -> None:
    """Have the next command make a connection of its own."""
    connection.abort()
    await connection.wait_closed()


class _Talk:
    """What goes on with one command. Each sign of life moves the end of `limit`."""

    def __init__(self, process: Any, limit: asyncio.Timeout, silence_s: float) -> None:
        self._process = process
        self._limit = limit
        self._silence_s = silence_s
        self._said = bytearray()
        self._hopeless = asyncio.Event()

    async def hold(self, stdin: bytes | AsyncIterator[bytes]) -> Ran | None:
        """All of it. None: the connection broke before the command ended."""
        sending = asyncio.create_task(self._send(stdin))
        hearing = asyncio.create_task(self._hear())
        try:
            out = await self._read()
            await hearing
            if self._hopeless.is_set() or sending.done():
                # It may have raised what the reading of a file here raised.
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
            else:
                sending.cancel()
            await self._process.wait_closed()
        finally:
            for task in (sending, hearing):
                task.cancel()
            await asyncio.gather(sending, hearing, return_exceptions=True)
        code = self._process.exit_status
        if code is None:
            if self._hopeless.is_set():
                code = 1
            else:
                return None
        return Ran(code, out, self._said.decode(errors="replace"))

    def _alive(self) -> None:
        if not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._silence_s)

    def _paused(self) -> None:
        if not self._limit.expired():
            self._limit.reschedule(None)

    async def _send(self, stdin: bytes | AsyncIterator[bytes]) -> None:
        writer = self._process.stdin
        if isinstance(stdin, bytes):
            stdin = _parts(stdin)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionError, asyncssh.Error):
                while True:
                    # Until there is something to send, as slow as it may go, nobody is silent.
                    self._paused()
                    data = await anext(stdin, None)
                    self._alive()
                    if data is None:
                        break
                    writer.write(data)
                    await writer.drain()
                    self._alive()
                writer.write_eof()
        except BaseException:
            self._process.close()
            raise
        finally:
            self._alive()

    async def _hear(self) -> None:
        while data := await self._process.stderr.read(_READ_BYTES):
            self._alive()
            self._said += data[: max(0, _SAID_BYTES - len(self._said))]
            if outcomes.is_final(self._said.decode(errors="replace")):
                # What is still to be sent would be sent in vain.
                self._hopeless.set()
                await asyncio.sleep(0)
                self._process.stdin.write_eof()

    async def _read(self) -> bytes:
        parts = []
        count = 0
        while data := await self._process.stdout.read(_READ_BYTES):
            self._alive()
            parts.append(data)
            count += len(data)
            if count > _LARGEST_BYTES:
                raise TransferFailed("io", "it prints more than makes sense")
        return b"".join(parts)


async def _parts(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), _READ_BYTES):
        yield data[at : at + _READ_BYTES]
