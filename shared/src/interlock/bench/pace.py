"""An open loop: sends at times that were fixed before, whatever became of what was sent earlier."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

from interlock.bench import stats

__all__ = ["open_loop"]

#: From the call until the first message, so that the schedule does not begin late.
_LEAD_NS = 50_000_000


async def open_loop(rate: float, count: int, send: Callable[[int, int], Awaitable[None]]) -> float:
    """Call ``send(number, intended_ns)`` `rate` times a second, each in a task of its own.

    `intended_ns` is on the monotonic clock, which all processes of a machine share. Returns the
    seconds from the first intended time until all have ended. The first error comes out.
    """
    loop = asyncio.get_running_loop()
    start_ns = time.monotonic_ns() + _LEAD_NS
    due: asyncio.Queue[int] = asyncio.Queue()
    abandoned = threading.Event()

    # A thread keeps the time: the event loop's own timers are only as fine as a millisecond.
    def keep_time() -> None:
        for number in range(count):
            wait_ns = stats.intended_ns(start_ns, rate, number) - time.monotonic_ns()
            if wait_ns > 0:
                time.sleep(wait_ns / 1e9)
            if abandoned.is_set():
                return
            loop.call_soon_threadsafe(due.put_nowait, number)

    keeper = threading.Thread(target=keep_time, name="interlock-bench-pace", daemon=True)
    keeper.start()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                number = await due.get()
                intended = stats.intended_ns(start_ns, rate, number)
                group.create_task(_as_coroutine(send(number, intended)))
    finally:
        abandoned.set()
        await asyncio.to_thread(keeper.join)
    return (time.monotonic_ns() - start_ns) / 1e9


async def _as_coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable
