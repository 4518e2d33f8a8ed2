"""The ways for bytes to come here: which is first, how fast, and how many at once."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Final

import msgspec

from interlock import logs
from interlock.artifacts.choosing import Tracks, order_of
from interlock.artifacts.pacing import Pacer
from interlock.artifacts.transports.base import Carrier, Peer
from interlock.errors import BusUnavailable, LockBusy, LockDeadlock, LockRefused
from interlock.fleet import Fleet
from interlock.kv import Store
from interlock_schemas.artifacts import Transport
from interlock_schemas.nodes import NodeRecord, node_key
from interlock_schemas.orders import FailureCode, Order, Source, slot_lock
from interlock_schemas.topology import NODES

__all__ = ["Ways"]

_WAIT_S: Final = 60.0
_PAUSE_S: Final = 1.0
_SLOT_LEASE_S: Final = 15.0
#: How long what a node's description says is taken for true.
_RECORD_S: Final = 5.0

log = logs.get_logger("interlock.artifacts.mover")


class Ways:
    """The ways to one node. `carriers` are closed by whoever made them."""

    def __init__(
        self, fleet: Fleet, node: str, carriers: Mapping[Transport, Carrier], tracks: Tracks
    ) -> None:
        self.node = node
        self.carriers = carriers
        self.tracks = tracks
        self._fleet = fleet
        self._ingress = Pacer()
        self._pacers: dict[str, Pacer] = {}
        self._nodes: dict[str, tuple[float, NodeRecord | None]] = {}

    def limit(self, order: Order) -> None:
        """Keep to the rates that an order to fetch names, from now on."""
        self._ingress.set_rate(order.bytes_per_s)
        for source in order.sources:
            self.pacer(source).set_rate(source.bytes_per_s)

    async def peer(self, source: Source) -> Peer:
        """A source, as a transport has to know it."""
        return Peer(source=source, record=await self.record(source.node))

    def went(self, source: Source, transport: Transport, count: int, seconds: float) -> None:
        """So many bytes came by this way."""
        self.tracks.went(source.node, transport, count, seconds, time.monotonic())

    def failed(self, source: Source, transport: Transport, code: FailureCode) -> None:
        """This way failed."""
        self.tracks.failed(source.node, transport, code, time.monotonic())

    def ranked(self, order: Order) -> list[Source]:
        """The sources of an order, the best first."""
        by_name = {source.node: source for source in order.sources}
        about = order.about
        ways = order_of(
            self.tracks.ways(order.sources, order.transports),
            about.bytes,
            about.files,
            time.monotonic(),
        )
        names = dict.fromkeys(way.source for way in ways if way.transport in self.carriers)
        return [by_name[name] for name in (*names, *(n for n in by_name if n not in names))]

    def transports(self, source: Source, order: Order) -> list[Transport]:
        """The ways to a source that there are here, the best first."""
        ways = order_of(
            self.tracks.ways((source,), order.transports),
            order.about.bytes,
            order.about.files,
            time.monotonic(),
        )
        found = [way for way in ways if way.transport in self.carriers]
        if found:
            self.tracks.begun(found[0], time.monotonic())
        return [way.transport for way in found]

    def pacer(self, source: Source) -> Pacer:
        """What keeps to the limit of a source, and to that of this node."""
        pacer = self._pacers.get(source.node)
        if pacer is None:
            pacer = self._pacers[source.node] = Pacer(source.bytes_per_s, self._ingress)
        return pacer

    @contextlib.asynccontextmanager
    async def slot(self, source: Source, first: Order) -> AsyncIterator[None]:
        """One of the transfers that may be under way at once: in the fleet, and from a source."""
        async with contextlib.AsyncExitStack() as stack:
            for node, slots in ((None, first.fleet_slots), (source.node, source.slots)):
                if slots is not None:
                    await stack.enter_async_context(self._one_of(node, slots, first))
            yield

    @contextlib.asynccontextmanager
    async def _one_of(self, node: str | None, slots: int, first: Order) -> AsyncIterator[None]:
        while True:
            try:
                lease = await self._fleet.acquire_lock(
                    slot_lock(node),
                    ttl=_SLOT_LEASE_S,
                    wait=_WAIT_S,
                    slots=slots,
                    priority=first.priority,
                    note=f"to {self.node}",
                    owner=f"transfer:{self.node}:{first.artifact}",
                )
            except (LockBusy, LockDeadlock, LockRefused, BusUnavailable) as error:
                log.info("no slot yet", source=node or "the fleet", why=str(error))
                await asyncio.sleep(_PAUSE_S)
            else:
                break
        try:
            yield
        finally:
            with contextlib.suppress(BusUnavailable):
                await lease.release()

    async def record(self, node: str) -> NodeRecord | None:
        """How a node is described; as it was, where the broker does not answer."""
        at = time.monotonic()
        known = self._nodes.get(node)
        if known is not None and at - known[0] < _RECORD_S:
            return known[1]
        record = known[1] if known is not None else None
        try:
            entry = await Store(self._fleet.bus, NODES).get(node_key(node))
            record = (
                msgspec.json.decode(entry.value, type=NodeRecord)
                if entry.value is not None
                else None
            )
        except BusUnavailable as error:
            log.info("a node's description cannot be read", node=node, why=str(error))
        except (msgspec.DecodeError, RecursionError) as error:
            log.warning("a node's description makes no sense", node=node, why=str(error))
            record = None
        self._nodes[node] = (at, record)
        return record
