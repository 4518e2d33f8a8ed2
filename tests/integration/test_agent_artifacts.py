"""node-agent: keeps the store of its node, and carries out what it is told to."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.artifacts import layout
from interlock.artifacts.inventory import Inventory
from interlock.artifacts.sealing import seal
from interlock.artifacts.store import LocalStore
from interlock.bus import Bus, Message, connected
from interlock.clock import now, rfc3339
from interlock.conditional import ALONE, Write
from interlock.kv import Store
from interlock.reader import Reader
from interlock_schemas.artifacts import Artifact, Copy, StoreReport, store_key
from interlock_schemas.nodes import member_key
from interlock_schemas.orders import (
    EPOCH_KEY,
    EVACUATE,
    Epoch,
    Evacuation,
    Order,
    Pause,
    Source,
    order_key,
    pause_key,
)
from interlock_schemas.topology import EVENTS, INVENTORY, MEMBERS, ORDERS
from tests.conftest import Up, eventually
from tests.integration.agents import AgentProcess, agent

MIB = 1024**2
TOKENS = itertools.count(100)


class BrokerAndLocks(Up):
    def await_services(self) -> None:
        """The tests wait for what they need by themselves."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A broker and the service for locks; no router."""
    up = BrokerAndLocks(tmp_path_factory.mktemp("artifacts"), "--only", "sync-mutex")
    try:
        up.start()
        yield up
    finally:
        assert up.stop() == 0


class Node:
    """A node with a store, and its agent."""

    def __init__(self, up: Up, name: str, folder: Path, **settings: str) -> None:
        self.name = name
        self.folder = folder
        self.root = folder / "store"
        self.store = LocalStore(self.root)
        self.log = folder / "log"
        self._up = up
        self._settings = settings

    def agent(self) -> contextlib.AbstractContextManager[AgentProcess]:
        settings = {
            "state": str(self.folder),
            "data": str(self.root),
            "agent_store": "true",
            "agent_store_lease_s": "2",
            "agent_lease_s": "2",
            **self._settings,
        }
        return agent(self._up, self.name, self.log, **settings)

    def seal(self, size: int = 100_000, **given: Any) -> Artifact:
        """Something new, of random bytes."""
        path = self.folder / f"{uuid.uuid4().hex}.bin"
        path.write_bytes(os.urandom(size))
        return seal(self.store, path, dataset="games", config="hex8", origin=self.name, **given)

    def file(self, about: Artifact) -> Path:
        """Its one file, on the disk."""
        folder = self.root / layout.artifact_dir(about.id) / layout.FILES
        (found,) = folder.iterdir()
        return found

    def flip(self, about: Artifact, offset: int = 1_000) -> None:
        """Damage one byte of it."""
        path = self.file(about)
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 1]))

    def staged(self, about: Artifact) -> int:
        """Bytes of it on the disk, though it is not here yet."""
        folder = self.root / layout.STAGING / about.id
        try:
            return sum(each.stat().st_blocks * 512 for each in folder.rglob("*") if each.is_file())
        except FileNotFoundError:
            return 0


