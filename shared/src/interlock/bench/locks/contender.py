"""What the benchmark asks of a client of each contender."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

__all__ = ["Contender"]


class Contender(Protocol):
    """One client with one connection. What it holds is its own affair."""

    @property
    def others(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        """Single operations to time beside its locks, by name: raw writes, a round trip."""

    async def take(self, name: str) -> Any:
        """Acquire a lock that is free. Fails when it is not."""

    async def wait_for(self, name: str) -> Any:
        """Acquire a lock, waiting for it the way its users do."""

    async def release(self, held: Any) -> None:
        """Release what `take` or `wait_for` returned."""

    async def until_waited_for(self, name: str) -> None:
        """Return when somebody surely waits for the lock that we hold."""

    async def until_passed_on(self, name: str) -> None:
        """Return when asking for the lock again, just released, does not cut in before a waiter."""
