"""A stand-in for the agents of many nodes: it works off orders as an agent would, with no bytes.

Each node has a lease, a description and a report on its store; what it fetches it has after a
moment, and the receipt stands before the order goes.
"""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable

import msgspec

from interlock.artifacts.inventory import Inventory
from interlock.bus import Bus
from interlock.clock import now, rfc3339
from interlock.conditional import ALONE, PURGE, Write, expecting, living
from interlock.errors import WrongRevision
from interlock.fleet import Fleet
from interlock.kv import Store
from interlock.nodes.book import NodeBook
from interlock.reader import Reader, Record
from interlock_schemas.artifacts import Artifact, Copy, StoreReport
from interlock_schemas.nodes import Member, NodeRecord, member_key
from interlock_schemas.orders import EPOCH_KEY, Epoch, Failure, Order, order_key
from interlock_schemas.topology import MEMBERS, ORDERS

__all__ = ["StandIn", "artifact", "stand_in"]

GIB = 1024**3


def artifact(
    dataset: str, name: str, origin: str, *, size: int = 1_000, value: float = 0.0, config: str = ""
) -> Artifact:
    """An artifact that nobody sealed."""
    id = hashlib.sha256(f"{dataset}/{name}".encode()).hexdigest()
    return Artifact(
        id=id,
        dataset=dataset,
        name=name,
        config=config,
        bytes=size,
        origin=origin,
        sealed_at=rfc3339(now()),
        value=value,
    )


class StandIn:
    """The agents of some nodes."""

    def __init__(self, bus: Bus, names: Iterable[str]) -> None:
        self.bus = bus
        self.names = set(names)
        self.inventory = Inventory(bus)
        self.carried: list[tuple[Order, int]] = []
        """What was carried out, each with the epoch at that time."""
        self.refused: list[Order] = []
        self.epoch = 0
        self.working = asyncio.Event()
        self.working.set()
        self.fails: Callable[[Order], Failure | None] = lambda _: None
        self._members: dict[str, int] = {}

    async def join(self, name: str, **record: object) -> None:
        """A node is there."""
        self.names.add(name)
        fields = {"name": name, "price_class": "owned", **record}
        described = msgspec.convert(fields, NodeRecord)
        book = NodeBook(Fleet(self.bus, source="test"), by="test")
        await book.put(name, lambda _: described)
        key = MEMBERS.key_subject(member_key(name))
        member = Member(node=name, instance=secrets.token_hex(8))
        entry = await Store(self.bus, MEMBERS).get(member_key(name))
        headers = {**living(600), **expecting(entry.revision)}
        await self.bus.commit([Write(key, msgspec.json.encode(member), headers)])
        await self.inventory.tell_store(
            StoreReport(
                node=name,
                instance=member.instance,
                root=f"/data/{name}",
                at=rfc3339(now()),
                total_bytes=100 * GIB,
                free_bytes=90 * GIB,
            )
        )

    async def leave(self, name: str) -> None:
        """Its lease ends."""
        entry = await Store(self.bus, MEMBERS).get(member_key(name))
        headers = {**living(MEMBERS.marker_ttl_s), **PURGE, **expecting(entry.revision)}
        await self.bus.commit([Write(MEMBERS.key_subject(member_key(name)), b"", headers)])

    async def sealed(self, about: Artifact) -> None:
        """An artifact was sealed at its origin."""
        at = rfc3339(now())
        await self.inventory.tell_copy(
            Copy(id=about.id, node=about.origin, bytes=about.bytes, at=at, verified_at=at)
        )
        await self.inventory.tell_artifact(about)

    async def run(self) -> None:
        """Work off orders, for ever."""
        cut = len(ORDERS.key_subject(""))
        reader = Reader(
            self.bus, ORDERS.stream, (ORDERS.subject,), {"deliver_policy": "last_per_subject"}
        )
        async with asyncio.TaskGroup() as group:
            async for record in reader.snapshots():
                if not isinstance(record, Record) or not record.body:
                    continue
                key = record.subject[cut:]
                if key == EPOCH_KEY:
                    told = msgspec.json.decode(record.body, type=Epoch)
                    self.epoch = max(self.epoch, told.token)
                elif key.startswith("order."):
                    order = msgspec.json.decode(record.body, type=Order)
                    if order.node in self.names:
                        group.create_task(self._work(order, record.seq))

    async def _work(self, order: Order, revision: int) -> None:
        await self.working.wait()
        await asyncio.sleep(0.01)
        if order.failure is not None:
            return
        if order.token < self.epoch:
            self.refused.append(order)
            return
        key = order_key(order.node, order.artifact)
        entry = await Store(self.bus, ORDERS).get(key)
        if entry.revision != revision:
            return
        failure = self.fails(order)
        if failure is not None:
            body = msgspec.json.encode(msgspec.structs.replace(order, failure=failure))
            with contextlib.suppress(WrongRevision):
                await self.bus.commit(
                    [Write(ORDERS.key_subject(key), body, {**ALONE, **expecting(revision)})]
                )
            return
        self.carried.append((order, self.epoch))
        at = rfc3339(now())
        if order.action == "drop":
            await self.inventory.tell_copy(
                Copy(
                    id=order.artifact,
                    node=order.node,
                    state="dropped",
                    bytes=0,
                    at=at,
                    verified_at=at,
                    replicas=order.replicas,
                )
            )
        elif order.action == "verify":
            found = await self.inventory.copy(order.node, order.artifact)
            assert found is not None
            await self.inventory.tell_copy(msgspec.structs.replace(found, verified_at=at))
        else:
            await self.inventory.tell_copy(
                Copy(
                    id=order.artifact,
                    node=order.node,
                    bytes=order.about.bytes,
                    at=at,
                    verified_at=at,
                    seconds=0.01,
                    moved=order.about.bytes,
                    source=order.sources[0].node,
                    transport=order.sources[0].transports[0],
                    token=order.token,
                    order=order.id,
                )
            )
        headers = {**living(ORDERS.marker_ttl_s), **PURGE, **expecting(revision)}
        with contextlib.suppress(WrongRevision):
            await self.bus.commit([Write(ORDERS.key_subject(key), b"", headers)])


@contextlib.asynccontextmanager
async def stand_in(bus: Bus, *names: str) -> AsyncIterator[StandIn]:
    """Agents of some nodes that work while the block lasts, and whose leases end with it."""
    agents = StandIn(bus, names)
    for name in names:
        await agents.join(name)
    task = asyncio.create_task(agents.run())
    try:
        yield agents
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        for name in agents.names:
            with contextlib.suppress(WrongRevision):
                await agents.leave(name)
