"""The headers that travel beside a payload: CloudEvents in binary mode, and a few of our own.

The body is the payload alone, so that a shell script with a NATS client can publish a valid
event. Whoever leaves the headers out gets their meaning from the subject and from the stream.
"""

import hashlib
from collections.abc import Mapping
from urllib.parse import quote, unquote

__all__ = [
    "CONTENT_TYPE",
    "ID",
    "LEGACY_NAME",
    "LEGACY_ORIGIN",
    "LEGACY_SUBJECT",
    "MSG_ID",
    "REPLAY_FOR",
    "REPLAY_HOP",
    "REPLAY_OF",
    "SOURCE",
    "SPEC_VERSION",
    "TIME",
    "TRACEPARENT",
    "TRACESTATE",
    "TYPE",
    "canonical_id",
    "escape",
    "escape_name",
    "forwarded",
    "lookup",
    "message_id",
    "sendable",
    "unescape",
]

#: CloudEvents 1.0 attributes, as the NATS protocol binding spells them in binary mode.
ID = "ce-id"
SOURCE = "ce-source"
TYPE = "ce-type"
TIME = "ce-time"
SPEC_VERSION = "ce-specversion"
CONTENT_TYPE = "content-type"

#: W3C trace context.
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

#: The broker deduplicates on it.
MSG_ID = "Nats-Msg-Id"

#: What a canonical event remembers of the legacy one that it came from.
LEGACY_NAME = "interlock-legacy-name"
LEGACY_SUBJECT = "interlock-legacy-subject"
LEGACY_ORIGIN = "interlock-legacy-origin"

#: A replayed message names its letter, the one consumer it is meant for, and how often it came.
REPLAY_OF = "interlock-replay-of"
REPLAY_FOR = "interlock-replay-for"
REPLAY_HOP = "interlock-replay-hop"

#: A longer id is replaced by its digest.
_LONGEST_ID = 200

_OURS = frozenset(
    {
        ID, SOURCE, TYPE, TIME, SPEC_VERSION, CONTENT_TYPE, TRACEPARENT, TRACESTATE,
        LEGACY_NAME, LEGACY_SUBJECT, LEGACY_ORIGIN, REPLAY_OF, REPLAY_FOR, REPLAY_HOP,
    }
)  # fmt: skip


def lookup(headers: Mapping[str, str] | None, name: str) -> str | None:
    """A header's value whatever the case of its name; None where it is absent or empty."""
    if not headers:
        return None
    value = headers.get(name)
    if value is None:
        lowered = name.lower()
        value = next((v for k, v in headers.items() if k.lower() == lowered), None)
    return value or None


def message_id(headers: Mapping[str, str] | None, stream: str, seq: int, time_ns: int) -> str:
    """The identity of a stored message, stable across redelivery and replay.

    The producer's own id where it sent one; else the place of the message in its stream, with the
    time of storing, because a recreated stream counts from one again.
    """
    told = lookup(headers, ID)
    id = unescape(told) if told is not None else lookup(headers, MSG_ID)
    if id is None:
        return f"{stream.lower()}-{seq}-{time_ns:x}"
    if len(id) > _LONGEST_ID:
        return hashlib.sha256(id.encode(errors="surrogatepass")).hexdigest()
    return id


def canonical_id(message_id: str, body: bytes) -> str:
    """The id of the canonical event of a legacy message: always the same for the same message.

    The body is part of it, because old workers have been seen to use an id twice.
    """
    return f"legacy.{message_id}.{hashlib.sha256(body).hexdigest()[:8]}"


def escape_name(name: str) -> str:
    """A header's name in characters that every client may send; `unescape` is the inverse."""
    return quote(name, safe="!#$&'*+^`|~")


def sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that every client may send: a name such as ``X(1)`` is percent-encoded."""
    return {
        name if escape_name(name).replace("%25", "%") == name else escape_name(name): value
        for name, value in headers.items()
    }


def forwarded(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The headers of a message that are neither ours nor the broker's: they travel on unchanged."""
    return sendable(
        {
            name: value
            for name, value in (headers or {}).items()
            if name.lower() not in _OURS and not name.lower().startswith("nats-")
        }
    )


def escape(value: str) -> str:
    """Make any text fit into one header line: percent-encoding, as CloudEvents does it.

    Spaces stay readable, except at the ends, where clients strip them.
    """
    if value.isascii() and value.isprintable() and "%" not in value and value == value.strip(" "):
        return value
    inner = value.strip(" ")
    if not inner:
        return "%20" * len(value)
    before, _, after = value.partition(inner)
    quoted = quote(inner, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~", errors="surrogatepass")
    return "%20" * len(before) + quoted + "%20" * len(after)


def unescape(value: str) -> str:
    """The inverse of `escape`. Bytes that are no UTF-8 become U+FFFD."""
    return unquote(value, errors="replace")
