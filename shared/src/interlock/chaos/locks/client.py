"""Clients of locks, several in one process, which may be killed or frozen at any moment.

Each takes turns: it asks for a lock, reads a file and a key under it, thinks, and writes both, one
higher, with its token. It never looks whether its lease still stands before it writes: that is for
the fences to find out. On SIGTERM each ends the turn that it is in.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from interlock import logs
from interlock.bus import ApiError
from interlock.chaos import ledger
from interlock.chaos.ledger import Ledger
from interlock.chaos.locks.lines import (
    Ask,
    Believe,
    Held,
    Lost,
    NotHeld,
    Release,
    Released,
    Started,
    Write,
    Written,
)
from interlock.chaos.locks.records import Value
from interlock.errors import (
    BusUnavailable,
    FenceBusy,
    InterlockError,
    LeaseLost,
    LockBusy,
    LockDeadlock,
    LockTimeout,
    StaleToken,
)
from interlock.fleet import Fleet, connect
from interlock.locks.fence import FileFence
from interlock.locks.lease import Lease
from interlock_schemas.locks import LEVELS, Priority

__all__ = ["SEMAPHORE", "SLOTS", "Shared", "lock_name"]

#: A lock that several may hold. Nothing is written under it.
SEMAPHORE: Final = "chaos-semaphore"
SLOTS: Final = 3

#: How often it is the semaphore's turn, and a long one, which takes renewals.
_SEMAPHORE_SHARE: Final = 0.05
_LONG_SHARE: Final = 0.02
_PRIORITIES: Final[tuple[Priority, ...]] = ("high", "normal", "normal", "low")
#: Between reading and writing, and between turns, seconds, at most.
_THINK_S: Final = 0.02
_PAUSE_S: Final = 0.1
#: How long a turn at a file may take to come, seconds.
_FENCE_S: Final = 2.0


def lock_name(number: int) -> str:
    """The name of a lock, which its file and its key have too."""
    return f"chaos-{number:02}"


class Shared:
    """The files that are written under locks: each keeps all that it took, one write a line."""

    def __init__(self, folder: Path) -> None:
        self._files = folder / "files"
        self._files.mkdir(parents=True, exist_ok=True)
        self.fence = FileFence(folder / "fence")

    def path(self, lock: str) -> Path:
        """Where the file of a lock is."""
        return self._files / lock

    def read(self, lock: str, token: int) -> int:
        """The value as it stands. Shows the token, so that nobody older writes after it."""
        with self.fence.guard(lock, token, timeout_s=_FENCE_S):
            values = self.values(lock)
        return values[-1].value if values else 0

    def write(self, lock: str, value: Value) -> None:
        """Write a value. Raises StaleToken."""
        with self.fence.guard(lock, value.token, timeout_s=_FENCE_S):
            file = os.open(self.path(lock), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(file, msgspec.json.encode(value) + b"\n")
            finally:
                os.close(file)

    def values(self, lock: str) -> list[Value]:
        """All that the file took, in order."""
        with contextlib.suppress(FileNotFoundError):
            lines = self.path(lock).read_bytes().splitlines()
            return [msgspec.json.decode(line, type=Value) for line in lines]
        return []


class Client:
    """One client: one turn after the other."""

    def __init__(
        self, fleet: Fleet, book: Ledger, shared: Shared, name: str, *, locks: int, ttl_s: float
    ) -> None:
        self._fleet = fleet
        self._book = book
        self._shared = shared
        self._name = name
        self._locks = locks
        self._ttl_s = ttl_s
        self._rand = random.Random()  # noqa: S311
        self._turns = 0

    async def run(self, stop: asyncio.Event, *, wait_s: float) -> None:
        """Until told to stop; the last turn is ended."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rand.uniform(0, _PAUSE_S)):
                    await stop.wait()
            if not stop.is_set():
                await self._turn(wait_s)

    async def _turn(self, wait_s: float) -> None:
        self._turns += 1
        op = f"{self._name}.{self._turns}"
        rand = self._rand
        semaphore = rand.random() < _SEMAPHORE_SHARE
        name = SEMAPHORE if semaphore else lock_name(rand.randrange(self._locks))
        slots = SLOTS if semaphore else 1
        priority = rand.choice(_PRIORITIES)
        level = LEVELS[priority]
        book = self._book
        book.write(Ask(at=ledger.now(), op=op, lock=name, wait_s=wait_s, slots=slots, level=level))
        try:
            lease = await self._fleet.acquire_lock(
                name, ttl=self._ttl_s, wait=wait_s, priority=priority, slots=slots, note=op
            )
        except InterlockError as error:
            book.write(_not_held(op, error))
            return
        now = ledger.now()
        book.write(
            Held(at=now, op=op, id=lease.id, token=lease.token, until=now + lease.remaining_s)
        )

        def lost() -> None:
            book.write(Lost(at=ledger.now(), op=op, why=lease.lost_reason))

        lease.when_lost(lost)
        if lease.lost.is_set():
            lost()
        if semaphore:
            await self._think(op, lease)
        else:
            await self._change(op, lease)
        await self._release(op, lease)

    async def _change(self, op: str, lease: Lease) -> None:
        """Read, think and write, in both stores."""
        try:
            in_file = await asyncio.to_thread(self._shared.read, lease.name, lease.token)
            stored = await self._fleet.fenced_state(lease.name)
        except (StaleToken, FenceBusy, BusUnavailable, ApiError):
            return
        in_key = msgspec.json.decode(stored, type=Value).value if stored is not None else 0
        await self._think(op, lease)
        await self._write_file(op, lease, in_file + 1)
        await self._write_key(op, lease, in_key + 1)

    async def _think(self, op: str, lease: Lease) -> None:
        rand = self._rand
        await asyncio.sleep(rand.uniform(0, _THINK_S))
        if rand.random() < _LONG_SHARE:
            until = ledger.now() + rand.uniform(0.3, 1.3) * self._ttl_s
            while ledger.now() < until and not lease.lost.is_set():
                self._believe(op, lease)
                await asyncio.sleep(0.2)
        self._believe(op, lease)

    def _believe(self, op: str, lease: Lease) -> None:
        now = ledger.now()
        if lease.held:
            self._book.write(Believe(at=now, op=op, until=now + lease.remaining_s))

    async def _write_file(self, op: str, lease: Lease, value: int) -> None:
        self._book.write(
            Write(at=ledger.now(), op=op, store="file", token=lease.token, value=value)
        )
        written = Value(value=value, token=lease.token, op=op)
        try:
            await asyncio.to_thread(self._shared.write, lease.name, written)
        except (StaleToken, FenceBusy) as error:
            result = Written(
                at=ledger.now(), op=op, store="file", result="refused", text=str(error)
            )
        else:
            result = Written(at=ledger.now(), op=op, store="file", result="accepted")
        self._book.write(result)

    async def _write_key(self, op: str, lease: Lease, value: int) -> None:
        self._book.write(Write(at=ledger.now(), op=op, store="kv", token=lease.token, value=value))
        written = Value(value=value, token=lease.token, op=op)
        try:
            revision = await lease.put(lease.name, msgspec.json.encode(written))
        except LeaseLost as error:
            result = Written(at=ledger.now(), op=op, store="kv", result="refused", text=str(error))
        except InterlockError as error:
            result = Written(at=ledger.now(), op=op, store="kv", result="unknown", text=str(error))
        else:
            result = Written(
                at=ledger.now(), op=op, store="kv", result="accepted", revision=revision
            )
        self._book.write(result)

    async def _release(self, op: str, lease: Lease) -> None:
        self._book.write(Release(at=ledger.now(), op=op))
        lost = lease.lost.is_set()
        try:
            await lease.release()
        except InterlockError:
            self._book.write(Released(at=ledger.now(), op=op, result="unknown"))
        else:
            self._book.write(Released(at=ledger.now(), op=op, result="lost" if lost else "done"))


