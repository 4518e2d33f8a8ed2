"""Publishing into an outbox, without a broker."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from interlock.errors import MessageTooLarge, OutboxFull, OutboxUnusable, PublishRefused
from interlock.outbox import Limits, Outbox
from interlock.outbox.rules import Message
from interlock.outbox.store import Store
from interlock_schemas import envelope

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    opened = await Outbox.open(tmp_path / "o", limits=Limits(messages=100, bytes=100_000))
    yield opened
    await opened.close()


async def rows(outbox: Outbox) -> list[Message]:
    return list(outbox._store.advance([], {}, limit=10_000, windows_s={}).rows)


async def test_publishes_at_the_same_time_share_commits_and_keep_their_order(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    insert = Store.insert

    def counted(self: Store, groups: list[list[Message]], limits: Limits) -> object:
        commits.append(len(groups))
        return insert(self, groups, limits)

    monkeypatch.setattr(Store, "insert", counted)
    await asyncio.gather(*(outbox.publish("events.a", str(n).encode()) for n in range(100)))
    assert [each.body for each in await rows(outbox)] == [str(n).encode() for n in range(100)]
    assert sum(commits) == 100
    assert len(commits) <= 3


async def test_what_must_not_change_later_is_fixed_at_once(outbox: Outbox) -> None:
    stored = await outbox.publish("events.a", b"{}", {envelope.TRACEPARENT: TRACE, "x": "y"})
    (row,) = await rows(outbox)
    headers = msgspec.json.decode(row.headers)
    assert headers == {envelope.TRACEPARENT: TRACE, "x": "y", envelope.MSG_ID: stored.id}
    assert row.id == stored.id
    assert not row.own_id


async def test_a_full_outbox_says_so_when_no_room_comes(outbox: Outbox) -> None:
    await outbox.publish_many([("events.a", b"", {})] * 100)
    with pytest.raises(OutboxFull, match="interlock outbox status"):
        await outbox.publish("events.a", b"", timeout_s=0.05)
    assert await outbox.waiting() == 100


async def test_a_publish_waits_for_room_in_turn(outbox: Outbox) -> None:
    await outbox.publish_many([("events.a", b"", {})] * 99)
    store = outbox._store
    first = asyncio.create_task(outbox.publish_many([("events.a", b"1", {})] * 2))
    second = asyncio.create_task(outbox.publish("events.a", b"2"))
    done, _ = await asyncio.wait((first, second), timeout=0.3)
    assert not done, "the second would fit, but is not the first"
    turn = await outbox._disk.do(store.advance, [], {}, limit=10, windows_s={})
    await outbox._disk.do(store.advance, [row.seq for row in turn.rows], {}, limit=0, windows_s={})
    await asyncio.gather(first, second)
    assert [each.body for each in await rows(outbox)][-3:] == [b"1", b"1", b"2"]


async def test_a_cancelled_publish_gives_its_place_up(outbox: Outbox) -> None:
    await outbox.publish_many([("events.a", b"", {})] * 100)
    waiting = asyncio.create_task(outbox.publish("events.a", b"gone"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await outbox.waiting() == 100


async def test_many_are_stored_together_or_not_at_all(outbox: Outbox) -> None:
    await outbox.publish("events.a", b"")
    with pytest.raises(OutboxFull):
        await outbox.publish_many([("events.a", b"", {})] * 100, timeout_s=0.05)
    assert await outbox.waiting() == 1
    assert await outbox.publish_many([]) == []


async def test_what_never_fits_is_said_at_once(outbox: Outbox) -> None:
    with pytest.raises(OutboxFull, match=r"never fit.*INTERLOCK_OUTBOX_MAX_BYTES"):
        await outbox.publish("events.a", b"x" * 200_000, timeout_s=3_600)


async def test_what_no_stream_takes_for_its_size_is_refused_at_once(outbox: Outbox) -> None:
    with pytest.raises(MessageTooLarge, match="artifact"):
        await outbox.publish("events.a", b"x" * (7 * 1024 * 1024 + 1))


async def test_text_that_is_none_harms_nobody_else(outbox: Outbox) -> None:
    told = await asyncio.gather(
        outbox.publish("events.a", b"1"),
        outbox.publish("events.\udc80", b"2"),
        outbox.publish("events.a", b"3", {"x": "\udc80"}),
        outbox.publish("events.a", b"4", {envelope.MSG_ID: "\udc80"}),
        outbox.publish("events.a", b"5"),
        return_exceptions=True,
    )
    assert [isinstance(each, PublishRefused) for each in told] == [False, True, True, True, False]
    assert [each.body for each in await rows(outbox)] == [b"1", b"5"]


async def test_closing_ends_whoever_waits(outbox: Outbox) -> None:
    await outbox.publish_many([("events.a", b"", {})] * 100)
    waiting = asyncio.create_task(outbox.publish("events.a", b""))
    await asyncio.sleep(0)
    await outbox.close()
    with pytest.raises(OutboxUnusable, match="closed"):
        await waiting
    with pytest.raises(OutboxUnusable, match="closed"):
        await outbox.publish("events.a", b"")


async def test_status_tells_how_it_stands(outbox: Outbox) -> None:
    await outbox.publish("events.a", b"{}")
    told = await outbox.status()
    assert (told.waiting, told.refused, told.forwarded, told.forwarder) == (1, 0, 0, None)
    assert told.oldest_age_s is not None
    assert told.bytes > 0
    assert told.file_bytes > 0
