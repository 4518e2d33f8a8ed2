"""Runs the agent of one node: joins, beats, answers, listens to workers, and leaves in good order.

Nothing here measures: the heartbeat takes the newest of everything and is never late for it. What
is decided is in `lease`, `leave`, `progress` and `beat`.
"""

import asyncio
import contextlib
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, cast

import msgspec
from nats.aio.subscription import Subscription

from interlock import logs
from interlock.clock import now, rfc3339
from interlock.errors import (
    BusUnavailable,
    CommandFailed,
    InterlockError,
    LeaseLost,
    PublishRefused,
    SettingsInvalid,
)
from interlock.service import Service
from interlock_node_agent import leave
from interlock_node_agent.beat import Identity, beat, encode, text
from interlock_node_agent.collector import Collector
from interlock_node_agent.contract import CONTRACT
from interlock_node_agent.membership import Membership, describe
from interlock_node_agent.notices import Source, sources, watch
from interlock_node_agent.progress import Ledger
from interlock_node_agent.settings import Settings
from interlock_schemas import health, subjects
from interlock_schemas.event import Event
from interlock_schemas.node import NodeLeaveAnnounced, NodeLeft
from interlock_schemas.nodes import (
    AGENT,
    Leave,
    Member,
    Name,
    NodeRecord,
    ProbeAnswer,
    Report,
)

if TYPE_CHECKING:
    from interlock_node_agent.evacuating import Evacuating
    from interlock_node_agent.store_keeper import StoreKeeper

__all__ = ["LEAVE_VERB", "Agent", "Outcome", "node_record", "setup", "setup_for"]

#: An agent is asked to leave under this verb.
LEAVE_VERB: Final = "leave"

_LAG_EVERY_S: Final = 0.2
_TOLD_S: Final = 2.0
_MONITOR_S: Final = 1.0
_LOOK_S: Final = 0.1
_COMPLAIN_S: Final = 60.0
_LARGEST_REPORT_BYTES: Final = 65_536

log = logs.get_logger("interlock.agent")


class Outcome(msgspec.Struct):
    """What became of a run."""

    node: str = ""
    instance: str = ""
    joined: bool = False
    left: str | None = None
    """Why it left, once it has."""
    error: str | None = None


def node_record(settings: Settings, node: str) -> NodeRecord:
    """How an agent describes its node where nobody has. Raises SettingsInvalid."""
    record = NodeRecord(
        name=node,
        provider=settings.agent_provider,
        zone=settings.agent_zone,
        price_class=settings.agent_price_class,
        roles=settings.agent_roles,
        labels=settings.agent_labels,
        paths=tuple(str(path) for path in settings.agent_watch),
        source="agent",
    )
    try:
        return msgspec.json.decode(msgspec.json.encode(record), type=NodeRecord)
    except msgspec.ValidationError as error:
        raise SettingsInvalid(f"the node cannot be described so: {error}") from error


def _name_of(node: str) -> str:
    try:
        return msgspec.convert(node, Name)
    except msgspec.ValidationError:
        raise SettingsInvalid(
            f"INTERLOCK_NODE: {node[:120]!r} is no name of a node: it begins with a letter or "
            "digit and goes on with those and _ . -, 100 characters at most"
        ) from None


