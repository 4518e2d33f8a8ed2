"""Every transport against a real sshd and a real broker: whole, in part, and when it goes wrong."""

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from pydantic import SecretStr

from interlock.artifacts import layout
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.pacing import Pacer
from interlock.artifacts.transports.base import Carrier, Peer, Piece
from interlock.artifacts.transports.read_server import ReadServer
from interlock.artifacts.transports.relay import RelayCarrier
from interlock.artifacts.transports.rsync import RSYNC, RsyncCarrier
from interlock.artifacts.transports.sftp import SftpCarrier
from interlock.artifacts.transports.ssh_exec import ExecCarrier
from interlock.artifacts.transports.ssh_options import SshOptions
from interlock.broker import EmbeddedBroker
from interlock.bus import Bus, connect
from interlock.settings import ConnectionSettings
from interlock_schemas.artifacts import Read, read_subject
from interlock_schemas.nodes import NodeRecord
from interlock_schemas.orders import Source
from tests.conftest import eventually
from tests.sshd import Sshd, make_key, needs_sshd, private_sshd

ONE = "ab" + "1" * 62
TWO = "cd" + "2" * 62
MIB = 1024 * 1024

OVER_SSH = ("exec", "exec-asyncssh", "rsync", "sftp")
NAMES = (
    "plain",
    "-rf",
    "with space",
    "new\nline",
    "tab\tand 'quotes\" $(touch x) `id` \\ %s",
    "Größe/日本",
    "--/deep/~/*?[a]",
    "!$!",
)


class Folder:
    """A store as it lies on a disk, and reading from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read_calls = 0

    def put(self, id: str, path: str, data: bytes) -> Piece:
        at = self.root / layout.file_path(id, path)
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(data)
        (self.root / layout.manifest_path(id)).write_bytes(b'{"of":"' + id.encode() + b'"}')
        return Piece(id, path, 0, len(data), True)

    def read(self, id: str, path: str | None, offset: int, length: int) -> bytes:
        self.read_calls += 1
        at = layout.manifest_path(id) if path is None else layout.file_path(id, path)
        with (self.root / at).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def wanted(self, pieces: list[Piece]) -> bytes:
        return b"".join(
            (self.root / layout.file_path(each.id, each.path)).read_bytes()[
                each.offset : each.offset + each.length
            ]
            for each in pieces
        )


class Taken:
    """A sink that keeps what it was given, and checks whose thread it is called in."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.loop_thread = threading.current_thread()
        self.begun = threading.Event()

    def __call__(self, data: memoryview) -> None:
        assert threading.current_thread() is not self.loop_thread
        self.data += data
        self.begun.set()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with private_sshd(tmp_path_factory.mktemp("sshd"), "Subsystem sftp internal-sftp") as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "it's a store")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    broker = EmbeddedBroker(tmp_path / "broker")
    await broker.start()
    try:
        yield broker
    finally:
        await broker.kill()


@pytest.fixture
async def bus(broker: EmbeddedBroker) -> AsyncIterator[Bus]:
    bus = await connect(
        ConnectionSettings(
            nats_url=broker.url, nats_user=broker.user, nats_password=SecretStr(broker.password)
        )
    )
    try:
        yield bus
    finally:
        await bus.close()


def over_ssh(kind: str, **settings: object) -> Carrier:
    options = msgspec.structs.replace(SshOptions(), **settings)
    if kind == "exec":
        return ExecCarrier(options)
    if kind == "exec-asyncssh":
        return ExecCarrier(msgspec.structs.replace(options, binary=False))
    if kind == "rsync":
        if RSYNC is None:
            pytest.skip("rsync is not installed: apt-get install rsync")
        return RsyncCarrier(options)
    return SftpCarrier(options)


def peer_of(sshd: Sshd, store: Folder, **access: object) -> Peer:
    return Peer(
        source=Source(node="n1", transports=("exec",), root=str(store.root)),
        record=NodeRecord(name="n1", ssh=msgspec.structs.replace(sshd.access(), **access)),
    )


@contextlib.asynccontextmanager
async def closing(carrier: Carrier) -> AsyncIterator[Carrier]:
    try:
        yield carrier
    finally:
        await carrier.close()


async def failure(carrier: Carrier, peer: Peer, pieces: list[Piece]) -> TransferFailed:
    with pytest.raises(TransferFailed) as raised:
        await carrier.fetch(peer, pieces, Taken(), Pacer())
    return raised.value


