"""The blocking twin of `Fleet`, for scripts without asyncio.

A thread of its own runs the event loop, so the connection lives on while the script computes.
Each call returns when the work is done: a script that publishes and exits loses nothing.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from interlock.fleet import Fleet, ReceiptT, Received, connect
from interlock.outbox import Status, Stored
from interlock.redelivery import RetryPolicy
from interlock.settings import ConnectionSettings
from interlock_schemas.event import Event, OpenEvent, Payload

__all__ = ["BlockingFleet", "connect_blocking"]

T = TypeVar("T")


class BlockingFleet(Generic[ReceiptT]):
    """`Fleet`, call by call, from any thread. Make one with `connect_blocking`."""

    def __init__(self, fleet: Fleet[ReceiptT], loop: asyncio.AbstractEventLoop) -> None:
        self._fleet = fleet
        self._loop = loop

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def publish(
        self,
        event: Event | OpenEvent,
        *,
        key: str | None = None,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> ReceiptT:
        """As `Fleet.publish`: returns once the broker has it on disk, or this host's outbox."""
        return self._wait(
            self._fleet.publish(event, key=key, id=id, headers=headers, timeout_s=timeout_s)
        )

    def publish_many(
        self, events: Iterable[Event | OpenEvent], *, timeout_s: float = 60.0
    ) -> list[ReceiptT]:
        """As `Fleet.publish_many`."""
        return self._wait(self._fleet.publish_many(events, timeout_s=timeout_s))

    def publish_legacy(
        self, name: str, payload: Payload, *, id: str | None = None, timeout_s: float = 30.0
    ) -> ReceiptT:
        """As `Fleet.publish_legacy`."""
        return self._wait(self._fleet.publish_legacy(name, payload, id=id, timeout_s=timeout_s))

    def publish_raw(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> ReceiptT:
        """Publish bytes as they are, acknowledged, as a worker in any language would."""
        return self._wait(self._fleet.publish_raw(subject, body, headers, timeout_s=timeout_s))

    def outbox_status(self) -> Status:
        """As ``await fleet.outbox.status()``: how the outbox stands."""
        return self._wait(self._fleet.outbox.status())

    def consume(
        self,
        name: str,
        handler: Callable[[Received[Any]], None],
        *types: type[Event] | str,
        concurrency: int = 4,
        ack_wait_s: float = 30.0,
        from_start: bool = True,
        retry: RetryPolicy | None = None,
    ) -> None:
        """As `Fleet.consume`, with an ordinary function as handler, called in worker threads.

        Blocks until Ctrl-C, after which what is in hand is finished.
        """
        stop = asyncio.Event()

        async def handle(received: Received[Any]) -> None:
            await asyncio.to_thread(handler, received)

        future = asyncio.run_coroutine_threadsafe(
            self._fleet.consume(
                name,
                handle,
                *types,
                concurrency=concurrency,
                ack_wait_s=ack_wait_s,
                from_start=from_start,
                retry=retry,
                stop=stop,
            ),
            self._loop,
        )
        try:
            future.result()
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(stop.set)
            future.result()
            raise


@overload
def connect_blocking(
    settings: ConnectionSettings | None = None, *, source: str | None = None, outbox: None = None
) -> AbstractContextManager[BlockingFleet]: ...


@overload
def connect_blocking(
    settings: ConnectionSettings | None = None, *, source: str | None = None, outbox: str | Path
) -> AbstractContextManager[BlockingFleet[Stored]]: ...


def connect_blocking(
    settings: ConnectionSettings | None = None,
    *,
    source: str | None = None,
    outbox: str | Path | None = None,
) -> AbstractContextManager[BlockingFleet] | AbstractContextManager[BlockingFleet[Stored]]:
    """Connect to the fleet from a plain script: ``with interlock.connect_blocking() as fleet``.

    With `outbox`, publishes return once this host has them on disk: see `interlock.connect`.
    """
    if outbox is None:
        return _blocking(connect(settings, source=source))
    return _blocking(connect(settings, source=source, outbox=outbox))


@contextlib.contextmanager
def _blocking(
    connection: AbstractAsyncContextManager[Fleet[ReceiptT]],
) -> Iterator[BlockingFleet[ReceiptT]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="interlock", daemon=True)
    thread.start()
    try:
        fleet = asyncio.run_coroutine_threadsafe(connection.__aenter__(), loop).result()
        try:
            yield BlockingFleet(fleet, loop)
        finally:
            asyncio.run_coroutine_threadsafe(connection.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