@pytest.fixture(scope="module")
def pair(ground: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """Two nodes for the tests that do not break them."""
    with ExitStack() as stack:
        nodes = []
        for name in ("a", "b"):
            node = Node(ground, name, tmp_path_factory.mktemp(name), agent_inbox_settle_s="0.2")
            stack.enter_context(node.agent())
            nodes.append(node)
        yield nodes[0], nodes[1]


@pytest.fixture
async def bus(ground: Up) -> AsyncIterator[Bus]:
    async with connected(ground.settings, name="test") as connection:
        yield connection


def new_node(ground: Up, folder: Path, **settings: str) -> Node:
    name = f"n-{uuid.uuid4().hex[:8]}"
    (folder / name).mkdir()
    return Node(ground, name, folder / name, **settings)


async def put(bus: Bus, key: str, value: msgspec.Struct) -> None:
    write = Write(ORDERS.key_subject(key), msgspec.json.encode(value), ALONE)
    await bus.commit([write])


async def give(
    bus: Bus, node: Node, about: Artifact, sources: Sequence[Node] = (), **more: Any
) -> Order:
    """Order a node to do something about an artifact."""
    rate = more.pop("first_bytes_per_s", None)
    slots = more.pop("slots", None)
    order = Order(
        id=uuid.uuid4().hex,
        node=node.name,
        artifact=about.id,
        about=about,
        token=more.pop("token", 0) or next(TOKENS),
        issued_at=rfc3339(now()),
        sources=tuple(
            Source(
                node=each.name,
                transports=("relay",),
                root=str(each.root),
                bytes_per_s=rate if place == 0 else None,
                slots=slots,
            )
            for place, each in enumerate(sources)
        ),
        **more,
    )
    await put(bus, order_key(node.name, about.id), order)
    return order


async def standing(bus: Bus, node: Node, about: Artifact) -> Order | None:
    entry = await Store(bus, ORDERS).get(order_key(node.name, about.id))
    return None if entry.value is None else msgspec.json.decode(entry.value, type=Order)


async def receipt(bus: Bus, node: Node, about: Artifact, state: str = "held") -> Copy:
    """Its receipt, once there is one in that state."""

    async def look() -> Copy | None:
        copy = await Inventory(bus).copy(node.name, about.id)
        return copy if copy is not None and copy.state == state else None

    found: Copy = await eventually(look)
    return found


async def failed(bus: Bus, node: Node, about: Artifact) -> Any:
    """Why an order was given up, once it was."""

    async def look() -> Any:
        order = await standing(bus, node, about)
        return order is not None and order.failure

    return await eventually(look)


async def done(bus: Bus, node: Node, about: Artifact) -> None:
    """Wait until the order is gone."""

    async def look() -> bool:
        return await standing(bus, node, about) is None

    await eventually(look)


async def events(bus: Bus, type: str, artifact: str) -> list[dict[str, Any]]:
    reader = Reader(bus, EVENTS.name, (f"events.{type}.>",), {"deliver_policy": "all"})
    found = [msgspec.json.decode(record.body) async for record in reader.records(until_end=True)]
    return [each for each in found if each["artifact"] == artifact]


async def report(bus: Bus, node: Node) -> StoreReport | None:
    entry = await Store(bus, INVENTORY).get(store_key(node.name))
    return None if entry.value is None else msgspec.json.decode(entry.value, type=StoreReport)


async def test_what_is_sealed_is_found_and_told(pair: tuple[Node, Node], bus: Bus) -> None:
    a, _ = pair
    about = a.seal()
    copy = await receipt(bus, a, about)
    assert (copy.bytes, copy.source, copy.seconds) == (100_000, None, None)
    assert await eventually(lambda: Inventory(bus).artifact(about.id)) == about

    async def told() -> Any:
        return await events(bus, "sync.artifact_sealed", about.id)

    assert len(await eventually(told)) == 1

    async def counted() -> Any:
        found = await report(bus, a)
        return found if found is not None and found.held >= 1 else None

    found = await eventually(counted)
    assert found.root == str(a.root)
    assert 0 < found.free_bytes <= found.total_bytes
    assert found.held_bytes >= 100_000


async def test_an_order_brings_it_here_with_a_receipt(pair: tuple[Node, Node], bus: Bus) -> None:
    a, b = pair
    about = a.seal(20 * MIB)
    order = await give(bus, b, about, [a], slots=2)
    copy = await receipt(bus, b, about)
    await done(bus, b, about)
    assert (copy.bytes, copy.moved, copy.source) == (20 * MIB, 20 * MIB, "a")
    assert (copy.transport, copy.token, copy.order) == ("relay", order.token, order.id)
    assert b.store.verify(about.id).ok
    assert b.file(about).read_bytes() == a.file(about).read_bytes()
    assert not await events(bus, "sync.artifact_sealed", f"{about.id}-")
    # Asked again, it is there already.
    await give(bus, b, about, [a])
    await done(bus, b, about)
    assert await receipt(bus, b, about) == copy


async def test_many_small_ones_come_together(pair: tuple[Node, Node], bus: Bus) -> None:
    a, b = pair
    abouts = [a.seal(5_000 + number) for number in range(40)]
    # One router gives all of its orders under one token.
    token = next(TOKENS)
    await asyncio.gather(*(give(bus, b, about, [a], token=token) for about in abouts))
    for about in abouts:
        assert (await receipt(bus, b, about)).moved == about.bytes
        await done(bus, b, about)


async def test_a_damaged_copy_is_not_passed_on(pair: tuple[Node, Node], bus: Bus) -> None:
    a, b = pair
    about = a.seal()
    a.flip(about)
    await give(bus, b, about, [a])
    failure = await failed(bus, b, about)
    assert (failure.code, failure.source) == ("source_damaged", "a")
    assert failure.attempts == 2
    assert not b.store.has(about.id)
    assert await Inventory(bus).copy(b.name, about.id) is None


async def test_what_nobody_has_is_said_so(pair: tuple[Node, Node], bus: Bus) -> None:
    a, b = pair
    about = msgspec.structs.replace(a.seal(), id="0" * 64)
    await give(bus, b, about, [a])
    assert (await failed(bus, b, about)).code == "source_gone"
    about = msgspec.structs.replace(about, id="1" * 64)
    await give(bus, b, about)
    assert (await failed(bus, b, about)).code == "source_gone"


async def test_an_older_routers_order_is_not_carried_out(pair: tuple[Node, Node], bus: Bus) -> None:
    a, b = pair
    stale, fresh = a.seal(), a.seal()
    token, newer = next(TOKENS), next(TOKENS)
    await put(bus, EPOCH_KEY, Epoch(token=newer, router="r2", at=rfc3339(now())))
    await give(bus, b, stale, [a], token=token)
    await give(bus, b, fresh, [a], token=newer)
    await receipt(bus, b, fresh)
    order = await standing(bus, b, stale)
    assert order is not None
    assert order.failure is None
    assert not b.store.has(stale.id)
    # The next router gives it its own token.
    await put(bus, order_key(b.name, stale.id), msgspec.structs.replace(order, token=newer))
    assert (await receipt(bus, b, stale)).token == newer


async def test_while_paused_nothing_is_begun(pair: tuple[Node, Node], bus: Bus) -> None:
    a, b = pair
    held_up, other = a.seal(), b.seal()
    key = pause_key(f"node:{b.name}")
    await put(bus, key, Pause(by="test", at=rfc3339(now())))
    await give(bus, b, held_up, [a])
    await give(bus, a, other, [b])
    await receipt(bus, a, other)
    assert not b.store.has(held_up.id)
    await put(bus, key, Pause(by="test", at=rfc3339(now()), until=rfc3339(now())))
    await receipt(bus, b, held_up)


async def test_a_copy_is_dropped_once_others_are_known_to_be_whole(
    pair: tuple[Node, Node], bus: Bus
) -> None:
    a, b = pair
    about = a.seal()
    await give(bus, b, about, [a])
    await receipt(bus, a, about)
    await receipt(bus, b, about)
    await done(bus, b, about)
    await give(bus, b, about, action="drop", replicas=2, others=("a",))
    assert (await failed(bus, b, about)).code == "too_few_copies"
    assert b.store.has(about.id)
    # It has one, that was not checked since: that is waited for.
    await give(bus, b, about, action="drop", replicas=1, others=("a",))
    await give(bus, a, about, action="verify")
    tombstone = await receipt(bus, b, about, "dropped")
    await done(bus, b, about)
    assert tombstone.replicas == 1
    assert not b.store.has(about.id)
    assert a.store.has(about.id)

    async def told() -> Any:
        return await events(bus, "sync.artifact_dropped", about.id)

    (event,) = await eventually(told)
    assert (event["node"], event["replicas"]) == ("b", 1)


async def test_a_check_that_was_ordered_finds_damage(pair: tuple[Node, Node], bus: Bus) -> None:
    a, _ = pair
    whole, damaged = a.seal(), a.seal()
    before = await receipt(bus, a, whole)
    await receipt(bus, a, damaged)
    a.flip(damaged)
    await give(bus, a, whole, action="verify")
    await give(bus, a, damaged, action="verify")
    copy = await receipt(bus, a, damaged, "damaged")
    assert copy.reason
    await done(bus, a, damaged)
    await done(bus, a, whole)
    assert (await receipt(bus, a, whole)).verified_at > before.verified_at
    assert not a.store.has(damaged.id)
    assert list((a.root / layout.QUARANTINE).glob(f"{damaged.id}*"))
    (event,) = await events(bus, "sync.checksum_failed", damaged.id)
    assert event["target_node"] == "a"


async def test_what_is_put_into_the_inbox_is_sealed(pair: tuple[Node, Node], bus: Bus) -> None:
    a, _ = pair
    inbox = a.root / layout.INBOX
    (inbox / "npz" / "hex8").mkdir(parents=True)
    (inbox / "NO NAME" / "_").mkdir(parents=True)
    (inbox / "npz" / "hex8" / "x.npz").write_bytes(b"whole")
    (inbox / "npz" / "hex8" / "y.npz.part").write_bytes(b"half")
    (inbox / "NO NAME" / "_" / "z").write_bytes(b"?")

    async def taken() -> bool:
        refused = inbox / ".refused" / "NO NAME" / "_"
        return not (inbox / "npz" / "hex8" / "x.npz").exists() and (refused / "z").exists()

    await eventually(taken)
    assert (inbox / "npz" / "hex8" / "y.npz.part").exists()
    assert (inbox / ".refused" / "NO NAME" / "_" / "z.why.txt").read_text()

    async def sealed() -> Any:
        copies = await Inventory(bus).copies(a.name)
        for copy in copies.values():
            about = await Inventory(bus).artifact(copy.id)
            if about is not None and about.dataset == "npz":
                return about
        return None

    about = await eventually(sealed)
    assert (about.config, about.name, about.bytes) == ("hex8", "x.npz", 5)


async def test_a_killed_agent_goes_on_where_it_was(
    ground: Up, pair: tuple[Node, Node], bus: Bus, tmp_path: Path
) -> None:
    a, _ = pair
    node = new_node(ground, tmp_path)
    about = a.seal(32 * MIB)
    with node.agent() as process:
        order = await give(bus, node, about, [a], first_bytes_per_s=8e6)

        async def half_way() -> bool:
            return node.staged(about) > 10 * MIB

        await eventually(half_way)
        process.signal(signal.SIGKILL)
        await process.ended()
    assert not node.store.has(about.id)
    assert await Inventory(bus).copy(node.name, about.id) is None
    free = msgspec.structs.replace(
        order, sources=(msgspec.structs.replace(order.sources[0], bytes_per_s=None),)
    )
    await put(bus, order_key(node.name, about.id), free)
    with node.agent():
        copy = await receipt(bus, node, about)
    assert copy.moved is not None
    assert copy.moved <= 24 * MIB
    assert node.store.verify(about.id).ok


async def test_another_source_steps_in_for_one_that_was_killed(
    ground: Up, pair: tuple[Node, Node], bus: Bus, tmp_path: Path
) -> None:
    a, b = pair
    node = new_node(ground, tmp_path)
    about = node.seal(64 * MIB)
    await give(bus, a, about, [node])
    with node.agent() as process:
        await receipt(bus, a, about)
        # The first one is the better one, and dies on the way.
        await give(bus, b, about, [node, a], first_bytes_per_s=16e6)

        async def half_way() -> bool:
            return b.staged(about) > 10 * MIB

        await eventually(half_way)
        process.signal(signal.SIGKILL)
        await process.ended()
    copy = await receipt(bus, b, about)
    assert copy.source == "a"
    assert copy.moved is not None
    assert copy.moved <= 74 * MIB
    assert b.store.verify(about.id).ok


async def test_a_frozen_agent_cannot_commit_after_another_took_over(
    ground: Up, pair: tuple[Node, Node], bus: Bus, tmp_path: Path
) -> None:
    a, _ = pair
    node = new_node(ground, tmp_path)
    about = a.seal(24 * MIB)

    async def gone() -> bool:
        return (await Store(bus, MEMBERS).get(member_key(node.name))).value is None

    async def begun() -> bool:
        return node.staged(about) > 1 * MIB

    with node.agent() as frozen:
        await give(bus, node, about, [a], first_bytes_per_s=12e6)
        await eventually(begun)
        old = node.store.fence.highest("store")
        assert old > 0
        frozen.signal(signal.SIGSTOP)
        await eventually(gone)
        with node.agent() as taker:
            copy = await receipt(bus, node, about)
            new = node.store.fence.highest("store")
            assert new > old
            frozen.signal(signal.SIGCONT)
            assert await frozen.ended() != 0
            assert taker.process.poll() is None
            assert await receipt(bus, node, about) == copy
            assert node.store.fence.highest("store") == new
            assert node.store.verify(about.id).ok


async def test_with_an_old_token_nothing_is_committed(
    ground: Up, pair: tuple[Node, Node], bus: Bus, tmp_path: Path
) -> None:
    a, _ = pair
    node = new_node(ground, tmp_path)
    about = a.seal(8 * MIB)
    with node.agent() as process:
        await give(bus, node, about, [a], first_bytes_per_s=8e6)

        async def begun() -> bool:
            return node.staged(about) > 1 * MIB

        await eventually(begun)

        def others_came() -> None:
            with node.store.fence.guard("store", 2**60):
                pass

        await asyncio.to_thread(others_came)

        async def refused() -> bool:
            return "not committed" in process.log

        await eventually(refused)
        assert not node.store.has(about.id)
        assert await Inventory(bus).copy(node.name, about.id) is None
        order = await standing(bus, node, about)
        assert order is not None
        assert order.failure is None


async def test_receipts_and_disk_are_brought_together(ground: Up, bus: Bus, tmp_path: Path) -> None:
    node = new_node(ground, tmp_path, agent_check_every_s="0.01")
    untold, lost, damaged = node.seal(), node.seal(), node.seal()
    with node.agent():
        for about in (untold, lost, damaged):
            await receipt(bus, node, about)
        assert await Inventory(bus).forget_copy(node.name, untold.id)
        shutil.rmtree(node.root / layout.artifact_dir(lost.id))

        async def forgotten() -> bool:
            return await Inventory(bus).copy(node.name, lost.id) is None

        await receipt(bus, node, untold)
        await eventually(forgotten)
        assert (await events(bus, "sync.artifact_dropped", lost.id))[0]["node"] == node.name


async def test_what_lies_there_is_read_again_and_damage_found(
    ground: Up, bus: Bus, tmp_path: Path
) -> None:
    node = new_node(ground, tmp_path, agent_scrub_after_s="0.2")
    whole, damaged = node.seal(), node.seal()
    with node.agent():
        await receipt(bus, node, damaged)
        node.flip(damaged)
        await receipt(bus, node, damaged, "damaged")
        assert list((node.root / layout.QUARANTINE).glob(f"{damaged.id}*"))

        async def checked() -> bool:
            copy = await Inventory(bus).copy(node.name, whole.id)
            return copy is not None and copy.verified_at > copy.at

        await eventually(checked)


async def test_it_stays_until_what_only_it_has_is_safe(
    ground: Up, bus: Bus, tmp_path: Path
) -> None:
    node = new_node(ground, tmp_path, agent_grace_s="60")
    about = node.seal()
    asked = asyncio.Event()
    safe = asyncio.Event()

    async def answer(message: Message) -> None:
        asked.set()
        told = Evacuation(
            node=node.name,
            at_risk=0 if safe.is_set() else 1,
            saved=(about.id,) if safe.is_set() else (),
            unsaved=() if safe.is_set() else (about.id,),
        )
        await bus.signal(message.reply, msgspec.json.encode(told))

    subscription = await bus.subscribe(EVACUATE.subject, answer)
    await bus.flush()
    with node.agent() as process:
        await receipt(bus, node, about)
        process.signal(signal.SIGTERM)
        await asked.wait()
        # It still serves what it has.
        other = new_node(ground, tmp_path)
        with other.agent():
            await give(bus, other, about, [node])
            await receipt(bus, other, about)
            assert process.process.poll() is None
        safe.set()
        assert await process.ended() == 0
        assert "handed over" in process.log
    await bus.unsubscribe(subscription)


async def test_without_a_router_it_does_not_wait_for_long(
    ground: Up, bus: Bus, tmp_path: Path
) -> None:
    node = new_node(ground, tmp_path, agent_grace_s="600")
    about = node.seal()
    with node.agent() as process:
        await receipt(bus, node, about)
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert "no router said" in process.log