def mixed(store: Folder) -> list[Piece]:
    """Files of all names and sizes, some of them in part, of two artifacts."""
    pieces = [store.put(ONE, name, os.urandom(10 + at)) for at, name in enumerate(NAMES)]
    for id in (ONE, TWO):
        big = store.put(id, "-big one", os.urandom(9 * MIB + 17))
        pieces += [
            big,
            Piece(id, big.path, 8 * MIB, MIB + 17, False),
            Piece(id, big.path, 5, 1_000, False),
            store.put(id, "last", b"x"),
        ]
    return pieces


@needs_sshd
@pytest.mark.parametrize("kind", OVER_SSH)
async def test_files_and_parts_arrive_in_order_whatever_they_are_called(
    kind: str, sshd: Sshd, store: Folder
) -> None:
    pieces = mixed(store)
    peer = peer_of(sshd, store)
    async with closing(over_ssh(kind)) as carrier:
        assert await carrier.usable(peer) is None
        assert await carrier.manifest(peer, ONE) == store.read(ONE, None, 0, MIB)
        taken = Taken()
        await carrier.fetch(peer, pieces, taken, Pacer())
        assert bytes(taken.data) == store.wanted(pieces)
        assert not list(sshd.folder.glob("x"))


@needs_sshd
@pytest.mark.parametrize("kind", OVER_SSH)
async def test_what_the_source_lacks_is_gone(kind: str, sshd: Sshd, store: Folder) -> None:
    first = store.put(ONE, "first", b"f" * 1_000)
    short = store.put(ONE, "short", b"s" * 1_000)
    after = store.put(ONE, "that follows", b"t" * 1_000)
    peer = peer_of(sshd, store)
    async with closing(over_ssh(kind)) as carrier:
        with pytest.raises(TransferFailed) as raised:
            await carrier.manifest(peer, TWO)
        assert raised.value.code == "source_gone"
        (store.root / layout.file_path(ONE, short.path)).write_bytes(b"s" * 999)
        for pieces in (
            [first, Piece(ONE, "never was", 0, 10, True), after],
            [first, short],
            [first, short, after],
            [first, Piece(ONE, "short", 900, 100, False), after],
        ):
            with pytest.raises(TransferFailed) as raised:
                await carrier.fetch(peer, pieces, Checked(pieces), Pacer())
            assert raised.value.code == "source_gone", pieces


class Checked:
    """A sink that refuses what is not what it should be, as a receiver does."""

    def __init__(self, pieces: list[Piece]) -> None:
        wanted = b""
        for each in pieces:
            wanted += each.path[:1].encode() * each.length
        self._wanted = wanted
        self._at = 0

    def __call__(self, data: memoryview) -> None:
        if bytes(data) != self._wanted[self._at : self._at + len(data)]:
            raise TransferFailed("damaged", "not what it should be")
        self._at += len(data)


@needs_sshd
@pytest.mark.parametrize("kind", OVER_SSH)
async def test_a_host_with_another_key_is_never_talked_to(
    kind: str, sshd: Sshd, store: Folder, tmp_path: Path
) -> None:
    piece = store.put(ONE, "a", b"a")
    make_key(tmp_path / "other")
    other = (tmp_path / "other.pub").read_text().strip()
    async with closing(over_ssh(kind)) as carrier:
        failed = await failure(carrier, peer_of(sshd, store, host_key=other), [piece])
        assert failed.code == "denied"
        assert "host key" in str(failed)
        stranger = peer_of(sshd, store, identity=str(tmp_path / "other"))
        failed = await failure(carrier, stranger, [piece])
        assert failed.code == "denied"
        assert await carrier.usable(peer_of(sshd, store, host_key=None)) is not None


@needs_sshd
async def test_keys_may_be_in_a_known_hosts_file(sshd: Sshd, store: Folder, tmp_path: Path) -> None:
    piece = store.put(ONE, "a", b"a")
    known = tmp_path / "known hosts %h"
    kind, key, *_ = sshd.host_key.split()
    known.write_text(f"[127.0.0.1]:{sshd.port} {kind} {key}\n")
    peer = peer_of(sshd, store, host_key=None, identity=None)
    for each in OVER_SSH:
        async with closing(over_ssh(each, known_hosts=known, identity=sshd.identity)) as carrier:
            taken = Taken()
            await carrier.fetch(peer, [piece], taken, Pacer())
            assert taken.data == b"a"


@needs_sshd
@pytest.mark.parametrize("kind", ["exec", "exec-asyncssh", "rsync"])
async def test_a_jump_host_is_gone_through(kind: str, sshd: Sshd, store: Folder) -> None:
    piece = store.put(ONE, "a", b"a")
    peer = peer_of(sshd, store, jump=(sshd.access(),))
    async with closing(over_ssh(kind)) as carrier:
        taken = Taken()
        await carrier.fetch(peer, [piece], taken, Pacer())
        assert taken.data == b"a"


