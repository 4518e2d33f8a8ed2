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
    began: tuple[Disruption, ...] = ()
    ended: tuple[Disruption, ...] = ()

    @property
    def zones(self) -> frozenset[str]:
        """The zones, as `Climate.disrupted` wants them."""
        return frozenset(self.standing)

    def assess(
        self,
        quiet: Mapping[str, int],
        members: Mapping[str, int],
        now_s: float,
        policy: DisruptionPolicy,
    ) -> "Disruptions":
        """Judge anew, by how many of each zone are quiet.

        Quiet is who is silent without having said goodbye, and not since long before: who was
        evicted, retired or left is neither quiet nor a member.
        """
        counts = {zone: (quiet.get(zone, 0), n) for zone, n in members.items()}
        counts[EVERYWHERE] = (sum(quiet.values()), sum(members.values()))
        standing: dict[str, Disruption] = {}
        began: list[Disruption] = []
        ended: list[Disruption] = []
        spent = {
            zone: n for zone, n in self.spent.items() if counts.get(zone, (0, 0))[0] >= n * 0.5
        }
        for zone, (silent, all) in counts.items():
            share = policy.fleet_share if zone == EVERYWHERE else policy.zone_share
            stands = self.standing.get(zone)
            if stands is None:
                many = silent >= policy.least and silent >= share * all
                if many and silent > spent.get(zone, 0):
                    begun = Disruption(zone=zone, since_s=now_s, quiet=silent, members=all)
                    standing[zone] = begun
                    began.append(begun)
                continue
            below = silent < policy.least or silent < share * policy.clear * all
            since = (
                (stands.below_since_s if stands.below_since_s is not None else now_s)
                if below
                else None
            )
            stands = msgspec.structs.replace(
                stands,
                quiet=max(silent, stands.quiet),
                members=all,
                below_since_s=since,
            )
            if since is not None and now_s - since >= policy.clear_s:
                ended.append(stands)
            elif now_s - stands.since_s >= policy.longest_s:
                ended.append(stands)
                spent[zone] = silent
            else:
                standing[zone] = stands
        ended += [each for zone, each in self.standing.items() if zone not in counts]
        return Disruptions(standing=standing, spent=spent, began=tuple(began), ended=tuple(ended))


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
