"""The store of a host that has SSH only, as a destination: taken in here, handed on at the commit.

An artifact comes into a staging store of the router by the same ways as into any store, every byte
checked. At the commit it is sent on, and only what the host's own digests say counts: it stands
there once they all agree and the fence there admitted both tokens.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Final, TypeVar

from interlock.artifacts import layout
from interlock.artifacts import manifest as manifests
from interlock.artifacts.destination import LocalDestination, LocalIncoming, as_failure
from interlock.artifacts.errors import ArtifactError, TransferFailed
from interlock.artifacts.pacing import Pacer
from interlock.artifacts.store import LocalStore, Verified
from interlock.artifacts.transports import remote as reading
from interlock.artifacts.transports.base import Piece
from interlock.clock import now
from interlock.errors import FenceBusy, FenceUnusable, StaleToken
from interlock.locks import mounts
from interlock_schemas.artifacts import Artifact, Manifest
from interlock_sync_router.hosts import pushing, scripts
from interlock_sync_router.hosts.handover import SOME_FAILED, Handover, found
from interlock_sync_router.hosts.remote import RemoteHost

__all__ = ["RemoteDestination"]

T = TypeVar("T")

#: How long what was said of the room there counts, while nothing is sent, seconds.
_FRESH_S: Final = 5.0


class _Here:
    """An artifact that is in the staging store already."""

    missing: Sequence[Piece] = ()
    complete = True

    def __init__(self, id: str, room: contextlib.ExitStack) -> None:
        self.id = id
        self._room = room

    def write(self, data: memoryview) -> None:
        """Nothing is missing."""
        if len(data):
            raise TransferFailed("io", "more bytes came than were asked for")

    async def close(self) -> None:
        """Give back the room."""
        self._room.close()


class _Staged:
    """An artifact on its way into the staging store."""

    def __init__(self, incoming: LocalIncoming, room: contextlib.ExitStack) -> None:
        self.id = incoming.id
        self._incoming = incoming
        self._room = room

    @property
    def missing(self) -> Sequence[Piece]:
        """What is still to come."""
        return self._incoming.missing

    @property
    def complete(self) -> bool:
        """Whether all of it is here and verified."""
        return self._incoming.complete

    def write(self, data: memoryview) -> None:
        """The next bytes of `missing`."""
        self._incoming.write(data)

    async def close(self) -> None:
        """Keep what is verified, and give back the room."""
        self._room.close()
        await self._incoming.close()


class RemoteDestination:
    """The store of one host, written over SSH. `staging` is for this host alone.

    `pacer` bounds what is sent there. Artifacts are sent one after the other.
    """

    def __init__(
        self, host: RemoteHost, staging: LocalStore, executor: Executor, pacer: Pacer | None = None
    ) -> None:
        self.node = host.node
        self._host = host
        self._staging = staging
        self._local = LocalDestination(staging, host.node, executor)
        self._executor = executor
        self._handover = Handover(host, executor, pacer or Pacer())
        self._promised: dict[str, int] = {}
        self._free: int | None = None
        self._free_at = 0.0

    async def open(self) -> None:
        """Have the folders of the store there. Raises TransferFailed where that host lacks what
        is needed."""
        ran = await self._host.run(scripts.prepare(self._host.root))
        kind = scripts.parse_prepared(ran.out)
        if kind is None:
            raise TransferFailed(
                "denied",
                f"{self.node}: its shell prints something of its own at a login without terminal "
                f"({ran.out[:80]!r}): see to what it reads at start",
            )
        if mounts.is_shared(kind):
            raise TransferFailed(
                "denied",
                f"{self.node}: {self._host.root} is on a network file system ({kind}), where a "
                "frozen mover loses its lock without knowing: name a folder on a local disk",
            )
        for id in await self._blocking(self._staging.ids):
            if await self.holds(id):
                await self._clear(id)

    async def holds(self, id: str) -> bool:
        """Whether an artifact stands there under its final name."""
        ran = await self._host.run(scripts.holds(self._host.root, id))
        return ran.out.strip() == b"yes"

    async def show(self, *, order_token: int | None = None, store_token: int | None = None) -> None:
        """Have lower tokens refused from now on, there and in the staging store."""
        await self._local.show(order_token=order_token, store_token=store_token)
        tokens = scripts.Tokens(order=order_token, store=store_token)
        command = scripts.show(self._host.root, tokens)
        ran = await self._host.run(
            command, fine=(0, scripts.STALE, scripts.BUSY, scripts.DAMAGED_FENCE)
        )
        if ran.code == scripts.STALE:
            stale = scripts.parse_stale(ran.said) or scripts.Stale("store", store_token or 0, 0)
            raise StaleToken(
                f"{self.node}: token {stale.shown} for {stale.resource} is stale, {stale.seen} "
                "has been seen since",
                resource=stale.resource,
                shown=stale.shown,
                seen=stale.seen,
            )
        if ran.code == scripts.BUSY:
            raise FenceBusy(f"{self.node}: {ran.said.strip()}")
        if ran.code == scripts.DAMAGED_FENCE:
            raise FenceUnusable(f"{self.node}: {ran.said.strip()}: repair it with FileFence.repair")

    async def prepare(self, about: Artifact, manifest: bytes) -> _Here | _Staged:
        """Begin to take in an artifact, or go on where it was left."""
        room = await self._room(about)
        try:
            if await self._local.holds(about.id):
                return _Here(about.id, room)
            return _Staged(await self._local.prepare(about, manifest), room)
        except BaseException:
            room.close()
            raise

    async def flush(self) -> None:
        """Before several commits: have all that was taken in on the disk. The host's own disk is
        seen to with each commit."""
        await self._local.flush()

    async def commit(self, id: str, *, order_token: int, store_token: int, flushed: bool) -> None:
        """Have a complete artifact stand there under its final name, all of its digests checked
        by the host itself."""
        await self._local.commit(
            id, order_token=order_token, store_token=store_token, flushed=flushed
        )
        tokens = scripts.Tokens(order=order_token, store=store_token)
        manifest = await self._blocking(lambda: self._staging.manifest(id))
        try:
            await self._handover.hand_on(id, manifest, self._folder(id), tokens)
        except TransferFailed as error:
            if error.code == "damaged":
                # What is here may not be what it was, either: all of it is fetched again.
                await self._clear(id)
            raise
        finally:
            self._free = None
        await self._clear(id)

    async def verify(self, id: str) -> Verified:
        """Have the host compute every digest."""
        manifest = await self.manifest(id)
        if manifest is None:
            return Verified(ok=False, bytes=0, problems=("its manifest is not what it was",))
        ran = await self._host.run(scripts.verify_held(self._host.root, id), fine=(0, SOME_FAILED))
        wrong = pushing.judge(manifest, id, found(ran, self.node))
        return Verified(
            ok=not wrong,
            bytes=manifests.total_bytes(manifest),
            problems=tuple(f"{path.decode(errors='replace')!r} {wrong[path]}" for path in wrong),
        )

    async def quarantine(self, id: str, why: str) -> None:
        """Put a damaged artifact aside."""
        suffix = f"{now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        await self._host.run(scripts.quarantine(self._host.root, id, suffix, why))

    async def drop(self, id: str, *, order_token: int, store_token: int) -> None:
        """Delete an artifact."""
        tokens = scripts.Tokens(order=order_token, store=store_token)
        attempt = secrets.token_hex(6)
        await self._host.run(scripts.drop(self._host.root, tokens, id, attempt))

    async def ids(self) -> list[str]:
        """What stands there."""
        ran = await self._host.run(scripts.listing(self._host.root))
        return scripts.parse_ids(ran.out)

    async def look(self) -> scripts.Look:
        """How much room there is, and how much is there."""
        ran = await self._host.run(scripts.look(self._host.root))
        try:
            return scripts.parse_look(ran.out)
        except ValueError as error:
            raise TransferFailed("io", f"{self.node}: {error}") from error

    async def tidy(self) -> None:
        """Delete there what nobody will want any more."""
        await self._host.run(scripts.tidy(self._host.root))

    async def manifest(self, id: str) -> Manifest | None:
        """The manifest there; None where it is not the artifact's."""
        data = await self.read(reading.manifest_trip(self._host.root, id))
        try:
            return manifests.decode(data, id)
        except ArtifactError:
            return None

    async def read(self, trip: reading.Trip) -> bytes:
        """What a command of `interlock.artifacts.transports.remote` prints."""
        ran = await self._host.run(trip.command, trip.stdin, fine=tuple(range(256)))
        known = reading.failure(ran.code, ran.said, self.node)
        if known is not None:
            raise known
        # A command that had to send no more than a part may have been ended by that.
        if ran.code and len(ran.out) < trip.length:
            raise TransferFailed("io", f"{self.node}: {ran.said[-200:]}")
        return ran.out

    async def _room(self, about: Artifact) -> contextlib.ExitStack:
        """Count on the room that it needs there. Raises TransferFailed."""
        if self._free is None or time.monotonic() - self._free_at > _FRESH_S:
            self._free = (await self.look()).free_bytes
            self._free_at = time.monotonic()
        if self._free is not None:
            others = sum(size for id, size in self._promised.items() if id != about.id)
            free = self._free - others
            if free < about.bytes:
                raise TransferFailed(
                    "no_space",
                    f"{self.node} has room for {max(0, free):,} bytes, and {about.bytes:,} are "
                    "needed",
                )
        self._promised[about.id] = about.bytes
        room = contextlib.ExitStack()
        room.callback(self._promised.pop, about.id, None)
        return room

    async def _clear(self, id: str) -> None:
        """Forget what was taken in here."""
        fence = self._staging.fence

        def drop() -> None:
            if self._staging.has(id):
                order_token = fence.highest("orders") or 1
                store_token = fence.highest("store") or 1
                self._staging.drop(id, order_token=order_token, store_token=store_token)

        # Another router on this machine may just have shown a higher one; then it is its matter.
        with contextlib.suppress(StaleToken, FenceBusy, TransferFailed):
            await self._blocking(drop)

    def _folder(self, id: str) -> Path:
        return self._staging.root / layout.artifact_dir(id)

    async def _blocking(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except OSError as error:
            raise as_failure(error, "the staging store cannot be used") from error