def _not_held(op: str, error: InterlockError) -> NotHeld:
    at, text = ledger.now(), str(error)
    match error:
        case LockTimeout():
            return NotHeld(at=at, op=op, why="timeout", text=text)
        case LockBusy():
            return NotHeld(at=at, op=op, why="busy", text=text)
        case LockDeadlock():
            return NotHeld(at=at, op=op, why="deadlock", text=text)
        case _:
            return NotHeld(at=at, op=op, why="error", text=text)


async def _main(
    name: str, path: Path, folder: Path, *, clients: int, locks: int, ttl_s: float, wait_s: float
) -> None:
    book = Ledger(path)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    shared = Shared(folder)
    life = f"{name}.{os.getpid()}"
    # A turn at a file may have to be waited for, and others' files need not.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2 * clients))
    async with connect(source=f"chaos/{name}") as fleet:
        book.write(Started(at=ledger.now()))
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                client = Client(fleet, book, shared, f"{life}.{number}", locks=locks, ttl_s=ttl_s)
                group.create_task(client.run(stop, wait_s=wait_s))
    book.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--locks", type=int, required=True)
    parser.add_argument("--ttl", type=float, required=True)
    parser.add_argument("--wait", type=float, required=True)
    given = parser.parse_args()
    logs.configure("warning", "console")
    asyncio.run(
        _main(
            given.name,
            given.ledger,
            given.folder,
            clients=given.clients,
            locks=given.locks,
            ttl_s=given.ttl,
            wait_s=given.wait,
        )
    )
