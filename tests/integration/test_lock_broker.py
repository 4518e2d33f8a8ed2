"""What locks rest on, asked of the broker itself: one server and a cluster of three."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from interlock import provisioning
from interlock.bus import Ack, ApiError, Bus, Write, connect
from interlock.cluster import LocalCluster
from interlock.conditional import ALONE, PURGE, Conditional, expecting, living
from interlock.errors import LeaseLost, NotAcknowledged, PublishRefused, WrongRevision
from interlock.fleet import Fleet
from interlock.kv import decode_message
from interlock.reader import Reader
from interlock_schemas import locks
from interlock_schemas.topology import LOCKS
from interlock_sync_mutex.contract import CONTRACT
from tests.conftest import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

_TTL_TOO_SHORT = 10165
_BUSY = 10164

_numbers = itertools.count(1)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=[1, 3], ids=["one", "three"])
async def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalCluster]:
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"), size=request.param)
    async with cluster.running():
        yield cluster


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bus(cluster: LocalCluster) -> AsyncIterator[Bus]:
    bus = await connect(cluster.settings(), name="test")
    await provisioning.apply(bus, [CONTRACT], replicas=cluster.size)
    yield bus
    await bus.close()


@pytest.fixture
def name() -> str:
    """A lock of the test's own."""
    return f"lock{next(_numbers)}"


def claim(name: str, id: str, last: int, *, ttl: str = "30s", own: bool = False) -> Write:
    """A record of a claim, on the condition of the group, or of its own subject."""
    condition = expecting(last) if own else expecting(last, locks.group(name))
    return Write(locks.claim_subject(name, id), b"{}", {**ALONE, "Nats-TTL": ttl, **condition})


def purge(name: str, id: str, last: int) -> Write:
    return Write(
        locks.claim_subject(name, id),
        b"",
        {**PURGE, **living(1), **expecting(last, locks.group(name))},
    )


async def put(bus: Bus, *writes: Write) -> int:
    return (await bus.commit(writes, timeout_s=10)).seq


async def last(bus: Bus, subject: str) -> tuple[int, dict[str, str], bytes] | None:
    """The last message of a subject, as the leader has it."""
    try:
        answer = await bus.api(f"STREAM.MSG.GET.{LOCKS.stream}", {"last_by_subj": subject})
    except ApiError as error:
        if error.code == 404:
            return None
        raise
    return int(answer["message"]["seq"]), *decode_message(answer["message"])


async def test_a_time_to_live_is_cut_to_whole_seconds(bus: Bus, name: str) -> None:
    subject = locks.claim_subject(name, "a")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await put(bus, claim(name, "a", 0, ttl="1900ms"))

    async def expired() -> bool:
        found = await last(bus, subject)
        return found is None or not found[2]

    await eventually(expired)
    # Not before a second has gone by; and had it lived for longer, it would still be there.
    assert loop.time() - begun >= 1.0
    record = await anext(
        aiter(Reader(bus, LOCKS.stream, (subject,), {"deliver_policy": "last"}).records())
    )
    stored_ns = record.time_ns
    assert "Nats-Marker-Reason" in record.headers
    assert time.time_ns() - stored_ns < 60 * 10**9


@pytest.mark.parametrize("ttl", ["0.5s", "999ms"])
async def test_a_time_to_live_below_a_second_is_refused(bus: Bus, name: str, ttl: str) -> None:
    with pytest.raises(PublishRefused) as refused:
        await put(bus, claim(name, "a", 0, ttl=ttl))
    assert refused.value.code == _TTL_TOO_SHORT
    assert await last(bus, locks.claim_subject(name, "a")) is None


async def test_what_expires_leaves_a_marker_with_a_reason_that_goes_by_itself(
    bus: Bus, name: str
) -> None:
    subject = locks.claim_subject(name, "a")
    revision = await put(bus, claim(name, "a", 0, ttl="1s"))
    reader = Reader(bus, LOCKS.stream, (locks.group(name),), {"deliver_policy": "all"})
    async for record in reader.records():
        if record.seq > revision:
            break
    assert record.headers["Nats-Marker-Reason"] == "MaxAge"
    assert record.subject == subject
    assert not record.body
    marker = record.seq
    # While it stands, the group counts as written.
    with pytest.raises(WrongRevision) as wrong:
        await put(bus, claim(name, "b", revision))
    assert wrong.value.last == marker

    async def gone() -> bool:
        return await last(bus, subject) is None

    await eventually(gone)
    # And then, as if it had never been: who names it is told that there is nothing.
    with pytest.raises(WrongRevision) as wrong:
        await put(bus, claim(name, "b", marker))
    assert wrong.value.last == 0
    assert await put(bus, claim(name, "b", 0)) > marker


