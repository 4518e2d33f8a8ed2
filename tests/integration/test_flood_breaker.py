"""A handler that fails for everything: the flow stops, one event says so, and it resumes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import interlock
from interlock import FloodPolicy, RetryPolicy, provisioning
from interlock.broker import EmbeddedBroker
from interlock.bus import ApiError, Bus, connected
from interlock.fleet import Fleet
from interlock.reader import Reader
from interlock.settings import ConnectionSettings
from interlock_schemas import subjects
from interlock_schemas.consumer_events import ConsumerPaused, ConsumerResumed
from interlock_schemas.training import TrainingCompleted
from tests.conftest import eventually, running

COUNT = 1_000
PLACES = 16
FLOOD = FloodPolicy(pause_s=1.0, cap_s=2.0)
QUICK = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.05)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    server = EmbeddedBroker(tmp_path, sync_always=False)
    await server.start()
    async with connected(settings(server)) as bus:
        await provisioning.apply(bus, [])
    yield server
    await server.stop()


@pytest.fixture
async def bus(broker: EmbeddedBroker) -> AsyncIterator[Bus]:
    async with connected(settings(broker)) as connection:
        yield connection


def settings(broker: EmbeddedBroker) -> ConnectionSettings:
    return ConnectionSettings(
        nats_url=f"nats://{broker.user}:{broker.password}@127.0.0.1:{broker.port}"
    )


async def letters(bus: Bus) -> int:
    return int((await bus.api("STREAM.INFO.DEAD"))["state"]["messages"])


async def events(bus: Bus, type_name: str) -> list[dict[str, Any]]:
    reader = Reader(bus, "EVENTS", (subjects.event_filter(type_name),), {"deliver_policy": "all"})
    return [msgspec.json.decode(each.body) async for each in reader.records(until_end=True)]


async def info(bus: Bus, consumer: str) -> dict[str, Any]:
    return await bus.api(f"CONSUMER.INFO.EVENTS.{consumer}")


async def fill(fleet: Fleet, count: int = COUNT) -> None:
    await fleet.publish_many(TrainingCompleted(config=f"c{n}", model=str(n)) for n in range(count))


class Deploy:
    """A handler that is broken until it is fixed."""

    def __init__(self) -> None:
        self.broken = True
        self.calls = 0
        self.handled: list[str] = []

    async def handle(self, received: interlock.Received[Any]) -> None:
        self.calls += 1
        await asyncio.sleep(0)
        if self.broken:
            raise RuntimeError("a bad deploy")
        self.handled.append(received.event.model)

    async def handle_batch(self, batch: list[interlock.Received[Any]]) -> None:
        self.calls += 1
        await asyncio.sleep(0)
        if self.broken:
            raise RuntimeError("a bad deploy")
        self.handled += [received.event.model for received in batch]


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_bad_deploy_stops_within_its_limit_and_costs_no_letter(
    bus: Bus, ordered: bool
) -> None:
    fleet = Fleet(bus, source="test")
    await fill(fleet)
    deploy = Deploy()
    work = fleet.consume(
        "trainer", deploy.handle, TrainingCompleted,
        concurrency=PLACES, order_by_key=ordered, retry=QUICK, flood=FLOOD,
    )  # fmt: skip
    async with running(work):
        (paused,) = await eventually(lambda: events(bus, "consumer.paused"))
        before_stop = deploy.calls
        assert before_stop <= FLOOD.least + PLACES
        # Through some failed probes, it stays within one call for each of them.
        await asyncio.sleep(3.0)
        assert deploy.calls <= before_stop + 6
        assert await letters(bus) == 0
        deploy.broken = False
        await eventually(lambda: as_true(len(set(deploy.handled)) == COUNT))

        async def settled() -> bool:
            told = await info(bus, "trainer")
            return bool(told["num_ack_pending"] == 0 and told["num_pending"] == 0)

        await eventually(settled)
    assert paused["service"] == paused["consumer"] == "trainer"
    assert "failed" in paused["reason"]
    assert "a bad deploy" in paused["last_error"]
    assert msgspec.convert(paused, ConsumerPaused).failed is not None
    assert await events(bus, "consumer.paused") == [paused]
    (resumed,) = await events(bus, "consumer.resumed")
    assert msgspec.convert(resumed, ConsumerResumed).consumer == "trainer"
    assert await letters(bus) == 0
    assert sorted(deploy.handled, key=int) == [str(n) for n in range(COUNT)]


async def as_true(value: object) -> object:
    return value


@pytest.mark.parametrize("batch", [None, 32])
async def test_two_processes_of_one_consumer_pause_it_once(
    broker: EmbeddedBroker, bus: Bus, batch: int | None
) -> None:
    fleet = Fleet(bus, source="test")
    await fill(fleet)
    deploys = [Deploy(), Deploy()]
    async with connected(settings(broker)) as second:
        works = []
        for connection, deploy in zip((bus, second), deploys, strict=True):
            each = Fleet(connection, source="test")
            if batch is None:
                works.append(
                    each.consume(
                        "trainer", deploy.handle, TrainingCompleted,
                        concurrency=PLACES, retry=QUICK, flood=FLOOD,
                    )
                )  # fmt: skip
            else:
                works.append(
                    each.consume(
                        "trainer", deploy.handle_batch, TrainingCompleted,
                        batch=batch, concurrency=2, retry=QUICK, flood=FLOOD,
                    )
                )  # fmt: skip
        async with running(*works):
            await eventually(lambda: events(bus, "consumer.paused"))
            await asyncio.sleep(2.5)
            assert sum(d.calls for d in deploys) <= 2 * (FLOOD.least + 2 * 32 + 6)
            for deploy in deploys:
                deploy.broken = False
            await eventually(lambda: as_true(len({m for d in deploys for m in d.handled}) == COUNT))
            await eventually(lambda: events(bus, "consumer.resumed"))
    assert len(await events(bus, "consumer.paused")) == 1
    assert len(await events(bus, "consumer.resumed")) == 1
    assert await letters(bus) == 0


async def test_a_new_process_takes_over_the_flood_that_it_finds(bus: Bus) -> None:
    """The fix is a new deploy: what the flood cost is not held against any message."""
    fleet = Fleet(bus, source="test")
    await fill(fleet, 100)
    policy = FloodPolicy(pause_s=1.0, cap_s=1.0)
    deploy = Deploy()
    bad = fleet.consume("trainer", deploy.handle, TrainingCompleted, retry=QUICK, flood=policy)
    async with running(bad):
        await eventually(lambda: events(bus, "consumer.paused"))
        calls = deploy.calls
        await eventually(lambda: as_true(deploy.calls >= calls + 3))
    fixed = Deploy()
    fixed.broken = False
    good = fleet.consume("trainer", fixed.handle, TrainingCompleted, retry=QUICK, flood=policy)
    async with running(good):
        await eventually(lambda: as_true(len(set(fixed.handled)) == 100))
        await eventually(lambda: events(bus, "consumer.resumed"))
    assert len(await events(bus, "consumer.paused")) == 1
    assert await letters(bus) == 0


async def test_an_operator_who_resumes_early_is_followed_at_once(bus: Bus) -> None:
    fleet = Fleet(bus, source="test")
    await fill(fleet, 100)
    deploy = Deploy()
    policy = FloodPolicy(pause_s=120.0, cap_s=120.0)
    work = fleet.consume("trainer", deploy.handle, TrainingCompleted, retry=QUICK, flood=policy)
    async with running(work):
        await eventually(lambda: events(bus, "consumer.paused"))

        async def paused() -> bool:
            return bool((await info(bus, "trainer")).get("paused"))

        await eventually(paused)
        deploy.broken = False
        await bus.api("CONSUMER.PAUSE.EVENTS.trainer", {})
        async with asyncio.timeout(30):
            await eventually(lambda: as_true(deploy.handled))


async def test_rejects_and_single_bad_messages_pause_nothing(bus: Bus) -> None:
    fleet = Fleet(bus, source="test")
    await fill(fleet, 200)
    handled: list[str] = []

    async def handle(received: interlock.Received[Any]) -> None:
        number = int(received.event.model)
        if number % 2:
            raise interlock.Reject("not one of ours")
        if number == 10:
            raise RuntimeError("this one is bad")
        handled.append(received.event.model)

    policy = RetryPolicy(attempts=30, base_s=0.001, cap_s=0.002)
    async with running(
        fleet.consume("picky", handle, TrainingCompleted, retry=policy, flood=FLOOD)
    ):
        await eventually(lambda: as_true(len(handled) == 99))

        async def all_written() -> bool:
            return await letters(bus) == 101

        await eventually(all_written)
    assert await events(bus, "consumer.paused") == []


async def test_without_a_flood_policy_every_message_has_its_attempts(bus: Bus) -> None:
    fleet = Fleet(bus, source="test")
    await fill(fleet, 40)
    deploy = Deploy()
    work = fleet.consume("stubborn", deploy.handle, TrainingCompleted, retry=QUICK, flood=None)
    async with running(work):

        async def all_written() -> bool:
            return await letters(bus) == 40

        await eventually(all_written)
    assert deploy.calls == 120
    assert await events(bus, "consumer.paused") == []


async def test_who_may_not_pause_holds_back_by_itself(bus: Bus) -> None:
    fleet = Fleet(bus, source="test")
    await fill(fleet, 200)
    deploy = Deploy()
    api = bus.api

    async def restricted(verb: str, *arguments: Any, **named: Any) -> dict[str, Any]:
        if verb.startswith("CONSUMER.PAUSE."):
            raise ApiError("not allowed", code=403, err_code=0)
        return await api(verb, *arguments, **named)

    bus.api = restricted  # type: ignore[method-assign]
    work = fleet.consume("modest", deploy.handle, TrainingCompleted, retry=QUICK, flood=FLOOD)
    async with running(work):
        await eventually(lambda: events(bus, "consumer.paused"))
        calls = deploy.calls
        assert calls <= FLOOD.least + PLACES
        await eventually(lambda: as_true(deploy.calls >= calls + 2))
        deploy.broken = False
        await eventually(lambda: as_true(len(set(deploy.handled)) == 200))
    assert len(await events(bus, "consumer.paused")) == 1
    assert await letters(bus) == 0
