"""Runs the cases of a group in turns: A B C, A B C, … on one broker."""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from interlock.bench import message, stats
from interlock.bench.cases import Case, Group, messages, next_count, tells
from interlock.bench.result import Measured
from interlock.bench.session import Session
from interlock.bench.task import Task
from interlock.bench.workers import BenchFailed
from interlock_schemas.topology import EVENTS

__all__ = ["Say", "measure"]

#: Told what goes on, for a person who waits.
Say = Callable[[str], None]

_TRIES: Final = 4
#: A rate from a very short run is trusted so far: what follows has at most so many times more.
_GROWTH: Final = 20


class _Runner(msgspec.Struct, kw_only=True):
    """A case with what it was tuned to, and its runs so far."""

    case: Case
    tuned: int
    count: int
    rates: list[float] = []

    @property
    def label(self) -> str:
        """For messages: ``nats_py publish_async (1000)``."""
        return f"{self.case.name} ({self.tuned})" if self.tuned else self.case.name


async def measure(
    running: Session, group: Group, say: Say, failed: dict[str, str]
) -> list[Measured]:
    """Tune each case, then run all in turns. A case of others that fails is noted and left out.

    Raises BenchFailed when a case of ours fails.
    """
    begin = time.monotonic()
    say(f"{group.kind}, {group.setting}")
    await running.start((case.client, case.way) for case in group.cases)
    first = messages(group.kind, group.setting, group.run_s)
    if group.kind == "consume":
        await running.preload(first, group.setting.size)
    runners: list[_Runner] = []
    for case in group.cases:
        try:
            runners += await _tune(running, group, case, first)
        except BenchFailed as error:
            _note(failed, group, case, error)
    for _ in range(group.runs):
        for runner in list(runners):
            try:
                seconds = await _run(running, group, runner.case, runner.tuned, runner.count)
            except BenchFailed as error:
                _note(failed, group, runner.case, error)
                runners.remove(runner)
            else:
                runner.rates.append(runner.count / seconds)
    found = [
        Measured(
            kind=group.kind,
            setting=group.setting,
            case=runner.case,
            tuned=runner.tuned,
            fastest=runner is _fastest(runners, runner.case),
            count=runner.count,
            rates=tuple(runner.rates),
        )
        for runner in runners
        if runner.rates
    ]
    say(f"  {time.monotonic() - begin:.1f} s")
    return found


def _note(failed: dict[str, str], group: Group, case: Case, error: BenchFailed) -> None:
    if case.client == "interlock":
        raise error
    failed[f"{case.name}, {group.setting}"] = str(error)


async def _tune(running: Session, group: Group, case: Case, first: int) -> list[_Runner]:
    """Find the fastest of what may be tried, and how many messages make a run."""
    rates: dict[int, float] = {}
    count = first
    for tuned in case.tries:
        rates[tuned], count = await _warm_up(running, group, case, tuned, count)
    best = max(rates, key=lambda tuned: rates[tuned])

    def runner(tuned: int) -> _Runner:
        wanted = first
        if group.kind == "publish":
            wanted = next_count(group.setting, group.run_s, rates[tuned])
        return _Runner(case=case, tuned=tuned, count=wanted)

    return [runner(tuned) for tuned in dict.fromkeys((best, case.tries[0]))]


def _fastest(runners: list[_Runner], case: Case) -> _Runner:
    """Which of a case's runners did best over all runs."""
    return max(
        (runner for runner in runners if runner.case == case and runner.rates),
        key=lambda runner: stats.median(runner.rates),
    )


async def _warm_up(
    running: Session, group: Group, case: Case, tuned: int, count: int
) -> tuple[float, int]:
    """The rate of a first run, and its count; runs too short to tell are repeated, longer."""
    for _ in range(_TRIES):
        rate = count / await _run(running, group, case, tuned, count)
        following = next_count(group.setting, group.run_s, rate)
        if group.kind == "consume" or tells(count, count / rate, following):
            break
        count = min(following, count * _GROWTH)
    return rate, count


async def _run(running: Session, group: Group, case: Case, tuned: int, count: int) -> float:
    """One run, seconds. A publish run begins with an empty stream, and is counted afterwards."""
    task = Task(
        way=case.way,
        count=count,
        stream=EVENTS.name,
        subject=message.SUBJECT,
        size=group.setting.size,
        mark=running.mark(),
        window=tuned if group.kind == "publish" else 0,
        batch=tuned if group.kind == "consume" else 0,
    )
    if group.kind == "publish":
        await running.fresh_stream()
    timing = await running.run(case.client, task)
    if group.kind == "publish":
        stored = await running.stored()
        if stored != count:
            raise BenchFailed(f"{case.name}: {count} were acknowledged, {stored} are stored")
    elif timing.count != count:
        raise BenchFailed(f"{case.name}: {count} were stored, {timing.count} were handled")
    return timing.seconds
