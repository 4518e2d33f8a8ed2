"""Hosts that have SSH only, against a real sshd: what arrives, what is refused, what goes wrong."""

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.artifacts import layout
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.pacing import Pacer
from interlock.artifacts.transports.ssh_options import SshOptions
from interlock.locks.fence import FileFence
from interlock_schemas.artifacts import FileEntry, Manifest
from interlock_sync_router.hosts import pushing, scripts
from interlock_sync_router.hosts.handover import Handover, found
from interlock_sync_router.hosts.remote import Ran, RemoteHost
from interlock_sync_router.hosts.scripts import Tokens
from tests.conftest import eventually
from tests.sshd import Sshd, make_key, needs_sshd, private_sshd

pytestmark = [needs_sshd, pytest.mark.timeout(60)]

MIB = 1024**2
TOKENS = Tokens(order=3, store=4)
NAMES = {
    "plain": b"x" * 10_000,
    "-rf": b"\0\n\r",
    "with space": b"a",
    "new\nline\n": b"b",
    "tab\tand 'quotes\" $(touch x) `id` \\ %s": b"c",
    "Größe/日本": "日".encode(),
    "--/deep/~/*?[a]": b"d",
    "empty": b"",
    "run.sh": b"#!/bin/sh\n",
}


class Artifact:
    """One that lies in a folder here as a store lays it out."""

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        self.folder = folder
        self.files = files
        entries = tuple(
            FileEntry(
                path=path,
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                executable=path.endswith(".sh"),
            )
            for path, data in sorted(files.items(), key=lambda item: item[0].encode())
        )
        self.manifest = Manifest(dataset="games", name="n", kind="folder", files=entries)
        body = msgspec.json.encode(self.manifest)
        self.id = hashlib.sha256(body).hexdigest()
        for path, data in files.items():
            at = folder / layout.FILES / path
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(data)
        (folder / layout.MANIFEST).write_bytes(body)
        (folder / layout.ABOUT).write_bytes(b"{}")

    def at(self, root: Path) -> Path:
        return root / layout.artifact_dir(self.id)

    def stands(self, root: Path) -> bool:
        files = self.at(root) / layout.FILES
        there = {
            str(path.relative_to(files)): path.read_bytes()
            for path in files.rglob("*")
            if path.is_file()
        }
        return there == self.files


class Gate(Pacer):
    """Stops the stream after so many bytes, until it may go on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after
        self.sent = 0
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def take(self, count: int, cancelled: threading.Event) -> None:
        del cancelled
        self.sent += count
        if self.sent > self.after:
            self.reached.set()
            assert self.go_on.wait(30)


class Flipping(RemoteHost):
    """A host on whose disk a byte changes between writing and checking, so many times."""

    times = 0

    async def run(self, command: str, *arguments: Any, **options: Any) -> Ran:
        if self.times and "sha256sum -z" in command:
            self.times -= 1
            (path,) = Path(self.root).glob("staging/*/content/files/plain")
            data = bytearray(path.read_bytes())
            data[5] ^= 1
            path.write_bytes(data)
        return await super().run(command, *arguments, **options)


class Side:
    """One mover's connection to the host."""

    def __init__(
        self, sshd: Sshd, root: Path, executor: ThreadPoolExecutor, kind: type[RemoteHost]
    ) -> None:
        self.root = root
        self.executor = executor
        options = SshOptions(silence_s=20)
        self.host = kind("nas", sshd.access(), str(root), options)

    async def hand_on(
        self, artifact: Artifact, tokens: Tokens = TOKENS, pacer: Pacer | None = None
    ) -> None:
        handover = Handover(self.host, self.executor, pacer or Pacer())
        await handover.hand_on(artifact.id, artifact.manifest, artifact.folder, tokens)

    def begin(
        self, artifact: Artifact, tokens: Tokens = TOKENS, pacer: Pacer | None = None
    ) -> "asyncio.Task[None]":
        return asyncio.create_task(self.hand_on(artifact, tokens, pacer))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with private_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


