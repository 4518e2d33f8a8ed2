"""Locks while services, brokers and holders are killed and frozen."""

import asyncio
import math
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import BusUnavailable, LockBusy, StaleToken
from interlock.fleet import Fleet
from interlock.locks.fence import FileFence
from interlock.locks.lease import Lease
from tests.conftest import eventually
from tests.integration.lock_fleet import LockFleet, Process

#: Acquires, says its token, is frozen between its last look at the lease and its write, and says
#: what became of the write.
HOLDER = """
import asyncio, os, signal, sys
import interlock
from interlock.errors import LeaseLost, StaleToken
from interlock.locks.fence import FileFence

async def main():
    async with interlock.connect(source="holder") as fleet:
        lease = await fleet.acquire_lock("ratings", ttl=1)
        await lease.put("ratings", b"before")
        fence = FileFence(sys.argv[2])
        def write(what):
            fence.write("ratings", lease.token, sys.argv[3], what)
        def write_late():
            lease.check()
            os.kill(os.getpid(), signal.SIGSTOP)
            write(b"late")
        await asyncio.to_thread(write, b"before")
        print(lease.token, flush=True)
        commit = fleet.bus.commit
        async def late(writes, *, timeout_s):
            os.kill(os.getpid(), signal.SIGSTOP)
            return await commit(writes, timeout_s=timeout_s)
        try:
            if sys.argv[1] == "state":
                fleet.bus.commit = late
                await lease.put("ratings", b"late")
            else:
                await asyncio.to_thread(write_late)
        except (LeaseLost, StaleToken) as error:
            print(type(error).__name__, flush=True)
        else:
            print("written", flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[LockFleet]:
    async with LockFleet(tmp_path).running(replicas=2) as running:
        yield running


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[LockFleet]:
    async with LockFleet(tmp_path, size=3).running(replicas=2) as running:
        yield running


class Line:
    """Waiters for one lock, and the order in which they had it."""

    def __init__(self, fleet: LockFleet, name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.order: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def form(self, client: Fleet, count: int) -> None:
        """So many more, one after the other."""
        for _ in range(count):
            number = len(self.tasks)
            self.tasks.append(asyncio.create_task(self._wait(client, number)))
            await self.stands(number + 1)

    async def stands(self, count: int) -> None:
        """All of them are in the queue, in the order in which they came."""

        async def there() -> bool:
            notes = [claim.note for claim in (await self.fleet.show(self.name)).waiting]
            return notes == [str(number) for number in range(count)]

        await eventually(there)

    async def _wait(self, client: Fleet, number: int) -> None:
        async with client.lock(self.name, wait=math.inf, note=str(number)):
            self.order.append(number)

    async def served(self) -> None:
        """All of them have had it, in order."""
        async with asyncio.timeout(60):
            await asyncio.gather(*self.tasks)
        assert self.order == list(range(len(self.tasks)))


class Load:
    """Workers that take turns at a few locks and check that nobody else does at the same time."""

    def __init__(self, clients: list[Fleet], names: list[str]) -> None:
        self.turns = 0
        self._clients = clients
        self._names = names
        self._inside: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "Load":
        self._group = asyncio.TaskGroup()
        group = await self._group.__aenter__()
        for client in self._clients:
            for name in self._names:
                group.create_task(self._work(client, name))
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._stop.set()
        await self._group.__aexit__(*error)

    async def _work(self, client: Fleet, name: str) -> None:
        while not self._stop.is_set():
            async with client.lock(name, ttl=20, wait=math.inf) as lease:
                assert self._inside.setdefault(name, lease.token) == lease.token
                assert lease.token > self._tokens.get(name, 0)
                self._tokens[name] = lease.token
                await lease.put(name, b"%d" % lease.token)
                self.turns += 1
                del self._inside[name]
            # There are two cores, and services that start.
            await asyncio.sleep(0.01)

    async def goes_on(self, turns: int = 5) -> None:
        """So many more turns are taken."""
        until = self.turns + turns

        async def taken() -> bool:
            return self.turns >= until

        await eventually(taken)


async def test_replicas_killed_again_and_again_lose_no_waiter(fleet: LockFleet) -> None:
    clients = [await fleet.client() for _ in range(3)]
    lease = await clients[0].acquire_lock("queued", ttl=5)
    line = Line(fleet, "queued")
    async with Load(clients, ["a", "b"]) as load:
        for round in range(4):
            await line.form(clients[1 + round % 2], 2)
            await fleet.kill_replica(fleet.replicas[0])
            await load.goes_on()
            await fleet.start_replica()
            await load.goes_on()
        await line.stands(8)
    lease.check()
    await fleet.kill_replica(fleet.replicas[0])
    await lease.release()
    await line.served()


async def test_holders_hold_on_without_a_service_and_waiters_keep_their_place(
    fleet: LockFleet,
) -> None:
    first, second = await fleet.client(), await fleet.client()
    lease = await first.acquire_lock("held", ttl=3)
    handed = await _handed_over(first, second, "handed", ttl=3)
    line = Line(fleet, "held")
    await line.form(first, 1)
    await line.form(second, 2)
    for replica in list(fleet.replicas):
        await fleet.kill_replica(replica)
    seen = {each.name: each.revision for each in (lease, handed)}

    async def renewed() -> bool:
        lease.check()
        handed.check()
        return all(each.revision > seen[each.name] + 6 for each in (lease, handed))

    await eventually(renewed)
    # What was renewed, and the answer was lost.
    for each in (lease, handed):
        each.revision = seen[each.name]
        await each.renew()
        each.revision = seen[each.name]
        await each.put(f"state/{each.name}", b"mine")
    # Alone, a lock is had and given back as ever.
    async with first.lock("alone", wait=0):
        pass
    async with second.lock("alone-too", wait=0):
        pass
    with pytest.raises(BusUnavailable, match="nobody answers"):
        await second.acquire_lock("held", wait=0)
    await handed.release()
    # Its marker stands for a second, and might hide somebody who waits.
    await eventually(lambda: _had(first, "handed"))
    # Their claims have run out by now.
    assert await _claims(first, "held") == [lease.id]
    assert not line.order
    await fleet.start_replica()
    await line.stands(3)
    lease.check()
    await lease.release()
    await line.served()


async def _had(client: Fleet, name: str) -> bool:
    try:
        async with client.lock(name, wait=0):
            return True
    except BusUnavailable:
        return False


async def _claims(client: Fleet, name: str) -> list[str]:
    """The ids of what the bucket holds of a lock, once only the holder is left."""

    async def ids() -> list[str]:
        info = await client.bus.api(
            "STREAM.INFO.KV_locks", {"subjects_filter": f"$KV.locks.claim.{name}.*"}
        )
        found = [subject.rpartition(".")[2] for subject in info["state"].get("subjects") or ()]
        return found if len(found) == 1 else []

    return list(await eventually(ids))


async def _handed_over(first: Fleet, second: Fleet, name: str, *, ttl: float) -> Lease:
    """A lease that came from another holder."""
    before = await first.acquire_lock(name)
    task = asyncio.create_task(second.acquire_lock(name, ttl=ttl))

    async def queued() -> bool:
        try:
            async with first.lock(name, wait=0):
                return False
        except LockBusy as error:
            return "waiting" in str(error)

    await eventually(queued)
    await before.release()
    return await task


async def test_leases_and_waiters_outlast_the_broker(fleet: LockFleet) -> None:
    clients = [await fleet.client() for _ in range(2)]
    lease = await clients[0].acquire_lock("queued", ttl=20)
    line = Line(fleet, "queued")
    await line.form(clients[0], 1)
    await line.form(clients[1], 2)
    server = fleet.cluster.servers[0]
    async with Load(clients, ["a"]) as load:
        for _ in range(2):
            await load.goes_on()
            await server.kill()
            await server.start()
            await load.goes_on()
    lease.check()
    await lease.renew()
    await line.stands(3)
    await lease.release()
    await line.served()


async def test_three_servers_lose_the_leader_of_the_locks(three: LockFleet) -> None:
    clients = [await three.client() for _ in range(2)]
    lease = await clients[0].acquire_lock("queued", ttl=30)
    line = Line(three, "queued")
    await line.form(clients[0], 1)
    await line.form(clients[1], 2)
    async with Load(clients, ["a"]) as load:
        await load.goes_on()
        server = await three.leader()
        await server.kill()
        await load.goes_on()
        await server.start()
        await load.goes_on()
    lease.check()
    await lease.renew()
    await line.stands(3)
    await lease.release()
    await line.served()


async def _says(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode().strip()


async def _stopped(process: Process) -> None:
    """It has stopped itself."""

    async def stopped() -> bool:
        status = Path(f"/proc/{process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "T"

    await eventually(stopped)


@pytest.mark.parametrize("writes", ["state", "file"])
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
async def test_a_holder_frozen_past_its_lease_cannot_write(
    fleet: LockFleet, tmp_path: Path, writes: str
) -> None:
    client = await fleet.client()
    fence = FileFence(tmp_path / "fence")
    target = tmp_path / "ratings.json"
    holder = await fleet.start_worker(HOLDER, writes, str(fence.folder), str(target))
    token = int(await _says(holder))
    await _stopped(holder)
    async with client.lock("ratings", wait=30) as lease:
        assert lease.token > token
        await lease.put("ratings", b"after")
        await asyncio.to_thread(fence.write, "ratings", lease.token, target, b"after")
        os.kill(holder.pid, signal.SIGCONT)
        assert await _says(holder) == ("LeaseLost" if writes == "state" else "StaleToken")
        lease.check()
    assert await holder.wait() == 0
    assert await client.fenced_state("ratings") == b"after"
    assert target.read_bytes() == b"after"
    with pytest.raises(StaleToken):
        await asyncio.to_thread(fence.write, "ratings", token, target, b"late")


async def test_a_frozen_replica_that_wakes_grants_nothing_twice_and_nothing_for_good(
    fleet: LockFleet,
) -> None:
    """What it was asked before it was frozen, it does when it wakes: whoever asked has left."""
    asking, another = await fleet.client(), await fleet.client()
    # Through the service, not past it.
    (await asking._lockers())._direct = False
    frozen = fleet.replicas[0]
    names = [f"ghost:{number}" for number in range(12)]
    async with Load([another], ["a"]) as load:
        await load.goes_on()
        os.kill(frozen.pid, signal.SIGSTOP)
        asked = [asyncio.create_task(asking.acquire_lock(name, ttl=90, wait=30)) for name in names]
        done, late = await asyncio.wait(asked, timeout=0.7)
        assert late, "every request came to the replica that answers"
        for task in late:
            task.cancel()
        await asyncio.wait(late)
        await load.goes_on()
        os.kill(frozen.pid, signal.SIGCONT)
        await asyncio.gather(*(task.result().release() for task in done))
        await load.goes_on(50)
    async with asyncio.timeout(20):
        for name in names:
            async with another.lock(name):
                pass
