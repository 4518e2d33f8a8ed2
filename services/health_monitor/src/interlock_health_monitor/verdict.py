"""How the fleet as a whole is doing: one figure, made of parts that are told, purely.

A part that is not known is left out and the others weigh more; where too little is known there is
no figure at all. Levels and pauses have hysteresis: a figure that wavers changes nothing.

``Verdict()`` begins, or ``Verdict.resumed(record, now)`` where another monitor left off;
``verdict.assess(facts, now, policy)`` gives an `Assessment`: the next verdict, the `ClusterHealth`
to store, and the events to publish. `facts`: one `NodeFact` a node, and what is known of the fleet.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from interlock_health_monitor import instants
from interlock_schemas.cluster import ClusterHealthChanged, WorkPaused, WorkResumed
from interlock_schemas.event import Event
from interlock_schemas.health import (
    PRESSURE_LEVELS,
    STATES,
    ClusterHealth,
    Level,
    Part,
    PressureLevel,
    State,
)

__all__ = ["Assessment", "FleetFacts", "NodeFact", "Verdict", "VerdictPolicy"]


class VerdictPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What the figure is made of, and what follows from it."""

    nodes: float = 0.40
    """Weights of the parts; they need not add up to one."""
    work: float = 0.25
    progress: float = 0.15
    resources: float = 0.10
    monitor: float = 0.10
    known: float = 0.5
    """Less than this share of the nodes known: no figure."""
    known_parts: float = 0.35
    """Less than this share of the weights known: no figure. The nodes alone make one: an idle
    fleet has no work and no progress to tell of."""
    least_work: int = 5
    """Fewer pieces of work that ended say nothing."""
    least_confidence: float = 0.3
    """Below, the monitor does not trust what it sees: no figure."""
    degraded: float = 80.0
    """Below this figure."""
    critical: float = 50.0
    back: float = 5.0
    """A level is left upwards only so far above."""
    pause: float = 40.0
    resume: float = 60.0
    paused_s: float = 120.0
    """A pause lasts so long at least."""
    unknown_s: float = 600.0
    """A pause of which so long nothing is known any more ends."""
    gone_share: float = 0.5
    """So many nodes suspect or lost pause work, whatever the figure."""
    gone_least: int = 2
    fails_share: float = 0.8
    """So much of the work failing pauses it too, when at least `fails_least` pieces ended."""
    fails_least: int = 20
    forgotten_s: float = 900.0
    """A node lost for longer does not count, when it is rented at the spot price or not
    described: such nodes go for good without a word."""
    ttl_s: float = 30.0
    """The figure says nothing any more after so long."""


class NodeFact(msgspec.Struct, frozen=True, kw_only=True):
    """What the figure has to know of one node."""

    name: str
    state: State
    in_state_s: float = 0.0
    """For how long it has been in that state."""
    described: bool = True
    price_class: str = ""
    weight: float = 1.0
    """How much it counts, above 0."""
    leaving: bool = False
    workers: int | None = None
    """That report progress. None: not known."""
    progressing: bool | None = None
    """Whether a counter of theirs has risen lately. None: not known."""
    failures: int = 0
    """Pieces of its work that failed lately."""
    successes: int = 0
    pressure: PressureLevel | None = None
    """None: not measured."""


class FleetFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known at this moment."""

    nodes: Sequence[NodeFact] = ()
    confidence: float | None = None
    """How much the monitor trusts what it sees, 0 to 1. None: not known."""
    confidence_detail: str = ""
    disruption: str | None = None
    """Why nobody is evicted at this moment, if so."""
    evictions: Literal["enforce", "shadow"] = "enforce"
    recovery: Literal["dry-run", "act", "off"] = "dry-run"
    by: str = ""


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    verdict: "Verdict"
    health: ClusterHealth
    events: tuple[Event, ...] = ()


#: How much of its weight a node earns.
_WORTH: Final[Mapping[State, float]] = {
    "healthy": 1.0,
    "degraded": 0.5,
    "recovering": 0.5,
    "suspect": 0.25,
    "lost": 0.0,
}
_EASE: Final[Mapping[PressureLevel, float]] = {
    "none": 100.0,
    "low": 90.0,
    "medium": 70.0,
    "high": 40.0,
    "critical": 0.0,
}
#: Points.
_WORTH_TELLING: Final = 5
_GRAVITY: Final[Mapping[Level, int]] = {"healthy": 0, "degraded": 1, "critical": 2}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between one look and the next."""

    level: Level = "unknown"
    since: datetime | None = None
    """When that level was reached."""
    known: Level = "unknown"
    """The last level that was not ``unknown``."""
    paused_since: datetime | None = None
    unknown_since: datetime | None = None
    """Since when there is no figure."""

    @classmethod
    def resumed(cls, record: ClusterHealth, now: datetime) -> "Verdict":
        """Go on from what another monitor stored."""
        paused = instants.parse(record.paused_since) or now
        return cls(
            level=record.level,
            since=instants.parse(record.since),
            known=record.level,
            paused_since=min(paused, now) if record.paused else None,
            unknown_since=now if record.level == "unknown" else None,
        )

    def assess(
        self,
        facts: FleetFacts,
        now: datetime,
        policy: VerdictPolicy = VerdictPolicy(),  # noqa: B008  # frozen
    ) -> Assessment:
        """Judge anew."""
        counted = [node for node in facts.nodes if _counts(node, policy)]
        parts = _parts(facts, counted, policy)
        score, why_unknown = _figure(facts, counted, parts, policy)
        level = _level(score, self.known, policy)
        reason = why_unknown if score is None else _reason(parts)
        changed = level != self.level
        verdict = Verdict(
            level=level,
            since=now if changed or self.since is None else self.since,
            known=self.known if level == "unknown" else level,
            paused_since=self.paused_since,
            unknown_since=(self.unknown_since or now) if score is None else None,
        )
        events: list[Event] = []
        if changed:
            events.append(
                ClusterHealthChanged(
                    level=level,
                    score=score,
                    node_count=len(counted),
                    previous_level=self.level,
                    reason=reason,
                    parts=[_sentence(part) for part in parts],
                )
            )
        paused_since, paused_why, event = verdict._pause(counted, score, now, policy)
        if event is not None:
            events.append(event)
        verdict = msgspec.structs.replace(verdict, paused_since=paused_since)
        states = Counter(node.state for node in facts.nodes)
        health = ClusterHealth(
            level=level,
            score=score,
            parts=parts,
            nodes={state: states[state] for state in STATES if states[state]},
            paused=paused_since is not None,
            paused_since=instants.text(paused_since) if paused_since is not None else "",
            reason="; ".join(filter(None, (paused_why, reason)))[:500],
            since=instants.text(verdict.since) if verdict.since is not None else "",
            at=instants.text(now),
            expires_at=instants.text(now + timedelta(seconds=policy.ttl_s)),
            disruption=facts.disruption[:500] if facts.disruption is not None else None,
            evictions=facts.evictions,
            recovery=facts.recovery,
            by=facts.by,
        )
        return Assessment(verdict=verdict, health=health, events=tuple(events))

    def _pause(
        self,
        counted: Sequence[NodeFact],
        score: float | None,
        now: datetime,
        policy: VerdictPolicy,
    ) -> tuple[datetime | None, str, Event | None]:
        """Since when work is paused, why, and the event of a change."""
        why = _trigger(counted, score, policy)
        since = self.paused_since
        if since is None:
            if not why:
                return None, "", None
            return now, f"paused: {why}", WorkPaused(score=score, reason=why)
        for_s = max(0.0, (now - since).total_seconds())
        if why:
            return since, f"paused: {why}", None
        if score is None:
            unknown_s = (now - (self.unknown_since or now)).total_seconds()
            if unknown_s < policy.unknown_s:
                return since, "paused, and no figure since", None
            back = f"nothing has been known for {unknown_s:.0f} s"
        elif score < policy.resume:
            return since, f"paused until the figure is {policy.resume:g}", None
        elif for_s < policy.paused_s:
            return since, f"paused for {policy.paused_s:g} s at least", None
        else:
            back = f"the figure is {score:.0f} again"
        return None, "", WorkResumed(score=score, paused_s=for_s, reason=back)


def _counts(node: NodeFact, policy: VerdictPolicy) -> bool:
    """Whether it is in the denominator."""
    if node.state == "retired" or node.weight <= 0:
        return False
    gone = node.state == "lost" and node.in_state_s > policy.forgotten_s
    if gone and (not node.described or node.price_class == "spot"):
        return False
    return not (node.leaving and node.state in ("suspect", "lost"))


def _parts(
    facts: FleetFacts, counted: Sequence[NodeFact], policy: VerdictPolicy
) -> tuple[Part, ...]:
    """Every part; the weights of those that are known add up to 1."""
    found = [
        ("nodes", policy.nodes, *_nodes(counted)),
        ("work", policy.work, *_work(counted, policy)),
        ("progress", policy.progress, *_progress(counted)),
        ("resources", policy.resources, *_resources(counted)),
        ("monitor", policy.monitor, *_monitor(facts)),
    ]
    total = sum(weight for _, weight, score, _ in found if score is not None)
    return tuple(
        Part(
            name=name,
            weight=0.0 if score is None or total <= 0 else weight / total,
            score=score,
            detail=detail[:500],
        )
        for name, weight, score, detail in found
    )


Scored = tuple[float | None, str]


def _nodes(counted: Sequence[NodeFact]) -> Scored:
    known = [node for node in counted if node.state in _WORTH]
    if not known:
        return None, "no node is known"
    weight = sum(node.weight for node in known)
    score = 100 * sum(node.weight * _WORTH[node.state] for node in known) / weight
    states = Counter(node.state for node in counted)
    told = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    return min(100.0, score), told


def _work(counted: Sequence[NodeFact], policy: VerdictPolicy) -> Scored:
    successes, failures = _ended(counted)
    done = successes + failures
    if done < policy.least_work:
        return None, f"{done} pieces of work ended lately, too few to tell"
    return 100 * successes / done, f"{failures} of {done} pieces of work failed lately"


def _ended(counted: Sequence[NodeFact]) -> tuple[int, int]:
    return sum(node.successes for node in counted), sum(node.failures for node in counted)


def _progress(counted: Sequence[NodeFact]) -> Scored:
    working = [node for node in counted if node.workers and node.progressing is not None]
    if not working:
        return None, "no worker reports progress"
    on = sum(1 for node in working if node.progressing)
    return 100 * on / len(working), f"{on} of {len(working)} nodes with workers progress"


def _resources(counted: Sequence[NodeFact]) -> Scored:
    levels = [node.pressure for node in counted if node.pressure is not None]
    if not levels:
        return None, "nothing was measured"
    counts = Counter(levels)
    told = ", ".join(f"{counts[level]} {level}" for level in PRESSURE_LEVELS if counts[level])
    score = sum(_EASE[level] for level in levels) / len(levels)
    return score, f"pressure on nodes: {told}"


def _monitor(facts: FleetFacts) -> Scored:
    if facts.confidence is None:
        return None, facts.confidence_detail or "the monitor does not know how well it hears"
    score = 100 * min(1.0, max(0.0, facts.confidence))
    return score, facts.confidence_detail or f"the monitor trusts {score:.0f} % of what it hears"


def _figure(
    facts: FleetFacts,
    counted: Sequence[NodeFact],
    parts: Sequence[Part],
    policy: VerdictPolicy,
) -> Scored:
    """The figure, or why there is none."""
    if not counted:
        return None, "no node is known"
    known = sum(1 for node in counted if node.state in _WORTH)
    if not known or known < policy.known * len(counted):
        return None, f"{len(counted) - known} of {len(counted)} nodes are unknown"
    if facts.confidence is not None and facts.confidence < policy.least_confidence:
        return None, f"the monitor does not trust what it hears: {parts[-1].detail}"
    weights = {
        "nodes": policy.nodes,
        "work": policy.work,
        "progress": policy.progress,
        "resources": policy.resources,
        "monitor": policy.monitor,
    }
    there = sum(weights[part.name] for part in parts if part.score is not None)
    if there <= 0 or there < policy.known_parts * sum(weights.values()):
        return None, "too few parts are known"
    score = sum(part.weight * part.score for part in parts if part.score is not None)
    return min(100.0, max(0.0, score)), ""


def _level(score: float | None, known: Level, policy: VerdictPolicy) -> Level:
    """The level, by the figure and the level before."""
    if score is None:
        return "unknown"
    plain = _plain(score, policy)
    if known == "unknown" or _GRAVITY[plain] >= _GRAVITY[known]:
        return plain
    # Better than before: only as far as the figure would carry with what it takes to come back.
    eased = _plain(score - policy.back, policy)
    return eased if _GRAVITY[eased] <= _GRAVITY[known] else known


def _plain(score: float, policy: VerdictPolicy) -> Level:
    if score < policy.critical:
        return "critical"
    return "degraded" if score < policy.degraded else "healthy"


def _trigger(counted: Sequence[NodeFact], score: float | None, policy: VerdictPolicy) -> str:
    """Why work has to pause; empty: it has not."""
    if score is None:
        return ""
    if score < policy.pause:
        return f"the figure is {score:.0f}, below {policy.pause:g}"
    gone = sum(1 for node in counted if node.state in ("suspect", "lost"))
    if gone >= policy.gone_least and gone >= policy.gone_share * len(counted):
        return f"{gone} of {len(counted)} nodes are suspect or lost"
    successes, failures = _ended(counted)
    done = successes + failures
    if done >= policy.fails_least and failures >= policy.fails_share * done:
        return f"{failures} of {done} pieces of work failed"
    return ""


def _reason(parts: Sequence[Part]) -> str:
    """What takes most from the figure, where it takes some points."""
    costs = [(part.weight * (100 - part.score), part) for part in parts if part.score is not None]
    cost, worst = max(costs, key=lambda each: each[0])
    return f"{worst.name}: {worst.detail}" if cost >= _WORTH_TELLING else ""


def _sentence(part: Part) -> str:
    if part.score is None:
        return f"{part.name}: unknown, {part.detail}"
    return f"{part.name}: {part.score:.0f} with a weight of {part.weight:.2f}, {part.detail}"
