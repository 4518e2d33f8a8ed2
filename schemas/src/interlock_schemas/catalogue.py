"""Every canonical event type, collected from the domain modules."""

import functools
from collections.abc import Mapping

from interlock_schemas import (
    breaker,
    cluster,
    consensus,
    consumer_events,
    curriculum,
    daemon,
    data,
    evaluation,
    legacy_events,
    letter_events,
    lock,
    model,
    node,
    optimization,
    promotion,
    quality,
    regression,
    resource,
    selfplay,
    sync,
    system,
    task,
    training,
    work,
)
from interlock_schemas.event import EventType

__all__ = ["all_types", "by_name", "find"]

_DOMAINS = (
    breaker,
    cluster,
    consensus,
    consumer_events,
    curriculum,
    daemon,
    data,
    evaluation,
    legacy_events,
    letter_events,
    lock,
    model,
    node,
    optimization,
    promotion,
    quality,
    regression,
    resource,
    selfplay,
    sync,
    system,
    task,
    training,
    work,
)


@functools.cache
def by_name() -> Mapping[str, EventType]:
    """The catalogue, keyed by canonical type."""
    found: dict[str, EventType] = {}
    for module in _DOMAINS:
        for entry in module.TYPES:
            if entry.name in found:
                raise ValueError(f"event type {entry.name} is declared twice")
            found[entry.name] = entry
    return found


def all_types() -> list[EventType]:
    """Every type, sorted by name."""
    return sorted(by_name().values(), key=lambda entry: entry.name)


def find(name: str) -> EventType | None:
    """The type of that exact name, or None."""
    return by_name().get(name)
