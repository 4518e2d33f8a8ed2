"""What a replica knows of all locks, record by record as the bucket tells it. Pure.

A replica may be behind. Nothing rests on what it knows but the choice of the next step, which the
broker then stores only if the group still stands so.
"""

from collections.abc import Iterable, Mapping
from typing import Literal
from urllib.parse import unquote

import msgspec

from interlock_schemas.locks import Claim, parse_claim_key
from interlock_sync_mutex.leases import Lock, Standing

__all__ = ["MARKER_S", "Change", "Registry", "Told"]

#: How long the marker of an ended claim counts as a record of its group, seconds.
MARKER_S = 1.0


class Told(msgspec.Struct, frozen=True):
    """One message of the bucket."""

    key: str
    revision: int
    at_ns: int
    """When it was stored, broker's clock."""
    body: bytes | None
    """None: the key is gone."""
    why: str = ""
    """Why it is gone: as whoever removed it wrote; ``expired`` where the broker did."""
    by: str = ""


class Change(msgspec.Struct, frozen=True):
    """What a message changed."""

    kind: Literal["queued", "kept", "acquired", "renewed", "ended"]
    name: str
    standing: Standing
    """As it is now; as it last was, where it ended."""
    revision: int
    at_ns: int
    why: str = ""
    by: str = ""


class Registry:
    """Every lock, and until when each claim is known to live."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, Standing]] = {}
        self._markers: dict[str, dict[str, tuple[int, float]]] = {}
        self._seen: dict[tuple[str, str], float] = {}
        self._names: dict[str, str] = {}
        self.revision = 0
        """The last message taken over."""
        self.broken: list[Told] = []
        """Records that are no claims, since they were last taken away from here."""

    def lock(self, token: str, name: str = "") -> Lock:
        """A lock by the subject token of its name, without what has ended but for its record."""
        group = self._groups.get(token, {})
        over = _over(group)
        claims = {id: s for id, s in group.items() if id not in over} if over else group
        return Lock(self._names.get(token, name), claims)

    def leftovers(self, token: str) -> list[Standing]:
        """Claims that were handed over, and whose records still stand."""
        group = self._groups.get(token, {})
        return [group[id] for id in _over(group) if id in group]

    @property
    def locks(self) -> dict[str, Lock]:
        """Every lock with a claim, by name."""
        return {self._names[token]: self.lock(token) for token in self._groups}

    def last(self, token: str, now: float) -> int:
        """The last sequence of a group, as far as is known, at `now` (monotonic, seconds)."""
        markers = self._markers.get(token, {})
        standing = max(
            (revision for revision, at in markers.values() if now - at < MARKER_S), default=0
        )
        return max(standing, self._revision(token))

    def _revision(self, token: str) -> int:
        return max((s.revision for s in self._groups.get(token, {}).values()), default=0)

    def is_last(self, token: str, last: int) -> bool:
        """Whether a group whose last sequence is `last` is as it is known here.

        It is where all that may be missing are markers: they go without a word.
        """
        standing = self._revision(token)
        markers = {revision for revision, _ in self._markers.get(token, {}).values()}
        return last == standing or (last > standing and last in markers)

    def seen(self, token: str, id: str) -> float:
        """When the record of a claim was taken over (monotonic, seconds)."""
        return self._seen.get((token, id), 0.0)

    def standings(self) -> Iterable[tuple[str, Standing]]:
        """Every claim, with the subject token of its lock."""
        for token, group in self._groups.items():
            for standing in group.values():
                yield token, standing

    def apply(self, told: Told, now: float) -> Change | None:
        """Take a message over; None where it changes nothing for locks."""
        found = parse_claim_key(told.key)
        if found is None:
            self.revision = max(self.revision, told.revision)
            return None
        token, id = found
        before = self._groups.get(token, {}).get(id)
        marker = self._markers.get(token, {}).get(id)
        known = max(before.revision if before else 0, marker[0] if marker else 0)
        self.revision = max(self.revision, told.revision)
        if told.revision <= known:
            return None
        if told.body is None:
            self._markers.setdefault(token, {})[id] = (told.revision, now)
            self._remove(token, id)
            if before is None:
                return None
            name = before.claim.name
            return Change("ended", name, before, told.revision, told.at_ns, told.why, told.by)
        self._forget_marker(token, id)
        standing = Standing(id, self._read(token, told), told.revision, told.at_ns)
        self._groups.setdefault(token, {})[id] = standing
        self._names[token] = standing.claim.name
        self._seen[token, id] = now
        return Change(
            _kind(before, standing), standing.claim.name, standing, told.revision, told.at_ns
        )

    def _read(self, token: str, told: Told) -> Claim:
        try:
            return msgspec.json.decode(told.body or b"", type=Claim)
        except (msgspec.DecodeError, RecursionError):
            # Somebody wrote into the bucket by hand. What cannot be read holds the lock, until it
            # runs out or is ended.
            self.broken.append(told)
            others = next(iter(self._groups.get(token, {}).values()), None)
            return Claim(
                name=self._names.get(token) or unquote(token),
                state="held",
                owner="(unreadable record)",
                slots=others.claim.slots if others is not None else 1,
            )

    def forget(self, token: str, id: str) -> None:
        """Drop a claim that the broker does not have any more."""
        self._remove(token, id)
        self._forget_marker(token, id)
        if token not in self._groups and not self._markers.get(token):
            self._markers.pop(token, None)
            self._names.pop(token, None)

    def sweep(self, now: float) -> None:
        """Drop the markers that are gone."""
        for token in list(self._markers):
            markers = self._markers[token]
            for id in [id for id, (_, at) in markers.items() if now - at > 10 * MARKER_S]:
                del markers[id]
            if not markers:
                del self._markers[token]
                if token not in self._groups:
                    self._names.pop(token, None)

    def _remove(self, token: str, id: str) -> None:
        self._seen.pop((token, id), None)
        group = self._groups.get(token)
        if group is not None:
            group.pop(id, None)
            if not group:
                del self._groups[token]

    def _forget_marker(self, token: str, id: str) -> None:
        markers = self._markers.get(token)
        if markers is not None:
            markers.pop(id, None)


def _over(group: Mapping[str, Standing]) -> set[str]:
    """What was handed over to somebody who holds it now."""
    return {s.claim.after for s in group.values() if s.claim.after and s.held}


def _kind(
    before: Standing | None, after: Standing
) -> Literal["queued", "kept", "acquired", "renewed"]:
    if not after.held:
        return "queued" if before is None else "kept"
    if before is not None and before.held and before.token == after.token:
        return "renewed"
    return "acquired"
