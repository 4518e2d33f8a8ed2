"""What the orders bucket says to one node, as it changes: its orders, the epoch, the pauses.

After each gap the bucket is read from the start again, so that an order that went meanwhile is
known to be gone.
"""

from collections.abc import AsyncGenerator
from typing import Final, TypeVar

import msgspec

from interlock import logs
from interlock.artifacts.queue import Standing
from interlock.bus import Bus
from interlock.clock import now, rfc3339
from interlock.reader import Reader, Record
from interlock_schemas.orders import EPOCH_KEY, Action, Epoch, Order, Pause, order_keys, pause_key
from interlock_schemas.topology import ORDERS

__all__ = ["OrderBook"]

T = TypeVar("T")

_PREFIX: Final = len(ORDERS.key_subject(""))

log = logs.get_logger("interlock.artifacts.orders")


class OrderBook:
    """The orders of one node as they stand. Read it after `changes` has yielded once."""

    def __init__(self, bus: Bus, node: str) -> None:
        self.node = node
        self.epoch = 0
        """The token of the newest router. 0: there was none yet."""
        self.orders: dict[str, Standing] = {}
        """By artifact."""
        self.is_read = False
        """Whether everything that stands was read once."""
        self._pauses: dict[str, Pause] = {}
        self._node_pause = pause_key(f"node:{node}")
        self._order_prefix = order_keys(node).removesuffix("*")
        filters = (order_keys(node), EPOCH_KEY, "pause.*")
        self._reader = Reader(
            bus,
            ORDERS.stream,
            tuple(ORDERS.key_subject(each) for each in filters),
            {"deliver_policy": "last_per_subject"},
        )

    async def changes(self) -> AsyncGenerator[str | None, None]:
        """Once everything that stands has been read: None. After each change then: the artifact
        whose order changed, None where it is something else."""
        fresh: dict[str, Record] = {}
        reading = False
        async for record in self._reader.snapshots():
            if record == "begin":
                fresh, reading = {}, True
            elif record is None:
                self._begin_anew(fresh)
                self.is_read, reading = True, False
                yield None
            elif isinstance(record, Record) and reading:
                fresh[record.subject] = record
            elif isinstance(record, Record):
                yield self._take(record)

    def still(self, id: str, action: Action) -> Standing | None:
        """The order about an artifact, if one of that action stands."""
        standing = self.orders.get(id)
        return standing if standing is not None and standing.order.action == action else None

    def token(self, order: Order) -> int:
        """The newest token that an order stands with."""
        standing = self.orders.get(order.artifact)
        return max(order.token, standing.order.token) if standing is not None else order.token

    def paused(self, order: Order) -> bool:
        """Whether nothing is begun that belongs to it."""
        at = rfc3339(now())
        for key in (pause_key("fleet"), self._node_pause, pause_key(_dataset_scope(order))):
            pause = self._pauses.get(key)
            if pause is not None and (pause.until is None or pause.until > at):
                return True
        return False

    @property
    def pauses_end(self) -> bool:
        """Whether a pause stands that ends by itself."""
        return any(pause.until is not None for pause in self._pauses.values())

    def _begin_anew(self, records: dict[str, Record]) -> None:
        self.orders.clear()
        self._pauses.clear()
        for record in records.values():
            self._take(record)

    def _take(self, record: Record) -> str | None:
        key = record.subject[_PREFIX:]
        # What is deleted or has expired has no body.
        if key == EPOCH_KEY:
            epoch = _decoded(key, record.body, Epoch)
            # It only rises: that of a bucket made anew comes with the next router.
            self.epoch = max(self.epoch, epoch.token) if epoch is not None else self.epoch
        elif key.startswith("pause."):
            pause = _decoded(key, record.body, Pause)
            if pause is None:
                self._pauses.pop(key, None)
            else:
                self._pauses[key] = pause
        elif key.startswith(self._order_prefix):
            id = key[len(self._order_prefix) :]
            order = _decoded(key, record.body, Order)
            if order is None or order.artifact != id:
                self.orders.pop(id, None)
            else:
                self.orders[id] = Standing(order, record.seq)
            return id
        return None


def _dataset_scope(order: Order) -> str:
    return f"dataset:{order.about.dataset}"


def _decoded(key: str, body: bytes, type: type[T]) -> T | None:
    if not body:
        return None
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.DecodeError, RecursionError) as error:
        log.warning("a record makes no sense", key=key, why=str(error))
        return None
