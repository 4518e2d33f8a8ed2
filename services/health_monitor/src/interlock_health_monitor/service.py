"""The shell of the health-monitor: what is heard goes in, verdicts and their consequences come out.

Any number of monitors listen; one of them, who holds the lock ``health-monitor``, decides and
tells. The others follow what it tells and are ready to go on from there.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Final

import msgspec

from interlock import logs
from interlock.clock import now, parse_ns, rfc3339
from interlock.delivery import Delivery
from interlock.errors import (
    BusUnavailable,
    CommandFailed,
    InterlockError,
    LeaseLost,
    LockBusy,
    LockRefused,
    LockTimeout,
    NobodyThere,
)
from interlock.fleet import decode_event
from interlock.kv import Entry
from interlock.locks.lease import Lease
from interlock.reader import Reader, Record
from interlock.service import Service
from interlock_health_monitor import instants
from interlock_health_monitor.actuator import Actuator, Sight
from interlock_health_monitor.admitting import Gate
from interlock_health_monitor.attention import Attention, Climate
from interlock_health_monitor.beats import Beats
from interlock_health_monitor.contract import LEAVES, WORK_DONE
from interlock_health_monitor.disruption import EVERYWHERE, Disruption, Disruptions, crowd
from interlock_health_monitor.eviction import Evicted, Lost, rule
from interlock_health_monitor.looking import Looker
from interlock_health_monitor.node_commands import NodeCommands
from interlock_health_monitor.overview import Overview
from interlock_health_monitor.recovering import policy_of
from interlock_health_monitor.roster import Node, Roster
from interlock_health_monitor.settings import Settings
from interlock_health_monitor.ssh_probe import SSH
from interlock_health_monitor.suspicion import Transition, asks, judge
from interlock_health_monitor.telling import Teller, event_id, event_of
from interlock_health_monitor.views import page_of, view_of
from interlock_schemas import health, nodes, subjects
from interlock_schemas.cluster import DisruptionDetected, DisruptionEnded
from interlock_schemas.event import Event
from interlock_schemas.health import (
    AnnounceLeave,
    ClusterHealth,
    Eviction,
    Evidence,
    LeaveNoted,
    ListNodes,
    NodeHealth,
    NodesPage,
    NodeView,
    ShowNode,
    ShowVerdict,
)
from interlock_schemas.node import NodeEvicted, NodeLeaveAnnounced, NodeLeft
from interlock_schemas.nodes import FleetRecord, Member, NodeRecord
from interlock_schemas.topology import HEALTH, MEMBERS, NODES
from interlock_schemas.training import TrainingCompleted, TrainingFailed
from interlock_schemas.work import WorkCompleted, WorkFailed

__all__ = ["Monitor", "setup"]

#: Who decides.
LEADER_LOCK: Final = "health-monitor"
_LEADER_TTL_S: Final = 5.0
_CANDIDATE_S: Final = 0.5

_ECHO_S: Final = 0.15
_TICK_S: Final = 0.15
_SLOW_TICK_S: Final = 1.0
#: Deaf for so long, nobody is asked: no answer could come.
_DEAF_S: Final = 0.8
_PROBES_AT_ONCE: Final = 1_000
#: Verdicts so young are told once more by whoever takes over.
_TELL_AGAIN_S: Final = 120.0
#: A lost node that nobody described is forgotten after so long, seconds; one that left, sooner.
_FORGET_LOST_S: Final = 86_400.0
_FORGET_LEFT_S: Final = 3_600.0
#: A node that did well for so long is not held to have flapped any more.
_FLAPS_FORGOTTEN_S: Final = 3_600.0

log = logs.get_logger("interlock.health")


class Monitor:
    """One monitor."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service = service
        self.settings = settings
        self.bus = service.fleet.bus
        self.policy = settings.policy
        self.loop = asyncio.get_running_loop()
        self.name = f"{service.fleet.node}-{random.getrandbits(48):012x}"
        self.attention = Attention(self.loop.time())
        self.roster = Roster()
        self.teller = Teller(self.bus, health.MONITOR)
        self.lease: Lease | None = None
        self.disruptions = Disruptions()
        self.evicted: list[Evicted] = []
        self.members: dict[str, int] = {}
        self.quiet: list[Node] = []
        self.described = asyncio.Event()
        self.ready = asyncio.Event()
        self._probes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = self.loop.create_future()
        self.beats = Beats(
            self.roster, self.attention, self.policy, self.teller, lambda: self.leads
        )
        self.overview = Overview(self.roster, self.attention, self.teller, settings, self.name)
        self.gate = Gate(self.bus, self.roster, lambda: self.overview.cluster)
        self.looker = Looker(settings, self.attention, self._tell_of_breaker)
        self.actuator = Actuator(
            service.fleet,
            NodeCommands(self.looker.prober),
            observe=self._sight,
            sick=self._sick,
            size=lambda: sum(self.members.values()),
            policy=policy_of(settings),
            mode=settings.health_recovery,
        )

    @property
    def leads(self) -> bool:
        """Whether this monitor is the one that decides."""
        return self.lease is not None and self.lease.held

    # What is heard

    async def listen(self) -> None:
        """Hear heartbeats and ourselves, for ever."""
        beats = await self.bus.client.listen(subjects.HEARTBEATS, self.beats.on_message)
        echoes = await self.bus.client.listen(subjects.echo(self.name), self._on_echo)
        try:
            with self.bus.on_reconnect(self.attention.cut_off):
                while True:
                    if self.bus.connected:
                        at = self.loop.time()
                        self.bus.post(subjects.echo(self.name), repr(at).encode())
                    await asyncio.sleep(_ECHO_S)
        finally:
            for each in (beats, echoes):
                with contextlib.suppress(Exception):
                    await self.bus.client.unlisten(each)

    def _on_echo(self, _: bytes, __: bytes, ___: bytes, body: bytes) -> None:
        with contextlib.suppress(ValueError):
            self.attention.echoed(float(body), self.loop.time())

    def on_description(self, entry: Entry) -> None:
        """A record of the bucket of nodes changed."""
        if entry.key == nodes.FLEET_KEY:
            fleet = _read(entry, FleetRecord) if entry.value is not None else FleetRecord()
            if fleet is not None:
                self.roster.fleet_said(fleet)
            return
        name = _name(entry.key, "node.")
        if name is None:
            return
        record = _read(entry, NodeRecord) if entry.value is not None else None
        if entry.value is not None and record is None:
            return
        if record is None and self.roster.get(name) is None:
            return
        node = self.roster.node(name, self.attention.now_s)
        node.described(record, self.roster.fleet)

    async def follow_members(self) -> None:
        """Follow the leases of agents, from a snapshot on, and anew after each gap."""
        seen: set[str] = set()
        live = False
        async for record in self._reader(MEMBERS.stream, MEMBERS.key_subject("member.>")):
            if record == "begin":
                seen, live = set(), False
            elif record is None:
                if not live:
                    for node in self.roster:
                        if node.facts.lease == "standing" and node.facts.name not in seen:
                            node.facts.lease = "ended"
                live = True
                self._member_snapshot.set()
            else:
                assert isinstance(record, Record)  # noqa: S101  # for the type checker
                name = _name(record.subject[len(MEMBERS.key_subject("")) :], "member.")
                if name is not None:
                    seen.add(name)
                    self._on_member(name, record)

    def _on_member(self, name: str, record: Record) -> None:
        over = "KV-Operation" in record.headers or "Nats-Marker-Reason" in record.headers
        node = self.roster.get(name)
        if over:
            if node is not None:
                node.facts.lease = "ended"
                node.settled = False
            return
        try:
            member = msgspec.json.decode(record.body, type=Member)
        except (msgspec.DecodeError, RecursionError) as error:
            log.warning("a lease cannot be read", node=name, why=str(error))
            return
        at = self.attention.now_s
        known = node is not None
        node = self.roster.node(name, at)
        node.member = member
        node.agent_heard()
        node.facts.lease = "standing"
        if not known or node.facts.heard_at_s is None:
            # It renewed its lease within the last half minute. Should it be silent, it is given as
            # long as one that was heard of just now.
            node.facts.answered(at, self.policy)
            node.settled = False

    async def follow_health(self) -> None:
        """Follow what the monitors tell, our own word among it."""
        subjects_of_it = (
            HEALTH.key_subject("node.>"),
            HEALTH.key_subject(health.CLUSTER_KEY),
        )
        async for record in self._reader(HEALTH.stream, *subjects_of_it):
            if record == "begin":
                continue
            if record is None:
                self._health_snapshot.set()
                continue
            assert isinstance(record, Record)  # noqa: S101  # for the type checker
            key = record.subject[len(HEALTH.key_subject("")) :]
            if key == health.CLUSTER_KEY and record.body:
                with contextlib.suppress(msgspec.DecodeError):
                    self.overview.adopt(msgspec.json.decode(record.body, type=ClusterHealth))
            name = _name(key, "node.")
            if name is None or "KV-Operation" in record.headers or not record.body:
                continue
            try:
                told = msgspec.json.decode(record.body, type=NodeHealth)
            except (msgspec.DecodeError, RecursionError) as error:
                log.warning("a verdict cannot be read", node=name, why=str(error))
                continue
            if told.by != self.name:
                self._adopt(name, told)

    def _adopt(self, name: str, told: NodeHealth) -> None:
        """Take over what another monitor found."""
        at = self.attention.now_s
        node = self.roster.node(name, at)
        facts = node.facts
        node.health = told
        if told.instance:
            node.agent_heard()
        if told.expires_at is not None:
            left_s = instants.seconds_until(told.expires_at, now()) or 0.0
            node.expires_s = at + max(0.0, left_s)
        facts.zone = facts.zone or told.zone
        facts.flaps = told.flaps
        kinds = tuple((each.kind, each.part) for each in told.symptoms)
        facts.entered(
            Transition(state=told.state, reason=told.reason, detail=told.detail, kinds=kinds), at
        )
        live = told.state in ("healthy", "degraded", "suspect", "recovering")
        if live and facts.heard_at_s is None and told.last_heard_at is not None:
            # Whoever was well when it was last looked at has as long as one heard of just now.
            facts.answered(at, self.policy)
        if told.eviction is not None:
            age = _age_s(told.eviction.at)
            if all(each.name != name or each.at_s < at - age - 1 for each in self.evicted):
                self.evicted.append(Evicted(name=name, zone=facts.zone, at_s=at - age))
        node.settled = False

    def _reader(self, stream: str, *filters: str) -> Any:
        return Reader(self.bus, stream, filters, {"deliver_policy": "last_per_subject"}).snapshots()

    async def on_leave_event(self, delivery: Delivery) -> None:
        """An agent said that its node is about to go, or went."""
        event, _ = decode_event(delivery)
        if not isinstance(event, NodeLeaveAnnounced | NodeLeft) or not event.node:
            return
        node = self.roster.get(event.node)
        if node is None or (event.instance and node.instance not in ("", event.instance)):
            return
        node.facts.leaving = True
        if isinstance(event, NodeLeft):
            node.facts.left = True
        node.settled = False

    async def on_leave(self, asked: AnnounceLeave) -> LeaveNoted:
        """The same, asked directly."""
        node = self.roster.node(asked.node, self.attention.now_s)
        node.facts.leaving = True
        node.settled = False
        return LeaveNoted(node=asked.node)

    async def on_verdict(self, _: ShowVerdict) -> ClusterHealth:
        """How the fleet as a whole is doing."""
        found = self.overview.cluster
        if found is None or found.expires_at < rfc3339(now()):
            return ClusterHealth(
                level="unknown", score=None, reason="no monitor has come to a verdict yet"
            )
        return found

    async def on_nodes(self, asked: ListNodes) -> NodesPage:
        """Which nodes are there."""
        page = page_of(self.roster, asked, self.attention.now_s, now())
        return msgspec.structs.replace(page, heartbeats=self.beats.heard)

    async def on_node(self, asked: ShowNode) -> NodeView:
        """Everything about one node."""
        node = self.roster.get(asked.node)
        if node is None:
            raise CommandFailed(
                f"no node is called {asked.node}: `interlock nodes` lists them", code="404"
            )
        node.recovery = self.actuator.records.get(asked.node)
        return view_of(node, self.attention.now_s, now(), whole=True)

    async def on_work(self, delivery: Delivery) -> None:
        """Work on a node ended, well or badly."""
        event, _ = decode_event(delivery)
        if not isinstance(event, WorkCompleted | WorkFailed | TrainingCompleted | TrainingFailed):
            return
        node = self.roster.get(event.node) if event.node else None
        if node is None:
            return
        at = self.attention.now_s
        node.work.note(isinstance(event, WorkCompleted | TrainingCompleted), at)
        node.look(at, self.policy)

    # Who decides

    async def lead(self) -> None:
        """Be the one that decides whenever nobody else is, for ever."""
        await self.ready.wait()
        while True:
            try:
                lease = await self.service.fleet.acquire_lock(
                    LEADER_LOCK, ttl=_LEADER_TTL_S, wait=0, note="decides on nodes"
                )
            except (LockBusy, LockTimeout, LockRefused, BusUnavailable):
                await asyncio.sleep(_CANDIDATE_S * random.uniform(0.8, 1.2))  # noqa: S311
                continue
            self.lease = lease
            log.info("deciding", monitor=self.name, token=lease.token)
            self._took_over()
            try:
                await lease.lost.wait()
            finally:
                self.lease = None
                self.teller.drop()
                if not lease.lost.is_set():
                    with contextlib.suppress(InterlockError):
                        await lease.release()
            log.warning("not deciding any more", monitor=self.name, why=lease.lost_reason)

    def _took_over(self) -> None:
        """Tell once more what the one before may not have come to tell."""
        for node in self.roster:
            node.settled = False
            told = node.health
            if told is not None and told.by != self.name and _age_s(told.since) < _TELL_AGAIN_S:
                event = event_of(told)
                if event is not None:
                    self.teller.emit(event, event_id(told))

    # What is decided

    async def tick(self) -> None:
        """Ask, judge and tell, for ever."""
        slow_at = 0.0
        while True:
            await asyncio.sleep(_TICK_S)
            at = self.attention.now_s
            deaf = self.attention.deaf_s(self.loop.time()) > _DEAF_S
            if deaf or not self.leads:
                continue
            slow = self.loop.time() >= slow_at
            if slow:
                slow_at = self.loop.time() + _SLOW_TICK_S
                self._census()
            self.quiet = quiet = []
            turn = []
            for node in self.roster.nodes.values():
                facts = node.facts
                if facts.agent and facts.heard_at_s is not None and at >= facts.ask_at_s:
                    if facts.state != "retired":
                        quiet.append(node)
                    turn.append(node)
                elif not node.settled:
                    turn.append(node)
            climate = self._climate(at)
            self.overview.glance()
            for node in turn:
                if asks(node.facts, at, self.policy):
                    self._ask(node)
                self._judge(node, climate)
            if slow:
                self._evict(at)
                self._expire(at)
                self._look_around(at)
                self.overview.assess(self.disruptions)

    def _climate(self, at: float) -> Climate:
        """What holds for all nodes at this moment."""
        policy = self.settings.disruption
        went = [node.facts.heard_at_s or 0.0 for node in self.quiet if node.facts.state != "lost"]
        silent: Counter[str] = Counter()
        for node in self.quiet:
            facts = node.facts
            if facts.state in ("suspect", "lost") and self._counts(node, at):
                silent[facts.zone] += 1
        self.disruptions = self.disruptions.assess(
            silent, self.members, at, policy, settling=self.attention.settling
        )
        for begun in self.disruptions.began:
            self._disrupted(begun)
        for ended in self.disruptions.ended:
            self._ended(ended, at)
        return Climate(
            now_s=at,
            score=self.attention.score,
            settling=self.attention.settling,
            crowd=crowd(went, sum(self.members.values()), policy),
            disrupted=self.disruptions.zones,
        )

    def _counts(self, node: Node, at: float) -> bool:
        """Whether a node is a member: retired, evicted and long lost ones are not any more."""
        facts = node.facts
        if facts.state == "retired" or facts.retired or facts.left:
            return False
        if node.health is not None and node.health.eviction is not None:
            return False
        if facts.state == "unknown" and facts.heard_at_s is None:
            return False
        return facts.state != "lost" or at - facts.state_since_s < 3_600.0

    def _census(self) -> None:
        members: Counter[str] = Counter()
        at = self.attention.now_s
        for node in self.roster:
            if self._counts(node, at):
                members[node.facts.zone] += 1
        self.members = dict(members)

    def _disrupted(self, begun: Disruption) -> None:
        whole = begun.zone == EVERYWHERE
        where = "the fleet" if whole else f"zone {begun.zone or '(none)'}"
        names = sorted(
            node.facts.name for node in self.quiet if whole or node.facts.zone == begun.zone
        )
        reason = (
            f"{begun.quiet} of {begun.members} nodes of {where} went quiet at once: "
            "nobody is evicted and nothing is repaired there. Look at the network, the broker and "
            "the provider"
        )
        log.error("disruption", zone=begun.zone, quiet=begun.quiet, members=begun.members)
        self.teller.emit(
            DisruptionDetected(
                zone=None if whole else begun.zone,
                quiet=begun.quiet,
                members=begun.members,
                nodes=names[:50],
                reason=reason,
            ),
            f"disruption-{begun.zone}-{self.name}-{begun.since_s}",
        )

    def _ended(self, ended: Disruption, at: float) -> None:
        log.info("disruption over", zone=ended.zone)
        self.teller.emit(
            DisruptionEnded(
                zone=None if ended.zone == EVERYWHERE else ended.zone,
                duration_s=round(at - ended.since_s, 3),
                reason="enough of them are back"
                if ended.below_since_s is not None
                else "it stood for so long that those still quiet count as dead",
            ),
            f"disruption-over-{ended.zone}-{self.name}-{ended.since_s}",
        )

    def _ask(self, node: Node) -> None:
        """Ask its agent whether it is there."""
        if node.probing or self._probes >= _PROBES_AT_ONCE:
            return
        node.probing = True
        node.facts.last_asked_s = self.attention.now_s
        self._probes += 1
        self.spawn(self._probe(node))

    async def _probe(self, node: Node) -> None:
        sent_s = self.attention.now_s
        try:
            outcome = await self._probed(node.facts.name)
        finally:
            node.probing = False
            self._probes -= 1
        if outcome != "answered" and self.attention.deaf_s(self.loop.time()) > _DEAF_S:
            # We would not have heard the answer.
            return
        facts = node.facts
        if facts.heard_at_s is not None and facts.heard_at_s >= sent_s and outcome != "answered":
            return
        facts.probed(outcome, self.attention.now_s, self.policy)
        node.settled = False

    async def _probed(self, name: str) -> Any:
        body = msgspec.json.encode(nodes.Probe(by=self.name))
        try:
            await self.bus.request(subjects.probe(name), body, timeout_s=self.policy.ask_timeout_s)
        except NobodyThere:
            return "gone"
        except BusUnavailable:
            return "silent"
        return "answered"

    def _judge(self, node: Node, climate: Climate) -> None:
        facts = node.facts
        found = judge(facts, climate, self.policy)
        if found is None:
            node.settled = facts.state not in ("recovering", "suspect")
        else:
            self._enter(node, found)
        if facts.ssh and facts.state == "suspect" and facts.ssh_found is None:
            self._look(node)

    def _enter(self, node: Node, found: Transition) -> None:
        """Carry a transition out, and tell it."""
        facts = node.facts
        at = self.attention.now_s
        wall = now()
        silence = facts.silence_s(at)
        before = facts.state
        suspected_at = node.health.since if node.health and before == "suspect" else None
        facts.entered(found, at)
        eviction = node.health.eviction if node.health is not None else None
        if found.state in ("healthy", "degraded"):
            eviction = None
            node.shadowed = False
            if facts.agent and facts.ssh:
                self.looker.breakers.reset(facts.name, SSH)
        node.expires_s = at + found.expires_s if found.expires_s is not None else None
        told = NodeHealth(
            node=facts.name,
            state=found.state,
            since=rfc3339(wall),
            reason=found.reason,
            detail=found.detail[:500],
            evidence=tuple(
                Evidence(kind=kind, detail=detail[:500], at=rfc3339(wall))
                for kind, detail in found.evidence
            ),
            previous=before if node.health is not None or before != "unknown" else None,
            suspected_at=suspected_at,
            silent_s=round(silence, 3) if silence is not None else None,
            phi=round(facts.rhythm.phi(silence), 2) if silence is not None else None,
            expires_at=rfc3339(wall + timedelta(seconds=found.expires_s))
            if found.expires_s is not None
            else None,
            last_heard_at=rfc3339(wall - timedelta(seconds=silence))
            if silence is not None
            else None,
            instance=node.instance or None,
            zone=facts.zone,
            symptoms=facts.symptoms if found.state == "degraded" else (),
            eviction=eviction,
            leaving=node.beat.leaving if node.beat is not None else None,
            flaps=facts.flaps,
            by=self.name,
        )
        node.health = told
        node.settled = found.state not in ("suspect", "recovering")
        log.info(
            "node", node=facts.name, state=found.state, before=before, reason=found.reason,
            detail=found.detail,
        )  # fmt: skip
        self.teller.verdict(told)

    def _evict(self, at: float) -> None:
        policy = self.settings.eviction
        lost = [
            Lost(
                name=node.facts.name,
                zone=node.facts.zone,
                lost_s=at - node.facts.state_since_s,
                evictable=node.evictable,
            )
            for node in self.roster
            if node.facts.state == "lost"
            and not node.shadowed
            and (node.health is None or node.health.eviction is None)
        ]
        if not lost:
            return
        self.evicted = [each for each in self.evicted if at - each.at_s < policy.window_s]
        members = dict(self.members)
        for each in self.evicted:
            members[each.zone] = members.get(each.zone, 0) + 1
        ruling = rule(lost, members, self.evicted, self.disruptions.sparing, at, policy)
        shadow = self.settings.health_eviction == "shadow"
        for chosen in ruling.evict:
            node = self.roster.get(chosen.name)
            if node is None or node.health is None:
                continue
            wall = now()
            until = rfc3339(wall + timedelta(seconds=policy.lasts_s))
            reason = f"lost for {chosen.lost_s:.0f} s: {node.health.reason}"
            self.evicted.append(Evicted(name=chosen.name, zone=chosen.zone, at_s=at))
            if shadow:
                node.shadowed = True
            else:
                node.health = msgspec.structs.replace(
                    node.health,
                    eviction=Eviction(at=rfc3339(wall), expires_at=until, reason=reason),
                    by=self.name,
                )
                self.teller.record(health.health_key(chosen.name), node.health)
            self.teller.emit(
                NodeEvicted(
                    node=chosen.name,
                    reason=reason,
                    lost_s=round(chosen.lost_s, 3),
                    zone=chosen.zone or None,
                    shadow=True if shadow else None,
                    expires_at=until,
                    budget_left=ruling.budget.left(chosen.zone),
                ),
                f"evicted-{chosen.name}-{node.health.since}",
            )
            log.warning("evicted", node=chosen.name, shadow=shadow, reason=reason)

    def _expire(self, at: float) -> None:
        """What is negative is looked at anew when its time is up."""
        wall = rfc3339(now())
        forgotten = []
        for node in self.roster:
            facts = node.facts
            age = at - facts.state_since_s
            if facts.flaps and facts.state == "healthy" and age >= _FLAPS_FORGOTTEN_S:
                facts.flaps = 0
            if node.health is None or facts.state not in ("suspect", "lost", "degraded", "retired"):
                continue
            eviction = node.health.eviction
            if eviction is not None and eviction.expires_at <= wall:
                # It is still gone: it need not be evicted anew, on the budget of others.
                lasts = timedelta(seconds=self.settings.eviction.lasts_s)
                prolonged = msgspec.structs.replace(eviction, expires_at=rfc3339(now() + lasts))
                node.health = msgspec.structs.replace(node.health, eviction=prolonged, by=self.name)
                self.teller.record(health.health_key(facts.name), node.health)
            if node.record is None and (
                (facts.state == "lost" and age >= _FORGET_LOST_S)
                or (facts.state == "retired" and age >= _FORGET_LEFT_S)
            ):
                forgotten.append(facts.name)
                continue
            if node.expires_s is not None and at >= node.expires_s:
                self._look_anew(node, at)
        for name in forgotten:
            self.roster.forget(name)
            self.teller.remove(health.health_key(name))

    def _look_anew(self, node: Node, at: float) -> None:
        """A negative verdict ran out: it is drawn anew, and stands for as long again meanwhile."""
        facts = node.facts
        lives_s = {
            "suspect": self.policy.suspect_ttl_s,
            "degraded": self.policy.degraded_ttl_s,
        }.get(facts.state, self.policy.lost_ttl_s)
        node.expires_s = at + lives_s
        if node.health is not None:
            until = rfc3339(now() + timedelta(seconds=lives_s))
            node.health = msgspec.structs.replace(node.health, expires_at=until, by=self.name)
            self.teller.record(health.health_key(facts.name), node.health)
        if facts.agent:
            facts.ssh_found = None
        facts.last_asked_s = -1e9
        node.settled = False
        if facts.ssh:
            self._look(node)

    def _look(self, node: Node) -> None:
        """Look at a node over SSH."""
        if not node.looking:
            node.looking = True
            node.looked_s = self.attention.now_s
            self.spawn(self._looked(node))

    async def _looked(self, node: Node) -> None:
        try:
            await self.looker.look(node)
        finally:
            node.looking = False
            node.settled = False

    def _look_around(self, at: float) -> None:
        """Look at the nodes without an agent whose turn it is."""
        every = self.settings.health_ssh_interval_s
        for node in self.roster:
            facts = node.facts
            if facts.agent or not facts.ssh or facts.retired:
                continue
            # One that fails is looked at sooner, to know.
            due = every / 3 if facts.state == "suspect" else every
            if at - node.looked_s >= due:
                self._look(node)

    def _tell_of_breaker(self, event: Event) -> None:
        if self.leads:
            self.teller.emit(event, f"breaker-{self.name}-{random.getrandbits(64):x}")

    # What is done about it

    def _sight(self, name: str) -> Sight | None:
        """What the actuator may rest on; None where this monitor does not decide, or hears too
        little to judge anybody."""
        node = self.roster.get(name)
        deaf = self.attention.deaf_s(self.loop.time()) > _DEAF_S or self.attention.settling
        if node is None or node.health is None or deaf or not self.leads:
            return None
        zone = node.facts.zone
        standing = self.disruptions.standing
        return Sight(
            health=node.health,
            record=node.record,
            recovery=self.roster.fleet.recovery,
            disruption="too many nodes went quiet at once"
            if zone in standing or EVERYWHERE in standing
            else "",
        )

    def _sick(self) -> list[str]:
        if not self.leads:
            return []
        return [
            node.facts.name
            for node in self.roster
            if node.health is not None
            and (
                node.facts.state == "degraded"
                or (node.facts.state == "lost" and not _reclaimed(node))
            )
        ]

    # Tasks

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done beside; its error ends the monitor."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._failed.done():
            self._failed.set_exception(error)

    async def run(self) -> None:
        """Everything of it, until cancelled or until something unknown goes wrong."""
        self._member_snapshot = asyncio.Event()
        self._health_snapshot = asyncio.Event()
        try:
            async with self.looker, asyncio.TaskGroup() as group:
                group.create_task(self.listen())
                group.create_task(self.follow_health())
                await self._health_snapshot.wait()
                group.create_task(self.follow_members())
                await self._member_snapshot.wait()
                group.create_task(self.teller.run())
                group.create_task(self.lead())
                group.create_task(self.tick())
                if self.settings.health_recovery != "off":
                    group.create_task(self.actuator.run())
                self.ready.set()
                await self._failed
        finally:
            for task in self._tasks:
                task.cancel()

    async def close(self) -> None:
        """Tell what is left, and let another one decide."""
        lease = self.lease
        if lease is None:
            return
        with contextlib.suppress(TimeoutError, InterlockError, LeaseLost):
            async with asyncio.timeout(3):
                await self.teller.flush()


