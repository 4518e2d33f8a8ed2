"""What only a leaving node has, and what of it is safe elsewhere by now. Pure.

What was at risk when the leave began is kept, and so is what is sealed there after that. A copy
counts as saved once a node that stays has its receipt; should that node be lost, it is not.
"""

from collections.abc import Iterable, Mapping

from interlock_schemas.artifacts import Artifact
from interlock_schemas.orders import Evacuation, Leaving
from interlock_schemas.sync import NodeEvacuated
from interlock_sync_router.risk import at_risk, is_safe
from interlock_sync_router.world import NodeFacts, World

__all__ = ["Evacuating"]

_LISTED = 1_000


class Evacuating:
    """The count of one evacuation."""

    def __init__(self, leaving: Leaving) -> None:
        self.node = leaving.node
        self.began_at = leaving.began_at
        self._watched: dict[str, None] = dict.fromkeys(leaving.artifacts)
        self._saved: dict[str, None] = dict.fromkeys(leaving.saved)

    @property
    def watched(self) -> tuple[str, ...]:
        """All that was at risk since it began."""
        return tuple(self._watched)

    @property
    def saved(self) -> tuple[str, ...]:
        """In the order of their receipts."""
        return tuple(self._saved)

    def look(self, world: World) -> None:
        """Look through everything that the node has."""
        for id in at_risk(world, self.node):
            self._watched.setdefault(id, None)
        self.weigh(self._watched, world.copies, world.nodes)

    def on_copy(
        self, node: str, id: str, copies: Mapping[str, frozenset[str]], safe: frozenset[str]
    ) -> None:
        """A receipt came, of whomever. `safe`: nodes whose copies count."""
        if id in self._watched:
            self._weigh(id, copies, safe - {self.node})
        elif node == self.node and (safe - {node}).isdisjoint(copies.get(id, frozenset())):
            self._watched[id] = None

    def weigh(
        self,
        ids: Iterable[str],
        copies: Mapping[str, frozenset[str]],
        nodes: Mapping[str, NodeFacts],
    ) -> None:
        """Judge artifacts anew: the nodes have changed."""
        safe = frozenset(name for name, facts in nodes.items() if is_safe(facts)) - {self.node}
        for id in ids:
            self._weigh(id, copies, safe)

    def _weigh(self, id: str, copies: Mapping[str, frozenset[str]], safe: frozenset[str]) -> None:
        if safe.isdisjoint(copies.get(id, frozenset())):
            self._saved.pop(id, None)
        else:
            self._saved.setdefault(id, None)

    def unsaved(self, artifacts: Mapping[str, Artifact]) -> list[Artifact]:
        """The most valuable first."""
        found = [artifacts[id] for id in self._watched if id not in self._saved and id in artifacts]
        found.sort(key=lambda each: (-each.value, -(each.steps or 0), each.bytes, each.id))
        return found

    def report(self, artifacts: Mapping[str, Artifact], listed: int = _LISTED) -> Evacuation:
        """How far it is; at most so many are `listed` of each."""
        unsaved = self.unsaved(artifacts)
        saved = [artifacts[id] for id in self._saved if id in artifacts]
        return Evacuation(
            node=self.node,
            began_at=self.began_at,
            at_risk=len(unsaved),
            at_risk_bytes=sum(each.bytes for each in unsaved),
            at_risk_steps=sum(each.steps or 0 for each in unsaved),
            at_risk_value=sum(each.value for each in unsaved),
            saved=tuple(each.id for each in saved[:listed]),
            saved_bytes=sum(each.bytes for each in saved),
            saved_value=sum(each.value for each in saved),
            unsaved=tuple(each.id for each in unsaved[:listed]),
        )

    def conclusion(self, artifacts: Mapping[str, Artifact]) -> NodeEvacuated:
        """What came of it, in the end."""
        lost = self.unsaved(artifacts)
        saved = [artifacts[id] for id in self._saved if id in artifacts]
        return NodeEvacuated(
            node=self.node,
            saved=len(saved),
            saved_bytes=sum(each.bytes for each in saved),
            saved_value=sum(each.value for each in saved),
            lost=len(lost),
            lost_bytes=sum(each.bytes for each in lost),
            lost_value=sum(each.value for each in lost),
            lost_artifacts=tuple(each.id for each in lost[:_LISTED]),
        )
