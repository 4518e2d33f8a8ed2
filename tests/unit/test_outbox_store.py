"""The outbox's file, without a broker."""

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.errors import InterlockError, OutboxUnusable, PublishRefused
from interlock.outbox import lock
from interlock.outbox.rules import Limits, Message
from interlock.outbox.store import Store, Stored

LIMITS = Limits(messages=10, bytes=10_000)
WINDOWS = {"events": 600.0}
S = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.ns = 1_000_000 * S

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    opened = Store(tmp_path / "outbox.db", clock_ns=clock)
    yield opened
    opened.close()


def message(id: str, *, body: bytes = b"{}", own_id: bool = False) -> Message:
    return Message(subject="events.a.b.c", id=id, headers=b"{}", body=body, own_id=own_id)


def put(store: Store, *ids: str) -> None:
    outcomes = store.insert([[message(id)] for id in ids], LIMITS)
    assert all(isinstance(each, list) for each in outcomes)
    assert len(outcomes) == len(ids)


def waiting(store: Store) -> list[str]:
    return [each.id for each in store.advance([], {}, limit=100, windows_s=WINDOWS).rows]


def test_rows_come_out_as_they_went_in_also_after_reopening(tmp_path: Path) -> None:
    first = Store(tmp_path / "o", clock_ns=time.time_ns)
    put(first, "a", "b")
    first.close()
    second = Store(tmp_path / "o", clock_ns=time.time_ns)
    put(second, "c")
    assert waiting(second) == ["a", "b", "c"]
    second.close()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = Store(tmp_path / "deep" / "er" / "o", clock_ns=time.time_ns)
        put(store, "a")
        for each in (tmp_path / "deep" / "er").iterdir():
            assert stat.S_IMODE(each.stat().st_mode) == 0o600, each
        store.close()
    finally:
        os.umask(old)


def test_a_commit_is_on_disk_before_it_returns(store: Store) -> None:
    assert store._pragma("synchronous") == 2
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_groups_enter_as_a_whole_or_not_at_all(store: Store) -> None:
    groups = [[message(f"{n}-{m}") for m in range(4)] for n in range(3)]
    assert len(store.insert(groups, LIMITS)) == 2
    assert store.status().waiting == 8


def test_what_does_not_fit_does_not_let_others_pass(store: Store) -> None:
    large = message("large", body=b"x" * 20_000)
    assert store.insert([[message("a")], [large], [message("b")]], LIMITS) == [[Stored("a", 1)]]


def test_bytes_count_too_and_come_free_again(store: Store) -> None:
    large = message("large", body=b"x" * 9_900)
    assert len(store.insert([[large], [message("next", body=b"x" * 100)]], LIMITS)) == 1
    assert store.status().bytes > 9_900
    (row,) = store.advance([], {}, limit=10, windows_s=WINDOWS).rows
    store.advance([row.seq], {}, limit=0, windows_s={})
    told = store.status()
    assert (told.waiting, told.bytes, told.forwarded) == (0, 0, 1)


def test_the_same_message_under_its_own_id_waits_once(store: Store) -> None:
    store.insert([[message("a", own_id=True)]], LIMITS)
    again = store.insert([[message("a", own_id=True)]], LIMITS)
    assert again == [[Stored("a", 1, duplicate=True)]]
    assert store.status().waiting == 1


def test_another_message_under_the_same_id_is_refused_not_dropped(store: Store) -> None:
    store.insert([[message("a", own_id=True)]], LIMITS)
    outcomes = store.insert([[message("a", body=b"other", own_id=True)], [message("b")]], LIMITS)
    assert isinstance(outcomes[0], PublishRefused)
    assert "id of its own" in str(outcomes[0])
    assert outcomes[1] == [Stored("b", 2)]


def test_rows_are_marked_before_they_are_sent(store: Store, clock: Clock) -> None:
    put(store, "a")
    store.advance([], {}, limit=10, windows_s=WINDOWS)
    clock.ns += 100 * S
    (row,) = store.advance([], {}, limit=10, windows_s=WINDOWS).rows
    assert row.sent_ns == clock.ns - 100 * S


def test_a_doubtful_row_holds_the_line_until_it_is_resolved(store: Store, clock: Clock) -> None:
    put(store, "a", "b")
    (a, b) = store.advance([], {}, limit=10, windows_s=WINDOWS).rows
    clock.ns += 700 * S
    put(store, "c")
    turn = store.advance([], {}, limit=10, windows_s=WINDOWS)
    assert (list(turn.rows), turn.doubtful) == ([], True)
    doubts = store.doubts(WINDOWS)
    assert [each.row.seq for each in doubts] == [a.seq, b.seq]
    assert store.suspects() == ["events.a.b.c"]
    store.resolve([a.seq], [b.seq])
    assert waiting(store) == ["b", "c"]
    assert store.status().forwarded == 1


