"""From an event to what is published: subject, body and headers."""

import uuid
from collections.abc import Mapping

import msgspec

from interlock.clock import now, rfc3339
from interlock_schemas import catalogue, envelope, subjects
from interlock_schemas.event import Event, OpenEvent, Payload

__all__ = ["encode_event", "event_headers", "key_of"]

_encoder = msgspec.json.Encoder()


def key_of(payload: Payload | Event) -> str | None:
    """The subject key of an event: its configuration, else its node, else none."""
    for field in ("config", "node"):
        value = payload.get(field) if isinstance(payload, dict) else getattr(payload, field, None)
        if isinstance(value, str) and value:
            return value
    return None


def event_headers(type_name: str, *, id: str, source: str, time: str) -> dict[str, str]:
    """The CloudEvents headers of an event, with the broker's message id."""
    return {
        envelope.SPEC_VERSION: "1.0",
        envelope.ID: envelope.escape(id),
        envelope.SOURCE: envelope.escape(source),
        envelope.TYPE: type_name,
        envelope.TIME: time,
        envelope.MSG_ID: envelope.escape(id),
    }


def encode_event(
    event: Event | OpenEvent,
    *,
    source: str,
    key: str | None = None,
    id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[str, bytes, dict[str, str]]:
    """Subject, body and headers of an event.

    Raises ValueError for an open event whose type is not in the catalogue, and for an empty id.
    """
    if id == "":
        raise ValueError("an id is not empty: leave it out, and one is made")
    if isinstance(event, OpenEvent):
        entry = catalogue.find(event.type)
        if entry is None:
            raise ValueError(f"{event.type!r} is no event type: see `interlock legacy list`")
        entry.convert(event.payload)
        payload: Payload | Event = event.payload
    else:
        payload = event
    sent = dict(headers or {})
    sent |= event_headers(
        event.type_name,
        id=id if id is not None else uuid.uuid4().hex,
        source=source,
        time=rfc3339(now()),
    )
    subject = subjects.event(event.type_name, key or key_of(payload))
    return subject, _encoder.encode(payload), sent
