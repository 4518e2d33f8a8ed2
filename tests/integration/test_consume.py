"""Consuming with the kit: one end for every message, whatever the handler does."""

import asyncio
import uuid
from collections import Counter
from contextvars import ContextVar
from typing import Any

import msgspec
import pytest

import interlock
from interlock import RetryPolicy
from interlock.bus import Bus
from interlock.errors import ContractBroken
from interlock.fleet import Fleet
from interlock_schemas import letters, subjects
from interlock_schemas.letters import LetterFilter, LetterRecord
from interlock_schemas.training import TrainingCompleted
from tests.conftest import PATIENCE_S, Up, eventually, running

QUICK = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.05)


def name_of_consumer() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


async def letters_of(fleet: Fleet, consumer: str) -> tuple[LetterRecord, ...]:
    page = await fleet.command(
        letters.LIST, letters.ListLetters(filter=LetterFilter(consumer=consumer))
    )
    return page.letters


async def idle(bus: Bus, consumer: str) -> bool:
    info = await bus.api(f"CONSUMER.INFO.EVENTS.{consumer}")
    return bool(info["num_pending"] == 0 and info["num_ack_pending"] == 0)


async def test_a_handler_that_returns_has_handled_the_event(fleet: Fleet, bus: Bus) -> None:
    seen: list[TrainingCompleted] = []

    async def handle(received: interlock.Received[Any]) -> None:
        seen.append(received.event)

    name = name_of_consumer()
    work = fleet.consume(name, handle, TrainingCompleted, from_start=False)
    async with running(work):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="hex8_2p", model=name))
        await eventually(lambda: as_true([e for e in seen if e.model == name]))
        await eventually(lambda: idle(bus, name))
    assert await letters_of(fleet, name) == ()


async def exists(bus: Bus, consumer: str) -> bool:
    from interlock.bus import ApiError

    try:
        await bus.api(f"CONSUMER.INFO.EVENTS.{consumer}")
    except ApiError:
        return False
    return True


async def as_true(value: object) -> object:
    return value


async def test_a_handler_that_recovers_leaves_no_letter(fleet: Fleet, bus: Bus) -> None:
    attempts: list[int] = []

    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            attempts.append(received.attempt)
            if received.attempt < 3:
                raise RuntimeError("not yet")

    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training", from_start=False, retry=QUICK)):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=name))
        await eventually(lambda: as_true(3 in attempts))
        await eventually(lambda: idle(bus, name))
    assert attempts == [1, 2, 3]
    assert await letters_of(fleet, name) == ()


async def test_the_last_failure_becomes_a_letter_with_the_exception(fleet: Fleet, bus: Bus) -> None:
    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            raise ValueError("the loss went up")

    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training", from_start=False, retry=QUICK)):
        await eventually(lambda: exists(bus, name))
        ack = await fleet.publish(TrainingCompleted(config="c", model=name))
        (record,) = await eventually(lambda: letters_of(fleet, name))
        await eventually(lambda: idle(bus, name))
    assert record.code == "handler_failed"
    assert record.attempts == 3
    assert "the loss went up" in record.reason
    assert "Traceback" in record.error
    assert record.stream_seq == ack.seq
    assert record.name == "training.completed"


async def test_reject_makes_a_letter_at_once(fleet: Fleet, bus: Bus) -> None:
    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            raise interlock.Reject("models of that family are retired")

    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training", from_start=False)):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=name))
        (record,) = await eventually(lambda: letters_of(fleet, name))
    assert (record.code, record.attempts) == ("rejected", 1)


async def test_a_handler_past_its_time_limit_is_stopped(fleet: Fleet, bus: Bus) -> None:
    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            await asyncio.Event().wait()

    name = name_of_consumer()
    policy = RetryPolicy(attempts=2, base_s=0.01, cap_s=0.02, timeout_s=0.1)
    async with running(fleet.consume(name, handle, "training", from_start=False, retry=policy)):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=name))
        (record,) = await eventually(lambda: letters_of(fleet, name))
    assert (record.code, record.attempts) == ("timed_out", 2)


async def test_a_long_handler_keeps_its_message(fleet: Fleet, bus: Bus) -> None:
    attempts: list[int] = []

    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            attempts.append(received.attempt)
            await asyncio.sleep(3.5)

    name = name_of_consumer()
    work = fleet.consume(name, handle, "training", from_start=False, ack_wait_s=1.0)
    async with running(work):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=name))
        await eventually(lambda: as_true(attempts))
        await eventually(lambda: idle(bus, name))
    assert attempts == [1]


