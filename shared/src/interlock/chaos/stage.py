"""What every chaos run needs around its workload: servers, a connection, an orderly end."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence

from interlock.bus import Bus, connect
from interlock.chaos.workers import AnyWorker
from interlock.cluster import LocalCluster

__all__ = ["Progress", "bus_to", "finish", "serving"]


class Progress:
    """Lines on standard error, with the time since the run began."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __call__(self, text: str) -> None:
        """Write one."""
        sys.stderr.write(f"{time.monotonic() - self._begun:6.1f} s  {text}\n")
        sys.stderr.flush()


@contextlib.asynccontextmanager
async def serving(cluster: LocalCluster) -> AsyncIterator[None]:
    """The servers run while the block lasts. Nothing of theirs is needed after it."""
    await cluster.start()
    try:
        yield
    finally:
        await cluster.kill()


@contextlib.asynccontextmanager
async def bus_to(cluster: LocalCluster) -> AsyncIterator[Bus]:
    """A connection while the block lasts."""
    bus = await connect(cluster.settings(), name="chaos")
    try:
        yield bus
    finally:
        await bus.close()


async def finish(
    workers: Sequence[AnyWorker],
    tasks: Sequence[asyncio.Task[None]],
    limit_s: float,
    tell: Progress,
) -> None:
    """Ask them to end, wait, and kill those that do not."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            async with asyncio.TaskGroup() as group:
                for worker in workers:
                    group.create_task(worker.stop())
            await asyncio.wait(tasks)
    for worker, task in zip(workers, tasks, strict=True):
        if not task.done():
            worker.hung = True
            tell(f"{worker.name} did not end within {limit_s:g} s")
            task.cancel()
    await asyncio.wait(tasks)
