"""What happens to whom in a simulated fleet: every trouble of every host, the broker's, and ours.

Drawn from the seed alone, host by host, before anybody watches.
"""

from bisect import bisect_right
from collections.abc import Iterator
from random import Random
from typing import Final, Literal, NamedTuple

import msgspec

from interlock_health_monitor.simulate.options import DAY_S, HOUR_S, Options, Rates

__all__ = ["DEADLY", "Away", "Host", "Trouble", "World", "draw"]

#: ``pause``: it stands, and its connection with it. ``cut``: no connection, and the broker knows.
#: ``dark``: nothing gets through, and the broker does not know yet. ``dead``: the agent is gone,
#: and the broker knows. ``slow``: it lags more and more.
Kind = Literal["pause", "cut", "dark", "dead", "slow"]

#: What a host, or its agent, does not live through.
DEADLY: Final = frozenset({"kill", "vanish", "preempted", "slow_death", "outage_death"})

_FOREVER: Final = 1e12
_MONITOR_STOP_S: Final = 30.0
_SLOW_SPELL_S: Final = 20.0
_SLOW_DEATH_S: Final = 600.0


class Trouble(NamedTuple):
    """Something that is wrong with a host for a while."""

    start_s: float
    end_s: float
    kind: Kind
    cause: str

    @property
    def deadly(self) -> bool:
        """Whether the agent, or the host, is dead meanwhile."""
        return self.cause in DEADLY and self.kind in ("dead", "dark")


class Away(NamedTuple):
    """A time in which the monitor hears badly or not at all."""

    start_s: float
    end_s: float
    kind: Literal["stopped", "broker", "slow"]
    late_s: float = 0.0


class Host:
    """A host, from when it joins until it is gone."""

    __slots__ = ("_starts", "born_s", "leaves", "name", "troubles", "zone")

    def __init__(
        self,
        name: str,
        zone: str,
        born_s: float,
        troubles: tuple[Trouble, ...],
        leaves: tuple[float, float] | None,
    ) -> None:
        self.name = name
        self.zone = zone
        self.born_s = born_s
        self.troubles = troubles
        """One after the other. What it does not come back from ends in the far future."""
        self.leaves = leaves
        """When it says that it will go, and when it goes, in good order."""
        self._starts = [each.start_s for each in troubles]

    def at(self, now_s: float) -> Trouble | None:
        """What is wrong with it at that time."""
        place = bisect_right(self._starts, now_s) - 1
        if place < 0:
            return None
        found = self.troubles[place]
        return found if now_s < found.end_s else None

    def after(self, now_s: float) -> Trouble | None:
        """What goes wrong with it next."""
        place = bisect_right(self._starts, now_s)
        return self.troubles[place] if place < len(self.troubles) else None

    def lived_s(self, until_s: float) -> float:
        """For how long it was there and alive."""
        dead = sum(
            min(each.end_s, until_s) - each.start_s
            for each in self.troubles
            if (each.deadly or each.cause == "left") and each.start_s < until_s
        )
        return max(0.0, until_s - self.born_s - dead)


class World(msgspec.Struct, frozen=True, kw_only=True):
    """All that happens."""

    hosts: tuple[Host, ...]
    away: tuple[Away, ...]
    outage: tuple[str, float, float]
    """Zone, beginning and end."""


def draw(options: Options) -> World:
    """The world of these options."""
    rng = Random(f"{options.seed}:fleet")  # noqa: S311  # the seed is the point
    duration = options.duration_s
    away = _away(rng, options)
    start = rng.uniform(0.4, 0.5) * duration
    lasts = min(options.rates.outage_s, 0.15 * duration)
    outage = ("z1", start, start + lasts)
    hosts: list[Host] = []
    for slot in range(options.nodes):
        hosts += _slot(options, slot, away, outage)
    return World(hosts=tuple(hosts), away=away, outage=outage)


def _away(rng: Random, options: Options) -> tuple[Away, ...]:
    """When the monitor hears badly: each in a stretch of its own, so that none meets another."""
    days, rates = options.duration_s / DAY_S, options.rates
    kinds: list[Literal["stopped", "broker", "slow"]] = []
    kinds += ["stopped"] * max(1, round(rates.monitor_stops_d * days))
    kinds += ["broker"] * max(1, round(rates.restarts_d * days))
    kinds += ["slow"] * max(1, round(rates.slow_spells_d * days))
    rng.shuffle(kinds)
    stretch = options.duration_s / len(kinds)
    found = []
    for place, kind in enumerate(kinds):
        start = (place + rng.uniform(0.2, 0.7)) * stretch
        if kind == "stopped":
            found.append(Away(start, start + _MONITOR_STOP_S, kind))
        elif kind == "broker":
            found.append(Away(start, start + rng.uniform(1.0, 4.0), kind))
        else:
            found.append(Away(start, start + _SLOW_SPELL_S, kind, rng.uniform(0.3, 0.8)))
    return tuple(found)


def _zone(options: Options, slot: int) -> str:
    whole = options.zones * (options.zones + 1) / 2
    share, upto = (slot + 0.5) / options.nodes, 0.0
    for zone in range(options.zones):
        upto += (options.zones - zone) / whole
        if share < upto:
            return f"z{zone + 1}"
    return f"z{options.zones}"


