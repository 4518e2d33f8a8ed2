"""What a worker tells the agent of its node: what it has got done, and what it made durable.

Totals of this process, in small messages that nobody stores; not more often than twice a second,
and again each half minute, so that a worker that is stuck can be told from one that is gone. Never
in the worker's way: without a broker the totals wait for the next chance.
"""

import asyncio
import contextlib
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from interlock.bus import Bus
from interlock.errors import BusUnavailable, InterlockError
from interlock_schemas import subjects
from interlock_schemas.nodes import Report

__all__ = ["EVERY_S", "Progress"]

#: Between two messages, at least, seconds.
EVERY_S: Final = 0.5
#: What has not changed is said again after so long, seconds.
AGAIN_S: Final = 30.0
#: A message for which there was no connection is tried again after so long, seconds.
_RETRY_S: Final = 1.0
#: An artifact is told as made just now, or not at all, seconds.
_FRESH_S: Final = 30.0

_LONGEST_NAME: Final = 200
_LONGEST_ARTIFACT: Final = 500


class Progress:
    """What one worker has got done. `bus` gives the connection; it may raise BusUnavailable."""

    def __init__(self, bus: Callable[[], Bus], *, node: str, source: str) -> None:
        self._bus = bus
        self._subject = subjects.progress(node)
        # A process that is started again begins to count anew, and must not be taken for this one.
        self._worker = f"{_fit(source, _LONGEST_NAME - 9)}#{secrets.token_hex(4)}"
        self._counters: dict[str, float] = {}
        self._failures = 0
        self._successes = 0
        self._checkpoint: tuple[str, float] | None = None
        self._loop = asyncio.get_running_loop()
        self._sent_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def add(self, counters: Mapping[str, float], *, failures: int = 0, successes: int = 0) -> None:
        """Add to the totals. Raises ValueError for what is negative or no number, adding nothing.

        Also for a counter whose name has more than 200 characters.
        """
        for name, gained in (*counters.items(), ("failures", failures), ("successes", successes)):
            if not math.isfinite(gained) or gained < 0:
                raise ValueError(f"{name} rises by {gained!r}: a number that is not negative")
            if len(name) > _LONGEST_NAME:
                raise ValueError(f"{name[:40]!r}… is too long a name: {_LONGEST_NAME} characters")
        for name, gained in counters.items():
            self._counters[name] = self._counters.get(name, 0.0) + gained
        self._failures += int(failures)
        self._successes += int(successes)
        self._due()

    def checkpointed(self, artifact: str) -> None:
        """Note an artifact that has just been made durable."""
        self._checkpoint = (_fit(artifact, _LONGEST_ARTIFACT), self._loop.time())
        self._due()

    async def close(self) -> None:
        """Say that no more is to be expected. Never raises for want of a broker."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        bus = self._connected()
        if bus is not None:
            self._post(bus, done=True)
            with contextlib.suppress(InterlockError, OSError):
                await bus.flush()

    def _due(self) -> None:
        """Send now, or as soon as that is allowed."""
        if not self._closed:
            self._arm(max(0.0, self._sent_at + EVERY_S - self._loop.time()))

    def _arm(self, delay_s: float) -> None:
        at = self._loop.time() + delay_s
        if self._timer is not None:
            if self._timer.when() <= at and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._send)

    def _send(self) -> None:
        self._timer = None
        if self._closed:
            return
        bus = self._connected()
        if bus is None:
            self._arm(_RETRY_S)
            return
        self._post(bus, done=False)
        self._sent_at = self._loop.time()
        self._arm(AGAIN_S)

    def _post(self, bus: Bus, *, done: bool) -> None:
        artifact = None
        if self._checkpoint is not None and self._loop.time() - self._checkpoint[1] <= _FRESH_S:
            artifact = self._checkpoint[0]
        self._checkpoint = None
        report = Report(
            worker=self._worker,
            counters=self._counters,
            failures=self._failures,
            successes=self._successes,
            checkpoint=artifact,
            done=done,
        )
        bus.post(self._subject, msgspec.json.encode(report))

    def _connected(self) -> Bus | None:
        try:
            bus = self._bus()
        except BusUnavailable:
            return None
        return bus if bus.connected else None


def _fit(text: str, most: int) -> str:
    return text.encode("utf-8", "backslashreplace").decode()[:most]
