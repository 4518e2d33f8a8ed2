"""The fence for files: decisions, records, one process; a model of power cuts."""

import asyncio
import contextlib
import fcntl
import os
import random
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.errors import FenceBusy, FenceUnusable, InterlockError, StaleToken
from interlock.locks import fence_rules, mounts
from interlock.locks.fence import FileFence
from interlock.locks.fence_command import run_guarded

tokens = st.integers(1, fence_rules.MAX_TOKEN)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.fixture
def fence(tmp_path: Path) -> FileFence:
    return FileFence(tmp_path / "fence")


def the_record(fence: FileFence) -> Path:
    (record,) = fence.folder.glob("*.json")
    return record


# Decisions


@given(st.integers(0, fence_rules.MAX_TOKEN), tokens)
def test_a_token_is_stale_exactly_where_a_higher_one_was_seen(highest: int, shown: int) -> None:
    admission = fence_rules.admit(highest, shown)
    assert (admission == "stale") == (shown < highest)
    assert (admission == "higher") == (shown > highest)


@given(st.lists(tokens, max_size=20))
def test_what_is_admitted_never_falls(shown: list[int]) -> None:
    highest = 0
    admitted: list[int] = []
    for token in shown:
        if fence_rules.admit(highest, token) != "stale":
            highest = token
            admitted.append(token)
    assert admitted == sorted(admitted)
    assert highest == max(shown, default=0)


@pytest.mark.parametrize("token", [True, "7", 7.0, None])
def test_what_is_no_int_is_no_token(fence: FileFence, token: object) -> None:
    with pytest.raises(TypeError, match="fencing token is an int"), fence.guard("r", token):  # type: ignore[arg-type]
        pytest.fail("it was admitted")


@pytest.mark.parametrize("token", [0, -1, 2**64])
def test_what_was_never_given_is_no_token(fence: FileFence, token: int) -> None:
    with pytest.raises(ValueError, match="lies between 1 and"), fence.guard("r", token):
        pytest.fail("it was admitted")


@pytest.mark.parametrize("token", [1, 2**63, fence_rules.MAX_TOKEN])
def test_every_sequence_of_a_stream_is_a_token(fence: FileFence, token: int) -> None:
    with fence.guard("r", token):
        pass
    assert fence.highest("r") == token


@given(names, names)
def test_two_names_never_share_files_on_any_file_system(one: str, other: str) -> None:
    first, second = fence_rules.file_stem(one), fence_rules.file_stem(other)
    assert (first.casefold() == second.casefold()) == (one == other)
    assert fence_rules.file_stem(one) == first
    assert set(first) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(first) <= 105


@pytest.mark.parametrize(
    "name", ["..", "/etc/passwd", "../../x", "a\0b", "x" * 10_000, "A", "a", " ", "é", "e\u0301"]
)
def test_any_name_stays_in_the_folder(fence: FileFence, name: str) -> None:
    fence.write(name, 3, fence.folder.parent / "data", b"")
    assert fence.highest(name) == 3
    assert the_record(fence).is_file()


@pytest.mark.parametrize(("name", "why"), [("", "no name"), ("\udc80", "not valid Unicode")])
def test_names_that_are_none_are_refused(fence: FileFence, name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why), fence.guard(name, 1):
        pytest.fail("it was admitted")


@given(names, tokens, st.data())
def test_a_record_is_whole_or_refused(name: str, token: int, data: st.DataObject) -> None:
    whole = fence_rules.encode(name, token)
    assert fence_rules.decode(whole, name) == token
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match="no whole record"):
        fence_rules.decode(whole[:cut], name)
    changed = bytearray(whole)
    changed[cut] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        assert fence_rules.decode(bytes(changed), name) == token


# One writer after another


def test_a_lower_token_is_refused_and_an_equal_one_is_not(fence: FileFence) -> None:
    assert fence.highest("r") == 0
    for token in (5, 5, 9):
        with fence.guard("r", token):
            assert fence.highest("r") == token
    with pytest.raises(StaleToken, match="r: token 8 is stale, 9 has been seen") as refused:
        fence.guard("r", 8).__enter__()
    assert (refused.value.resource, refused.value.shown, refused.value.seen) == ("r", 8, 9)
    assert fence.highest("r") == 9
    assert fence.highest("another") == 0