async def test_never_more_in_hand_than_places(fleet: Fleet, bus: Bus) -> None:
    at_once = 0
    most = 0
    done = 0

    async def handle(received: interlock.Received[Any]) -> None:
        nonlocal at_once, most, done
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.005)
        at_once -= 1
        done += received.payload.get("model") == name

    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training", from_start=False, concurrency=4)):
        await eventually(lambda: exists(bus, name))
        await fleet.publish_many(TrainingCompleted(config="c", model=name) for _ in range(200))
        await eventually(lambda: as_true(done == 200))
        info = await bus.api(f"CONSUMER.INFO.EVENTS.{name}")
        assert info["num_ack_pending"] <= 8
    assert most <= 4


async def test_an_event_that_nobody_could_decode_becomes_a_letter(fleet: Fleet, bus: Bus) -> None:
    async def handle(received: interlock.Received[Any]) -> None:
        raise AssertionError(f"it should not get here: {received.id}")

    name = name_of_consumer()
    work = fleet.consume(name, handle, "training.rollback_completed", from_start=False)
    async with running(work):
        await eventually(lambda: exists(bus, name))
        await bus.publish(subjects.event("training.rollback_completed", "c"), b"{not json")
        (record,) = await eventually(lambda: letters_of(fleet, name))
    assert record.code == "undecodable"


async def test_a_replay_reaches_only_the_consumer_that_failed(fleet: Fleet, bus: Bus) -> None:
    failing = True
    sick_saw: list[str] = []
    healthy_saw: list[str] = []

    async def sick(received: interlock.Received[Any]) -> None:
        if received.event.model == sick_name:
            if failing:
                raise RuntimeError("defect")
            sick_saw.append(received.id)

    async def healthy(received: interlock.Received[Any]) -> None:
        if received.event.model == sick_name:
            healthy_saw.append(received.id)

    sick_name, healthy_name = name_of_consumer(), name_of_consumer()
    async with running(
        fleet.consume(sick_name, sick, "training", from_start=False, retry=QUICK),
        fleet.consume(healthy_name, healthy, "training", from_start=False),
    ):
        for name in (sick_name, healthy_name):
            await eventually(lambda name=name: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=sick_name), id=f"id-{sick_name}")
        (record,) = await eventually(lambda: letters_of(fleet, sick_name))
        failing = False
        for _ in range(2):
            await fleet.command(letters.REPLAY, letters.ReplayLetters(ids=(record.id,)))

        async def resolved() -> bool:
            return (await letters_of(fleet, sick_name))[0].status == "resolved"

        await eventually(resolved)
        await eventually(lambda: idle(bus, healthy_name))
    assert sick_saw == [f"id-{sick_name}"]
    assert healthy_saw == [f"id-{sick_name}"]


async def test_a_letter_that_fails_again_is_one_letter_with_both_attempts(
    fleet: Fleet, bus: Bus
) -> None:
    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            raise RuntimeError("still broken")

    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training", from_start=False, retry=QUICK)):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=name))
        (record,) = await eventually(lambda: letters_of(fleet, name))
        for hop in range(1, 12):
            report = await fleet.command(
                letters.REPLAY, letters.ReplayLetters(ids=(record.id,), reason=f"try {hop}")
            )
            if report.refused:
                break

            async def dead_again(hop: int = hop) -> bool:
                (now,) = await letters_of(fleet, name)
                return now.status == "open" and now.hop == hop

            await eventually(dead_again)
    assert "replayed 8 times" in report.refused[record.id]
    (last,) = await letters_of(fleet, name)
    assert [step.did for step in last.history] == ["died"] + ["replayed", "died"] * 8
    assert last.history[1].reason == "try 1"


async def test_draining_finishes_what_is_in_hand(fleet: Fleet, bus: Bus) -> None:
    stop = asyncio.Event()
    begun = asyncio.Event()
    finished: list[str] = []

    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            begun.set()
            await asyncio.sleep(0.3)
            finished.append(received.id)

    name = name_of_consumer()
    async with asyncio.TaskGroup() as group:
        group.create_task(fleet.consume(name, handle, "training", from_start=False, stop=stop))
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=name))
        await begun.wait()
        stop.set()
    assert len(finished) == 1
    await eventually(lambda: idle(bus, name))