async def test_a_marker_may_be_named_while_it_stands(bus: Bus, name: str) -> None:
    first = await put(bus, claim(name, "a", 0))
    marker = await put(bus, purge(name, "a", first))
    assert await put(bus, claim(name, "b", marker)) > marker


async def test_the_last_sequence_of_a_group_goes_back_when_a_marker_vanishes(
    bus: Bus, name: str
) -> None:
    waiter = await put(bus, claim(name, "waits", 0))
    holder = await put(bus, claim(name, "held", waiter))
    marker = await put(bus, purge(name, "held", holder))

    async def gone() -> bool:
        return await last(bus, locks.claim_subject(name, "held")) is None

    await eventually(gone)
    with pytest.raises(WrongRevision) as wrong:
        await put(bus, claim(name, "next", marker))
    assert wrong.value.last == waiter
    await put(bus, claim(name, "next", waiter))


async def test_of_many_who_write_one_group_at_once_one_wins(
    cluster: LocalCluster,
    bus: Bus,  # noqa: ARG001 - sets up the bucket
    name: str,
) -> None:
    buses = [await connect(cluster.settings(), name=f"rival-{number}") for number in range(4)]
    expected = 0
    try:
        for _ in range(10):
            outcomes = await asyncio.gather(
                *(
                    put(buses[number % 4], claim(name, f"r{expected}-{number}", expected))
                    for number in range(20)
                ),
                return_exceptions=True,
            )
            won = [each for each in outcomes if isinstance(each, int)]
            lost = [each for each in outcomes if isinstance(each, WrongRevision)]
            assert len(won) == 1
            assert len(lost) == 19
            expected = won[0]
    finally:
        for each in buses:
            await each.close()


async def test_a_renewal_is_no_change_of_hands_but_the_group_sees_it(bus: Bus, name: str) -> None:
    first = await put(bus, claim(name, "a", 0))
    renewed = await put(bus, claim(name, "a", first, own=True))
    with pytest.raises(WrongRevision) as wrong:
        await put(bus, claim(name, "b", first))
    assert wrong.value.last == renewed


async def test_other_locks_are_other_groups(bus: Bus, name: str) -> None:
    await put(bus, claim(name, "a", 0))
    await put(bus, claim(f"{name}x", "a", 0))
    await put(bus, claim(f"{name}/x", "a", 0))


async def test_to_hand_over_is_both_or_neither(bus: Bus, name: str) -> None:
    held = await put(bus, claim(name, "a", 0))
    waiting = await put(bus, claim(name, "b", held))
    grant = Write(locks.claim_subject(name, "b"), b'{"held":1}', living(5))
    with pytest.raises(WrongRevision):
        await put(bus, purge(name, "a", held), grant)
    found = await last(bus, locks.claim_subject(name, "b"))
    assert found is not None
    assert found[0] == waiting
    assert await last(bus, locks.claim_subject(name, "a")) is not None
    granted = await put(bus, purge(name, "a", waiting), grant)
    found = await last(bus, locks.claim_subject(name, "b"))
    assert found is not None
    assert (found[0], found[2]) == (granted, b'{"held":1}')
    marker = await last(bus, locks.claim_subject(name, "a"))
    assert marker is None or marker[0] == granted - 1
    assert marker is None or marker[1]["KV-Operation"] == "PURGE"


