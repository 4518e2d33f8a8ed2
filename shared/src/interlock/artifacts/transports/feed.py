"""Hands bytes from the event loop to a thread that paces, checks and writes them.

For transports whose bytes come in on the event loop. What waits in between is bounded, so that a
slow disk or a low rate slows down the sender and does not fill the memory.
"""

import asyncio
import contextlib
import queue
import threading
from types import TracebackType
from typing import Final, Self

from interlock.artifacts.transports.base import Pace, Sink

__all__ = ["Feed"]

#: What may wait for the thread, bytes.
_AHEAD_BYTES: Final = 4 * 1024 * 1024
#: What arrived in small parts is joined up to this, bytes.
_JOIN_BYTES: Final = 256 * 1024


class Feed:
    """A thread that is fed: ``async with Feed(sink, pace) as feed``.

    Leaving the block in good order waits until everything was taken, and raises what the sink
    raised. Leaving it by an error or by cancellation ends the thread and waits for that.
    """

    def __init__(self, sink: Sink, pace: Pace) -> None:
        self._sink = sink
        self._pace = pace
        self._queue: queue.SimpleQueue[bytes | memoryview | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._ended = asyncio.Event()
        self._ahead = 0
        self._held: list[bytes | memoryview] = []
        self._held_bytes = 0
        self._failed: BaseException | None = None
        self.count = 0
        """Bytes that were handed over so far."""

    async def __aenter__(self) -> Self:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="transfer", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the thread's end."""
        del error, trace
        try:
            if kind is None:
                self._send()
                self._queue.put(None)
                await self._ended.wait()
        finally:
            self._cancelled.set()
            self._queue.put(None)
            while not self._ended.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self._ended.wait()
            self._thread.join()
        if kind is None and self._failed is not None:
            raise self._failed

    async def put(self, data: bytes | memoryview) -> None:
        """The next bytes. Waits while too many wait; raises what the sink raised."""
        self._held.append(data)
        self._held_bytes += len(data)
        self.count += len(data)
        if self._held_bytes >= _JOIN_BYTES or not self._ahead:
            self._send()
        while self._ahead > _AHEAD_BYTES and not self._ended.is_set():
            self._room.clear()
            await self._room.wait()
        if self._failed is not None:
            raise self._failed

    def _send(self) -> None:
        if not self._held:
            return
        self._ahead += self._held_bytes
        self._queue.put(b"".join(self._held) if len(self._held) > 1 else self._held[0])
        self._held = []
        self._held_bytes = 0

    def _run(self) -> None:
        failed: BaseException | None = None
        try:
            while not self._cancelled.is_set():
                data = self._queue.get()
                if data is None:
                    break
                self._pace.take(len(data), self._cancelled)
                if self._cancelled.is_set():
                    break
                self._sink(memoryview(data))
                self._loop.call_soon_threadsafe(self._taken, len(data))
        except BaseException as error:  # noqa: BLE001 - raised where bytes are handed over
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._end, failed)

    def _taken(self, count: int) -> None:
        self._ahead -= count
        self._room.set()

    def _end(self, failed: BaseException | None) -> None:
        self._failed = failed
        self._ended.set()
        self._room.set()