async def test_a_message_that_kills_its_takers_is_poison(fleet: Fleet, bus: Bus) -> None:
    """Taken and never answered, as by a process that dies each time."""
    seen: list[int] = []

    async def handle(received: interlock.Received[Any]) -> None:
        seen.append(received.attempt)

    name = name_of_consumer()
    policy = RetryPolicy(attempts=2, poison_after=4)
    filter = "training.rollback_requested"
    async with running(fleet.consume(name, handle, filter, from_start=False, ack_wait_s=0.3)):
        await eventually(lambda: exists(bus, name))
    await bus.publish(subjects.event(filter, "c"), b"{}")
    takers = await bus.client.jetstream().pull_subscribe_bind(name, "EVENTS")
    for _ in range(4):
        await takers.fetch(1, timeout=20)
    await takers.unsubscribe()
    async with running(fleet.consume(name, handle, filter, retry=policy, ack_wait_s=0.3,
                                     from_start=False)):  # fmt: skip
        (record,) = await eventually(lambda: letters_of(fleet, name))
    assert record.code == "poison"
    assert seen == []


async def test_consuming_goes_on_after_the_broker_was_killed(own_up: Up) -> None:
    import os
    import signal

    from interlock.bus import connected

    seen: set[str] = set()

    async def handle(received: interlock.Received[Any]) -> None:
        seen.add(str(received.payload.get("model")))

    async with connected(own_up.settings, name="test") as bus:
        fleet = Fleet(bus, source="test")
        async with running(fleet.consume("survivor", handle, "training", ack_wait_s=2.0)):
            for round in range(3):
                await fleet.publish(TrainingCompleted(config="c", model=f"before-{round}"))
                await eventually(lambda r=round: as_true(f"before-{r}" in seen))
                os.kill(own_up.pids()["broker"], signal.SIGKILL)
                ack = await fleet.publish(TrainingCompleted(config="c", model=f"after-{round}"))
                assert ack.stream == "EVENTS"
                await eventually(lambda r=round: as_true(f"after-{r}" in seen))


async def test_a_wrong_name_is_refused_before_anything_is_created(fleet: Fleet) -> None:
    async def handle(received: interlock.Received[Any]) -> None: ...

    with pytest.raises(ValueError, match="no consumer name"):
        await fleet.consume("has.dots", handle)
    with pytest.raises(ValueError, match="neither an event type nor a domain"):
        await fleet.consume("fine", handle, "trainig")


async def test_undeclared_fields_reach_the_handler(fleet: Fleet, bus: Bus) -> None:
    got: list[Any] = []

    async def handle(received: interlock.Received[Any]) -> None:
        if received.payload.get("model") == name:
            got.append(received.payload)

    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training", from_start=False)):
        await eventually(lambda: exists(bus, name))
        body = msgspec.json.encode({"config": "c", "model": name, "mine": [1, 2]})
        await bus.publish(subjects.event("training.completed", "c"), body)
        await eventually(lambda: as_true(got))
    assert got[0]["mine"] == [1, 2]


async def test_a_cancelled_consumer_ends_whenever_the_cancellation_comes(
    fleet: Fleet, bus: Bus
) -> None:
    async def handle(received: interlock.Received[Any]) -> None: ...

    for turns in range(60):
        work = asyncio.create_task(fleet.consume("cancelled", handle, "training"))
        for _ in range(turns):
            await asyncio.sleep(0)
        work.cancel()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(asyncio.CancelledError):
                await work
    await bus.api("CONSUMER.DELETE.EVENTS.cancelled")


async def test_the_name_of_a_service_or_of_another_consumer_is_refused(
    fleet: Fleet, bus: Bus
) -> None:
    async def handle(received: interlock.Received[Any]) -> None: ...

    with pytest.raises(ContractBroken, match="choose another"):
        await fleet.consume("dead-letter-queue-resolved", handle, TrainingCompleted)
    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training")):
        await eventually(lambda: exists(bus, name))
    with pytest.raises(ContractBroken, match="filter_subjects"):
        await fleet.consume(name, handle, "evaluation")
    async with running(fleet.consume(name, handle, "training", from_start=False, ack_wait_s=9)):

        async def updated() -> bool:
            info = await bus.api(f"CONSUMER.INFO.EVENTS.{name}")
            return bool(info["config"]["ack_wait"] == 9_000_000_000)

        await eventually(updated)
    with pytest.raises(ValueError, match="at least 1"):
        await fleet.consume(name, handle, concurrency=0)