class Agent:
    """The agent of one node."""

    def __init__(self, service: Service, settings: Settings, outcome: Outcome) -> None:
        self.node = _name_of(service.fleet.node)
        self.instance = secrets.token_hex(8)
        self.outcome = outcome
        outcome.node, outcome.instance = self.node, self.instance
        self._service = service
        self._fleet = service.fleet
        self._bus = service.fleet.bus
        self._settings = settings
        self._record = node_record(settings, self.node)
        self._who = Identity(
            node=self.node,
            instance=self.instance,
            version=CONTRACT.version,
            interval_s=settings.agent_heartbeat_s,
        )
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._collector = Collector(settings)
        self._ledger = Ledger()
        self._keeper = self._store_keeper()
        self._evacuating: Evacuating | None = None
        self._membership: Membership | None = None
        self._probed: Subscription | None = None
        self._seq = 0
        self._lag_s = 0.0
        self._lag_known = False
        self._complained_at = -_COMPLAIN_S
        self._going: leave.Going | None = None
        self._quiet = False
        self._departed = asyncio.Event()
        self._asked = asyncio.Event()
        self._asked_leave = Leave(reason="asked")
        self.ready = asyncio.Event()

    def _store_keeper(self) -> "StoreKeeper | None":
        if not self._settings.agent_store:
            return None
        from interlock_node_agent.store_keeper import StoreKeeper

        return StoreKeeper(self._fleet, self._settings, node=self.node, instance=self.instance)

    async def join(self) -> None:
        """Become a member. Raises NodeTaken while another agent stands for the node."""
        member = Member(
            node=self.node,
            instance=self.instance,
            version=CONTRACT.version,
            host=text(socket.gethostname()),
            since=rfc3339(now()),
        )
        self._membership = Membership(self._bus, member, ttl_s=self._settings.agent_lease_s)
        await self._membership.take(self._answer)
        try:
            if await describe(self._bus, self._record):
                log.info("described the node, as nobody had", node=self.node)
        except BaseException:
            # Stopped, or refused: nobody is to take it for a member.
            await self._membership.give_back(_TOLD_S)
            raise

    async def run(self) -> None:
        """Beat, renew, listen and answer, until the node has left."""
        listening = (
            (subjects.progress(self.node), self._on_report),
            (subjects.node_command(AGENT, self.node, LEAVE_VERB), self._on_leave),
        )
        subscriptions = [await self._bus.listen(subject, on) for subject, on in listening]
        try:
            async with self._collector.measuring(), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._beat_on()),
                    group.create_task(self._measure_lag()),
                ]
                tasks.append(group.create_task(self._hold()))
                tasks += [group.create_task(self._heed(each)) for each in sources(self._settings)]
                tasks.append(group.create_task(self._heed_request()))
                if self._keeper is not None:
                    tasks.append(group.create_task(self._keeper.run()))
                self.outcome.joined = True
                self.ready.set()
                log.info("joined", node=self.node, instance=self.instance)
                await self._departed.wait()
                for task in tasks:
                    task.cancel()
        except asyncio.CancelledError:
            # Stopped before the service was ready, so that nobody calls `stop`.
            if not self._departed.is_set():
                await self.depart("sigterm", 0.0)
            raise
        finally:
            for subscription in subscriptions:
                await self._bus.unsubscribe(subscription)
            await self._answer(False)
        if self._settings.agent_after_leave == "exit":
            self._service.stop()
        elif not self._service.stopping:
            log.info("the node has left; start its agent again to have it back", node=self.node)

    async def _answer(self, wanted: bool) -> None:
        """Answer probes of this node, or do not."""
        if self._probed is not None:
            await self._bus.unsubscribe(self._probed)
            self._probed = None
        if wanted:
            self._probed = await self._bus.listen(subjects.probe(self.node), self._on_probe)

    async def stop(self) -> None:
        """Leave because somebody stops the agent: as planned, within the grace."""
        await self.depart("sigterm", stopped=True)

    async def depart(
        self, reason: str, deadline_s: float | None = None, *, stopped: bool = False
    ) -> None:
        """Leave in good order; returns when that is done. A leave under way is joined."""
        grace_s = self._settings.agent_grace_s
        if self._going is not None:
            if stopped:
                self._going = leave.hasten(self._going, self._loop.time(), grace_s=grace_s)
            await self._departed.wait()
            return
        self._going = leave.begin(
            text(reason), self._loop.time(), grace_s=grace_s, deadline_s=deadline_s
        )
        try:
            await self._depart(self._going.reason)
        finally:
            self.outcome.left = self._going.reason
            self._departed.set()

    async def _depart(self, reason: str) -> None:
        log.info("leaving", node=self.node, reason=reason, working=self._working())
        self._beat()
        if self._bus.connected:
            await asyncio.gather(self._announce(), self._tell_monitor())
        await self._hand_over()
        # From here on it does not beat and does not answer: it is gone.
        self._quiet = True
        if not self._bus.connected:
            log.warning("the broker cannot be told that the node left", node=self.node)
            return
        left = NodeLeft(node=self.node, reason=reason, instance=self.instance)
        await self._publish(left, id=f"node-left-{self.instance}")
        if self._membership is not None:
            await self._membership.give_back(_TOLD_S)
        log.info("left", node=self.node, reason=reason)

    async def _hand_over(self) -> None:
        """Wait for the workers, and for what only this node has to be saved; serve it meanwhile."""
        keeper = self._keeper
        async with asyncio.TaskGroup() as group:
            asking = []
            if keeper is not None:
                from interlock_node_agent.evacuating import Evacuating

                self._evacuating = Evacuating(self._fleet, keeper)
                asking.append(group.create_task(keeper.drain()))
                asking.append(group.create_task(self._evacuating.run(self._left_s)))
            while not await self._may_go():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._service.hurried.wait()
            for task in asking:
                task.cancel()
        if self._evacuating is not None:
            self._evacuating.conclude()

    def _left_s(self) -> float | None:
        leaving = self._leaving()
        return leaving.deadline_s if leaving is not None else None

    async def _may_go(self) -> bool:
        going = self._going
        if self._keeper is not None and self._working() == 0:
            # What a worker made last is not to be overlooked.
            await self._keeper.look(_LOOK_S)
        return going is None or leave.may_go(
            going,
            self._loop.time(),
            working=self._working(),
            hurried=self._service.hurried.is_set(),
            handover=self._evacuating.handover if self._evacuating is not None else None,
        )

    def _working(self) -> int:
        return self._ledger.working(self._loop.time())

    async def _announce(self) -> None:
        leaving = self._leaving()
        if leaving is None:
            return
        event = NodeLeaveAnnounced(
            node=self.node,
            reason=leaving.reason,
            deadline_s=leaving.deadline_s,
            instance=self.instance,
        )
        await self._publish(event, id=f"node-leave-{self.instance}")

    async def _publish(self, event: Event, *, id: str) -> None:
        try:
            await self._fleet.publish(event, id=id, timeout_s=_TOLD_S)
        except (BusUnavailable, PublishRefused) as error:
            log.warning("an event could not be told", type=event.event_type, why=str(error))

    async def _tell_monitor(self) -> None:
        """Tell the health monitor, if there is one: it reads the event as well."""
        leaving = self._leaving()
        if leaving is None:
            return
        request = health.AnnounceLeave(node=self.node, leave=leaving, instance=self.instance)
        with contextlib.suppress(BusUnavailable, CommandFailed, msgspec.DecodeError):
            await self._fleet.command(health.LEAVE, request, timeout_s=_MONITOR_S)

    def _leaving(self) -> Leave | None:
        return None if self._going is None else leave.leaving(self._going, self._loop.time())

    async def _beat_on(self) -> None:
        interval_s = self._settings.agent_heartbeat_s
        due = self._loop.time()
        while not self._quiet:
            self._beat()
            # After a pause it goes on from now: what was missed is not made up for.
            due = max(due + interval_s, self._loop.time())
            await asyncio.sleep(due - self._loop.time())

    def _beat(self) -> None:
        if self._quiet or not self._bus.connected:
            # What waits for a connection would arrive as a burst of old news.
            return
        self._seq += 1
        seen = self._collector.newest()
        at = self._loop.time()
        told = beat(
            self._who,
            seq=self._seq,
            sent_at=time.time(),
            uptime_s=at - self._began,
            loop_lag_s=self._lag_s if self._lag_known else None,
            machine=seen.machine,
            disks=seen.disks,
            gpus=seen.gpus.gpus,
            gpu_fault=seen.gpus.fault,
            addresses=seen.addresses,
            progress=self._ledger.progress(at),
            checkpoint=self._ledger.checkpoint(at),
            leaving=self._leaving(),
        )
        self._lag_s = 0.0
        self._bus.post(subjects.heartbeat(self.node), encode(told))

    async def _measure_lag(self) -> None:
        while True:
            before = self._loop.time()
            await asyncio.sleep(_LAG_EVERY_S)
            late_s = self._loop.time() - before - _LAG_EVERY_S
            self._lag_s = max(self._lag_s, late_s)
            self._lag_known = True

    def _on_probe(self, _subject: bytes, reply: bytes, _block: bytes, _body: bytes) -> None:
        if not reply or self._quiet:
            return
        answer = ProbeAnswer(
            node=self.node, instance=self.instance, seq=self._seq, leaving=self._leaving()
        )
        self._bus.post(reply.decode(), msgspec.json.encode(answer))

    def _on_report(self, _subject: bytes, _reply: bytes, _block: bytes, body: bytes) -> None:
        try:
            if len(body) > _LARGEST_REPORT_BYTES:
                raise msgspec.ValidationError(f"it has {len(body):,} bytes")
            report = msgspec.json.decode(body, type=Report)
        except (msgspec.DecodeError, RecursionError) as error:
            if self._loop.time() - self._complained_at >= _COMPLAIN_S:
                self._complained_at = self._loop.time()
                log.warning("a worker's report makes no sense", why=str(error))
            return
        self._ledger.take(report, self._loop.time())

    def _on_leave(self, _subject: bytes, reply: bytes, _block: bytes, body: bytes) -> None:
        try:
            asked = msgspec.json.decode(body, type=Leave) if body else self._asked_leave
        except (msgspec.DecodeError, RecursionError) as error:
            log.warning("a request to leave makes no sense", why=str(error))
            return
        self._asked_leave = asked
        self._asked.set()
        if reply and not self._quiet:
            answer = ProbeAnswer(
                node=self.node,
                instance=self.instance,
                seq=self._seq,
                leaving=self._leaving() or asked,
            )
            self._bus.post(reply.decode(), msgspec.json.encode(answer))

    async def _hold(self) -> None:
        """Keep the lease. Ends the agent with LeaseLost where another one has taken it."""
        if self._membership is None:
            return
        try:
            await self._membership.run()
        except LeaseLost as error:
            self.outcome.error = str(error)
            raise

    async def _heed(self, source: Source) -> None:
        # Thousands that began together are not to ask their provider together.
        every_s = self._settings.agent_notice_every_s * random.uniform(0.9, 1.1)  # noqa: S311
        notice = await watch(source, every_s)
        log.warning("the machine is about to go", source=source.name, reason=notice.reason)
        await self.depart(notice.reason, notice.deadline_s)

    async def _heed_request(self) -> None:
        await self._asked.wait()
        await self.depart(self._asked_leave.reason, self._asked_leave.deadline_s)


def setup_for(outcome: Outcome) -> Callable[[Service], Awaitable[None]]:
    """A `setup` that notes what becomes of the run."""

    async def set_up(service: Service) -> None:
        agent = Agent(service, cast(Settings, service.settings), outcome)
        try:
            await agent.join()
        except InterlockError as error:
            outcome.error = str(error)
            raise
        service.beside(agent.run, ready=agent.ready)
        service.at_end(agent.stop)

    return set_up


async def setup(service: Service) -> None:
    """Wire up the agent."""
    await setup_for(Outcome())(service)
