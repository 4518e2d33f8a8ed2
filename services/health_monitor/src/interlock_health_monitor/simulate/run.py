"""Runs a simulated fleet: the hosts' heartbeats on several processors, then the monitor on one."""

import os
import signal
import threading
from array import array
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from typing import Any, NamedTuple

from interlock_health_monitor.simulate import baselines, report
from interlock_health_monitor.simulate.clock import Clock
from interlock_health_monitor.simulate.options import Options
from interlock_health_monitor.simulate.traces import arrivals, episodes
from interlock_health_monitor.simulate.watch import watch
from interlock_health_monitor.simulate.world import draw

__all__ = ["Progress", "simulate"]

#: What is done at present, and how much of it, 0 to 1.
Progress = Callable[[str, float], None]

#: Hosts a process works on before it reports.
_GROUP = 20


class _Heard(NamedTuple):
    """What comes of the heartbeats of some hosts."""

    start: int
    beats: int
    episodes: "list[array[float]]"
    outcomes: dict[str, baselines.Outcome]


def simulate(
    options: Options, *, processes: int = 1, progress: Progress = lambda _, __: None
) -> dict[str, Any]:
    """Run one fleet and count. The figures do not depend on `processes`."""
    world = draw(options)
    clock = Clock(world.away, options.duration_s)
    found: list[array[float]] = [array("d")] * len(world.hosts)
    outcomes = {name: baselines.Outcome() for name in baselines.DETECTORS}
    beats = 0
    groups = [(at, min(at + _GROUP, len(world.hosts))) for at in range(0, len(world.hosts), _GROUP)]
    heard: list[_Heard] = []

    def take(part: _Heard) -> None:
        heard.append(part)
        progress("heartbeats", len(heard) / len(groups))

    if processes == 1 or len(groups) == 1:
        worker = _Worker(options)
        for group in groups:
            take(worker.hear(*group))
    else:
        # The children are told to end by the pool; Ctrl-C is ours to handle.
        context = get_context("spawn")
        with ProcessPoolExecutor(
            processes, mp_context=context, initializer=_begin, initargs=(options,)
        ) as pool:
            waiting = [pool.submit(_hear, *group) for group in groups]
            try:
                for each in as_completed(waiting):
                    take(each.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    for part in sorted(heard, key=lambda each: each.start):
        found[part.start : part.start + len(part.episodes)] = part.episodes
        beats += part.beats
        for name, outcome in part.outcomes.items():
            outcomes[name].add(outcome)
    log = watch(world, clock, options, found, lambda share: progress("decisions", share))
    return report.figures(world, clock, options, log, outcomes, beats)


class _Worker:
    """Draws the heartbeats of hosts."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._world = draw(options)
        self._clock = Clock(self._world.away, options.duration_s)

    def hear(self, start: int, end: int) -> _Heard:
        """Of those from `start` to before `end`."""
        options, world = self._options, self._world
        beats, found = 0, []
        outcomes = {name: baselines.Outcome() for name in baselines.DETECTORS}
        for host in world.hosts[start:end]:
            read = arrivals(host, world.away, options)
            beats += len(read)
            found.append(episodes(read, self._clock, options.policy))
            declared = baselines.declare(
                host, read, world.away, options.duration_s, options.eviction.after_s
            )
            for name, outcome in declared.items():
                outcomes[name].add(outcome)
        return _Heard(start, beats, found, outcomes)


_worker: _Worker | None = None


def _begin(options: Options) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = _Worker(options)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _hear(start: int, end: int) -> _Heard:
    assert _worker is not None  # noqa: S101  # for the type checker
    return _worker.hear(start, end)