def _reclaimed(node: Node) -> bool:
    """Whether a lost node was probably taken back by its provider, which is no trouble to mend."""
    return node.record is not None and node.record.price_class == "spot"


def _read(entry: Entry, type: type[Any]) -> Any:
    try:
        return msgspec.json.decode(entry.value or b"", type=type)
    except (msgspec.DecodeError, RecursionError) as error:
        log.error(
            "a record of the bucket of nodes cannot be read, and what was known stays",
            key=entry.key, why=str(error),
        )  # fmt: skip
        return None


def _name(key: str, prefix: str) -> str | None:
    found = subjects.untoken(key.removeprefix(prefix))
    return found if key.startswith(prefix) and found else None


def _age_s(at: str) -> float:
    """How long ago a moment on the wire was; very long where it cannot be read."""
    try:
        return max(0.0, time.time() - parse_ns(at) / 1e9)
    except ValueError:
        return 1e9


async def setup(service: Service) -> None:
    """Have a service be a health-monitor."""
    settings = service.settings
    assert isinstance(settings, Settings)  # noqa: S101  # for the type checker
    monitor = Monitor(service, settings)
    service.watch(NODES, monitor.on_description)
    service.consume(LEAVES, monitor.on_leave_event)
    service.consume(WORK_DONE, monitor.on_work)
    service.answer(health.ADMIT, monitor.gate.admit, at_once=64)
    service.answer(health.VERDICT, monitor.on_verdict)
    service.answer(health.NODES_LIST, monitor.on_nodes)
    service.answer(health.NODE_SHOW, monitor.on_node)
    service.answer(health.LEAVE, monitor.on_leave)
    service.beside(monitor.run, ready=monitor.ready)
    service.at_end(monitor.close)
