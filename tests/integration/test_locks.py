"""Locks as a worker uses them, on a real broker with the real service."""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from interlock.bus import connected
from interlock.conditional import living
from interlock.errors import (
    BusUnavailable,
    LeaseLost,
    LockBusy,
    LockDeadlock,
    LockRefused,
    LockTimeout,
)
from interlock.fleet import Fleet, connect
from interlock.locks.lease import Lease
from interlock.reader import Reader
from interlock_schemas import locks
from interlock_schemas.locks import AcquireLock, EndLock, ReleaseLock
from interlock_schemas.node import NodeLost
from interlock_schemas.topology import LOCKS
from tests.conftest import Up, eventually
from tests.integration.lock_fleet import show

Connect = Callable[[], Awaitable[Fleet]]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A lock of the test's own."""
    return "t:" + re.sub(r"[^A-Za-z0-9_]", "-", request.node.name)[:150]


@pytest.fixture
async def another(up: Up) -> AsyncIterator[Connect]:
    """Workers with connections of their own."""
    async with contextlib.AsyncExitStack() as stack:

        async def make() -> Fleet:
            bus = await stack.enter_async_context(connected(up.settings, name="other"))
            fleet = Fleet(bus, source="other")
            stack.push_async_callback(fleet.close)
            return fleet

        yield make


async def waiting(fleet: Fleet, name: str, count: int) -> list[str]:
    """The ids that wait, in order, once there are so many."""

    async def there() -> list[str]:
        found = [claim.id for claim in (await show(fleet, name)).waiting]
        return found if len(found) == count else []

    return list(await eventually(there))


async def free(fleet: Fleet, name: str) -> None:
    """Nobody has a claim to it, or comes to."""

    async def nobody() -> bool:
        seen = await show(fleet, name)
        return not seen.holders and not seen.waiting

    await eventually(nobody)


async def queue(
    group: asyncio.TaskGroup, fleet: Fleet, name: str, order: list[Any], **options: Any
) -> "asyncio.Task[None]":
    """Have a task wait for a lock, note its turn in `order`, and give it back."""
    ahead = len((await show(fleet, name)).waiting)

    async def work() -> None:
        async with fleet.lock(name, **options) as lease:
            order.append(options.get("note") or lease.token)

    task = group.create_task(work())
    await waiting(fleet, name, ahead + 1)
    return task


# Alone and beside others


async def test_alone_a_lock_is_taken_and_given_back_past_the_service(
    fleet: Fleet, name: str
) -> None:
    tokens = []
    for _ in range(5):
        async with fleet.lock(name) as lease:
            assert lease.alone
            assert 28 < lease.remaining_s <= 29
            assert lease.headers() == {
                "interlock-lock": name,
                "interlock-lock-token": str(lease.token),
            }
            tokens.append(lease.token)
        assert not lease.held
        with pytest.raises(LeaseLost, match="given back"):
            lease.check()
        assert not lease.lost.is_set()
    assert tokens == sorted(set(tokens))


async def test_the_service_grants_what_is_free_and_asked_of_it(fleet: Fleet, name: str) -> None:
    asked = AcquireLock(name=name, id="mine", owner="a shell script")
    granted = await fleet.command(locks.ACQUIRE, asked)
    assert granted.state == "held"
    again = await fleet.command(locks.ACQUIRE, asked)
    assert (again.token, again.revision) == (granted.token, granted.revision)
    with pytest.raises(LockBusy, match="a shell script"):
        await fleet.acquire_lock(name, wait=0)
    ended = await fleet.command(
        locks.RELEASE, ReleaseLock(name=name, id="mine", token=granted.token)
    )
    assert ended.tokens == (granted.token,)
    async with fleet.lock(name, wait=0) as lease:
        assert lease.token > granted.token


