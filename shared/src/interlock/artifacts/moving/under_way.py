"""What is being carried out at this moment."""

import asyncio
import time

import msgspec

from interlock.artifacts.queue import Trip

__all__ = ["Run", "UnderWay"]


class UnderWay(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer at this moment."""

    artifacts: tuple[str, ...]
    source: str | None
    bytes: int
    """Received so far."""
    rate: float
    """Bytes per second since it began."""


class Run:
    """A trip that is being carried out."""

    def __init__(self, trip: Trip) -> None:
        self.trip = trip
        self.task: asyncio.Task[None] | None = None
        self.began = time.monotonic()
        self.received = 0
        self.committing = False
        """From here on it is seen through, whatever becomes of its orders."""

    @property
    def fetches(self) -> bool:
        """Whether it brings something here."""
        return self.trip.orders[0].order.action == "fetch"

    def count(self, size: int) -> None:
        """So many bytes more came. From any one thread."""
        self.received += size

    def told(self) -> UnderWay:
        """How far it is."""
        source = self.trip.source
        return UnderWay(
            artifacts=self.trip.ids,
            source=source.node if source is not None else None,
            bytes=self.received,
            rate=self.received / max(0.001, time.monotonic() - self.began),
        )
