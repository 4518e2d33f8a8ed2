"""Draws up the verdict on a run of locks. Pure.

The rules, each described where it stands: `interlock.chaos.locks.claims` over the bucket's history
(exclusion, tokens, order, liveness, fenced state), `interlock.chaos.locks.turns` over what clients
say (belief, tokens, answers), `interlock.chaos.locks.stores` over what was written. Here they are
put together, with what the end of the run adds: every lock can be had by somebody new.
"""

from collections.abc import Mapping, Sequence

import msgspec

from interlock.chaos.locks import claims, stores, turns
from interlock.chaos.locks.claims import SLACK_S, Counts, History
from interlock.chaos.locks.findings import KINDS, Finding, Kind, Window, Windows
from interlock.chaos.locks.lines import Line, Store
from interlock.chaos.locks.records import Record, Value
from interlock.chaos.locks.stores import Told

__all__ = ["Found", "Fresh", "Verdict", "check"]


class Fresh(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody new asked for a lock after the run, when everybody who held it was killed."""

    lock: str
    took_s: float | None
    """None: not granted."""
    text: str = ""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known at the end of a run."""

    ledgers: Mapping[str, Sequence[Line]]
    """By process."""
    records: Sequence[Record]
    """The bucket's history as far as it was seen; in any order, possibly several times."""
    first: int
    """The bucket's first sequence of the run."""
    last: int
    """And its last."""
    end_at: float
    """When the clients had ended, on the ledgers' clock."""
    files: Mapping[str, Sequence[Value]]
    """What the fenced file of each lock took, in order."""
    finals: Mapping[str, int]
    """What the fenced key of each lock held at the end."""
    fresh: Sequence[Fresh]
    ttl_s: float
    """Of every lease."""
    broken: Sequence[Window] = ()
    """When the broker was broken, and until everybody had noticed that it was well again."""
    frozen: Mapping[str, Sequence[Window]] = {}
    """When each process was."""
    killed: frozenset[str] = frozenset()
    """Processes that were killed at the end: nobody in them needs an answer."""
    nobody_times_out: bool = False
    """Whether a client that waits in vain is a lost one."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, and how much there was."""

    counts: Counts
    asks: int
    holds: int
    """Turns that held."""
    timeouts: int
    """Turns that ended because the lock was not granted in time."""
    refused_asks: int
    """Turns that ended without the lock for another reason."""
    lost: int
    """Turns that held and were told that they do no more."""
    told: Mapping[Store, Told]
    findings: Mapping[Kind, Sequence[Finding]]
    """Only kinds of which there are any."""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, and the run was one: locks were handed over, and both stores
        written."""
        return (
            not self.findings
            and self.counts.hand_overs > 0
            and all(each.accepted > 0 for each in self.told.values())
        )


def check(found: Found) -> Verdict:
    """Draw up the verdict."""
    history = History(found.records, first=found.first, last=found.last)
    all_turns = turns.turns_of(found.ledgers, found.killed)
    wrong, counts = claims.judge(
        history, Windows(found.broken), first=found.first, end_at=found.end_at
    )
    wrong += turns.judge(
        all_turns,
        history,
        {name: Windows(windows) for name, windows in found.frozen.items()},
        nobody_times_out=found.nobody_times_out,
    )
    misplaced, told = stores.judge(all_turns, history, found.files, found.finals)
    wrong += misplaced
    limit_s = found.ttl_s + SLACK_S
    for fresh in found.fresh:
        if fresh.took_s is None or fresh.took_s > limit_s:
            took = fresh.text if fresh.took_s is None else f"{fresh.took_s:.1f} s"
            wrong.append(
                Finding(
                    "stuck", fresh.lock, f"somebody new did not have it in {limit_s:g} s: {took}"
                )
            )
    findings: dict[Kind, list[Finding]] = {}
    for kind in KINDS:
        if of_kind := sorted(each for each in wrong if each.kind == kind):
            findings[kind] = of_kind
    endings = [turn.not_held for turn in all_turns if turn.not_held is not None]
    timeouts = sum(ending.why == "timeout" for ending in endings)
    return Verdict(
        counts=counts,
        asks=len(all_turns),
        holds=sum(turn.held is not None for turn in all_turns),
        timeouts=timeouts,
        refused_asks=len(endings) - timeouts,
        lost=sum(turn.lost is not None for turn in all_turns),
        told=told,
        findings=findings,
    )