@needs_sshd
@pytest.mark.parametrize("kind", OVER_SSH)
async def test_a_connection_that_breaks_in_the_middle_is_unreachable_and_the_next_one_stands(
    kind: str, store: Folder, tmp_path: Path
) -> None:
    piece = store.put(ONE, "big", os.urandom(MIB) * 32)
    with private_sshd(tmp_path / "sshd", "Subsystem sftp internal-sftp") as sshd:
        peer = peer_of(sshd, store)
        async with closing(over_ssh(kind)) as carrier:
            taken = Taken()
            fetch = asyncio.create_task(carrier.fetch(peer, [piece], taken, Pacer(8 * MIB)))
            await asyncio.to_thread(taken.begun.wait, 0.5 if kind == "rsync" else 20)
            for child in sshd.children():
                os.kill(child, signal.SIGKILL)
            with pytest.raises(TransferFailed) as raised:
                await fetch
            assert raised.value.code == "unreachable"
            taken = Taken()
            await carrier.fetch(peer, [piece], taken, Pacer())
            assert bytes(taken.data) == store.wanted([piece])
            sshd.stop()
            assert (await failure(carrier, peer, [piece])).code == "unreachable"


@needs_sshd
@pytest.mark.parametrize("kind", ["exec", "exec-asyncssh", "sftp"])
async def test_a_frozen_host_runs_out_of_time(kind: str, store: Folder, tmp_path: Path) -> None:
    piece = store.put(ONE, "big", os.urandom(MIB) * 32)
    with private_sshd(tmp_path / "sshd", "Subsystem sftp internal-sftp") as sshd:
        async with closing(over_ssh(kind, silence_s=0.5)) as carrier:
            taken = Taken()
            fetch = asyncio.create_task(
                carrier.fetch(peer_of(sshd, store), [piece], taken, Pacer(8 * MIB))
            )
            await asyncio.to_thread(taken.begun.wait, 20)
            frozen = sshd.children()
            for child in [*frozen, *(c for f in frozen for c in children(f))]:
                os.kill(child, signal.SIGSTOP)
            with pytest.raises(TransferFailed) as raised:
                await fetch
            assert raised.value.code == "timeout"


@needs_sshd
@pytest.mark.parametrize("kind", OVER_SSH)
async def test_cancelled_it_leaves_no_process_behind(kind: str, sshd: Sshd, store: Folder) -> None:
    piece = store.put(ONE, "big", os.urandom(MIB) * 32)
    before = set(children(os.getpid()))
    async with closing(over_ssh(kind)) as carrier:
        taken = Taken()
        fetch = asyncio.create_task(
            carrier.fetch(peer_of(sshd, store), [piece], taken, Pacer(8 * MIB))
        )
        await asyncio.to_thread(taken.begun.wait, 0.5 if kind == "rsync" else 20)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        assert set(children(os.getpid())) == before
        count = len(taken.data)
        assert count < piece.length

    async def ended() -> bool:
        return not sshd.children()

    await eventually(ended)
    assert len(taken.data) == count


@needs_sshd
@pytest.mark.parametrize("kind", OVER_SSH)
async def test_what_the_sink_raises_comes_out(kind: str, sshd: Sshd, store: Folder) -> None:
    piece = store.put(ONE, "big", os.urandom(4 * MIB))

    def full(_: memoryview) -> None:
        raise TransferFailed("no_space", "the disk is full")

    async with closing(over_ssh(kind)) as carrier:
        with pytest.raises(TransferFailed) as raised:
            await carrier.fetch(peer_of(sshd, store), [piece], full, Pacer())
        assert raised.value.code == "no_space"


@needs_sshd
@pytest.mark.parametrize("kind", OVER_SSH)
async def test_thousands_of_small_files_arrive_in_order(
    kind: str, sshd: Sshd, store: Folder
) -> None:
    pieces = [store.put(ONE, f"{at % 7}/file {at}", b"%06d" % at) for at in range(1_000)]
    async with closing(over_ssh(kind)) as carrier:
        taken = Taken()
        await carrier.fetch(peer_of(sshd, store), pieces, taken, Pacer())
        assert bytes(taken.data) == b"".join(b"%06d" % at for at in range(1_000))


@contextlib.asynccontextmanager
async def served(bus: Bus, store: Folder, pace: Pacer | None = None) -> AsyncIterator[ReadServer]:
    server = ReadServer(bus, "n1", store, pace)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


RELAYED = Peer(source=Source(node="n1", transports=("relay",)))