def test_another_fence_on_the_folder_knows_what_was_seen(fence: FileFence) -> None:
    with fence.guard("r", 7):
        pass
    again = FileFence(str(fence.folder), create=False)
    assert again.highest("r") == 7
    with pytest.raises(StaleToken), again.guard("r", 6):
        pytest.fail("it was admitted")


def test_an_error_in_the_block_comes_out_and_ends_the_turn(fence: FileFence) -> None:
    with pytest.raises(OSError, match="mine"), fence.guard("r", 1):
        raise OSError("mine")
    with fence.guard("r", 1, timeout_s=0):
        pass


def test_a_stale_token_is_refused_while_another_writes(fence: FileFence) -> None:
    with fence.guard("r", 2), pytest.raises(StaleToken), fence.guard("r", 1):
        pytest.fail("it was admitted")


def test_nothing_is_left_open(fence: FileFence) -> None:
    before = sorted(Path("/dev/fd").iterdir())
    for token in (2, 1, 3):
        with contextlib.suppress(StaleToken):
            fence.write("r", token, fence.folder.parent / "data", b"")
    with fence.guard("r", 3), pytest.raises(FenceBusy), fence.guard("r", 3, timeout_s=0.01):
        pytest.fail("two at a time")
    assert sorted(Path("/dev/fd").iterdir()) == before


# At the same time


