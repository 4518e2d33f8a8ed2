"""Locks on the wire: what the bucket keeps, what is asked of the lock service, what it tells.

The bucket is the only truth. Each request for a lock is one record in it, a *claim*, which waits or
holds and then is gone; the claims of one lock are its group, and every step that changes who holds
is a compare-and-set on the whole group.
"""

import math
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from interlock_schemas import subjects
from interlock_schemas.contracts import Command
from interlock_schemas.topology import LOCKS

__all__ = [
    "ACQUIRE",
    "BY_HEADER",
    "END",
    "ENDED_HEADER",
    "KEEP",
    "LEVELS",
    "LEVEL_S",
    "LIST",
    "LOCK_HEADER",
    "LONGEST_TTL_S",
    "RELEASE",
    "RENEW",
    "SERVICE",
    "SHOW",
    "TAKE_UP_S",
    "TOKEN_HEADER",
    "WAITING_TTL_S",
    "AcquireLock",
    "Claim",
    "ClaimAnswer",
    "ClaimView",
    "EndLock",
    "KeepWaiting",
    "ListLocks",
    "LockEnded",
    "LockNotice",
    "LockPage",
    "LockSummary",
    "LockView",
    "Priority",
    "ReleaseLock",
    "RenewLock",
    "ShowLock",
    "claim_key",
    "claim_of",
    "claim_subject",
    "group",
    "life_s",
    "parse_claim_key",
    "state_key",
]

SERVICE: Final = "sync-mutex"

#: What a message says of the lock that it was written under.
LOCK_HEADER: Final = "interlock-lock"
TOKEN_HEADER: Final = "interlock-lock-token"  # noqa: S105  # a fencing token is no secret

#: What the message that ends a claim says of why, and by whom.
ENDED_HEADER: Final = "interlock-ended"
BY_HEADER: Final = "interlock-by"

#: A waiting claim that its client does not keep alive is gone after so long, seconds.
WAITING_TTL_S: Final = 6
#: A waiter that is handed a lock and does not take it up loses it after so long, seconds.
TAKE_UP_S: Final = 5
#: A lease without a renewal, seconds, at most.
LONGEST_TTL_S: Final = 86_400

Priority = Literal["critical", "high", "normal", "low", "background"]

#: How urgent each priority is.
LEVELS: Final[dict[str, int]] = {"critical": 4, "high": 3, "normal": 2, "low": 1, "background": 0}

#: A level is worth so many seconds of waiting: whoever waits longer is served first all the same.
LEVEL_S: Final = 30

#: Slashes, colons and the like stand for themselves; what the broker reads as more does not.
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_.:/=@+-]{0,199}\Z")]
ClaimId = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
ClientId = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{0,64}\Z")]
Text = Annotated[str, Meta(max_length=200)]
Ttl = Annotated[float, Meta(ge=1, le=LONGEST_TTL_S)]
Slots = Annotated[int, Meta(ge=1, le=10_000)]
MaxAge = Annotated[float, Meta(ge=1, le=31_536_000)]
Token = Annotated[int, Meta(ge=1)]


class Claim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request for a lock, as the bucket keeps it."""

    name: Name
    state: Literal["waiting", "held"]
    owner: Text = ""
    """Who asks, in deadlocks: two claims of one owner wait for one another for ever."""
    client: ClientId = ""
    """Where grants and losses are told: ``notice.locks.<client>``. Empty: nowhere."""
    node: Text = ""
    """The host. When it is declared lost, its claims end."""
    note: Text = ""
    """What for, for the person who looks."""
    ttl_s: Ttl = 30.0
    slots: Slots = 1
    """So many may hold at once. The same in every claim of one lock."""
    priority: Priority = "normal"
    max_age_s: MaxAge | None = None
    """Ends so long after it was acquired, renewed or not."""
    token: int = 0
    """The fencing token of a held claim. 0: the sequence of this very message."""
    asked_ns: int = 0
    """When it was first asked for, broker's clock. 0: when this message was stored."""
    asked_seq: int = 0
    """Its place in the order of arrival. 0: the sequence of this message."""
    held_ns: int = 0
    """When it was acquired, broker's clock. 0: when this message was stored."""
    offered: bool = False
    """Handed over from another holder and not taken up yet."""
    after: ClaimId | Literal[""] = ""
    """The claim that it was handed over from. That one ended when this one was granted, also
    while its record still stands: so to hand over is one message."""


class AcquireLock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for a lock. Asked again under the same id, it does once."""

    name: Name
    id: ClaimId | None = None
    """Yours, unique. Left out: the service makes one."""
    wait: bool = False
    """Queue up where it is held. Keep alive with `KeepWaiting`; the grant is told to `client`."""
    ttl_s: Ttl = 30.0
    priority: Priority = "normal"
    slots: Slots = 1
    max_age_s: MaxAge | None = None
    owner: Text = ""
    client: ClientId = ""
    node: Text = ""
    note: Text = ""
    asked_ns: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """The place in the queue that this request had before it was cut off, from a `ClaimAnswer`."""
    asked_seq: Annotated[int, Meta(ge=0, le=2**62)] = 0


class RenewLock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Hold on for another time to live, counted from now."""

    name: Name
    id: ClaimId
    token: Token
    ttl_s: Ttl | None = None
    """Left out: as before."""


class KeepWaiting(msgspec.Struct, frozen=True, kw_only=True):
    """Still here: at least every two seconds while waiting."""

    name: Name
    id: ClaimId


