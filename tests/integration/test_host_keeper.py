"""A host that has SSH only, driven by the router: fetched to, served from, checked, dropped."""

import asyncio
import contextlib
import itertools
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.artifacts import layout
from interlock.artifacts.inventory import Inventory
from interlock.artifacts.pacing import Pacer
from interlock.artifacts.sealing import seal
from interlock.artifacts.store import LocalStore
from interlock.artifacts.transports.base import Peer, Piece
from interlock.artifacts.transports.read_server import ReadServer
from interlock.artifacts.transports.relay import RelayCarrier
from interlock.bus import Bus, connected
from interlock.clock import now, rfc3339
from interlock.conditional import ALONE, Write
from interlock.fleet import Fleet
from interlock.kv import Store
from interlock_schemas.artifacts import Artifact, Copy, StoreReport, store_key
from interlock_schemas.nodes import NodeRecord, Storage, node_key
from interlock_schemas.orders import Action, Failure, Order, Source, order_key
from interlock_schemas.topology import INVENTORY, NODES, ORDERS
from interlock_sync_router.hosts.fleet import Hosts, is_driven
from interlock_sync_router.hosts.rhythm import Rhythm
from interlock_sync_router.settings import Settings
from tests.conftest import Up, eventually, running
from tests.sshd import Sshd, needs_sshd, private_sshd

pytestmark = [needs_sshd, pytest.mark.timeout(90)]

TOKENS = itertools.count(100)
RHYTHM = Rhythm(report_s=0.2, compare_s=0.2, retry_s=0.2, lease_s=2.0)


