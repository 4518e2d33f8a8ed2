"""Rules over the bucket's history: who held, in which order, with which token. Pure.

The bucket is the truth, and one message changes one claim, so walking its history in order of
sequence gives, at each message, exactly who holds and who waits, but for messages that the observer
missed. A missing sequence may have been anything. So behind a gap every claim counts as unknown
until it is heard of again, and a rule judges only what is known: a gap can hide a violation and
never make one up. How many are missing is reported.

1. Mutual exclusion: at no message do more claims of a lock hold than it has slots. A grant may say
   which hold it comes after: that one is over from this message on, although its record is removed
   only later. It must be removed before the hold that came after it ends, or in the same step.
2. Tokens: a hold's token is the sequence of the message that granted it, which rises by itself;
   every later record of the hold carries the same one; no hold is back once its end was seen; and
   where one may hold, no record of a holder has a lower token than one before.
3. Order: whoever is granted the lock, newly come or waiting, comes before all who wait, by (arrival
   less 30 s for each level, sequence of arrival). The place that a waiter had first is the one that
   counts, also if a later record of it says otherwise.
4. Liveness: a lock with a slot whose lease has run out (the time to live of its holder's last
   record is over, given back before or not) and with a waiter all the time is granted within
   `SLACK_S`, not counting the time in which the broker was broken.
5. Fenced state: what is stored under a lock carries the token of who holds it at that very message,
   and counts one higher than what was stored before.
"""

from bisect import bisect_right
from collections.abc import Sequence
from math import inf
from typing import Final

import msgspec

from interlock.chaos.locks.findings import Finding, Kind, Windows
from interlock.chaos.locks.records import ClaimEnd, ClaimSet, Record, StateSet

__all__ = ["SLACK_S", "Counts", "History", "judge"]

#: How much longer than a lease a lock may stand still while somebody waits, seconds.
SLACK_S: Final = 2.0

_STATE: Final = "state."


class Counts(msgspec.Struct, kw_only=True):
    """How much of everything the history holds."""

    grants: int = 0
    """Holds that began."""
    hand_overs: int = 0
    """Of these, to somebody who waited."""
    renewals: int = 0
    expired: int = 0
    """Holds that ended because nobody renewed them."""
    stored: int = 0
    """Fenced values."""
    missing: int = 0
    """Messages of the bucket that nobody saw."""
    worst_stuck_s: float = 0.0
    """The longest that a lock with a waiter stood still beyond its last lease, broken times left
    out."""
    worst_broken_s: float = 0.0
    """The same, broken times counted."""
    worst_idle_s: float = 0.0
    """The longest that a lock with a waiter was held by nobody, broken times left out."""


class History:
    """The records of a run, in order, and which are missing."""

    def __init__(self, records: Sequence[Record], *, first: int, last: int) -> None:
        """``records``: in any order, possibly the same one several times. ``first`` and ``last``:
        the bucket's sequences at the beginning and at the end of the run."""
        by_seq = {record.seq: record for record in records}
        self.records: list[Record] = [by_seq[seq] for seq in sorted(by_seq)]
        self._seqs = [record.seq for record in self.records]
        self._by_seq = by_seq
        self._first = first
        self.last = max([last, *self._seqs[-1:]])

    def get(self, seq: int) -> Record | None:
        """The record at a sequence, if it was seen."""
        return self._by_seq.get(seq)

    def missed(self, seq: int) -> bool:
        """Whether the run has a message of that sequence which was not seen."""
        return self._first <= seq <= self.last and seq not in self._by_seq

    def missing_between(self, low: int, high: int) -> int:
        """How many messages between two sequences, both left out, were not seen."""
        low = max(low, self._first - 1)
        seen = bisect_right(self._seqs, high - 1) - bisect_right(self._seqs, low)
        return max(0, high - low - 1 - seen)

    @property
    def missing(self) -> int:
        """How many messages of the run were not seen."""
        return self.missing_between(self._first - 1, self.last + 1)


class _Group:
    """What is known of one lock while its history is walked."""

    def __init__(self) -> None:
        self.claims: dict[str, ClaimSet] = {}
        """Those that are known to stand."""
        self.turns: dict[str, tuple[int, int]] = {}
        """The first place of each claim in the queue, while it stands."""
        self.tokens: dict[str, int] = {}
        """Of each claim that holds, until its end. One id may come again after that: whoever
        was never told that its claim held asks anew under it."""
        self.ended: dict[int, int] = {}
        """Token of each hold whose end was seen, and where."""
        self.over: dict[str, ClaimSet] = {}
        """Claims that are over, and whose record still stands."""
        self.followed: dict[str, str] = {}
        """Which claim came after each of them."""
        self.highest = 0
        self.free_at: float | None = -inf
        """When a slot became free. None: not known."""
        self.lapsed_at: float | None = -inf
        """When the lease of whoever had it is over. None: not known."""
        self.waiting_since: float | None = None
        """Since when there has been a waiter at all times."""

    @property
    def holders(self) -> list[ClaimSet]:
        return [claim for claim in self.claims.values() if claim.state == "held"]

    @property
    def waiting(self) -> list[ClaimSet]:
        return [claim for claim in self.claims.values() if claim.state == "waiting"]

    def forget(self) -> None:
        """Something was missed."""
        self.claims.clear()
        self.over.clear()
        self.followed.clear()
        self.turns.clear()
        self.tokens.clear()
        self.free_at = self.lapsed_at = self.waiting_since = None