async def test_fenced_writes_at_once_all_come_through(
    cluster: LocalCluster, bus: Bus, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several servers only one under the same fence may be under way: the rest try again."""
    busy = 0
    read = Conditional._read

    def counted(self: Conditional, subject: str, answer: Any) -> Any:
        nonlocal busy
        result = read(self, subject, answer)
        busy += isinstance(result, PublishRefused) and result.code == _BUSY
        return result

    monkeypatch.setattr(Conditional, "_read", counted)
    fence = await put(bus, claim(name, "a", 0))
    condition = expecting(fence, locks.claim_subject(name, "a"))
    keys = [LOCKS.key_subject(locks.state_key(f"{name}/{number}")) for number in range(8)]
    stored = await asyncio.gather(*(put(bus, Write(key, b"x", condition)) for key in keys))
    assert len(set(stored)) == len(keys)
    assert busy == 0 or cluster.size == 3
    # The lease moves on, and none of them comes through.
    await put(bus, claim(name, "a", fence, own=True))
    outcomes = await asyncio.gather(
        *(put(bus, Write(key, b"late", condition)) for key in keys), return_exceptions=True
    )
    assert all(isinstance(each, WrongRevision) for each in outcomes)
    for key in keys:
        found = await last(bus, key)
        assert found is not None
        assert found[2] == b"x"


async def test_a_write_on_a_closed_connection_fails_at_once(
    cluster: LocalCluster, name: str
) -> None:
    closed = await connect(cluster.settings(), name="closes")
    await closed.close()
    with pytest.raises(NotAcknowledged, match="closed"):
        await closed.commit([claim(name, "a", 0)], timeout_s=3_600)


async def test_a_fence_in_another_stream_fences_nothing(bus: Bus, name: str) -> None:
    """It reads as sequence 0 and passes in silence; so what a lease writes is in its own stream."""
    await put(bus, claim(name, "a", 0))
    outside = Write(
        f"events.test.happened.{name}", b"{}", expecting(0, locks.claim_subject(name, "a"))
    )
    assert await put(bus, outside) > 0
    fleet = Fleet(bus, source="test")
    async with fleet.lock(f"{name}:sdk", wait=0) as lease:
        revision = await lease.put(name, b"x")
    answer = await bus.api(f"STREAM.MSG.GET.{LOCKS.stream}", {"seq": revision})
    assert answer["message"]["subject"] == LOCKS.key_subject(locks.state_key(name))


async def test_a_write_sent_again_is_stored_once_but_one_server_says_that_it_lost(
    cluster: LocalCluster, bus: Bus, name: str
) -> None:
    """An acknowledgement is lost, the lease moves on, and the write is sent again.

    Three servers know its id; one looks at the condition first. Whoever loses after a silence may
    have won before.
    """
    fence = await put(bus, claim(name, "a", 0))
    key = LOCKS.key_subject(locks.state_key(name))
    headers = {
        "Nats-Msg-Id": f"{name}-once",
        **expecting(fence, locks.claim_subject(name, "a")),
    }
    first = await bus.publish(key, b"x", headers)
    await put(bus, claim(name, "a", fence, own=True))
    if cluster.size == 1:
        with pytest.raises(WrongRevision):
            await bus.publish(key, b"x", headers)
    else:
        again = await bus.publish(key, b"x", headers)
        assert (again.seq, again.duplicate) == (first.seq, True)
    found = await last(bus, key)
    assert found is not None
    assert found[0] == first.seq


async def test_what_is_read_is_what_was_written_last(bus: Bus, name: str) -> None:
    """Locks are read from the leader. Any server may answer a direct get, and be behind."""
    revision = 0
    for number in range(60):
        revision = await put(bus, claim(name, "a", revision, own=True))
        found = await last(bus, locks.claim_subject(name, "a"))
        assert found is not None
        assert found[0] == revision, number


async def test_tokens_rise_when_the_bucket_is_made_anew(cluster: LocalCluster, bus: Bus) -> None:
    fleet = Fleet(bus, source="test")
    async with fleet.lock("anew", wait=0) as lease:
        before = lease.token
        await lease.put("anew", b"x")
    # It counts a million a second from the time at which it is made.
    second = time.time() // 1
    while time.time() // 1 == second:  # noqa: ASYNC110 - the time of day tells nobody
        await asyncio.sleep(0.02)
    await bus.api(f"STREAM.DELETE.{LOCKS.stream}")
    await provisioning.apply(bus, [CONTRACT], replicas=cluster.size)
    async with fleet.lock("anew") as lease:
        assert lease.token > before


async def test_a_renewal_whose_answer_comes_late_is_no_renewal(
    bus: Bus, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three servers the broker may acknowledge it and wipe it all the same."""
    fleet = Fleet(bus, source="test")
    lease = await fleet.acquire_lock(name, ttl=1)
    lease._stop_renewing()
    commit = bus.commit
    stored: list[int] = []

    async def answered_late(writes: Sequence[Write], *, timeout_s: float) -> Ack:
        ack = await commit(writes, timeout_s=timeout_s)
        stored.append(ack.seq)
        await lease.lost.wait()
        return ack

    monkeypatch.setattr(bus, "commit", answered_late)
    with pytest.raises(LeaseLost, match="not renewed"):
        await lease.renew()
    # Though it is stored.
    assert stored
    assert not lease.held
    until = lease.hold.until
    assert lease.hold.renewed(until - 0.5, until) is None
