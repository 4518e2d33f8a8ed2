"""Eviction on a budget: which lost nodes are taken out of service, and when.

A node is evicted once it has been lost for a while, one after the other, the one lost longest
first, and at most so many of a zone and of the fleet within a window. While a disruption stands,
nobody is.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from interlock_health_monitor.disruption import EVERYWHERE

__all__ = ["Budget", "Evicted", "EvictionPolicy", "Lost", "Ruling", "rule"]


class EvictionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How much is evicted."""

    after_s: float = 60.0
    """So long a node has been lost."""
    window_s: float = 600.0
    zone_share: float = 0.10
    """Of the nodes of a zone, within the window; one at least."""
    fleet_share: float = 0.05
    """Of all nodes, as above."""
    lasts_s: float = 3_600.0
    """An eviction expires; a node that is still lost then may be evicted anew."""


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """A node that is lost."""

    name: str
    zone: str
    lost_s: float
    """For how long."""
    evictable: bool = True
    """False: its description says that it is never evicted."""


class Evicted(msgspec.Struct, frozen=True, kw_only=True):
    """One that was evicted."""

    name: str
    zone: str
    at_s: float


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What may still be evicted at a moment."""

    fleet: int
    zones: Mapping[str, int]

    def left(self, zone: str) -> int:
        """Of one zone."""
        return max(0, min(self.fleet, self.zones.get(zone, 0)))


class Ruling(msgspec.Struct, frozen=True, kw_only=True):
    """Who is evicted now, and who is not and why."""

    evict: tuple[Lost, ...] = ()
    withheld: Mapping[str, str] = {}
    """Nodes that have been lost for long enough, and why they are spared."""
    budget: Budget


def budget_of(
    members: Mapping[str, int], evicted: Iterable[Evicted], now_s: float, policy: EvictionPolicy
) -> Budget:
    """What is left, by how many nodes each zone has and what was evicted within the window."""
    recent = [each for each in evicted if now_s - each.at_s < policy.window_s]
    spent = Counter(each.zone for each in recent)
    total = sum(members.values())
    return Budget(
        fleet=_allowed(total, policy.fleet_share) - len(recent),
        zones={zone: _allowed(n, policy.zone_share) - spent[zone] for zone, n in members.items()},
    )


def _allowed(nodes: int, share: float) -> int:
    return max(1, math.floor(nodes * share)) if nodes else 0


def rule(
    lost: Sequence[Lost],
    members: Mapping[str, int],
    evicted: Sequence[Evicted],
    disrupted: frozenset[str],
    now_s: float,
    policy: EvictionPolicy,
) -> Ruling:
    """Decide. `members`: nodes by zone, those lost among them, those evicted and gone for good
    not. `lost`: without those whose eviction stands."""
    budget = budget_of(members, evicted, now_s, policy)
    fleet, zones = budget.fleet, dict(budget.zones)
    chosen: list[Lost] = []
    withheld: dict[str, str] = {}
    for node in sorted(lost, key=lambda each: (-each.lost_s, each.name)):
        if node.lost_s < policy.after_s:
            continue
        if not node.evictable:
            withheld[node.name] = "its description says that it is never evicted"
        elif EVERYWHERE in disrupted:
            withheld[node.name] = "a large part of the fleet went quiet at once"
        elif node.zone in disrupted:
            withheld[node.name] = f"a large part of zone {node.zone or '(none)'} went quiet at once"
        elif zones.get(node.zone, 0) <= 0:
            withheld[node.name] = f"the budget of zone {node.zone or '(none)'} is spent"
        elif fleet <= 0:
            withheld[node.name] = "the budget of the fleet is spent"
        else:
            chosen.append(node)
            fleet -= 1
            zones[node.zone] -= 1
    return Ruling(evict=tuple(chosen), withheld=withheld, budget=Budget(fleet=fleet, zones=zones))
