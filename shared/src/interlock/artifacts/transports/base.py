"""What every transport offers, and what it is given."""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from interlock.artifacts.pieces import Piece
from interlock_schemas.artifacts import Transport
from interlock_schemas.nodes import NodeRecord
from interlock_schemas.orders import Source

__all__ = ["Carrier", "Pace", "Peer", "Piece", "Sink"]


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """The node that bytes come from: its order's words about it, and how it is described."""

    source: Source
    record: NodeRecord | None = None
    """None: the fleet has no description of it, so that only the broker leads there."""


class Pace(Protocol):
    """Lets bytes through no faster than allowed. Any thread may call it."""

    def take(self, count: int, cancelled: threading.Event) -> None:
        """Wait until so many bytes may have come. Returns early once `cancelled` is set."""


#: Takes the bytes of the pieces, in their order, in parts of any size. Called in one thread at a
#: time, never in that of the event loop. What it raises (TransferFailed: damaged, no space) ends
#: the transfer, and comes out of `Carrier.fetch`.
Sink = Callable[[memoryview], None]


class Carrier(Protocol):
    """One way for bytes to come here."""

    name: Transport

    async def usable(self, peer: Peer) -> str | None:
        """Why it cannot be used for this peer at all (no ssh here, no description); None: it may.

        Asks nobody: it is about what is known here.
        """

    async def manifest(self, peer: Peer, id: str) -> bytes:
        """The manifest of an artifact, unchecked, `LARGEST_MANIFEST_BYTES` at most.

        Raises TransferFailed: ``source_gone`` (it has no such artifact), ``unreachable``, …
        """

    async def fetch(
        self,
        peer: Peer,
        pieces: Sequence[Piece],
        sink: Sink,
        pace: Pace,
    ) -> None:
        """Have the bytes of all pieces arrive in `sink`, in order and without any between.

        Cancelled, it stops at once and leaves no process behind. Raises TransferFailed:
        ``source_gone`` (a file is missing or shorter than the piece says), ``unreachable`` (no
        connection, or it broke; what arrived was passed on), ``denied``, ``timeout`` (nothing came
        for long).
        """

    async def close(self) -> None:
        """End what it keeps open."""
