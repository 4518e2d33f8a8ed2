"""What would be lost if a node died now. Pure.

An artifact is at risk at a node that has it if no other node has it that is safe: not a spot node,
not leaving, draining or retired, and known to be well. What is not known to be well (suspect, lost,
unknown) does not make anything safe.
"""

from collections.abc import Mapping

import msgspec

from interlock_schemas.artifacts import Artifact
from interlock_sync_router.world import NodeFacts, World

__all__ = ["Risk", "at_risk", "is_safe", "risk_of"]


class Risk(msgspec.Struct, frozen=True, kw_only=True):
    """What only one node has, in sums."""

    artifacts: int = 0
    bytes: int = 0
    steps: int = 0
    value: float = 0.0


def is_safe(node: NodeFacts) -> bool:
    """Whether a copy there outlives the others: see the head of this module."""
    return (
        not node.ephemeral
        and node.leaving_at is None
        and not node.draining
        and not node.retired
        and node.standing in ("healthy", "degraded")
    )


def at_risk(world: World, node: str) -> list[str]:
    """Artifacts that would be lost with the node, the one to save first at the front.

    The more valuable first; of equal value, the one with more steps; of equal steps, the smaller
    one, because more of them fit into the time that is left; then by id.
    """
    safe = frozenset(name for name, facts in world.nodes.items() if is_safe(facts)) - {node}
    found = [
        about
        for id, holders in world.copies.items()
        if node in holders
        and safe.isdisjoint(holders)
        and (about := world.artifacts.get(id)) is not None
    ]
    found.sort(key=_urgency)
    return [about.id for about in found]


def risk_of(world: World) -> Mapping[str, Risk]:
    """For every node, what would be lost with it, in one pass over the copies."""
    safe = frozenset(name for name, facts in world.nodes.items() if is_safe(facts))
    sums: dict[str, list[float]] = {name: [0, 0, 0, 0.0] for name in world.nodes}
    artifacts = world.artifacts
    for id, holders in world.copies.items():
        secure = holders & safe
        if len(secure) > 1 or (about := artifacts.get(id)) is None:
            continue
        # With one safe holder, only that one's own death would lose it, and only if the others
        # do not count either.
        for name in secure or holders:
            total = sums.get(name)
            if total is not None:
                total[0] += 1
                total[1] += about.bytes
                total[2] += about.steps or 0
                total[3] += about.value
    return {
        name: Risk(artifacts=int(n), bytes=int(size), steps=int(steps), value=value)
        for name, (n, size, steps, value) in sums.items()
    }


def _urgency(about: Artifact) -> tuple[float, int, int, str]:
    return (-about.value, -(about.steps or 0), about.bytes, about.id)
