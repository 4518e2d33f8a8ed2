"""A made-up fleet through a made-up day: the planner's real decisions, and a clock of its own.

Artifacts are sealed at a steady pace, spot nodes are taken with a notice and come back empty, other
nodes fall silent and come back with their disks, transfers take their time and some fail. What the
planner decides is judged by rules that are written down here a second time.
"""

import heapq
import itertools
import time
from collections import defaultdict, deque
from collections.abc import Callable
from random import Random
from typing import Final

import msgspec

from interlock_schemas.artifacts import Artifact
from interlock_schemas.orders import Policy
from interlock_sync_router.planner import plan
from interlock_sync_router.simulate.made_up import EPOCH, artifact, nodes_of
from interlock_sync_router.world import Exclusion, Limits, Move, NodeFacts, Open, World

__all__ = ["Day", "Report", "play"]

_PLAN_EVERY_S: Final = 10.0
_SWEEP_EVERY_S: Final = 1_800.0
_NOTICE_S: Final = 30.0
_SPOT_LIFE_S: Final = 8 * 3_600.0
_OWNED_LIFE_S: Final = 20 * 86_400.0
_SILENT_S: Final = 1_800.0
_ANEW_S: Final = 300.0
_RATE: Final = 50e6
_LATENCY_S: Final = 0.5
_FAILING: Final = 0.01
_EXCLUDED_S: Final = 60.0
_SETTLE_S: Final = 12 * 3_600.0
_TOLD: Final = 50

POLICIES: Final = {
    "games": Policy(dataset="games", copies=2),
    "checkpoints": Policy(dataset="checkpoints", copies=3, priority="high"),
    "npz": Policy(dataset="npz", copies=2, targets=("role:trainer",)),
    "models": Policy(dataset="models", copies=2, targets=("role:trainer",), keep_last=20),
}


class Report(msgspec.Struct, kw_only=True):
    """What came of it."""

    nodes: int
    hours: float
    seed: int
    artifacts: int = 0
    """Sealed."""
    moves: int = 0
    """Copies received."""
    moved_bytes: int = 0
    failures: int = 0
    drops: int = 0
    preempted: int = 0
    silent: int = 0
    lost: int = 0
    """Gone with the last node that had them, before a safe copy stood."""
    lost_share: float = 0.0
    lost_age_s: float | None = None
    """Median time from the seal to the loss."""
    complete: int = 0
    short: int = 0
    """Not as their policy asks in the end, although there is a node that could take them."""
    no_room: int = 0
    """Not as their policy asks, because every disk that could help is full."""
    settled_s: float | None = None
    """After the last churn, until nothing was left to do. None: it never came to that."""
    egress_p50: float = 0.0
    """Copies that left the origin, for artifacts with three copies or more."""
    egress_max: float = 0.0
    plans: int = 0
    plan_p50_s: float = 0.0
    plan_max_s: float = 0.0
    violations: int = 0
    violated: list[str] = []
    """The first fifty."""
    took_s: float = 0.0


