"""Where the answers to what one connection sends come in: one inbox, a number for each question.

Answers are handed over from the read loop. What was sent on a connection that broke may be gone, so
whoever waits for its answer is told when the next one stands.
"""

import asyncio
import itertools
from typing import Final

from interlock.client import Client

__all__ = ["Answer", "Replies"]

#: Header block and body.
Answer = tuple[bytes, bytes]

_AWAY_POLL_S: Final = 0.02


class Replies:
    """The inbox of one connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._inbox = client.new_inbox().encode() + b"."
        self._tokens = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer | None]] = {}

    async def start(self) -> None:
        """Listen for answers, once connected."""
        await self._client.listen(self._inbox.decode() + "*", self._on_answer)

    def _on_answer(self, subject: bytes, _: bytes, headers: bytes, body: bytes) -> None:
        waiting = self._waiting.get(int(subject[len(self._inbox) :]))
        if waiting is not None and not waiting.done():
            waiting.set_result((headers, body))

    @property
    def closed(self) -> bool:
        """Whether no answer will ever come."""
        return self._client.is_closed

    def reconnected(self) -> None:
        """The connection is back: what was sent on the one before may be gone."""
        for waiting in self._waiting.values():
            _give_up(waiting)

    def question(self) -> tuple[int, bytes]:
        """A number, and the reply subject that goes with it."""
        token = next(self._tokens)
        return token, b"%b%d" % (self._inbox, token)

    async def ask(self, token: int, frames: bytes, patience_s: float) -> Answer | None:
        """Send whole protocol messages and wait for the answer; None where none came.

        While the connection is away it waits for it, within the same time.
        """
        until = self._loop.time() + patience_s
        while not self._client.write(frames):
            if self._loop.time() >= until or self._client.is_closed:
                return None
            await asyncio.sleep(_AWAY_POLL_S)
        waiting: asyncio.Future[Answer | None] = self._loop.create_future()
        self._waiting[token] = waiting
        alarm = self._loop.call_at(until, _give_up, waiting)
        try:
            return await waiting
        finally:
            alarm.cancel()
            del self._waiting[token]


def _give_up(waiting: "asyncio.Future[Answer | None]") -> None:
    if not waiting.done():
        waiting.set_result(None)
