"""Artifacts from sealing to commit: names, manifests, what is refused, what survives."""

import hashlib
import os
import random
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.artifacts import manifest as manifests
from interlock.artifacts import names
from interlock.artifacts.errors import ArtifactError, NotSealed, TransferFailed
from interlock.artifacts.manifest import ManifestInvalid
from interlock.artifacts.sealing import seal
from interlock.artifacts.segments import seal_log
from interlock.artifacts.store import LocalStore
from interlock_schemas.artifacts import CHUNK_BYTES, Artifact, FileEntry, Manifest

EMPTY = hashlib.sha256().hexdigest()
ODD = ("with space", "new\nline", "ünïcode-☃", "-n", "--", "'quoted\"", "$(id)", "a\\b", ".hidden")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def other(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "other")


def put(store: LocalStore, path: Path, **said: object) -> Artifact:
    return seal(store, path, dataset="games", origin="a", **said)  # type: ignore[arg-type]


def stream(store: LocalStore, about: Artifact, have: dict[str, int] | None = None) -> bytes:
    pieces = manifests.pieces(about.id, store.manifest(about.id), have)
    return b"".join(store.read(each.id, each.path, each.offset, each.length) for each in pieces)


def move(source: LocalStore, target: LocalStore, about: Artifact, part: int = 1 << 20) -> None:
    receiving = target.receive(about, source.manifest_bytes(about.id))
    data = memoryview(stream(source, about, receiving.have))
    for begin in range(0, len(data), part):
        receiving.write(data[begin : begin + part])
    assert receiving.complete
    receiving.close()
    target.commit(about.id, order_token=1, store_token=1)
    assert target.verify(about.id).ok


def tree(folder: Path, seed: int = 0) -> Path:
    rand = random.Random(seed)
    folder.mkdir()
    (folder / "empty").write_bytes(b"")
    for number, name in enumerate(ODD):
        inner = folder / name
        inner.mkdir()
        (inner / name).write_bytes(rand.randbytes(number * 700))
    (folder / "large").write_bytes(rand.randbytes(CHUNK_BYTES + 12_345))
    (folder / "run.sh").write_text("true")
    (folder / "run.sh").chmod(0o755)
    return folder


# Names and manifests


@given(st.text(max_size=40))
def test_a_name_that_is_taken_stays_below_its_folder(path: str) -> None:
    if names.problem(path) is None:
        top = Path("/top/files")
        assert Path(os.path.normpath(top / path)).is_relative_to(top)
        assert os.path.normpath(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", "a\0b", "x" * 256, "a/" * 2_000 + "b"],
)
def test_what_could_lead_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(names.NameRefused):
        names.check(path)


def manifest_of(*files: FileEntry) -> bytes:
    return manifests.encode(Manifest(dataset="games", name="x", kind="folder", files=files))


def entry(path: str, size: int = 0, chunks: int = 0) -> FileEntry:
    return FileEntry(path=path, size=size, sha256=EMPTY, chunks=(EMPTY,) * chunks)


