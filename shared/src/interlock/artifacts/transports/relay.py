"""Bytes in answers to requests through the broker, for nodes that nothing else leads to.

The receiver decides how much is on its way: it has a number of questions open, in the order of the
bytes that it needs, and asks the next one when the oldest was answered. A question that got no
answer is asked again. `interlock.artifacts.transports.read_server` answers.
"""

import asyncio
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, get_args

import msgspec

from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports.base import Pace, Peer, Piece, Sink
from interlock.artifacts.transports.feed import Feed
from interlock.artifacts.transports.window import Window
from interlock.bus import Bus
from interlock.errors import BusUnavailable, NobodyThere
from interlock_schemas.artifacts import (
    LARGEST_MANIFEST_BYTES,
    LARGEST_READ_BYTES,
    Part,
    Read,
    Transport,
    read_subject,
)
from interlock_schemas.orders import FailureCode

__all__ = ["RelayCarrier", "questions"]

#: Of one answer. Small enough that others on the same connection do not wait long.
_ANSWER_BYTES: Final = 512 * 1024
#: Of one question: names are up to four thousand bytes.
_QUESTION_PARTS: Final = 256
_QUESTION_BYTES: Final = 64 * 1024
#: What frames and headers add, bytes.
_HEADROOM_BYTES: Final = 4_096
#: Nobody answers while an agent starts again: so often it is tried, with pauses between, seconds.
_NOBODY_TRIES: Final = 4
_NOBODY_PAUSE_S: Final = 0.15
_CODES: Final = frozenset(get_args(FailureCode))

_encoder = msgspec.json.Encoder()


def questions(pieces: Sequence[Piece], most_bytes: int) -> Iterator[tuple[Read, int]]:
    """The questions whose answers, put together, are the bytes of all pieces; and how long each is.

    Pure.
    """
    parts: list[Part] = []
    size = names = 0
    for piece in pieces:
        at = piece.offset
        end = at + piece.length
        while at < end:
            # A large one is not broken to fill up what is left of the answer before it.
            count = min(end - at, most_bytes)
            name = len(piece.path) + len(piece.id)
            if parts and (
                size + count > most_bytes
                or len(parts) >= _QUESTION_PARTS
                or names + name > _QUESTION_BYTES
            ):
                yield _question(parts), size
                parts, size, names = [], 0, 0
            parts.append(Part(id=piece.id, path=piece.path, offset=at, length=count))
            size += count
            names += name
            at += count
    if parts:
        yield _question(parts), size


def _question(parts: list[Part]) -> Read:
    first = parts[0]
    return Read(
        id=first.id,
        path=first.path,
        offset=first.offset,
        length=first.length,
        more=tuple(parts[1:]),
        deflate=True,
    )


class RelayCarrier:
    """Asks the agent of the peer.

    `silence_s`: a transfer to which no byte came for so long is given up, seconds. `patience_s`: a
    question is asked again after so long at first, seconds.
    """

    name: Transport = "relay"

    def __init__(self, bus: Bus, *, silence_s: float = 30.0, patience_s: float = 2.0) -> None:
        self._bus = bus
        self._silence_s = silence_s
        self._window = Window(shortest_s=patience_s, patience_s=patience_s)

    async def usable(self, peer: Peer) -> str | None:
        """See `Carrier`."""
        if peer.record is not None and not peer.record.agent:
            return f"{peer.source.node} has no agent that would answer through the broker"
        return None

    async def manifest(self, peer: Peer, id: str) -> bytes:
        """See `Carrier`."""
        talk = _Talk(self._bus, peer.source.node, self._silence_s, self._window)
        parts: list[bytes | memoryview] = []
        size = 0
        while True:
            length = self._answer_bytes()
            part = await talk.ask(Read(id=id, offset=size, length=length, deflate=True))
            parts.append(part)
            size += len(part)
            if size > LARGEST_MANIFEST_BYTES:
                raise TransferFailed(
                    "source_damaged",
                    f"{peer.source.node} has a manifest of more than {size:,} bytes",
                )
            if len(part) < length:
                break
        if not size:
            raise TransferFailed("source_gone", f"{peer.source.node} has an empty manifest")
        return b"".join(parts)

    async def fetch(self, peer: Peer, pieces: Sequence[Piece], sink: Sink, pace: Pace) -> None:
        """See `Carrier`."""
        talk = _Talk(self._bus, peer.source.node, self._silence_s, self._window)
        asked: deque[asyncio.Task[memoryview]] = deque()
        try:
            async with Feed(sink, pace) as feed:
                for read, size in questions(pieces, self._answer_bytes()):
                    while len(asked) >= talk.window.open:
                        await feed.put(await asked[0])
                        asked.popleft()
                    asked.append(asyncio.create_task(talk.ask_all(read, size)))
                while asked:
                    await feed.put(await asked[0])
                    asked.popleft()
        finally:
            for task in asked:
                task.cancel()
            if asked:
                await asyncio.wait(asked)
            for task in asked:
                if not task.cancelled():
                    task.exception()

    async def close(self) -> None:
        """See `Carrier`."""

    def _answer_bytes(self) -> int:
        return min(_ANSWER_BYTES, self._bus.client.max_payload - _HEADROOM_BYTES)


