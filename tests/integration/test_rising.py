"""Fencing tokens rise across deletion of the bucket and across its restore from a backup."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from interlock import provisioning, rising
from interlock.bus import Bus, Write, connect
from interlock.cluster import LocalCluster
from interlock.errors import ContractBroken
from interlock.fleet import Fleet
from interlock_schemas.topology import LOCKS
from interlock_sync_mutex.contract import CONTRACT

Snapshot = tuple[dict[str, Any], dict[str, Any], list[bytes]]


async def _snapshot(bus: Bus) -> Snapshot:
    chunks: list[bytes] = []
    done = asyncio.Event()
    inbox = bus.inbox()

    async def on_chunk(message: Any) -> None:
        if not message.data:
            done.set()
            return
        chunks.append(message.data)
        if message.reply:
            await bus.signal(message.reply)

    subscription = await bus.subscribe(inbox, on_chunk)
    answer = await bus.api(
        f"STREAM.SNAPSHOT.{LOCKS.stream}", {"deliver_subject": inbox, "chunk_size": 65_536}
    )
    await done.wait()
    await bus.unsubscribe(subscription)
    return answer["config"], answer["state"], chunks


async def _restore(bus: Bus, snapshot: Snapshot) -> None:
    config, state, chunks = snapshot
    await bus.api(f"STREAM.DELETE.{LOCKS.stream}")
    answer = await bus.api(f"STREAM.RESTORE.{LOCKS.stream}", {"config": config, "state": state})
    for chunk in (*chunks, b""):
        await bus.request(answer["deliver_subject"], chunk, timeout_s=10)


@pytest.fixture
async def fleet(tmp_path: Path) -> Any:
    cluster = LocalCluster(tmp_path / "cluster", size=1)
    await cluster.start()
    bus = await connect(cluster.settings(), name="test")
    await provisioning.apply(bus, [CONTRACT])
    fleet = Fleet(bus, source="test")
    yield fleet
    await fleet.close()
    await cluster.stop()


async def _token(fleet: Fleet) -> int:
    async with fleet.lock("export:hex8_2p", wait=0) as lease:
        return lease.token


async def test_tokens_rise_when_the_bucket_is_deleted(fleet: Fleet) -> None:
    before = await _token(fleet)
    await asyncio.sleep(1)  # the count begins at the second
    await fleet.bus.api(f"STREAM.DELETE.{LOCKS.stream}")
    await provisioning.apply(fleet.bus, [CONTRACT])
    assert await _token(fleet) > before


async def test_a_restored_bucket_serves_nobody_until_it_is_set_up(fleet: Fleet) -> None:
    async with fleet.lock("export:hex8_2p") as lease:
        await lease.put("ratings/hex8", b"one")
        await lease.put("ratings/hex9", b"nine")
    snapshot = await _snapshot(fleet.bus)
    async with fleet.lock("export:hex8_2p") as lease:
        await lease.put("ratings/hex8", b"two")
        before = lease.token
    await asyncio.sleep(1)
    await _restore(fleet.bus, snapshot)
    assert await rising.standing(fleet.bus, LOCKS) == "restored"
    with pytest.raises(ContractBroken, match="restored from a backup"):
        await provisioning.verify(fleet.bus, CONTRACT)

    dry = await provisioning.apply(fleet.bus, [CONTRACT], dry_run=True)
    assert [each.action for each in dry if each.name == LOCKS.name] == ["update"]
    assert await rising.standing(fleet.bus, LOCKS) == "restored"

    await provisioning.apply(fleet.bus, [CONTRACT])
    await provisioning.verify(fleet.bus, CONTRACT)
    assert await fleet.fenced_state("ratings/hex8") == b"one"
    assert await fleet.fenced_state("ratings/hex9") == b"nine"
    assert await _token(fleet) > before
    assert {each.action for each in await provisioning.apply(fleet.bus, [CONTRACT])} == {"none"}


@pytest.mark.parametrize("after", range(1, 9))
async def test_setup_that_is_killed_goes_on_where_it_was(
    fleet: Fleet, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet.lock("export:hex8_2p") as lease:
        for number in range(3):
            await lease.put(f"key{number}", str(number).encode())
    await _restore(fleet.bus, await _snapshot(fleet.bus))
    calls = 0
    api, commit = fleet.bus.api, fleet.bus.commit

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt

    async def counted_api(verb: str, *args: Any, **more: Any) -> Any:
        if verb.startswith(("STREAM.CREATE", "STREAM.DELETE")):
            count()
        return await api(verb, *args, **more)

    async def counted_commit(writes: list[Write], **more: Any) -> Any:
        count()
        return await commit(writes, **more)

    with monkeypatch.context() as patch:
        patch.setattr(fleet.bus, "api", counted_api)
        patch.setattr(fleet.bus, "commit", counted_commit)
        with pytest.raises(KeyboardInterrupt):
            await _interrupted(fleet.bus)
    await provisioning.apply(fleet.bus, [CONTRACT])
    await provisioning.verify(fleet.bus, CONTRACT)
    for number in range(3):
        assert await fleet.fenced_state(f"key{number}") == str(number).encode()


async def _interrupted(bus: Bus) -> None:
    await provisioning.apply(bus, [CONTRACT])