def test_threads_take_turns(fence: FileFence) -> None:
    inside = threading.Semaphore(1)
    overlapping: list[int] = []

    def work(token: int) -> None:
        for _ in range(5):
            with contextlib.suppress(StaleToken), fence.guard("r", token):
                if not inside.acquire(blocking=False):
                    overlapping.append(token)
                    continue
                os.sched_yield()
                inside.release()

    threads = [threading.Thread(target=work, args=(token,)) for token in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not overlapping
    assert fence.highest("r") == 6


def test_a_guard_inside_a_guard_is_told_what_it_did(fence: FileFence) -> None:
    with (
        fence.guard("r", 1),
        pytest.raises(FenceBusy, match="a guard inside a guard of the same resource"),
        fence.guard("r", 1, timeout_s=0),
    ):
        pytest.fail("two at a time")


def test_resources_do_not_wait_for_each_other(fence: FileFence) -> None:
    with fence.guard("one", 1), fence.guard("other", 1, timeout_s=0):
        pass


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan")])
def test_a_timeout_is_seconds(fence: FileFence, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"), fence.guard("r", 1, timeout_s=timeout_s):
        pytest.fail("it was admitted")


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(fence: FileFence) -> None:
    lock = fcntl.flock
    tries: list[int] = []

    def meanwhile(descriptor: int, operation: int) -> None:
        lock(descriptor, operation)
        tries.append(operation)
        if len(tries) == 1:
            next(fence.folder.glob("*.lock")).unlink()

    with (
        mock.patch("fcntl.flock", meanwhile),
        fence.guard("r", 1),
        pytest.raises(FenceBusy),
        fence.guard("r", 1, timeout_s=0),
    ):
        pytest.fail("two at a time")


def test_a_fork_inside_the_block_does_not_end_the_turn(fence: FileFence) -> None:
    turn = fence.guard("r", 1)
    turn.__enter__()
    child = os.fork()
    if child == 0:
        turn.__exit__(None, None, None)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(FenceBusy), fence.guard("r", 1, timeout_s=0):
        pytest.fail("two at a time")
    turn.__exit__(None, None, None)
    with fence.guard("r", 1, timeout_s=0):
        pass


def test_a_child_forked_meanwhile_does_not_keep_the_turn(fence: FileFence) -> None:
    told, tell = os.pipe()
    with fence.guard("r", 1):
        child = os.fork()
        if child == 0:
            os.close(tell)
            os.read(told, 1)
            os._exit(0)
    os.close(told)
    try:
        with fence.guard("r", 2, timeout_s=0):
            pass
    finally:
        os.close(tell)
        os.waitpid(child, 0)


async def test_an_event_loop_is_not_kept_waiting(fence: FileFence, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"), fence.guard("r", 1):
        pytest.fail("it was admitted")
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        fence.write("r", 1, tmp_path / "data", b"x")
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        fence.repair("r", 1)
    await asyncio.to_thread(fence.write, "r", 1, tmp_path / "data", b"x")
    assert (tmp_path / "data").read_bytes() == b"x"
    assert fence.highest("r") == 1


# Files


def test_write_keeps_the_mode_and_follows_a_link(fence: FileFence, tmp_path: Path) -> None:
    data, link = tmp_path / "data", tmp_path / "link"
    data.write_bytes(b"old")
    data.chmod(0o640)
    link.symlink_to(data)
    fence.write("r", 1, link, b"new")
    assert link.is_symlink()
    assert data.read_bytes() == b"new"
    assert stat.S_IMODE(data.stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_that_any_other_would_have(
    fence: FileFence, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_bytes(b"")
    fence.write("r", 1, tmp_path / ("n" * 250), b"new")
    assert (tmp_path / ("n" * 250)).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_stale_write_changes_nothing_and_leaves_nothing(fence: FileFence, tmp_path: Path) -> None:
    target, source = tmp_path / "data", tmp_path / "temporary"
    fence.write("r", 2, target, b"new")
    source.write_bytes(b"old")
    with pytest.raises(StaleToken):
        fence.write("r", 1, target, b"old")
    with pytest.raises(StaleToken):
        fence.replace("r", 1, source, target)
    assert target.read_bytes() == b"new"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "fence", "temporary"]
    fence.replace("r", 2, source, str(target))
    assert target.read_bytes() == b"old"


def test_a_token_that_becomes_stale_while_data_is_prepared_is_refused(
    fence: FileFence, tmp_path: Path
) -> None:
    target = tmp_path / "data"
    flush = os.fsync
    others = [2]

    def meanwhile(descriptor: int) -> None:
        flush(descriptor)
        while others:
            fence.write("r", others.pop(), target, b"new")

    with mock.patch("os.fsync", meanwhile), pytest.raises(StaleToken):
        fence.write("r", 1, target, b"old")
    assert target.read_bytes() == b"new"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "fence"]


def test_a_write_that_fails_leaves_nothing(fence: FileFence, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        fence.write("r", 1, tmp_path / "data", "text")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        fence.write("r", 1, tmp_path / "none" / "data", b"")
    assert [each.name for each in tmp_path.iterdir()] == ["fence"]


# Damage


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 80, b"garbage", b'{"token":1}', b"[]", b"0", b"7"]
)
def test_a_damaged_record_is_refused_and_never_reads_as_none(
    fence: FileFence, content: bytes
) -> None:
    with fence.guard("r", 7):
        pass
    record = the_record(fence)
    record.write_bytes(content)
    with pytest.raises(FenceUnusable, match=r"r: the record .*\.json .*repair") as refused:
        fence.highest("r")
    assert str(record) in str(refused.value)
    with pytest.raises(FenceUnusable), fence.guard("r", 9):
        pytest.fail("it was admitted")
    assert record.read_bytes() == content


def test_a_record_that_is_gone_or_set_back_is_noticed(fence: FileFence) -> None:
    with fence.guard("r", 7):
        pass
    record = the_record(fence)
    former = record.read_bytes()
    with fence.guard("r", 8):
        pass
    record.write_bytes(former)
    with pytest.raises(FenceUnusable, match="it held token 8 and says 7"), fence.guard("r", 9):
        pytest.fail("it was admitted")
    record.unlink()
    with pytest.raises(FenceUnusable, match="gone"), fence.guard("r", 9):
        pytest.fail("it was admitted")
    with pytest.raises(FenceUnusable, match="gone"):
        fence.highest("r")


def test_a_record_of_another_resource_is_noticed(fence: FileFence) -> None:
    with fence.guard("one", 7):
        pass
    foreign = the_record(fence)
    foreign.rename(fence.folder / f"{fence_rules.file_stem('other')}.json")
    with pytest.raises(FenceUnusable, match="it is the record of 'one'"):
        fence.highest("other")


def test_a_lock_file_of_garbage_only_loses_who_writes(fence: FileFence) -> None:
    with fence.guard("r", 7):
        pass
    (lock,) = fence.folder.glob("*.lock")
    lock.write_bytes(b"\xff" * 2000)
    with pytest.raises(StaleToken), fence.guard("r", 6):
        pytest.fail("it was admitted")
    with fence.guard("r", 7):
        pass


def test_repair_writes_a_record_anew_and_lowers_none(fence: FileFence) -> None:
    with fence.guard("r", 7):
        pass
    the_record(fence).write_bytes(b"")
    assert fence.repair("r", 5) == 7, "the note still knew"
    assert fence.repair("r", 9) == 9
    assert fence.repair("r", 8) == 9
    with fence.guard("r", 9):
        pass
    with pytest.raises(StaleToken), fence.guard("r", 8):
        pytest.fail("it was admitted")


def test_a_folder_that_is_gone_has_not_seen_nothing(fence: FileFence) -> None:
    with fence.guard("r", 7):
        pass
    fence.folder.rename(fence.folder.with_name("elsewhere"))
    with pytest.raises(FenceUnusable, match="cannot use"):
        fence.highest("r")
    with pytest.raises(FenceUnusable, match="cannot use"), fence.guard("r", 1):
        pytest.fail("it was admitted")
    with pytest.raises(FenceUnusable, match="is the right disk mounted"):
        FileFence(fence.folder, create=False)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FenceUnusable, match="file"):
        FileFence(tmp_path / "file" / "fence")
    with pytest.raises(FenceUnusable, match="file"):
        FileFence(tmp_path / "file")


def test_a_full_disk_admits_nobody(fence: FileFence) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with (
        mock.patch("os.fsync", full),
        pytest.raises(FenceUnusable, match="No space left on device"),
        fence.guard("r", 1),
    ):
        pytest.fail("it was admitted")
    assert fence.highest("r") == 0


# Power cuts


def test_a_token_is_on_disk_before_the_block_begins(fence: FileFence) -> None:
    order: list[str] = []
    flush, move = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        flush(descriptor)
        folder = os.path.samestat(os.fstat(descriptor), fence.folder.stat())
        order.append(f"flush {'folder' if folder else 'record'}")

    def replace(source: Path, target: Path) -> None:
        move(source, target)
        order.append("rename")

    with mock.patch("os.fsync", fsync), mock.patch("os.replace", replace):
        for _ in range(2):
            with fence.guard("r", 1):
                order.append("block")
    assert order == [
        *("flush record", "rename", "flush folder", "block"),
        # The second writer cannot know that the first came to flush the folder.
        *("flush folder", "block"),
    ]


class Killed(BaseException):
    """SIGKILL, as far as a test can do it inside of a process."""


class Disk:
    """What a power cut leaves of a folder: what was flushed, and of the rest whatever it likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contents: dict[int, bytes] = {}
        self.names: dict[str, bytes] = {}
        self.countdown: int | None = None

    def _step(self) -> None:
        if self.countdown is not None:
            if self.countdown == 0:
                raise Killed
            self.countdown -= 1

    def fsync(self, descriptor: int) -> None:
        self._step()
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self.names = {
                each.name: self.contents.get(each.stat().st_ino, b"")
                for each in self.folder.iterdir()
            }
        else:
            (path,) = (each for each in self.folder.iterdir() if each.stat().st_ino == found.st_ino)
            self.contents[found.st_ino] = path.read_bytes()
        self._step()

    def power_cut(self, seed: int) -> None:
        """0: nothing is left but what was flushed."""
        chance = random.Random(seed)
        present = {each.name: each.read_bytes() for each in self.folder.iterdir()}
        for name in sorted(present.keys() | self.names.keys()):
            path = self.folder / name
            left: list[bytes | None] = [self.names.get(name)]
            if name in present:
                flushed = self.contents.get(path.stat().st_ino)
                # A name outruns what it names only where that was never flushed.
                left += [flushed] if flushed is not None else [b"", present[name]]
            content = chance.choice(left) if seed else left[0]
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        self.contents = {each.stat().st_ino: each.read_bytes() for each in self.folder.iterdir()}
        self.names = {each.name: each.read_bytes() for each in self.folder.iterdir()}

    @contextlib.contextmanager
    def used(self, *, dies_at: int | None) -> Iterator[None]:
        self.countdown = dies_at
        move = os.replace

        def replace(source: Path, target: Path) -> None:
            self._step()
            move(source, target)
            self._step()

        with (
            mock.patch("os.fsync", self.fsync),
            mock.patch("os.replace", replace),
            contextlib.suppress(Killed),
        ):
            yield
        self.countdown = None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 4), st.none() | st.integers(0, 7), st.none() | st.integers(0, 1000)
        ),
        max_size=8,
    )
)
# Killed between the rename and its flush, then written under the same token, then the power cut.
@example([(1, None, None), (2, 3, None), (2, None, 0), (1, None, None)])
def test_no_kill_and_no_power_cut_lets_an_older_token_write(
    steps: list[tuple[int, int | None, int | None]],
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        fence = FileFence(Path(scratch) / "fence")
        disk = Disk(fence.folder)
        written = shown = 0
        for token, dies_at, power_cut in steps:
            shown = max(shown, token)
            with (
                contextlib.suppress(StaleToken),
                disk.used(dies_at=dies_at),
                fence.guard("r", token),
            ):
                assert token >= written, f"{token} wrote after {written}"
                written = token
            if power_cut is not None:
                disk.power_cut(power_cut)
        with disk.used(dies_at=None), fence.guard("r", shown + 1):
            written = shown + 1
        assert fence.highest("r") == shown + 1


# Where a fence may be

MOUNTS = rb"""22 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:40 / /mnt/with\040space rw - nfs4 filer:/export rw
31 22 0:41 / /mnt/auto rw - autofs systemd-1 rw
32 31 0:42 / /mnt/auto rw shared:5 master:1 - cifs //filer/x rw
33 32 254:1 / /mnt/auto/disk rw - xfs /dev/sdb rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/mnt/withspace", "ext4"),
        ("/mnt/with space/a/b", "nfs4"),
        ("/mnt/auto", "cifs"),
        ("/mnt/autonomous", "ext4"),
        ("/mnt/auto/disk/fence", "xfs"),
    ],
)
def test_the_deepest_and_latest_mount_says_what_a_path_is_on(path: str, kind: str) -> None:
    assert mounts.kind_at(MOUNTS, Path(path)) == kind