@pytest.mark.parametrize(
    "files",
    [
        (),
        (entry("b"), entry("a")),
        (entry("a"), entry("a")),
        (entry("a"), entry("a/b")),
        (entry("../a"),),
        (entry("/a"),),
        (entry("a", CHUNK_BYTES + 1),),
        (entry("a", CHUNK_BYTES + 1, 1),),
        (entry("a", 5, 1),),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(files: tuple[FileEntry, ...]) -> None:
    with pytest.raises(ManifestInvalid):
        manifests.decode(manifest_of(*files))


def test_another_manifest_is_not_taken_for_it(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    about = put(store, tmp_path / "x")
    with pytest.raises(TransferFailed) as refused:
        store.receive(about, manifest_of(entry("a")))
    assert refused.value.code == "damaged"


# Sealing


def test_whatever_it_is_called_it_arrives(
    store: LocalStore, other: LocalStore, tmp_path: Path
) -> None:
    about = put(store, tree(tmp_path / "tree"))
    move(store, other, about)
    there = other.path(about.id)
    for path in (tmp_path / "tree").rglob("*"):
        if path.is_file():
            copy = there / path.relative_to(tmp_path / "tree")
            assert copy.read_bytes() == path.read_bytes()
            assert copy.stat().st_mode & 0o777 == (0o555 if path.name == "run.sh" else 0o444)


def test_the_same_is_one_artifact(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    first = put(store, tmp_path / "x")
    assert put(store, tmp_path / "x") == first
    assert put(store, tmp_path / "x", config="hex8").id != first.id
    assert list((store.root / "staging").iterdir()) == []


def test_what_cannot_be_moved_is_refused_by_name(store: LocalStore, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "fine").write_text("x")
    (folder / "inside").symlink_to("fine")
    about = put(store, folder)
    assert (store.path(about.id) / "inside").read_text() == "x"
    assert not (store.path(about.id) / "inside").is_symlink()
    (folder / "out").symlink_to("/etc/hostname")
    (folder / "up").symlink_to("../odd2")
    os.mkfifo(folder / "pipe")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(folder / "socket"))
    (folder / os.fsdecode(b"\xff")).write_text("x")
    with pytest.raises(NotSealed) as refused, bound:
        put(store, folder)
    for name in ("out", "up", "pipe", "socket", "\\udcff"):
        assert name in str(refused.value)
    with pytest.raises(NotSealed, match="device"):
        put(store, Path("/dev/null"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(NotSealed, match="no file"):
        put(store, tmp_path / "nothing")
    with pytest.raises(NotSealed, match="not there"):
        put(store, tmp_path / "missing")
    assert store.ids() == [about.id]
    assert list((store.root / "staging").iterdir()) == []


def test_what_is_being_written_is_not_sealed(store: LocalStore, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(bytes(4_000_000))
    ended = threading.Event()

    def write() -> None:
        with path.open("ab") as file:
            while not ended.is_set():
                file.write(b"more")
                file.flush()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with pytest.raises(NotSealed, match="--log"):
            put(store, path)
    finally:
        ended.set()
        thread.join()
    assert store.ids() == []


WRITER = textwrap.dedent(
    """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1])
    connection.execute("PRAGMA journal_mode=" + sys.argv[2])
    connection.execute("CREATE TABLE games (id INTEGER PRIMARY KEY, moves TEXT)")
    number = 0
    while True:
        number += 1
        connection.execute("INSERT INTO games VALUES (?, ?)", (number, "e4" * 200))
        connection.commit()
        if number == 50:
            print("writes", flush=True)
    """
)


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_database_that_is_written_is_sealed_whole(
    store: LocalStore, tmp_path: Path, mode: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "notes").write_text("x")
    database = folder / "games.db"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(database), mode], stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        sealed = [put(store, database), put(store, folder)]
        process.kill()
    for about in sealed:
        paths = {each.path for each in store.manifest(about.id).files}
        assert paths in ({"games.db"}, {"games.db", "notes"})
        where = store.root / "artifacts" / about.id[:2] / about.id / "files" / "games.db"
        with sqlite3.connect(f"file:{where}?mode=ro&immutable=1", uri=True) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            count, last = copy.execute("SELECT count(*), max(id) FROM games").fetchone()
            assert count == last >= 50
        copy.close()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40).map(lambda data: ("write", data)),
            st.sampled_from([("seal", b""), ("rotate", b""), ("crash", b"")]),
        ),
        max_size=25,
    )
)
def test_segments_are_the_log(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    store = LocalStore(folder / "store")
    path = folder / "play.jsonl"
    path.write_bytes(b"")
    written = b""
    rotated = 0

    def take() -> None:
        while seal_log(store, path, dataset="logs", origin="a") is not None:
            pass

    for what, data in steps:
        if what == "write":
            line = data.replace(b"\n", b" ") + b"\n"
            with path.open("ab") as file:
                file.write(line)
            written += line
        elif what == "rotate":
            # What was rotated away twice before anybody sealed it is looked for as well.
            take()
            rotated += 1
            path.rename(folder / f"play.jsonl.{rotated}")
            path.write_bytes(b"")
        elif what == "seal":
            take()
        else:
            # Killed after the segment stood, before that was noted.
            notes = {each: each.read_bytes() for each in (store.root / "logs").glob("*.json")}
            take()
            for each, before in notes.items():
                if b'"pending":0' in each.read_bytes():
                    each.write_bytes(before)
            take()
    take()
    segments = {}
    for id in store.ids():
        segments[store.about(id).name] = store.path(id).read_bytes()
    joined = b"".join(body for _, body in sorted(segments.items()))
    if not any(what == "crash" for what, _ in steps):
        assert joined == written
    else:
        assert set(joined.splitlines()) == set(written.splitlines())


# Receiving


@settings(max_examples=25, deadline=None)
@given(part=st.integers(1, 9_000), cut=st.integers(0, 40_000), seed=st.integers(0, 5))
def test_it_goes_on_where_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, part: int, cut: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    source, target = LocalStore(folder / "source"), LocalStore(folder / "target")
    rand = random.Random(seed)
    (folder / "tree").mkdir()
    for number in range(9):
        (folder / "tree" / f"{number}").write_bytes(rand.randbytes(rand.randint(0, 6_000)))
    about = put(source, folder / "tree")
    data = stream(source, about)
    first = target.receive(about, source.manifest_bytes(about.id))
    for begin in range(0, min(cut, len(data)), part):
        first.write(memoryview(data)[begin : min(begin + part, cut)])
    # As if it had been killed: nothing is closed, but its lock goes with it.
    os.close(first._lock)
    first._lock = os.open(os.devnull, os.O_RDONLY)
    assert not target.has(about.id)
    target = LocalStore(folder / "target")
    move(source, target, about, part)


def test_large_files_go_on_behind_the_last_whole_piece(
    store: LocalStore, other: LocalStore, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(3 * CHUNK_BYTES + 1))
    about = put(store, path)
    receiving = other.receive(about, store.manifest_bytes(about.id))
    receiving.write(memoryview(stream(store, about))[: 2 * CHUNK_BYTES + 77])
    receiving.close()
    again = other.receive(about, store.manifest_bytes(about.id))
    assert again.missing[0].offset == 2 * CHUNK_BYTES
    again.close()
    journal = other.root / "staging" / about.id / "journal"
    journal.write_text("another boot\n0 999999999\n")
    last = other.receive(about, store.manifest_bytes(about.id))
    assert last.missing[0].offset == 2 * CHUNK_BYTES
    last.close()
    move(store, other, about)


@pytest.mark.parametrize("at", [0, 20_000, CHUNK_BYTES + 20_000])
def test_a_flipped_byte_is_noticed_and_nothing_is_visible(
    store: LocalStore, other: LocalStore, tmp_path: Path, at: int
) -> None:
    about = put(store, tree(tmp_path / "tree"))
    data = bytearray(stream(store, about))
    data[at] ^= 1
    receiving = other.receive(about, store.manifest_bytes(about.id))
    with pytest.raises(TransferFailed) as damaged:
        receiving.write(memoryview(data))
    assert damaged.value.code == "damaged"
    receiving.close()
    with pytest.raises(TransferFailed):
        other.commit(about.id, order_token=1, store_token=1)
    assert other.ids() == []
    move(store, other, about)


def test_more_than_there_is_is_refused(
    store: LocalStore, other: LocalStore, tmp_path: Path
) -> None:
    (tmp_path / "x").write_text("x")
    about = put(store, tmp_path / "x")
    receiving = other.receive(about, store.manifest_bytes(about.id))
    with pytest.raises(TransferFailed):
        receiving.write(memoryview(b"xy"))
    receiving.close()


def test_a_link_in_staging_leads_nowhere(
    store: LocalStore, other: LocalStore, tmp_path: Path
) -> None:
    folder = tmp_path / "deep"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x").write_text("secret")
    about = put(store, folder)
    outside = tmp_path / "outside"
    outside.mkdir()
    files = other.root / "staging" / about.id / "artifact" / "files"
    files.mkdir(parents=True)
    (files / "sub").symlink_to(outside)
    receiving = other.receive(about, store.manifest_bytes(about.id))
    with pytest.raises(TransferFailed):
        receiving.write(memoryview(b"secret"))
    receiving.close()
    assert list(outside.iterdir()) == []


# What stands


def test_damage_is_found_and_put_aside(store: LocalStore, tmp_path: Path) -> None:
    about = put(store, tree(tmp_path / "tree"))
    assert store.verify(about.id).ok
    path = store.path(about.id) / "large"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(9_000_000 % (CHUNK_BYTES + 1))
        file.write(b"\0\1\2\3")
    (store.path(about.id) / "more").write_text("x")
    found = store.verify(about.id)
    assert not found.ok
    assert len(found.problems) == 2
    kept = store.quarantine(about.id, "a flipped byte")
    assert kept.is_dir()
    assert not store.has(about.id)
    assert put(store, tmp_path / "tree").id == about.id


def test_reading_stays_inside(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    about = put(store, tmp_path / "x")
    for path in ("../manifest.json", "/etc/passwd", "../../../../../../etc/passwd"):
        with pytest.raises(TransferFailed):
            store.read(about.id, path, 0, 10)
    with pytest.raises(TransferFailed) as gone:
        store.read(about.id, "missing", 0, 10)
    assert gone.value.code == "source_gone"
    assert store.read(about.id, "x", 0, 10) == b"x"


def test_older_tokens_neither_commit_nor_drop(
    store: LocalStore, other: LocalStore, tmp_path: Path
) -> None:
    (tmp_path / "x").write_text("x")
    about = put(store, tmp_path / "x")
    receiving = other.receive(about, store.manifest_bytes(about.id))
    receiving.write(memoryview(b"x"))
    receiving.close()
    with other.fence.guard("orders", 5):
        pass
    with pytest.raises(TransferFailed) as stale:
        other.commit(about.id, order_token=4, store_token=9)
    assert stale.value.code == "stale_token"
    other.commit(about.id, order_token=5, store_token=9)
    other.commit(about.id, order_token=5, store_token=9)
    with pytest.raises(TransferFailed):
        other.drop(about.id, order_token=5, store_token=8)
    assert other.has(about.id)
    other.drop(about.id, order_token=5, store_token=9)
    other.drop(about.id, order_token=5, store_token=9)
    assert not other.has(about.id)


def test_room_is_reserved(store: LocalStore) -> None:
    free, total = store.free()
    assert 0 < free < total
    with store.reserve("a", free // 2):
        assert store.free()[0] <= free // 2 + 50_000_000
        with pytest.raises(TransferFailed) as full, store.reserve("b", free):
            pass
    assert full.value.code == "no_space"


def test_a_store_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no store"):
        LocalStore(tmp_path / "missing", create=False)
