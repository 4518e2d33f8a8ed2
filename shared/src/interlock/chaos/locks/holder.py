"""Holders that are about to write when they are frozen: a process of `interlock chaos`.

Each acquires its lock and waits for a file to appear, which is put there while the process is
stopped. So the first thing that it does when it goes on is to write.
"""

import argparse
import asyncio
import signal
from collections.abc import Awaitable
from pathlib import Path
from typing import Final, Literal

import msgspec

from interlock import logs
from interlock.bus import Bus, Write
from interlock.chaos import ledger
from interlock.chaos.ledger import Ledger, Lines
from interlock.chaos.lines import Started
from interlock.chaos.locks.client import Shared, lock_name
from interlock.chaos.locks.records import Value
from interlock.conditional import expecting
from interlock.errors import InterlockError, LeaseLost, StaleToken, WrongRevision
from interlock.fleet import connect
from interlock.locks.lease import Lease
from interlock_schemas import locks
from interlock_schemas.topology import LOCKS

__all__ = ["GO", "HOLDER_LINES", "Late", "Ready"]

#: The file that they wait for.
GO: Final = "go"
_LOOK_S: Final = 0.005
_WAIT_S: Final = 20.0

Result = Literal["accepted", "refused", "failed"]


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """It holds, has read, and is about to write."""

    at: float
    lock: str
    token: int


class Late(msgspec.Struct, frozen=True, kw_only=True, tag="late"):
    """What came of its late writes."""

    at: float
    lock: str
    file: Result
    """By the fence of files."""
    lease: Result
    """By `Lease.put`, which looks at the clock first."""
    store: Result
    """By the broker, of what `Lease.put` sends when it does not."""


HOLDER_LINES: Final[Lines[Started | Ready | Late]] = Lines(Started | Ready | Late)


async def _tried(writing: Awaitable[object]) -> Result:
    try:
        await writing
    except (StaleToken, LeaseLost, WrongRevision):
        return "refused"
    except InterlockError:
        return "failed"
    return "accepted"


async def _straight(bus: Bus, lease: Lease, revision: int, body: bytes) -> None:
    """What this build's `Lease.put` sends once it has looked at the clock."""
    if Lease.put.__module__ != Lease.__module__:
        # A bug was put in its place, and it does not look.
        await lease.put(lease.name, body)
        return
    write = Write(
        LOCKS.key_subject(locks.state_key(lease.name)),
        body,
        {
            locks.LOCK_HEADER: lease.name,
            locks.TOKEN_HEADER: str(lease.token),
            **expecting(revision, locks.claim_subject(lease.name, lease.id)),
        },
    )
    await bus.commit([write], timeout_s=_WAIT_S)


async def _hold(bus: Bus, lease: Lease, book: Ledger, shared: Shared, go: Path) -> None:
    """Be frozen, and write at once."""
    body = msgspec.json.encode(Value(value=1, token=lease.token, op="late"))
    value = msgspec.json.decode(body, type=Value)
    revision = lease.revision
    while not go.exists():  # noqa: ASYNC240 - it is put there while we are stopped
        await asyncio.sleep(_LOOK_S)
        revision = lease.revision
    in_store = await _tried(_straight(bus, lease, revision, body))
    by_lease = await _tried(lease.put(lease.name, body))
    in_file = await _tried(asyncio.to_thread(shared.write, lease.name, value))
    book.write(Late(at=ledger.now(), lock=lease.name, file=in_file, lease=by_lease, store=in_store))


async def _main(
    name: str, path: Path, folder: Path, *, ttl_s: float, first: int, last: int
) -> None:
    book = Ledger(path)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    shared = Shared(folder)
    go = folder / GO
    async with connect(source=f"chaos/{name}") as fleet:
        book.write(Started(at=ledger.now()))

        async def one(lock: str) -> None:
            lease = await fleet.acquire_lock(lock, ttl=ttl_s, wait=_WAIT_S, note=f"old.{lock}")
            await asyncio.to_thread(shared.read, lock, lease.token)
            book.write(Ready(at=ledger.now(), lock=lock, token=lease.token))
            await _hold(fleet.bus, lease, book, shared, go)

        async with asyncio.TaskGroup() as group:
            for number in range(first, last):
                group.create_task(one(lock_name(number)))
    book.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--ttl", type=float, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--last", type=int, required=True)
    given = parser.parse_args()
    logs.configure("warning", "console")
    asyncio.run(
        _main(
            given.name,
            given.ledger,
            given.folder,
            ttl_s=given.ttl,
            first=given.first,
            last=given.last,
        )
    )
