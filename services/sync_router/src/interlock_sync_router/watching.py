"""Follows the buckets for a roster, each from a snapshot on, and anew after every gap."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final, Literal

from interlock import logs
from interlock.bus import Bus
from interlock.reader import Reader, Record
from interlock_schemas.topology import HEALTH, INVENTORY, MEMBERS, NODES, ORDERS, Bucket
from interlock_sync_router.roster import Holdings, Roster

__all__ = ["Watching"]

log = logs.get_logger("interlock.router")

#: After so many records others get their turn.
_TURN: Final = 500


class Watching:
    """Feeds a roster. `whole` says whether everything has been read, with no gap since."""

    def __init__(self, bus: Bus, roster: Roster) -> None:
        self._bus = bus
        self._roster = roster
        self._read: dict[str, bool] = {}
        self.ready = asyncio.Event()
        """Set once everything was read for the first time."""

    @property
    def whole(self) -> bool:
        """Whether what is in memory is what stands."""
        return len(self._read) == _BUCKETS and all(self._read.values())

    async def run(self) -> None:
        """Follow, for ever."""
        roster = self._roster
        async with asyncio.TaskGroup() as group:
            for work in (
                self._plain(NODES, "node.>", roster.on_node),
                self._plain(MEMBERS, "member.>", roster.on_member),
                self._plain(HEALTH, "node.>", roster.on_health),
                self._orders(),
                self._inventory(),
            ):
                group.create_task(work)

    async def _plain(
        self,
        bucket: Bucket,
        filter: str,
        on_record: Callable[[str, bytes | None], None],
    ) -> None:
        """A bucket of a record for each node."""
        known: set[str] = set()
        seen: set[str] = set()
        cut = len(bucket.key_subject(""))
        async for record in self._snapshots(bucket, filter):
            if record == "begin":
                seen = set()
                self._read[bucket.name] = False
            elif record is None:
                for key in known - seen:
                    on_record(key, None)
                known = seen
                self._done(bucket)
            elif isinstance(record, Record):
                key = record.subject[cut:]
                seen.add(key)
                on_record(key, value_of(record))

    async def _orders(self) -> None:
        fresh: dict[str, tuple[bytes | None, int]] = {}
        cut = len(ORDERS.key_subject(""))
        roster = self._roster
        async for record in self._snapshots(ORDERS, ">"):
            if record == "begin":
                fresh = {}
                self._read[ORDERS.name] = False
            elif record is None:
                roster.orders_begin()
                for key, (body, revision) in fresh.items():
                    roster.on_orders(key, body, revision)
                    roster.orders_read(revision)
                fresh = {}
                self._done(ORDERS)
            elif isinstance(record, Record):
                key = record.subject[cut:]
                if self._read.get(ORDERS.name):
                    roster.on_orders(key, value_of(record), record.seq)
                    roster.orders_read(record.seq)
                else:
                    fresh[key] = (value_of(record), record.seq)

    async def _inventory(self) -> None:
        holdings = Holdings()
        cut = len(INVENTORY.key_subject(""))
        roster = self._roster
        count = 0
        async for record in self._snapshots(INVENTORY, ">"):
            if record == "begin":
                holdings = Holdings()
                self._read[INVENTORY.name] = False
            elif record is None:
                roster.replace_holdings(holdings)
                self._done(INVENTORY)
            elif isinstance(record, Record):
                key, body = record.subject[cut:], value_of(record)
                if self._read.get(INVENTORY.name):
                    roster.on_inventory(key, body, record.seq)
                    continue
                roster.take_in(holdings, key, body, record.seq, news=False)
                count += 1
                if count % _TURN == 0:
                    await asyncio.sleep(0)

    def _snapshots(
        self, bucket: Bucket, filter: str
    ) -> AsyncGenerator[Record | Literal["begin"] | None, None]:
        start: Mapping[str, str] = {"deliver_policy": "last_per_subject"}
        return Reader(self._bus, bucket.stream, (bucket.key_subject(filter),), start).snapshots()

    def _done(self, bucket: Bucket) -> None:
        self._read[bucket.name] = True
        log.debug("read to its end", bucket=bucket.name)
        if self.whole:
            self.ready.set()
        self._roster.on_change()


_BUCKETS: Final = 5


def value_of(record: Record) -> bytes | None:
    """What a record says; None where its key is deleted or has expired."""
    if "KV-Operation" in record.headers or "Nats-Marker-Reason" in record.headers:
        return None
    return record.body or None
