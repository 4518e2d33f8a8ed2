"""The monitor on a simulated fleet: the same turn as the service's, with the real decisions.

`Watch` visits the nodes that something is up with, episode by episode; `every_beat` is the same
without that shortening, beat by beat and node by node, to compare with.
"""

import heapq
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Final, NamedTuple

from interlock_health_monitor.attention import Climate
from interlock_health_monitor.disruption import Disruption, Disruptions, crowd
from interlock_health_monitor.eviction import Evicted, Lost, rule
from interlock_health_monitor.rhythm import Rhythm
from interlock_health_monitor.simulate.clock import STEP_S, Clock, step_of
from interlock_health_monitor.simulate.network import answer_to
from interlock_health_monitor.simulate.options import Options
from interlock_health_monitor.simulate.traces import EPISODE
from interlock_health_monitor.simulate.world import Away, Host, World
from interlock_health_monitor.suspicion import (
    Facts,
    Probed,
    Transition,
    asks,
    judge,
    patience_s,
)
from interlock_schemas.health import State

__all__ = ["Eviction", "Log", "Told", "every_beat", "watch"]

#: Steps between two rounds of evictions, as the service's slow tick.
_SLOW: Final = 7
_BEATING: Final = 1e18
_NEVER: Final = 1 << 60
#: States that nothing but news changes.
_SETTLED: Final = ("unknown", "healthy", "degraded")
_LONG_LOST_S: Final = 3_600.0


class Told(NamedTuple):
    """A transition."""

    at_s: float
    node: str
    state: State
    reason: str
    host: int


class Eviction(NamedTuple):
    """A node was evicted, or would have been."""

    at_s: float
    node: str
    zone: str
    host: int


