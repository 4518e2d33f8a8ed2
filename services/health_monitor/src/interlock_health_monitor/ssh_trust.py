"""Whom to believe and how to be recognised: pinned host keys, and identities read once.

Nothing is read but the files that are named in settings and descriptions: no configuration, agent
or default key of the user who runs the monitor. No host is trusted on first use.
"""

import asyncio
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.public_key import get_default_public_key_algs

from interlock_health_monitor import ssh_outcome
from interlock_health_monitor.ssh_outcome import SshFailed
from interlock_schemas.nodes import SshAccess

__all__ = ["Trust"]

_SSH_PORT = 22


class Trust:
    """Host keys and identities, read from files and read again when these change."""

    def __init__(self, *, known_hosts: Path | None, identity: Path | None) -> None:
        self._known_hosts = known_hosts
        self._identity = identity
        self._read: dict[Path, tuple[tuple[int, int], Any]] = {}

    async def options(self, access: SshAccess, address: str) -> dict[str, Any]:
        """What asyncssh is told about a host: which keys it may show, and which we show.

        `address` is the host's network address; empty where a jump host resolves its name.

        Raises SshFailed where there is no key for it, or what there is cannot be used.
        """
        known = await self._host_keys(access, address)
        options: dict[str, Any] = {
            "known_hosts": known,
            "client_keys": await self._identities(access),
        }
        trusted, authorities = known[0], known[1]
        if trusted and not authorities:
            # Ask for the pinned kinds of key first. The others stay in, so that a host with a new
            # key of another kind is refused for its key, and not for want of a common algorithm.
            first = [name for key in trusted for name in key.sig_algorithms]
            rest = [name for name in get_default_public_key_algs() if name not in first]
            options["server_host_key_algs"] = [
                name.decode() for name in dict.fromkeys([*first, *rest])
            ]
        return options

    async def _host_keys(self, access: SshAccess, address: str) -> Any:
        if access.host_key is not None:
            try:
                return [asyncssh.import_public_key(access.host_key)], [], []
            except (asyncssh.KeyImportError, ValueError) as error:
                raise SshFailed(
                    ssh_outcome.misconfigured(
                        "host_key", f"host_key of {access.host} cannot be read: {error}"
                    )
                ) from None
        if self._known_hosts is None:
            raise SshFailed(
                ssh_outcome.host_key_unknown(
                    f"no key of {access.host} is known: describe its host_key, or set "
                    "INTERLOCK_HEALTH_SSH_KNOWN_HOSTS"
                )
            )
        known = await self._file(self._known_hosts, asyncssh.read_known_hosts)
        port = None if access.port == _SSH_PORT else access.port
        found = known.match(access.host, address, port)
        if not any(found[:2]) and not any(found[3:4]):
            raise SshFailed(
                ssh_outcome.host_key_unknown(
                    f"{self._known_hosts} has no key of {access.host}, port {access.port}: add "
                    "it, or describe its host_key"
                )
            )
        return found

    async def _identities(self, access: SshAccess) -> list[Any]:
        path = Path(access.identity) if access.identity is not None else self._identity
        if path is None:
            raise SshFailed(
                ssh_outcome.misconfigured(
                    "no_identity",
                    f"no key to show to {access.host}: describe its identity, or set "
                    "INTERLOCK_HEALTH_SSH_IDENTITY",
                )
            )
        return [await self._file(path, _identity)]

    async def _file(self, path: Path, read: Any) -> Any:
        """What a file says, read in a thread, and once for each time it was written."""
        try:
            stat = await asyncio.to_thread(path.stat)
            written = (stat.st_mtime_ns, stat.st_size)
            had = self._read.get(path)
            if had is not None and had[0] == written:
                return had[1]
            value = await asyncio.to_thread(read, str(path))
        except (OSError, ValueError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise SshFailed(
                ssh_outcome.misconfigured("unusable_file", f"{path} cannot be used: {error}")
            ) from None
        self._read[path] = (written, value)
        return value


def _identity(path: str) -> Any:
    """A private key, with the certificate that lies beside it."""
    key = asyncssh.read_private_key(path)
    certificate = Path(f"{path}-cert.pub")
    if certificate.exists():
        return key, asyncssh.read_certificate(str(certificate))
    return key
