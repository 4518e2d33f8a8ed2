"""Who holds a lock, who is next, and what each request changes. Pure.

A `Lock` is what is known of one lock's group of claims. The functions take it and a request and say
what to write: a `Step`, which the shell commits as one on the condition that the group still stands
at the lock's revision, or does nothing and decides anew. So no two steps can be taken from the same
state, by however many replicas.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from interlock_schemas.locks import (
    LEVEL_S,
    LEVELS,
    TAKE_UP_S,
    WAITING_TTL_S,
    AcquireLock,
    Claim,
    ClaimView,
    claim_of,
    life_s,
)

__all__ = [
    "Ended",
    "Lock",
    "Put",
    "Refusal",
    "Standing",
    "Step",
    "acquire",
    "end",
    "expire_offers",
    "release",
    "renewed",
    "renewing",
    "settle",
    "view",
    "waiting_kept",
]

Why = Literal[
    "released",
    "expired",
    "ended",
    "node_lost",
    "max_age",
    "timed_out",
    "cancelled",
    "deadlock",
    "not_taken_up",
]


class Standing(msgspec.Struct, frozen=True):
    """A claim as it stands in the bucket."""

    id: str
    claim: Claim
    revision: int
    """Sequence of its record."""
    at_ns: int
    """When that record was stored, broker's clock."""

    @property
    def held(self) -> bool:
        """Whether it holds the lock."""
        return self.claim.state == "held"

    @property
    def token(self) -> int:
        """The fencing token; 0 while it waits."""
        return (self.claim.token or self.revision) if self.held else 0

    @property
    def held_ns(self) -> int:
        """When it was acquired, broker's clock."""
        return self.claim.held_ns or self.at_ns

    @property
    def asked_ns(self) -> int:
        """When it was first asked for, broker's clock."""
        return self.claim.asked_ns or self.at_ns

    @property
    def asked_seq(self) -> int:
        """Its place in the order of arrival."""
        return self.claim.asked_seq or self.revision

    @property
    def turn(self) -> tuple[int, int]:
        """What waiters are served in the order of.

        Each level of priority counts as `LEVEL_S` seconds of waiting. That is ageing without a
        clock: everybody ages alike, so the order between two never changes, and nobody is overtaken
        by who comes more than that later.
        """
        level = LEVELS[self.claim.priority]
        return self.asked_ns - level * LEVEL_S * 1_000_000_000, self.asked_seq


class Lock(msgspec.Struct, frozen=True):
    """What is known of one lock."""

    name: str
    claims: Mapping[str, Standing]

    @property
    def holders(self) -> list[Standing]:
        """Who holds it, by token."""
        return sorted((s for s in self.claims.values() if s.held), key=lambda s: s.token)

    @property
    def queue(self) -> list[Standing]:
        """Who waits, the next one first."""
        return sorted((s for s in self.claims.values() if not s.held), key=lambda s: s.turn)

    @property
    def slots(self) -> int:
        """How many may hold it at once; 0 while nobody has a claim to it."""
        return next((s.claim.slots for s in self.claims.values()), 0)

    @property
    def revision(self) -> int:
        """The last sequence of the claims, 0 where there are none."""
        return max((s.revision for s in self.claims.values()), default=0)


class Refusal(msgspec.Struct, frozen=True):
    """Nothing changes, and why."""

    code: str
    """HTTP-like: 408 too late, 409 conflict, 410 gone, 423 held by another, 508 deadlock."""
    reason: str


class Put(msgspec.Struct, frozen=True):
    """A claim to be written."""

    id: str
    claim: Claim
    ttl_s: int
    """Its record's time to live, whole seconds: the broker knows no other."""


class Ended(msgspec.Struct, frozen=True):
    """A claim to be removed."""

    standing: Standing
    why: Why


class Step(msgspec.Struct, frozen=True):
    """What is written as one, if the group still stands as it was looked at."""

    ends: tuple[Ended, ...] = ()
    puts: tuple[Put, ...] = ()


def acquire(lock: Lock, request: AcquireLock, id: str) -> Step | Standing | Refusal:
    """Take the lock, queue up, or say why not; the claim as it stands where it was asked before."""
    known = lock.claims.get(id)
    if known is not None:
        return known
    if lock.slots not in (0, request.slots):
        return Refusal(
            "409",
            f"{lock.name} is in use with {lock.slots} slots, and {request.slots} were asked for: "
            "all who use a lock must name the same number",
        )
    claim = claim_of(request)
    if len(lock.holders) < request.slots and not lock.queue:
        return Step(puts=(Put(id, claim, life_s(request.ttl_s)),))
    if not request.wait:
        return Refusal("423", held_by(lock))
    waiting = msgspec.structs.replace(
        claim, state="waiting", asked_ns=request.asked_ns, asked_seq=request.asked_seq
    )
    return Step(puts=(Put(id, waiting, WAITING_TTL_S),))


def held_by(lock: Lock) -> str:
    """One sentence: who stands in the way."""
    if not lock.holders:
        return f"{lock.name} is about to be handed to the first of {len(lock.queue)} waiting"
    who = ", ".join(
        f"{s.claim.owner or s.id} (token {s.token}{f' on {s.claim.node}' if s.claim.node else ''})"
        for s in lock.holders[:5]
    )
    more = f" and {len(lock.holders) - 5} more" if len(lock.holders) > 5 else ""
    behind = f", {len(lock.queue)} waiting" if lock.queue else ""
    return f"{lock.name} is held by {who}{more}{behind}"


