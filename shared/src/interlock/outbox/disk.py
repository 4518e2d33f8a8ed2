"""The store, in the one thread that may touch it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from interlock.errors import OutboxUnusable
from interlock.outbox.store import Store

__all__ = ["Disk"]

T = TypeVar("T")
P = ParamSpec("P")


class Disk:
    """An open outbox file for asyncio. Make one with `open`."""

    def __init__(self, store: Store, thread: ThreadPoolExecutor) -> None:
        self.store = store
        self._thread = thread
        self.closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        create: bool = True,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> "Disk":
        """Open the file, or make it. Raises OutboxUnusable."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="interlock-outbox")

        def make() -> Store:
            return Store(path, clock_ns=clock_ns, create=create)

        try:
            store = await asyncio.get_running_loop().run_in_executor(thread, make)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(store, thread)

    async def do(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Have a method of the store called, after what was asked for before."""

        def call() -> T:
            return work(*args, **named)

        if self.closed:
            raise OutboxUnusable(f"the outbox {self.store.path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self.closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self.store.close)
            self._thread.shutdown(wait=False)
