"""Orders: made of moves, and written to their bucket under the planner's lease.

Each write names the revision before it, so that an order that its node has just finished, or
written a failure into, is not overwritten unseen. Many go together as atomic batches; where one of
a batch is overtaken, the others are written by themselves.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from interlock import logs
from interlock.bus import Bus
from interlock.conditional import ALONE, PURGE, Write, expecting, living
from interlock.errors import WrongRevision
from interlock.locks.lease import Lease
from interlock_schemas.artifacts import Artifact, StoreReport, Transport
from interlock_schemas.nodes import NodeRecord
from interlock_schemas.orders import Order, Source, order_key
from interlock_schemas.topology import ORDERS
from interlock_sync_router.roster import Standing
from interlock_sync_router.world import Move, NodeFacts

__all__ = ["Change", "OrderWriter", "order_of", "sources_of"]

#: Through the broker's object store goes what is not larger, bytes.
_OBJECT_BYTES: Final = 8 * 1024 * 1024
_GROUP: Final = 100
_GROUPS_AT_ONCE: Final = 4
_COMMIT_S: Final = 10.0

log = logs.get_logger("interlock.router")


class Change(msgspec.Struct, frozen=True):
    """One order to be written, or (None) taken away, over what stands at `revision`; 0: nothing."""

    node: str
    artifact: str
    order: Order | None
    revision: int

    @property
    def write(self) -> Write:
        """As the broker takes it."""
        subject = ORDERS.key_subject(order_key(self.node, self.artifact))
        if self.order is None:
            headers = {**living(ORDERS.marker_ttl_s), **PURGE, **expecting(self.revision)}
            return Write(subject, b"", headers)
        return Write(
            subject, msgspec.json.encode(self.order), {**ALONE, **expecting(self.revision)}
        )


def _source_of(
    facts: NodeFacts, record: NodeRecord | None, store: StoreReport | None, size: int
) -> Source:
    """A node as a source of an artifact of so many bytes."""
    ways: tuple[Transport, ...] = tuple(
        way for way in facts.transports_from if way != "object" or size <= _OBJECT_BYTES
    )
    root = store.root if store is not None else ""
    if not root and record is not None and record.storage.path:
        root = record.storage.path
    return Source(
        node=facts.name,
        transports=ways,
        root=root,
        bytes_per_s=facts.egress_bytes_per_s,
        slots=facts.slots,
    )


def order_of(
    move: Move,
    about: Artifact,
    sources: Sequence[Source],
    before: Standing | None,
    *,
    token: int,
    at: str,
    transports: tuple[Transport, ...] = (),
    bytes_per_s: float | None = None,
    fleet_slots: int | None = None,
    deadline_at: str | None = None,
) -> Order:
    """The order of a move. Where one to the same end stands, it stays the same one."""
    same = before is not None and before.order.action == move.action and not before.order.failure
    return Order(
        id=before.order.id if same and before is not None else secrets.token_hex(12),
        node=move.node,
        artifact=move.artifact,
        action=move.action,
        about=about,
        token=token,
        priority=move.priority,
        rank=move.rank,
        sources=tuple(sources),
        transports=transports,
        reasons=tuple(reason[:500] for reason in move.reasons),
        issued_at=before.order.issued_at if same and before is not None else at,
        deadline_at=deadline_at,
        bytes_per_s=bytes_per_s,
        fleet_slots=fleet_slots,
        replicas=move.replicas,
        others=move.others,
    )


class OrderWriter:
    """Writes orders."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def write(
        self, changes: Sequence[Change], lease: Lease
    ) -> tuple[list[tuple[Change, int]], list[Change]]:
        """Write changes in their order, some at a time: those that stand, each with its revision
        (0: not known), and those that something else stands in the way of.

        Raises LeaseLost as soon as the lease is, and BusUnavailable; what was written stands.
        """
        places = asyncio.Semaphore(_GROUPS_AT_ONCE)
        written: list[tuple[Change, int]] = []
        overtaken: list[Change] = []

        async def group(part: Sequence[Change]) -> None:
            async with places:
                lease.check()
                try:
                    ack = await self._bus.commit(
                        [change.write for change in part], timeout_s=_COMMIT_S
                    )
                except WrongRevision:
                    if len(part) == 1:
                        overtaken.extend(part)
                        return
                else:
                    # The messages of a batch are stored one behind the other.
                    first = ack.seq - len(part) + 1 if ack.seq else 0
                    written.extend(
                        (change, first + place if first else 0) for place, change in enumerate(part)
                    )
                    return
            await asyncio.gather(*(group([change]) for change in part))

        parts = [changes[i : i + _GROUP] for i in range(0, len(changes), _GROUP)]
        try:
            async with asyncio.TaskGroup() as tasks:
                for part in parts:
                    tasks.create_task(group(part))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        return written, overtaken


def _first(errors: BaseException) -> BaseException:
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors


def sources_of(
    move: Move,
    about: Artifact,
    facts: Mapping[str, NodeFacts],
    records: Mapping[str, NodeRecord | None],
    stores: Mapping[str, StoreReport],
) -> list[Source]:
    """The sources of a move, the best first."""
    return [
        _source_of(facts[name], records.get(name), stores.get(name), about.bytes)
        for name in move.sources
        if name in facts
    ]