def _grants(lock: Lock, ending: Iterable[str] = ()) -> tuple[Put, ...]:
    """The waiters that can have it once those ending are gone."""
    gone = set(ending)
    holding = sum(1 for s in lock.holders if s.id not in gone)
    queue = [s for s in lock.queue if s.id not in gone]
    return tuple(_granted(s) for s in queue[: max(0, lock.slots - holding)])


def _granted(standing: Standing) -> Put:
    claim = msgspec.structs.replace(
        standing.claim,
        state="held",
        asked_ns=standing.asked_ns,
        asked_seq=standing.asked_seq,
        offered=True,
    )
    return Put(standing.id, claim, min(TAKE_UP_S, life_s(claim.ttl_s)))


def settle(lock: Lock) -> Step | None:
    """Hand what is free to who is next."""
    grants = _grants(lock)
    return Step(puts=grants) if grants else None


def release(lock: Lock, id: str, token: int, *, timed_out: bool = False) -> Step | Refusal:
    """Give back, or stop waiting; what becomes free goes to the next in the same step."""
    standing = lock.claims.get(id)
    if standing is None:
        return Refusal("410", _gone(lock.name, id))
    if token != standing.token:
        return Refusal("409", _foreign(lock.name, standing, token))
    why: Why = "released" if standing.held else ("timed_out" if timed_out else "cancelled")
    return Step(ends=(Ended(standing, why),), puts=_grants(lock, (id,)))


def _gone(name: str, id: str) -> str:
    return (
        f"{name}: there is no claim {id}: it was released already, it ran out, or it was taken away"
    )


def _foreign(name: str, standing: Standing, token: int) -> str:
    if not standing.held:
        return f"{name}: claim {standing.id} does not hold it yet, so it has no token {token}"
    if token == 0:
        return f"{name}: claim {standing.id} holds it: name its token to give it back"
    return f"{name}: token {token} is not that of claim {standing.id}"


def end(lock: Lock, ids: Iterable[str], why: Why) -> Step | None:
    """End claims whatever their holders think of it, in the order of their tokens."""
    ends = sorted(
        (lock.claims[id] for id in set(ids) if id in lock.claims),
        key=lambda s: (not s.held, s.token, s.turn),
    )
    if not ends:
        return None
    return Step(
        ends=tuple(Ended(s, why) for s in ends),
        puts=_grants(lock, (s.id for s in ends)),
    )


def renewing(
    lock: Lock, id: str, token: int, ttl_s: float | None
) -> tuple[Standing, Put] | Refusal:
    """The record that renews a held claim: its own condition is that it still stands as it was."""
    standing = lock.claims.get(id)
    if standing is None:
        return Refusal("410", _gone(lock.name, id))
    if token != standing.token:
        return Refusal("409", _foreign(lock.name, standing, token))
    claim = renewed(standing, ttl_s)
    return standing, Put(id, claim, _rest_s(standing, claim))


def renewed(standing: Standing, ttl_s: float | None = None) -> Claim:
    """A held claim once more."""
    return msgspec.structs.replace(
        standing.claim,
        ttl_s=standing.claim.ttl_s if ttl_s is None else ttl_s,
        token=standing.token,
        held_ns=standing.held_ns,
        asked_ns=standing.asked_ns,
        asked_seq=standing.asked_seq,
        offered=False,
    )


def _rest_s(standing: Standing, claim: Claim) -> int:
    """How long its record lives: no longer than the claim may become old."""
    life = life_s(claim.ttl_s)
    if claim.max_age_s is None:
        return life
    age_s = (standing.at_ns - standing.held_ns) / 1e9
    return min(life, life_s(claim.max_age_s - age_s))


def waiting_kept(lock: Lock, id: str) -> tuple[Standing, Put] | Standing | Refusal:
    """The record that keeps a waiting claim alive; the claim itself where it holds by now."""
    standing = lock.claims.get(id)
    if standing is None:
        return Refusal("410", _gone(lock.name, id))
    if standing.held:
        return standing
    claim = msgspec.structs.replace(
        standing.claim, asked_ns=standing.asked_ns, asked_seq=standing.asked_seq
    )
    return standing, Put(id, claim, WAITING_TTL_S)


def expire_offers(lock: Lock, overdue: Iterable[str]) -> Step | None:
    """Take back what was handed over and not taken up, and hand it on."""
    ids = [
        id
        for id in overdue
        if (s := lock.claims.get(id)) is not None and s.held and s.claim.offered
    ]
    return end(lock, ids, "not_taken_up")


def view(standing: Standing) -> ClaimView:
    """A claim as it is shown."""
    claim = standing.claim
    return ClaimView(
        id=standing.id,
        state=claim.state,
        owner=claim.owner,
        node=claim.node,
        note=claim.note,
        priority=claim.priority,
        ttl_s=claim.ttl_s,
        since_ms=(standing.held_ns if standing.held else standing.asked_ns) // 1_000_000,
        token=standing.token,
        max_age_s=claim.max_age_s,
        offered=claim.offered,
        renewed_ms=standing.at_ns // 1_000_000,
    )