def test_a_refused_message_is_kept_and_can_be_sent_once_more(store: Store) -> None:
    put(store, "a", "b")
    (a, _) = store.advance([], {}, limit=10, windows_s=WINDOWS).rows
    store.advance([], {a.seq: "no stream likes it"}, limit=0, windows_s={})
    told = store.status()
    assert (told.waiting, told.refused, told.forwarded) == (1, 1, 0)
    (refusal,) = store.refusals(10)
    assert (refusal.seq, refusal.id, refusal.reason) == (a.seq, "a", "no stream likes it")
    assert store.retry([refusal.seq]) == 1
    assert waiting(store) == ["b", "a"]
    assert store.status().refused == 0


def test_a_refused_message_can_be_discarded(store: Store) -> None:
    put(store, "a")
    (a,) = store.advance([], {}, limit=10, windows_s=WINDOWS).rows
    store.advance([], {a.seq: "no"}, limit=0, windows_s={})
    with pytest.raises(InterlockError, match="numbered 99"):
        store.discard([a.seq, 99])
    assert store.discard(None) == 1
    assert store.refusals(10) == []


def test_a_batch_is_bounded_in_memory(store: Store) -> None:
    limits = Limits(messages=10, bytes=10**9)
    store.insert([[message(str(n), body=b"x" * 5_000_000)] for n in range(3)], limits)
    assert len(store.advance([], {}, limit=10, windows_s=WINDOWS).rows) == 1


def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "o"
    path.write_bytes(b"not a database " * 1_000)
    with pytest.raises(OutboxUnusable, match=r"damaged or no outbox.*Move it away"):
        Store(path, clock_ns=time.time_ns)
    assert path.read_bytes() == b"not a database " * 1_000


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "o"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(OutboxUnusable, match="something else"):
        Store(path, clock_ns=time.time_ns)


def test_a_damaged_outbox_is_named(tmp_path: Path) -> None:
    path = tmp_path / "o"
    store = Store(path, clock_ns=time.time_ns)
    store.insert([[message(str(n), body=b"x" * 3_000)] for n in range(100)], Limits())
    store.close()
    content = bytearray(path.read_bytes())
    content[4_096:] = b"\xff" * (len(content) - 4_096)
    path.write_bytes(content)

    def use() -> None:
        with contextlib.closing(Store(path, clock_ns=time.time_ns)) as damaged:
            damaged.advance([], {}, limit=10, windows_s={})

    with pytest.raises(OutboxUnusable, match="damaged"):
        use()


def test_an_outbox_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "o"
    Store(path, clock_ns=time.time_ns).close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 7")
    newer.close()
    with pytest.raises(OutboxUnusable, match=r"newer Interlock \(format 7"):
        Store(path, clock_ns=time.time_ns)


def test_a_full_disk_is_named_and_what_is_stored_stays(store: Store) -> None:
    put(store, "a")
    pages = store._pragma("page_count")
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(OutboxUnusable, match=r"disk of the outbox .* is full"):
        store.insert([[message("b", body=b"x" * 100_000)]], Limits())
    assert waiting(store) == ["a"]


def test_whoever_comes_by_a_link_meets_the_others(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "o")
    Store(tmp_path / "o", clock_ns=time.time_ns).close()
    mine = lock.ForwarderLock(tmp_path / "o")
    assert mine.acquire()
    assert not lock.ForwarderLock(tmp_path / "link").acquire()
    mine.release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxUnusable, match="cannot make the outbox"):
        Store(tmp_path / "file" / "o", clock_ns=time.time_ns)


def test_an_outbox_that_must_be_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(OutboxUnusable, match="there is no outbox"):
        Store(tmp_path / "o", clock_ns=time.time_ns, create=False)
    assert list(tmp_path.iterdir()) == []


def test_many_processes_may_make_and_fill_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "o"
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from interlock.outbox.rules import Limits, Message\n"
        "from interlock.outbox.store import Store\n"
        "store = Store(Path(sys.argv[1]), clock_ns=time.time_ns)\n"
        "for n in range(50):\n"
        "    store.insert([[Message(subject='events.a', id=f'{sys.argv[2]}-{n}', headers=b'{}',"
        " body=b'', own_id=False)]], Limits())\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(n)]) for n in range(4)
    ]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    store = Store(path, clock_ns=time.time_ns)
    ids = [each.id for each in store.advance([], {}, limit=1_000, windows_s={}).rows]
    store.close()
    for n in range(4):
        assert [id for id in ids if id.startswith(f"{n}-")] == [f"{n}-{m}" for m in range(50)]


def test_one_forwarder_at_a_time_and_its_lock_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "o"
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from interlock.outbox.lock import ForwarderLock\n"
        "print(ForwarderLock(Path(sys.argv[1])).acquire(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdin is not None
    try:
        assert other.stdout.readline() == b"True\n"
        mine = lock.ForwarderLock(path)
        assert not mine.acquire()
        assert lock.holder(path) == other.pid
    finally:
        other.kill()
        other.wait(60)
        other.stdin.close()
        other.stdout.close()
    assert lock.holder(path) is None
    assert mine.acquire()
    assert lock.holder(path) == os.getpid()
    assert not lock.ForwarderLock(path).acquire()
    mine.release()
    assert lock.holder(path) is None
