"""Merges what the workers on a node report into one account of what gets done there. Pure.

Counters are totals of each worker and only rise; one that falls back was started again, and counts
on from nothing. The node's sums never fall. Times are those of one rising clock, in seconds.
"""

import math
from collections import deque
from typing import Final

import msgspec

from interlock_schemas.nodes import Checkpoint, Progress, Report

__all__ = ["FORGET_S", "LATELY_S", "WINDOW_S", "Ledger"]

#: A node that leaves does not wait for a worker that has said nothing for so long, seconds.
LATELY_S: Final = 120.0
#: A worker that has said nothing for so long is not missed any more, seconds. Until then it may be
#: stuck, which looks the same from here, and is what somebody wants to know.
FORGET_S: Final = 3_600.0
#: For so long, failures and successes count, seconds.
WINDOW_S: Final = 600.0

_SLICE_S: Final = 5.0
_WORKERS: Final = 2_000
_COUNTERS: Final = 64
_LARGEST: Final = 1e15


class _Worker(msgspec.Struct):
    heard_at: float
    counters: dict[str, float] = {}
    failures: int = 0
    successes: int = 0


class Ledger:
    """What the workers on one node have got done."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._sums: dict[str, float] = {}
        self._rose_at: float | None = None
        self._outcomes: deque[tuple[float, int, int]] = deque()
        self._checkpoint: tuple[str, float] | None = None
        self._reported = False

    def take(self, report: Report, now: float) -> None:
        """Note one report."""
        self._reported = True
        before = self._workers.pop(report.worker, None)
        if before is None:
            before = _Worker(heard_at=now)
            if not self._expecting(now):
                # The clock of progress starts with the first that could get something done.
                self._rose_at = now
        rose = False
        counters = dict(before.counters)
        for name, total in report.counters.items():
            if not (math.isfinite(total) and 0 <= total <= _LARGEST):
                continue
            if name not in self._sums and len(self._sums) >= _COUNTERS:
                continue
            gained = _gained(counters.get(name, 0.0), total)
            self._sums[name] = self._sums.get(name, 0.0) + gained
            counters[name] = total
            rose = rose or gained > 0
        failures = int(_gained(before.failures, report.failures))
        successes = int(_gained(before.successes, report.successes))
        if rose or successes:
            self._rose_at = now
        self._note(now, failures, successes)
        if report.checkpoint is not None:
            self._checkpoint = (report.checkpoint, now)
        if report.done:
            return
        # The one that was heard last stands last.
        self._workers[report.worker] = _Worker(now, counters, report.failures, report.successes)
        if len(self._workers) > _WORKERS:
            del self._workers[next(iter(self._workers))]

    def working(self, now: float) -> int:
        """How many workers a leave waits for: heard lately, and not done."""
        return sum(now - worker.heard_at <= LATELY_S for worker in self._workers.values())

    def progress(self, now: float) -> Progress | None:
        """The account as it stands; None while nobody has reported.

        Its age is absent when nobody is expected to get anything done: all said that they are
        done, or have been silent for an hour.
        """
        if not self._reported:
            return None
        for name, worker in list(self._workers.items()):
            if now - worker.heard_at <= FORGET_S:
                break
            del self._workers[name]
        self._forget(now)
        age = None
        if self._workers and self._rose_at is not None:
            age = round(max(0.0, now - self._rose_at), 3)
        return Progress(
            workers=len(self._workers),
            counters=dict(self._sums),
            age_s=age,
            failures=sum(failures for _, failures, _ in self._outcomes),
            successes=sum(successes for _, _, successes in self._outcomes),
        )

    def checkpoint(self, now: float) -> Checkpoint | None:
        """The last artifact that was reported; None where none was."""
        if self._checkpoint is None:
            return None
        artifact, at = self._checkpoint
        return Checkpoint(age_s=round(max(0.0, now - at), 3), artifact=artifact)

    def _expecting(self, now: float) -> bool:
        return any(now - worker.heard_at <= FORGET_S for worker in self._workers.values())

    def _note(self, now: float, failures: int, successes: int) -> None:
        if not (failures or successes):
            return
        if self._outcomes and now - self._outcomes[-1][0] < _SLICE_S:
            at, failed, succeeded = self._outcomes.pop()
            self._outcomes.append((at, failed + failures, succeeded + successes))
        else:
            self._outcomes.append((now, failures, successes))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._outcomes and now - self._outcomes[0][0] > WINDOW_S:
            self._outcomes.popleft()


def _gained(before: float, total: float) -> float:
    return total - before if total >= before else total