class Day:
    """One run."""

    def __init__(self, nodes: int, artifacts: int, hours: float, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311
        self.nodes: dict[str, NodeFacts] = nodes_of(nodes, self.random)
        self.artifacts: dict[str, Artifact] = {}
        self.sealed_at: dict[str, float] = {}
        self.copies: dict[str, frozenset[str]] = {}
        self.held: dict[str, set[str]] = defaultdict(set)
        self.orders: dict[tuple[str, str], Open] = {}
        self.exclusions: list[Exclusion] = []
        self.waiting: dict[str, deque[tuple[str, Move]]] = defaultdict(deque)
        self.busy: dict[str, int] = defaultdict(int)
        self.pending: dict[str, int] = defaultdict(int)
        self.egress: dict[str, int] = defaultdict(int)
        self.received: dict[str, int] = defaultdict(int)
        self.dirty: set[str] = set()
        self.all_dirty = True
        self.lost_ages: list[float] = []
        self.plan_s: list[float] = []
        self.now = EPOCH
        self.over = EPOCH + hours * 3_600.0
        self.report = Report(nodes=nodes, hours=hours, seed=seed)
        self.limits = Limits()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._to_seal = artifacts
        self._next_sweep = EPOCH

    # The clock

    def at(self, after_s: float, do: Callable[[], None]) -> None:
        """Have something happen after so many seconds."""
        heapq.heappush(self._queue, (self.now + after_s, next(self._numbers), do))

    def run(self, say: Callable[[str], None]) -> Report:
        """Play it to its end."""
        began = time.perf_counter()
        span = self.over - EPOCH
        for number in range(self._to_seal):
            self.at(span * (number + self.random.random()) / self._to_seal, self._seal)
        for name, facts in self.nodes.items():
            self._fate(name, facts)
        self.at(0.0, self._plan)
        said = began
        while self._queue and self.report.settled_s is None:
            self.now, _, do = heapq.heappop(self._queue)
            if self.now > self.over + _SETTLE_S:
                break
            do()
            if time.perf_counter() - said > 5:
                said = time.perf_counter()
                hours = (self.now - EPOCH) / 3_600
                say(
                    f"hour {hours:.1f}: {len(self.artifacts):,} artifacts, "
                    f"{self.report.moves:,} moved"
                )
        self._judge()
        self.report.took_s = round(time.perf_counter() - began, 1)
        return self.report

    # What happens

    def _seal(self) -> None:
        names = list(self.nodes)
        origin = self.random.choice(names)
        if self.nodes[origin].standing != "healthy":
            self.at(60.0, self._seal)
            return
        about = artifact(self.report.artifacts, origin, self.now, self.random)
        self.report.artifacts += 1
        self.artifacts[about.id] = about
        self.sealed_at[about.id] = self.now
        self._gain(origin, about)

    def _gain(self, node: str, about: Artifact) -> None:
        self.copies[about.id] = self.copies.get(about.id, frozenset()) | {node}
        self.held[node].add(about.id)
        self._use(node, about.bytes)
        self.dirty.add(about.id)

    def _lose(self, node: str, id: str) -> None:
        self.copies[id] = self.copies[id] - {node}
        self.held[node].discard(id)
        self.dirty.add(id)

    def _use(self, node: str, count: int) -> None:
        facts = self.nodes[node]
        free = max(0, (facts.free_bytes or 0) - count)
        self.nodes[node] = msgspec.structs.replace(facts, free_bytes=free)

    def _fate(self, name: str, facts: NodeFacts) -> None:
        life = _SPOT_LIFE_S if facts.ephemeral else _OWNED_LIFE_S
        after = self.random.expovariate(1 / life)
        if self.now + after < self.over:
            self.at(after, (lambda: self._notice(name)) if facts.ephemeral
                    else (lambda: self._fall_silent(name)))  # fmt: skip

    def _notice(self, name: str) -> None:
        self.report.preempted += 1
        facts = self.nodes[name]
        self.nodes[name] = msgspec.structs.replace(facts, leaving_at=self.now + _NOTICE_S)
        self.dirty |= self.held[name]
        self.at(_NOTICE_S, lambda: self._vanish(name))

    def _vanish(self, name: str) -> None:
        facts = self.nodes.pop(name)
        for id in list(self.held.pop(name, ())):
            self.copies[id] = self.copies[id] - {name}
            self.dirty.add(id)
            if not self.copies[id]:
                self.report.lost += 1
                self.lost_ages.append(self.now - self.sealed_at[id])
                del self.artifacts[id], self.copies[id]
        self.waiting.pop(name, None)
        self.pending.pop(name, None)
        self.busy.pop(name, None)
        for key in [key for key in self.orders if key[0] == name]:
            del self.orders[key]
        anew = msgspec.structs.replace(
            facts, name=f"{name.partition('.')[0]}.{next(self._numbers)}", leaving_at=None,
            free_bytes=facts.total_bytes,
        )  # fmt: skip
        self.at(_ANEW_S, lambda: self._arrive(anew))

    def _arrive(self, facts: NodeFacts) -> None:
        self.nodes[facts.name] = facts
        self.all_dirty = self.all_dirty or "trainer" in facts.roles
        self._fate(facts.name, facts)

    def _fall_silent(self, name: str) -> None:
        self.report.silent += 1
        self.nodes[name] = msgspec.structs.replace(self.nodes[name], standing="lost")
        self.dirty |= self.held[name]
        self.at(_SILENT_S, lambda: self._come_back(name))

    def _come_back(self, name: str) -> None:
        self.nodes[name] = msgspec.structs.replace(self.nodes[name], standing="healthy")
        self.dirty |= self.held[name]
        self._fate(name, self.nodes[name])
        self._work_off(name)

    # What is decided

    def _plan(self) -> None:
        full = self.all_dirty or self.now >= self._next_sweep
        if full or self.dirty:
            dirty = frozenset(self.dirty & self.artifacts.keys())
            self.dirty, self.all_dirty = set(), False
            self.exclusions = [each for each in self.exclusions if each.until > self.now]
            world = World(
                now=self.now,
                nodes=self.nodes,
                artifacts=self.artifacts,
                copies=self.copies,
                policies=POLICIES,
                orders=self.orders,
                exclusions=tuple(self.exclusions),
            )
            began = time.perf_counter()
            found = plan(world, self.limits, only=None if full else dirty)
            self.plan_s.append(time.perf_counter() - began)
            for key in found.withdraw:
                self._withdraw(*key)
            for each in found.moves:
                self._order(each)
            if full:
                self._next_sweep = self.now + _SWEEP_EVERY_S
                quiet = not found.moves and not found.withdraw and not self.orders
                if self.now > self.over + _ANEW_S + _SILENT_S and quiet and not found.waiting:
                    self.report.settled_s = round(self.now - self.over, 1)
            self.all_dirty = self.all_dirty or (found.waiting > 0 and not self.orders)
        if self.now > self.over + _SILENT_S and not self.orders and not self.dirty:
            self.all_dirty = True
        self.at(_PLAN_EVERY_S, self._plan)

    def _withdraw(self, node: str, id: str) -> None:
        if self.orders.pop((node, id), None) is not None:
            self.pending[node] -= self.artifacts[id].bytes if id in self.artifacts else 0

    def _order(self, move: Move) -> None:
        about = self.artifacts[move.artifact]
        facts = self.nodes.get(move.node)
        self.orders[move.node, move.artifact] = Open(
            node=move.node, artifact=move.artifact, action=move.action, priority=move.priority,
            sources=move.sources, issued_at=self.now,
        )  # fmt: skip
        if move.action == "drop":
            self._judge_drop(move, about)
            self.at(2.0, lambda: self._drop(move))
            return
        if facts is None or facts.standing != "healthy" or facts.leaving_at is not None:
            self._violated(f"{move.node} was ordered to fetch, and is gone, leaving or lost")
            return
        self.pending[move.node] += about.bytes
        left = (facts.free_bytes or 0) - self.pending[move.node]
        if left < (facts.total_bytes or 0) * (1 - facts.high_percent / 100) - 1:
            self._violated(f"{move.node} would be too full")
        if not any(source in self.copies[about.id] for source in move.sources):
            self._violated(f"{move.node} was sent to nodes that do not have it")
        source = move.sources[0] if move.sources else ""
        if source == about.origin:
            self.egress[about.id] += 1
        self.waiting[move.node].append((source, move))
        self._work_off(move.node)

    def _work_off(self, name: str) -> None:
        facts = self.nodes.get(name)
        while facts is not None and self.waiting[name] and self.busy[name] < facts.slots:
            source, move = self.waiting[name].popleft()
            if (name, move.artifact) not in self.orders or move.artifact not in self.artifacts:
                continue
            self.busy[name] += 1
            took = _LATENCY_S + self.artifacts[move.artifact].bytes / (_RATE / facts.slots)
            self.at(took, lambda s=source, m=move: self._arrived(s, m))  # type: ignore[misc]

    def _arrived(self, source: str, move: Move) -> None:
        node, id = move.node, move.artifact
        if node not in self.nodes:
            return
        self.busy[node] -= 1
        about = self.artifacts.get(id)
        if about is not None and self.orders.pop((node, id), None) is not None:
            self.pending[node] -= about.bytes
            here, there = self.nodes[node], self.nodes.get(source)
            went = (
                there is not None
                and there.standing == here.standing == "healthy"
                and source in self.copies[id]
                and self.random.random() >= _FAILING
            )
            self.dirty.add(id)
            if went:
                self.report.moves += 1
                self.report.moved_bytes += about.bytes
                self.received[id] += 1
                self._gain(node, about)
            else:
                self.report.failures += 1
                self.exclusions.append(
                    Exclusion(node=node, artifact=id, source=source,
                              until=self.now + _EXCLUDED_S, why="it failed")
                )  # fmt: skip
                self.at(_EXCLUDED_S + 1, lambda: self.dirty.add(id))
        self._work_off(node)

    def _drop(self, move: Move) -> None:
        if self.orders.pop((move.node, move.artifact), None) is None:
            return
        about = self.artifacts.get(move.artifact)
        if about is None or move.node not in self.copies[about.id]:
            return
        self.report.drops += 1
        self._lose(move.node, about.id)
        self._use(move.node, -about.bytes)
        if not self.copies[about.id] and move.replicas == 0:
            # Nobody wants it any more.
            del self.artifacts[about.id], self.copies[about.id]

    # What is judged

    def _violated(self, what: str) -> None:
        self.report.violations += 1
        if len(self.report.violated) < _TOLD:
            self.report.violated.append(f"hour {(self.now - EPOCH) / 3600:.2f}: {what}")

    def _safe(self, id: str) -> list[str]:
        return [
            name
            for name in self.copies[id]
            if (facts := self.nodes.get(name)) is not None
            and not facts.ephemeral
            and facts.leaving_at is None
            and facts.standing == "healthy"
        ]

    def _judge_drop(self, move: Move, about: Artifact) -> None:
        policy = POLICIES[about.dataset]
        if policy.keep_last is not None:
            newer = sum(
                1
                for each in self.artifacts.values()
                if each.dataset == about.dataset
                and each.config == about.config
                and each.sealed_at > about.sealed_at
            )
            if newer >= policy.keep_last:
                return
        left = [name for name in self._safe(about.id) if name != move.node]
        if len(left) < policy.copies:
            self._violated(f"{move.node} was to drop one of too few copies")

    def _useful(self, about: Artifact, asked: list[str]) -> list[str]:
        """Nodes that would bring an artifact nearer to what its policy asks."""
        there = self.copies[about.id]
        found = [name for name in asked if name not in there]
        if len(self._safe(about.id)) < POLICIES[about.dataset].copies:
            found += [
                name
                for name, facts in self.nodes.items()
                if name not in there and not facts.ephemeral
            ]
        return found

    def _has_room(self, name: str, about: Artifact) -> bool:
        facts = self.nodes[name]
        left = (facts.free_bytes or 0) - about.bytes
        return left >= (facts.total_bytes or 0) * (1 - facts.high_percent / 100)

    def _judge(self) -> None:
        report = self.report
        trainers = [name for name, facts in self.nodes.items() if "trainer" in facts.roles]
        by_config: dict[tuple[str, str], list[str]] = defaultdict(list)
        for id, about in self.artifacts.items():
            policy = POLICIES[about.dataset]
            if policy.keep_last is not None:
                by_config[about.dataset, about.config].append(id)
            there = self.copies[id]
            asked = trainers if policy.targets else []
            if len(self._safe(id)) >= policy.copies and all(name in there for name in asked):
                report.complete += 1
            elif any(self._has_room(name, about) for name in self._useful(about, asked)):
                report.short += 1
            else:
                report.no_room += 1
        for (dataset, config), ids in by_config.items():
            if len(ids) > (POLICIES[dataset].keep_last or 0):
                self._violated(f"{len(ids)} of {dataset} {config} are kept")
        out = sorted(self.egress[id] for id, count in self.received.items() if count >= 3)
        if out:
            report.egress_p50, report.egress_max = float(out[len(out) // 2]), float(out[-1])
        report.lost_share = round(report.lost / max(1, report.artifacts), 6)
        if self.lost_ages:
            ages = sorted(self.lost_ages)
            report.lost_age_s = round(ages[len(ages) // 2], 1)
        times = sorted(self.plan_s)
        report.plans = len(times)
        if times:
            report.plan_p50_s = round(times[len(times) // 2], 4)
            report.plan_max_s = round(times[-1], 4)


def play(nodes: int, artifacts: int, hours: float, seed: int, say: Callable[[str], None]) -> Report:
    """Play a day. The same arguments, the same day; only what the clock of this machine says
    differs."""
    return Day(nodes, artifacts, hours, seed).run(say)
