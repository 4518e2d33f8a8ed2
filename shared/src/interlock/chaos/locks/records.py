"""The history of the lock bucket, message by message, as the rules read it. Pure.

The bucket itself keeps only the last message of each key; whoever observes it turns every message
into one of these. What was not seen is known to be missing, because sequences have no gaps.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from interlock_schemas.locks import LEVEL_S, LEVELS, Claim, parse_claim_key
from interlock_schemas.topology import LOCKS

__all__ = ["ClaimEnd", "ClaimSet", "Other", "Record", "StateSet", "Value", "decode"]

_PREFIX: Final = LOCKS.key_subject("")
_NS: Final = 1_000_000_000


class Value(msgspec.Struct, frozen=True):
    """What the clients of a run write under a lock: a count, and who wrote it."""

    value: int
    token: int
    op: str


class ClaimSet(msgspec.Struct, frozen=True, kw_only=True):
    """A claim was written: it waits or it holds."""

    seq: int
    at: float
    """When the broker stored it, on the ledgers' clock."""
    lock: str
    """The lock's name as a subject token."""
    id: str
    state: Literal["waiting", "held"]
    token: int
    """0 for one that waits."""
    arrived_ns: int
    """Broker's clock."""
    arrived_seq: int
    level: int
    slots: int
    ttl_s: float
    """The record's own, as the broker counts it."""
    after: str = ""
    """The claim that it was handed over from, which is over with this one's grant."""
    op: str = ""

    @property
    def turn(self) -> tuple[int, int]:
        """What waiters are to be served in the order of: a level counts as so much waiting."""
        return self.arrived_ns - self.level * LEVEL_S * _NS, self.arrived_seq


class ClaimEnd(msgspec.Struct, frozen=True, kw_only=True):
    """A claim is gone."""

    seq: int
    at: float
    lock: str
    id: str
    expired: bool
    """The broker removed it, because nobody renewed it."""


class StateSet(msgspec.Struct, frozen=True, kw_only=True):
    """A fenced value was written."""

    seq: int
    at: float
    key: str
    """Of the bucket."""
    value: Value


class Other(msgspec.Struct, frozen=True, kw_only=True):
    """Anything else."""

    seq: int
    at: float


Record = ClaimSet | ClaimEnd | StateSet | Other


def decode(
    subject: str, seq: int, time_ns: int, headers: Mapping[str, str], body: bytes, *, behind_ns: int
) -> Record:
    """What a stored message says. ``behind_ns``: broker's clock less the ledgers' clock.

    Raises msgspec.DecodeError for a claim or a state that cannot be read.
    """
    at = (time_ns - behind_ns) / _NS
    key = subject.removeprefix(_PREFIX)
    claim_key = parse_claim_key(key)
    if claim_key is None:
        if not key.startswith("state.") or "KV-Operation" in headers:
            return Other(seq=seq, at=at)
        return StateSet(seq=seq, at=at, key=key, value=msgspec.json.decode(body, type=Value))
    lock, id = claim_key
    if "KV-Operation" in headers or "Nats-Marker-Reason" in headers:
        return ClaimEnd(seq=seq, at=at, lock=lock, id=id, expired="Nats-Marker-Reason" in headers)
    claim = msgspec.json.decode(body, type=Claim)
    return ClaimSet(
        seq=seq,
        at=at,
        lock=lock,
        id=id,
        state=claim.state,
        token=(claim.token or seq) if claim.state == "held" else 0,
        arrived_ns=claim.asked_ns or time_ns,
        arrived_seq=claim.asked_seq or seq,
        level=LEVELS[claim.priority],
        slots=claim.slots,
        ttl_s=float(headers.get("Nats-TTL", "0").removesuffix("s") or 0),
        op=claim.note,
        after=claim.after if claim.state == "held" else "",
    )
