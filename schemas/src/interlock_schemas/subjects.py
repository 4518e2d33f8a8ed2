"""How subjects are spelled. Nobody else concatenates a subject."""

import functools
import hashlib
from urllib.parse import quote

__all__ = [
    "EVENTS",
    "LEGACY",
    "NO_KEY",
    "SERVERS",
    "command",
    "dead",
    "event",
    "event_filter",
    "legacy",
    "lock_notice",
    "parse_event",
    "token",
]

#: Everything canonical, everything legacy, every letter.
EVENTS = "events.>"
LEGACY = "legacy.>"
DEAD = "dead.>"

#: Asked by whoever wants to know how the servers store; each server answers (system account).
SERVERS = "$SYS.REQ.SERVER.PING.VARZ"

#: The key of an event that names neither a configuration nor a node.
NO_KEY = "_"

_LONGEST_TOKEN = 96


def token(value: str) -> str:
    """Spell any text as one subject token: reversible percent-encoding, cut at 96 characters.

    A longer one is cut and ends in a digest, so that different texts stay different.
    """
    return (_remembered if len(value) <= _LONGEST_TOKEN else _token)(value)


def _token(value: str) -> str:
    encoded = quote(value, safe="=", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E")
    if not encoded:
        return NO_KEY
    if encoded == NO_KEY:
        return "%5F"
    if len(encoded) > _LONGEST_TOKEN:
        digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()[:12]
        encoded = f"{encoded[: _LONGEST_TOKEN - 13]}-{digest}"
    return encoded


_remembered = functools.lru_cache(maxsize=4_096)(_token)


def event(type_name: str, key: str | None) -> str:
    """The subject of a canonical event: ``events.<domain>.<event>.<key>``."""
    return f"events.{type_name}.{token(key) if key else NO_KEY}"


def event_filter(type_name: str | None = None) -> str:
    """The filter for one type (``training.completed``), a domain (``training``), or everything."""
    return EVENTS if type_name is None else f"events.{type_name}.>"


def parse_event(subject: str) -> str | None:
    """The canonical type that an event subject names, or None if it is no event subject."""
    parts = subject.split(".")
    if len(parts) != 4 or parts[0] != "events":
        return None
    return f"{parts[1]}.{parts[2]}"


def legacy(name: str) -> str:
    """Where an old worker's event of that name is published."""
    return f"legacy.{token(name)}"


def command(service: str, verb: str) -> str:
    """The subject of a command: ``cmd.<service>.<verb>``."""
    return f"cmd.{service}.{verb}"


def lock_notice(client: str) -> str:
    """Where a client is told of its locks. Not kept."""
    return f"notice.locks.{client}"


def dead(service: str, code: str) -> str:
    """The subject of a dead letter: ``dead.<service>.<code>``."""
    return f"dead.{service}.{code}"
