"""Who waits for whom, and whether anybody would wait for ever. Pure.

A wait goes on when anyone in its way goes on, since that one will give back; an owner goes on when
all of its waits do. In the way of a wait are the holders, and whoever is next for what is free and
not handed over yet. Owners that go unnamed are taken to go on.
"""

from collections.abc import Iterable, Mapping

from interlock_sync_mutex.leases import Lock, Standing

__all__ = ["describe", "stuck", "victim"]

#: Who waits for what: owner, name of the lock.
Wait = tuple[str, str]


def _ahead(lock: Lock) -> list[Standing]:
    """Who holds it once what is free is handed over."""
    holders = lock.holders
    return holders + lock.queue[: max(0, lock.slots - len(holders))]


def stuck(locks: Mapping[str, Lock], asking: Wait | None = None) -> list[Wait] | None:
    """A circle of waits that nobody leaves by itself, or None.

    With `asking`, a wait that is about to begin or has just begun, only circles that it closes.
    """
    in_the_way: dict[str, list[str]] = {}
    waits: dict[str, set[str]] = {}
    for name, lock in locks.items():
        ahead = _ahead(lock)
        if not ahead or len(ahead) < lock.slots:
            continue
        in_the_way[name] = [standing.claim.owner for standing in ahead]
        served = {standing.id for standing in ahead}
        for standing in lock.claims.values():
            if standing.id not in served and standing.claim.owner:
                waits.setdefault(standing.claim.owner, set()).add(name)
    if asking is not None:
        owner, name = asking
        asked = locks.get(name)
        if asked is not None and any(
            not standing.held and standing.claim.owner == owner for standing in _ahead(asked)
        ):
            return None
        waits.setdefault(owner, set()).add(name)
    blocked = set(waits)

    def goes_on(name: str) -> bool:
        return name not in in_the_way or any(owner not in blocked for owner in in_the_way[name])

    while freed := {owner for owner in blocked if all(goes_on(name) for name in waits[owner])}:
        blocked -= freed
    hopeless = {
        owner: sorted(name for name in waits[owner] if not goes_on(name)) for owner in blocked
    }
    if asking is not None:
        if asking[1] not in hopeless.get(asking[0], ()):
            return None
        return _circle(in_the_way, hopeless, asking[0], [asking[1]])
    for owner in sorted(blocked):
        circle = _circle(in_the_way, hopeless, owner, hopeless[owner])
        if circle is not None:
            return circle
    return None


def _circle(
    in_the_way: Mapping[str, list[str]],
    waits: Mapping[str, list[str]],
    start: str,
    first: list[str],
) -> list[Wait] | None:
    """The shortest way from `start` back to itself that begins with one of `first`, if any."""
    ways: list[list[Wait]] = [[]]
    ends = [start]
    seen = {start}
    for way, owner in zip(ways, ends, strict=True):
        for name in waits[owner] if way else first:
            for holder in sorted(set(in_the_way[name])):
                further = [*way, (owner, name)]
                if holder == start:
                    return further
                if holder not in seen:
                    seen.add(holder)
                    ways.append(further)
                    ends.append(holder)
    return None


def describe(circle: Iterable[Wait]) -> str:
    """The circle in words."""
    waits = list(circle)
    told = "; ".join(
        f"{owner} waits for {name}, held by {holder}"
        for (owner, name), (holder, _) in zip(waits, [*waits[1:], waits[0]], strict=True)
    )
    return f"this would be a deadlock: {told}"


def victim(locks: Mapping[str, Lock], circle: Iterable[Wait]) -> tuple[str, Standing] | None:
    """Whose wait is refused: the youngest of the circle, so that every replica picks the same."""
    candidates = [
        (standing.asked_seq, name, standing)
        for owner, name in circle
        if (lock := locks.get(name)) is not None
        for standing in lock.queue
        if standing.claim.owner == owner
    ]
    if not candidates:
        return None
    _, name, standing = max(candidates, key=lambda each: each[0])
    return name, standing
