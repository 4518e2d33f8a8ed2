"""How subjects are spelled. Nobody else concatenates a subject."""

import functools
import hashlib
from urllib.parse import quote, unquote

__all__ = [
    "ECHOES",
    "EVENTS",
    "HEARTBEATS",
    "LEGACY",
    "NO_KEY",
    "PROBES",
    "SERVERS",
    "command",
    "dead",
    "echo",
    "event",
    "event_filter",
    "heartbeat",
    "legacy",
    "lock_notice",
    "node_command",
    "parse_event",
    "parse_heartbeat",
    "probe",
    "progress",
    "token",
    "untoken",
]

#: Everything canonical, everything legacy, every letter.
EVENTS = "events.>"
LEGACY = "legacy.>"
DEAD = "dead.>"

#: Every node's heartbeat.
HEARTBEATS = "heartbeat.*"

#: Every node's agent is asked on one of these whether it is there.
PROBES = "probe.*"

#: A health monitor hears itself on one of these, and so knows that it hears.
ECHOES = "echo.health.*"

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


def untoken(text: str) -> str:
    """The text that a token spells; of one that was cut, the token itself."""
    return "" if text == NO_KEY else unquote(text)


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


def heartbeat(node: str) -> str:
    """Where a node's agent says that it lives. Not kept."""
    return f"heartbeat.{token(node)}"


def parse_heartbeat(subject: str) -> str | None:
    """The node that a heartbeat is about, or None if the subject is none."""
    domain, _, node = subject.partition(".")
    return unquote(node) if domain == "heartbeat" and node else None


def echo(monitor: str) -> str:
    """Where one health monitor hears itself. Not kept."""
    return f"echo.health.{token(monitor)}"


def probe(node: str) -> str:
    """Where a node's agent is asked whether it is there."""
    return f"probe.{token(node)}"


def progress(node: str) -> str:
    """Where workers tell the agent of their node what they have got done. Not kept."""
    return f"progress.{token(node)}"


def node_command(service: str, node: str, verb: str) -> str:
    """The subject of a command to the agent of one node."""
    return f"cmd.{service}.{token(node)}.{verb}"


def lock_notice(client: str) -> str:
    """Where a client is told of its locks. Not kept."""
    return f"notice.locks.{client}"


def dead(service: str, code: str) -> str:
    """The subject of a dead letter: ``dead.<service>.<code>``."""
    return f"dead.{service}.{code}"
