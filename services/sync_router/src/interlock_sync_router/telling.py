"""What the fleet is told of transfers, in order, until the broker has it.

Ids are made of the order, so that whoever takes over may tell it once more and it is stored once.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from interlock import logs
from interlock.bus import Bus
from interlock.errors import BusUnavailable, InterlockError
from interlock.publishing import encode_event
from interlock_schemas.artifacts import Artifact
from interlock_schemas.event import Event
from interlock_schemas.orders import ROUTER, Order
from interlock_schemas.sync import SyncCompleted, SyncFailed, SyncStarted
from interlock_sync_router.roster import Receipt

__all__ = ["Teller", "completed", "failed", "started"]

_RETRY_S: Final = 0.5
_GROUP: Final = 1_000

log = logs.get_logger("interlock.router")


def started(order: Order) -> tuple[Event, str]:
    """A node was told to fetch; with the event's id."""
    about = order.about
    event = SyncStarted(config=about.config or None, node=order.node, sync_type=about.dataset)
    return event, f"sync-started-{order.id}"


def completed(node: str, id: str, receipt: Receipt, about: Artifact | None) -> tuple[Event, str]:
    """A copy arrived, by its receipt; with the event's id."""
    event = SyncCompleted(
        config=(about.config or None) if about is not None else None,
        node=node,
        sync_type=about.dataset if about is not None else None,
        games=about.games if about is not None else None,
        files_synced=about.files if about is not None else None,
        bytes_transferred=receipt.moved,
        duration_s=receipt.seconds,
        artifact=id,
        dataset=about.dataset if about is not None else None,
        source_node=receipt.source,
        transport=receipt.transport,
        bytes=receipt.bytes,
    )
    return event, f"sync-completed-{receipt.order}"


def failed(order: Order, times: int) -> tuple[Event, str]:
    """An order was given up; with the event's id."""
    failure = order.failure
    if failure is None:
        raise ValueError("the order has not failed")
    about = order.about
    event = SyncFailed(
        config=about.config or None,
        node=order.node,
        sync_type=about.dataset,
        retry_count=times - 1,
        reason=failure.text,
        artifact=order.artifact,
        dataset=about.dataset,
        source_node=failure.source,
        transport=failure.transport,
        code=failure.code,
    )
    return event, f"sync-failed-{order.id}-{failure.at}"


class Teller:
    """Publishes events."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: list[tuple[str, bytes, Mapping[str, str]]] = []
        self._wake = asyncio.Event()

    def tell(self, event: Event, id: str) -> None:
        """Publish an event, once under this id."""
        self._waiting.append(encode_event(event, source=ROUTER, id=id))
        self._wake.set()

    def drop(self) -> None:
        """Forget what waits: another router tells from now on."""
        self._waiting.clear()

    async def run(self) -> None:
        """Send what comes, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send what waits. What the broker does not take now is tried again."""
        while self._waiting:
            group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
            sent = []
            for message in group:
                try:
                    sent.append((message, await self._bus.publish_soon(*message)))
                except InterlockError as error:
                    log.error("not told", subject=message[0], why=str(error))
            outcomes = await asyncio.gather(*(ack for _, ack in sent), return_exceptions=True)
            again = []
            for (message, _), outcome in zip(sent, outcomes, strict=True):
                if isinstance(outcome, BusUnavailable):
                    again.append(message)
                elif isinstance(outcome, BaseException):
                    log.error("not told", subject=message[0], why=str(outcome))
            if again:
                self._waiting[:0] = again
                await asyncio.sleep(_RETRY_S)
