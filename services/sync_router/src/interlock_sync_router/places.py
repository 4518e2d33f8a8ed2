"""The fleet's nodes as a plan sees them: numbered by name, sets of them as bits of an integer.

Who may be given anything, whose copies count, and how much room each has left once what is ordered
has arrived. Pure.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from interlock_schemas.orders import Policy
from interlock_sync_router.selectors import matches
from interlock_sync_router.world import Exclusion, Limits, NodeFacts, World

__all__ = ["Places", "bits", "stamp"]

#: From so many holders on, it is quicker to look at who is missing.
_MANY: Final = 16


def bits(mask: int) -> Iterator[int]:
    """The numbers in a set, the lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def stamp(at: float) -> str:
    """Seconds since the epoch for people."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return f"{at:g}"


class Places:
    """The nodes, what stands against each, and what is on its way to them."""

    def __init__(self, world: World, limits: Limits) -> None:
        self._world = world
        self.names = sorted(world.nodes)
        self.facts = [world.nodes[name] for name in self.names]
        self.number = {name: i for i, name in enumerate(self.names)}
        self.bit = {name: 1 << i for i, name in enumerate(self.names)}
        self.everyone = (1 << len(self.names)) - 1
        self._all = frozenset(self.names)
        self._masks: dict[frozenset[str], int] = {}
        self._per_node = limits.per_node
        self.zone = [each.zone for each in self.facts]
        self.zone_of = {name: facts.zone for name, facts in world.nodes.items()}
        self.in_zone: dict[str, int] = {}
        #: What stands against giving a node anything, whatever it is.
        self.refusals: list[tuple[str, ...]] = []
        self.open = self.durable = self.alive = self.sure = self.well = self.serving = 0
        self.leaving = self.passing = self.droppable = self.over = 0
        #: Orders that stand for each node.
        self.orders = [0] * len(self.names)
        #: Transfers that each node serves by orders that stand.
        self.serves = [0] * len(self.names)
        #: Bytes that each node may still be given.
        self.room = [0] * len(self.names)
        #: Nodes that have as many orders as they may.
        self.busy = 0
        self._take_in(world.now, tuple(e for e in world.exclusions if e.until > world.now))

    def _take_in(self, now: float, exclusions: tuple[Exclusion, ...]) -> None:
        """Sort the nodes into sets."""
        barred: dict[str, list[Exclusion]] = {}
        self.barred_pairs: dict[tuple[str, str], list[Exclusion]] = {}
        self.barred_sources: dict[str, list[Exclusion]] = {}
        for each in exclusions:
            if each.source is not None:
                self.barred_sources.setdefault(each.source, []).append(each)
            elif each.artifact is not None:
                self.barred_pairs.setdefault((each.node, each.artifact), []).append(each)
            else:
                barred.setdefault(each.node, []).append(each)
        #: Artifacts that are not to go to some node for now: these nodes.
        self.barred: dict[str, int] = {}
        for node, artifact in self.barred_pairs:
            self.barred[artifact] = self.barred.get(artifact, 0) | self.bit.get(node, 0)
        for i, facts in enumerate(self.facts):
            bit = 1 << i
            self.in_zone[facts.zone] = self.in_zone.get(facts.zone, 0) | bit
            reasons = tuple(_refusals(facts, barred.get(facts.name, ())))
            self.refusals.append(reasons)
            if not reasons:
                self.open |= bit
            gone = facts.leaving_at is not None and facts.leaving_at <= now
            lost = facts.standing == "lost"
            if facts.leaving_at is not None:
                self.leaving |= bit
            if not lost and not gone:
                self.alive |= bit
                if facts.reachable and facts.transports_from:
                    self.serving |= bit
            well = facts.standing in ("healthy", "degraded")
            if well:
                self.well |= bit
            stays = not (facts.draining or facts.retired or facts.leaving_at is not None)
            if not facts.ephemeral and stays:
                self.durable |= bit
                if well and facts.reachable:
                    self.sure |= bit
            if well and facts.reachable and not facts.paused:
                self.droppable |= bit
            if facts.free_bytes is not None and facts.total_bytes:
                used = facts.total_bytes - facts.free_bytes
                self.room[i] = int(facts.total_bytes * facts.high_percent / 100) - used
                if self.room[i] < 0:
                    self.over |= bit
        #: Whose copies count towards a policy.
        self.counted = self.durable & self.alive
        self.zones = len(self.in_zone)

    def mask(self, names: frozenset[str]) -> int:
        """These nodes; unknown ones are left out."""
        if len(names) < _MANY:
            found = 0
            for name in names:
                found |= self.bit.get(name, 0)
            return found
        known = self._masks.get(names)
        if known is None:
            if 2 * len(names) > len(self._all):
                known = self.everyone
                for name in self._all - names:
                    known ^= self.bit[name]
            else:
                known = 0
                for name in names:
                    known |= self.bit.get(name, 0)
            self._masks[names] = known
        return known

    def selected(self, selectors: Iterable[str]) -> int:
        """The nodes that selectors name, whatever stands against them."""
        found = 0
        for selector in selectors:
            if selector == "all":
                return self.everyone
            if selector.startswith("node:"):
                found |= self.bit.get(selector[5:], 0)
            elif selector.startswith("zone:"):
                found |= self.in_zone.get(selector[5:], 0)
            else:
                for i, node in enumerate(self.facts):
                    if matches(selector, node):
                        found |= 1 << i
        return found

    def eligible(self, dataset: str, policy: Policy) -> int:
        """Nodes that may be given artifacts of a dataset."""
        found = self.open & ~self.selected(policy.avoid)
        for i, node in enumerate(self.facts):
            if node.datasets is not None and dataset not in node.datasets:
                found &= ~(1 << i)
        return found

    def names_of(self, mask: int) -> tuple[str, ...]:
        """By name."""
        return tuple(self.names[i] for i in bits(mask))

    def spread(self, mask: int, enough: int) -> int:
        """In how many zones these nodes are; not counted beyond `enough`."""
        found = 0
        seen: set[str] = set()
        for i in bits(mask):
            zone = self.zone[i]
            if zone not in seen:
                seen.add(zone)
                found += 1
                if found >= enough:
                    break
        return found

    def order(self, i: int) -> None:
        """One more order stands for a node."""
        self.orders[i] += 1
        if self.orders[i] >= self._per_node:
            self.busy |= 1 << i

    def share(self, i: int) -> int:
        """How many tenths of its disk are left, after what is ordered. Coarse on purpose: nodes
        that are about equally empty share the work by their load."""
        total = self.facts[i].total_bytes
        return 10 * self.room[i] // total if total else -1

    def load(self, i: int) -> float:
        """Orders that stand for it, by what it takes at a time."""
        return self.orders[i] / max(self.facts[i].slots, 1)


def _refusals(node: NodeFacts, barred: Iterable[Exclusion]) -> Iterator[str]:
    if node.retired:
        yield "it is retired"
    if node.cordoned:
        yield "it is cordoned"
    if node.draining:
        yield "it is being drained"
    if node.leaving_at is not None:
        yield f"it leaves at {stamp(node.leaving_at)}"
    if node.standing not in ("healthy", "degraded"):
        yield {
            "suspect": "it is suspect",
            "lost": "it is lost",
            "unknown": "whether it is well is not known",
        }[node.standing]
    if not node.reachable:
        yield "nobody can write there: it has no agent that is a member, and no SSH"
    if node.paused:
        yield "it is paused"
    if not node.receives:
        yield "it does not receive"
    if node.free_bytes is None or not node.total_bytes:
        yield "how much room its disk has is not known"
    else:
        used = 100 * (node.total_bytes - node.free_bytes) / node.total_bytes
        if used > node.high_percent:
            yield f"its disk is {used:.0f} % full, and may be {node.high_percent:g} % full"
    for each in barred:
        yield f"excluded until {stamp(each.until)}: {each.why}"
