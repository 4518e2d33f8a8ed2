"""Redis through redis-py: the recipe of Redis' documentation, and redis-py's own lock.

The recipe is ``SET NX PX`` and a script that deletes the key if the value is still ours. It has no
queue, so whoever waits uses redis-py's `Lock`, as it comes: it tries again every 0.1 s.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

from interlock.bench.locks import raw
from interlock.errors import InterlockError

__all__ = ["connect"]

_TTL_S: Final = 30
_WAIT_S: Final = 60.0
_POLL_S: Final = 0.002
#: How often `Lock` tries, by default.
_LOCK_POLLS_S: Final = 0.1

_RELEASE: Final = """
if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("del", KEYS[1]) else return 0 end
"""


class _Lost(InterlockError):
    """A lock was not to be had, or was somebody else's at its release."""


class _Redis:
    """See `interlock.bench.locks.contender`."""

    def __init__(self, client: Any, number: int) -> None:
        self._client = client
        self._number = number
        self._release = client.register_script(_RELEASE)
        self.others = {"raw_kv_put": self._put, "round_trip": client.ping}

    async def take(self, name: str) -> tuple[str, str]:
        token = secrets.token_hex(16)
        if not await self._client.set(name, token, nx=True, px=_TTL_S * 1_000):
            raise _Lost(f"{name} was held, and nobody was to want it")
        return name, token

    async def wait_for(self, name: str) -> Any:
        lock = self._client.lock(name, timeout=_TTL_S, blocking_timeout=_WAIT_S)
        if not await lock.acquire():
            raise _Lost(f"{name} was not to be had within {_WAIT_S:g} s")
        return lock

    async def release(self, held: Any) -> None:
        if not isinstance(held, tuple):
            await held.release()
            return
        name, token = held
        if not await self._release(keys=[name], args=[token]):
            raise _Lost(f"{name} was not ours at its release")

    async def until_waited_for(self, name: str) -> None:  # noqa: ARG002  # nobody can tell
        # Long enough for the first try, then at any moment between two tries.
        await asyncio.sleep(_LOCK_POLLS_S * random.uniform(0.5, 1.5))  # noqa: S311  # no secret

    async def until_passed_on(self, name: str) -> None:
        while not await self._client.exists(name):  # noqa: ASYNC110  # nobody is told
            await asyncio.sleep(_POLL_S)

    async def _put(self) -> None:
        await self._client.set(f"raw:{self._number}", raw.VALUE)


@contextlib.asynccontextmanager
async def connect(where: str, number: int) -> AsyncIterator[_Redis]:
    """A client of the server at ``host:port``."""
    import redis.asyncio

    host, _, port = where.rpartition(":")
    client = redis.asyncio.Redis(host=host, port=int(port))
    try:
        await client.ping()
        yield _Redis(client, number)
    finally:
        await client.aclose()
