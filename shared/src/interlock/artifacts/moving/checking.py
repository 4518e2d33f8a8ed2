"""Checks what is in the store already against its digests, and sees that it has its receipt."""

from collections.abc import Sequence

from interlock.artifacts.destination import Destination
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.moving.outcomes import Outcomes
from interlock.artifacts.moving.under_way import Run
from interlock.artifacts.receipts import Receipts
from interlock.clock import now, rfc3339
from interlock_schemas.artifacts import Copy
from interlock_schemas.orders import Order

__all__ = ["Checking"]


class Checking:
    """Checks artifacts of one store. Raises TransferFailed where that cannot be done."""

    def __init__(self, destination: Destination, receipts: Receipts, outcomes: Outcomes) -> None:
        self.node = destination.node
        self._destination = destination
        self._receipts = receipts
        self._outcomes = outcomes

    async def is_held(self, order: Order) -> None:
        """It is here already: see that it has a receipt."""
        id = order.artifact
        copy = await self._receipts.of(id)
        if copy is None or copy.state != "held":
            verified = await self._destination.verify(id)
            if not verified.ok:
                await self._is_damaged(order, verified.problems)
                return
            at = rfc3339(now())
            size = order.about.bytes
            held = Copy(id=id, node=self.node, bytes=size, at=at, verified_at=at, order=order.id)
            await self._receipts.held(order.about, held)
        await self._outcomes.done(order)

    async def verify(self, run: Run, order: Order) -> None:
        """Check every digest now: its receipt then says so, or that the copy is damaged."""
        if not await self._destination.holds(order.artifact):
            await self._receipts.forget(order.artifact)
            raise TransferFailed("source_gone", "it is not in the store")
        verified = await self._destination.verify(order.artifact)
        run.committing = True
        try:
            if verified.ok:
                await self._receipts.verified(order.artifact, order.about.bytes)
                await self._outcomes.done(order)
            else:
                await self._is_damaged(order, verified.problems)
        finally:
            run.committing = False

    async def _is_damaged(self, order: Order, problems: Sequence[str]) -> None:
        why = "; ".join(problems)[:400] or "its digests do not agree"
        await self._destination.quarantine(order.artifact, why)
        await self._receipts.damaged(order.artifact, order.about.bytes, why)
        if order.action == "fetch":
            # Now it is not here any more, and the order still stands.
            self._outcomes.put_off(order)
        else:
            await self._outcomes.done(order)