def _slot(
    options: Options, slot: int, away: tuple[Away, ...], outage: tuple[str, float, float]
) -> Iterator[Host]:
    """The hosts that have one place in the fleet, one after the other."""
    rng = Random(f"{options.seed}:slot:{slot}")  # noqa: S311  # the seed is the point
    rates, duration = options.rates, options.duration_s
    zone = _zone(options, slot)
    spot = rng.random() < rates.spot_share
    born, run = 0.0, 0
    while born < duration:
        end, cause = _fate(rng, rates, born, spot, outage if outage[0] == zone else None)
        leaves = None
        if cause == "preempted" and rng.random() < rates.notice_share:
            cause = "left"
            notice = rng.uniform(30.0, 120.0)
            if end - notice > born + 1:
                leaves = (end - notice, end)
        everywhere = list(_common(rng, zone, away, outage))
        own = list(_own(rng, rates, born, min(end, duration)))
        if cause == "slow_death":
            own.append(Trouble(max(born, end - _SLOW_DEATH_S), end, "slow", "slow_death"))
        troubles = _laid_out(own, everywhere, born)
        end, cause = _ending(troubles, end, cause)
        if leaves is not None:
            leaves = (leaves[0], end)
        name = f"n{slot:05d}" if run == 0 else f"n{slot:05d}-{run}"
        yield Host(name, zone, born, tuple(troubles), leaves)
        if not cause:
            return
        born = end + (rng.uniform(60, 300) if cause == "left" else rng.uniform(300, 900))
        if zone == outage[0] and outage[1] <= born < outage[2]:
            born = outage[2] + rng.uniform(5, 60)
        run += 1


def _fate(
    rng: Random,
    rates: Rates,
    born: float,
    spot: bool,
    outage: tuple[str, float, float] | None,
) -> tuple[float, str]:
    """When and of what it goes."""
    ends = [
        (born + _interval(rng, rates.vanishings_h), "vanish"),
        (born + _interval(rng, rates.slow_deaths_h), "slow_death"),
    ]
    if spot:
        ends.append((born + _interval(rng, rates.preemptions_h), "preempted"))
    if outage is not None and born < outage[1] and rng.random() < rates.outage_deaths:
        ends.append((outage[1], "outage_death"))
    end, cause = min(ends)
    if outage is not None and cause != "outage_death" and outage[1] <= end < outage[2] + 60:
        # It would have gone while nobody could tell: then right after.
        end = outage[2] + 60 + rng.uniform(0, 60)
    return end, cause


def _interval(rng: Random, an_hour: float) -> float:
    return rng.expovariate(an_hour / HOUR_S) if an_hour > 0 else _FOREVER


def _common(
    rng: Random, zone: str, away: tuple[Away, ...], outage: tuple[str, float, float]
) -> Iterator[Trouble]:
    """What many hosts have at once."""
    for each in away:
        back = min(5.0, 0.2 + rng.expovariate(1.0))
        if each.kind == "broker":
            yield Trouble(each.start_s, each.end_s + back, "cut", "restart")
    if zone == outage[0]:
        back = min(90.0, rng.expovariate(1 / 15))
        yield Trouble(outage[1], outage[2] + back, "dark", "outage")


def _own(rng: Random, rates: Rates, start: float, end: float) -> Iterator[Trouble]:
    """What a host has for itself."""

    def moments(an_hour: float) -> Iterator[float]:
        at = start + _interval(rng, an_hour)
        while at < end:
            yield at
            at += _interval(rng, an_hour)

    for at in moments(rates.pauses_h):
        yield Trouble(at, at + min(6.0, 0.2 * rng.paretovariate(1.2)), "pause", "pause")
    for at in moments(rates.freezes_h):
        yield Trouble(at, at + 2.0 * 10 ** rng.random(), "pause", "freeze")
    for at in moments(rates.flaps_h):
        yield Trouble(at, at + min(3.0, 0.1 + rng.expovariate(1 / 0.7)), "cut", "flap")
    for at in moments(rates.kills_h):
        yield Trouble(at, at + rng.uniform(120, 1_200), "dead", "kill")


def _laid_out(own: list[Trouble], everywhere: list[Trouble], born: float) -> list[Trouble]:
    """One after the other: what many have at once goes before what one has for itself."""
    found: list[Trouble] = []
    common = {each for each in everywhere if each.start_s > born}
    for each in sorted([*own, *common]):
        if not found or each.start_s >= found[-1].end_s:
            found.append(each)
            continue
        last = found[-1]
        if each not in common:
            continue
        if last.kind == "dead" or last in common:
            found[-1] = last._replace(end_s=max(last.end_s, each.end_s))
        else:
            found[-1] = last._replace(end_s=each.start_s)
            found.append(each)
    return found


def _ending(troubles: list[Trouble], end: float, cause: str) -> tuple[float, str]:
    """Put its end behind what it went through; when that is, and of what."""
    while troubles and troubles[-1].start_s >= end:
        troubles.pop()
    if troubles and troubles[-1].end_s > end:
        last = troubles[-1]
        if last.kind == "dead":
            troubles[-1] = last._replace(end_s=_FOREVER)
            return end, last.cause
        troubles[-1] = last._replace(end_s=end)
    kind: Kind = "dead" if cause == "left" else "dark"
    troubles.append(Trouble(end, _FOREVER, kind, cause))
    return end, cause
