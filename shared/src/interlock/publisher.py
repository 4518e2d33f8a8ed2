"""Publishing on one connection: a lane for each stream, and the inbox for their answers."""

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from interlock.acks import Ack
from interlock.client import Client
from interlock.coalescing import Facts
from interlock.errors import InterlockError, NotAcknowledged
from interlock.lanes import Entry, Lane, Unit

__all__ = ["Publisher"]


class Publisher:
    """The lanes of one connection, and the inbox of their answers."""

    def __init__(self, client: Client, learn: Callable[[str], Awaitable[Facts]]) -> None:
        self.client = client
        self.batch_prefix = secrets.token_hex(8).encode() + b"-"
        self._learn = learn
        self._lanes: dict[tuple[str, bool], Lane] = {}
        self._tokens = itertools.count(1)
        self._units: dict[int, tuple[Lane, Unit]] = {}
        self._inbox = client.new_inbox().encode() + b"."
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed: InterlockError | None = None

    async def start(self) -> None:
        """Listen for answers."""
        await self.client.listen(self._inbox.decode() + "*", self._on_answer)

    def _on_answer(self, subject: bytes, _: bytes, headers: bytes, body: bytes) -> None:
        token = int(subject[len(self._inbox) :])
        found = self._units.get(token)
        if found is not None:
            lane, unit = found
            lane.answered(unit, token, headers, body)

    def token(self, lane: Lane, unit: Unit) -> int:
        """A number for one try of a unit, under which its answer comes."""
        token = next(self._tokens)
        self._units[token] = (lane, unit)
        unit.tokens.append(token)
        return token

    def forget(self, unit: Unit) -> None:
        """No answer to this unit matters any more."""
        for token in unit.tokens:
            self._units.pop(token, None)

    def reply_subject(self, token: int) -> bytes:
        """Where the answer to that try is to go."""
        return b"%b%d" % (self._inbox, token)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in the background, until `close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def lane(self, subject: str, *, ordered: bool = True) -> Lane:
        """The lane of a subject."""
        if self._closed is not None:
            raise self._closed
        root = subject.partition(".")[0]
        lane = self._lanes.get((root, ordered))
        if lane is None:
            lane = Lane(self, root, self._learn, ordered=ordered)
            self._lanes[root, ordered] = lane
        return lane

    @property
    def held_bytes(self) -> int:
        """Memory of everything that is waiting or under way."""
        return sum(lane.held_bytes for lane in self._lanes.values())

    def gather(self, entries: list[Entry], group: "asyncio.Future[list[Ack]]") -> None:
        """Resolve `group` from its entries, which now go one by one."""

        async def each() -> None:
            outcomes = await asyncio.gather(
                *(entry.future for entry in entries), return_exceptions=True
            )
            if group.done():
                return
            acks = [outcome for outcome in outcomes if isinstance(outcome, Ack)]
            if len(acks) == len(entries):
                group.set_result(acks)
            else:
                group.set_exception(next(each for each in outcomes if not isinstance(each, Ack)))

        self.spawn(each())

    def reconnected(self) -> None:
        """The connection is back."""
        for lane in self._lanes.values():
            lane.reconnected()

    def close(self, why: str) -> None:
        """End every publish that is not acknowledged yet."""
        self._closed = NotAcknowledged(why)
        for lane in self._lanes.values():
            lane.close(self._closed)
        for task in self._tasks:
            task.cancel()
