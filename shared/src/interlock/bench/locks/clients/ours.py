"""Interlock's locks as a worker uses them, and single writes to a bucket on the same broker."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

import nats

from interlock.bench.locks import raw
from interlock.fleet import Fleet
from interlock.fleet import connect as connect_fleet
from interlock.locks.lease import Lease
from interlock.settings import ConnectionSettings
from interlock_schemas.locks import SHOW, ShowLock

__all__ = ["connect"]

_TTL_S: Final = 30.0
_WAIT_S: Final = 60.0
_POLL_S: Final = 0.001

_Others = Mapping[str, Callable[[], Awaitable[object]]]


class _Ours:
    """See `interlock.bench.locks.contender`."""

    def __init__(self, fleet: Fleet, others: _Others) -> None:
        self._fleet = fleet
        self.others = others

    async def take(self, name: str) -> Lease:
        return await self._fleet.acquire_lock(name, ttl=_TTL_S, wait=0.0)

    async def wait_for(self, name: str) -> Lease:
        return await self._fleet.acquire_lock(name, ttl=_TTL_S, wait=_WAIT_S)

    async def release(self, held: Lease) -> None:
        await held.release()

    async def until_waited_for(self, name: str) -> None:
        # The service is asked, not the bucket: it is who passes the lock on.
        while not (await self._fleet.command(SHOW, ShowLock(name=name))).waiting:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    async def until_passed_on(self, name: str) -> None:  # noqa: ARG002  # it has a queue
        return


@contextlib.asynccontextmanager
async def connect(where: str, number: int) -> AsyncIterator[_Ours]:  # noqa: ARG001  # as all
    """A worker's connection, by the environment; the first one of a process can do raw writes."""
    settings = ConnectionSettings()
    # Each is an owner by itself: two claims of one owner wait for one another for ever.
    async with connect_fleet(settings, source=f"bench/{os.getpid()}/{number}") as fleet:
        if number:
            yield _Ours(fleet, {})
            return
        async with _raw(fleet, settings) as others:
            yield _Ours(fleet, others)


@contextlib.asynccontextmanager
async def _raw(fleet: Fleet, settings: ConnectionSettings) -> AsyncIterator[_Others]:
    """A put of nats-py's key-value store; ours with a compare-and-set; and a ping of the broker."""
    password = settings.nats_password.get_secret_value() if settings.nats_password else ""
    client = await nats.connect(
        (settings.nats_url or "").split(","),
        user=settings.nats_user,
        password=password,
        name="interlock-bench-nats-py",
    )
    try:
        store = await client.jetstream(timeout=30).key_value(raw.BUCKET.name)
        key = f"put-{os.getpid()}"
        subject = raw.BUCKET.key_subject(f"set-{os.getpid()}")
        revision = 0

        async def put() -> None:
            await store.put(key, raw.VALUE)

        async def compare_and_set() -> None:
            nonlocal revision
            ack = await fleet.bus.publish(subject, raw.VALUE, expected_revision=revision)
            revision = ack.seq

        yield {
            "raw_kv_put": put,
            "raw_compare_and_set": compare_and_set,
            "round_trip": fleet.bus.flush,
        }
    finally:
        await client.close()
