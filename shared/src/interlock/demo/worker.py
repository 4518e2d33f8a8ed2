"""One publishing worker of the demo: ``python -m interlock.demo.worker``.

It publishes its share of the script and writes down each id once the broker has acknowledged it.
The first worker is a plain script with threads; the others are asyncio programs.
"""

import argparse
import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import msgspec

import interlock
from interlock import logs
from interlock.demo.script import Item, script
from interlock_schemas import envelope
from interlock_schemas.event import OpenEvent

_WINDOW = 64
_THREADS = 16
_PATIENCE_S = 90.0


class _Share:
    """The part of the script that one worker publishes, spread over the given time."""

    def __init__(
        self, *, events: int, seed: int, index: int, workers: int, spread_s: float
    ) -> None:
        self._items = [item for n, item in enumerate(script(events, seed)) if n % workers == index]
        self._pause_s = spread_s / max(1, len(self._items))
        self._begun = time.monotonic()

    def due(self) -> Iterator[tuple[Item, float]]:
        """Each item with the seconds to wait before it."""
        for number, item in enumerate(self._items):
            yield item, max(0.0, self._begun + number * self._pause_s - time.monotonic())


def _blocking(share: _Share, acked: IO[str]) -> None:
    """A worker without asyncio."""
    with (
        interlock.connect_blocking(source="demo/plain-script") as fleet,
        ThreadPoolExecutor(_THREADS) as pool,
    ):

        def one(item: Item) -> None:
            if item.kind == "canonical" and item.type is not None:
                payload = msgspec.json.decode(item.body)
                fleet.publish(OpenEvent(item.type, payload), id=item.id, timeout_s=_PATIENCE_S)
            else:
                fleet.publish_raw(
                    item.subject, item.body, {envelope.MSG_ID: item.id}, timeout_s=_PATIENCE_S
                )
            acked.write(item.id + "\n")
            acked.flush()

        running = []
        for item, pause_s in share.due():
            time.sleep(pause_s)
            running.append(pool.submit(one, item))
        for future in running:
            future.result()


async def _asynchronous(share: _Share, acked: IO[str]) -> None:
    """A worker with asyncio that speaks as any NATS client would: a subject, bytes and an id."""
    places = asyncio.Semaphore(_WINDOW)
    async with interlock.connect(source="demo/asyncio") as fleet:

        async def one(item: Item) -> None:
            try:
                await fleet.bus.publish(
                    item.subject, item.body, {envelope.MSG_ID: item.id}, timeout_s=_PATIENCE_S
                )
            finally:
                places.release()
            acked.write(item.id + "\n")
            acked.flush()

        async with asyncio.TaskGroup() as group:
            for item, pause_s in share.due():
                if pause_s:
                    await asyncio.sleep(pause_s)
                await places.acquire()
                group.create_task(one(item))


def main() -> None:
    """Publish the share that the arguments name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--spread-s", type=float, required=True)
    parser.add_argument("--acked", type=Path, required=True)
    options = parser.parse_args()
    logs.configure("error", "json")
    share = _Share(
        events=options.events,
        seed=options.seed,
        index=options.index,
        workers=options.workers,
        spread_s=options.spread_s,
    )
    with options.acked.open("a", encoding="utf-8") as acked:
        if options.index == 0:
            _blocking(share, acked)
        else:
            asyncio.run(_asynchronous(share, acked))


if __name__ == "__main__":
    main()
