"""Consumers that take a message only under the newest token of its lock.

Whoever publishes under a lock adds `Lease.headers`. The consumer shows the token to a fence before
it does anything, and keeps others of that lock from acting until it is done.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

from interlock.errors import Reject, StaleToken
from interlock.locks.fence import FileFence
from interlock_schemas import envelope
from interlock_schemas.letters import Code
from interlock_schemas.locks import LOCK_HEADER, TOKEN_HEADER

__all__ = ["demand", "shown"]


class _HasHeaders(Protocol):
    @property
    def headers(self) -> Mapping[str, str]: ...


ReceivedT = TypeVar("ReceivedT", bound=_HasHeaders)


def shown(headers: Mapping[str, str]) -> tuple[str, int]:
    """The lock and the token that a message was written under. Raises Reject where it has none."""
    name = envelope.lookup(headers, LOCK_HEADER)
    token = envelope.lookup(headers, TOKEN_HEADER)
    if name is None or token is None:
        raise Reject(
            f"it was written under no lock: publish with headers=lease.headers() "
            f"({LOCK_HEADER}, {TOKEN_HEADER})",
            code=Code.UNFENCED,
        )
    if not (token.isascii() and token.isdigit() and 0 < len(token) <= 19 and int(token) > 0):
        raise Reject(f"{token[:40]!r} is no fencing token", code=Code.UNFENCED)
    return name, int(token)


def demand(
    handler: Callable[[ReceivedT], Awaitable[None]], fence: FileFence
) -> Callable[[ReceivedT], Awaitable[None]]:
    """The handler, for messages alone whose token is the highest that `fence` has seen."""

    # One of each lock waits in a thread at a time: there are only a few of them.
    turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def guarded(received: ReceivedT) -> None:
        name, token = shown(received.headers)
        turn = turns.get(name)
        if turn is None:
            turn = turns[name] = asyncio.Lock()
        async with turn, _guarding(fence, name, token):
            await handler(received)

    return guarded


@asynccontextmanager
async def _guarding(fence: FileFence, name: str, token: int) -> AsyncIterator[None]:
    """The fence's guard; to enter it takes waiting and a sync, which the event loop must not."""
    guard = fence.guard(name, token)
    entering = asyncio.ensure_future(asyncio.to_thread(guard.__enter__))
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        # The thread cannot be stopped, and what it enters must be left.
        await asyncio.wait((entering,))
        if entering.exception() is None:
            guard.__exit__(None, None, None)
        raise
    except StaleToken as error:
        raise Reject(str(error), code=Code.STALE_TOKEN) from error
    try:
        yield
    finally:
        guard.__exit__(None, None, None)
