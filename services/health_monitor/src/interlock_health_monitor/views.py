"""What the monitor answers about nodes: views drawn from the roster, without I/O."""

import bisect
from datetime import datetime

from interlock_health_monitor import instants
from interlock_health_monitor.roster import Node, Roster
from interlock_schemas.health import ListNodes, NodesPage, NodeView
from interlock_schemas.nodes import Mark

__all__ = ["page_of", "view_of"]


def view_of(node: Node, now_s: float, wall: datetime, *, whole: bool = False) -> NodeView:
    """One node as it is seen at `now_s`, attentive time, and `wall`."""
    facts = node.facts
    record = node.record
    told = node.health
    silence = facts.silence_s(now_s)
    return NodeView(
        node=facts.name,
        state=facts.state,
        since=told.since if told is not None else "",
        reason=told.reason if told is not None else "never_heard",
        detail=told.detail if told is not None else "nothing was heard of it yet",
        zone=facts.zone,
        provider=record.provider if record is not None else "",
        price_class=record.price_class if record is not None else "",
        roles=record.roles if record is not None else (),
        labels=record.labels if record is not None else {},
        described=record is not None,
        agent=facts.agent,
        cordoned=record is not None and _stands(record.cordon, wall),
        draining=facts.leaving or (record is not None and _stands(record.drain, wall)),
        evicted=told is not None and told.eviction is not None,
        silent_s=round(silence, 3) if silence is not None else None,
        phi=round(facts.rhythm.phi(silence), 2) if silence is not None and facts.agent else None,
        gpus=_gpus(node),
        health=told,
        beat=node.beat if whole else None,
        recovery=node.recovery if whole else None,
    )


def _stands(mark: Mark | None, wall: datetime) -> bool:
    return mark is not None and instants.stands(mark.until, wall)


def _gpus(node: Node) -> int | None:
    if node.beat is not None and node.beat.gpus is not None:
        return len(node.beat.gpus)
    return node.record.gpus if node.record is not None else None


def page_of(roster: Roster, asked: ListNodes, now_s: float, wall: datetime) -> NodesPage:
    """The nodes that fit, sorted by name."""
    names = sorted(node.facts.name for node in roster if _fits(node, asked))
    begin = bisect.bisect_right(names, asked.after) if asked.after else 0
    chosen = names[begin : begin + asked.limit]
    found = (roster.get(name) for name in chosen)
    return NodesPage(
        nodes=tuple(view_of(node, now_s, wall) for node in found if node is not None),
        total=len(names),
        next=chosen[-1] if begin + asked.limit < len(names) else "",
        heartbeats_missed=sum(node.missed for node in roster),
    )


def _fits(node: Node, asked: ListNodes) -> bool:
    record = node.record
    if asked.states and node.facts.state not in asked.states:
        return False
    if asked.zone is not None and node.facts.zone != asked.zone:
        return False
    if asked.role is not None and (record is None or asked.role not in record.roles):
        return False
    labels = record.labels if record is not None else {}
    return all(labels.get(key) == value for key, value in asked.labels.items())
