"""Runs the sync-router: what it hears becomes a world, the plan becomes orders.

Every router hears all and answers; the one that holds the planner's lock decides. Its token is the
epoch: what a router before it ordered counts again once this one has confirmed it.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from datetime import UTC, datetime
from typing import Final

import msgspec

from interlock import logs
from interlock.clock import now, rfc3339
from interlock.conditional import ALONE, Write, expecting
from interlock.delivery import Delivery
from interlock.errors import (
    BusUnavailable,
    ContractBroken,
    InterlockError,
    LeaseLost,
    LockBusy,
    LockRefused,
    NotAcknowledged,
    WrongRevision,
)
from interlock.fleet import decode_event
from interlock.kv import Store
from interlock.locks.lease import Lease
from interlock.service import Service
from interlock_schemas import orders
from interlock_schemas.node import NodeLeaveAnnounced, NodeLeft, NodeLost
from interlock_schemas.nodes import NodeRecord
from interlock_schemas.orders import EPOCH_KEY, PLANNER_LOCK, Epoch
from interlock_schemas.sync import SyncRequested
from interlock_schemas.topology import ORDERS
from interlock_sync_router.asking import Desk, write_over
from interlock_sync_router.contract import HAPPENINGS
from interlock_sync_router.evacuating import Evacuations
from interlock_sync_router.exclusions import Exclusions
from interlock_sync_router.facts import at_of
from interlock_sync_router.hosts.fleet import Hosts, is_driven
from interlock_sync_router.planning import Planning
from interlock_sync_router.roster import Receipt, Roster, Standing
from interlock_sync_router.settings import Settings
from interlock_sync_router.telling import Teller, completed, failed
from interlock_sync_router.watching import Watching

__all__ = ["Router", "setup"]

_TTL_S: Final = 10.0
_CANDIDATE_S: Final = 1.0
_KEEP_S: Final = 0.5
#: What happened so lately is told once more by whoever takes over, seconds.
_TELL_AGAIN_S: Final = 120.0
#: A request is kept so long past its end, so that who asked can still read how it ended, seconds.
_FORGET_S: Final = 600.0
_RECENT: Final = 100_000

log = logs.get_logger("interlock.router")


class Router:
    """One router."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service = service
        self.settings = settings
        self.bus = service.fleet.bus
        self.name = f"{service.fleet.node}-{random.getrandbits(48):012x}"
        self.roster = Roster(is_driven)
        self.watching = Watching(self.bus, self.roster)
        self.exclusions = Exclusions()
        self.teller = Teller(self.bus)
        self.planning = Planning(self.bus, self.roster, self.exclusions, self.teller, settings)
        self.evacuations = Evacuations(self.bus, self.roster, self.planning)
        self.desk = Desk(self.bus, self.roster, self.exclusions, self.planning, lambda: self.epoch)
        self.planning.urgent = self.evacuations.urgent
        self.hosts = Hosts(service.fleet, settings, wanted=self._driven)
        self.lease: Lease | None = None
        self.epoch: Epoch | None = None
        """By which this router plans; None: another one does, or none."""
        self._recent: deque[tuple[str, str, Receipt]] = deque(maxlen=_RECENT)
        self._since = ""
        self._since_at = -1e18
        self._wake = asyncio.Event()
        self.roster.on_receipt = self._on_receipt
        self.roster.on_order = self._on_order
        self.roster.on_change = self._wake.set

    @property
    def leads(self) -> bool:
        """Whether this is the router that decides."""
        return self.epoch is not None and self.lease is not None and self.lease.held

    def _driven(self) -> dict[str, NodeRecord]:
        """The hosts without an agent, whose stores this router writes while it decides."""
        if not self.leads:
            return {}
        return {
            name: known.record
            for name, known in self.roster.nodes.items()
            if known.record is not None and known.member is None and is_driven(known.record)
        }

    # What is heard

    def _on_receipt(self, node: str, id: str, receipt: Receipt) -> None:
        self.evacuations.on_copy(node, id)
        if receipt.state != "held":
            return
        self.exclusions.worked(node, id)
        if self.planning.droppings.verified(node, id, receipt.verified_at):
            self.roster.dirty.add(id)
        if receipt.order and receipt.seconds is not None and receipt.at > self._lately():
            self._recent.append((node, id, receipt))
            if self.leads:
                self.teller.tell(
                    *completed(node, id, receipt, self.roster.holdings.artifacts.get(id))
                )

    def _lately(self) -> str:
        at = time.time()
        if at - self._since_at > 1:
            self._since_at = at
            self._since = rfc3339(datetime.fromtimestamp(at - _TELL_AGAIN_S, UTC))
        return self._since

    def _on_order(self, node: str, artifact: str, standing: Standing | None) -> None:
        if standing is None:
            self.planning.freed()
            return
        failure = standing.order.failure
        if failure is None:
            return
        at = time.time()
        failed_at = min(at, at_of(failure.at) or at)
        if self.exclusions.note(node, artifact, failure, failed_at) and self.leads:
            self._tell_failed(standing)
            if failure.source is not None and failure.code in ("source_damaged", "source_gone"):
                self.planning.doubt(failure.source, artifact)
        self.planning.freed()

    def _tell_failed(self, standing: Standing) -> None:
        lately = self.exclusions.of(standing.order.node, standing.order.artifact)
        self.teller.tell(*failed(standing.order, lately.times if lately is not None else 1))

    async def on_happening(self, delivery: Delivery) -> None:
        """A node goes, or somebody wants data."""
        event, _ = decode_event(delivery)
        if isinstance(event, NodeLeaveAnnounced) and event.node:
            await self.evacuations.begin(event.node, event.deadline_s)
        elif isinstance(event, NodeLeft | NodeLost) and event.node:
            await self.evacuations.gone(event.node)
        elif isinstance(event, SyncRequested):
            await self.desk.on_wish(delivery.id, event)

    # Who decides

    async def lead(self) -> None:
        """Be the one that decides whenever nobody else is, for ever."""
        await self.watching.ready.wait()
        while True:
            try:
                lease = await self.service.fleet.acquire_lock(
                    PLANNER_LOCK, ttl=_TTL_S, wait=0, note="decides what goes where"
                )
            except (LockBusy, LockRefused, BusUnavailable):
                await asyncio.sleep(_CANDIDATE_S * random.uniform(0.8, 1.2))  # noqa: S311
                continue
            self.lease = lease
            try:
                self.epoch = await self._begin_epoch(lease)
                log.info("deciding", router=self.name, token=lease.token)
                self._took_over()
                await lease.lost.wait()
            except (LeaseLost, BusUnavailable) as error:
                log.warning("cannot decide yet", router=self.name, why=str(error))
            finally:
                self.epoch = None
                self.lease = None
                self.teller.drop()
                if not lease.lost.is_set():
                    with contextlib.suppress(InterlockError):
                        await lease.release()
            log.warning("not deciding any more", router=self.name, why=lease.lost_reason)

    async def _begin_epoch(self, lease: Lease) -> Epoch:
        """Have this router's token be the one that counts. It is never lowered."""
        epoch = Epoch(token=lease.token, router=self.name[:200], at=rfc3339(now()))
        store = Store(self.bus, ORDERS)
        while True:
            entry = await store.get(EPOCH_KEY)
            if entry.value is not None:
                standing = msgspec.json.decode(entry.value, type=Epoch)
                if standing.token > lease.token:
                    raise ContractBroken(
                        f"orders were given under token {standing.token}, and lock {PLANNER_LOCK} "
                        f"is at {lease.token}: bucket {ORDERS.name} is newer than the locks. "
                        "Restore both from the same moment"
                    )
            lease.check()
            write = Write(
                ORDERS.key_subject(EPOCH_KEY),
                msgspec.json.encode(epoch),
                {**ALONE, **expecting(entry.revision)},
            )
            with contextlib.suppress(WrongRevision):
                await self.bus.commit([write])
                return epoch

    def _took_over(self) -> None:
        """Plan anew, and tell once more what the one before may not have come to tell."""
        self.planning.begin()
        since = self._lately()
        for node, id, receipt in self._recent:
            if receipt.at > since:
                about = self.roster.holdings.artifacts.get(id)
                self.teller.tell(*completed(node, id, receipt, about))
        for standing in self.roster.orders.values():
            failure = standing.order.failure
            if failure is not None and failure.at > since:
                self._tell_failed(standing)
        self._wake.set()

    # What is decided

    async def plan_on(self) -> None:
        """Plan whenever there is something to plan for, for ever."""
        await self.watching.ready.wait()
        while True:
            if not (self.leads and self.planning.due and self.watching.whole):
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(
                        max(0.05, self.planning.wait_s()) if self.leads else None
                    ):
                        await self._wake.wait()
            if not self.leads:
                # Whoever takes over plans everything.
                self.roster.dirty.clear()
                continue
            await asyncio.sleep(max(self.settings.sync_debounce_s, self.planning.rest_s()))
            lease = self.lease
            if lease is None or not self.leads or not self.watching.whole:
                await asyncio.sleep(0.05)
                continue
            with contextlib.suppress(LeaseLost):
                await self.planning.once(lease)

    async def keep_on(self) -> None:
        """See to evacuations and to what is over, for ever."""
        await self.watching.ready.wait()
        while True:
            await asyncio.sleep(_KEEP_S)
            self.evacuations.follow()
            # Marks, pauses and reports of stores end by themselves.
            self.roster.facts(time.time())
            if self.roster.all_dirty:
                self._wake.set()
            lease = self.lease
            if lease is None or not self.leads or not self.watching.whole:
                continue
            try:
                await self.evacuations.keep(lease)
                await self._forget(lease)
            except (LeaseLost, BusUnavailable, NotAcknowledged) as error:
                log.warning("not kept yet", why=str(error))

    async def _forget(self, lease: Lease) -> None:
        """Requests and pauses that ended are taken away."""
        at = time.time()
        over = [
            orders.request_key(id)
            for id, asked in self.roster.asked.items()
            if (at_of(asked.request.until) or at) + _FORGET_S < at
        ] + [
            orders.pause_key(scope)
            for scope, pause in self.roster.pauses.items()
            if (end := at_of(pause.until)) is not None and end < at
        ]
        for key in over:
            lease.check()
            revision = await write_over(self.bus, key, None)
            self.roster.on_orders(key, None, revision)

    async def run(self) -> None:
        """Everything of it, until cancelled or until something unknown goes wrong."""
        async with asyncio.TaskGroup() as group:
            for work in (
                self.watching.run(),
                self.teller.run(),
                self.lead(),
                self.plan_on(),
                self.keep_on(),
                self.hosts.run(),
            ):
                group.create_task(work)

    async def close(self) -> None:
        """Tell what is left, and let another one decide."""
        lease = self.lease
        if lease is None:
            return
        with contextlib.suppress(TimeoutError, InterlockError):
            async with asyncio.timeout(3):
                await self.teller.flush()
                await lease.release()


async def setup(service: Service) -> None:
    """Have a service be a sync-router."""
    settings = service.settings
    if not isinstance(settings, Settings):
        raise TypeError("the sync-router needs its own settings")
    router = Router(service, settings)
    desk = router.desk
    service.consume(HAPPENINGS, router.on_happening)
    service.answer(orders.SYNC, desk.sync, at_once=8)
    service.answer(orders.REPORT, desk.report, at_once=8)
    service.answer(orders.PLAN, desk.plan, at_once=2)
    service.answer(orders.STATUS, desk.status)
    service.answer(orders.PAUSE, desk.pause)
    service.answer(orders.SET_POLICY, desk.set_policy)
    service.answer(orders.POLICIES, desk.policies)
    service.answer(orders.EVACUATE, router.evacuations.evacuate, at_once=64)
    service.beside(router.run, ready=router.watching.ready)
    service.at_end(router.close)
