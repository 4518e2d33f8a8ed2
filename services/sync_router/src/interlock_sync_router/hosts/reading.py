"""Reads from a store that is on a host with SSH only, for those who can ask the broker alone."""

import asyncio
import concurrent.futures
from typing import Final

from interlock.artifacts import names
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports import remote
from interlock.artifacts.transports.base import Piece
from interlock_sync_router.hosts.destination import RemoteDestination
from interlock_sync_router.hosts.remote import RemoteHost

__all__ = ["RemoteReadable"]

#: Whoever asked has asked again by then.
_PATIENCE_S: Final = 10.0
_MANIFESTS: Final = 16


class RemoteReadable:
    """As `interlock.artifacts.transports.read_server.Readable` has it. Made in the event loop."""

    def __init__(self, host: RemoteHost, destination: RemoteDestination) -> None:
        self._host = host
        self._destination = destination
        self._loop = asyncio.get_running_loop()
        self._manifests: dict[str, bytes] = {}

    def read(self, id: str, path: str | None, offset: int, length: int) -> bytes:
        """Bytes of a file, or of the manifest. In a thread. Raises TransferFailed, ArtifactError
        for names that lead elsewhere."""
        if path is not None:
            names.check(path)
        if not length:
            return b""
        work = self._manifest(id) if path is None else self._file(id, path, offset, length)
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            data = asked.result(_PATIENCE_S)
        except concurrent.futures.TimeoutError:
            asked.cancel()
            raise TransferFailed("timeout", f"{self._host.node} does not answer over SSH") from None
        return data if path is not None else data[offset : offset + length]

    async def _manifest(self, id: str) -> bytes:
        data = self._manifests.get(id)
        if data is None:
            data = await self._destination.read(remote.manifest_trip(self._host.root, id))
            if len(self._manifests) >= _MANIFESTS:
                self._manifests.pop(next(iter(self._manifests)))
            self._manifests[id] = data
        return data

    async def _file(self, id: str, path: str, offset: int, length: int) -> bytes:
        piece = Piece(id, path, offset, length, False)
        parts = [
            await self._destination.read(trip) for trip in remote.trips(self._host.root, [piece])
        ]
        return b"".join(parts)
