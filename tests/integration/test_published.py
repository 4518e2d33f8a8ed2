"""Beyond the broker's memory of ids, a message that comes again still gives one event."""

import time
import uuid

from interlock.bus import Bus
from interlock.delivery import Position
from interlock.publishing import event_headers
from interlock_event_normalizer.published import Published
from interlock_schemas import envelope


async def store(bus: Bus, event_id: str) -> None:
    headers = event_headers("training.completed", id=event_id, source="t", time="")
    headers[envelope.LEGACY_NAME] = "TRAINING_COMPLETE"
    await bus.publish("events.training.completed.c", b'{"config": "c"}', headers)


def position(time_ns: int, *, seq: int = 10**9, deliveries: int = 1) -> Position:
    return Position("LEGACY", "event-normalizer", deliveries, seq, 1, time_ns, 0)


async def test_an_event_that_is_stored_is_found_and_another_is_not(bus: Bus) -> None:
    known, late, unknown = (f"legacy.ü %{uuid.uuid4().hex}" for _ in range(3))
    published = Published(bus, window_s=0)
    at = position(time.time_ns())
    await store(bus, known)
    assert await published.holds(known, at)
    assert not await published.holds(late, at)
    await store(bus, late)
    assert await published.holds(late, at)
    assert not await published.holds(unknown, at)
    assert await published.holds(known, position(at.time_ns - 10**12))


async def test_only_what_came_before_and_is_old_is_doubted(bus: Bus) -> None:
    now = time.time_ns()
    published = Published(bus, window_s=600, clock_ns=lambda: now)
    await published.learn_horizon()
    old, young = now - 601 * 10**9, now - 60 * 10**9
    assert not published.doubtful(position(young, seq=1, deliveries=9))
    assert not published.doubtful(position(old))
    assert published.doubtful(position(old, deliveries=2))
    assert published.doubtful(position(old, seq=1))
    published.handled(2 * 10**9)
    assert published.doubtful(position(old, seq=10**9))