class Ground:
    """A host, and as many movers as a test wants."""

    def __init__(self, sshd: Sshd, folder: Path) -> None:
        self.sshd = sshd
        self.folder = folder
        self.root = folder / "it's a store"
        self.executor = ThreadPoolExecutor(8)
        self.sides: list[Side] = []

    async def side(self, kind: type[RemoteHost] = RemoteHost, root: Path | None = None) -> Side:
        side = Side(self.sshd, root or self.root, self.executor, kind)
        self.sides.append(side)
        await side.host.run(scripts.prepare(side.host.root))
        return side

    def artifact(self, files: dict[str, bytes] | None = None) -> Artifact:
        folder = self.folder / "here" / str(len(list(self.folder.glob("here/*"))))
        return Artifact(folder, NAMES if files is None else files)

    @property
    def visible(self) -> list[Path]:
        return list((self.root / layout.ARTIFACTS).glob("*/*"))

    @property
    def staged(self) -> list[Path]:
        return list((self.root / layout.STAGING).iterdir())


@pytest.fixture
async def ground(sshd: Sshd, tmp_path: Path) -> AsyncIterator[Ground]:
    ground = Ground(sshd, tmp_path)
    try:
        yield ground
    finally:
        for side in ground.sides:
            await side.host.close()
        ground.executor.shutdown()


async def refusal(work: Any) -> TransferFailed:
    with pytest.raises(TransferFailed) as raised:
        await work
    return raised.value


async def test_names_of_any_kind_arrive_and_nothing_else_is_left(ground: Ground) -> None:
    side, artifact = await ground.side(), ground.artifact()
    await side.hand_on(artifact)
    assert artifact.stands(ground.root)
    assert ground.staged == []
    files = artifact.at(ground.root) / layout.FILES
    assert (files / "run.sh").stat().st_mode & 0o111
    assert not (files / "plain").stat().st_mode & 0o111
    assert (artifact.at(ground.root) / layout.MANIFEST).read_bytes() == (
        artifact.folder / layout.MANIFEST
    ).read_bytes()
    ran = await side.host.run(scripts.verify_held(side.host.root, artifact.id))
    assert not pushing.judge(artifact.manifest, artifact.id, found(ran, "nas"))
    listed = await side.host.run(scripts.listing(side.host.root))
    assert scripts.parse_ids(listed.out) == [artifact.id]
    look = scripts.parse_look((await side.host.run(scripts.look(side.host.root))).out)
    assert look.held == 1
    assert look.free_bytes


async def test_handed_on_twice_it_stands_once(ground: Ground) -> None:
    side, artifact = await ground.side(), ground.artifact()
    await side.hand_on(artifact)
    pacer = Gate(0)
    await side.hand_on(artifact, pacer=pacer)
    assert pacer.sent == 0
    assert artifact.stands(ground.root)


@pytest.fixture
def large_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "LARGE_BYTES", 2 * MIB)


@pytest.mark.usefixtures("large_from")
@pytest.mark.parametrize("after", [3 * MIB, 12 * MIB])
async def test_a_connection_that_breaks_is_made_again_and_little_is_sent_twice(
    ground: Ground, after: int
) -> None:
    many = {f"small/{number}": os.urandom(MIB) for number in range(8)}
    artifact = ground.artifact({**many, "large": os.urandom(8 * MIB)})
    side = await ground.side()
    gate = Gate(after)
    task = side.begin(artifact, pacer=gate)
    assert await asyncio.to_thread(gate.reached.wait, 20)
    for child in ground.sshd.children():
        os.kill(child, signal.SIGKILL)
    gate.go_on.set()
    await task
    assert artifact.stands(ground.root)
    assert gate.sent < 16 * MIB + 6 * MIB
    assert ground.staged == []


async def test_a_byte_that_changed_is_sent_again(ground: Ground) -> None:
    side, artifact = await ground.side(Flipping), ground.artifact()
    side.host.times = 1  # type: ignore[attr-defined]
    await side.hand_on(artifact)
    assert artifact.stands(ground.root)