class Log:
    """What a monitor did."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.evictions: list[Eviction] = []
        self.disruptions: list[tuple[Disruption, float]] = []
        """When each began, by the wall clock."""
        self.ended: list[tuple[Disruption, float]] = []
        self.asked = 0
        self.members_least: dict[str, int] = {}


class _Node:
    """A node as the monitor sees it."""

    __slots__ = (
        "beats",
        "begun",
        "counted",
        "due",
        "evicted",
        "facts",
        "host",
        "number",
        "open",
        "outcome",
        "place",
        "rng",
        "sent_s",
        "settled",
    )

    def __init__(self, number: int, host: Host, beats: "array[float] | list[float]", seed: int):
        self.number = number
        self.host = host
        self.beats = beats
        self.place = 0
        self.facts = Facts(host.name, now_s=0.0, zone=host.zone)
        self.rng = Random(f"{seed}:probes:{host.name}")  # noqa: S311  # the seed is the point
        self.due = _NEVER
        """The step in which the outcome of the question to it is known."""
        self.outcome: Probed | None = None
        self.sent_s = 0.0
        self.settled = False
        self.evicted = False
        self.counted = False
        self.begun = False
        """It was heard of."""
        self.open = False
        """It is within an episode."""


class _Monitor:
    """What both ways of watching share."""

    def __init__(self, world: World, clock: Clock, options: Options) -> None:
        self.world = world
        self.clock = clock
        self.options = options
        self.policy = options.policy
        self.disruption = options.disruption
        self.eviction = options.eviction
        self.log = Log()
        self.known: Counter[str] = Counter()
        self.disruptions = Disruptions()
        self.evicted: list[Evicted] = []
        self.away: set[_Node] = set()
        """Suspect and lost ones, without those evicted."""
        self.shadowed: set[str] = set()
        self._breaks = [each for each in world.away if each.kind != "slow"]

    def beat(self, node: _Node, read: int) -> None:
        """A beat of it was read."""
        if not node.begun:
            node.begun = node.counted = True
            self.known[node.host.zone] += 1
        node.facts.beat(self.clock.stamps[read], self.policy)

    def outcome(self, node: _Node, step: int) -> None:
        """The outcome of a question is known, if its time has come."""
        facts = node.facts
        if node.due >= step:
            return
        outcome, due = node.outcome, node.due
        node.due = _NEVER
        if outcome is None:
            return
        heard = facts.heard_at_s
        if outcome != "answered":
            if not self.clock.acting[due]:
                return
            if heard is not None and heard >= node.sent_s:
                return
        facts.probed(outcome, self.clock.stamps[due], self.policy)
        node.settled = False

    def ask(self, node: _Node, step: int, at_s: float) -> None:
        """Ask it, unless an answer is under way."""
        if node.due != _NEVER:
            return
        facts = node.facts
        facts.last_asked_s = node.sent_s = at_s
        asked = step * STEP_S
        timeout = self.policy.ask_timeout_s
        outcome: Probed | None
        outcome, due = answer_to(node.host, asked, timeout, self.options, node.rng)
        for each in self._breaks:
            if each.start_s <= due and asked < each.end_s:
                outcome, due = _broken(each, asked, due, timeout)
        node.outcome, node.due = outcome, max(step, step_of(due))
        self.log.asked += 1

    def turn(self, step: int, nodes: Iterable[_Node]) -> None:
        """One turn over the nodes that something is up with."""
        at = self.clock.stamps[step]
        wall = step * STEP_S
        quiet, turn = [], []
        for node in nodes:
            facts = node.facts
            leaves = node.host.leaves
            if leaves is not None and wall >= leaves[0]:
                facts.leaving = True
                facts.left = wall >= leaves[1]
            if facts.heard_at_s is not None and at >= facts.ask_at_s:
                if facts.state != "retired":
                    quiet.append(node)
                turn.append(node)
            elif not node.settled and node.begun:
                turn.append(node)
        slow = step % _SLOW == 0
        if not turn and not slow and not self.away and not self.disruptions.standing:
            return
        climate = self._climate(step, at, quiet)
        for node in turn:
            facts = node.facts
            if asks(facts, at, self.policy):
                self.ask(node, step, at)
            found = judge(facts, climate, self.policy)
            if found is None:
                node.settled = facts.state in _SETTLED
            else:
                self._enter(node, found, at, wall)
        if slow and self.away:
            self._evict(at, wall)

    def _members(self, at: float) -> dict[str, int]:
        members = Counter(self.known)
        for node in self.away:
            facts = node.facts
            if facts.state == "lost" and at - facts.state_since_s >= _LONG_LOST_S:
                members[node.host.zone] -= 1
        return dict(members)

    def _climate(self, step: int, at: float, quiet: list[_Node]) -> Climate:
        policy, clock = self.disruption, self.clock
        silent: Counter[str] = Counter()
        for node in self.away:
            facts = node.facts
            if facts.quiet(at) and (
                facts.state == "suspect" or at - facts.state_since_s < _LONG_LOST_S
            ):
                silent[node.host.zone] += 1
        members = self._members(at)
        before = self.disruptions
        if silent or before.standing or before.over or before.spent:
            self.disruptions = before.assess(
                silent, members, at, policy, settling=bool(clock.settling[step])
            )
            wall = step * STEP_S
            self.log.disruptions += [(each, wall) for each in self.disruptions.began]
            self.log.ended += [(each, wall) for each in self.disruptions.ended]
        went = [each.facts.heard_at_s or 0.0 for each in quiet if each.facts.state != "lost"]
        return Climate(
            now_s=at,
            score=clock.score[step],
            settling=bool(clock.settling[step]),
            crowd=crowd(went, sum(members.values()), policy),
            disrupted=self.disruptions.zones,
        )

    def _enter(self, node: _Node, found: Transition, at: float, wall: float) -> None:
        facts = node.facts
        facts.entered(found, at)
        node.settled = found.state in _SETTLED
        self.log.told.append(Told(wall, facts.name, found.state, found.reason, node.number))
        if found.state in ("suspect", "lost") and not node.evicted:
            self.away.add(node)
        else:
            self.away.discard(node)
        if found.state == "healthy":
            node.evicted = False
            self.shadowed.discard(facts.name)
        counted = found.state != "retired" and not node.evicted
        if counted != node.counted:
            node.counted = counted
            self.known[node.host.zone] += 1 if counted else -1

    def _evict(self, at: float, wall: float) -> None:
        policy = self.eviction
        nodes = {}
        lost = []
        for node in self.away:
            facts = node.facts
            if facts.state == "lost" and facts.name not in self.shadowed:
                nodes[facts.name] = node
                since = at - facts.state_since_s
                lost.append(Lost(name=facts.name, zone=node.host.zone, lost_s=since))
        if not lost:
            return
        self.evicted = [each for each in self.evicted if at - each.at_s < policy.window_s]
        members = Counter(self._members(at))
        for each in self.evicted:
            if not self.options.shadow:
                members[each.zone] += 1
        ruling = rule(lost, members, self.evicted, self.disruptions.sparing, at, policy)
        for chosen in ruling.evict:
            node = nodes[chosen.name]
            self.evicted.append(Evicted(name=chosen.name, zone=chosen.zone, at_s=at))
            self.log.evictions.append(Eviction(wall, chosen.name, chosen.zone, node.number))
            if self.options.shadow:
                self.shadowed.add(chosen.name)
                continue
            node.evicted = True
            node.counted = False
            self.known[chosen.zone] -= 1
            self.away.discard(node)


def _broken(
    away: Away, asked_s: float, due_s: float, timeout_s: float
) -> tuple[Probed | None, float]:
    """What comes of a question that something happened to us while it was under way."""
    if away.kind == "stopped":
        # The service does not count what it found when it had been away.
        return None, max(due_s, away.end_s)
    return "silent", max(due_s, asked_s + timeout_s)


class _Shortened(_Monitor):
    """A monitor that visits a node only from where it falls out of its rhythm."""

    def __init__(self, world: World, clock: Clock, options: Options) -> None:
        super().__init__(world, clock, options)
        self._wakes: list[tuple[int, int]] = []
        self._rhythm = Rhythm()

    def run(self, nodes: list[_Node], progress: Callable[[float], None]) -> None:
        """Run to the end."""
        clock, wakes = self.clock, self._wakes
        active: dict[int, _Node] = {}
        for node in nodes:
            if node.beats:
                wakes.append((step_of(node.beats[0]) + 1, node.number))
        heapq.heapify(wakes)
        for step in range(clock.steps):
            if step % 4_000 == 0:
                progress(step / clock.steps)
            while wakes and wakes[0][0] <= step:
                node = nodes[heapq.heappop(wakes)[1]]
                active[node.number] = node
                if node.begun and not node.open:
                    self._open(node)
            for node in active.values():
                self._deliver(node, step)
                self.outcome(node, step)
                if not node.open:
                    node.facts.ask_at_s = _BEATING
            if not clock.acting[step]:
                continue
            self.turn(step, active.values())
            at = clock.stamps[step]
            for node in [each for each in active.values() if self._rests(each, at, step)]:
                del active[node.number]

    def _deliver(self, node: _Node, step: int) -> None:
        """Have it heard, if the beat that ends its silence has come."""
        while node.open or not node.begun:
            beat = node.beats[node.place + 1] if node.begun else node.beats[0]
            read = step_of(beat) if beat < self.clock.steps * STEP_S else _NEVER
            if read >= step:
                return
            if node.begun:
                node.place += EPISODE
            else:
                node.place = 1
            self.beat(node, read)
            node.open = node.beats[node.place] == beat
            if not node.open:
                quiet_s = self._quiet_s(node, self._rhythm)
                wake = self.clock.when(quiet_s, step_of(node.beats[node.place]) + 1)
                heapq.heappush(self._wakes, (wake, node.number))

    def _quiet_s(self, node: _Node, rhythm: Rhythm) -> float:
        """When its next silence is too long, by the rhythm that it has then."""
        before, _, rhythm.mean_s, rhythm.variance, beats = node.beats[
            node.place : node.place + EPISODE
        ]
        rhythm.beats = int(beats)
        return self.clock.stamps[step_of(before)] + patience_s(rhythm, self.policy)

    def _open(self, node: _Node) -> None:
        """Have it be as it is at the beginning of its next episode."""
        facts = node.facts
        facts.ask_at_s = self._quiet_s(node, facts.rhythm)
        facts.heard_at_s = facts.beat_at_s = self.clock.stamps[step_of(node.beats[node.place])]
        facts.gone = facts.silent_probes = 0
        node.open = True

    def _rests(self, node: _Node, at_s: float, step: int) -> bool:
        """Whether nothing is up with it any more, or for a while; if so, it is woken in time."""
        facts = node.facts
        if node.due != _NEVER or facts.state in ("suspect", "recovering"):
            return False
        quiet = at_s >= facts.ask_at_s
        if not quiet and not node.settled:
            return False
        if not node.open:
            return True
        beat = node.beats[node.place + 1]
        wake = step_of(beat) + 1 if beat < self.clock.steps * STEP_S else _NEVER
        if not quiet:
            wake = min(wake, self.clock.when(facts.ask_at_s, step + 1))
        elif facts.state not in ("lost", "retired"):
            return False
        elif not facts.left:
            # When it is asked the next time, and not a rounding later.
            wake = min(wake, self.clock.when(facts.last_asked_s + 30.0 - 1e-6, step + 1))
        for leaves_s in node.host.leaves or ():
            if step_of(leaves_s) >= step:
                wake = min(wake, step_of(leaves_s) + 1)
        if wake < self.clock.steps:
            heapq.heappush(self._wakes, (wake, node.number))
        return True


def watch(
    world: World,
    clock: Clock,
    options: Options,
    found: "list[array[float]]",
    progress: Callable[[float], None] = lambda _: None,
) -> Log:
    """Run the monitor from episode to episode; `found` are those of each host (`traces`)."""
    monitor = _Shortened(world, clock, options)
    nodes = [
        _Node(number, host, found[number], options.seed) for number, host in enumerate(world.hosts)
    ]
    monitor.run(nodes, progress)
    return monitor.log


def every_beat(world: World, clock: Clock, options: Options, beats: list[list[float]]) -> Log:
    """Run the monitor on every beat of every node."""
    monitor = _Monitor(world, clock, options)
    nodes = [
        _Node(number, host, beats[number], options.seed) for number, host in enumerate(world.hosts)
    ]
    for step in range(clock.steps):
        for node in nodes:
            while node.place < len(node.beats):
                read = step_of(node.beats[node.place])
                if read >= step:
                    break
                monitor.beat(node, read)
                node.place += 1
            monitor.outcome(node, step)
        if clock.acting[step]:
            monitor.turn(step, nodes)
    return monitor.log
