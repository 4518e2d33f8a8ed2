"""The figures of a simulated fleet: what was noticed and when, what was held against the healthy.

Whoever is alive, however silent, is held against the detector that declares it lost; a node that
is cut off with its zone counts apart, and is alive where evictions are concerned. The budget is
counted from the evictions themselves, not by the code that keeps to it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from interlock_health_monitor.eviction import Evicted, EvictionPolicy, Lost, rule
from interlock_health_monitor.simulate.baselines import Declared, Outcome
from interlock_health_monitor.simulate.clock import Clock
from interlock_health_monitor.simulate.options import HOUR_S, Options
from interlock_health_monitor.simulate.watch import Eviction, Log
from interlock_health_monitor.simulate.world import Host, World

__all__ = ["figures", "spread"]

#: Deaths so late are not missed yet, seconds.
_TOO_LATE_S = 120.0


def figures(
    world: World,
    clock: Clock,
    options: Options,
    log: Log,
    outcomes: dict[str, Outcome],
    beats: int,
) -> dict[str, Any]:
    """All figures of a run, as `interlock simulate fleet --json` prints them."""
    until = options.duration_s
    hours = sum(host.lived_s(until) for host in world.hosts) / HOUR_S
    ours, suspected = _ours(world, log, until)
    evicted = [_alive(world.hosts[each.host], each.at_s) for each in log.evictions]
    sizes = Counter(host.zone for host in world.hosts if host.born_s == 0)
    found: dict[str, Any] = {
        "options": msgspec.to_builtins(options),
        "beats": beats,
        "node_hours": round(hours, 1),
        "questions": log.asked,
        **_told(ours, hours),
        "false_suspects_per_node_hour": _rate(sum(suspected.values()), hours),
        "false_suspects": dict(sorted(suspected.items())),
        "evictions": len(log.evictions),
        "false_evictions": sum(evicted),
        "shadow": options.shadow,
        "budget": _budget(log.evictions, sizes, options.eviction),
        "disruptions": [
            {
                "zone": each.zone,
                "at_s": round(at, 1),
                "quiet": each.quiet,
                "members": each.members,
                "ended_s": next(
                    (round(end, 1) for over, end in log.ended if over.since_s == each.since_s),
                    None,
                ),
            }
            for each, at in log.disruptions
        ],
        "happened": {
            "hosts": len(world.hosts),
            "deaths": dict(sorted(_deaths(world.hosts, until).items())),
            "left_in_good_order": sum(
                each.cause == "left" and each.start_s < until
                for host in world.hosts
                for each in host.troubles
            ),
            "outage": {
                "zone": world.outage[0],
                "at_s": round(world.outage[1], 1),
                "lasts_s": round(world.outage[2] - world.outage[1], 1),
            },
            "monitor": dict(Counter(each.kind for each in world.away)),
            "attentive_share": round(clock.stamps[-1] / until, 5),
        },
    }
    found["baselines"] = {
        name: _baseline(outcome, world, hours, options, sizes) for name, outcome in outcomes.items()
    }
    found["ratios"] = _ratios(found)
    return found


def spread(times: Sequence[float]) -> dict[str, Any]:
    """Median, 99th percentile and worst of some times, seconds; None where there are none."""
    if not times:
        return {"p50": None, "p99": None, "max": None, "samples": 0}
    ordered = sorted(times)

    def at(share: float) -> float:
        return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)

    return {"p50": at(0.5), "p99": at(0.99), "max": at(1.0), "samples": len(ordered)}


def _ours(world: World, log: Log, until_s: float) -> tuple[Outcome, dict[str, int]]:
    """What the monitor made of it, and whom it suspected that was alive."""
    found = Outcome()
    suspected: dict[str, int] = {}
    seen: set[tuple[int, float]] = set()
    lost: set[int] = set()
    for told in log.told:
        if told.state == "lost":
            lost.add(told.host)
        elif told.state != "suspect":
            lost.discard(told.host)
        if told.state not in ("suspect", "lost"):
            continue
        host = world.hosts[told.host]
        trouble = host.at(told.at_s)
        falsely = suspected if told.state == "suspect" else found.falsely
        if trouble is None:
            falsely["alive"] = falsely.get("alive", 0) + 1
        elif trouble.deadly:
            if told.state == "lost" and (told.host, trouble.start_s) not in seen:
                seen.add((told.host, trouble.start_s))
                times = found.detected.setdefault(trouble.cause, [])
                times.append(told.at_s - trouble.start_s)
        elif trouble.cause == "outage":
            found.unreachable += told.state == "lost"
        elif trouble.cause != "left":
            falsely[trouble.cause] = falsely.get(trouble.cause, 0) + 1
    for number, host in enumerate(world.hosts):
        for trouble in host.troubles:
            died = trouble.deadly and trouble.start_s < until_s - _TOO_LATE_S
            if died and (number, trouble.start_s) not in seen and number not in lost:
                found.missed += 1
    return found, suspected


def _told(outcome: Outcome, hours: float) -> dict[str, Any]:
    # Who dies with its zone is lost in the crowd on purpose: that time says how long we hold back.
    own = [
        time
        for cause, times in outcome.detected.items()
        if cause != "outage_death"
        for time in times
    ]
    return {
        "detection_s": {
            **spread(own),
            "by_cause": {cause: spread(t) for cause, t in sorted(outcome.detected.items())},
        },
        "missed": outcome.missed,
        "false_positives": dict(sorted(outcome.falsely.items())),
        "false_positives_per_node_hour": _rate(sum(outcome.falsely.values()), hours),
        "lost_in_outage": outcome.unreachable,
    }


def _rate(count: int, hours: float) -> float:
    return round(count / hours, 6) if hours else 0.0


def _alive(host: Host, at_s: float) -> bool:
    """Whether it is alive, though perhaps out of reach, and would come back."""
    trouble = host.at(at_s)
    return trouble is None or not (trouble.deadly or trouble.cause == "left")


def _deaths(hosts: Iterable[Host], until_s: float) -> Counter[str]:
    return Counter(
        each.cause
        for host in hosts
        for each in host.troubles
        if each.deadly and each.start_s < until_s
    )


def _budget(
    evictions: Sequence[Eviction] | Sequence[Evicted],
    sizes: Counter[str],
    policy: EvictionPolicy,
) -> dict[str, Any]:
    """What the budget was for the fleet that was there at first, and the most that was spent."""
    total = sum(sizes.values())
    limits = {
        zone: max(1, math.floor(size * policy.zone_share)) for zone, size in sorted(sizes.items())
    }
    fleet = max(1, math.floor(total * policy.fleet_share))
    at = sorted((each.at_s, each.zone) for each in evictions)
    most: Counter[str] = Counter()
    window: list[tuple[float, str]] = []
    for each in at:
        window = [*(w for w in window if each[0] - w[0] < policy.window_s), each]
        zones = Counter(zone for _, zone in window)
        most["*"] = max(most["*"], len(window))
        for zone, count in zones.items():
            most[zone] = max(most[zone], count)
    exceeded = sum(most[zone] > limit for zone, limit in limits.items()) + (most["*"] > fleet)
    return {
        "window_s": policy.window_s,
        "fleet": {"limit": fleet, "most": most["*"]},
        "zones": {zone: {"limit": n, "most": most[zone]} for zone, n in limits.items()},
        "exceeded": exceeded,
    }


def _baseline(
    outcome: Outcome, world: World, hours: float, options: Options, sizes: Counter[str]
) -> dict[str, Any]:
    hosts = {host.name: host for host in world.hosts}
    after = options.eviction.after_s
    freely = [(each, each.at_s + after) for each in outcome.declared]
    budgeted = _on_budget(outcome.declared, sizes, options.eviction)

    def falsely(evicted: Iterable[tuple[Declared, float]]) -> int:
        return sum(_alive(hosts[each.name], at) for each, at in evicted)

    return {
        **_told(outcome, hours),
        "without_budget": {"evictions": len(freely), "false_evictions": falsely(freely)},
        "with_budget": {"evictions": len(budgeted), "false_evictions": falsely(budgeted)},
    }


def _on_budget(
    declared: Sequence[Declared], sizes: Counter[str], policy: EvictionPolicy
) -> list[tuple[Declared, float]]:
    """Who is evicted of those declared, under the same budget and without the disruption rule."""
    evicted: list[Evicted] = []
    found: list[tuple[Declared, float]] = []
    waiting: list[Declared] = []
    coming = sorted(declared, key=lambda each: each.at_s, reverse=True)
    at = 0.0
    while coming or waiting:
        at = at + 1.0 if waiting else coming[-1].at_s + policy.after_s
        while coming and coming[-1].at_s + policy.after_s <= at:
            waiting.append(coming.pop())
        waiting = [each for each in waiting if each.until_s > at]
        evicted = [each for each in evicted if at - each.at_s < policy.window_s]
        lost = [
            Lost(name=str(number), zone=each.zone, lost_s=at - each.at_s)
            for number, each in enumerate(waiting)
        ]
        ruling = rule(lost, sizes, evicted, frozenset(), at, policy)
        chosen = {int(each.name) for each in ruling.evict}
        for number in sorted(chosen):
            each = waiting[number]
            found.append((each, at))
            evicted.append(Evicted(name=each.name, zone=each.zone, at_s=at))
        waiting = [each for number, each in enumerate(waiting) if number not in chosen]
    return found


def _ratios(found: dict[str, Any]) -> dict[str, Any]:
    """Theirs by ours: above 1 where ours is better. None where ours is zero or either unknown."""

    def by(theirs: float | None, ours: float | None) -> float | None:
        return round(theirs / ours, 2) if theirs is not None and ours else None

    def killed(figures: dict[str, Any], share: str) -> float | None:
        times = figures["detection_s"]["by_cause"].get("kill")
        return None if times is None else times[share]

    return {
        name: {
            "kill_p50": by(killed(each, "p50"), killed(found, "p50")),
            "kill_p99": by(killed(each, "p99"), killed(found, "p99")),
            "detection_p50": by(each["detection_s"]["p50"], found["detection_s"]["p50"]),
            "detection_p99": by(each["detection_s"]["p99"], found["detection_s"]["p99"]),
            "false_positives": by(
                each["false_positives_per_node_hour"], found["false_positives_per_node_hour"]
            ),
        }
        for name, each in found["baselines"].items()
    }
