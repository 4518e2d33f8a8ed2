"""What the monitor makes of the fleet as a whole: the verdict and the levels of pressure.

Once a second while the monitor leads; records are stored where they changed, and refreshed before
they expire.
"""

import time
from datetime import datetime
from typing import Final

import msgspec

from interlock.clock import now, parse_ns
from interlock_health_monitor import pressure
from interlock_health_monitor.attention import Attention
from interlock_health_monitor.disruption import EVERYWHERE, Disruptions
from interlock_health_monitor.pressure import Gauge, PressurePolicy
from interlock_health_monitor.roster import Node, Roster
from interlock_health_monitor.settings import Settings
from interlock_health_monitor.telling import Teller
from interlock_health_monitor.verdict import FleetFacts, NodeFact, Verdict, VerdictPolicy
from interlock_schemas import health
from interlock_schemas.health import ClusterHealth, Pressure
from interlock_schemas.nodes import Beat

__all__ = ["Overview"]

#: The verdict is stored anew so often, changed or not, seconds.
_REFRESH_S: Final = 5.0
#: All nodes are gauged within so many ticks.
_GLANCES: Final = 20
#: Of a fleet of so many nodes the verdict is drawn each second, of a larger one less often.
_NODES_A_SECOND: Final = 2_000
#: A heartbeat that is older says nothing of load, seconds.
_FRESH_S: Final = 10.0


