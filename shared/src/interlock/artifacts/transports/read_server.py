"""Answers who asks for bytes of artifacts through the broker.

Requests are read in a few threads and answered no faster than allowed. What cannot be answered in
time is dropped: whoever asked asks again. Bytes go compressed where a sample of them says that it
pays: what passes the broker burdens all others.
"""

import asyncio
import contextlib
import threading
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import msgspec
from nats.aio.subscription import Subscription

from interlock.artifacts.errors import ArtifactError, TransferFailed
from interlock.artifacts.transports.base import Pace
from interlock.bus import Bus
from interlock_schemas.artifacts import LARGEST_READ_BYTES, Part, Read, read_subject

__all__ = ["ReadServer", "Readable", "answer_of"]

_THREADS: Final = 4
#: Requests that may wait for a thread.
_WAITING: Final = 512
#: A request that waited for so long was asked again, or given up, seconds.
_STALE_S: Final = 10.0
#: While the connection has more than this to send, nothing is added, bytes.
_UNSENT_BYTES: Final = 8 * 1024 * 1024
_UNSENT_POLL_S: Final = 0.005
_HEADROOM_BYTES: Final = 512
#: So much out of the middle is compressed to see whether it pays, bytes.
_SAMPLE_BYTES: Final = 16 * 1024
#: It does where a sample gets smaller than this share of itself.
_PAYS: Final = 0.75
_QUICKEST: Final = 1

_decoder = msgspec.json.Decoder(Read)


class Readable(Protocol):
    """A store that is read from."""

    def read(self, id: str, path: str | None, offset: int, length: int) -> bytes:
        """Bytes of a file of an artifact; of its manifest where `path` is None.

        Raises TransferFailed.
        """


class ReadServer:
    """Answers for one node. Start it, and stop it.

    `pace` bounds what goes out, of all requests together.
    """

    def __init__(self, bus: Bus, node: str, store: Readable, pace: Pace | None = None) -> None:
        self._bus = bus
        self._subject = read_subject(node)
        self._store = store
        self._pace = pace
        self._subscription: Subscription | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._stopping = threading.Event()
        self._waiting = 0
        self.served_bytes = 0
        """Sent so far, the content of answers."""

    async def start(self) -> None:
        """Begin to answer."""
        self._loop = asyncio.get_running_loop()
        self._stopping.clear()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read")
        # More than one for the same node, while one takes over from another, share the requests.
        self._subscription = await self._bus.listen(self._subject, self._heard, queue="read")

    async def stop(self) -> None:
        """Answer no more, and wait until nothing is read any more."""
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None
        self._stopping.set()
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)

    def _heard(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        del subject, headers
        if not reply or self._pool is None or self._waiting >= _WAITING:
            return
        self._waiting += 1
        self._pool.submit(self._serve, reply.decode(errors="replace"), body, time.monotonic())

    def _serve(self, reply: str, body: bytes, asked: float) -> None:
        """In a thread of the pool."""
        answer = b""
        if not self._stopping.is_set() and time.monotonic() - asked < _STALE_S:
            try:
                answer = self._answer(body)
            except (ArtifactError, OSError, msgspec.MsgspecError, UnicodeError) as error:
                answer = _problem(error)
            if self._pace is not None:
                self._pace.take(len(answer), self._stopping)
            while self._bus.client.unsent_bytes() > _UNSENT_BYTES:
                if self._stopping.wait(_UNSENT_POLL_S) or time.monotonic() - asked >= _STALE_S:
                    answer = b""
                    break
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody to send
            self._loop.call_soon_threadsafe(self._send, reply, answer)

    def _send(self, reply: str, answer: bytes) -> None:
        self._waiting -= 1
        if answer and not self._stopping.is_set():
            self.served_bytes += len(answer) - 1
            self._bus.post(reply, answer)

    def _answer(self, body: bytes) -> bytes:
        read = _decoder.decode(body)
        most = min(LARGEST_READ_BYTES, self._bus.client.max_payload - _HEADROOM_BYTES)
        length = min(read.length, most)
        data = self._store.read(read.id, read.path, read.offset, length)
        if not read.more:
            return answer_of((data,), deflate=read.deflate)
        if sum(part.length for part in read.more) + read.length > most:
            raise TransferFailed("io", f"more than {most:,} bytes were asked for at once")
        first = Part(id=read.id, path=read.path or "", offset=read.offset, length=read.length)
        parts = [
            data,
            *(self._store.read(each.id, each.path, each.offset, each.length) for each in read.more),
        ]
        for part, found in zip((first, *read.more), parts, strict=True):
            if len(found) != part.length:
                raise TransferFailed(
                    "source_gone", f"{part.path!r:.200} of {part.id} is shorter than it should be"
                )
        return answer_of(parts, deflate=read.deflate)


def answer_of(parts: Sequence[bytes], *, deflate: bool) -> bytes:
    """The answer that has these bytes, compressed where that may be and pays. Pure."""
    answer = b"".join((b"\0", *parts))
    if not deflate or len(answer) < 2 * _SAMPLE_BYTES:
        return answer
    middle = len(answer) // 2
    sample = answer[middle : middle + _SAMPLE_BYTES]
    if len(zlib.compress(sample, _QUICKEST)) >= _PAYS * len(sample):
        return answer
    packed = b"\2" + zlib.compress(memoryview(answer)[1:], _QUICKEST)
    # The sample may have been the only part that gets smaller.
    return packed if len(packed) < len(answer) else answer


def _problem(error: Exception) -> bytes:
    """Why not, in the words of the answer."""
    if isinstance(error, TransferFailed):
        code: str = error.code
    elif isinstance(error, FileNotFoundError):
        code = "source_gone"
    elif isinstance(error, PermissionError):
        code = "denied"
    else:
        code = "io"
    return b"\1" + f"{code}: {error}".encode(errors="replace")[:1_000]