class BrokerAndLocks(Up):
    def await_services(self) -> None:
        """The tests wait for what they need by themselves."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = BrokerAndLocks(tmp_path_factory.mktemp("hosts"), "--only", "sync-mutex")
    try:
        up.start()
        yield up
    finally:
        assert up.stop() == 0


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with private_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
async def bus(ground: Up) -> AsyncIterator[Bus]:
    async with connected(ground.settings, name="test") as connection:
        yield connection


class Nas:
    """A host without an agent, and a node `source` that it gets its data from."""

    def __init__(self, sshd: Sshd, folder: Path, bus: Bus) -> None:
        self.name = f"nas-{uuid.uuid4().hex[:8]}"
        self.source = f"src-{uuid.uuid4().hex[:8]}"
        self.folder = folder
        self.bus = bus
        self.root = folder / "the store"
        self.record = NodeRecord(
            name=self.name,
            agent=False,
            ssh=sshd.access(),
            storage=Storage(path=str(self.root)),
        )
        self.store = LocalStore(folder / "source")
        self.wanted = {self.name: self.record}

    def hosts(self, router: str = "router") -> Hosts:
        settings = Settings(sync_staging=self.folder / router)
        fleet = Fleet(self.bus, source=router)
        return Hosts(fleet, settings, wanted=lambda: dict(self.wanted), rhythm=RHYTHM)

    def seal(self, files: dict[str, bytes] | None = None) -> Artifact:
        folder = self.folder / uuid.uuid4().hex
        for path, data in (files or {"a b\n": os.urandom(50_000), "-c/ü": b"x"}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return seal(self.store, folder, dataset="games", origin=self.source)

    async def give(self, about: Artifact, action: Action = "fetch", **more: Any) -> Order:
        order = Order(
            id=uuid.uuid4().hex,
            node=self.name,
            artifact=about.id,
            action=action,
            about=about,
            token=next(TOKENS),
            issued_at=rfc3339(now()),
            sources=(Source(node=self.source, transports=("relay",), root=str(self.store.root)),),
            **more,
        )
        await self.put(ORDERS.key_subject(order_key(self.name, about.id)), order)
        return order

    async def put(self, subject: str, value: msgspec.Struct) -> None:
        await self.bus.commit([Write(subject, msgspec.json.encode(value), ALONE)])

    async def receipt(self, about: Artifact, state: str = "held") -> Copy:
        async def look() -> Copy | None:
            copy = await Inventory(self.bus).copy(self.name, about.id)
            return copy if copy is not None and copy.state == state else None

        found: Copy = await eventually(look)
        return found

    async def done(self, about: Artifact) -> None:
        async def look() -> bool:
            entry = await Store(self.bus, ORDERS).get(order_key(self.name, about.id))
            return entry.value is None

        await eventually(look)

    def at(self, about: Artifact) -> Path:
        return self.root / layout.artifact_dir(about.id)


@pytest.fixture
async def nas(sshd: Sshd, tmp_path: Path, bus: Bus) -> AsyncIterator[Nas]:
    nas = Nas(sshd, tmp_path, bus)
    await nas.put(NODES.key_subject(node_key(nas.name)), nas.record)
    server = ReadServer(bus, nas.source, nas.store, Pacer())
    await server.start()
    try:
        yield nas
    finally:
        await server.stop()


def test_the_router_drives_what_has_no_agent_and_can_be_reached(sshd: Sshd, tmp_path: Path) -> None:
    sshd.write()
    record = NodeRecord(
        name="nas", agent=False, ssh=sshd.access(), storage=Storage(path=str(tmp_path))
    )
    assert is_driven(record)
    assert not is_driven(msgspec.structs.replace(record, agent=True))
    assert not is_driven(msgspec.structs.replace(record, ssh=None))
    assert not is_driven(msgspec.structs.replace(record, storage=Storage()))
    assert not is_driven(msgspec.structs.replace(record, storage=Storage(path="relative")))


async def test_what_is_ordered_stands_there_with_a_receipt_and_is_served_from_there(
    nas: Nas,
) -> None:
    about = nas.seal()
    async with running(nas.hosts().run()):
        order = await nas.give(about)
        copy = await nas.receipt(about)
        await nas.done(about)
        assert (copy.token, copy.order, copy.source) == (order.token, order.id, nas.source)
        for entry in nas.store.manifest(about.id).files:
            there = (nas.at(about) / layout.FILES / entry.path).read_bytes()
            assert there == nas.store.read(about.id, entry.path, 0, entry.size)
        staging = nas.folder / "router" / nas.name
        assert not list((staging / layout.ARTIFACTS).glob("*/*"))
        assert not list((nas.root / layout.STAGING).iterdir())

        async def told() -> StoreReport | None:
            entry = await Store(nas.bus, INVENTORY).get(store_key(nas.name))
            if entry.value is None:
                return None
            report = msgspec.json.decode(entry.value, type=StoreReport)
            return report if report.held == 1 else None

        report = await eventually(told)
        assert report.root == str(nas.root)
        assert report.held_bytes == about.bytes
        assert 0 < report.free_bytes <= report.total_bytes

        relay = RelayCarrier(nas.bus)
        peer = Peer(source=Source(node=nas.name, transports=("relay",)))
        assert await relay.manifest(peer, about.id) == nas.store.manifest_bytes(about.id)
        pieces = [
            Piece(about.id, entry.path, 0, entry.size, True)
            for entry in nas.store.manifest(about.id).files
        ]
        taken = bytearray()
        await relay.fetch(peer, pieces, taken.extend, Pacer())
        assert taken == b"".join(
            nas.store.read(piece.id, piece.path, 0, piece.length) for piece in pieces
        )
        await relay.close()


async def test_what_is_damaged_is_found_and_put_aside_and_what_is_dropped_is_gone(nas: Nas) -> None:
    damaged, dropped = nas.seal(), nas.seal()
    async with running(nas.hosts().run()):
        for about in (damaged, dropped):
            await nas.give(about)
            await nas.receipt(about)
            await nas.done(about)
        (nas.at(damaged) / layout.FILES / "-c" / "ü").write_bytes(b"y")
        await nas.give(damaged, "verify")
        assert "digest" in (await nas.receipt(damaged, "damaged")).reason
        assert not nas.at(damaged).exists()
        await nas.give(dropped, "drop")
        await nas.receipt(dropped, "dropped")
        await nas.done(dropped)
        assert not nas.at(dropped).exists()


async def test_nothing_is_sent_where_there_is_no_room(nas: Nas) -> None:
    about = nas.seal()
    async with running(nas.hosts().run()):
        await nas.give(msgspec.structs.replace(about, bytes=2**60))

        async def failed() -> Failure | None:
            entry = await Store(nas.bus, ORDERS).get(order_key(nas.name, about.id))
            assert entry.value is not None
            return msgspec.json.decode(entry.value, type=Order).failure

        assert (await eventually(failed)).code == "no_space"
    assert not nas.at(about).exists()


async def test_receipts_are_compared_with_what_stands_there(nas: Nas) -> None:
    about = nas.seal()
    async with running(nas.hosts().run()):
        await nas.give(about)
        await nas.receipt(about)
        await nas.done(about)
        aside = nas.folder / "aside"
        nas.at(about).rename(aside)

        async def forgotten() -> bool:
            return await Inventory(nas.bus).copy(nas.name, about.id) is None

        await eventually(forgotten)
        aside.rename(nas.at(about))
        await nas.receipt(about)


async def test_another_router_takes_over_and_the_one_before_is_refused(nas: Nas) -> None:
    first, second = nas.seal(), nas.seal()
    async with running(nas.hosts("one").run()):
        await nas.give(first)
        before = await nas.receipt(first)
    async with running(nas.hosts("two").run()):
        await nas.give(second)
        after = await nas.receipt(second)
    assert before.state == after.state == "held"
    nas.wanted.clear()
    third = nas.seal()
    async with running(nas.hosts("one").run()):
        await nas.give(third)
        await asyncio.sleep(1)
        assert not nas.at(third).exists()


async def test_a_host_that_comes_back_is_gone_on_with(nas: Nas, sshd: Sshd) -> None:
    first, second = nas.seal(), nas.seal()
    async with running(nas.hosts().run()):
        await nas.give(first)
        await nas.receipt(first)
        sshd.stop()
        try:
            await nas.give(second)
            await asyncio.sleep(0.5)
        finally:
            sshd.start()
        await nas.receipt(second)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(nas.root)
