"""Every call that was let through reports, changes are told, and what is kept survives."""

import asyncio
import contextlib

import pytest

from interlock.breaker import BreakerPolicy
from interlock.breakers import Breakers, Call
from interlock.errors import BreakerOpen
from interlock_schemas.breaker import BreakerClosed, BreakerHalfOpened, BreakerOpened
from interlock_schemas.event import Event

POLICY = BreakerPolicy(failures=3, jitter=0)


class Clock:
    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def breakers(clock: Clock, told: list[Event] | None = None, kept: int = 1_000) -> Breakers:
    return Breakers(
        {"default": POLICY},
        tell=None if told is None else told.append,
        clock=clock,
        wall=lambda: clock.now + 1e9,
        kept=kept,
    )


async def failing(kept: Breakers, times: int, node: str = "a") -> None:
    for _ in range(times):
        with contextlib.suppress(OSError):
            async with kept.guard(node, "ssh"):
                raise OSError


async def test_failures_open_it_and_one_success_closes_it_and_each_change_is_told() -> None:
    clock, told = Clock(), list[Event]()
    kept = breakers(clock, told)
    await failing(kept, 3)
    with pytest.raises(BreakerOpen) as held:
        async with kept.guard("a", "ssh"):
            pytest.fail("it was let through")
    assert held.value.retry_after_s == 10
    assert kept.retry_after_s("a", "ssh") == 10
    assert kept.open_nodes("ssh") == ("a",)
    clock.now += 10
    async with kept.guard("a", "ssh"):
        pass
    assert [type(event) for event in told] == [BreakerOpened, BreakerHalfOpened, BreakerClosed]
    opened = told[0]
    assert isinstance(opened, BreakerOpened)
    assert (opened.node, opened.component, opened.failure_count) == ("a", "ssh", 3)
    assert opened.recovery_timeout_s == 10


async def test_another_node_and_another_transport_are_not_held_back() -> None:
    kept = breakers(Clock())
    await failing(kept, 3)
    async with kept.guard("b", "ssh"), kept.guard("a", "http"):
        pass


async def test_a_cancelled_trial_is_recorded() -> None:
    clock, told = Clock(), list[Event]()
    kept = breakers(clock, told)
    await failing(kept, 3)
    clock.now += 10
    begun = asyncio.Event()

    async def trial() -> None:
        async with kept.guard("a", "ssh"):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(trial())
    await begun.wait()
    with pytest.raises(BreakerOpen):
        async with kept.guard("a", "ssh"):
            pytest.fail("two trials at once")
    task.cancel()
    await asyncio.wait([task])
    async with kept.guard("a", "ssh"):
        pass
    assert kept.state("a", "ssh").standing == "closed"


async def test_what_a_call_was_told_counts() -> None:
    kept = breakers(Clock())

    async def one(how: str) -> None:
        async with kept.guard("a", "ssh") as call:
            getattr(Call, how)(call)

    for _ in range(2):
        await one("failed")
    await one("neutral")
    assert kept.state("a", "ssh").failures == 2
    with contextlib.suppress(OSError):
        async with kept.guard("a", "ssh") as call:
            call.succeeded()
            raise OSError
    assert kept.state("a", "ssh").failures == 0


async def test_a_restarted_process_goes_on_where_the_last_one_was() -> None:
    clock = Clock()
    first = breakers(clock)
    await failing(first, 3)
    await failing(first, 1, "counted")
    other = Clock(5.0)
    second = Breakers({"default": POLICY}, clock=other, wall=lambda: clock.now + 1e9 + 4)
    second.restore(first.save())
    assert second.retry_after_s("a", "ssh") == pytest.approx(6, abs=1e-3)
    assert second.state("counted", "ssh").failures == 1
    other.now += 6.001
    async with second.guard("a", "ssh"):
        pass
    assert second.state("a", "ssh").standing == "closed"


async def test_a_trial_of_a_process_that_died_is_made_anew() -> None:
    clock = Clock()
    first = breakers(clock)
    await failing(first, 3)
    clock.now += 10
    async with first.guard("a", "ssh"):
        saved = first.save()
    second = breakers(clock)
    second.restore(saved)
    async with second.guard("a", "ssh"):
        pass


async def test_a_clock_that_jumped_makes_no_wait_longer() -> None:
    clock = Clock()
    first = breakers(clock)
    await failing(first, 3)
    second = Breakers({"default": POLICY}, clock=clock, wall=lambda: clock.now)
    second.restore(first.save())
    assert second.retry_after_s("a", "ssh") <= 300


async def test_what_is_long_unused_is_forgotten() -> None:
    clock = Clock()
    kept = breakers(clock)
    for number in range(50):
        await failing(kept, 3, f"node-{number}")
    assert len(kept) == 50
    clock.now += 2_000
    await failing(kept, 1)
    assert len(kept) == 1


async def test_memory_is_bounded() -> None:
    kept = breakers(Clock(), kept=10)
    for number in range(100):
        await failing(kept, 3, f"node-{number}")
    assert len(kept) == 10
    assert kept.state("node-99", "ssh").standing == "open"


async def test_a_success_leaves_nothing_behind() -> None:
    kept = breakers(Clock())
    for number in range(100):
        async with kept.guard(f"node-{number}", "ssh"):
            pass
    assert len(kept) == 0


async def test_it_is_closed_ahead_of_time_where_the_peer_was_seen_to_work() -> None:
    told = list[Event]()
    kept = breakers(Clock(), told)
    await failing(kept, 3)
    kept.reset("a", "ssh")
    assert isinstance(told[-1], BreakerClosed)
    async with kept.guard("a", "ssh"):
        pass
    kept.forget("a")
    assert len(kept) == 0
