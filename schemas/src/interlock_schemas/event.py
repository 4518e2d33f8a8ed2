"""The shape of a canonical event: typed structs, and an open payload for the long tail.

This module says what an event is. Which events exist is said by the domain modules, and
`interlock_schemas.catalogue` collects them.
"""

import inspect
from typing import Any, ClassVar

import msgspec

__all__ = ["Event", "EventType", "OpenEvent", "Payload", "open_type"]

#: A decoded JSON object. Fields that a type does not declare stay in it.
Payload = dict[str, Any]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every typed event. A field left out is unknown, never zero.

    A subclass names its type (``event_type = "training.completed"``), and its docstring says when
    the event is emitted and by whom. Readers ignore fields they do not know; a new field has a
    default.
    """

    event_type: ClassVar[str]

    @property
    def type_name(self) -> str:
        """The canonical type, ``<domain>.<event>``."""
        return self.event_type


class OpenEvent(msgspec.Struct, frozen=True):
    """An event whose type is known and whose payload is open: the long tail of the catalogue."""

    type: str
    payload: Payload

    @property
    def type_name(self) -> str:
        """The canonical type, ``<domain>.<event>``."""
        return self.type


class EventType(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the catalogue."""

    name: str
    """``<domain>.<event>``, snake case, past participle where something happened."""
    summary: str
    """One sentence: when it is emitted, and by whom."""
    struct: type[Event] | None = None
    """The typed payload, or None where the payload is open."""

    @property
    def domain(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def event(self) -> str:
        """The part of the name after the dot."""
        return self.name.partition(".")[2]

    def convert(self, payload: Payload) -> Event | OpenEvent:
        """Check a decoded payload against this type.

        Raises msgspec.ValidationError, whose message names the field, when it does not fit.
        """
        if self.struct is None:
            return OpenEvent(self.name, payload)
        return msgspec.convert(payload, self.struct)


def typed(struct: type[Event]) -> EventType:
    """The catalogue entry of a typed event, taken from the class itself."""
    summary = " ".join(inspect.cleandoc(struct.__doc__ or "").split())
    if not summary:
        raise TypeError(f"{struct.__name__} needs a docstring: when it is emitted, and by whom")
    return EventType(name=struct.event_type, summary=summary, struct=struct)


def open_type(name: str, summary: str) -> EventType:
    """A catalogue entry whose payload is open."""
    return EventType(name=name, summary=summary)
