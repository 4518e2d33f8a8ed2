"""What has ended stays ended when the broker is killed.

A message that only fell out of its subject's limit leaves no trace on the server's disk: once its
successor is gone by its time to live, a killed server would bring it back, and with it a lease.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from interlock import provisioning
from interlock.bus import Bus, connect
from interlock.cluster import LocalCluster
from interlock.conditional import Write, expecting
from interlock.errors import WrongRevision
from interlock.fleet import Fleet
from interlock.locks.lease import Lease
from interlock_schemas import locks
from interlock_schemas.locks import Claim
from interlock_schemas.topology import LOCKS
from interlock_sync_mutex.contract import CONTRACT
from interlock_sync_mutex.leases import Ended, Put, Standing, Step
from interlock_sync_mutex.service import writes
from tests.conftest import eventually


@asynccontextmanager
async def _fleet(cluster: LocalCluster) -> AsyncIterator[Fleet]:
    fleet = Fleet(await connect(cluster.settings(), name="test"), source="test")
    try:
        yield fleet
    finally:
        await fleet.close()


async def _claims(bus: Bus) -> set[str]:
    info = await bus.api(f"STREAM.INFO.{LOCKS.stream}", {"subjects_filter": ">"})
    prefix = len(LOCKS.key_subject(""))
    found = {subject[prefix:] for subject in info["state"].get("subjects") or {}}
    return {key for key in found if key.startswith("claim.")}


def _standing(lease: Lease) -> Standing:
    return Standing(lease.id, lease.claim, lease.revision, 0)


async def _live(fleet: Fleet, round: str) -> Lease:
    """Claims of every kind that end in every way, and one that stays."""
    bus = fleet.bus
    stays = await fleet.acquire_lock(f"stays-{round}", ttl=600)
    await stays.put(f"key-{round}", b"one")
    await stays.put(f"key-{round}", b"two")
    released = await fleet.acquire_lock(f"released-{round}", ttl=600)
    await released.renew()
    await released.renew()
    await released.release()
    again = await fleet.acquire_lock(f"released-{round}", ttl=600)
    await again.release()
    # Handed over, the way the service does it, by a batch.
    first = await fleet.acquire_lock(f"handed-{round}", ttl=600)
    claim = Claim(name=first.name, state="held", offered=True)
    step = Step((Ended(_standing(first), "ended"),), (Put("next", claim, 1),))
    await bus.commit(writes(first.name, step, first.revision))
    first.lose("ended")
    # Runs out: nobody renews it.
    await bus.commit(
        writes("alone", Step(puts=(Put(round, Claim(name="alone", state="held"), 1),)), 0)
    )
    kept = {locks.claim_key(stays.name, stays.id)}

    async def gone() -> bool:
        return {key for key in await _claims(bus) if round in key or "alone" in key} == kept

    await eventually(gone)
    return stays


@pytest.mark.parametrize("size", [1, pytest.param(3, marks=pytest.mark.slow)])
async def test_what_has_ended_stays_ended(tmp_path: Path, size: int) -> None:
    cluster = LocalCluster(tmp_path / "cluster", size=size)
    await cluster.start()
    try:
        async with _fleet(cluster) as fleet:
            await provisioning.apply(fleet.bus, [CONTRACT], replicas=size)
            one = await _live(fleet, "one")
            one.lose("left standing, to see it again")
        for server in cluster.servers:
            await server.stop()
        await cluster.start()
        async with _fleet(cluster) as fleet:
            two = await _live(fleet, "two")
            two.lose("left standing, to see it again")
            known = {locks.claim_key(each.name, each.id) for each in (one, two)}
            last = (await fleet.bus.api(f"STREAM.INFO.{LOCKS.stream}"))["state"]["last_seq"]
            for server in cluster.servers:
                await server.kill()
            await cluster.start()

            async def same() -> bool:
                return await _claims(fleet.bus) == known

            await eventually(same)
            assert await fleet.fenced_state("key-one") == b"two"
            state = (await fleet.bus.api(f"STREAM.INFO.{LOCKS.stream}"))["state"]
            assert state["last_seq"] >= last
            late = Write(
                LOCKS.key_subject(locks.state_key("key-two")),
                b"late",
                expecting(7, locks.claim_subject("handed-two", "next")),
            )
            with pytest.raises(WrongRevision):
                await fleet.bus.commit([late])
    finally:
        await cluster.stop()


async def test_a_killed_broker_lets_the_rest_of_a_lease_run(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "cluster", size=1)
    await cluster.start()
    try:
        async with _fleet(cluster) as fleet:
            await provisioning.apply(fleet.bus, [CONTRACT])
            lease = await fleet.acquire_lock("short", ttl=2)
            await lease.renew()
            lease.lose("nobody renews it any more")
            await cluster.servers[0].kill()
            await asyncio.sleep(0.2)
            await cluster.start()

            async def gone() -> bool:
                return not await _claims(fleet.bus)

            await eventually(gone)
    finally:
        await cluster.stop()
