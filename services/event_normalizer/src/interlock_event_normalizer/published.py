"""Which legacy messages have a canonical event already, beyond what the broker remembers.

The broker drops a second event of one id for as long as its duplicate window lasts. After an outage
longer than that, messages that were in hand come again; for those alone, the events stored since
are read once and then kept up to date.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from interlock.bus import Bus
from interlock.delivery import Position
from interlock.reader import Reader
from interlock_event_normalizer.contract import INBOX
from interlock_schemas import envelope
from interlock_schemas.topology import EVENTS

__all__ = ["Published"]

#: The broker's clock and ours may differ by so much.
_MARGIN_NS: Final = 5_000_000_000


class Published:
    """The canonical events that normalizers have stored."""

    def __init__(
        self,
        bus: Bus,
        *,
        window_s: float = EVENTS.duplicate_window_s,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._bus = bus
        self._window_ns = int(window_s * 1e9)
        self._clock_ns = clock_ns
        self._horizon = 0
        self._handled = 0
        self._ids: set[int] = set()
        self._since_ns: int | None = None
        self._last_seq = 0
        self._reads = 0
        self._reading = asyncio.Lock()

    async def learn_horizon(self) -> None:
        """Ask how far earlier processes may have come.

        A broker that was killed may have forgotten its latest deliveries, never more than can be
        in hand at once.
        """
        info = await self._bus.api(f"CONSUMER.INFO.{INBOX.stream.name}.{INBOX.name}")
        self._horizon = info["delivered"]["stream_seq"] + INBOX.max_ack_pending

    def handled(self, seq: int) -> None:
        """A message was seen through: its number in the stream."""
        self._handled = max(self._handled, seq)

    def old(self, stored_ns: int) -> bool:
        """Whether the broker would no longer notice a second event for what was stored then."""
        return self._clock_ns() - stored_ns > self._window_ns - _MARGIN_NS

    def doubtful(self, at: Position) -> bool:
        """Whether there may be an event for this message that the broker would not notice."""
        came_before = (
            at.deliveries > 1
            or at.stream_seq <= self._horizon
            or at.stream_seq <= self._handled - INBOX.max_ack_pending
        )
        return came_before and self.old(at.time_ns)

    async def holds(self, event_id: str, at: Position) -> bool:
        """Whether the event of that id is stored. Its message was stored before it."""
        wanted = hash(event_id)
        asked = self._reads
        async with self._reading:
            # Whoever read on while we waited has read for us too.
            if self._reads == asked or self._since_ns is None or at.time_ns < self._since_ns:
                await self._read_on(at.time_ns)
        return wanted in self._ids

    async def _read_on(self, from_ns: int) -> None:
        start: dict[str, object]
        if self._since_ns is None or from_ns < self._since_ns:
            self._since_ns = from_ns
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(from_ns // 1_000_000_000))
            start = {"deliver_policy": "by_start_time", "opt_start_time": at}
        else:
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last_seq + 1}
        reader = Reader(self._bus, EVENTS.name, EVENTS.subjects, start, headers_only=True)
        async for record in reader.records(until_end=True):
            self._last_seq = max(self._last_seq, record.seq)
            if envelope.lookup(record.headers, envelope.LEGACY_NAME) is not None:
                id = envelope.lookup(record.headers, envelope.ID) or ""
                self._ids.add(hash(envelope.unescape(id)))
        self._reads += 1
