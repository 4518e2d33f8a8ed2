"""Keeps count of evacuations in every router; the planner tells in the end what came of each.

An evacuation is a record in the bucket of orders, so that the count goes on where a router was
restarted. It ends when the node is gone, or its deadline has passed.
"""

import time
from datetime import timedelta
from typing import Final

import msgspec

from interlock import logs
from interlock.bus import Bus
from interlock.clock import now, rfc3339
from interlock.conditional import ALONE, PURGE, Write, expecting, living
from interlock.errors import CommandFailed, WrongRevision
from interlock.kv import Store
from interlock.locks.lease import Lease
from interlock.publishing import encode_event
from interlock_schemas.orders import ROUTER, AskEvacuation, Evacuation, Leaving, evacuation_key
from interlock_schemas.topology import ORDERS
from interlock_sync_router.evacuation import Evacuating
from interlock_sync_router.facts import LEAVE_S, at_of
from interlock_sync_router.planning import Planning
from interlock_sync_router.risk import at_risk, is_safe
from interlock_sync_router.roster import Roster

__all__ = ["Evacuations"]

_COMMIT_S: Final = 10.0
#: A deadline that moves by less is the same one, seconds.
_SAME_S: Final = 2.0
#: Receipts of what was under way when the node went may still come so much later, seconds.
_SETTLE_S: Final = 1.0
#: Whoever still asks so long after the end is told what came of it, seconds.
_TOLD_S: Final = 60.0

log = logs.get_logger("interlock.router")


class Evacuations:
    """All that are under way."""

    def __init__(self, bus: Bus, roster: Roster, planning: Planning) -> None:
        self._bus = bus
        self._roster = roster
        self._planning = planning
        self._counts: dict[str, Evacuating] = {}
        self._ended: dict[str, tuple[float, Evacuating]] = {}
        self._facts: object = None
        self._safe: frozenset[str] = frozenset()

    def urgent(self) -> dict[str, float]:
        """What is still to be saved, the most valuable with the highest rank. With several nodes
        leaving, by value all the same."""
        self.follow()
        artifacts = self._roster.holdings.artifacts
        found = {each.id: each for count in self._counts.values() for each in
                 count.unsaved(artifacts)}  # fmt: skip
        order = sorted(found.values(), key=lambda a: (a.value, a.steps or 0, -a.bytes, a.id))
        return {about.id: float(rank) for rank, about in enumerate(order)}

    async def evacuate(self, asked: AskEvacuation) -> Evacuation:
        """Begin, or tell how far it is."""
        if asked.node not in self._roster.nodes:
            raise CommandFailed(
                f"no node is called {asked.node}: `interlock nodes` lists them", code="404"
            )
        ended_at, ended = self._ended.get(asked.node, (0.0, None))
        if ended is None or time.monotonic() - ended_at > _TOLD_S:
            await self.begin(asked.node, asked.deadline_s)
            self.follow()
            ended = self._counts[asked.node]
        return ended.report(self._roster.holdings.artifacts, asked.listed)

    async def begin(self, node: str, deadline_s: float | None) -> None:
        """A node is about to go, in so many seconds as far as known."""
        roster = self._roster
        deadline = now() + timedelta(seconds=deadline_s if deadline_s is not None else LEAVE_S)
        found = roster.leaving.get(node)
        while True:
            if found is not None:
                standing, revision = found
                at = at_of(standing.deadline_at) or 0.0
                if deadline_s is None or abs(deadline.timestamp() - at) < _SAME_S:
                    return
                told = msgspec.structs.replace(standing, deadline_at=rfc3339(deadline))
            else:
                revision = 0
                told = Leaving(
                    node=node,
                    began_at=rfc3339(now()),
                    deadline_at=rfc3339(deadline),
                    artifacts=tuple(at_risk(self._planning.world(), node)),
                )
            if await self._put(told, revision):
                log.info("a node leaves", node=node, at_risk=len(told.artifacts))
                return
            found = await self._standing(node)

    async def gone(self, node: str) -> None:
        """A node left, or was lost."""
        found = self._roster.leaving.get(node) or await self._standing(node)
        while found is not None and found[0].gone_at is None:
            told = msgspec.structs.replace(found[0], gone_at=rfc3339(now()))
            if await self._put(told, found[1]):
                return
            found = await self._standing(node)

    def on_copy(self, node: str, id: str) -> None:
        """A receipt came."""
        if self._counts:
            copies = self._roster.holdings.copies
            for each in self._counts.values():
                each.on_copy(node, id, copies, self._safe)

    def follow(self) -> None:
        """Count for what has begun since, for what has ended, and for nodes that have changed."""
        roster = self._roster
        for node in [node for node in self._counts if node not in roster.leaving]:
            del self._counts[node]
        if not roster.leaving:
            return
        facts = roster.facts(time.time())
        changed = facts is not self._facts
        if changed:
            self._facts = facts
            self._safe = frozenset(name for name, each in facts.items() if is_safe(each))
        for node, (leaving, _) in roster.leaving.items():
            found = self._counts.get(node)
            if found is None or found.began_at != leaving.began_at:
                found = self._counts[node] = Evacuating(leaving)
                found.look(self._planning.world())
            elif changed:
                found.weigh(found.watched, roster.holdings.copies, facts)

    async def keep(self, lease: Lease) -> None:
        """As the planner: keep the order in which things were saved, and conclude what is over."""
        self.follow()
        at = time.time()
        for node, (leaving, revision) in list(self._roster.leaving.items()):
            found = self._counts.get(node)
            if found is None:
                continue
            lease.check()
            gone = at_of(leaving.gone_at)
            if (gone is not None and at - gone >= _SETTLE_S) or at >= (
                at_of(leaving.deadline_at) or at
            ):
                await self._conclude(found, revision)
            elif found.saved != leaving.saved or found.watched != leaving.artifacts:
                told = msgspec.structs.replace(leaving, saved=found.saved, artifacts=found.watched)
                await self._put(told, revision)

    async def _conclude(self, found: Evacuating, revision: int) -> None:
        event = found.conclusion(self._roster.holdings.artifacts)
        id = f"evacuated-{found.node}-{found.began_at}"
        await self._bus.publish(*encode_event(event, source=ROUTER, id=id))
        self._ended[found.node] = (time.monotonic(), found)
        log.info("a node is gone", node=found.node, saved=event.saved, lost=event.lost)
        key = evacuation_key(found.node)
        headers = {**living(ORDERS.marker_ttl_s), **PURGE, **expecting(revision)}
        try:
            ack = await self._bus.commit(
                [Write(ORDERS.key_subject(key), b"", headers)], timeout_s=_COMMIT_S
            )
        except WrongRevision:
            # Something was noted meanwhile: it is concluded again, under the same id.
            return
        self._roster.on_orders(key, None, ack.seq)

    async def _standing(self, node: str) -> tuple[Leaving, int] | None:
        entry = await Store(self._bus, ORDERS).get(evacuation_key(node))
        if entry.value is None:
            return None
        return msgspec.json.decode(entry.value, type=Leaving), entry.revision

    async def _put(self, told: Leaving, revision: int) -> bool:
        key = evacuation_key(told.node)
        body = msgspec.json.encode(told)
        write = Write(ORDERS.key_subject(key), body, {**ALONE, **expecting(revision)})
        try:
            ack = await self._bus.commit([write], timeout_s=_COMMIT_S)
        except WrongRevision:
            return False
        if ack.seq:
            self._roster.on_orders(key, body, ack.seq)
        return True