def test_a_folder_shared_between_hosts_is_refused(tmp_path: Path) -> None:
    with (
        mock.patch.object(mounts, "file_system", return_value="nfs4"),
        pytest.raises(FenceUnusable, match=r"network file system \(nfs4\).*local disk"),
    ):
        FileFence(tmp_path)
    assert not mounts.is_shared("ext4")


def test_where_nothing_tells_a_folder_is_taken(tmp_path: Path) -> None:
    with mock.patch.object(mounts, "_TABLE", tmp_path / "none"):
        assert mounts.file_system(tmp_path) is None
        FileFence(tmp_path)


# Commands


def test_a_command_runs_under_its_token(tmp_path: Path) -> None:
    script = "import sys; open(sys.argv[1], 'w').close(); sys.exit(3)"
    ran = tmp_path / "ran"
    assert run_guarded(tmp_path / "f", "r", 5, [sys.executable, "-c", script, str(ran)]) == 3
    assert ran.exists()
    ran.unlink()
    with pytest.raises(StaleToken):
        run_guarded(tmp_path / "f", "r", 4, [sys.executable, "-c", script, str(ran)])
    assert not ran.exists()
    assert run_guarded(tmp_path / "f", "r", 5, ["sh", "-c", "kill -KILL $$"]) == 137
    with pytest.raises(InterlockError, match="cannot run no-such-command"):
        run_guarded(tmp_path / "f", "r", 5, ["no-such-command"])
    with pytest.raises(ValueError, match="no command"):
        run_guarded(tmp_path / "f", "r", 5, [])
