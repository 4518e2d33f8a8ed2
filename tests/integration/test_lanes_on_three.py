"""Both lanes on a stream with three replicas whose leader is lost in the middle."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interlock.acks import Ack
from interlock.bus import Bus, connect
from interlock.cluster import LocalCluster
from interlock.reader import Reader
from tests.integration.test_lanes import STREAM


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    cluster = LocalCluster(tmp_path, size=3)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.stop()


@pytest.fixture
async def bus(cluster: LocalCluster) -> AsyncIterator[Bus]:
    bus = await connect(cluster.settings())
    await bus.api("STREAM.CREATE.T", {**STREAM, "num_replicas": 3}, timeout_s=30)
    try:
        yield bus
    finally:
        await bus.close()


async def leader(bus: Bus) -> str:
    while True:
        info = await bus.api("STREAM.INFO.T", timeout_s=30)
        if name := info["cluster"].get("leader"):
            return str(name)
        await asyncio.sleep(0.1)


async def lose_the_leader(cluster: LocalCluster, bus: Bus, *, freeze: bool) -> None:
    name = await leader(bus)
    server = next(each for each in cluster.servers if each.name == name)
    if freeze:
        server.pause()
        await asyncio.sleep(6)
        server.resume()
    else:
        await server.kill()
        await asyncio.sleep(1)
        await server.start()


async def stored(bus: Bus) -> list[int]:
    reader = Reader(bus, "T", ("t.>",), {"deliver_policy": "all"})
    return [int(record.body) async for record in reader.records(until_end=True)]


@pytest.mark.parametrize("freeze", [False, True])
async def test_publishes_keep_their_order_when_the_leader_is_lost(
    cluster: LocalCluster, bus: Bus, freeze: bool
) -> None:
    losing = asyncio.create_task(lose_the_leader(cluster, bus, freeze=freeze))
    futures: list[asyncio.Future[Ack]] = []
    while not losing.done() or len(futures) < 2_000:
        futures.append(await bus.publish_soon("t.a", b"%d" % len(futures), timeout_s=60))
        if not len(futures) % 200:
            await asyncio.sleep(0.02)
    await losing
    await asyncio.gather(*futures)
    assert await stored(bus) == list(range(len(futures)))


async def test_bulk_goes_on_when_the_leader_is_lost(cluster: LocalCluster, bus: Bus) -> None:
    losing = asyncio.create_task(lose_the_leader(cluster, bus, freeze=False))
    sent = 0
    async with bus.bulk() as lane:
        while not losing.done() or sent < 2_000:
            await lane.publish("t.a", b"%d" % sent)
            sent += 1
            if not sent % 200:
                await asyncio.sleep(0.02)
    await losing
    assert lane.receipt.messages == sent
    assert await stored(bus) == list(range(sent))
