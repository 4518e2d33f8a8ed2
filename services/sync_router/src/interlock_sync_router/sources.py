"""From whom an artifact is fetched: who is near, who is not busy, and not all from its origin.

A node serves so many transfers of one artifact at a time, and the origin none any more once another
node can: that is what lets a copy for each of many nodes cost the origin two. Pure.
"""

from collections import deque

from interlock_schemas.artifacts import Artifact
from interlock_sync_router.places import Places, bits

__all__ = ["Sources"]


class Sources:
    """Who can serve one artifact now."""

    def __init__(
        self, about: Artifact, held: int, used: dict[int, int], places: Places, fan_out: int
    ) -> None:
        """`used`: transfers of it that each node serves by orders that stand."""
        self._about = about
        self._places = places
        self._spare: dict[int, int] = {}
        able = held & places.serving
        #: Whether anybody could serve it, busy or not.
        self.any = bool(able)
        origin = places.bit.get(about.origin, 0)
        willing = 0
        for i in bits(able):
            if places.facts[i].serves:
                willing |= 1 << i
        # Each step leaves out who is worse, unless nobody else is there.
        able = willing or able
        able = able & places.well or able
        able = able & ~places.leaving or able
        able = able & ~origin or able
        self._by_zone: dict[str, deque[int]] = {}
        free = [i for i in bits(able) if used.get(i, 0) < fan_out]
        free.sort(key=lambda i: (places.serves[i] / max(places.facts[i].slots, 1), i))
        for i in free:
            self._spare[i] = fan_out - used.get(i, 0)
            self._by_zone.setdefault(places.zone[i], deque()).append(i)
        #: Transfers that may still be begun.
        self.spare = sum(self._spare.values())

    def take(self, target: int) -> tuple[int, ...]:
        """Who serves a node: the best first. Empty: nobody at present. Counts the first one."""
        zone = self._places.zone[target]
        near = self._by_zone.get(zone)
        found = self._next(near, target) if near else None
        if found is None:
            for name in sorted(self._by_zone):
                if name != zone:
                    found = self._next(self._by_zone[name], target)
                    if found is not None:
                        break
        if found is None:
            return ()
        self._spare[found] -= 1
        self.spare -= 1
        self._places.serves[found] += 1
        queue = self._by_zone[self._places.zone[found]]
        queue.remove(found)
        if self._spare[found] > 0:
            queue.append(found)
        others = [i for i in (near or ()) if i != found and not self._barred(i, target)][:2]
        return (found, *others)

    def _next(self, queue: deque[int], target: int) -> int | None:
        for i in queue:
            if not self._barred(i, target):
                return i
        return None

    def _barred(self, source: int, target: int) -> bool:
        places = self._places
        if source == target:
            return True
        if not places.barred_sources:
            return False
        name = places.names[target]
        return any(
            each.node == name and each.artifact in (None, self._about.id)
            for each in places.barred_sources.get(places.names[source], ())
        )
