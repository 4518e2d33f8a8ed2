"""What stands of the nodes in the buckets, for whoever asks while no monitor answers."""

from typing import TypeVar

import msgspec

from interlock.bus import Bus
from interlock.clock import now
from interlock.kv import Entry, Store
from interlock.nodes.views import matches, view
from interlock_schemas.health import ListNodes, NodeHealth, NodeView, RecoveryState
from interlock_schemas.nodes import FLEET_KEY, Member, NodeRecord
from interlock_schemas.topology import HEALTH, MEMBERS, NODES

__all__ = ["view_of", "views"]

T = TypeVar("T")


async def views(bus: Bus, wanted: ListNodes) -> list[NodeView]:
    """The nodes that are asked for, sorted by name."""
    found = await _all(bus)
    return [
        each
        for each in found
        if matches(
            each, states=wanted.states, zone=wanted.zone, role=wanted.role, labels=wanted.labels
        )
    ]


async def view_of(bus: Bus, node: str) -> NodeView | None:
    """One node; None where nothing is known of it."""
    return next((each for each in await _all(bus) if each.node == node), None)


async def _all(bus: Bus) -> list[NodeView]:
    described = [
        _read(entry, NodeRecord)
        for entry in await Store(bus, NODES).entries()
        if entry.key != FLEET_KEY
    ]
    leases = [_read(entry, Member) for entry in await Store(bus, MEMBERS).entries()]
    health = await Store(bus, HEALTH).entries()
    held = [_read(entry, NodeHealth) for entry in health if entry.key.startswith("node.")]
    repairs = [_read(entry, RecoveryState) for entry in health if entry.key.startswith("recovery.")]
    records = {each.name: each for each in described if each is not None}
    members = {each.node: each for each in leases if each is not None}
    healths = {each.node: each for each in held if each is not None}
    recovery = {each.node: each for each in repairs if each is not None}
    at = now()
    return [
        view(
            name,
            records.get(name),
            healths.get(name),
            members.get(name),
            at,
            recovery.get(name),
        )
        for name in sorted({*records, *members, *healths})
    ]


def _read(entry: Entry, type: type[T]) -> T | None:
    """A record; None where it cannot be read: what is not known of a node is unknown."""
    try:
        return msgspec.json.decode(entry.value or b"", type=type)
    except msgspec.DecodeError:
        return None
