"""Where artifacts go: a store, and what may be done to it. `Mover` decides when.

The store of this host is `LocalDestination`. For a host that is reached over SSH only, there is
another one: it takes an artifact in here, and hands it on when it commits.
"""

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Final, Protocol, TypeVar

from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.receiving import Receiving
from interlock.artifacts.store import LocalStore, Verified
from interlock.artifacts.transports.base import Piece
from interlock.errors import FenceBusy, FenceUnusable, StaleToken
from interlock_schemas.artifacts import Artifact
from interlock_schemas.orders import FailureCode

__all__ = ["Destination", "Incoming", "LocalDestination", "LocalIncoming", "as_failure"]

T = TypeVar("T")

_CODES: Final[dict[int, FailureCode]] = {
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EFBIG: "no_space",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "denied",
    errno.ENAMETOOLONG: "refused_name",
}


def as_failure(error: OSError, doing: str) -> TransferFailed:
    """What it means for a transfer that the disk refused."""
    code = _CODES.get(error.errno or 0, "io")
    return TransferFailed(code, f"{doing}: {error.strerror or error}")


class Incoming(Protocol):
    """An artifact that is being taken in; room for it is reserved until `close`."""

    id: str

    @property
    def missing(self) -> Sequence[Piece]:
        """What is still to come, in the order in which `write` takes it."""

    @property
    def complete(self) -> bool:
        """Whether all of it is here and verified."""

    def write(self, data: memoryview) -> None:
        """The next bytes of `missing`. In a thread. Raises TransferFailed: ``damaged`` where they
        are not what the manifest says, ``no_space``, ``denied``, ``io``."""

    async def close(self) -> None:
        """Keep what is verified for the next time, and give back the room."""


class Destination(Protocol):
    """The store of one node. Everything here may raise TransferFailed."""

    node: str

    async def holds(self, id: str) -> bool:
        """Whether an artifact stands there under its final name."""

    async def show(self, *, order_token: int | None = None, store_token: int | None = None) -> None:
        """Have lower tokens refused from now on. None: of that kind there is none yet.

        Raises StaleToken where a higher one was seen, FenceBusy and FenceUnusable.
        """

    async def prepare(self, about: Artifact, manifest: bytes) -> Incoming:
        """Begin to take in an artifact, or go on where it was left.

        Raises TransferFailed: ``no_space`` where there is no room for what is missing,
        ``refused_name``, ``damaged`` for a manifest that is not the artifact's.
        """

    async def flush(self) -> None:
        """Before several commits: have all that was taken in on the disk."""

    async def commit(self, id: str, *, order_token: int, store_token: int, flushed: bool) -> None:
        """Have a complete artifact stand under its final name; nothing is done where it does.

        Raises TransferFailed: ``stale_token``, with what was taken in kept for others.
        """

    async def verify(self, id: str) -> Verified:
        """Check every digest against what is on the disk. Cancelled, it stops soon."""

    async def quarantine(self, id: str, why: str) -> None:
        """Put a damaged artifact aside, where nobody uses it."""

    async def drop(self, id: str, *, order_token: int, store_token: int) -> None:
        """Delete an artifact. Raises TransferFailed: ``stale_token``."""


class LocalIncoming:
    """An artifact on its way into the store of this host."""

    def __init__(
        self, receiving: Receiving, room: contextlib.ExitStack, executor: Executor
    ) -> None:
        self.id = receiving.id
        self._receiving = receiving
        self._room = room
        self._executor = executor

    @property
    def missing(self) -> Sequence[Piece]:
        """What is still to come."""
        return self._receiving.missing

    @property
    def complete(self) -> bool:
        """Whether all of it is here and verified."""
        return self._receiving.complete

    def write(self, data: memoryview) -> None:
        """The next bytes of `missing`."""
        try:
            self._receiving.write(data)
        except OSError as error:
            raise as_failure(error, "it cannot be written") from error

    async def close(self) -> None:
        """Keep what is verified, and give back the room."""
        loop = asyncio.get_running_loop()
        # Seen through when cancelled: the next attempt opens the same folder.
        await asyncio.shield(loop.run_in_executor(self._executor, self._close))

    def _close(self) -> None:
        with self._room, contextlib.suppress(OSError):
            self._receiving.close()


class LocalDestination:
    """The store of this host. What blocks runs in threads of `executor`."""

    def __init__(self, store: LocalStore, node: str, executor: Executor) -> None:
        self.store = store
        self.node = node
        self._executor = executor

    async def holds(self, id: str) -> bool:
        """Whether an artifact stands there under its final name."""
        return await self._run(lambda: self.store.has(id), "the store cannot be read")

    async def show(self, *, order_token: int | None = None, store_token: int | None = None) -> None:
        """Have lower tokens refused from now on."""

        def show() -> None:
            for resource, token in (("orders", order_token), ("store", store_token)):
                if token is not None:
                    with self.store.fence.guard(resource, token):
                        pass

        await self._run(show, "the fence cannot be written")

    async def prepare(self, about: Artifact, manifest: bytes) -> LocalIncoming:
        """Begin to take in an artifact, or go on where it was left."""

        def prepare() -> LocalIncoming:
            with contextlib.ExitStack() as stack:
                receiving = self.store.receive(about, manifest)
                stack.callback(receiving.close)
                lacking = sum(piece.length for piece in receiving.missing)
                room = contextlib.ExitStack()
                room.enter_context(self.store.reserve(about.id, lacking))
                stack.pop_all()
            return LocalIncoming(receiving, room, self._executor)

        return await self._run(prepare, "it cannot be taken in")

    async def flush(self) -> None:
        """Before several commits: have all that was taken in on the disk."""
        await self._run(self.store.flush, "the disk cannot be flushed")

    async def commit(self, id: str, *, order_token: int, store_token: int, flushed: bool) -> None:
        """Have a complete artifact stand under its final name."""

        def commit() -> None:
            self.store.commit(id, order_token=order_token, store_token=store_token, flushed=flushed)

        await self._run_fenced(commit, "it cannot be committed")

    async def verify(self, id: str) -> Verified:
        """Check every digest against what is on the disk."""
        cancelled = threading.Event()
        try:
            return await self._run(
                lambda: self.store.verify(id, cancelled=cancelled), "it cannot be read"
            )
        finally:
            cancelled.set()

    async def quarantine(self, id: str, why: str) -> None:
        """Put a damaged artifact aside."""
        await self._run(lambda: self.store.quarantine(id, why), "it cannot be put aside")

    async def drop(self, id: str, *, order_token: int, store_token: int) -> None:
        """Delete an artifact."""

        def drop() -> None:
            self.store.drop(id, order_token=order_token, store_token=store_token)

        await self._run_fenced(drop, "it cannot be deleted")

    async def _run_fenced(self, call: Callable[[], None], doing: str) -> None:
        try:
            await self._run(call, doing)
        except StaleToken as error:
            raise TransferFailed("stale_token", str(error)) from error
        except (FenceBusy, FenceUnusable) as error:
            raise TransferFailed("io", str(error)) from error

    async def _run(self, call: Callable[[], T], doing: str) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, call)
        except OSError as error:
            raise as_failure(error, doing) from error
