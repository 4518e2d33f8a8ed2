"""Rules over what was written under the locks: no late writer, no lost update. Pure.

Every write of a run counts one higher than what its writer read, under its lock and with its token.

A fenced file keeps every write that it took, in order, so its rules are plain: tokens never fall,
and each value is one more than the one before. What was stored in the bucket is judged along its
history (`interlock.chaos.locks.claims`). Here both are compared with what the writers were told:
what was accepted is there, what was refused is not, and the last value is the number of writes that
were taken. A writer that was told nothing finds its write in the one or the other.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from interlock.chaos.locks.claims import History
from interlock.chaos.locks.findings import Finding
from interlock.chaos.locks.lines import Store
from interlock.chaos.locks.records import StateSet, Value
from interlock.chaos.locks.turns import Turn
from interlock_schemas.locks import state_key

__all__ = ["Told", "judge"]


class Told(msgspec.Struct, kw_only=True):
    """What the writers were told, by number of writes."""

    accepted: int = 0
    refused: int = 0
    unknown: int = 0


def judge(
    turns: Sequence[Turn],
    history: History,
    files: Mapping[str, Sequence[Value]],
    finals: Mapping[str, int],
) -> tuple[list[Finding], dict[Store, Told]]:
    """What is wrong with the writes.

    ``files``: what the file of each lock took, in order. ``finals``: what the key of each lock held
    at the end.
    """
    found: list[Finding] = []
    for lock, values in files.items():
        found += _file(lock, values)
    kept: dict[Store, set[tuple[str, str]]] = {
        "file": {(lock, each.op) for lock, values in files.items() for each in values},
        "kv": {
            (record.key, record.value.op)
            for record in history.records
            if isinstance(record, StateSet)
        },
    }
    told: dict[Store, Told] = {"file": Told(), "kv": Told()}
    accepted: dict[tuple[Store, str], int] = {}
    unknown: dict[tuple[Store, str], int] = {}
    for turn in turns:
        lock = turn.ask.lock
        for write, written in turn.writes:
            where = f"{write.store}:{lock}"
            place = lock if write.store == "file" else state_key(lock)
            there = (place, turn.ask.op) in kept[write.store]
            who = f"{write.value} by {turn.ask.op} with token {write.token} at {write.at:.3f}"
            result = "unknown" if written is None else written.result
            if result == "accepted":
                told[write.store].accepted += 1
                accepted[write.store, lock] = accepted.get((write.store, lock), 0) + 1
                # Of the bucket's messages some may not have been seen.
                missed = (
                    write.store == "kv" and written is not None and history.missed(written.revision)
                )
                if not there and not missed:
                    found.append(
                        Finding("lost_update", where, f"{who} was accepted and is not there")
                    )
            elif result == "refused":
                told[write.store].refused += 1
                if there:
                    found.append(Finding("misreported", where, f"{who} was refused and is there"))
            else:
                told[write.store].unknown += 1
                unknown[write.store, lock] = unknown.get((write.store, lock), 0) + 1
    values_now: dict[tuple[Store, str], int] = {("kv", lock): n for lock, n in finals.items()}
    values_now |= {("file", lock): v[-1].value if v else 0 for lock, v in files.items()}
    for (store, lock), final in values_now.items():
        least = accepted.get((store, lock), 0)
        most = least + unknown.get((store, lock), 0)
        if not least <= final <= most:
            found.append(
                Finding(
                    "lost_update",
                    f"{store}:{lock}",
                    f"the last value is {final}, while {least} writes were accepted and "
                    f"{most - least} may have been",
                )
            )
    found += _finals(history, finals)
    return found, told


def _file(lock: str, values: Sequence[Value]) -> Iterable[Finding]:
    before = Value(value=0, token=0, op="nobody")
    for each in values:
        who = f"{each.value} by {each.op} with token {each.token}"
        behind = f"{before.value} by {before.op} with token {before.token}"
        if each.token < before.token:
            yield Finding("stale_write", f"file:{lock}", f"{who} after {behind}")
        if each.value != before.value + 1:
            yield Finding("lost_update", f"file:{lock}", f"{who} after {behind}")
        before = each


def _finals(history: History, finals: Mapping[str, int]) -> Iterable[Finding]:
    """The bucket at the end against its history."""
    last: dict[str, StateSet] = {}
    for record in history.records:
        if isinstance(record, StateSet):
            last[record.key] = record
    for lock, final in finals.items():
        stored = last.get(state_key(lock))
        value, seq = (stored.value.value, stored.seq) if stored is not None else (0, 0)
        room = history.missing_between(seq, history.last + 1)
        if not value <= final <= value + room:
            yield Finding(
                "lost_update", f"kv:{lock}", f"the last value is {final}, and {value} was stored"
            )
