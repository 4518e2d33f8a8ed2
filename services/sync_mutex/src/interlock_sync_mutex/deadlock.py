"""Who waits for whom, and whether anybody would wait for ever. Pure.

A waiter goes on when any holder of what it waits for goes on, since that one will give back; who
waits for nothing goes on. Owners that go unnamed are taken to go on.
"""

from collections.abc import Iterable, Mapping

from interlock_sync_mutex.leases import Lock, Standing

__all__ = ["describe", "stuck", "victim"]

#: Who waits for what: owner, name of the lock.
Wait = tuple[str, str]


def _waits(locks: Mapping[str, Lock]) -> dict[str, set[str]]:
    waits: dict[str, set[str]] = {}
    for name, lock in locks.items():
        for standing in lock.claims.values():
            if not standing.held and standing.claim.owner:
                waits.setdefault(standing.claim.owner, set()).add(name)
    return waits


def _holders(lock: Lock | None) -> list[str]:
    return [s.claim.owner for s in lock.holders] if lock is not None else []


def stuck(locks: Mapping[str, Lock], asking: Wait | None = None) -> list[Wait] | None:
    """A circle of waits that nobody leaves by itself, or None.

    With `asking`, a wait that is about to begin, only circles that it would close.
    """
    waits = _waits(locks)
    if asking is not None:
        waits.setdefault(asking[0], set()).add(asking[1])
    blocked = set(waits)
    changed = True
    while changed:
        changed = False
        for owner in list(blocked):
            if all(
                not (holders := _holders(locks.get(name)))
                or any(holder not in blocked for holder in holders)
                for name in waits[owner]
            ):
                blocked.discard(owner)
                changed = True
    if asking is not None:
        return _circle(locks, waits, blocked, asking[0]) if asking[0] in blocked else None
    for owner in sorted(blocked):
        circle = _circle(locks, waits, blocked, owner)
        if circle is not None:
            return circle
    return None


def _circle(
    locks: Mapping[str, Lock], waits: Mapping[str, set[str]], blocked: set[str], start: str
) -> list[Wait] | None:
    """The shortest way from `start` back to itself along what it waits for, if there is one."""
    ways: list[list[Wait]] = [[]]
    ends = [start]
    seen = {start}
    for way, owner in zip(ways, ends, strict=True):
        for name in sorted(waits.get(owner, ())):
            for holder in sorted(set(_holders(locks.get(name)))):
                if holder not in blocked and holder != start:
                    continue
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
