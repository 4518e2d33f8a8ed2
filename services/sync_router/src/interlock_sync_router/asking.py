"""Answers what is asked of the router, in any of its replicas: requests, reports, the plan, pauses,
policies. What is decided by it is written to the bucket of orders, where the planner finds it.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from interlock.bus import Bus
from interlock.clock import now, rfc3339
from interlock.conditional import ALONE, PURGE, Write, expecting, living
from interlock.errors import CommandFailed, Reject, WrongRevision
from interlock.kv import Store
from interlock_schemas.orders import (
    Asked,
    AskPlan,
    AskPolicies,
    AskReport,
    AskStatus,
    AskSync,
    Epoch,
    PlanView,
    PoliciesPage,
    Request,
    SetPause,
    SetPolicy,
    SyncReport,
    SyncStatus,
    pause_key,
    policy_key,
    request_key,
)
from interlock_schemas.sync import SyncRequested
from interlock_schemas.topology import ORDERS
from interlock_sync_router.exclusions import Exclusions
from interlock_sync_router.facts import at_of
from interlock_sync_router.planning import Planning
from interlock_sync_router.requests import already, report, targets_of
from interlock_sync_router.roster import Roster
from interlock_sync_router.selectors import check_selector
from interlock_sync_router.views import plan_view, status_of
from interlock_sync_router.world import DEFAULT

__all__ = ["Desk", "write_over"]

_COMMIT_S: Final = 10.0
#: How long a request that an event made is pursued, seconds.
_EVENT_S: Final = 3_600.0
_NAMED: Final = 20
_LARGEST_BYTES: Final = 6 * 1024 * 1024


async def write_over(bus: Bus, key: str, body: bytes | None) -> int:
    """Write a key of the bucket of orders, or (None) delete it, over whatever stands; its revision,
    0 where that is not known."""
    store = Store(bus, ORDERS)
    while True:
        entry = await store.get(key)
        if body is None and entry.value is None:
            return entry.revision
        headers = (
            {**ALONE, **expecting(entry.revision)}
            if body is not None
            else {**living(ORDERS.marker_ttl_s), **PURGE, **expecting(entry.revision)}
        )
        try:
            ack = await bus.commit(
                [Write(ORDERS.key_subject(key), body or b"", headers)], timeout_s=_COMMIT_S
            )
        except WrongRevision:
            continue
        return ack.seq


class Desk:
    """The commands of one router. `leads`: the epoch by which it plans; None: it does not."""

    def __init__(
        self,
        bus: Bus,
        roster: Roster,
        exclusions: Exclusions,
        planning: Planning,
        leads: Callable[[], Epoch | None],
    ) -> None:
        self._bus = bus
        self._roster = roster
        self._exclusions = exclusions
        self._planning = planning
        self._leads = leads

    # Requests

    async def sync(self, asked: AskSync) -> SyncReport:
        """Have data moved; asked again under the same id, it is the same request."""
        request = asked.request
        known = await self._find(request.id)
        if known is None:
            known = await self._accept(request, asked.timeout_s)
        return self._report(known, 100)

    async def report(self, asked: AskReport) -> SyncReport:
        """How far a request is."""
        known = await self._find(asked.id)
        if known is None:
            raise CommandFailed(
                f"no request is called {asked.id}: it was never asked, or is over and forgotten",
                code="404",
            )
        return self._report(known, asked.failures)

    async def _find(self, id: str) -> Asked | None:
        known = self._roster.asked.get(id)
        if known is not None:
            return known
        # It may have been asked of another router, a moment ago.
        entry = await Store(self._bus, ORDERS).get(request_key(id))
        return None if entry.value is None else msgspec.json.decode(entry.value, type=Asked)

    async def _accept(self, request: Request, timeout_s: float) -> Asked:
        roster = self._roster
        holdings = roster.holdings
        self._check(request)
        at = time.time()
        nodes, left_out = targets_of(request, roster.facts(at))
        asked = Asked(
            request=msgspec.structs.replace(
                request, at=_text(at), until=_text(at + timeout_s), by=request.by
            ),
            nodes=nodes,
            left_out=left_out,
            revision=holdings.revision,
        )
        ids = roster.artifacts_of(asked)
        there, size = already(nodes, ids, holdings.artifacts, holdings.copies)
        asked = msgspec.structs.replace(asked, already_there=there, already_bytes=size)
        body = msgspec.json.encode(asked)
        if len(body) > _LARGEST_BYTES:
            raise CommandFailed(
                f"{len(request.artifacts):,} artifacts cannot be named in one request: "
                "ask for their dataset, or in parts",
                code="400",
            )
        key = request_key(request.id)
        write = Write(ORDERS.key_subject(key), body, {**ALONE, **expecting(0)})
        try:
            ack = await self._bus.commit([write], timeout_s=_COMMIT_S)
        except WrongRevision:
            entry = await Store(self._bus, ORDERS).get(key)
            if entry.value is None:
                raise CommandFailed(
                    f"request {request.id} was over just now: ask under another id", code="409"
                ) from None
            return msgspec.json.decode(entry.value, type=Asked)
        if ack.seq:
            roster.on_orders(key, body, ack.seq)
        return asked

    def _check(self, request: Request) -> None:
        """Raise CommandFailed for what makes no sense."""
        roster = self._roster
        for selector in request.targets:
            wrong = check_selector(selector)
            if wrong is not None:
                raise CommandFailed(wrong, code="400")
        if not request.targets:
            raise CommandFailed("no targets: name nodes, `all` for one", code="400")
        if not request.artifacts and request.dataset is None and request.config is None:
            raise CommandFailed("nothing is asked for: name a dataset or artifacts", code="400")
        known = {*roster.policies, *(name for name, ids in roster.holdings.datasets.items() if ids)}
        if request.dataset is not None and request.dataset not in known:
            names = ", ".join(sorted(known)[:_NAMED]) or "none yet"
            raise CommandFailed(
                f"no dataset is called {request.dataset}. Known are: {names}", code="404"
            )
        missing = [id for id in request.artifacts if id not in roster.holdings.artifacts]
        if missing:
            raise CommandFailed(
                f"{len(missing):,} artifacts are not known, {missing[0]} for one: "
                "`interlock artifact list` lists them",
                code="404",
            )

    def _report(self, asked: Asked, failures: int) -> SyncReport:
        roster = self._roster
        at = time.time()
        until = at_of(asked.request.until)
        return report(
            asked,
            roster.artifacts_of(asked),
            artifacts=roster.holdings.artifacts,
            copies=roster.holdings.copies,
            nodes=roster.facts(at),
            exclusions=self._exclusions,
            over=until is not None and at >= until,
            failures=failures,
        )

    async def on_wish(self, id: str, event: SyncRequested) -> None:
        """An event that asks for data, as old workers do: its dataset goes where its policy says.

        `id`: of the event. Raises Reject where nothing is known of what it asks for.
        """
        dataset = event.data_type
        policy = self._roster.policies.get(dataset or "", DEFAULT)
        if not policy.targets or (dataset is None and event.config is None):
            # Its copies are seen to in any case.
            self._roster.all_dirty = True
            self._roster.on_change()
            return
        wish = {
            "id": "event-" + hashlib.sha256(id.encode()).hexdigest()[:32],
            "dataset": dataset,
            "config": event.config,
            "targets": policy.targets,
            "priority": "high",
            "by": "sync.requested",
        }
        try:
            request = msgspec.convert(wish, Request)
            await self.sync(AskSync(request=request, timeout_s=_EVENT_S))
        except CommandFailed as error:
            raise Reject(f"nothing was moved: {error}") from error
        except msgspec.ValidationError as error:
            raise Reject(f"this is no dataset: {error}") from error

    # What would be done, and how it is

    async def plan(self, asked: AskPlan) -> PlanView:
        """What would be done now, and why."""
        roster = self._roster
        if asked.artifact is not None and asked.artifact not in roster.holdings.artifacts:
            raise CommandFailed(f"no artifact {asked.artifact} is known", code="404")
        if asked.request is not None:
            self._check(asked.request)
        world = self._planning.world(apart=True)
        return await asyncio.to_thread(plan_view, world, asked, self._planning.limits)

    async def status(self, _: AskStatus) -> SyncStatus:
        """How the fleet's data is."""
        roster = self._roster
        return status_of(
            roster,
            self._planning.world(),
            self._planning.limits,
            at=rfc3339(now()),
            epoch=self._leads() or roster.epoch,
            datasets=self._planning.datasets,
        )

    # What operators decide

    async def pause(self, asked: SetPause) -> SyncStatus:
        """Pause, or go on."""
        kind, colon, name = asked.scope.partition(":")
        if asked.scope != "fleet" and (kind not in ("dataset", "node") or not colon or not name):
            raise CommandFailed(
                f"{asked.scope!r} is no scope: fleet, dataset:<dataset> or node:<node>", code="400"
            )
        pause = asked.pause
        if pause is not None and pause.until is not None and at_of(pause.until) is None:
            raise CommandFailed(f"until {pause.until!r} is no time, as RFC 3339 has it", code="400")
        body = msgspec.json.encode(pause) if pause is not None else None
        await self._decide(pause_key(asked.scope), body)
        return await self.status(AskStatus())

    async def set_policy(self, asked: SetPolicy) -> PoliciesPage:
        """Give a dataset a policy, or the default."""
        policy = asked.policy
        if policy is not None:
            if policy.dataset != asked.dataset:
                raise CommandFailed(
                    f"the policy is of {policy.dataset}, not of {asked.dataset}", code="400"
                )
            for selector in (*policy.targets, *policy.avoid):
                wrong = check_selector(selector)
                if wrong is not None:
                    raise CommandFailed(wrong, code="400")
        body = msgspec.json.encode(policy) if policy is not None else None
        await self._decide(policy_key(asked.dataset), body)
        return await self.policies(AskPolicies())

    async def policies(self, _: AskPolicies) -> PoliciesPage:
        """Which policies hold."""
        found = self._roster.policies
        return PoliciesPage(policies=tuple(found[name] for name in sorted(found)), default=DEFAULT)

    async def _decide(self, key: str, body: bytes | None) -> None:
        revision = await write_over(self._bus, key, body)
        self._roster.on_orders(key, body, revision)


def _text(at: float) -> str:
    return rfc3339(datetime.fromtimestamp(at, UTC))
