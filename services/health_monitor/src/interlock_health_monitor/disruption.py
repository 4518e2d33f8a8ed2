"""The partial-disruption rule: where too many go quiet, the fault is probably not theirs.

As Kubernetes' node controller does by zone, but for the fleet as a whole too. While it holds,
nobody is lost quickly, nobody is evicted and nothing is repaired; an operator is told, once.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

__all__ = ["EVERYWHERE", "Disruption", "DisruptionPolicy", "Disruptions", "crowd"]

#: The fleet as a whole, among the zones.
EVERYWHERE: Final = "*"


class DisruptionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When too many are quiet."""

    zone_share: float = 0.5
    """Of the nodes of a zone."""
    fleet_share: float = 0.25
    """Of all nodes."""
    least: int = 3
    """Fewer quiet nodes than this are never a disruption."""
    clear: float = 0.6
    """It is over below so much of the share that began it."""
    clear_s: float = 20.0
    """For so long."""
    spare_s: float = 300.0
    """Nobody is evicted for so long after it is over: the last of them are still coming back."""
    longest_s: float = 3_600.0
    """It expires after so long: those still quiet count as dead then."""
    crowd_share: float = 0.05
    """Quiet within a moment of one another, this share of all is a crowd."""
    crowd_least: int = 3
    crowd_s: float = 3.0
    """What counts as a moment."""


class Disruption(msgspec.Struct, frozen=True, kw_only=True):
    """One that stands."""

    zone: str
    """``*``: the fleet as a whole."""
    since_s: float
    quiet: int
    members: int
    below_since_s: float | None = None
    """Since when few enough are quiet for it to be over soon."""


class Disruptions(msgspec.Struct, frozen=True, kw_only=True):
    """What stands, and what has just begun and ended."""

    standing: Mapping[str, Disruption] = {}
    spent: Mapping[str, int] = {}
    """Zones whose disruption expired, and how many were quiet: it takes more to begin anew."""
    over: Mapping[str, float] = {}
    """Zones whose disruption is over, and until when their nodes are still spared."""
    began: tuple[Disruption, ...] = ()
    ended: tuple[Disruption, ...] = ()

    @property
    def zones(self) -> frozenset[str]:
        """The zones, as `Climate.disrupted` wants them."""
        return frozenset(self.standing)

    @property
    def sparing(self) -> frozenset[str]:
        """Where nobody is evicted, as `eviction.rule` wants it: where one stands, or did lately."""
        return frozenset(self.standing) | frozenset(self.over)

    def assess(
        self,
        quiet: Mapping[str, int],
        members: Mapping[str, int],
        now_s: float,
        policy: DisruptionPolicy,
        *,
        settling: bool = False,
    ) -> "Disruptions":
        """Judge anew, by how many of each zone are quiet.

        Quiet is who is silent without having said goodbye, and not since long before: who was
        evicted, retired or left is neither quiet nor a member. `settling`: the monitor has just
        begun or come back, as in `Climate`; agents are still connecting again, so none begins.

        A zone that is disrupted is not held against the fleet, so that one broken zone does not
        slow down what is decided about the others; two or more are. While the fleet is, zones
        are not told of one by one.
        """
        counts = {zone: (quiet.get(zone, 0), n) for zone, n in members.items()}
        spent = {
            zone: n
            for zone, n in self.spent.items()
            if (_fleet(quiet, members, ()) if zone == EVERYWHERE else counts.get(zone, (0, 0)))[0]
            >= n * 0.5
        }
        turn = _Turn(self, spent, now_s, policy, settling)
        for zone, (silent, all) in counts.items():
            turn.look(zone, silent, all, policy.zone_share)
        broken = {zone for zone in turn.standing if zone != EVERYWHERE}
        if EVERYWHERE in self.standing or len(broken) > 1:
            broken = set()
        without = broken | turn.spent.keys()
        turn.look(EVERYWHERE, *_fleet(quiet, members, without), policy.fleet_share)
        expired = EVERYWHERE in turn.expired
        if expired:
            turn.spent |= {zone: silent for zone, (silent, _) in counts.items() if silent}
        if expired or EVERYWHERE in turn.standing:
            turn.withdraw(zone for zone in counts if zone not in self.standing)
        turn.ended += [
            each
            for zone, each in self.standing.items()
            if zone not in counts and zone != EVERYWHERE
        ]
        over = {zone: until for zone, until in self.over.items() if until > now_s}
        over |= {
            each.zone: now_s + policy.spare_s
            for each in turn.ended
            if each.below_since_s is not None and each.zone not in turn.standing
        }
        return Disruptions(
            standing=turn.standing,
            spent=turn.spent,
            over=over,
            began=tuple(turn.began),
            ended=tuple(turn.ended),
        )


class _Turn:
    """One assessment, under way."""

    def __init__(
        self,
        before: Disruptions,
        spent: dict[str, int],
        now_s: float,
        policy: DisruptionPolicy,
        settling: bool,
    ) -> None:
        self._before = before
        self._now_s = now_s
        self._policy = policy
        self._settling = settling
        self.spent = spent
        self.standing: dict[str, Disruption] = {}
        self.began: list[Disruption] = []
        self.ended: list[Disruption] = []
        self.expired: set[str] = set()
        """Of those that ended, the ones that stood for too long."""

    def withdraw(self, zones: Iterable[str]) -> None:
        """Take back what has just begun there."""
        gone = set(zones)
        self.began = [each for each in self.began if each.zone not in gone]
        for zone in gone:
            self.standing.pop(zone, None)

    def look(self, zone: str, silent: int, all: int, share: float) -> None:
        """Judge one zone, or the fleet."""
        now_s, policy = self._now_s, self._policy
        stands = self._before.standing.get(zone)
        if stands is None:
            many = silent >= policy.least and silent >= share * all
            if many and not self._settling and silent > self.spent.get(zone, 0):
                begun = Disruption(zone=zone, since_s=now_s, quiet=silent, members=all)
                self.standing[zone] = begun
                self.began.append(begun)
            return
        below = silent < policy.least or silent < share * policy.clear * all
        since = stands.below_since_s if stands.below_since_s is not None else now_s
        stands = msgspec.structs.replace(
            stands,
            quiet=max(silent, stands.quiet),
            members=all,
            below_since_s=since if below else None,
        )
        if below and now_s - since >= policy.clear_s:
            self.ended.append(stands)
        elif now_s - stands.since_s >= policy.longest_s:
            # Those still quiet count as dead: it takes more than them to begin anew.
            self.ended.append(msgspec.structs.replace(stands, below_since_s=None))
            self.spent[zone] = silent
            self.expired.add(zone)
        else:
            self.standing[zone] = stands


def _fleet(
    quiet: Mapping[str, int], members: Mapping[str, int], without: Iterable[str]
) -> tuple[int, int]:
    """How many are quiet, of how many, in all zones but some."""
    zones = [zone for zone in members if zone not in without]
    return sum(quiet.get(zone, 0) for zone in zones), sum(members[zone] for zone in zones)


def crowd(went_quiet_s: Iterable[float], members: int, policy: DisruptionPolicy) -> bool:
    """Whether so many went quiet within a moment that a common cause is likelier.

    `went_quiet_s`: when each node that is quiet now was last heard of. A crowd stays one until
    those who made it are heard of again or are lost.
    """
    least = max(policy.crowd_least, policy.crowd_share * members)
    moments: Counter[int] = Counter()
    for at in went_quiet_s:
        # A moment may fall across the border of two buckets: each counts in both.
        place = int(at // policy.crowd_s)
        moments[place] += 1
        moments[place + 1] += 1
    return any(n >= least for n in moments.values())