async def test_a_reject_with_a_code_that_is_none_is_the_handlers_failure(
    fleet: Fleet, bus: Bus
) -> None:
    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            raise interlock.Reject("no", code="my_own_code")

    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training", from_start=False, retry=QUICK)):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=name))
        (record,) = await eventually(lambda: letters_of(fleet, name))
    assert record.code == "handler_failed"
    assert "my_own_code" in record.reason


async def test_a_backlog_of_large_messages_does_not_overrun_the_connection(
    fleet: Fleet, bus: Bus
) -> None:
    name = name_of_consumer()
    filter = "cluster.quorum_lost"
    done: list[int] = []

    async def handle(received: interlock.Received[Any]) -> None:
        done.append(received.attempt)

    async with running(fleet.consume(name, handle, filter, from_start=False)):
        await eventually(lambda: exists(bus, name))
    body = msgspec.json.encode({"mark": name, "own": "x" * 6_000_000})
    for _ in range(30):
        await bus.publish(subjects.event(filter, "c"), body)
    async with running(fleet.consume(name, handle, filter, concurrency=256)):
        await eventually(lambda: as_true(len(done) >= 30))
        await eventually(lambda: idle(bus, name))
    assert done == [1] * 30


async def test_a_batch_is_whatever_is_there(fleet: Fleet, bus: Bus) -> None:
    sizes: list[int] = []
    seen: list[int] = []

    async def handle(several: list[interlock.Received[Any]]) -> None:
        mine = [each.payload["n"] for each in several if each.payload.get("model") == name]
        sizes.append(len(several))
        seen.extend(mine)
        await asyncio.sleep(0.02)

    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training", from_start=False, batch=1)):
        await eventually(lambda: exists(bus, name))
    await publish_numbered(bus, name, 300)
    async with running(
        fleet.consume(name, handle, "training", from_start=False, batch=64, concurrency=2)
    ):
        await eventually(lambda: as_true(len(seen) >= 300))
        await eventually(lambda: idle(bus, name))
    assert sorted(seen) == list(range(300))
    assert 1 < max(sizes) <= 64


async def publish_numbered(bus: Bus, model: str, count: int) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            body = msgspec.json.encode({"config": f"c{number % 7}", "model": model, "n": number})
            subject = subjects.event("training.completed", f"c{number % 7}")
            group.create_task(bus.publish(subject, body))


async def test_a_batch_handler_decides_for_each_message(fleet: Fleet, bus: Bus) -> None:
    tries: Counter[int] = Counter()

    async def handle(several: list[interlock.Received[Any]]) -> list[Any]:
        return [decide(each) for each in several]

    def decide(received: interlock.Received[Any]) -> Any:
        if received.payload.get("model") != name:
            return interlock.Handled()
        number = received.payload["n"]
        tries[number] += 1
        if number == 1:
            return interlock.Reject("not that one")
        if number == 2 and tries[2] == 1:
            return interlock.Retry(delay_s=0.01)
        if number == 3:
            return RuntimeError("never that one")
        return interlock.Handled() if number else None

    name = name_of_consumer()
    work = fleet.consume(name, handle, "training", from_start=False, batch=10, retry=QUICK)
    async with running(work):
        await eventually(lambda: exists(bus, name))
        await publish_numbered(bus, name, 5)

        async def both() -> Any:
            found = await letters_of(fleet, name)
            return found if len(found) == 2 else None

        found = await eventually(both)
        await eventually(lambda: idle(bus, name))
    assert sorted((each.code, each.attempts) for each in found) == [
        ("handler_failed", 3),
        ("rejected", 1),
    ]
    assert tries == {0: 1, 1: 1, 2: 2, 3: 3, 4: 1}


async def test_one_bad_message_takes_no_other_of_its_batch_along(fleet: Fleet, bus: Bus) -> None:
    done: list[int] = []

    async def handle(several: list[interlock.Received[Any]]) -> None:
        mine = [each.payload["n"] for each in several if each.payload.get("model") == name]
        if 13 in mine:
            raise RuntimeError("thirteen")
        done.extend(mine)

    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training", from_start=False, batch=1)):
        await eventually(lambda: exists(bus, name))
    await publish_numbered(bus, name, 40)
    work = fleet.consume(
        name, handle, "training", from_start=False, batch=40, concurrency=1, retry=QUICK
    )
    async with running(work):
        (record,) = await eventually(lambda: letters_of(fleet, name))
        await eventually(lambda: idle(bus, name))
    assert (record.code, record.attempts) == ("handler_failed", 3)
    assert "thirteen" in record.reason
    assert sorted(done) == [n for n in range(40) if n != 13]


