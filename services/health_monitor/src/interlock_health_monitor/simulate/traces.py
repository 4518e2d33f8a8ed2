"""The heartbeats of one host as they come to the monitor, and the silences among them.

Nearly all beats come in time and change nothing but the node's rhythm. So the real `Rhythm` hears
every one of them here, and only a silence in which the real `patience_s` runs out, so that a
monitor would ask, is handed on as an episode. Between episodes a node that does well stays as it
is; that is all that this leaves out, and a test runs both ways.
"""

from array import array
from bisect import bisect_left
from itertools import accumulate, islice
from random import Random
from typing import Final

from interlock_health_monitor.rhythm import Rhythm
from interlock_health_monitor.simulate.clock import DRAIN_S, RATE, Clock
from interlock_health_monitor.simulate.network import WAY_S, lag_s
from interlock_health_monitor.simulate.options import Options
from interlock_health_monitor.simulate.world import Away, Host
from interlock_health_monitor.suspicion import Policy, patience_s

__all__ = ["EPISODE", "arrivals", "episodes"]

#: Numbers of an episode: the beat before, the beat after (or inf), and the rhythm in between:
#: mean, variance, beats. Before the first episode stands the first beat of all.
EPISODE: Final = 5

_NEVER: Final = float("inf")


def arrivals(host: Host, away: tuple[Away, ...], options: Options) -> list[float]:
    """When the beats of a host are read by the monitor, in order."""
    rng = Random(f"{options.seed}:beats:{host.name}")  # noqa: S311  # the seed is the point
    rand = rng.random
    jitter, loss, until = options.jitter_ms / 1_000, options.loss, options.duration_s
    found: list[float] = []
    at = host.born_s + rand()
    for trouble in host.troubles:
        start, end = min(trouble.start_s, until), min(trouble.end_s, until)
        count = max(0, int(start - at) + 1 if start > at else 0)
        base = at + WAY_S
        found += [base + k + jitter * rand() for k in range(count) if rand() >= loss]
        at += count
        if at >= until:
            break
        if trouble.kind == "slow":
            while at < end:
                late = lag_s(trouble, at)
                if rand() >= loss:
                    found.append(at + WAY_S + jitter * rand())
                at += 1.0 + late
        elif trouble.kind == "dead":
            # Another run of the agent, with beats of its own.
            at = end
        else:
            if trouble.kind == "pause" and at < end and rand() >= loss:
                found.append(end + WAY_S + jitter * rand())
            if at < end:
                at += int(end - at) + 1
    else:
        count = max(0, int(until - at) + 1 if until > at else 0)
        base = at + WAY_S
        found += [base + k + jitter * rand() for k in range(count) if rand() >= loss]
    # One connection: nothing overtakes.
    found = list(accumulate(found, max))
    return _read(found, away, until)


def _read(found: list[float], away: tuple[Away, ...], until_s: float) -> list[float]:
    """The same, as the monitor comes to read them."""
    for each in away:
        if each.kind == "slow":
            continue
        first, behind = bisect_left(found, each.start_s), bisect_left(found, each.end_s)
        if each.kind == "broker":
            del found[first:behind]
            continue
        lasted, drained = each.end_s - each.start_s, each.end_s + DRAIN_S
        for place in range(first, behind):
            share = (found[place] - each.start_s) / lasted
            found[place] = each.end_s + share * DRAIN_S
        while behind < len(found) and found[behind] < drained:
            found[behind] = drained
            behind += 1
    del found[bisect_left(found, until_s) :]
    return found


def episodes(beats: list[float], clock: Clock, policy: Policy) -> "array[float]":
    """The first beat, and the silences in which the node would be asked, `EPISODE` numbers each."""
    found = array("d", beats[:1])
    if not beats:
        return found
    rhythm = Rhythm()
    heard, stamps = rhythm.heard, clock.stamps
    least = policy.ask_floor * rhythm.interval_s
    before = beats[0]
    last = stamps[int(before * RATE)]
    for at in islice(beats, 1, None):
        now = stamps[int(at * RATE)]
        gap = now - last
        if gap >= least and gap >= patience_s(rhythm, policy):
            found.extend((before, at, rhythm.mean_s, rhythm.variance, rhythm.beats))
        heard(gap)
        before, last = at, now
    found.extend((before, _NEVER, rhythm.mean_s, rhythm.variance, rhythm.beats))
    return found
