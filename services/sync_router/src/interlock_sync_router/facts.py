"""What the records of a node come to for a plan. Pure: records and `now` in, facts out.

What is not known stays unknown: a store that has not reported lately has no known room, a node that
nobody described is not taken for one that stays, and a verdict that ran out says nothing any more.
"""

from datetime import UTC, datetime
from typing import Final

from interlock_schemas.artifacts import StoreReport, Transport
from interlock_schemas.health import NodeHealth
from interlock_schemas.nodes import Mark, Member, NodeRecord, Storage
from interlock_schemas.orders import Pause
from interlock_sync_router.world import NodeFacts, Standing

__all__ = [
    "LEAVE_S",
    "STORE_STALE_S",
    "Known",
    "at_of",
    "facts_of",
    "free_of",
    "is_paused",
    "same_but_room",
    "standing_of",
    "stands",
]

#: What a store said of its room is not known any more after so long, seconds.
STORE_STALE_S: Final = 300.0
#: A node that leaves without saying when counts as leaving for so long, seconds.
LEAVE_S: Final = 3_600.0

_SSH: Final[tuple[Transport, ...]] = ("exec", "rsync", "sftp")
_BROKER: Final[tuple[Transport, ...]] = ("relay", "object")


class Known:
    """The records of one node, as far as there are any."""

    __slots__ = ("health", "leaving_at", "member", "pause", "record", "store")

    def __init__(self) -> None:
        self.record: NodeRecord | None = None
        self.member: Member | None = None
        self.health: NodeHealth | None = None
        self.store: StoreReport | None = None
        self.pause: Pause | None = None
        self.leaving_at: float | None = None
        """Of an evacuation that has begun, epoch seconds."""

    @property
    def empty(self) -> bool:
        """Whether nothing is known."""
        return self.record is None and self.member is None and self.store is None


def at_of(text: str | None) -> float | None:
    """Epoch seconds of a time on the wire; None where it names none."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def stands(until: str | None, now: float) -> bool:
    """Whether what holds until then still holds. Without an end, or with one that cannot be read,
    it does."""
    end = at_of(until)
    return end is None or end > now


def is_paused(pause: Pause | None, now: float) -> bool:
    """Whether a pause stands."""
    return pause is not None and stands(pause.until, now)


def standing_of(health: NodeHealth | None, *, member: bool, now: float) -> Standing:
    """How a node is. Without a verdict, or past its end, its lease speaks for it, if it has one."""
    alone: Standing = "healthy" if member else "unknown"
    if health is None:
        return alone
    if health.eviction is not None:
        return "lost"
    match health.state:
        case "healthy":
            return "healthy"
        case "degraded":
            return "degraded"
        case "recovering":
            return "suspect"
        case "suspect" | "lost":
            return health.state if stands(health.expires_at, now) else alone
        case "retired":
            # It went in good order, or was taken out.
            return "unknown" if member else "lost"
        case _:
            return "unknown"


def free_of(store: StoreReport | None, now: float) -> int | None:
    """Bytes that may be written there; None where that is not known, or not any more."""
    if store is None or store.free_bytes is None:
        return None
    at = at_of(store.at)
    return store.free_bytes if at is not None and now - at <= STORE_STALE_S else None


def facts_of(name: str, known: Known, now: float, *, driven: bool = False) -> NodeFacts:
    """A node as a plan sees it. `driven`: it has no agent, and the router writes there itself."""
    record = known.record
    member = known.member is not None
    storage = record.storage if record is not None else Storage()
    ways: tuple[Transport, ...] = ()
    if record is not None and record.ssh is not None:
        ways += _SSH
    if member or driven:
        ways += _BROKER
    store = known.store
    return NodeFacts(
        name=name,
        zone=record.zone if record is not None else "",
        roles=frozenset(record.roles) if record is not None else frozenset(),
        labels=record.labels if record is not None else {},
        ephemeral=record is None or record.price_class == "spot",
        standing=standing_of(known.health, member=member or driven, now=now),
        cordoned=record is not None and _marked(record.cordon, now),
        draining=record is not None and _marked(record.drain, now),
        retired=record is not None and _marked(record.retired, now),
        leaving_at=_leaving_at(known, now),
        paused=is_paused(known.pause, now),
        receives=storage.receives,
        serves=storage.serves,
        datasets=frozenset(storage.datasets) if storage.datasets is not None else None,
        reachable=member or driven,
        transports_from=ways,
        total_bytes=store.total_bytes if store is not None else None,
        free_bytes=free_of(store, now),
        high_percent=storage.high_percent,
        low_percent=storage.low_percent,
        slots=storage.slots,
        egress_bytes_per_s=storage.egress_bytes_per_s,
        ingress_bytes_per_s=storage.ingress_bytes_per_s,
    )


def same_but_room(one: NodeFacts, other: NodeFacts) -> bool:
    """Whether two are the same but for how much room there is. That it became known, or is not
    any more, is a difference."""
    if (one.free_bytes is None) != (other.free_bytes is None):
        return False
    return all(
        getattr(one, field) == getattr(other, field)
        for field in NodeFacts.__struct_fields__
        if field not in ("free_bytes", "total_bytes")
    )


def _marked(mark: Mark | None, now: float) -> bool:
    return mark is not None and stands(mark.until, now)


def _leaving_at(known: Known, now: float) -> float | None:
    if known.leaving_at is not None and known.leaving_at > now:
        return known.leaving_at
    health = known.health
    if health is None or health.leaving is None or health.state in ("lost", "retired"):
        return None
    since = at_of(health.since) or now
    left = health.leaving.deadline_s
    at = since + (left if left is not None else LEAVE_S)
    return at if at > now else None
