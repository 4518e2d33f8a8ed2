"""What a host's own tar and shell send is understood, however it is cut into parts."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from interlock.artifacts import layout
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports import remote
from interlock.artifacts.transports.base import Piece
from interlock.artifacts.transports.packed import PLAIN, Unpacker

ID = "ab" * 32
PROGRAMS = ("sh", "xargs", "cat", "grep", "tar")

names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)
contents = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from([511, 512, 513, 20_000]).map(lambda size: b"\0x" * size),
)


def put(root: Path, files: dict[str, bytes]) -> list[Piece]:
    pieces = []
    for path, data in files.items():
        at = root / layout.file_path(ID, path)
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(data)
        pieces.append(Piece(ID, path, 0, len(data), True))
    return pieces


def sent(root: Path, pieces: list[Piece], path: str | None = None) -> tuple[bytes, bytes, int]:
    (trip,) = remote.trips(str(root), pieces)
    assert trip.packed
    ended = subprocess.run(
        ["/bin/sh", "-c", trip.command],
        input=trip.stdin,
        capture_output=True,
        env=dict(os.environ) if path is None else {"PATH": path},
        check=False,
    )
    return ended.stdout, ended.stderr, ended.returncode


def unpacked(pieces: list[Piece], data: bytes, step: int) -> bytes:
    unpacker = Unpacker(piece.length for piece in pieces)
    return b"".join(
        bytes(unpacker.feed(memoryview(data)[at : at + step])) for at in range(0, len(data), step)
    )


@pytest.fixture(scope="module")
def without_tar(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where programs are on a host without tar."""
    folder = tmp_path_factory.mktemp("programs")
    for name in PROGRAMS[:-1]:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return str(folder)


@given(
    st.dictionaries(names, contents, min_size=2, max_size=6), st.integers(1, 2_000), st.booleans()
)
@example({"-n": b"1", "a\\n": b"2", "-T": b"3", "*": b"4", "l" * 199: b"5", "a\nb": b"6"}, 7, False)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_sent_comes_out_by_either_program(
    tmp_path: Path, without_tar: str, files: dict[str, bytes], step: int, plain: bool
) -> None:
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    pieces = put(tmp_path / "store", files)
    data, said, code = sent(tmp_path / "store", pieces, without_tar if plain else None)
    assert (said, code) == (b"", 0)
    assert data.startswith(PLAIN) == plain
    assert unpacked(pieces, data, step) == b"".join(files.values())


def test_a_file_with_two_names_is_sent_twice(tmp_path: Path) -> None:
    pieces = put(tmp_path, {"a": b"same" * 200, "b": b"other"})
    (tmp_path / layout.file_path(ID, "b")).unlink()
    os.link(tmp_path / layout.file_path(ID, "a"), tmp_path / layout.file_path(ID, "b"))
    pieces[1] = Piece(ID, "b", 0, 800, True)
    data, _, code = sent(tmp_path, pieces)
    assert code == 0
    assert unpacked(pieces, data, 1_000) == b"same" * 400


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 5)
    pieces = put(tmp_path, {"a": b"1" * 5, "b": b"2" * 5})
    (tmp_path / layout.file_path(ID, "b")).unlink()
    (tmp_path / layout.file_path(ID, "b")).symlink_to(tmp_path / "secret")
    data, _, _ = sent(tmp_path, pieces)
    with pytest.raises(TransferFailed, match="kind '2'"):
        unpacked(pieces, data, 1_000)


def test_a_file_of_another_size_and_one_too_many_are_refused(tmp_path: Path) -> None:
    pieces = put(tmp_path, {"a": b"1" * 5, "b": b"2" * 6})
    data, _, _ = sent(tmp_path, pieces)
    for wanted in ([pieces[1], pieces[0]], pieces[:1]):
        with pytest.raises(TransferFailed) as raised:
            unpacked(wanted, data, len(data))
        assert raised.value.code == "damaged"


@given(st.binary(max_size=3_000), st.integers(1, 700))
def test_whatever_comes_it_is_content_or_refused(data: bytes, step: int) -> None:
    unpacker = Unpacker([10, 20])
    got = 0
    with contextlib.suppress(TransferFailed):
        for at in range(0, len(data), step):
            got += len(unpacker.feed(memoryview(data)[at : at + step]))
    assert got <= len(data)


def test_few_or_large_files_go_as_they_are(tmp_path: Path) -> None:
    large = [Piece(ID, name, 0, 10**9, True) for name in "ab"]
    for pieces in (large, large[:1], [Piece(ID, "a", 0, 5, True)]):
        (trip,) = remote.trips(str(tmp_path), pieces)
        assert not trip.packed
