"""The outbox's file: an SQLite database in WAL mode, on disk before a commit returns.

Synchronous: call it in one thread. Any number of processes may have the same file open; what they
do is serialized by SQLite. Which of them forwards is decided by `lock`.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from interlock.errors import InterlockError, OutboxUnusable, PublishRefused
from interlock.outbox import lock
from interlock.outbox.rules import Doubt, Limits, Message, Row, doubt, fits, lane, prefix

__all__ = ["Refusal", "Status", "Store", "Stored", "Turn"]

_APPLICATION: Final = 0x494C4F42
_VERSION: Final = 1

#: How long a transaction waits for another process's, seconds.
_BUSY_S: Final = 20.0

#: Pages of 4 KiB that a file may hold without use before they are given back.
_SPARE_PAGES: Final = 4_096

#: Most bytes of rows in memory, unless a single one is larger.
_BATCH_BYTES: Final = 8 * 1024 * 1024

#: Most rows that are looked up at once.
_MOST_DOUBTS: Final = 50_000

_DUPLICATE_MESSAGE_ID: Final = 10201

_SCHEMA: Final = """
CREATE TABLE waiting (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL,
    id TEXT NOT NULL,
    subject TEXT NOT NULL,
    headers BLOB NOT NULL,
    body BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    own_id INTEGER NOT NULL,
    created_ns INTEGER NOT NULL
);
CREATE UNIQUE INDEX waiting_ids ON waiting (lane, id);
CREATE TABLE marks (seq INTEGER PRIMARY KEY, sent_ns INTEGER, clear_ns INTEGER);
CREATE TABLE refused (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    subject TEXT NOT NULL,
    headers BLOB NOT NULL,
    body BLOB NOT NULL,
    own_id INTEGER NOT NULL,
    created_ns INTEGER NOT NULL,
    refused_ns INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE TABLE totals (
    waiting INTEGER NOT NULL, bytes INTEGER NOT NULL, forwarded INTEGER NOT NULL,
    error TEXT, error_ns INTEGER
);
INSERT INTO totals VALUES (0, 0, 0, NULL, NULL);
CREATE TRIGGER waiting_added AFTER INSERT ON waiting BEGIN
    UPDATE totals SET waiting = waiting + 1, bytes = bytes + new.bytes;
END;
CREATE TRIGGER waiting_gone AFTER DELETE ON waiting BEGIN
    UPDATE totals SET waiting = waiting - 1, bytes = bytes - old.bytes;
    DELETE FROM marks WHERE seq = old.seq;
END;
"""


class Stored(msgspec.Struct, frozen=True):
    """The local acknowledgement: the event is on this host's disk, and not yet at the broker.

    It arrives there under `id` when the outbox is forwarded. A host that is lost for good before
    takes it along.
    """

    id: str
    """Its ``Nats-Msg-Id``, for an event its ``ce-id``."""
    waiting: int
    """How many messages the outbox held when this one was stored, this one included."""
    duplicate: bool = False
    """The same message waited under this id already."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A message that the broker will not take, kept with the reason."""

    seq: int
    """Names it to `retry` and `discard`."""
    id: str
    subject: str
    reason: str
    created_ns: int
    refused_ns: int
    bytes: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How an outbox stands."""

    path: str
    waiting: int
    """Messages on this disk that the broker has not acknowledged."""
    bytes: int
    """Their size."""
    oldest_age_s: float | None
    """Age of the first of them; None where none waits."""
    refused: int
    """Messages set aside because the broker will not take them: see `interlock outbox refused`."""
    forwarded: int
    """Messages acknowledged by the broker since the file was made."""
    forwarder: int | None
    """The process that forwards now, None where none does."""
    last_error: str | None
    """Why forwarding failed last, None where it never did."""
    last_error_age_s: float | None
    """How long ago that was, seconds."""
    file_bytes: int
    """Size of the file on disk."""


class Turn(msgspec.Struct, frozen=True):
    """What the forwarder does next."""

    rows: Sequence[Row]
    """To send, in this order; marked as sent on disk."""
    doubtful: bool
    """The row behind them has to be looked up first."""


class Store:
    """One open outbox file. Every method may raise OutboxUnusable."""

    def __init__(self, path: Path, *, clock_ns: Callable[[], int], create: bool = True) -> None:
        self.path = path = path.expanduser().absolute()
        self._clock_ns = clock_ns
        _prepare(path, create=create)
        with _told(path):
            self._db = sqlite3.connect(
                path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        if self._pragma("user_version") == 0 and self._pragma("schema_version") == 0:
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._enter_wal()
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA journal_size_limit = 67108864")
        with self._transaction():
            # Asked under the lock: two processes may make the file at the same time.
            if self._pragma("user_version") == 0 and self._pragma("schema_version") == 0:
                for statement in _statements(_SCHEMA):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {_VERSION}")
        version = self._pragma("user_version")
        if self._pragma("application_id") != _APPLICATION:
            raise OutboxUnusable(
                f"{self.path} is a database of something else: name another file for the outbox"
            )
        if version != _VERSION:
            raise OutboxUnusable(
                f"the outbox {self.path} was made by a newer Interlock (format {version}, this one "
                f"reads {_VERSION}): upgrade here, or drain it with the newer one"
            )

    def _enter_wal(self) -> None:
        """Only a new file changes its mode; SQLite does not wait while another process does it."""
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _told(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def insert(
        self, groups: Sequence[Sequence[Message]], limits: Limits
    ) -> list[list[Stored] | InterlockError]:
        """Store groups of messages in one commit, each group as a whole, as many as find room.

        The outcomes are those of the first groups; for the others there is no room now.
        """
        outcomes: list[list[Stored] | InterlockError] = []
        with self._transaction():
            now = self._clock_ns()
            waiting, held = self._db.execute("SELECT waiting, bytes FROM totals").fetchone()
            for group in groups:
                try:
                    fresh = self._fresh(group)
                except PublishRefused as error:
                    outcomes.append(error)
                    continue
                size = sum(message.bytes for message in fresh.values())
                if fresh and not fits(
                    limits, waiting=waiting, bytes=held, more=len(fresh), more_bytes=size
                ):
                    break
                self._db.executemany(
                    "INSERT INTO waiting (lane, id, subject, headers, body, bytes, own_id,"
                    " created_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (
                            lane(m.subject),
                            m.id,
                            m.subject,
                            m.headers,
                            m.body,
                            m.bytes,
                            m.own_id,
                            now,
                        )
                        for m in fresh.values()
                    ],
                )
                waiting, held = waiting + len(fresh), held + size
                told: list[Stored] = []
                for message in group:
                    key = (lane(message.subject), message.id)
                    told.append(Stored(message.id, waiting, fresh.pop(key, None) is None))
                outcomes.append(told)
        return outcomes

    def _fresh(self, group: Sequence[Message]) -> dict[tuple[str, str], Message]:
        """The messages of a group that do not wait already."""
        fresh: dict[tuple[str, str], Message] = {}
        for message in group:
            key = (lane(message.subject), message.id)
            there: tuple[str, bytes] | None = None
            if key in fresh:
                there = (fresh[key].subject, fresh[key].body)
            elif message.own_id:
                there = self._db.execute(
                    "SELECT subject, body FROM waiting WHERE lane = ? AND id = ?", key
                ).fetchone()
            if there is None:
                fresh[key] = message
            elif there != (message.subject, message.body):
                raise PublishRefused(
                    f"another message waits in the outbox under the id {message.id!r}: the broker "
                    "would drop one of them; give each message an id of its own",
                    code=_DUPLICATE_MESSAGE_ID,
                )
        return fresh

    def advance(
        self,
        done: Sequence[int],
        refused: Mapping[int, str],
        *,
        limit: int,
        windows_s: Mapping[str, float],
    ) -> Turn:
        """Take out what was acknowledged, set aside what was refused, and mark what goes next.

        One commit. With a `limit` of 0 nothing is marked.
        """
        with self._transaction():
            now = self._clock_ns()
            self._settle(done, refused, now)
            if not limit:
                return Turn((), doubtful=False)
            rows = self._rows(limit)
            ready, doubtful = prefix(rows, now, windows_s)
            self._db.executemany(
                "INSERT INTO marks (seq, sent_ns) VALUES (?, ?)"
                " ON CONFLICT (seq) DO UPDATE SET sent_ns = excluded.sent_ns",
                [(row.seq, now) for row in ready if row.sent_ns is None],
            )
        if not rows and self._pragma("freelist_count") > _SPARE_PAGES:
            with _told(self.path):
                self._db.execute("PRAGMA incremental_vacuum").fetchall()
        return Turn(ready, doubtful)

    def _settle(self, done: Sequence[int], refused: Mapping[int, str], now: int) -> None:
        if not done and not refused:
            return
        for seq, reason in refused.items():
            self._db.execute(
                "INSERT INTO refused SELECT seq, id, subject, headers, body, own_id, created_ns,"
                " ?, ? FROM waiting WHERE seq = ?",
                (now, reason, seq),
            )
        gone = self._db.executemany(
            "DELETE FROM waiting WHERE seq = ?", [(seq,) for seq in (*done, *refused)]
        ).rowcount
        self._db.execute(
            "UPDATE totals SET forwarded = forwarded + ?", (max(0, gone - len(refused)),)
        )

    def _rows(self, limit: int) -> list[Row]:
        """The first rows, not more than may be held in memory at once."""
        rows: list[Row] = []
        held = 0
        for (
            seq,
            subject,
            id,
            headers,
            body,
            own_id,
            created_ns,
            sent_ns,
            clear_ns,
        ) in self._db.execute(
            "SELECT w.seq, w.subject, w.id, w.headers, w.body, w.own_id, w.created_ns,"
            " m.sent_ns, m.clear_ns FROM waiting w LEFT JOIN marks m ON m.seq = w.seq"
            " ORDER BY w.seq LIMIT ?",
            (limit,),
        ):
            row = Row(
                seq=seq,
                subject=subject,
                id=id,
                headers=headers,
                body=body,
                own_id=bool(own_id),
                created_ns=created_ns,
                sent_ns=sent_ns,
                clear_ns=clear_ns,
            )
            held += row.bytes
            if rows and held > _BATCH_BYTES:
                break
            rows.append(row)
        return rows

    def suspects(self) -> list[str]:
        """One subject of each lane that has rows which might be stored already."""
        with _told(self.path):
            return [
                subject
                for (subject,) in self._db.execute(
                    "SELECT min(w.subject) FROM waiting w LEFT JOIN marks m ON m.seq = w.seq"
                    " WHERE w.own_id OR m.sent_ns IS NOT NULL GROUP BY w.lane"
                )
            ]

    def doubts(self, windows_s: Mapping[str, float]) -> list[Doubt]:
        """The first rows that have to be looked up before they are sent, without their bodies."""
        with _told(self.path):
            now = self._clock_ns()
            found: list[Doubt] = []
            for seq, subject, id, own_id, created_ns, sent_ns, clear_ns in self._db.execute(
                "SELECT w.seq, w.subject, w.id, w.own_id, w.created_ns, m.sent_ns, m.clear_ns"
                " FROM waiting w LEFT JOIN marks m ON m.seq = w.seq"
                " WHERE w.own_id OR m.sent_ns IS NOT NULL ORDER BY w.seq"
            ):
                if len(found) == _MOST_DOUBTS:
                    break
                row = Row(
                    seq=seq,
                    subject=subject,
                    id=id,
                    headers=b"",
                    body=b"",
                    own_id=bool(own_id),
                    created_ns=created_ns,
                    sent_ns=sent_ns,
                    clear_ns=clear_ns,
                )
                if (one := doubt(row, now, windows_s)) is not None:
                    found.append(one)
            return found

    def resolve(self, stored: Sequence[int], absent: Sequence[int]) -> None:
        """Note what a look-up found: `stored` rows have arrived, `absent` ones may be sent."""
        with self._transaction():
            now = self._clock_ns()
            self._settle(stored, {}, now)
            self._db.executemany(
                "INSERT INTO marks (seq, clear_ns) VALUES (?, ?) ON CONFLICT (seq)"
                " DO UPDATE SET sent_ns = NULL, clear_ns = excluded.clear_ns",
                [(seq, now) for seq in absent],
            )

    def failed(self, why: str) -> None:
        """Note why forwarding failed, for `status`."""
        with self._transaction():
            self._db.execute("UPDATE totals SET error = ?, error_ns = ?", (why, self._clock_ns()))

    def waiting(self) -> int:
        """How many messages wait."""
        with _told(self.path):
            return int(self._db.execute("SELECT waiting FROM totals").fetchone()[0])

    def status(self) -> Status:
        """How the outbox stands."""
        with _told(self.path):
            now = self._clock_ns()
            waiting, held, forwarded, error, error_ns, oldest, refused = self._db.execute(
                "SELECT waiting, bytes, forwarded, error, error_ns,"
                " (SELECT created_ns FROM waiting ORDER BY seq LIMIT 1),"
                " (SELECT count(*) FROM refused) FROM totals"
            ).fetchone()
        return Status(
            path=str(self.path),
            waiting=waiting,
            bytes=held,
            oldest_age_s=None if oldest is None else max(0.0, (now - oldest) / 1e9),
            refused=refused,
            forwarded=forwarded,
            forwarder=lock.holder(self.path),
            last_error=error,
            last_error_age_s=None if error_ns is None else max(0.0, (now - error_ns) / 1e9),
            file_bytes=self.path.stat().st_size,
        )

    def refusals(self, limit: int) -> list[Refusal]:
        """The first `limit` messages that were set aside."""
        with _told(self.path):
            return [
                Refusal(
                    seq=seq,
                    id=id,
                    subject=subject,
                    reason=reason,
                    created_ns=created_ns,
                    refused_ns=refused_ns,
                    bytes=size,
                )
                for seq, id, subject, reason, created_ns, refused_ns, size in self._db.execute(
                    "SELECT seq, id, subject, reason, created_ns, refused_ns,"
                    " length(subject) + length(headers) + length(body)"
                    " FROM refused ORDER BY seq LIMIT ?",
                    (limit,),
                )
            ]

    def retry(self, seqs: Sequence[int] | None) -> int:
        """Put messages that were set aside at the end of what waits; None: all. Returns how many.

        They may exceed the limits. One whose id waits again by now stays where it is.
        """
        with self._transaction():
            moved = 0
            for seq, subject in self._chosen(seqs):
                added = self._db.execute(
                    "INSERT OR IGNORE INTO waiting (lane, id, subject, headers, body, bytes,"
                    " own_id, created_ns) SELECT ?, id, subject, headers, body,"
                    " length(subject) + length(headers) + length(body), own_id, created_ns"
                    " FROM refused WHERE seq = ?",
                    (lane(subject), seq),
                ).rowcount
                if added:
                    self._db.execute("DELETE FROM refused WHERE seq = ?", (seq,))
                    moved += 1
            return moved

    def discard(self, seqs: Sequence[int] | None) -> int:
        """Delete messages that were set aside, for good; None: all. Returns how many."""
        with self._transaction():
            chosen = self._chosen(seqs)
            self._db.executemany("DELETE FROM refused WHERE seq = ?", [(seq,) for seq, _ in chosen])
            return len(chosen)

    def _chosen(self, seqs: Sequence[int] | None) -> list[tuple[int, str]]:
        every = self._db.execute("SELECT seq, subject FROM refused ORDER BY seq").fetchall()
        if seqs is None:
            return every
        missing = sorted(set(seqs) - {seq for seq, _ in every})
        if missing:
            raise InterlockError(
                f"nothing refused is numbered {', '.join(map(str, missing))}: "
                "`interlock outbox refused` lists them"
            )
        return [each for each in every if each[0] in set(seqs)]

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _prepare(path: Path, *, create: bool) -> None:
    """Make the file, readable by its owner alone, and its folder."""
    try:
        if path.is_file():
            return
        if not create:
            raise OutboxUnusable(f"there is no outbox at {path}")
        missing = [each for each in (path.parent, *path.parent.parents) if not each.exists()]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # 0600 from the first byte; SQLite gives its other files the same mode.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        for each in (path.parent, *(folder.parent for folder in missing)):
            _sync_folder(each)
    except OSError as error:
        raise OutboxUnusable(f"cannot make the outbox {path}: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _statements(script: str) -> list[str]:
    """Statements one by one: `executescript` would commit the transaction first."""
    found: list[str] = []
    held = ""
    for line in script.splitlines():
        held += line + "\n"
        if sqlite3.complete_statement(held):
            found.append(held)
            held = ""
    return found


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say what SQLite's errors mean for the outbox."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            why = f"another process held the outbox {path} for {_BUSY_S:g} s: try again"
        elif "full" in str(error):
            why = f"the disk of the outbox {path} is full: make room"
        else:
            why = f"the outbox {path} cannot be used: {error}"
        raise OutboxUnusable(why) from error
    except sqlite3.DatabaseError as error:
        raise OutboxUnusable(
            f"{path} is damaged or no outbox ({error}). Move it away, with its -wal and -shm "
            f"files, to go on with an empty one; `sqlite3 {path} .recover` saves what can be read"
        ) from error