async def test_a_batch_handler_that_returns_something_else_has_failed(
    fleet: Fleet, bus: Bus
) -> None:
    async def handle(several: list[interlock.Received[Any]]) -> Any:
        return ["done" for _ in several] if several[0].event.model == name else None

    name = name_of_consumer()
    work = fleet.consume(name, handle, "training", from_start=False, batch=1, retry=QUICK)
    async with running(work):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=name))
        (record,) = await eventually(lambda: letters_of(fleet, name))
    assert record.code == "handler_failed"
    assert "is no decision" in record.reason


async def test_a_handler_that_raises_a_cancellation_has_failed_at_once(
    fleet: Fleet, bus: Bus
) -> None:
    attempts: list[int] = []

    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            attempts.append(received.attempt)
            if len(attempts) == 1:
                raise asyncio.CancelledError
            if len(attempts) == 2:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(10)

    name = name_of_consumer()
    work = fleet.consume(
        name, handle, "training", from_start=False, retry=QUICK, ack_wait_s=600.0, concurrency=1
    )
    async with running(work):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=name))
        await eventually(lambda: as_true(len(attempts) == 3))
        await eventually(lambda: idle(bus, name))
    assert attempts == [1, 2, 3]
    assert await letters_of(fleet, name) == ()


async def test_a_handler_that_goes_on_past_its_time_limit_is_answered_for(
    fleet: Fleet, bus: Bus
) -> None:
    release = asyncio.Event()
    others: list[str] = []

    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
        elif received.event.model == f"{name}-after":
            others.append(received.id)

    name = name_of_consumer()
    policy = RetryPolicy(attempts=1, timeout_s=0.1)
    work = fleet.consume(
        name, handle, "training", from_start=False, retry=policy, concurrency=2, ack_wait_s=600.0
    )
    async with running(work):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=name))
        (record,) = await eventually(lambda: letters_of(fleet, name))
        await eventually(lambda: idle(bus, name))
        release.set()
        for _ in range(4):
            await fleet.publish(TrainingCompleted(config="c", model=f"{name}-after"))
        await eventually(lambda: as_true(len(others) == 4))
    assert (record.code, record.attempts) == ("timed_out", 1)
    assert len(await letters_of(fleet, name)) == 1


async def test_an_exception_that_cannot_say_what_it_is_becomes_a_letter_all_the_same(
    fleet: Fleet, bus: Bus
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            raise Mute

    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training", from_start=False, retry=QUICK)):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(TrainingCompleted(config="c", model=name))
        (record,) = await eventually(lambda: letters_of(fleet, name))
    assert record.code == "handler_failed"
    assert record.reason.startswith("Mute: ")


async def test_what_a_handler_leaves_in_its_context_does_not_reach_the_next_message(
    fleet: Fleet, bus: Bus
) -> None:
    left: ContextVar[str] = ContextVar("left", default="")
    found: list[str] = []

    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            found.append(left.get())
            left.set(received.id)

    name = name_of_consumer()
    async with running(fleet.consume(name, handle, "training", from_start=False, concurrency=1)):
        await eventually(lambda: exists(bus, name))
        for _ in range(5):
            await fleet.publish(TrainingCompleted(config="c", model=name))
        await eventually(lambda: as_true(len(found) == 5))
    assert found == [""] * 5


@pytest.mark.parametrize("batch", [None, 8])
async def test_a_trace_goes_on_through_a_handler_that_records_nothing(
    fleet: Fleet, bus: Bus, batch: int | None
) -> None:
    async def handle(received: interlock.Received[Any]) -> None:
        if received.event.model == name:
            await fleet.publish(TrainingCompleted(config="c", model=f"{name}-next"))
        elif received.event.model == f"{name}-next":
            found.append(received.headers.get("traceparent", ""))

    async def handle_batch(several: list[interlock.Received[Any]]) -> None:
        for received in several:
            with received.in_trace():
                await handle(received)

    found: list[str] = []
    name = name_of_consumer()
    trace = uuid.uuid4().hex
    work = (
        fleet.consume(name, handle, "training", from_start=False)
        if batch is None
        else fleet.consume(name, handle_batch, "training", from_start=False, batch=batch)
    )
    async with running(work):
        await eventually(lambda: exists(bus, name))
        await fleet.publish(
            TrainingCompleted(config="c", model=name),
            headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
        )
        await fleet.publish(TrainingCompleted(config="c", model="of no trace"))
        await eventually(lambda: as_true(found))
    assert trace in found[0]
