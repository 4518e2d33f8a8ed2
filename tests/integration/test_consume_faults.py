"""Consuming while the broker is killed, frozen or emptied under it."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock import RetryPolicy, provisioning
from interlock.broker import EmbeddedBroker
from interlock.bus import ApiError, Bus, connected
from interlock.errors import InterlockError
from interlock.fleet import Fleet
from interlock.provisioning import stream_config
from interlock.settings import ConnectionSettings
from interlock_schemas.topology import EVENTS
from interlock_schemas.training import TrainingCompleted
from tests.conftest import eventually, running


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    server = EmbeddedBroker(tmp_path)
    await server.start()
    async with connected(settings(server)) as bus:
        await provisioning.apply(bus, [])
    yield server
    await server.stop()


@pytest.fixture
async def bus(broker: EmbeddedBroker) -> AsyncIterator[Bus]:
    async with connected(settings(broker)) as connection:
        yield connection


@pytest.fixture
def fleet(bus: Bus) -> Fleet:
    return Fleet(bus, source="test")


def settings(broker: EmbeddedBroker) -> ConnectionSettings:
    return ConnectionSettings(
        nats_url=f"nats://{broker.user}:{broker.password}@127.0.0.1:{broker.port}"
    )


async def restart(broker: EmbeddedBroker) -> None:
    await broker.kill()
    await broker.start()


async def info(bus: Bus, consumer: str) -> dict[str, Any]:
    return await bus.api(f"CONSUMER.INFO.EVENTS.{consumer}")


async def is_settled(bus: Bus, consumer: str) -> bool:
    told = await info(bus, consumer)
    return bool(told["num_ack_pending"] == 0 and told["num_pending"] == 0)


async def letters(bus: Bus) -> int:
    return int((await bus.api("STREAM.INFO.DEAD"))["state"]["messages"])


async def as_true(value: object) -> object:
    return value


async def test_what_is_in_hand_is_not_begun_again_when_the_broker_restarts(
    broker: EmbeddedBroker, bus: Bus, fleet: Fleet
) -> None:
    """Handlers run longer than the ack wait, and the broker is killed twice meanwhile."""
    begun: list[str] = []
    at_once: Counter[str] = Counter()
    doubled: list[str] = []
    done: list[str] = []

    async def handle(received: interlock.Received[Any]) -> None:
        begun.append(received.event.model)
        at_once[received.event.model] += 1
        if at_once[received.event.model] > 1:
            doubled.append(received.event.model)
        await asyncio.sleep(6.0)
        at_once[received.event.model] -= 1
        done.append(received.event.model)

    work = fleet.consume("slow", handle, "training", ack_wait_s=2.0, concurrency=8)
    async with running(work):
        await fleet.publish_many(TrainingCompleted(config="c", model=str(n)) for n in range(4))
        await eventually(lambda: as_true(len(begun) == 4))
        await asyncio.sleep(1.0)
        await restart(broker)
        # Takes the places that are left: its pull is the one that would bring the others again.
        await fleet.publish(TrainingCompleted(config="c", model="new"))
        await eventually(lambda: as_true("new" in begun))
        await restart(broker)
        await eventually(lambda: as_true(len(done) >= 5))
        await eventually(lambda: is_settled(bus, "slow"))
    assert doubled == []
    assert sorted(begun) == ["0", "1", "2", "3", "new"]
    assert await letters(bus) == 0


@pytest.mark.parametrize("batch", [None, 50])
async def test_no_message_is_lost_while_the_broker_is_killed_under_load(
    broker: EmbeddedBroker, bus: Bus, fleet: Fleet, batch: int | None
) -> None:
    seen: Counter[str] = Counter()
    count = 3_000

    async def handle(received: interlock.Received[Any]) -> None:
        await asyncio.sleep(0.002)
        seen[received.event.model] += 1

    async def handle_batch(several: list[interlock.Received[Any]]) -> None:
        await asyncio.sleep(0.02)
        seen.update(each.event.model for each in several)

    await fleet.publish_many(TrainingCompleted(config="c", model=str(n)) for n in range(count))
    work = (
        fleet.consume("loaded", handle, "training", ack_wait_s=2.0)
        if batch is None
        else fleet.consume(
            "loaded", handle_batch, "training", batch=batch, concurrency=2, ack_wait_s=2.0
        )
    )
    async with running(work):
        for part in range(1, 4):
            await eventually(lambda part=part: as_true(len(seen) >= part * count // 5))
            await restart(broker)
        await eventually(lambda: as_true(len(seen) == count))
        await eventually(lambda: is_settled(bus, "loaded"))
    assert await letters(bus) == 0


async def test_consuming_goes_on_after_a_frozen_broker_thaws(
    broker: EmbeddedBroker, bus: Bus, fleet: Fleet
) -> None:
    seen: Counter[str] = Counter()

    async def handle(received: interlock.Received[Any]) -> None:
        await asyncio.sleep(0.001)
        seen[received.event.model] += 1

    await fleet.publish_many(TrainingCompleted(config="c", model=str(n)) for n in range(500))
    pid = broker.pid
    assert pid is not None
    async with running(fleet.consume("frozen", handle, "training", ack_wait_s=30.0)):
        await eventually(lambda: as_true(len(seen) >= 100))
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(8)
        finally:
            os.kill(pid, signal.SIGCONT)
        await fleet.publish(TrainingCompleted(config="c", model="after"))
        async with asyncio.timeout(20):
            await eventually(lambda: as_true(len(seen) == 501))
        await eventually(lambda: is_settled(bus, "frozen"))
    assert max(seen.values()) == 1


async def test_a_worker_makes_its_consumer_again_and_goes_on_where_it_was(
    bus: Bus, fleet: Fleet
) -> None:
    seen: list[str] = []

    async def handle(received: interlock.Received[Any]) -> None:
        seen.append(received.event.model)

    async with running(fleet.consume("deleted", handle, "training", from_start=False)):
        await eventually(lambda: exists(bus, "deleted"))
        await fleet.publish(TrainingCompleted(config="c", model="one"))
        await eventually(lambda: as_true(seen == ["one"]))
        await bus.api("CONSUMER.DELETE.EVENTS.deleted")
        await fleet.publish(TrainingCompleted(config="c", model="two"))
        async with asyncio.timeout(15):
            await eventually(lambda: as_true(seen == ["one", "two"]))
    # And it is the same consumer to whoever comes next.
    async with running(fleet.consume("deleted", handle, "training", from_start=False)):
        await fleet.publish(TrainingCompleted(config="c", model="three"))
        await eventually(lambda: as_true(seen == ["one", "two", "three"]))


async def exists(bus: Bus, consumer: str) -> bool:
    try:
        await info(bus, consumer)
    except ApiError:
        return False
    return True


async def test_a_stream_made_anew_is_consumed_from_its_beginning(bus: Bus, fleet: Fleet) -> None:
    seen: list[str] = []
    slow = asyncio.Event()

    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == "old-slow":
            await slow.wait()
        seen.append(received.event.model)

    async with running(fleet.consume("reborn", handle, "training", from_start=False)):
        await eventually(lambda: exists(bus, "reborn"))
        for name in ("old-slow", "old"):
            await fleet.publish(TrainingCompleted(config="c", model=name))
        await eventually(lambda: as_true(seen == ["old"]))
        await bus.api("STREAM.DELETE.EVENTS")
        await bus.api("STREAM.CREATE.EVENTS", stream_config(EVENTS))
        # The first of the new stream has the number of the one that is still in hand.
        await fleet.publish(TrainingCompleted(config="c", model="new-1"))
        await fleet.publish(TrainingCompleted(config="c", model="new-2"))
        async with asyncio.timeout(15):
            await eventually(lambda: as_true({"new-1", "new-2"} <= set(seen)))
        slow.set()
        await eventually(lambda: is_settled(bus, "reborn"))
    assert sorted(seen) == ["new-1", "new-2", "old", "old-slow"]


async def test_a_drained_worker_leaves_nothing_to_wait_for(
    broker: EmbeddedBroker, bus: Bus, fleet: Fleet
) -> None:
    """Its connection is cut the moment it returns; the ack wait is longer than this test."""
    stop = asyncio.Event()
    begun = asyncio.Event()
    finished: list[str] = []

    async def handle(received: interlock.Received[Any]) -> None:
        begun.set()
        await asyncio.sleep(0.3)
        finished.append(received.event.model)

    await fleet.publish_many(TrainingCompleted(config="c", model=str(n)) for n in range(200))
    async with connected(settings(broker)) as doomed:
        work = asyncio.create_task(
            Fleet(doomed, source="test").consume(
                "drained", handle, "training", order_by_key=True, concurrency=4,
                ack_wait_s=600.0, stop=stop,
            )
        )  # fmt: skip
        await begun.wait()
        stop.set()
        await work
        transport: Any = doomed.client._transport
        transport._io_writer.transport.abort()
    told = await info(bus, "drained")
    assert told["ack_floor"]["stream_seq"] >= len(finished) > 0
    rest: list[str] = []

    async def take(received: interlock.Received[Any]) -> None:
        rest.append(received.event.model)

    async with running(fleet.consume("drained", take, "training", ack_wait_s=600.0)):
        await eventually(lambda: as_true(len(rest) + len(finished) == 200))
        await eventually(lambda: is_settled(bus, "drained"))
    assert sorted(finished + rest, key=int) == [str(n) for n in range(200)]


async def test_order_within_a_key_holds_across_failures_and_broker_restarts(
    broker: EmbeddedBroker, bus: Bus, fleet: Fleet
) -> None:
    rand = random.Random(7)
    keys = [f"k{rand.randrange(8)}" for _ in range(400)]
    done: dict[str, list[int]] = {}
    busy: Counter[str] = Counter()
    most = 0

    async def handle(received: interlock.Received[Any]) -> None:
        nonlocal most
        key, number = received.event.config, int(received.event.model)
        busy[key] += 1
        assert busy[key] == 1, "two of a key at a time"
        most = max(most, sum(busy.values()))
        try:
            await asyncio.sleep(rand.random() * 0.02)
            if rand.random() < 0.2:
                raise RuntimeError("not this time")
            done.setdefault(key, []).append(number)
        finally:
            busy[key] -= 1

    for number, key in enumerate(keys):
        await fleet.publish(TrainingCompleted(config=key, model=str(number)))
    policy = RetryPolicy(attempts=1_000, base_s=0.01, cap_s=0.1)
    work = fleet.consume(
        "ordered", handle, "training", order_by_key=True, retry=policy, ack_wait_s=2.0, flood=None
    )
    async with running(work):
        await eventually(lambda: as_true(sum(map(len, done.values())) >= 150))
        await restart(broker)
        await eventually(lambda: is_settled(bus, "ordered"))
    for key, numbers in done.items():
        firsts = list(dict.fromkeys(numbers))
        assert firsts == [n for n, each in enumerate(keys) if each == key]
    assert most > 1
    assert await letters(bus) == 0


async def test_order_holds_when_a_process_is_killed_and_another_follows(
    broker: EmbeddedBroker, bus: Bus, fleet: Fleet
) -> None:
    """What the first had in hand comes only after the ack wait; what is newer waits for it."""
    begun: list[str] = []
    done: list[str] = []

    async def hang(received: interlock.Received[Any]) -> None:
        begun.append(received.event.model)
        await asyncio.Event().wait()

    async def handle(received: interlock.Received[Any]) -> None:
        done.append(received.event.model)

    async with connected(settings(broker)) as doomed:
        work = asyncio.create_task(
            Fleet(doomed, source="test").consume(
                "follows", hang, "training", order_by_key=True, ack_wait_s=2.0
            )
        )
        for number in range(5):
            await fleet.publish(TrainingCompleted(config="c", model=str(number)))
        await eventually(lambda: as_true(begun))

        async def all_out() -> bool:
            return bool((await info(bus, "follows"))["num_ack_pending"] == 5)

        await eventually(all_out)
        # As a process that is killed: no answer leaves it any more.
        doomed.client.post = lambda _: None  # type: ignore[method-assign,assignment]
        await doomed.client.close()
        work.cancel()
        await asyncio.wait((work,))
    for number in range(5, 10):
        await fleet.publish(TrainingCompleted(config="c", model=str(number)))
    work_2 = fleet.consume("follows", handle, "training", order_by_key=True, ack_wait_s=2.0)
    async with running(work_2):
        await eventually(lambda: as_true(len(done) == 10))
    assert done == [str(n) for n in range(10)]


async def test_a_consumer_of_a_service_that_is_gone_ends_the_service(bus: Bus) -> None:
    from interlock.consuming import Consumption
    from interlock.delivery import Delivery

    await bus.api(
        "CONSUMER.CREATE.EVENTS.declared",
        {
            "stream_name": "EVENTS",
            "config": {"durable_name": "declared", "ack_policy": "explicit"},
        },
    )

    async def handle(delivery: Delivery) -> None: ...

    consumption = Consumption(
        bus, service="s", stream="EVENTS", consumer="declared", handler=handle,
        places=4, ack_wait_s=30.0, policy=RetryPolicy(),
    )  # fmt: skip
    work = asyncio.create_task(consumption.run())
    await asyncio.sleep(0.5)
    await bus.api("CONSUMER.DELETE.EVENTS.declared")
    async with asyncio.timeout(30):
        with pytest.raises(InterlockError, match="interlock setup"):
            await work


async def test_a_handler_that_blocks_past_its_lease_is_not_run_again_here(
    bus: Bus, fleet: Fleet
) -> None:
    for number in range(3):
        await fleet.publish(TrainingCompleted(config="c", model=str(number)))
    runs: Counter[str] = Counter()

    async def handle(received: interlock.Received[TrainingCompleted]) -> None:
        runs[received.event.model or ""] += 1
        time.sleep(2.5)  # noqa: ASYNC251  # the loop is to stand still, and renew no lease

    async with running(
        fleet.consume("blocked", handle, TrainingCompleted, concurrency=3, ack_wait_s=1)
    ):
        await eventually(lambda: as_true(len(runs) == 3))
        await eventually(lambda: is_settled(bus, "blocked"))
    assert runs == {"0": 1, "1": 1, "2": 1}
