"""Measures one thing again and again in a thread of its own, and keeps the newest value.

What hangs (a network file system, a driver) hangs there, and nobody waits for it: whoever reads
gets what is new enough, or None. The threads are daemons, so that they never hold up an exit.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Sampler"]

T = TypeVar("T")


class Sampler(Generic[T]):
    """Calls `measure` each `every_s` seconds. An OSError of it becomes `fault`."""

    def __init__(
        self,
        name: str,
        measure: Callable[[], T],
        *,
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._measure = measure
        self._every_s = every_s
        self._clock = clock
        #: A value older than this is not told any more.
        self._stale_s = 3 * every_s + 2.0
        self._ending = threading.Event()
        self._measured = threading.Event()
        self._newest: tuple[float, T | None, str | None] | None = None
        self._began = clock()

    def start(self) -> None:
        """Begin. Each sampler is started once."""
        threading.Thread(target=self._run, name=f"measure {self._name}", daemon=True).start()

    def stop(self) -> None:
        """Measure no more. Does not wait for what is under way."""
        self._ending.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until something was measured, or failed; whether that was so in time."""
        return self._measured.wait(timeout_s)

    @property
    def value(self) -> T | None:
        """The newest value; None where there is none that is new enough."""
        newest = self._newest
        if newest is None or self._clock() - newest[0] > self._stale_s:
            return None
        return newest[1]

    @property
    def fault(self) -> str | None:
        """Why there is no value; None where there is one, or none can be expected yet."""
        newest = self._newest
        at = self._began if newest is None else newest[0]
        late_s = self._clock() - at
        if late_s > self._stale_s:
            return f"it has not answered for {late_s:.0f} s: it hangs"
        return newest[2] if newest is not None else None

    def _run(self) -> None:
        while True:
            value, fault = None, None
            try:
                value = self._measure()
            except OSError as error:
                fault = error.strerror or str(error) or type(error).__name__
            self._newest = (self._clock(), value, fault)
            self._measured.set()
            if self._ending.wait(self._every_s):
                return