async def test_many_workers_hold_it_one_at_a_time_by_rising_tokens(
    another: Connect, name: str
) -> None:
    inside = 0
    tokens: list[int] = []

    async def work(fleet: Fleet) -> None:
        nonlocal inside
        for _ in range(6):
            async with fleet.lock(name) as lease:
                inside += 1
                assert inside == 1
                await lease.put(name, b"%d" % lease.token)
                tokens.append(lease.token)
                inside -= 1

    fleets = [await another() for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        for fleet in fleets:
            group.create_task(work(fleet))
            group.create_task(work(fleet))
    assert len(tokens) == 48
    assert tokens == sorted(set(tokens))
    assert await fleets[0].fenced_state(name) == b"%d" % tokens[-1]


async def test_a_lease_is_renewed_for_as_long_as_it_is_held(
    fleet: Fleet, another: Connect, name: str
) -> None:
    loop = asyncio.get_running_loop()
    async with fleet.lock(name, ttl=1) as lease:
        until = loop.time() + 3.2
        revision = lease.revision
        token = lease.token
        while loop.time() < until:
            lease.check()
            await asyncio.sleep(0.05)
        assert lease.revision > revision
        assert lease.token == token
        other = await another()
        with pytest.raises(LockBusy):
            await other.acquire_lock(name, wait=0)
    seen = await show(fleet, name)
    assert not seen.holders


async def test_what_was_handed_over_is_renewed_too(
    fleet: Fleet, another: Connect, name: str
) -> None:
    other = await another()
    first = await fleet.acquire_lock(name, ttl=1)
    async with asyncio.TaskGroup() as group:
        second = group.create_task(other.acquire_lock(name, ttl=1))
        await waiting(fleet, name, 1)
        await first.release()
    lease = second.result()
    assert lease.token > first.token
    revision = lease.revision

    async def renewed() -> bool:
        lease.check()
        return lease.revision > revision + 3

    await eventually(renewed)
    await lease.release()
    await free(fleet, name)


async def test_release_hands_over_to_the_first_in_line(fleet: Fleet, name: str) -> None:
    order: list[str] = []
    lease = await fleet.acquire_lock(name)
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            await queue(group, fleet, name, order, note=str(number))
        await lease.release()
    assert order == ["0", "1", "2", "3", "4"]


async def test_a_more_urgent_waiter_is_served_first(fleet: Fleet, name: str) -> None:
    order: list[str] = []
    lease = await fleet.acquire_lock(name)
    urgency = ["background", "normal", "low", "critical", "high", "normal", "critical"]
    async with asyncio.TaskGroup() as group:
        for number, priority in enumerate(urgency):
            await queue(group, fleet, name, order, priority=priority, note=f"{priority} {number}")
        await lease.release()
    assert order == [
        "critical 3",
        "critical 6",
        "high 4",
        "normal 1",
        "normal 5",
        "low 2",
        "background 0",
    ]


async def test_who_has_waited_longer_than_a_level_is_worth_is_served_first(
    fleet: Fleet, another: Connect, name: str
) -> None:
    other = await another()
    lease = await fleet.acquire_lock(name)
    answer = await fleet.command(locks.ACQUIRE, AcquireLock(name=name, id="now", wait=True))
    long_ago = answer.asked_ns - 31 * 10**9
    for id, priority, asked_ns in (
        ("old", "normal", long_ago),
        ("urgent", "high", answer.asked_ns),
        ("older", "low", long_ago - 30 * 10**9),
    ):
        asked = AcquireLock(name=name, id=id, wait=True, priority=priority, asked_ns=asked_ns)  # type: ignore[arg-type]
        await other.command(locks.ACQUIRE, asked)
    assert await waiting(fleet, name, 4) == ["old", "older", "urgent", "now"]
    await lease.release()


# Giving up


async def test_not_to_wait_is_answered_with_who_holds_it(
    fleet: Fleet, another: Connect, name: str
) -> None:
    other = await another()
    async with other.lock(name, owner="the exporter") as lease:
        with pytest.raises(LockBusy, match=f"the exporter .token {lease.token}"):
            await fleet.acquire_lock(name, wait=0)
        assert not (await show(fleet, name)).waiting
        order: list[int] = []
        async with asyncio.TaskGroup() as group:
            task = await queue(group, fleet, name, order)
            with pytest.raises(LockBusy, match="1 waiting"):
                await fleet.acquire_lock(name, wait=0)
            task.cancel()
    await free(fleet, name)


async def test_a_timeout_names_the_holder_and_since_when(
    fleet: Fleet, another: Connect, name: str
) -> None:
    other = await another()
    async with other.lock(name, owner="the exporter") as lease:
        with pytest.raises(LockTimeout) as raised:
            await fleet.acquire_lock(name, wait=0.2)
        assert f"held by the exporter on {other.node} (token {lease.token})" in str(raised.value)
        assert re.search(r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", str(raised.value))

        async def left() -> bool:
            return not (await show(fleet, name)).waiting

        await eventually(left)


async def test_who_is_cancelled_while_waiting_leaves_no_claim(fleet: Fleet, name: str) -> None:
    lease = await fleet.acquire_lock(name)
    task = asyncio.create_task(fleet.acquire_lock(name, wait=math.inf))
    await waiting(fleet, name, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def left() -> bool:
        return not (await show(fleet, name)).waiting

    await eventually(left)
    await lease.release()
    await free(fleet, name)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("contended", [False, True])
async def test_cancelled_at_any_moment_an_acquire_leaves_nothing_behind(
    fleet: Fleet, name: str, contended: bool
) -> None:
    """Nobody renews what is left behind, and it would stand for a minute and more."""
    loop = asyncio.get_running_loop()
    first = await fleet.acquire_lock(name) if contended else None
    if first is not None:
        await first.release()
    cut = {"acquired": 0, "cancelled": 0}
    for step in range(60):
        mine = f"{name}:{step}"
        holder = await fleet.acquire_lock(mine) if contended else None
        task = asyncio.create_task(fleet.acquire_lock(mine, ttl=90.0))
        if holder is not None:
            await _turns(step)
            releasing = asyncio.create_task(holder.release())
        until = loop.time() + step * 0.0002
        while loop.time() < until:
            await _turns(1)
        task.cancel()
        if holder is not None:
            await releasing
        try:
            lease = await task
        except asyncio.CancelledError:
            cut["cancelled"] += 1
        else:
            cut["acquired"] += 1
            await lease.release()
    assert cut["cancelled"]
    for step in range(60):
        async with asyncio.timeout(10), fleet.lock(f"{name}:{step}"):
            pass


async def test_a_release_that_is_cancelled_is_seen_through(fleet: Fleet, name: str) -> None:
    for step in range(1, 20):
        lease = await fleet.acquire_lock(name, ttl=90.0)
        task = asyncio.create_task(lease.release())
        await _turns(step)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10), fleet.lock(name, wait=5):
            pass


async def test_what_is_cancelled_in_the_first_moment_does_not_strand_the_others(
    another: Connect, name: str
) -> None:
    """The first of a connection to wait sets up what all of them hear their grants by."""
    holder = await another()
    for turns in range(8):
        fleet = await another()
        lease = await holder.acquire_lock(f"{name}:{turns}")
        first, second = (
            asyncio.create_task(fleet.acquire_lock(f"{name}:{turns}", wait=30)) for _ in range(2)
        )
        await _turns(turns)
        (first if turns % 2 else second).cancel()
        await lease.release()
        async with asyncio.timeout(20):
            granted = await (second if turns % 2 else first)
        await granted.release()


# The end of a lease


async def _end(fleet: Fleet, name: str, reason: str = "the node burns") -> None:
    await fleet.command(locks.END, EndLock(name=name, reason=reason, by="an operator"))


async def _forever(beside: Coroutine[Any, Any, None]) -> None:
    """Wait for ever, and have something happen meanwhile."""
    task = asyncio.create_task(beside)
    try:
        await asyncio.Event().wait()
    finally:
        await task


async def test_who_loses_a_lease_is_cancelled_and_told_why(
    fleet: Fleet, another: Connect, name: str
) -> None:
    other = await another()
    lost: list[Lease] = []

    async def work() -> None:
        async with fleet.lock(name) as lease:
            lost.append(lease)
            await _forever(_end(other, name))

    with pytest.raises(LeaseLost, match="an operator: the node burns"):
        await work()
    assert lost[0].lost.is_set()
    assert not lost[0].held
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    await asyncio.sleep(0)


async def test_who_wants_to_end_in_order_is_only_told(
    fleet: Fleet, another: Connect, name: str
) -> None:
    other = await another()
    async with fleet.lock(name, on_lost="signal") as lease:
        await _end(other, name)
        await lease.lost.wait()
        assert "the node burns" in lease.lost_reason
        with pytest.raises(LeaseLost):
            await lease.put(name, b"late")
    assert await fleet.fenced_state(name) is None


async def test_the_bodys_own_errors_pass_through(fleet: Fleet, another: Connect, name: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with fleet.lock(name):
            _ = 1 // 0
    other = await another()

    async def work() -> None:
        async with fleet.lock(name):
            try:
                await _forever(_end(other, name))
            finally:
                _ = 1 // 0

    with pytest.raises(ZeroDivisionError):
        await work()
    await asyncio.sleep(0)
    await free(fleet, name)


async def test_a_loss_that_the_body_itself_finds_out_cancels_nothing_afterwards(
    fleet: Fleet, name: str
) -> None:
    """The task's own `check` loses the lease; the cancellation must not strike later."""

    async def work() -> None:
        async with fleet.lock(name, ttl=1) as lease:
            # Nothing runs here from now on until it is over.
            lease._alarm.cancel()
            lease._stop_renewing()
            await asyncio.sleep(lease.remaining_s + 0.01)
            lease.check()

    with pytest.raises(LeaseLost, match="not renewed"):
        await work()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)


async def test_a_deadline_around_a_lock_is_a_timeout_also_when_the_lease_is_lost(
    fleet: Fleet, name: str
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), fleet.lock(name):
            await asyncio.Event().wait()
    await free(fleet, name)

    async def both() -> None:
        async with asyncio.timeout(None) as limit, fleet.lock(name) as lease:
            limit.reschedule(asyncio.get_running_loop().time() - 1)
            asyncio.get_running_loop().call_soon(lease.lose, "a test")
            await asyncio.Event().wait()

    async def only_the_lease() -> None:
        async with fleet.lock(f"{name}:2") as lease, asyncio.timeout(30):
            asyncio.get_running_loop().call_soon(lease.lose, "a test")
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await both()
    with pytest.raises(LeaseLost):
        await only_the_lease()


async def test_a_task_on_its_way_out_can_hold_a_lock_and_lose_it(fleet: Fleet, name: str) -> None:
    heard: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                async with fleet.lock(name) as lease:
                    asyncio.get_running_loop().call_soon(lease.lose, "a test")
                    await asyncio.Event().wait()
            except LeaseLost as error:
                heard.append(str(error))

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard
    assert "a test" in heard[0]


async def test_cancelled_by_others_and_lost_at_once_it_is_cancelled(
    fleet: Fleet, name: str
) -> None:
    async def work() -> None:
        async with fleet.lock(name) as lease:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(lease.lose, "a test")
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())


async def test_a_maximum_age_ends_a_lease_however_often_it_is_renewed(
    fleet: Fleet, another: Connect, name: str
) -> None:
    other = await another()
    queued: list[asyncio.Task[Lease]] = []

    async def work() -> None:
        async with fleet.lock(name, ttl=1, max_age=2):
            queued.append(asyncio.create_task(other.acquire_lock(name)))
            await asyncio.Event().wait()

    with pytest.raises(LeaseLost, match=r"maximum age of 2 s|max_age"):
        await work()
    lease = await queued[0]
    await lease.release()


async def test_an_operator_can_end_one_holder_by_its_token(
    fleet: Fleet, another: Connect, name: str
) -> None:
    other = await another()
    mine = await fleet.acquire_lock(name, slots=2)
    theirs = await other.acquire_lock(name, slots=2)
    await other.command(locks.END, EndLock(name=name, reason="mistaken", token=mine.token))
    await mine.lost.wait()
    assert theirs.held
    await theirs.put(name, b"still here")
    await theirs.release()


async def test_a_lost_node_loses_what_it_had_claimed_before_and_nothing_else(
    up: Up, name: str
) -> None:
    lost = f"node-{name[:40]}"
    async with (
        connected(up.settings) as one,
        connected(up.settings) as two,
        connected(up.settings) as three,
    ):
        gone = Fleet(one, source="gone", node=lost)
        stays = Fleet(two, source="stays", node="another-node")
        back = Fleet(three, source="back", node=lost)
        held = await gone.acquire_lock(f"{name}:a")
        others = await stays.acquire_lock(f"{name}:b")
        async with asyncio.TaskGroup() as group:
            queued = group.create_task(_refused(gone, f"{name}:b"))
            await waiting(stays, f"{name}:b", 1)
            await stays.publish(NodeLost(node=lost, reason="no heartbeat for 60 s"))
            await held.lost.wait()
            assert "no heartbeat" in held.lost_reason
            assert "no heartbeat" in await queued
        after = await back.acquire_lock(f"{name}:a")
        await stays.publish(NodeLost(node="some-other-node"))
        await asyncio.sleep(0.3)
        for lease in (others, after):
            await lease.renew()
            assert lease.held
        for fleet in (gone, stays, back):
            await fleet.close()


async def _refused(fleet: Fleet, name: str) -> str:
    with pytest.raises(LockRefused) as raised:
        await fleet.acquire_lock(name)
    return str(raised.value)


# Several


async def test_several_locks_are_taken_all_or_none(
    fleet: Fleet, another: Connect, name: str
) -> None:
    names = [f"{name}:{letter}" for letter in "cab"]
    async with fleet.locks(names) as leases:
        assert list(leases) == sorted(names)
        assert all(lease.held for lease in leases.values())
    other = await another()
    async with other.lock(names[0]):  # the last in order
        with pytest.raises(LockBusy):
            async with fleet.locks(names, wait=0):
                pytest.fail("it took them")
        with pytest.raises(LockTimeout):
            async with fleet.locks(names, wait=0.2):
                pytest.fail("it took them")
        for free_one in names[1:]:
            async with other.lock(free_one, wait=0):
                pass
    with pytest.raises(LockRefused):
        fleet.locks([name, name])


async def test_one_of_several_that_is_lost_ends_the_block(
    fleet: Fleet, another: Connect, name: str
) -> None:
    other = await another()
    names = [f"{name}:{letter}" for letter in "ab"]

    async def work(lost: str) -> None:
        async with fleet.locks(names):
            await _forever(_end(other, lost))

    for lost in names:
        with pytest.raises(LeaseLost, match=lost):
            await work(lost)
        async with other.locks(names, wait=5):
            pass


async def test_slots_let_so_many_in(fleet: Fleet, name: str) -> None:
    inside = most = 0

    async def work() -> None:
        nonlocal inside, most
        async with fleet.lock(name, slots=3):
            inside += 1
            most = max(most, inside)
            assert inside <= 3
            await asyncio.sleep(0.05)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(9):
            group.create_task(work())
    assert most > 1
    held = await fleet.acquire_lock(name, slots=3)
    with pytest.raises(LockRefused, match="3 slots"):
        await fleet.acquire_lock(name, slots=2)
    await held.release()


# Deadlocks


async def test_three_that_would_wait_for_one_another_are_told(fleet: Fleet, name: str) -> None:
    refused: list[str] = []
    barrier = asyncio.Barrier(3)

    async def work(number: int) -> None:
        async with fleet.lock(f"{name}:{number}"):
            await barrier.wait()
            try:
                async with fleet.lock(f"{name}:{(number + 1) % 3}", wait=30):
                    pass
            except LockDeadlock as error:
                refused.append(str(error))

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(work(number))
    assert len(refused) == 1
    assert refused[0].count("waits for") == 3


async def test_who_waits_for_itself_is_told(fleet: Fleet, name: str) -> None:
    async with fleet.lock(name):
        with pytest.raises(LockDeadlock, match="waits for"):
            await fleet.acquire_lock(name, wait=math.inf)
    async with fleet.lock(name, owner="me"):
        with pytest.raises(LockDeadlock):
            await asyncio.create_task(fleet.acquire_lock(name, owner="me"))


async def test_two_tasks_of_one_process_may_wait_for_one_another(fleet: Fleet, name: str) -> None:
    async with fleet.lock(f"{name}:a"):
        order: list[int] = []
        async with asyncio.TaskGroup() as group:
            async with fleet.lock(f"{name}:b"):
                task = await queue(group, fleet, f"{name}:b", order)
            await task
    assert order


# Writing under a lock


async def test_state_is_written_only_while_the_lease_stands(
    fleet: Fleet, another: Connect, name: str
) -> None:
    other = await another()
    lease = await fleet.acquire_lock(name)
    first = await lease.put(name, b"one")
    await lease.renew()
    assert await lease.put(name, b"two") > first
    await _end(other, name)
    # What it was told is kept from it: a process that was frozen does not know it either.
    lease.lost.clear()
    lease.hold = (await other.acquire_lock(f"{name}:x")).hold
    with pytest.raises(LeaseLost):
        await lease.put(name, b"late")
    assert await other.fenced_state(name) == b"two"


async def test_a_write_goes_on_after_a_renewal_that_nobody_heard_of(
    fleet: Fleet, name: str
) -> None:
    async with fleet.lock(name) as lease:
        before = lease.revision
        await lease.renew()
        assert lease.revision > before
        lease.revision = before
        await lease.put(name, b"mine")
        assert lease.revision > before
        lease.revision = before
        await lease.renew()
        assert lease.revision > before
        assert await fleet.fenced_state(name) == b"mine"
        lease.revision = before
    await free(fleet, name)


async def test_many_writes_and_renewals_at_once(fleet: Fleet, name: str) -> None:
    async with fleet.lock(name) as lease, asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(lease.put(f"{name}/{number}", b"x"))
            group.create_task(lease.renew())
    for number in range(40):
        assert await fleet.fenced_state(f"{name}/{number}") == b"x"


# The place in the queue, and the end of a connection


async def test_who_was_cut_off_until_its_claim_ran_out_has_its_place_back(
    fleet: Fleet, another: Connect, name: str
) -> None:
    order: list[str] = []
    other = await another()
    lease = await fleet.acquire_lock(name)
    async with asyncio.TaskGroup() as group:
        await queue(group, other, name, order, note="first")
        await queue(group, fleet, name, order, note="second")
        first, _ = await waiting(fleet, name, 2)
        # It has not been heard of for six seconds.
        subject = locks.claim_subject(name, first)
        reader = Reader(fleet.bus, LOCKS.stream, (subject,), {"deliver_policy": "last_per_subject"})
        (record,) = [each async for each in reader.records(until_end=True)]
        await fleet.bus.publish(subject, record.body, living(1), expected_revision=record.seq)

        async def anew() -> bool:
            ids = [claim.id for claim in (await show(fleet, name)).waiting]
            return len(ids) == 2 and first not in ids

        await eventually(anew)
        notes = [claim.note for claim in (await show(fleet, name)).waiting]
        assert notes == ["first", "second"]
        await lease.release()
    assert order == ["first", "second"]


async def test_closing_gives_back_and_ends_whoever_waits(
    up: Up, fleet: Fleet, another: Connect, name: str
) -> None:
    other = await another()
    blocking = await other.acquire_lock(f"{name}:blocked")
    async with connect(up.settings, source="closes") as closing:
        for letter in "abc":
            await closing.acquire_lock(f"{name}:{letter}", ttl=90)
        handed = asyncio.create_task(closing.acquire_lock(f"{name}:handed", ttl=90))
        await handed
        stuck = asyncio.create_task(closing.acquire_lock(f"{name}:blocked", wait=math.inf))
        await waiting(fleet, f"{name}:blocked", 1)
    with pytest.raises(BusUnavailable, match="closed"):
        async with asyncio.timeout(10):
            await stuck
    for letter in ("a", "b", "c", "handed"):
        async with fleet.lock(f"{name}:{letter}", wait=0):
            pass
    seen = await show(fleet, f"{name}:blocked")
    assert not seen.waiting
    await blocking.release()
    with pytest.raises(BusUnavailable, match="closed"):
        async with asyncio.timeout(20):
            await closing.acquire_lock(name)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ttl": 0.5}, "ttl"),
        ({"ttl": math.nan}, "ttl"),
        ({"ttl": 100_000}, "ttl"),
        ({"wait": -1}, "wait"),
        ({"wait": math.nan}, "wait"),
        ({"priority": "soon"}, "priority"),
        ({"slots": 0}, "slots"),
        ({"max_age": 0.5}, "max_age"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    fleet: Fleet, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(LockRefused, match=says):
        await fleet.acquire_lock("t:refused", **options)


@pytest.mark.parametrize("bad", ["", "a b", "*", ">", "a\n", "ü", "x" * 300])
async def test_a_name_that_is_none_is_refused(fleet: Fleet, bad: str) -> None:
    with pytest.raises(LockRefused, match="name"):
        await fleet.acquire_lock(bad)


async def test_locks_whose_names_look_alike_are_different(fleet: Fleet, name: str) -> None:
    held: list[Lease] = []
    for suffix in ("a.b", "a/b", "a:b", "A.b", "a=b", "a@b", "a%2Eb".replace("%", "+")):
        held.append(await fleet.acquire_lock(f"{name}.{suffix}", wait=0))
    for lease in held:
        await lease.release()