async def test_what_is_damaged_again_and_again_never_stands(ground: Ground) -> None:
    side, artifact = await ground.side(Flipping), ground.artifact()
    side.host.times = 2  # type: ignore[attr-defined]
    assert (await refusal(side.hand_on(artifact))).code == "damaged"
    assert ground.visible == []


async def test_what_is_damaged_here_never_stands_there(ground: Ground) -> None:
    side, artifact = await ground.side(), ground.artifact()
    (artifact.folder / layout.FILES / "with space").write_bytes(b"A")
    assert (await refusal(side.hand_on(artifact))).code == "damaged"
    assert ground.visible == []


async def test_a_link_that_lies_in_the_way_is_not_followed(ground: Ground) -> None:
    artifact = ground.artifact()
    side = await ground.side()
    left = ground.root / layout.STAGING / f"{artifact.id}.old" / scripts.CONTENT / layout.FILES
    left.mkdir(parents=True)
    victim = ground.folder / "victim"
    victim.write_bytes(b"untouched")
    (left / "plain").symlink_to(victim)
    (left / "too much").write_bytes(b"x")
    await side.hand_on(artifact)
    assert artifact.stands(ground.root)
    assert not (artifact.at(ground.root) / layout.FILES / "plain").is_symlink()
    assert victim.read_bytes() == b"untouched"


async def test_an_older_mover_is_refused_once_a_newer_one_has_shown_its_token(
    ground: Ground,
) -> None:
    side, artifact = await ground.side(), ground.artifact()
    for newer in (Tokens(store=5), Tokens(order=9)):
        await side.host.run(scripts.show(side.host.root, newer))
        refused = await refusal(side.hand_on(artifact))
        assert refused.code == "stale_token"
    assert ground.visible == []
    await side.hand_on(artifact, Tokens(order=9, store=5))
    dropping = side.host.run(scripts.drop(side.host.root, TOKENS, artifact.id, "1"))
    assert (await refusal(dropping)).code == "stale_token"
    assert artifact.stands(ground.root)


async def test_a_mover_that_was_frozen_in_the_middle_changes_nothing_when_it_goes_on(
    ground: Ground,
) -> None:
    artifact = ground.artifact({"a": os.urandom(4 * MIB), "b": os.urandom(4 * MIB)})
    before = set(ground.sshd.children())
    older = await ground.side()
    (serving,) = set(ground.sshd.children()) - before
    gate = Gate(5 * MIB)
    task = older.begin(artifact, pacer=gate)
    assert await asyncio.to_thread(gate.reached.wait, 20)
    os.kill(serving, signal.SIGSTOP)
    try:
        newer = await ground.side()
        await newer.hand_on(artifact, Tokens(order=4, store=5))
        assert artifact.stands(ground.root)
    finally:
        os.kill(serving, signal.SIGCONT)
    inode = (artifact.at(ground.root) / layout.FILES / "a").stat().st_ino
    gate.go_on.set()
    assert (await refusal(task)).code == "stale_token"
    assert artifact.stands(ground.root)
    assert (artifact.at(ground.root) / layout.FILES / "a").stat().st_ino == inode


