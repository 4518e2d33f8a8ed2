"""What can be said of the nodes when no monitor answers, purely: from what stands in the buckets.

A bad state stands until it expires. A good one that nobody keeps watching is no state any more:
such a node is unknown, and what was held of it last is told beside.
"""

from collections.abc import Mapping
from datetime import datetime

from interlock_schemas.health import NodeHealth, NodeView, RecoveryState, State
from interlock_schemas.nodes import Mark, Member, NodeRecord

__all__ = ["NO_MONITOR", "is_past", "matches", "view"]

#: The reason of a node that nobody watches.
NO_MONITOR = "no_monitor"


def is_past(rfc: str | None, now: datetime) -> bool:
    """Whether a time has come. False where none is named."""
    if not rfc:
        return False
    try:
        return datetime.fromisoformat(rfc) <= now
    except (ValueError, TypeError):
        return False


def _stands(mark: Mark | None, now: datetime) -> bool:
    return mark is not None and not is_past(mark.until, now)


def view(
    name: str,
    record: NodeRecord | None,
    health: NodeHealth | None,
    member: Member | None,
    now: datetime,
    recovery: RecoveryState | None = None,
) -> NodeView:
    """One node, without a monitor."""
    described = record or NodeRecord(name=name)
    state, since, reason, detail = _state(described, health, member, now)
    eviction = health.eviction if health is not None else None
    return NodeView(
        node=name,
        state=state,
        since=since,
        reason=reason,
        detail=detail[:500],
        zone=described.zone or (health.zone if health is not None else ""),
        provider=described.provider,
        price_class=described.price_class if record is not None else "",
        roles=described.roles,
        labels=described.labels,
        described=record is not None,
        agent=described.agent,
        cordoned=_stands(described.cordon, now),
        draining=_stands(described.drain, now),
        evicted=eviction is not None and not is_past(eviction.expires_at, now),
        gpus=described.gpus,
        health=health,
        recovery=recovery,
    )


def _state(
    record: NodeRecord, health: NodeHealth | None, member: Member | None, now: datetime
) -> tuple[State, str, str, str]:
    """State, since when, the reason for machines and the one for people."""
    if record.retired is not None:
        return "retired", record.retired.at, "retired", record.retired.reason
    if health is not None and _holds(health, now):
        return health.state, health.since, health.reason, health.detail
    lease = "its lease stands" if member is not None else "it has no lease"
    if health is None:
        return "unknown", "", NO_MONITOR, lease
    return "unknown", "", NO_MONITOR, f"{lease}; it was {health.state} since {health.since}"


def _holds(health: NodeHealth, now: datetime) -> bool:
    """Whether a state says something without anybody who watches."""
    if health.state in ("healthy", "unknown"):
        return False
    return health.state == "retired" or (
        health.expires_at is not None and not is_past(health.expires_at, now)
    )


def matches(
    node: NodeView,
    *,
    states: tuple[str, ...] = (),
    zone: str | None = None,
    role: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> bool:
    """Whether a list that is asked for these has it."""
    return (
        (not states or node.state in states)
        and (zone is None or node.zone == zone)
        and (role is None or role in node.roles)
        and all(node.labels.get(key) == value for key, value in (labels or {}).items())
    )
