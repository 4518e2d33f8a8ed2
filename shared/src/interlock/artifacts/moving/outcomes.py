"""What becomes of orders: taken away once what they ask for stands, tried again, or given up."""

import random
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from interlock import logs
from interlock.artifacts.moving.book import OrderBook
from interlock.artifacts.queue import History, Standing, Tried, after
from interlock.artifacts.receipts import surely
from interlock.bus import Bus
from interlock.clock import now, rfc3339
from interlock.conditional import ALONE, PURGE, Write, expecting, living
from interlock.errors import WrongRevision
from interlock.kv import Store
from interlock_schemas.orders import Failure, Order, order_key
from interlock_schemas.topology import ORDERS

__all__ = ["Outcomes"]

_PAUSE_S: Final = 1.0
_COMMIT_S: Final = 10.0

log = logs.get_logger("interlock.artifacts.mover")


class Outcomes:
    """The outcomes of the orders in one book."""

    def __init__(self, bus: Bus, book: OrderBook) -> None:
        self.node = book.node
        self.histories: dict[str, History] = {}
        """Of the orders that have been tried, by artifact."""
        self._bus = bus
        self._book = book
        self._seen: dict[str, Order] = {}

    def note_change(self, id: str) -> Order | None:
        """An order may have changed: forget what was tried where it is another one now. As it
        stands; None where there is none any more."""
        standing = self._book.orders.get(id)
        if standing is None:
            self._seen.pop(id, None)
            self.histories.pop(id, None)
            return None
        seen = self._seen.get(id)
        if seen is not None and not _same_task(seen, standing.order):
            self.histories.pop(id, None)
        self._seen[id] = standing.order
        return standing.order

    @property
    def known(self) -> set[str]:
        """The artifacts that there is, or was, an order about."""
        return {*self._seen, *self._book.orders}

    def put_off(self, order: Order) -> None:
        """Try again in a moment; it is not the order's fault."""
        history = self.histories.get(order.artifact, History())
        self.histories[order.artifact] = msgspec.structs.replace(
            history, not_before=time.monotonic() + _PAUSE_S
        )

    async def done(self, order: Order) -> None:
        """Take the order away: what it asked for stands."""
        revision = await self._revision(order)
        while revision is not None:
            headers = {**living(ORDERS.marker_ttl_s), **PURGE, **expecting(revision)}
            try:
                await self._write(order, b"", headers)
            except WrongRevision:
                revision = await self._revision(order, known=False)
            else:
                break
        self.histories.pop(order.artifact, None)

    async def failed(self, order: Order, *tried: Tried) -> None:
        """Note a failed attempt; where nothing is left to try, write so into the order."""
        id = order.artifact
        history = self.histories.get(id, History())
        *others, last = tried
        if others:
            history = msgspec.structs.replace(history, tried=(*history.tried, *others))
        jitter = random.random()  # noqa: S311
        result = after(order, history, last, time.monotonic(), jitter=jitter)
        if isinstance(result, History):
            log.info(
                "an attempt failed", artifact=id, code=last.code, source=last.source, why=last.text
            )
            self.histories[id] = result
            return
        standing = self._book.orders.get(id)
        if standing is None or not _same_task(standing.order, order):
            # It is another order by now: that one is looked at anew.
            self.histories.pop(id, None)
            return
        log.warning(
            "an order was given up",
            artifact=id,
            code=result.code,
            source=result.source,
            why=result.text,
        )
        failure = Failure(
            code=result.code,
            text=result.text,
            at=rfc3339(now()),
            source=result.source,
            transport=result.transport,
            attempts=len(history.tried) + 1,
        )
        told = msgspec.structs.replace(standing.order, failure=failure)
        headers = {**ALONE, **expecting(standing.revision)}
        self.histories.pop(id, None)
        try:
            await self._write(told, msgspec.json.encode(told), headers)
        except WrongRevision:
            log.info("the order was changed meanwhile", artifact=id)
            self.put_off(order)
            return
        # Until the bucket says the same, it is not to be begun again.
        if self._book.orders.get(id) is standing:
            self._book.orders[id] = Standing(told, standing.revision)

    async def _revision(self, order: Order, *, known: bool = True) -> int | None:
        """Where an order to the same end stands; None: nowhere."""
        if known:
            standing = self._book.still(order.artifact, order.action)
            if standing is not None:
                return standing.revision
        key = order_key(self.node, order.artifact)
        entry = await surely(lambda: Store(self._bus, ORDERS).get(key))
        if entry.value is None:
            return None
        try:
            found = msgspec.json.decode(entry.value, type=Order)
        except (msgspec.DecodeError, RecursionError):
            return None
        return entry.revision if found.action == order.action else None

    async def _write(self, order: Order, body: bytes, headers: Mapping[str, str]) -> None:
        subject = ORDERS.key_subject(order_key(self.node, order.artifact))
        write = Write(subject, body, headers)
        await surely(lambda: self._bus.commit([write], timeout_s=_COMMIT_S))


def _same_task(one: Order, other: Order) -> bool:
    """Whether they ask for the same: the next router gives its own token to what stands."""
    return (one.id, one.action, one.sources, one.others) == (
        other.id,
        other.action,
        other.sources,
        other.others,
    )