class ReleaseLock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Give back what is held, or stop waiting for it."""

    name: Name
    id: ClaimId
    token: Annotated[int, Meta(ge=0)] = 0
    """The fencing token. 0: stop waiting; refused when the lock is held meanwhile."""
    timed_out_s: float | None = None
    """Stopped waiting because this deadline passed."""
    at_once: bool = False
    """Have the record gone before anybody else holds it: something was written under it whose
    acknowledgement never came."""


class EndLock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Take a lock from its holder. Audited."""

    name: Name
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    by: Text = ""
    token: Token | None = None
    """Only the holder with this token. Left out: every holder."""


class ListLocks(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for the locks that are held or waited for, by name."""

    prefix: Text = ""
    node: Text = ""
    """Only those with a claim of this node."""
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 200
    after: Text = ""
    """Go on behind this name."""


class ShowLock(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for one lock."""

    name: Name


class ClaimView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One claim as people and programs are shown it."""

    id: str
    state: Literal["waiting", "held"]
    owner: str
    node: str
    note: str
    priority: Priority
    ttl_s: float
    since_ms: int
    """Unix time at which it was acquired or, waiting, asked for; broker's clock, milliseconds."""
    token: int = 0
    max_age_s: float | None = None
    offered: bool = False
    renewed_ms: int = 0
    """Unix time of its last sign of life; broker's clock, milliseconds."""


class ClaimAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a claim stands."""

    name: str
    id: str
    state: Literal["waiting", "held"]
    revision: int
    """Of the claim's record."""
    token: int = 0
    ttl_s: float = 0.0
    """How long it now lives without a renewal, seconds, counted from the request."""
    fresh: bool = False
    """This very request has written it. Otherwise it may be about to run out: renew it first."""
    offered: bool = False
    """Handed over: renew it before you rest on it."""
    position: int = 0
    """Waiting: 1 is next."""
    asked_ns: int = 0
    asked_seq: int = 0
    held_ns: int = 0
    """When it was acquired, broker's clock; 0 where that is not known yet."""
    alone: bool = False
    """Nobody else has a claim to the lock."""
    after: str = ""
    """Of the record; what renews it past the service keeps it."""
    holders: tuple[ClaimView, ...] = ()


class LockEnded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a release or an end did."""

    name: str
    tokens: tuple[int, ...] = ()
    """What no longer holds."""
    next_token: int = 0
    """What was handed over to the next waiter."""


class LockSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a list."""

    name: str
    slots: int
    holders: tuple[ClaimView, ...]
    waiting: int


class LockPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of locks."""

    locks: tuple[LockSummary, ...]
    total: int
    next: str | None = None


class LockView(msgspec.Struct, frozen=True, kw_only=True):
    """One lock: holders by token, waiters in the order in which they will be served."""

    name: str
    slots: int
    revision: int
    holders: tuple[ClaimView, ...]
    waiting: tuple[ClaimView, ...]


class LockNotice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client is told of its claim without having asked."""

    name: str
    id: str
    what: Literal["granted", "ended", "refused"]
    """``granted``: renew it, it is yours. ``ended``: taken away. ``refused``: wait no longer."""
    token: int = 0
    revision: int = 0
    ttl_s: float = 0.0
    reason: str = ""
    deadlock: bool = False
    asked_ns: int = 0
    asked_seq: int = 0
    held_ns: int = 0
    after: str = ""


ACQUIRE = Command(
    service=SERVICE, verb="acquire", summary="Take a lock, or queue up for it.",
    request=AcquireLock, reply=ClaimAnswer,
)  # fmt: skip
RENEW = Command(
    service=SERVICE, verb="renew", summary="Hold on to a lock.",
    request=RenewLock, reply=ClaimAnswer,
)  # fmt: skip
KEEP = Command(
    service=SERVICE, verb="keep", summary="Stay in the queue, and learn where one stands.",
    request=KeepWaiting, reply=ClaimAnswer,
)  # fmt: skip
RELEASE = Command(
    service=SERVICE, verb="release", summary="Give a lock back, or stop waiting for it.",
    request=ReleaseLock, reply=LockEnded,
)  # fmt: skip
END = Command(
    service=SERVICE, verb="end", summary="Take a lock from its holder, with a reason.",
    request=EndLock, reply=LockEnded,
)  # fmt: skip
LIST = Command(
    service=SERVICE, verb="list", summary="Locks that are held or waited for.",
    request=ListLocks, reply=LockPage,
)  # fmt: skip
SHOW = Command(
    service=SERVICE, verb="show", summary="One lock: who holds it, who waits, in order.",
    request=ShowLock, reply=LockView,
)  # fmt: skip


def life_s(ttl_s: float) -> int:
    """The broker's time to live for a lease: whole seconds, never less than was asked for."""
    return max(1, math.ceil(ttl_s))


def claim_of(request: AcquireLock) -> Claim:
    """The claim that a request makes where it holds at once."""
    return Claim(
        name=request.name,
        state="held",
        owner=request.owner,
        client=request.client,
        node=request.node,
        note=request.note,
        ttl_s=request.ttl_s,
        slots=request.slots,
        priority=request.priority,
        max_age_s=request.max_age_s,
    )


def claim_key(name: str, id: str) -> str:
    """The key of a claim in the bucket."""
    return f"claim.{subjects.token(name)}.{id}"


def claim_subject(name: str, id: str) -> str:
    """The subject of a claim's record."""
    return LOCKS.key_subject(claim_key(name, id))


def group(name: str) -> str:
    """The filter for the claims of one lock: what a change of hands is conditional on."""
    return LOCKS.key_subject(f"claim.{subjects.token(name)}.*")


def parse_claim_key(key: str) -> tuple[str, str] | None:
    """Lock name (as its subject token) and id of a claim's key; None for any other key."""
    parts = key.split(".")
    if len(parts) != 3 or parts[0] != "claim":
        return None
    return parts[1], parts[2]


def state_key(key: str) -> str:
    """The key of a piece of fenced state."""
    return f"state.{subjects.token(key)}"
