"""Blocking work in a thread of its own, that ends when whoever waits for it is cancelled."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Cancel", "Stopped", "in_thread"]

T = TypeVar("T")


class Stopped(Exception):
    """The work was told to end, and did."""


class Cancel:
    """Says that work is to end: to who asks, and to who polls `fd`."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.fd, self._write = os.pipe()
        """Readable once it is set."""

    def set(self) -> None:
        """Have the work end."""
        if not self.event.is_set():
            self.event.set()
            os.write(self._write, b"x")

    def check(self) -> None:
        """Raises Stopped once it is set."""
        if self.event.is_set():
            raise Stopped

    def close(self) -> None:
        """Give back what it needs, once the work has ended."""
        os.close(self.fd)
        os.close(self._write)


async def in_thread(work: Callable[[Cancel], T]) -> T:
    """Run `work` in a thread and wait for its end.

    Cancelled, it tells the work so, and waits all the same: afterwards nothing goes on.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    cancel = Cancel()

    def settle(result: T | None, error: BaseException | None) -> None:
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        failed: BaseException | None = None
        try:
            result = work(cancel)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failed)

    thread = threading.Thread(target=run, name="transfer", daemon=True)
    thread.start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        cancel.set()
        while not done.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([done])
        done.exception()
        raise
    finally:
        thread.join()
        cancel.close()
