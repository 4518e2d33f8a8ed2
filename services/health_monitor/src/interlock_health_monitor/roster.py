"""What a monitor has in memory of each node: its description, its lease, its beats, its verdict.

No I/O: the shell feeds it, and reads it when it decides.
"""

from collections.abc import Iterator
from typing import Final

from interlock_health_monitor.suspicion import Facts, Policy
from interlock_health_monitor.symptoms import Limits, limits_of, symptoms_of
from interlock_health_monitor.work import WorkLedger
from interlock_schemas.health import NodeHealth, RecoveryState, Symptom
from interlock_schemas.nodes import Beat, FleetRecord, Member, NodeRecord

__all__ = ["Node", "Roster"]

#: What a heartbeat says is looked through so often, seconds.
_LOOK_EVERY_S: Final = 2.0
#: Of how many beats the share that was lost is drawn.
_LOSS_WINDOW: Final = 64


class Node:
    """One node."""

    __slots__ = (
        "beat",
        "beat_at",
        "beats_lost",
        "expires_s",
        "facts",
        "has_agent",
        "health",
        "instance",
        "letters",
        "letters_since_s",
        "limits",
        "look_at_s",
        "looked_s",
        "looking",
        "member",
        "missed",
        "probing",
        "record",
        "recovery",
        "seq",
        "settled",
        "shadowed",
        "skew_s",
        "ssh_outcome",
        "unreadable",
        "work",
    )

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.record: NodeRecord | None = None
        self.limits = Limits()
        self.member: Member | None = None
        self.has_agent = False
        """An agent was heard of there. Until then a node with SSH access is looked at over SSH,
        whatever its description expects."""
        self.health: NodeHealth | None = None
        """As it was told last, by whichever monitor."""
        self.recovery: RecoveryState | None = None
        self.beat: Beat | None = None
        self.beat_at = 0.0
        """Wall clock, seconds since the epoch."""
        self.instance = ""
        self.seq = 0
        self.missed = 0
        """How many of its beats did not arrive."""
        self.beats_lost = 0.0
        """The share of its beats that did not arrive, lately."""
        self.skew_s: float | None = None
        self.work = WorkLedger()
        self.look_at_s = 0.0
        self.looked_s = -1e9
        """When it was last looked at over SSH, or it was begun."""
        self.settled = False
        """Nothing has changed since it was last judged."""
        self.probing = False
        self.looking = False
        self.expires_s: float | None = None
        self.shadowed = False
        """Its eviction was rehearsed."""
        self.ssh_outcome = ""
        """Of the last look over SSH."""
        self.unreadable = ""
        """What is wrong with its last heartbeat, if it could not be read."""
        self.letters = 0
        self.letters_since_s = -1e9

    @property
    def evictable(self) -> bool:
        """Whether its description lets it be evicted."""
        return self.record is None or self.record.evict

    def look(self, now_s: float, policy: Policy) -> None:
        """Draw the symptoms from what is known."""
        found: list[Symptom] = []
        if self.unreadable:
            found.append(Symptom(kind="heartbeat_invalid", detail=self.unreadable[:500]))
        if self.beat is not None:
            found += symptoms_of(
                self.beat,
                self.limits,
                skew_s=self.skew_s,
                expected_gpus=self.record.gpus if self.record is not None else None,
                beats_lost=self.beats_lost if self.facts.agent else None,
                beat_every_s=self.facts.rhythm.mean_s if self.facts.agent else None,
            )
        fails = self.work.symptom(now_s)
        if fails is not None and all(each.kind != fails.kind for each in found):
            found.append(fails)
        if self.facts.showed(tuple(found), now_s, policy):
            self.settled = False

    def on_beat(self, beat: Beat, now_s: float, wall_s: float, policy: Policy) -> bool:
        """A heartbeat came; False where it is older than one that came before."""
        facts = self.facts
        if beat.instance != self.instance:
            if self.instance and beat.seq > 1 and self.beat_is_stale(beat):
                return False
            self.instance = beat.instance
            # What it sent before we knew of it is not missed.
            self.seq = beat.seq - 1
            facts.left = False
            facts.rhythm.interval_s = beat.interval_s
            facts.answers = beat.answers
            self.look_at_s = 0.0
        elif beat.seq <= self.seq:
            return False
        missed = beat.seq - self.seq - 1
        self.missed += missed
        self.seq = beat.seq
        if missed or self.beats_lost > 0.001:
            share = missed / (missed + 1)
            weight = min(1.0, (missed + 1) / _LOSS_WINDOW)
            self.beats_lost += weight * (share - self.beats_lost)
        if self.beat is None or self.unreadable or facts.heard_at_s is None:
            self.settled = False
            self.unreadable = ""
        self.beat = beat
        self.beat_at = wall_s
        if beat.sent_at is not None:
            self.skew_s = beat.sent_at - wall_s
        leaving = beat.leaving is not None
        if leaving != facts.leaving:
            facts.leaving = leaving
            self.settled = False
        self.agent_heard()
        facts.beat(now_s, policy)
        if facts.state != "healthy":
            self.settled = False
        if now_s >= self.look_at_s:
            self.look_at_s = now_s + _LOOK_EVERY_S
            self.look(now_s, policy)
        return True

    def agent_heard(self) -> None:
        """There is an agent."""
        self.has_agent = True
        self.facts.agent = True

    def beat_is_stale(self, beat: Beat) -> bool:
        """Whether it is of a run of the agent before the one that is known, by its own uptime."""
        known = self.beat
        if known is None or known.uptime_s is None or beat.uptime_s is None:
            return False
        if known.sent_at is None or beat.sent_at is None:
            return False
        return beat.sent_at - beat.uptime_s < known.sent_at - known.uptime_s - 0.001

    def described(self, record: NodeRecord | None, fleet: FleetRecord) -> None:
        """Its description changed."""
        self.record = record
        facts = self.facts
        if record is None:
            self.limits = limits_of(fleet.limits)
            facts.retired = False
        else:
            self.limits = limits_of(fleet.limits, record.limits)
            facts.zone = record.zone
            facts.agent = self.has_agent or (record.agent and record.ssh is None)
            facts.ssh = record.ssh is not None
            facts.retired = record.retired is not None
        self.look_at_s = 0.0
        self.settled = False


class Roster:
    """Every node that is known."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.fleet = FleetRecord()

    def __iter__(self) -> Iterator[Node]:
        """Every node."""
        return iter(self.nodes.values())

    def __len__(self) -> int:
        """How many are known."""
        return len(self.nodes)

    def get(self, name: str) -> Node | None:
        """The node of that name, or None."""
        return self.nodes.get(name)

    def node(self, name: str, now_s: float) -> Node:
        """The node of that name, from now on known."""
        found = self.nodes.get(name)
        if found is None:
            found = self.nodes[name] = Node(Facts(name, now_s=now_s))
            found.limits = limits_of(self.fleet.limits)
        return found

    def forget(self, name: str) -> None:
        """Know nothing of it any more."""
        self.nodes.pop(name, None)

    def fleet_said(self, fleet: FleetRecord) -> None:
        """What holds for all of them changed."""
        self.fleet = fleet
        for node in self.nodes.values():
            node.described(node.record, fleet)
