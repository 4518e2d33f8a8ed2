"""Deletes a copy, once enough others are known to be whole.

Two nodes that are told to drop at the same time, each counting on the other, do not both do it: the
tombstone is written first, and then the others are looked at again.
"""

import msgspec

from interlock.artifacts.destination import Destination
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.moving.book import OrderBook
from interlock.artifacts.moving.outcomes import Outcomes
from interlock.artifacts.moving.tenure import Tenure
from interlock.artifacts.moving.under_way import Run
from interlock.artifacts.queue import Tried
from interlock.artifacts.receipts import Receipts
from interlock_schemas.orders import Order

__all__ = ["Dropping"]


class Dropping:
    """Drops artifacts of one store. Raises TransferFailed where that cannot be done."""

    def __init__(
        self,
        destination: Destination,
        receipts: Receipts,
        book: OrderBook,
        outcomes: Outcomes,
        tenure: Tenure,
    ) -> None:
        self.node = destination.node
        self._destination = destination
        self._receipts = receipts
        self._book = book
        self._outcomes = outcomes
        self._tenure = tenure

    async def drop(self, run: Run, order: Order) -> None:
        """Delete a copy, unless fewer verified ones stand elsewhere than the order demands."""
        held, checked = await self._elsewhere(order)
        if checked < order.replicas:
            waits = held >= order.replicas
            text = _too_few(order, held, checked)
            await self._outcomes.failed(order, Tried(code="too_few_copies", text=text, waits=waits))
            return
        lease = self._tenure.lease
        token = self._book.token(order)
        if lease is None or not self._tenure.stands or token < self._book.epoch:
            self._outcomes.put_off(order)
            return
        run.committing = True
        try:
            here = await self._destination.holds(order.artifact)
            before = await self._receipts.dropped(
                order.about, replicas=checked, token=token, order=order.id
            )
            # Others may have been dropping theirs, counting on this one: whoever looks again after
            # its tombstone stands sees theirs.
            held, checked = await self._elsewhere(order)
            if checked < order.replicas:
                if here:
                    await self._receipts.write(msgspec.structs.replace(before, state="held"))
                raise TransferFailed("too_few_copies", _too_few(order, held, checked))
            if here:
                try:
                    await self._destination.drop(
                        order.artifact, order_token=token, store_token=lease.token
                    )
                except TransferFailed as error:
                    await self._receipts.write(msgspec.structs.replace(before, state="held"))
                    if error.code != "stale_token":
                        raise
                    self._outcomes.put_off(order)
                    return
                reasons = "; ".join(order.reasons)
                await self._receipts.tell_dropped(order.about, replicas=checked, why=reasons)
            await self._outcomes.done(order)
        finally:
            run.committing = False

    async def _elsewhere(self, order: Order) -> tuple[int, int]:
        """How many others hold a copy; how many of these were checked since the order was given."""
        if not order.replicas:
            return 0, 0
        held = checked = 0
        for node in dict.fromkeys(order.others):
            if node == self.node:
                continue
            copy = await self._receipts.of(order.artifact, node)
            if copy is not None and copy.state == "held" and copy.id == order.artifact:
                held += 1
                checked += copy.verified_at > order.issued_at
        return held, checked


def _too_few(order: Order, held: int, checked: int) -> str:
    return (
        f"{order.replicas} others have to hold a copy that was checked since {order.issued_at}; of "
        f"{', '.join(order.others) or 'none named'} {held} hold one, {checked} checked it"
    )
