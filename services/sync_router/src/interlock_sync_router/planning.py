"""Plans whenever something has changed, and turns the plan into orders: the work of the one router
that holds the lease.

What is planned for is a picture of the roster that nothing changes any more, so that a long plan is
made in a thread. Orders of routers before are given this one's token, once the plan still wants
them; those that failed stand until what excludes them has ended.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from interlock import logs
from interlock.bus import Bus
from interlock.clock import now, rfc3339
from interlock.errors import BusUnavailable, LeaseLost, PublishRefused
from interlock.locks.lease import Lease
from interlock_schemas.orders import DatasetStatus, LeftOut, Order
from interlock_sync_router.dropping import Droppings
from interlock_sync_router.exclusions import Exclusions
from interlock_sync_router.facts import at_of
from interlock_sync_router.orders import Change, OrderWriter, order_of, sources_of
from interlock_sync_router.planner import plan
from interlock_sync_router.requests import already, for_plan
from interlock_sync_router.roster import Roster, Standing
from interlock_sync_router.settings import Settings
from interlock_sync_router.telling import Teller, started
from interlock_sync_router.world import DEFAULT, Limits, Move, NodeFacts, Open, Plan, World

__all__ = ["Planning"]

#: A plan that is likely to take longer is made in a thread, seconds.
_INLINE_S: Final = 0.05
#: Between two plans of everything, so many times as long as one takes.
_REST: Final = 3.0
#: What something else stood in the way of is looked at again after so long, seconds: by then the
#: marker of a deleted key has gone.
_AGAIN_S: Final = 1.2

log = logs.get_logger("interlock.router")


class Planning:
    """Plans of one router. `lease`: the one that it leads by, while it does."""

    def __init__(
        self,
        bus: Bus,
        roster: Roster,
        exclusions: Exclusions,
        teller: Teller,
        settings: Settings,
    ) -> None:
        self._roster = roster
        self._exclusions = exclusions
        self._teller = teller
        self._settings = settings
        self._writer = OrderWriter(bus)
        self.droppings = Droppings()
        self.limits = Limits(per_node=settings.sync_open_orders)
        self.datasets: tuple[DatasetStatus, ...] = ()
        """Of the last plan of everything."""
        self.left_out: tuple[LeftOut, ...] = ()
        self.urgent: Callable[[], Mapping[str, float]] = dict
        """Artifacts that only a leaving node has, with their ranks: they come before all else."""
        self._settled: set[str] = set()
        self._waiting = False
        self._loop = asyncio.get_running_loop()
        self._each_s = 0.0
        self._base_s = 0.0
        self._full_s = 0.0
        self._full_ended = -1e18
        self._again: set[str] = set()
        self._doubted: set[tuple[str, str]] = set()
        self._looked_at = 0.0

    def begin(self) -> None:
        """From now on this router plans."""
        self._roster.all_dirty = True
        self.droppings.clear()
        self._settled.clear()
        self._full_ended = -1e18

    def freed(self) -> None:
        """An order is done with: what waits for a place may have one."""
        if self._waiting:
            self._roster.all_dirty = True

    @property
    def due(self) -> bool:
        """Whether there is anything to plan for."""
        return self._roster.all_dirty or bool(self._roster.dirty)

    def wait_s(self) -> float:
        """How long until there is something to be done, if nothing changes meanwhile."""
        sweep_s = self._full_ended + self._settings.sync_sweep_s - self._loop.time()
        end = self._exclusions.next_end(time.time())
        until_s = end - time.time() + 0.01 if end is not None else sweep_s
        return max(0.0, min(sweep_s, until_s))

    def rest_s(self) -> float:
        """How long to wait before everything is planned again."""
        if not self._roster.all_dirty:
            return 0.0
        return max(0.0, self._full_ended + _REST * self._full_s - self._loop.time())

    def world(self, facts: dict[str, NodeFacts] | None = None, *, apart: bool = False) -> World:
        """What is known now. `apart`: nothing changes in it later on, however long one looks."""
        roster = self._roster
        holdings = roster.holdings
        at = time.time()
        requests = []
        for id, asked in roster.asked.items():
            if id in self._settled or (at_of(asked.request.until) or at + 1) <= at:
                continue
            found = for_plan(asked, roster.artifacts_of(asked))
            if found is not None:
                requests.append(found)
        return World(
            now=at,
            nodes=facts if facts is not None else roster.facts(at),
            artifacts=dict(holdings.artifacts) if apart else holdings.artifacts,
            copies=dict(holdings.copies) if apart else holdings.copies,
            policies=dict(roster.policies),
            default=DEFAULT,
            requests=tuple(requests),
            orders={
                key: _open(standing)
                for key, standing in roster.orders.items()
                # One that failed is history; one to check is nobody's copy.
                if standing.order.failure is None and standing.order.action != "verify"
            },
            exclusions=self._exclusions.standing(at),
            paused_datasets=roster.paused_datasets(at),
            paused=roster.paused("fleet", at),
        )

    async def once(self, lease: Lease) -> None:
        """Plan for what has changed, and have the plan's orders stand.

        Raises LeaseLost. Where the broker does not answer, it is planned for again.
        """
        roster = self._roster
        at = time.time()
        roster.dirty |= set(self._exclusions.ended(self._looked_at, at))
        self._looked_at = at
        if self._loop.time() - self._full_ended >= self._settings.sync_sweep_s:
            roster.all_dirty = True
            self._exclusions.forget(at)
        roster.facts(at)
        full = roster.all_dirty
        dirty, roster.dirty, roster.all_dirty = roster.dirty, set(), False
        only = None if full else frozenset(dirty)
        count = len(roster.holdings.artifacts) if only is None else len(only)
        in_thread = self._base_s + count * self._each_s > _INLINE_S
        began = self._loop.time()
        world = self.world(apart=in_thread)
        if in_thread:
            found = await asyncio.to_thread(plan, world, self.limits, only=only)
        else:
            found = plan(world, self.limits, only=only)
        took = self._loop.time() - began
        if full:
            self._full_s, self._full_ended = took, self._loop.time()
            self.datasets, self.left_out = found.datasets, found.left_out
            self._settle()
        if count < 100:
            self._base_s = took
        else:
            self._each_s = took / count
        self._waiting = found.waiting > 0 or (self._waiting and not full)
        try:
            await self._carry_out(found, world, only, lease)
        except (BusUnavailable, PublishRefused, LeaseLost) as error:
            roster.all_dirty = True
            if isinstance(error, LeaseLost):
                raise
            log.warning("the plan could not be written, planning again", why=str(error))
            await asyncio.sleep(0.5)

    def _settle(self) -> None:
        """Requests of which everything is there need not be looked at any more."""
        roster = self._roster
        holdings = roster.holdings
        self._settled &= set(roster.asked)
        for id, asked in roster.asked.items():
            if id not in self._settled:
                ids = list(roster.artifacts_of(asked))
                there, _ = already(asked.nodes, ids, holdings.artifacts, holdings.copies)
                if there == len(ids) * len(asked.nodes):
                    self._settled.add(id)

    async def _carry_out(
        self, found: Plan, world: World, only: frozenset[str] | None, lease: Lease
    ) -> None:
        roster = self._roster
        changes: dict[tuple[str, str], Change] = {}
        at = rfc3339(now())
        drops = {(move.node, move.artifact) for move in found.moves if move.action == "drop"}
        if only is None:
            # Disks that are too full are looked at in plans of everything alone.
            self.droppings.keep_only(drops)
        for node, artifact in found.withdraw:
            standing = roster.orders.get((node, artifact))
            if standing is not None:
                changes[node, artifact] = Change(node, artifact, None, standing.revision)
        urgent = self.urgent()
        for planned in found.moves:
            move = planned
            if move.action == "fetch" and move.artifact in urgent:
                move = msgspec.structs.replace(
                    move, priority="critical", rank=urgent[move.artifact]
                )
            if move.action == "drop" and (move.node, move.artifact) not in world.orders:
                self.droppings.want(move, at)
                continue
            self._give(changes, move, world, lease.token, at)
        self._drop_on(changes, world, lease.token)
        self._check_doubted(changes, world, lease.token, at)
        self._clear_failed(changes, world, only)
        self._adopt(changes, lease.token, urgent)
        if not changes:
            return
        written, overtaken = await self._writer.write(list(changes.values()), lease)
        for change, revision in written:
            self._note(change, revision)
        for change in overtaken:
            if change.order is not None and change.order.action == "verify":
                self.droppings.not_asked(change.node, change.artifact)
        if overtaken:
            self._later({change.artifact for change in overtaken})
        log.info(
            "planned",
            ordered=sum(1 for change, _ in written if change.order is not None),
            withdrawn=sum(1 for change, _ in written if change.order is None),
            overtaken=len(overtaken),
            waiting=found.waiting,
        )

    def _give(
        self,
        changes: dict[tuple[str, str], Change],
        move: Move,
        world: World,
        token: int,
        at: str,
        *,
        issued_at: str | None = None,
    ) -> None:
        roster = self._roster
        about = world.artifacts.get(move.artifact)
        node = world.nodes.get(move.node)
        if about is None or node is None:
            return
        key = (move.node, move.artifact)
        before = roster.orders.get(key)
        records = {
            name: known.record
            for name in move.sources
            if (known := roster.nodes.get(name)) is not None
        }
        policy = world.policies.get(about.dataset, world.default)
        order = order_of(
            move,
            about,
            sources_of(move, about, world.nodes, records, roster.holdings.stores),
            before,
            token=token,
            at=at,
            transports=policy.transports,
            bytes_per_s=self._rate(node),
            fleet_slots=self._settings.sync_fleet_slots,
            deadline_at=_deadline(move, world),
        )
        if issued_at is not None:
            order = msgspec.structs.replace(order, issued_at=issued_at)
        if before is not None and (order == before.order or before.order.token > token):
            return
        changes[key] = Change(
            move.node, move.artifact, order, before.revision if before is not None else 0
        )

    def _rate(self, node: NodeFacts) -> float | None:
        """What a node may take in: its own limit, and its share of the fleet's."""
        fleet = self._settings.sync_fleet_bytes_per_s
        if fleet is None:
            return node.ingress_bytes_per_s
        taking = sum(1 for count in self._roster.by_node.values() if count > 0)
        share = fleet / max(1, taking)
        own = node.ingress_bytes_per_s
        return share if own is None else min(share, own)

    def _drop_on(self, changes: dict[tuple[str, str], Change], world: World, token: int) -> None:
        """Have copies checked for drops, and order the drops whose others have checked theirs."""
        roster = self._roster
        at = rfc3339(now())
        for each in list(self.droppings):
            move = each.move
            if each.due:
                confirmed = msgspec.structs.replace(move, others=each.confirmed)
                self._give(changes, confirmed, world, token, at, issued_at=each.since)
                self.droppings.done(move.node, move.artifact)
                continue
            busy = [
                node
                for node in move.others
                if (standing := roster.orders.get((node, move.artifact))) is not None
                and standing.order.failure is None
            ]
            for node in each.to_ask(world.now, busy):
                check = Move(
                    node=node,
                    artifact=move.artifact,
                    action="verify",
                    priority=move.priority,
                    rank=move.rank,
                    reasons=(f"{move.node} is to drop its copy",),
                )
                self._give(changes, check, world, token, at)

    def doubt(self, node: str, artifact: str) -> None:
        """Others could not fetch it from there: it is to look at its copy again."""
        self._doubted.add((node, artifact))
        self._roster.dirty.add(artifact)
        self._roster.on_change()

    def _check_doubted(
        self, changes: dict[tuple[str, str], Change], world: World, token: int, at: str
    ) -> None:
        """Have copies checked that others could not fetch: what is damaged is known then."""
        doubted, self._doubted = self._doubted, set()
        for node, artifact in sorted(doubted):
            stands = node in world.copies.get(artifact, ())
            if stands and (node, artifact) not in self._roster.orders:
                check = Move(
                    node=node,
                    artifact=artifact,
                    action="verify",
                    priority="high",
                    rank=0.0,
                    reasons=("another node could not fetch it from there",),
                )
                self._give(changes, check, world, token, at)

    def _clear_failed(
        self, changes: dict[tuple[str, str], Change], world: World, only: frozenset[str] | None
    ) -> None:
        """Take away orders that failed and are not tried again, once nothing excludes them."""
        for (node, artifact), standing in self._roster.orders.items():
            if standing.order.failure is None or (node, artifact) in changes:
                continue
            if only is not None and artifact not in only:
                continue
            lately = self._exclusions.of(node, artifact)
            if lately is None or lately.until <= world.now:
                changes[node, artifact] = Change(node, artifact, None, standing.revision)

    def _adopt(
        self, changes: dict[tuple[str, str], Change], token: int, urgent: Mapping[str, float]
    ) -> None:
        """Orders of a router before, which the plan still wants, count as this one's; and those of
        what only a leaving node has come first from now on."""
        for (node, artifact), standing in self._roster.orders.items():
            order = standing.order
            if order.token > token or order.failure is not None or (node, artifact) in changes:
                continue
            adopted = msgspec.structs.replace(order, token=token)
            rank = urgent.get(artifact)
            if rank is not None and order.action == "fetch":
                adopted = msgspec.structs.replace(adopted, priority="critical", rank=rank)
            if adopted != order:
                changes[node, artifact] = Change(node, artifact, adopted, standing.revision)

    def _note(self, change: Change, revision: int) -> None:
        """What stands now, before the bucket says so."""
        key = (change.node, change.artifact)
        before = self._roster.orders.get(key)
        new = change.order is not None and (before is None or before.order.id != change.order.id)
        if revision:
            self._roster.ordered(change.node, change.artifact, change.order, revision)
        if new and change.order is not None and change.order.action == "fetch":
            self._teller.tell(*started(change.order))

    def _later(self, artifacts: set[str]) -> None:
        """Look at artifacts again in a moment."""
        if not self._again:
            self._loop.call_later(_AGAIN_S, self._look_again)
        self._again |= artifacts

    def _look_again(self) -> None:
        self._roster.dirty |= self._again
        self._again = set()
        self._roster.on_change()


def _open(standing: Standing) -> Open:
    order: Order = standing.order
    return Open(
        node=order.node,
        artifact=order.artifact,
        action=order.action,
        priority=order.priority,
        sources=tuple(source.node for source in order.sources),
        issued_at=at_of(order.issued_at) or 0.0,
    )


def _deadline(move: Move, world: World) -> str | None:
    """When the last of its sources is gone; None: one of them stays."""
    ends = [facts.leaving_at for name in move.sources if (facts := world.nodes.get(name))]
    if not ends or any(end is None for end in ends):
        return None
    return rfc3339(datetime.fromtimestamp(max(end for end in ends if end is not None), UTC))
