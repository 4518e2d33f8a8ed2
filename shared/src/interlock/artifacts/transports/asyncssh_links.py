"""Connections by asyncssh, kept for some minutes and shared by all that goes to one host.

For hosts that allow only SFTP, and for machines without an OpenSSH client.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh

from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports.ssh_options import SshOptions, ciphers
from interlock_schemas.nodes import SshAccess

__all__ = ["Links", "broken"]

_ALIVE_S = 5
_ALIVE_MISSES = 3
#: Commands at once on one connection: servers allow ten, unless they are told otherwise.
_AT_ONCE = 8


class _Link:
    def __init__(self, connections: list[asyncssh.SSHClientConnection]) -> None:
        self.connections = connections
        """Those to the jump hosts first."""
        self.users = 0
        self.turns = asyncio.Semaphore(_AT_ONCE)
        self.idle: asyncio.TimerHandle | None = None

    @property
    def connection(self) -> asyncssh.SSHClientConnection:
        return self.connections[-1]

    @property
    def stands(self) -> bool:
        return not any(each.is_closed() for each in self.connections)

    async def close(self) -> None:
        if self.idle is not None:
            self.idle.cancel()
        for each in reversed(self.connections):
            each.abort()
        for each in self.connections:
            await each.wait_closed()


class Links:
    """Connections by asyncssh."""

    def __init__(self, options: SshOptions) -> None:
        self._options = options
        self._links: dict[SshAccess, _Link] = {}
        self._opening: dict[SshAccess, asyncio.Lock] = {}
        asyncssh.set_log_level(logging.WARNING)

    @contextlib.asynccontextmanager
    async def session(self, access: SshAccess) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """A connection to the host. One that turns out bad is for the user to ``abort()``.

        Raises TransferFailed: ``denied``, ``unreachable``.
        """
        async with self._opening.setdefault(access, asyncio.Lock()):
            link = self._links.get(access)
            if link is None or not link.stands:
                if link is not None:
                    await link.close()
                link = self._links[access] = await self._open(access)
            if link.idle is not None:
                link.idle.cancel()
                link.idle = None
            link.users += 1
        try:
            async with link.turns:
                yield link.connection
        finally:
            link.users -= 1
            if not link.users:
                # Closed connections are waited for when the next one is made, or at the end.
                link.idle = asyncio.get_running_loop().call_later(
                    self._options.keep_s, link.connection.abort
                )

    async def close(self) -> None:
        """End every connection."""
        links = list(self._links.values())
        self._links.clear()
        for link in links:
            await link.close()

    async def _open(self, access: SshAccess) -> _Link:
        connections: list[asyncssh.SSHClientConnection] = []
        try:
            for host in (*access.jump, access):
                options = self._about(host)
                async with asyncio.timeout(self._options.connect_s):
                    tunnel = connections[-1] if connections else None
                    connections.append(
                        await asyncssh.connect(host.host, host.port, tunnel=tunnel, **options)
                    )
        except BaseException as error:
            for each in reversed(connections):
                each.abort()
            for each in connections:
                await each.wait_closed()
            if isinstance(error, (TimeoutError, OSError, asyncssh.Error)):
                raise broken(access, error) from error
            raise
        return _Link(connections)

    def _about(self, host: SshAccess) -> dict[str, Any]:
        try:
            known: Any
            if host.host_key is not None:
                known = ([asyncssh.import_public_key(host.host_key)], [], [])
            else:
                known = str(self._options.known_hosts)
                if not Path(known).is_file():
                    raise TransferFailed("denied", f"the known hosts are not there: {known}")
            identity = asyncssh.read_private_key(host.identity or str(self._options.identity))
        except (OSError, ValueError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise TransferFailed("denied", f"{host.host}: a key cannot be used: {error}") from error
        return {
            "username": host.user,
            "known_hosts": known,
            "client_keys": [identity],
            "config": None,
            "agent_path": None,
            "preferred_auth": ("publickey",),
            "encryption_algs": list(ciphers()),
            "compression_algs": ["none"],
            "keepalive_interval": _ALIVE_S,
            "keepalive_count_max": _ALIVE_MISSES,
        }


def broken(access: SshAccess, error: Exception) -> TransferFailed:
    """What an error of a connection means."""
    where = f"{access.host}, port {access.port}"
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return TransferFailed(
            "denied",
            f"{where} shows another host key than the one that is known, and is not talked to: "
            "check it, then correct host_key in its description",
        )
    if isinstance(error, asyncssh.PermissionDenied):
        return TransferFailed("denied", f"{where} does not let us in with the key that is set")
    text = str(error) or type(error).__name__
    return TransferFailed("unreachable", f"{where}: {text}")
