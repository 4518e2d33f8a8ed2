"""The durable lane and the bulk lane, on a broker that is killed, frozen and filled."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from interlock.acks import Ack
from interlock.broker import EmbeddedBroker
from interlock.bus import Bus, Outgoing, connect, connected
from interlock.errors import (
    BusUnavailable,
    MessageTooLarge,
    NotAcknowledged,
    PublishRefused,
    WrongRevision,
)
from interlock.lanes import HELD_BYTES, HELD_MESSAGES
from interlock.settings import ConnectionSettings

STREAM: dict[str, Any] = {
    "name": "T",
    "subjects": ["t.>"],
    "storage": "file",
    "allow_atomic": True,
    "allow_batched": True,
    "max_msg_size": 100_000,
}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    broker = EmbeddedBroker(tmp_path / "state")
    await broker.start()
    try:
        yield broker
    finally:
        if broker.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(broker.pid, signal.SIGCONT)
        await broker.kill()


@pytest.fixture
async def bus(broker: EmbeddedBroker) -> AsyncIterator[Bus]:
    bus = await connect(
        ConnectionSettings(
            nats_url=broker.url, nats_user=broker.user, nats_password=SecretStr(broker.password)
        )
    )
    await bus.api("STREAM.CREATE.T", STREAM)
    try:
        yield bus
    finally:
        await bus.close()


async def stored(bus: Bus, stream: str = "T") -> list[tuple[str, str]]:
    """Subject and body of everything in a stream, in order."""
    info = await bus.api(f"STREAM.INFO.{stream}")
    found: list[tuple[str, str]] = []
    jetstream = bus.client.jetstream()
    subscription = await jetstream.pull_subscribe_bind(
        stream=stream,
        durable=(
            await bus.api(
                f"CONSUMER.CREATE.{stream}",
                {
                    "stream_name": stream,
                    "config": {"ack_policy": "none", "deliver_policy": "all"},
                },
            )
        )["name"],
    )
    while len(found) < info["state"]["messages"]:
        for message in await subscription.fetch(500, timeout=10):
            found.append((message.subject, message.data.decode()))
    return found


async def flood(bus: Bus, count: int, *, start: int = 0, timeout_s: float = 60.0) -> list[Ack]:
    futures = [
        await bus.publish_soon(
            "t.flood", b"%d" % number, {"Nats-Msg-Id": f"flood-{number}"}, timeout_s=timeout_s
        )
        for number in range(start, start + count)
    ]
    return list(await asyncio.gather(*futures))


def in_order(found: Sequence[tuple[str, str]]) -> list[int]:
    return [int(body) for subject, body in found if subject == "t.flood"]


async def test_publishes_are_stored_in_the_order_of_the_calls(bus: Bus) -> None:
    acks = await flood(bus, 5_000)
    assert [ack.seq for ack in acks] == list(range(1, 5_001))
    assert not any(ack.duplicate for ack in acks)
    assert in_order(await stored(bus)) == list(range(5_000))


async def test_each_caller_learns_where_its_own_message_is(bus: Bus) -> None:
    async def one(number: int) -> None:
        ack = await bus.publish(f"t.{number % 7}", b"%d" % number)
        message = await bus.client.jetstream().get_msg("T", ack.seq)
        assert message.data == b"%d" % number

    await asyncio.gather(*(one(number) for number in range(500)))


async def test_an_id_that_is_stored_already_spoils_nothing_for_its_batch(bus: Bus) -> None:
    first = await bus.publish("t.flood", b"3", {"Nats-Msg-Id": "flood-3"})
    acks = await flood(bus, 500)
    assert acks[3].duplicate
    assert acks[3].seq == first.seq
    assert sum(ack.duplicate for ack in acks) == 1
    assert sorted(in_order(await stored(bus))) == list(range(500))


async def test_one_id_twice_at_the_same_time_is_stored_once(bus: Bus) -> None:
    await flood(bus, 20)
    acks = await asyncio.gather(
        *(bus.publish("t.twice", b"{}", {"Nats-Msg-Id": f"twice-{n // 2}"}) for n in range(100))
    )
    assert len({ack.seq for ack in acks}) == 50
    assert sum(ack.duplicate for ack in acks) == 50


async def test_what_the_stream_refuses_fails_alone(bus: Bus) -> None:
    await flood(bus, 20)

    async def one(number: int) -> Ack | Exception:
        try:
            return await bus.publish("t.mixed", b"x" * (200_000 if number == 57 else 10))
        except MessageTooLarge as error:
            return error

    outcomes = await asyncio.gather(*(one(number) for number in range(100)))
    failed = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
    assert failed == [57]
    assert len(await stored(bus)) == 119


async def test_a_compare_and_set_among_others_fails_alone(bus: Bus) -> None:
    await bus.publish("t.cas", b"1")
    outcomes = await asyncio.gather(
        *(
            bus.publish("t.cas", b"2", expected_revision=0)
            if number == 20
            else bus.publish("t.plain", b"x")
            for number in range(50)
        ),
        return_exceptions=True,
    )
    assert [type(each) for each in outcomes if not isinstance(each, Ack)] == [WrongRevision]


async def test_a_stream_without_batches_is_served_too(bus: Bus) -> None:
    await bus.api("STREAM.CREATE.P", {"name": "P", "subjects": ["p.>"], "storage": "file"})
    acks = await asyncio.gather(*(bus.publish("p.a", b"%d" % n) for n in range(300)))
    assert [ack.seq for ack in acks] == list(range(1, 301))


async def test_one_root_in_two_streams_is_served_too(bus: Bus) -> None:
    for name in ("A", "B"):
        config = {**STREAM, "name": name, "subjects": [f"m.{name}.>"]}
        await bus.api(f"STREAM.CREATE.{name}", config)
    acks = await asyncio.gather(*(bus.publish(f"m.{'AB'[n % 2]}.x", b"%d" % n) for n in range(400)))
    assert [ack.stream for ack in acks] == ["A", "B"] * 200
    for name, odd in (("A", 0), ("B", 1)):
        bodies = [int(body) for _, body in await stored(bus, name)]
        assert sorted(bodies) == list(range(odd, 400, 2))


async def test_a_killed_broker_loses_nothing_and_keeps_the_order(
    broker: EmbeddedBroker, bus: Bus
) -> None:
    running = asyncio.create_task(flood(bus, 30_000))
    for _ in range(3):
        await asyncio.sleep(0.15)
        await broker.kill()
        await broker.start()
    acks = await running
    assert len({ack.seq for ack in acks}) == 30_000
    assert in_order(await stored(bus)) == list(range(30_000))


async def test_a_frozen_broker_loses_nothing_and_keeps_the_order(
    broker: EmbeddedBroker, bus: Bus
) -> None:
    assert broker.pid is not None
    running = asyncio.create_task(flood(bus, 20_000))
    # Longer than a try lasts, so that what is under way is sent twice.
    for pause in (2.5, 0.2, 5.0):
        await asyncio.sleep(0.1)
        os.kill(broker.pid, signal.SIGSTOP)
        await asyncio.sleep(pause)
        os.kill(broker.pid, signal.SIGCONT)
    await running
    assert in_order(await stored(bus)) == list(range(20_000))


async def test_while_the_broker_is_away_publishers_hold_back_and_learn_their_deadline(
    broker: EmbeddedBroker, bus: Bus
) -> None:
    await flood(bus, 100)
    await broker.kill()
    most = 0
    late = 0
    given = 0

    async def publisher(name: int) -> None:
        nonlocal most, late, given
        for number in range(200):
            future = await bus.publish_soon(f"t.{name}", b"x" * 20_000, timeout_s=0.5)
            given += 1
            future.add_done_callback(lambda done: done.exception())
            most = max(most, bus.held_bytes)
            if not number % 50:
                with pytest.raises(NotAcknowledged, match="same id is safe"):
                    await future
                late += 1

    await asyncio.gather(*(publisher(name) for name in range(20)))
    assert given == 4_000
    assert late == 80
    assert HELD_BYTES < most < HELD_BYTES + 20 * 21_000
    await broker.start()
    # Without doing anything, everything flows again, and nothing of it is left behind.
    await flood(bus, 1_000, start=100)
    assert in_order(await stored(bus)) == list(range(1_100))
    assert bus.held_bytes == 0


async def test_many_small_messages_are_bounded_too(broker: EmbeddedBroker, bus: Bus) -> None:
    await flood(bus, 10)
    await broker.kill()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    futures = [await bus.publish_soon("t.a", b"x", timeout_s=1) for _ in range(HELD_MESSAGES + 10)]
    assert loop.time() - begun > 0.5, "nobody was held back"
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(outcome, NotAcknowledged) for outcome in outcomes)
    await broker.start()


async def test_a_cancelled_publish_leaves_the_lane_in_order(bus: Bus) -> None:
    await flood(bus, 10)
    tasks = [asyncio.create_task(bus.publish("t.c", b"%d" % n)) for n in range(500)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    acks = [each for each in done if isinstance(each, Ack)]
    assert len(acks) >= 333
    assert [ack.seq for ack in acks] == sorted(ack.seq for ack in acks)
    await flood(bus, 100, start=10)
    assert bus.held_bytes == 0


async def test_closing_ends_what_waits_with_an_error(broker: EmbeddedBroker, bus: Bus) -> None:
    await flood(bus, 10)
    await broker.kill()
    future = await bus.publish_soon("t.a", b"x")
    await bus.close()
    with pytest.raises(NotAcknowledged, match="closed"):
        await future
    with pytest.raises(NotAcknowledged, match="closed"):
        await bus.publish("t.a", b"x")


async def test_many_are_stored_all_or_not_at_all(bus: Bus) -> None:
    messages = [Outgoing("t.many", b"%d" % number) for number in range(1_000)]
    acks = await bus.publish_many(messages)
    assert [ack.seq for ack in acks] == list(range(1, 1_001))
    messages[500] = Outgoing("t.large", b"x" * 200_000)
    with pytest.raises(MessageTooLarge, match=r"t\.large: the message has 200,"):
        await bus.publish_many(messages)
    assert len(await stored(bus)) == 1_000
    with pytest.raises(ValueError, match="1,000"):
        await bus.publish_many([Outgoing("t.many", b"x")] * 1_001)
    with pytest.raises(ValueError, match="different streams"):
        await bus.publish_many([Outgoing("t.many", b"x"), Outgoing("u.many", b"x")])
    assert await bus.publish_many([]) == []


async def test_many_hold_back_before_they_are_encoded(broker: EmbeddedBroker, bus: Bus) -> None:
    await flood(bus, 10)
    await broker.kill()
    messages = [Outgoing("t.many", b"x" * 15_000)] * 1_000
    outcomes = asyncio.gather(
        *(bus.publish_many(messages, timeout_s=1) for _ in range(10)), return_exceptions=True
    )
    most = 0
    while not outcomes.done():
        most = max(most, bus.held_bytes)
        await asyncio.sleep(0.02)
    assert all(isinstance(each, NotAcknowledged) for each in await outcomes)
    assert most < HELD_BYTES + 2 * 15_600_000
    await broker.start()
    assert len(await stored(bus)) == 10


async def test_leaving_when_the_broker_is_gone_lets_the_own_error_out(
    broker: EmbeddedBroker,
) -> None:
    settings = ConnectionSettings(
        nats_url=broker.url, nats_user=broker.user, nats_password=SecretStr(broker.password)
    )

    async def ask() -> None:
        async with connected(settings) as other:
            await broker.kill()
            await other.request("nobody", b"", timeout_s=0.5)

    with pytest.raises(BusUnavailable):
        await ask()


async def test_many_under_ids_of_which_some_are_stored_are_each_stored_once(bus: Bus) -> None:
    await flood(bus, 5)
    messages = [
        Outgoing("t.flood", b"%d" % number, {"Nats-Msg-Id": f"flood-{number}"})
        for number in range(50)
    ]
    for _ in range(2):
        acks = await bus.publish_many(messages)
        assert len({ack.seq for ack in acks}) == 50
    assert in_order(await stored(bus)) == list(range(50))


async def test_many_keep_their_place_among_others(bus: Bus) -> None:
    await flood(bus, 10)
    before = [await bus.publish_soon("t.flood", b"%d" % n) for n in range(10, 200)]
    group = asyncio.create_task(
        bus.publish_many([Outgoing("t.flood", b"%d" % n) for n in range(200, 400)])
    )
    await asyncio.sleep(0)
    after = [await bus.publish_soon("t.flood", b"%d" % n) for n in range(400, 600)]
    await asyncio.gather(group, *before, *after)
    assert in_order(await stored(bus)) == list(range(600))


async def test_many_survive_a_kill_whole(broker: EmbeddedBroker, bus: Bus) -> None:
    await flood(bus, 10)

    async def group(name: int) -> None:
        await bus.publish_many(
            [Outgoing(f"t.g{name}", b"%d" % number) for number in range(300)], timeout_s=60
        )

    running = asyncio.gather(*(group(name) for name in range(40)))
    for _ in range(2):
        await asyncio.sleep(0.05)
        await broker.kill()
        await broker.start()
    await running
    found = await stored(bus)
    for name in range(40):
        bodies = [int(body) for subject, body in found if subject == f"t.g{name}"]
        assert bodies == list(range(300))


# The bulk lane


async def test_bulk_is_stored_in_order_and_counted(bus: Bus) -> None:
    async with bus.bulk() as lane:
        for number in range(5_000):
            await lane.publish("t.flood", b"%d" % number)
    assert lane.receipt.messages == 5_000
    assert lane.receipt.stream == "T"
    assert lane.receipt.batches == 1
    assert in_order(await stored(bus)) == list(range(5_000))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
async def test_little_bulk_is_bulk_too(bus: Bus, count: int) -> None:
    async with bus.bulk() as lane:
        for number in range(count):
            await lane.publish("t.flood", b"%d" % number)
    assert lane.receipt.messages == count
    assert in_order(await stored(bus)) == list(range(count))


async def test_bulk_that_is_published_again_is_stored_once(bus: Bus) -> None:
    for _ in range(2):
        async with bus.bulk() as lane:
            for number in range(1_200):
                await lane.publish("t.flood", b"%d" % number, {"Nats-Msg-Id": f"b-{number}"})
        assert lane.receipt.messages == 1_200
    assert in_order(await stored(bus)) == list(range(1_200))


async def test_bulk_rides_out_kills_and_a_freeze(broker: EmbeddedBroker, bus: Bus) -> None:
    async def break_things() -> None:
        for _ in range(3):
            await asyncio.sleep(0.2)
            await broker.kill()
            await broker.start()
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        await asyncio.sleep(3)
        os.kill(broker.pid, signal.SIGCONT)

    breaking = asyncio.create_task(break_things())
    sent = 0
    async with bus.bulk() as lane:
        while not breaking.done():
            await lane.publish("t.flood", b"%d" % sent, {"Nats-Msg-Id": f"b-{sent}"})
            sent += 1
    await breaking
    assert lane.receipt.messages == sent
    assert lane.receipt.batches > 1
    assert in_order(await stored(bus)) == list(range(sent))


async def test_bulk_survives_a_silence_longer_than_the_broker_allows(bus: Bus) -> None:
    async with bus.bulk() as lane:
        await lane.publish("t.flood", b"0")
        await asyncio.sleep(11)
        await lane.publish("t.flood", b"1")
    assert in_order(await stored(bus)) == [0, 1]


async def test_bulk_names_the_message_that_is_refused(bus: Bus) -> None:
    lane = bus.bulk()

    async def publish() -> None:
        async with lane:
            for number in range(100):
                await lane.publish("t.flood", b"%d" % number)
            await lane.publish("t.large", b"x" * 200_000)
            await lane.publish("t.flood", b"100")

    with pytest.raises(MessageTooLarge, match=r"t\.large"):
        await publish()
    assert lane.acknowledged >= 100


async def test_bulk_needs_a_stream_that_takes_it(bus: Bus) -> None:
    await bus.api("STREAM.CREATE.P", {"name": "P", "subjects": ["p.>"], "storage": "file"})
    with pytest.raises(PublishRefused, match="interlock setup"):
        async with bus.bulk() as lane:
            await lane.publish("p.a", b"x")


async def test_bulk_to_nowhere_ends_at_its_limit(bus: Bus) -> None:
    with pytest.raises(NotAcknowledged, match="interlock setup"):
        async with bus.bulk(timeout_s=1) as lane:
            await lane.publish("nowhere.a", b"x")
    with pytest.raises(NotAcknowledged, match="not been committed"):
        _ = lane.receipt


async def test_bulk_holds_no_more_than_it_says(broker: EmbeddedBroker, bus: Bus) -> None:
    assert broker.pid is not None
    pid = broker.pid
    most = 0

    async def publish() -> None:
        nonlocal most
        async with bus.bulk(timeout_s=1) as lane:
            for number in range(2_000):
                if number == 100:
                    os.kill(pid, signal.SIGSTOP)
                await lane.publish("t.a", b"x" * 90_000)
                most = max(most, lane.held_bytes)

    with pytest.raises(NotAcknowledged, match="same ids is safe"):
        await publish()
    os.kill(pid, signal.SIGCONT)
    assert most <= 16 * 1024 * 1024 + 100_000
