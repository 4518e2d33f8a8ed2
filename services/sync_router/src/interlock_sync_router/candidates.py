"""Nodes for a copy that counts: the emptiest first, then the least busy, then by name. Pure."""

from heapq import heapify, heappop, heappush

from interlock_sync_router.places import Places, bits

__all__ = ["Candidates"]

_Entry = tuple[int, float, int]


class Candidates:
    """The nodes of one set, by zone. Within a plan a node only becomes less attractive, so that an
    entry that is out of date is put back where it belongs when it comes up."""

    def __init__(self, among: int, places: Places) -> None:
        self._places = places
        self._zones: dict[str, list[_Entry]] = {}
        #: By zone: what is as large fits nowhere there any more.
        self._too_large: dict[str, int] = {}
        for i in bits(among):
            self._zones.setdefault(places.zone[i], []).append(self._entry(i))
        for heap in self._zones.values():
            heapify(heap)

    def _entry(self, i: int) -> _Entry:
        return (-self._places.share(i), self._places.load(i), i)

    def best(self, size: int, without: int, zones: frozenset[str] | None) -> int | None:
        """The node to be given so many bytes; not one of `without`. None: there is none."""
        found: _Entry | None = None
        for zone in self._zones if zones is None else zones:
            entry = self._top(zone, size, without)
            if entry is not None and (found is None or entry < found):
                found = entry
        return None if found is None else found[2]

    def _top(self, zone: str, size: int, without: int) -> _Entry | None:
        heap = self._zones.get(zone)
        if not heap or size >= self._too_large.get(zone, size + 1):
            return None
        places, aside = self._places, []
        found: _Entry | None = None
        only_size = True
        while heap:
            entry = heap[0]
            i = entry[2]
            if places.busy >> i & 1:
                heappop(heap)
                continue
            now = self._entry(i)
            if now != entry:
                heappop(heap)
                heappush(heap, now)
                continue
            small = places.room[i] < size
            if not small and not without >> i & 1:
                found = entry
                break
            only_size = only_size and small
            aside.append(heappop(heap))
        for entry in aside:
            heappush(heap, entry)
        if found is None and only_size:
            self._too_large[zone] = size
        return found
