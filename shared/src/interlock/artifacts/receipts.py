"""Writes a node's receipts and tells the fleet of them, for as long as it takes.

What stands on the disk is a fact whether or not the broker can be reached: each call goes on until
the broker has it, and is done once however often it is tried.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from interlock import logs
from interlock.artifacts.inventory import Inventory
from interlock.clock import now, rfc3339
from interlock.errors import BusUnavailable
from interlock.fleet import Fleet
from interlock_schemas.artifacts import Artifact, Copy
from interlock_schemas.event import Event
from interlock_schemas.sync import ArtifactDropped, ArtifactSealed, SyncChecksumFailed

__all__ = ["Receipts", "surely"]

T = TypeVar("T")

_PAUSE_S: Final = 1.0
_LONGEST_TEXT: Final = 500

log = logs.get_logger("interlock.artifacts")


async def surely(call: Callable[[], Awaitable[T]]) -> T:
    """Call until the broker answers. Only for what may be done twice."""
    complained = False
    while True:
        try:
            return await call()
        except BusUnavailable as error:
            if not complained:
                log.warning("the broker does not answer, trying on", why=str(error))
            complained = True
            await asyncio.sleep(_PAUSE_S)


class Receipts:
    """The receipts of one node. `noted` is called with each that was written."""

    def __init__(
        self, fleet: Fleet, node: str, noted: Callable[[Copy], None] = lambda _: None
    ) -> None:
        self.inventory = Inventory(fleet.bus)
        self.node = node
        self._fleet = fleet
        self._noted = noted

    async def of(self, id: str, node: str | None = None) -> Copy | None:
        """The receipt of an artifact, of this node or another; None where there is none."""
        return await surely(lambda: self.inventory.copy(node or self.node, id))

    async def write(self, copy: Copy) -> None:
        """Write a receipt, over the one before."""
        await surely(lambda: self.inventory.tell_copy(copy))
        self._noted(copy)

    async def held(self, about: Artifact, copy: Copy) -> bool:
        """A copy stands here and is verified. Whether nobody had told of the artifact before."""
        await self.write(copy)
        return await surely(lambda: self.inventory.tell_artifact(about))

    async def sealed(self, about: Artifact) -> None:
        """An artifact was sealed here. First the receipt: whoever hears of it may ask for it."""
        copy = Copy(
            id=about.id,
            node=self.node,
            bytes=about.bytes,
            at=about.sealed_at,
            verified_at=about.sealed_at,
        )
        if not await self.held(about, copy):
            # It had been told of, and only its receipt was lost.
            return
        event = ArtifactSealed(
            artifact=about.id,
            dataset=about.dataset,
            config=about.config or None,
            node=self.node,
            name=about.name,
            bytes=about.bytes,
            files=about.files,
        )
        await self._tell(event, f"artifact-sealed-{self.node}-{about.id}")

    async def verified(self, id: str, size: int) -> Copy:
        """Every digest of a copy was checked just now."""
        at = rfc3339(now())
        before = await self.of(id)
        if before is not None and before.state == "held":
            copy = msgspec.structs.replace(before, verified_at=at)
        else:
            copy = Copy(id=id, node=self.node, bytes=size, at=at, verified_at=at)
        await self.write(copy)
        return copy

    async def damaged(self, id: str, size: int, why: str) -> None:
        """A copy was found damaged, and put aside."""
        at = rfc3339(now())
        before = await self.of(id)
        await self.write(
            Copy(
                id=id,
                node=self.node,
                state="damaged",
                bytes=size,
                at=before.at if before is not None else at,
                verified_at=before.verified_at if before is not None else at,
                reason=why[:_LONGEST_TEXT],
            )
        )
        log.error("a copy is damaged, and was put aside", artifact=id, node=self.node, why=why)
        event = SyncChecksumFailed(artifact=id, target_node=self.node, reason=why[:_LONGEST_TEXT])
        await self._tell(event, f"artifact-damaged-{self.node}-{id}-{at}")

    async def dropped(self, about: Artifact, *, replicas: int, token: int, order: str) -> Copy:
        """Write the tombstone of a copy that is about to be deleted; what stood before."""
        at = rfc3339(now())
        before = await self.of(about.id)
        await self.write(
            Copy(
                id=about.id,
                node=self.node,
                state="dropped",
                bytes=about.bytes,
                at=at,
                verified_at=before.verified_at if before is not None else at,
                token=token,
                order=order,
                replicas=replicas,
            )
        )
        return before or Copy(
            id=about.id, node=self.node, bytes=about.bytes, at=at, verified_at=about.sealed_at
        )

    async def tell_dropped(self, about: Artifact, *, replicas: int | None, why: str) -> None:
        """Tell that a copy was deleted, or is gone."""
        event = ArtifactDropped(
            artifact=about.id,
            node=self.node,
            dataset=about.dataset,
            replicas=replicas,
            reason=why[:_LONGEST_TEXT],
        )
        await self._tell(event, f"artifact-dropped-{self.node}-{about.id}-{rfc3339(now())}")

    async def forget(self, id: str) -> bool:
        """Take back the receipt of what is not here; whether there was one."""
        return await surely(lambda: self.inventory.forget_copy(self.node, id))

    async def _tell(self, event: Event, id: str) -> None:
        await surely(lambda: self._fleet.publish(event, id=id))
