"""A publisher of `interlock chaos`: a process of its own, which may be killed at any moment.

It publishes numbered events under ids of its own, and writes down every attempt before and every
outcome after. Started again, it goes on where its ledger ends. On SIGTERM it takes up nothing new,
resolves what is unknown, and ends.
"""

import argparse
import asyncio
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from interlock import logs
from interlock.chaos import ledger
from interlock.chaos.ledger import Ledger
from interlock.chaos.lines import Attempt, Line, Outcome, Started, event_id
from interlock.errors import BusUnavailable
from interlock.fleet import Fleet, connect
from interlock_schemas.training import TrainingProgressed

__all__ = ["Place", "Publisher", "place_of"]

#: Before an event is published again whose fate is unknown, seconds.
_AGAIN_S: Final = 0.1
#: Keys whose events go out one by one, besides the one that is pipelined.
_IN_TURN: Final = 3
#: Many at once now and then, so that some go out as a batch.
_WINDOW: Final = 32


class Place(msgspec.Struct):
    """How far a key has come."""

    next: int = 0
    """The number of the next event."""
    unknown: set[int] = msgspec.field(default_factory=set)
    """Numbers that were tried and not acknowledged."""


def place_of(key: str, lines: Iterable[Line]) -> Place:
    """How far earlier lives have come with a key, by what they wrote."""
    place = Place()
    for line in lines:
        if isinstance(line, Attempt) and line.key == key:
            place.next = max(place.next, line.seq + 1)
            place.unknown.add(line.seq)
        elif isinstance(line, Outcome) and line.key == key and line.result == "acknowledged":
            place.unknown.discard(line.seq)
    return place


class Publisher:
    """Publishes on several keys at once, until `stopping` is set."""

    def __init__(self, fleet: Fleet, book: Ledger, lines: list[Line]) -> None:
        """``lines``: what earlier lives have written."""
        self._fleet = fleet
        self._book = book
        self._lines = lines
        self.stopping = asyncio.Event()

    async def run(self, key: str, *, window: int, timeout_s: float, pause_s: float) -> None:
        """Publish events of one key, up to `window` at once, begun in their order.

        An event that is not acknowledged stops the flow: once all that was begun is back, those
        whose fate is unknown are published again, one by one in order, and then it goes on.
        """
        place = place_of(key, self._lines)
        while True:
            for number in sorted(place.unknown):
                while not await self._publish(key, number, place, timeout_s):  # noqa: ASYNC110 - it retries
                    await asyncio.sleep(_AGAIN_S)
            if self.stopping.is_set():
                return
            await self._flow(key, place, window, timeout_s, pause_s)

    async def _flow(
        self, key: str, place: Place, window: int, timeout_s: float, pause_s: float
    ) -> None:
        """Until one is not acknowledged, or nothing new shall be taken up."""
        places = asyncio.Semaphore(window)
        failed = asyncio.Event()

        async def one(number: int) -> None:
            if not await self._publish(key, number, place, timeout_s):
                failed.set()
            places.release()

        async with asyncio.TaskGroup() as group:
            while True:
                await places.acquire()
                if failed.is_set() or self.stopping.is_set():
                    return
                group.create_task(one(place.next))
                place.next += 1
                if place.next % window == 0:
                    await asyncio.sleep(pause_s)

    async def _publish(self, key: str, number: int, place: Place, timeout_s: float) -> bool:
        """One attempt; whether it was acknowledged."""
        place.unknown.add(number)
        self._book.write(Attempt(at=ledger.now(), key=key, seq=number, deadline_s=timeout_s))
        event = TrainingProgressed(config=key, epoch=number)
        try:
            ack = await self._fleet.publish(event, id=event_id(key, number), timeout_s=timeout_s)
        except BusUnavailable:
            self._book.write(Outcome(at=ledger.now(), key=key, seq=number, result="unknown"))
            return False
        self._book.write(
            Outcome(at=ledger.now(), key=key, seq=number, result="acknowledged", stream_seq=ack.seq)
        )
        place.unknown.discard(number)
        return True


async def _main(name: str, path: Path, pause_s: float) -> None:
    lines = ledger.read(path)
    book = Ledger(path)
    async with connect(source=f"chaos/{name}") as fleet:
        publisher = Publisher(fleet, book, lines)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, publisher.stopping.set)
        book.write(Started(at=ledger.now()))
        async with asyncio.TaskGroup() as group:
            for index in range(_IN_TURN):
                # A short patience, so that fates are unknown now and then.
                group.create_task(
                    publisher.run(f"{name}-{index}", window=1, timeout_s=4.0, pause_s=pause_s)
                )
            group.create_task(
                publisher.run(
                    f"{name}-pipelined", window=_WINDOW, timeout_s=15.0, pause_s=8 * pause_s
                )
            )
    book.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--pause-s", type=float, default=0.1)
    given = parser.parse_args()
    logs.configure("info", "console")
    asyncio.run(_main(given.name, given.ledger, given.pause_s))
