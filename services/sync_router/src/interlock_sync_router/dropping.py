"""Drops in two steps: first the other holders check their copies, then the copy goes. Pure.

A drop order counts only receipts that were verified after the moment it names as its own, so that
moment is when the checks were first wanted.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from interlock_sync_router.world import Move

__all__ = ["Dropping", "Droppings"]

#: A holder that was asked to check is not asked again for so long, seconds.
_AGAIN_S: Final = 600.0


class Dropping:
    """One copy that is to go."""

    def __init__(self, move: Move, since: str) -> None:
        self.move = move
        self.since = since
        """When it was first wanted, RFC 3339."""
        self.verified: set[str] = set()
        """Holders who have checked their copy since."""
        self._asked: dict[str, float] = {}

    @property
    def confirmed(self) -> tuple[str, ...]:
        """Of the others, who has checked since."""
        return tuple(node for node in self.move.others if node in self.verified)

    @property
    def due(self) -> bool:
        """Whether it may be ordered."""
        return len(self.confirmed) >= self.move.replicas

    def to_ask(self, now: float, busy: Iterable[str]) -> list[str]:
        """Who is to check now, as many as are still needed. `busy` have an order that stands."""
        needed = self.move.replicas - len(self.confirmed)
        engaged = set(busy)
        candidates = [node for node in self.move.others if node not in self.verified]
        needed -= sum(1 for node in candidates if node in engaged)
        found = []
        for node in candidates:
            if needed <= 0:
                break
            if node in engaged or now - self._asked.get(node, -1e18) < _AGAIN_S:
                continue
            self._asked[node] = now
            found.append(node)
            needed -= 1
        return found

    def not_asked(self, node: str) -> None:
        """A holder could not be asked after all."""
        self._asked.pop(node, None)


class Droppings:
    """All of them, by node and artifact."""

    def __init__(self) -> None:
        self._all: dict[str, dict[str, Dropping]] = {}

    def __iter__(self) -> Iterator[Dropping]:
        """Each."""
        return (each for of_one in self._all.values() for each in of_one.values())

    def want(self, move: Move, at: str) -> Dropping:
        """A drop is planned, now or again."""
        of_one = self._all.setdefault(move.artifact, {})
        found = of_one.get(move.node)
        if found is None:
            found = of_one[move.node] = Dropping(move, at)
        found.move = move
        return found

    def verified(self, node: str, artifact: str, at: str) -> bool:
        """A holder checked its copy, RFC 3339; whether somebody waits for that."""
        waiting = False
        for each in self._all.get(artifact, {}).values():
            if at > each.since and node not in each.verified:
                each.verified.add(node)
                waiting = True
        return waiting

    def not_asked(self, node: str, artifact: str) -> None:
        """A holder could not be asked to check its copy after all."""
        for each in self._all.get(artifact, {}).values():
            each.not_asked(node)

    def keep_only(self, wanted: set[tuple[str, str]]) -> None:
        """What is not planned any more, by node and artifact, is forgotten."""
        for each in list(self):
            if (each.move.node, each.move.artifact) not in wanted:
                self.done(each.move.node, each.move.artifact)

    def done(self, node: str, artifact: str) -> None:
        """It is ordered, or not wanted any more."""
        of_one = self._all.get(artifact)
        if of_one is not None:
            of_one.pop(node, None)
            if not of_one:
                del self._all[artifact]

    def clear(self) -> None:
        """Forget all of it."""
        self._all.clear()