class _Talk:
    """The questions of one transfer to one node."""

    def __init__(self, bus: Bus, node: str, silence_s: float, window: Window) -> None:
        self._bus = bus
        self._node = node
        self._subject = read_subject(node)
        self._silence_s = silence_s
        self._heard = time.monotonic()
        self.window = window

    async def ask_all(self, read: Read, size: int) -> memoryview:
        """The answer, which has to have that size."""
        data = await self.ask(read)
        if len(data) != size:
            raise TransferFailed(
                "source_gone",
                f"{self._node} has {size - len(data):,} bytes too few of {read.path!r:.200}: have "
                "it checked there",
            )
        return data

    async def ask(self, read: Read) -> memoryview:
        """The answer. Asked again until it comes, or until nothing has come for long."""
        body = _encoder.encode(read)
        nobody = 0
        # Where nothing was asked for a while, as at a low rate, nothing could be heard.
        since = time.monotonic()
        while True:
            began = time.monotonic()
            try:
                reply = await self._bus.request(
                    self._subject, body, timeout_s=self.window.patience_s
                )
            except NobodyThere as error:
                nobody += 1
                if nobody >= _NOBODY_TRIES:
                    raise TransferFailed(
                        "unreachable",
                        f"nobody answers for {self._node} through the broker: does its agent run?",
                    ) from error
                await asyncio.sleep(_NOBODY_PAUSE_S * nobody)
                continue
            except BusUnavailable as error:
                now = time.monotonic()
                if now - max(self._heard, since) >= self._silence_s:
                    raise TransferFailed(
                        "timeout",
                        f"{self._node} sent nothing through the broker for {self._silence_s:g} s",
                    ) from error
                if now - began < self.window.patience_s / 2:
                    # The connection broke, or is gone for good.
                    if self._bus.client.is_closed:
                        raise TransferFailed("unreachable", str(error)) from error
                    await asyncio.sleep(_NOBODY_PAUSE_S)
                else:
                    self.window = self.window.unanswered()
                continue
            self._heard = time.monotonic()
            self.window = self.window.answered(self._heard - began)
            return _content(reply.data, self._node)


def _inflated(data: memoryview, node: str) -> bytes:
    stream = zlib.decompressobj()
    try:
        # No answer has more, whatever it claims to be.
        found = stream.decompress(data, LARGEST_READ_BYTES)
    except zlib.error as error:
        raise TransferFailed("io", f"{node} sent what cannot be decompressed: {error}") from error
    if not stream.eof:
        raise TransferFailed("io", f"{node} sent a part of an answer, or more than was asked for")
    return found


def _content(data: bytes, node: str) -> memoryview:
    if data[:1] == b"\0":
        return memoryview(data)[1:]
    if data[:1] == b"\2":
        return memoryview(_inflated(memoryview(data)[1:], node))
    if data[:1] == b"\1":
        code, _, words = data[1:].decode(errors="replace").partition(":")
        if code in _CODES:
            raise TransferFailed(code, f"{node}: {words.strip()}"[:500])  # type: ignore[arg-type]
    raise TransferFailed("io", f"{node} answered what is not an answer: is it of another version?")