class _Judge:
    def __init__(self, history: History, broken: Windows) -> None:
        self.found: list[Finding] = []
        self.counts = Counts(missing=history.missing)
        self._history = history
        self._broken = broken
        self._groups: dict[str, _Group] = {}
        self._state: dict[str, StateSet] = {}

    def _group(self, lock: str) -> _Group:
        if lock not in self._groups:
            self._groups[lock] = _Group()
        return self._groups[lock]

    def walk(self, first: int) -> None:
        before = first - 1
        for record in self._history.records:
            if record.seq != before + 1:
                for group in self._groups.values():
                    group.forget()
            before = record.seq
            if isinstance(record, ClaimSet):
                self._claim(self._group(record.lock), record)
            elif isinstance(record, ClaimEnd):
                self._end(self._group(record.lock), record)
            elif isinstance(record, StateSet):
                self._stored(record)

    def close(self, at: float) -> None:
        """What still stands still when the run ends at that time."""
        for lock, group in self._groups.items():
            holders = group.holders
            slots = max((claim.slots for claim in group.claims.values()), default=1)
            if len(holders) >= slots:
                lapsed_at = min(claim.at + claim.ttl_s for claim in holders)
                self._standstill(lock, group, inf, lapsed_at, at)
            else:
                self._standstill(lock, group, group.free_at, group.lapsed_at, at)

    def _claim(self, group: _Group, record: ClaimSet) -> None:
        over = group.over.get(record.id)
        if over is not None and over.token == record.token:
            # A renewal that was under way; it is over all the same.
            group.over[record.id] = record
            return
        if record.after and record.after not in group.over:
            self._over(group, record)
        turn = group.turns[record.id] = min(record.turn, group.turns.get(record.id, record.turn))
        known = group.claims.get(record.id)
        if record.state == "waiting":
            if group.waiting_since is None:
                group.waiting_since = record.at
            if known is not None and known.state == "held":
                self._add("token", record, f"claim {record.id} held and waits again")
        else:
            self._token(group, record)
            if record.token != record.seq:
                self.counts.renewals += 1
            if known is None or known.state != "held":
                self._begins(group, record, turn)
        group.claims[record.id] = record
        if not group.waiting:
            group.waiting_since = None

    def _over(self, group: _Group, record: ClaimSet) -> None:
        """The hold that this one came after is over."""
        claim = group.claims.pop(record.after, None)
        if claim is None:
            # It is gone, or it was said before: each renewal says it again.
            return
        group.over[record.after] = claim
        group.followed[record.after] = record.id
        if claim.token:
            group.ended[claim.token] = record.seq
        self._freed(group, record.at, record.at)

    def _token(self, group: _Group, record: ClaimSet) -> None:
        token = record.token
        earlier = group.tokens.get(record.id)
        if earlier is None:
            granted = self._history.get(token)
            if granted is None and not self._history.missed(token):
                self._add("token", record, f"{_who(record)}: nothing was stored at its token")
            elif granted is not None and not (
                isinstance(granted, ClaimSet)
                and (granted.lock, granted.id) == (record.lock, record.id)
                and granted.state == "held"
            ):
                self._add("token", record, f"{_who(record)}: something else is at its token")
        elif earlier != token:
            self._add("token", record, f"{_who(record)} had token {earlier} before")
        if token in group.ended:
            self._add(
                "token", record, f"{_who(record)} is back: its end was seen at {group.ended[token]}"
            )
        if record.slots == 1 and token < group.highest:
            self._add("token", record, f"{_who(record)}: token {group.highest} held before it")
        group.tokens[record.id] = token
        group.highest = max(group.highest, token)

    def _begins(self, group: _Group, record: ClaimSet, turn: tuple[int, int]) -> None:
        """It holds, and was not known to."""
        holders = group.holders
        if len(holders) >= record.slots:
            others = ", ".join(_who(claim) for claim in holders)
            self._add("overlap", record, f"{_who(record)} holds while held by {others}")
        if record.token == record.seq:
            self._granted(group, record, turn)
        if len(holders) + 1 >= record.slots:
            group.free_at = group.lapsed_at = inf
        # Whoever waits on waits for the next slot.
        if group.waiting_since is not None:
            group.waiting_since = max(group.waiting_since, record.at)

    def _granted(self, group: _Group, record: ClaimSet, turn: tuple[int, int]) -> None:
        self.counts.grants += 1
        self.counts.hand_overs += record.id in group.claims
        ahead = [
            claim
            for claim in group.waiting
            if claim.id != record.id and group.turns[claim.id] < turn
        ]
        if ahead:
            first = min(ahead, key=lambda claim: group.turns[claim.id])
            self._add(
                "barged",
                record,
                f"{_who(record)} was granted before claim {first.id} ({first.op}), which waited",
            )
        self._standstill(record.lock, group, group.free_at, group.lapsed_at, record.at)

    def _end(self, group: _Group, record: ClaimEnd) -> None:
        claim = group.claims.pop(record.id, None)
        group.turns.pop(record.id, None)
        token = group.tokens.pop(record.id, None)
        if token is not None:
            group.ended[token] = record.seq
        if group.over.pop(record.id, None) is not None:
            group.followed.pop(record.id)
        for id in [id for id, after in group.followed.items() if after == record.id]:
            # Nothing says any more that it is over. Its removal may be the next message.
            group.claims[id] = group.over.pop(id)
            group.followed.pop(id)
        if claim is None:
            return
        if claim.state == "held":
            self.counts.expired += record.expired
            lapsed_at = claim.at + claim.ttl_s
            free_at = min(record.at, lapsed_at) if record.expired else record.at
            self._freed(group, free_at, lapsed_at)
        elif not group.waiting:
            self._standstill(record.lock, group, group.free_at, group.lapsed_at, record.at)
            group.waiting_since = None

    @staticmethod
    def _freed(group: _Group, free_at: float, lapsed_at: float) -> None:
        """A slot is free. Another one may have been before."""
        group.free_at = None if group.free_at is None else min(group.free_at, free_at)
        group.lapsed_at = None if group.lapsed_at is None else min(group.lapsed_at, lapsed_at)

    def _standstill(
        self, lock: str, group: _Group, free_at: float | None, lapsed_at: float | None, at: float
    ) -> None:
        """Somebody waited until this time for what was free."""
        since = group.waiting_since
        if since is None or free_at is None or lapsed_at is None:
            return
        idle_s = self._broken.outside_s(max(since, free_at), at)
        stuck_s = self._broken.outside_s(max(since, lapsed_at), at)
        self.counts.worst_idle_s = max(self.counts.worst_idle_s, idle_s)
        self.counts.worst_stuck_s = max(self.counts.worst_stuck_s, stuck_s)
        self.counts.worst_broken_s = max(self.counts.worst_broken_s, at - max(since, lapsed_at))
        if stuck_s > SLACK_S:
            self.found.append(
                Finding(
                    "stuck",
                    lock,
                    f"{stuck_s:.1f} s beyond its lease until {at:.3f}, with somebody waiting "
                    f"since {since:.3f}",
                )
            )

    def _stored(self, record: StateSet) -> None:
        self.counts.stored += 1
        lock = record.key.removeprefix(_STATE)
        group = self._group(lock)
        value = record.value
        before = self._state.get(record.key)
        self._state[record.key] = record
        holders = group.holders
        if value.token in group.ended:
            self._add_state("stale_write", record, f"its hold ended at {group.ended[value.token]}")
        elif holders and all(claim.token != value.token for claim in holders):
            others = ", ".join(_who(claim) for claim in holders)
            self._add_state("stale_write", record, f"while held by {others}")
        elif before is not None and value.token < before.value.token:
            self._add_state("stale_write", record, f"after token {before.value.token}")
        count, low = (before.value.value, before.seq) if before is not None else (0, 0)
        room = self._history.missing_between(low, record.seq)
        if not count + 1 <= value.value <= count + 1 + room:
            by = f" by {before.value.op}" if before is not None else ""
            self._add_state("lost_update", record, f"after {count}{by}")

    def _add_state(self, kind: Kind, record: StateSet, what: str) -> None:
        value = record.value
        self._add(
            kind,
            record,
            f"{value.value} was stored by {value.op} with token {value.token} {what}",
            f"kv:{record.key.removeprefix(_STATE)}",
        )

    def _add(self, kind: Kind, record: ClaimSet | StateSet, what: str, where: str = "") -> None:
        if isinstance(record, ClaimSet):
            where = record.lock
        self.found.append(Finding(kind, where, f"at {record.seq} ({record.at:.3f}): {what}"))


def _who(claim: ClaimSet) -> str:
    return f"claim {claim.id} ({claim.op}, token {claim.token})"


def judge(
    history: History, broken: Windows, *, first: int, end_at: float
) -> tuple[list[Finding], Counts]:
    """Walk the history of a run that ended at ``end_at``. ``first``: its first sequence."""
    judging = _Judge(history, broken)
    judging.walk(first)
    judging.close(end_at)
    return judging.found, judging.counts
