"""A consumer of `interlock chaos`: a process of its own, which may be killed at any moment.

Those that share a durable do each event's effect by making a key of a bucket, which succeeds once.
The one that handles in order writes down when a handler begins and ends. On SIGTERM it finishes
what is in hand.
"""

import argparse
import asyncio
import random
import signal
from pathlib import Path
from typing import Any, Final

from interlock import logs
from interlock.chaos import ledger
from interlock.chaos.ledger import Ledger
from interlock.chaos.lines import Effect, Entered, Left, Started
from interlock.errors import BusUnavailable, ConnectFailed, WrongRevision
from interlock.fleet import Fleet, Received, connect
from interlock.kv import Store
from interlock_schemas.topology import Bucket
from interlock_schemas.training import TrainingProgressed

__all__ = ["ACK_WAIT_S", "EFFECTS", "ORDERED", "SHARED"]

#: One key for each effect that was done.
EFFECTS: Final = Bucket(name="chaos_effects", summary="What the consumers of a chaos run did.")
#: The durable that several processes share.
SHARED: Final = "chaos-shared"
#: The durable of one process, which handles each key in order.
ORDERED: Final = "chaos-ordered"
ACK_WAIT_S: Final = 5.0
_CONCURRENCY: Final = 16
#: The longest that a handler takes by itself, seconds: long enough for two to meet.
_WORK_S: Final = 0.01

log = logs.get_logger("interlock.chaos")


async def _share(fleet: Fleet, book: Ledger, name: str, stop: asyncio.Event) -> None:
    effects = Store(fleet.bus, EFFECTS)

    async def handle(received: Received[Any]) -> None:
        done = True
        try:
            await effects.put(received.id, name.encode(), revision=0)
        except WrongRevision:
            done = False
        book.write(Effect(at=ledger.now(), id=received.id, attempt=received.attempt, done=done))

    await fleet.consume(
        SHARED,
        handle,
        TrainingProgressed,
        concurrency=_CONCURRENCY,
        ack_wait_s=ACK_WAIT_S,
        stop=stop,
    )


async def _in_order(fleet: Fleet, book: Ledger, stop: asyncio.Event) -> None:
    async def handle(received: Received[TrainingProgressed]) -> None:
        key, number = received.event.config or "", received.event.epoch or 0
        book.write(Entered(at=ledger.now(), key=key, seq=number, attempt=received.attempt))
        await asyncio.sleep(_WORK_S * random.random())  # noqa: S311  # a handler's work
        book.write(Left(at=ledger.now(), key=key, seq=number))

    await fleet.consume(
        ORDERED,
        handle,
        TrainingProgressed,
        concurrency=_CONCURRENCY,
        ack_wait_s=ACK_WAIT_S,
        order_by_key=True,
        stop=stop,
    )


async def _main(name: str, path: Path, *, ordered: bool) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    book = Ledger(path)
    while not stop.is_set():
        book.write(Started(at=ledger.now()))
        try:
            async with connect(source=f"chaos/{name}") as fleet:
                if ordered:
                    await _in_order(fleet, book, stop)
                else:
                    await _share(fleet, book, name, stop)
        except (BusUnavailable, ConnectFailed) as error:
            log.warning("the broker is away, beginning again", why=str(error))
    book.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--ordered", action="store_true")
    given = parser.parse_args()
    logs.configure("info", "console")
    asyncio.run(_main(given.name, given.ledger, ordered=given.ordered))
