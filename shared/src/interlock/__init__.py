"""Interlock for workers: publish events, consume them, and lose nothing.

``async with interlock.connect() as fleet`` in asyncio programs, ``with interlock.connect_blocking()
as fleet`` in plain scripts.
"""

from interlock.blocking import BlockingFleet, connect_blocking
from interlock.bus import Ack
from interlock.errors import InterlockError, NotAcknowledged, Reject
from interlock.fleet import Fleet, Received, connect
from interlock.redelivery import RetryPolicy

__all__ = [
    "Ack",
    "BlockingFleet",
    "Fleet",
    "InterlockError",
    "NotAcknowledged",
    "Received",
    "Reject",
    "RetryPolicy",
    "connect",
    "connect_blocking",
]