async def test_the_relay_brings_files_and_parts_in_order(bus: Bus, store: Folder) -> None:
    pieces = mixed(store)
    pieces += [store.put(TWO, f"{at % 7}/file {at}", b"%06d" % at) for at in range(1_000)]
    carrier = RelayCarrier(bus)
    async with served(bus, store) as server:
        assert await carrier.manifest(RELAYED, ONE) == store.read(ONE, None, 0, MIB)
        taken = Taken()
        before = store.read_calls
        await carrier.fetch(RELAYED, pieces, taken, Pacer())
        assert bytes(taken.data) == store.wanted(pieces)
        assert store.read_calls - before >= len(pieces)
        assert server.served_bytes >= len(taken.data)


async def test_the_relay_says_what_the_source_lacks(bus: Bus, store: Folder) -> None:
    first = store.put(ONE, "first", b"f" * 1_000)
    short = Piece(ONE, "first", 0, 1_001, True)
    carrier = RelayCarrier(bus)
    assert (await failure(carrier, RELAYED, [first])).code == "unreachable"
    async with served(bus, store):
        with pytest.raises(TransferFailed) as raised:
            await carrier.manifest(RELAYED, TWO)
        assert raised.value.code == "source_gone"
        for pieces in ([first, Piece(ONE, "never was", 0, 10, True)], [first, short], [short]):
            assert (await failure(carrier, RELAYED, pieces)).code == "source_gone"
        no_agent = msgspec.structs.replace(RELAYED, record=NodeRecord(name="n1", agent=False))
        assert await carrier.usable(no_agent) is not None


async def test_the_relay_asks_again_for_what_got_no_answer(bus: Bus, store: Folder) -> None:
    piece = store.put(ONE, "big", os.urandom(3 * MIB))
    asked: list[int] = []

    def now_and_then(_: bytes, reply: bytes, __: bytes, body: bytes) -> None:
        read = msgspec.json.decode(body, type=Read)
        asked.append(read.offset)
        if read.offset != MIB or asked.count(MIB) > 1:
            data = store.read(read.id, read.path, read.offset, read.length)
            bus.post(reply.decode(), b"\0" + data)

    subscription = await bus.listen(read_subject("n1"), now_and_then)
    taken = Taken()
    await RelayCarrier(bus, patience_s=0.2).fetch(RELAYED, [piece], taken, Pacer())
    assert bytes(taken.data) == store.wanted([piece])
    assert asked.count(MIB) == 2
    await bus.unsubscribe(subscription)


async def test_the_relay_gives_up_on_who_is_silent(bus: Bus, store: Folder) -> None:
    piece = store.put(ONE, "big", os.urandom(MIB))
    subscription = await bus.listen(read_subject("n1"), lambda *_: None)
    failed = await failure(RelayCarrier(bus, silence_s=0.1, patience_s=0.2), RELAYED, [piece])
    assert failed.code == "timeout"
    await bus.unsubscribe(subscription)


async def test_the_relay_cancelled_asks_nothing_more(bus: Bus, store: Folder) -> None:
    piece = store.put(ONE, "big", os.urandom(8 * MIB))
    async with served(bus, store, Pacer(2 * MIB)):
        taken = Taken()
        before = len(asyncio.all_tasks())
        fetch = asyncio.create_task(RelayCarrier(bus).fetch(RELAYED, [piece], taken, Pacer()))
        await asyncio.to_thread(taken.begun.wait, 20)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        assert len(asyncio.all_tasks()) == before
        assert 0 < len(taken.data) < piece.length


async def test_the_relay_goes_on_when_the_broker_was_away(
    broker: EmbeddedBroker, bus: Bus, store: Folder
) -> None:
    piece = store.put(ONE, "big", os.urandom(8 * MIB))
    async with served(bus, store):
        taken = Taken()
        fetch = asyncio.create_task(
            RelayCarrier(bus).fetch(RELAYED, [piece], taken, Pacer(8 * MIB))
        )
        await asyncio.to_thread(taken.begun.wait, 20)
        await broker.kill()
        await broker.start()
        await fetch
        digest = hashlib.sha256(store.wanted([piece])).digest()
        assert hashlib.sha256(taken.data).digest() == digest


async def test_the_relay_refuses_to_read_what_is_no_artifact(bus: Bus, store: Folder) -> None:
    async with served(bus, store):
        for body in (b"", b"{}", b'{"id": "../../etc"}', b"\xff"):
            reply = await bus.request(read_subject("n1"), body, timeout_s=5)
            assert reply.data[:1] == b"\1"


def children(pid: int) -> list[int]:
    """Processes that a process has started and that have not ended."""
    found = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    lines = [line.split(None, 1) for line in found.stdout.splitlines()]
    return [int(words[0]) for words in lines if words[1] != "ps"]