class Overview:
    """The fleet as a whole, as one monitor sees it."""

    def __init__(
        self,
        roster: Roster,
        attention: Attention,
        teller: Teller,
        settings: Settings,
        name: str,
    ) -> None:
        self._roster = roster
        self._attention = attention
        self._teller = teller
        self._settings = settings
        self._name = name
        self._verdict: Verdict | None = None
        self._stored_at = -1e9
        self._stored: ClusterHealth | None = None
        self._assessed_at = -1e9
        self._place = 0
        self._gauges: dict[str, Gauge] = {}
        self._fleet_gauge: Gauge | None = None
        self._pressures: dict[str, Pressure] = {}
        self._policy = VerdictPolicy()
        self._pressure_policy = PressurePolicy()
        self.cluster: ClusterHealth | None = None
        """The verdict, ours or that of the monitor that leads."""

    def adopt(self, told: ClusterHealth) -> None:
        """The monitor that leads has told."""
        if told.by != self._name:
            self.cluster = told
            self._verdict = None

    def glance(self) -> None:
        """Gauge some of the nodes: all of them have had their turn within a few seconds."""
        nodes = list(self._roster)
        if not nodes:
            return
        at = now()
        portion = -(-len(nodes) // _GLANCES)
        self._place = self._place if self._place < len(nodes) else 0
        for node in nodes[self._place : self._place + portion]:
            self._gauge(node, at)
        self._place += portion

    def assess(self, disruptions: Disruptions) -> None:
        """Look at the whole, and tell what has changed. Large fleets are looked at less often."""
        since_s = time.monotonic() - self._assessed_at
        if since_s < len(self._roster) / _NODES_A_SECOND:
            return
        self._assessed_at = time.monotonic()
        at = now()
        self._gauge_fleet(at)
        if self._verdict is None:
            known = self.cluster
            self._verdict = Verdict.resumed(known, at) if known is not None else Verdict()
        facts = FleetFacts(
            nodes=[self._fact(node) for node in self._roster],
            confidence=self._confidence(),
            confidence_detail=f"score {self._attention.score}, round trip "
            f"{self._attention.round_trip_s * 1000:.0f} ms",
            disruption=_disruption(disruptions),
            evictions=self._settings.health_eviction,
            recovery=self._settings.health_recovery,
            by=self._name,
        )
        found = self._verdict.assess(facts, at, self._policy)
        self._verdict = found.verdict
        self.cluster = found.health
        changed = self._stored is None or _told(found.health) != _told(self._stored)
        if changed or time.monotonic() - self._stored_at >= _REFRESH_S:
            self._stored = found.health
            self._stored_at = time.monotonic()
            self._teller.record(health.CLUSTER_KEY, found.health)
        for event in found.events:
            self._teller.emit(event, f"{event.type_name}-{found.health.at}-{self._name}")

    def _confidence(self) -> float | None:
        if self._attention.settling:
            return None
        return max(0.0, 1.0 - self._attention.score / 8)

    def _fact(self, node: Node) -> NodeFact:
        facts = node.facts
        record = node.record
        beat = self._fresh(node)
        progress = beat.progress if beat is not None else None
        failures, successes = node.work.counts(self._attention.now_s)
        if progress is not None:
            failures += progress.failures
            successes += progress.successes
        age = progress.age_s if progress is not None else None
        gauge = self._gauges.get(facts.name)
        return NodeFact(
            name=facts.name,
            state=facts.state,
            in_state_s=self._age_s(node),
            described=record is not None,
            price_class=record.price_class if record is not None else "",
            leaving=facts.leaving,
            workers=progress.workers if progress is not None else None,
            progressing=age < node.limits.progress_s if age is not None else None,
            failures=failures,
            successes=successes,
            pressure=gauge.level if gauge is not None else None,
        )

    def _age_s(self, node: Node) -> float:
        if node.health is not None:
            try:
                return max(0.0, time.time() - parse_ns(node.health.since) / 1e9)
            except ValueError:
                pass
        return self._attention.now_s - node.facts.state_since_s

    def _fresh(self, node: Node) -> Beat | None:
        limit = _FRESH_S if node.facts.agent else 3 * self._settings.health_ssh_interval_s
        return node.beat if time.time() - node.beat_at <= limit else None

    def _gauge(self, node: Node, at: datetime) -> None:
        name = node.facts.name
        before = self._gauges.get(name)
        beat = self._fresh(node) if node.facts.state in ("healthy", "degraded") else None
        if before is None and beat is None:
            return
        found = pressure.gauge(
            before, name, beat, at, limits=node.limits, policy=self._pressure_policy
        )
        self._gauges[name] = found
        self._write(before, found, at)

    def _gauge_fleet(self, at: datetime) -> None:
        for name in [name for name in self._gauges if self._roster.get(name) is None]:
            del self._gauges[name]
            self._pressures.pop(pressure.scope_of(name), None)
        levels = [found.level for found in self._gauges.values()]
        before = self._fleet_gauge
        found = pressure.fleet_gauge(before, levels, at, self._pressure_policy)
        self._fleet_gauge = found
        self._write(before, found, at)

    def _write(self, before: Gauge | None, after: Gauge, at: datetime) -> None:
        event = pressure.told(before, after, at, self._pressure_policy)
        if event is not None:
            self._teller.emit(event, f"{event.type_name}-{after.scope}-{after.since.isoformat()}")
        if not pressure.due(self._pressures.get(after.scope), after, at, self._pressure_policy):
            return
        record = pressure.record(after, at, self._pressure_policy)
        if record is not None:
            self._pressures[after.scope] = record
            ttl = max(1, round(pressure.lives_s(after, self._pressure_policy)))
            self._teller.record(health.pressure_key(after.scope), record, ttl_s=ttl)


def _disruption(disruptions: Disruptions) -> str | None:
    """Why nobody is evicted at this moment, if so."""
    told = [
        f"{each.quiet} of {each.members} nodes of "
        + ("the fleet" if zone == EVERYWHERE else f"zone {zone or '(none)'}")
        + " went quiet at once"
        for zone, each in sorted(disruptions.standing.items())
    ]
    return "; ".join(told) or None


def _told(record: ClusterHealth) -> ClusterHealth:
    """A record without what changes by itself."""
    return msgspec.structs.replace(record, at="", expires_at="", score=None, parts=(), reason="")