async def test_a_writer_that_is_frozen_in_its_turn_is_waited_for_and_then_told_of(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    side, artifact = await ground.side(), ground.artifact()
    await side.host.run(scripts.show(side.host.root, TOKENS))
    fence = FileFence(ground.root / layout.FENCE)
    taken, leave = threading.Event(), threading.Event()

    def writes() -> None:
        with fence.guard("store", 4):
            taken.set()
            leave.wait(30)

    monkeypatch.setattr(scripts, "_SHOW", scripts._SHOW.replace("-w 10", "-w 0.1"))
    writing = asyncio.create_task(asyncio.to_thread(writes))
    assert await asyncio.to_thread(taken.wait, 10)
    try:
        shown = await side.host.run(
            scripts.show(side.host.root, Tokens(store=5)), fine=(scripts.BUSY,)
        )
        assert "another holds" in shown.said
    finally:
        leave.set()
        await writing
    await side.hand_on(artifact)


async def test_what_is_dropped_is_gone(ground: Ground) -> None:
    side, artifact = await ground.side(), ground.artifact()
    await side.hand_on(artifact)
    await side.host.run(scripts.drop(side.host.root, TOKENS, artifact.id, "1"))
    assert ground.visible == []
    assert list((ground.root / layout.TRASH).iterdir()) == []
    await side.host.run(scripts.drop(side.host.root, TOKENS, artifact.id, "2"))


async def test_what_is_damaged_there_is_found_and_put_aside(ground: Ground) -> None:
    side, artifact = await ground.side(), ground.artifact()
    await side.hand_on(artifact)
    (artifact.at(ground.root) / layout.FILES / "plain").write_bytes(b"other")
    ran = await side.host.run(scripts.verify_held(side.host.root, artifact.id))
    wrong = pushing.judge(artifact.manifest, artifact.id, found(ran, "nas"))
    assert list(wrong) == [b"files/plain"]
    command = scripts.quarantine(side.host.root, artifact.id, "now", "it's bad\n$(x)")
    await side.host.run(command)
    assert ground.visible == []
    aside = ground.root / layout.QUARANTINE / f"{artifact.id}.now.why"
    assert aside.read_text() == "it's bad\n$(x)\n"


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a file system is mounted by root alone")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_disk_that_is_full_is_told_as_such(ground: Ground) -> None:
    with mounted(ground.folder / "small", "size=2m") as folder:
        side = await ground.side(root=folder)
        artifact = ground.artifact({"a": os.urandom(6 * MIB)})
        assert (await refusal(side.hand_on(artifact))).code == "no_space"
        assert list((folder / layout.ARTIFACTS).glob("*/*")) == []


@pytest.mark.usefixtures("large_from")
async def test_a_disk_that_is_full_is_told_of_one_large_file_too(ground: Ground) -> None:
    with mounted(ground.folder / "small", "size=2m") as folder:
        side = await ground.side(root=folder)
        artifact = ground.artifact({"a": os.urandom(6 * MIB)})
        assert (await refusal(side.hand_on(artifact))).code == "no_space"


async def test_a_store_that_may_not_be_written_is_told_as_such(ground: Ground) -> None:
    with mounted(ground.folder / "read only", "ro,size=1m") as folder:
        assert (await refusal(ground.side(root=folder / "store"))).code == "denied"


async def test_a_host_with_another_key_is_not_talked_to(ground: Ground) -> None:
    make_key(ground.folder / "other")
    key = (ground.folder / "other.pub").read_text().strip()
    access = msgspec.structs.replace(ground.sshd.access(), host_key=key)
    host = RemoteHost("nas", access, str(ground.root), SshOptions())
    try:
        assert (await refusal(host.run("true"))).code == "denied"
    finally:
        await host.close()


async def test_a_host_that_hangs_is_given_up(ground: Ground) -> None:
    host = RemoteHost("nas", ground.sshd.access(), "/", SshOptions(silence_s=0.3))
    try:
        assert (await refusal(host.run("sleep 20"))).code == "timeout"
        ran = await host.run("for i in 1 2 3 4; do sleep 0.2; printf . >&2; done; echo done")
        assert ran.out == b"done\n"
    finally:
        await host.close()


async def test_cancelled_it_leaves_nothing_running(ground: Ground) -> None:
    side, artifact = await ground.side(), ground.artifact({"a": os.urandom(4 * MIB)})
    gate = Gate(MIB)
    task = side.begin(artifact, pacer=gate)
    assert await asyncio.to_thread(gate.reached.wait, 20)
    task.cancel()
    gate.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    (left,) = ground.staged

    async def nobody_writes() -> bool:
        return not subprocess.run(["flock", "-n", left / "lock", "true"], check=False).returncode

    await eventually(nobody_writes)
    assert ground.visible == []
    await side.hand_on(artifact)
    assert artifact.stands(ground.root)
