"""Several locks at once, all or none.

Taken in the order of their names, which is the same for everybody, so that those who want the same
ones do not entangle.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from types import TracebackType

from interlock.errors import LockRefused
from interlock.locks.lease import Lease, LockContext

__all__ = ["LocksContext"]


class LocksContext:
    """``async with fleet.locks(["a", "b"]) as leases``."""

    def __init__(
        self, names: Iterable[str], lock: Callable[[str, float], LockContext], wait_s: float
    ) -> None:
        given = list(names)
        self._names = sorted(set(given))
        if len(self._names) != len(given) or not given:
            raise LockRefused(f"several locks have several names, not {given!r}")
        self._lock = lock
        self._wait_s = wait_s
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> dict[str, Lease]:
        """Take all of them, or none."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_s
        leases: dict[str, Lease] = {}
        try:
            for name in self._names:
                left = max(0.0, deadline - loop.time())
                leases[name] = await self._stack.enter_async_context(self._lock(name, left))
        except BaseException:
            await self._stack.aclose()
            raise
        return leases

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[bool | None]:
        """Give them back, the last one first."""
        return self._stack.__aexit__(kind, error, traceback)
