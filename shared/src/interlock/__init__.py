"""Interlock for workers: publish events, consume them, and lose nothing.

``async with interlock.connect() as fleet`` in asyncio programs, ``with interlock.connect_blocking()
as fleet`` in plain scripts.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interlock.artifacts.sdk import succeeded
    from interlock.blocking import BlockingFleet, connect_blocking
    from interlock.bus import Ack
    from interlock.decisions import Decision
    from interlock.errors import InterlockError, NotAcknowledged, Reject
    from interlock.fleet import Fleet, Received, connect
    from interlock.flood import FloodPolicy
    from interlock.outbox import Stored
    from interlock.redelivery import Handled, Retry, RetryPolicy

__all__ = [
    "Ack",
    "BlockingFleet",
    "Decision",
    "Fleet",
    "FloodPolicy",
    "Handled",
    "InterlockError",
    "NotAcknowledged",
    "Received",
    "Reject",
    "Retry",
    "RetryPolicy",
    "Stored",
    "connect",
    "connect_blocking",
    "succeeded",
]

_HOMES = {
    "Ack": "bus",
    "BlockingFleet": "blocking",
    "Decision": "decisions",
    "Fleet": "fleet",
    "FloodPolicy": "flood",
    "Handled": "redelivery",
    "InterlockError": "errors",
    "NotAcknowledged": "errors",
    "Received": "fleet",
    "Reject": "errors",
    "Retry": "redelivery",
    "RetryPolicy": "redelivery",
    "Stored": "outbox",
    "connect": "fleet",
    "connect_blocking": "blocking",
    "succeeded": "artifacts.sdk",
}


def __getattr__(name: str) -> Any:
    """Load on first use: the command line would pay half a second for what it does not need."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"interlock.{_HOMES[name]}"), name)
