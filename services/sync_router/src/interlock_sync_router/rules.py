"""What policies and requests ask for, as sets of nodes. Pure."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from interlock_schemas.artifacts import Artifact
from interlock_schemas.orders import Priority, Request
from interlock_sync_router.places import Places, bits
from interlock_sync_router.world import World

__all__ = ["LEVELS", "Asked", "Rule", "Rules", "seconds"]

#: The most urgent first.
LEVELS: Final[tuple[Priority, ...]] = ("critical", "high", "normal", "low", "background")


def seconds(at: str) -> float:
    """A time on the wire as seconds since the epoch; 0 for what is none."""
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        return 0.0
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


class Asked:
    """A request that has not ended."""

    def __init__(self, request: Request, places: Places) -> None:
        self.id = request.id
        self.by = request.by
        self.dataset = request.dataset
        self.config = request.config
        self.artifacts = frozenset(request.artifacts)
        self.at = seconds(request.at) if request.at else None
        self.targets = places.selected(request.targets)
        self.level = LEVELS.index(request.priority)

    def covers(self, about: Artifact) -> bool:
        """Whether it names an artifact. A dataset's are those that it had when it was asked."""
        if self.artifacts:
            return about.id in self.artifacts
        if self.dataset is not None and about.dataset != self.dataset:
            return False
        if self.config is not None and about.config != self.config:
            return False
        return self.at is None or seconds(about.sealed_at) <= self.at


class Rule:
    """The policy of one dataset, in this fleet."""

    def __init__(self, dataset: str, world: World, places: Places) -> None:
        policy = world.policies.get(dataset, world.default)
        self.dataset = dataset
        self.policy = policy
        self.copies = policy.copies
        self.level = LEVELS.index(policy.priority)
        self.paused = world.paused or dataset in world.paused_datasets
        #: Nodes that may be given one.
        self.eligible = places.eligible(dataset, policy)
        #: Of these, where a copy counts.
        self.safe = self.eligible & places.counted
        #: Where a copy is to be besides, whatever stands against it.
        self.asked = places.selected(policy.targets) & ~places.selected(policy.avoid)
        self.targets = self.asked & self.eligible
        self.zones = frozenset(places.zone[i] for i in bits(self.safe))
        self.requests: list[Asked] = []
        self._places = places

    def lacks(self, have: int) -> tuple[int, frozenset[str]]:
        """How many copies are lacking if these nodes have one that counts, and the zones that
        could have one and have none, where there are not as many zones as there are to be."""
        short = self.copies - have.bit_count()
        if self._places.zones == 1 or (self.copies == 1 and short <= 0):
            return max(short, 0), frozenset()
        used = {self._places.zone[i] for i in bits(have)}
        if len(used) >= self.copies:
            return max(short, 0), frozenset()
        return max(short, 0), self.zones - used


class Rules:
    """By dataset."""

    def __init__(self, world: World, places: Places) -> None:
        self._world = world
        self._places = places
        self._rules: dict[str, Rule] = {}
        self._named: dict[str, list[Asked]] = {}
        self._wide: list[Asked] = []
        for request in sorted(world.requests, key=lambda each: each.id):
            if request.until and seconds(request.until) <= world.now:
                continue
            asked = Asked(request, places)
            if asked.artifacts:
                for id in asked.artifacts:
                    self._named.setdefault(id, []).append(asked)
            else:
                self._wide.append(asked)

    def of(self, dataset: str) -> Rule:
        """The rule for a dataset."""
        rule = self._rules.get(dataset)
        if rule is None:
            rule = self._rules[dataset] = Rule(dataset, self._world, self._places)
            rule.requests = [e for e in self._wide if e.dataset in (None, dataset)]
        return rule

    def requests(self, about: Artifact, rule: Rule) -> list[Asked]:
        """Those that name an artifact."""
        if not self._named and not rule.requests:
            return []
        named = self._named.get(about.id, ())
        return [*named, *(each for each in rule.requests if each.covers(about))]

    def superseded(self, only: Iterable[str] | None) -> set[str]:
        """What is older than a policy keeps and named by no request. `only`: of the datasets and
        configurations of these."""
        world = self._world
        kept = {d: p.keep_last for d, p in world.policies.items() if p.keep_last is not None}
        if not kept and world.default.keep_last is None:
            return set()
        groups: dict[tuple[str, str], list[Artifact]] = {}
        if only is not None:
            for id in only:
                about = world.artifacts.get(id)
                if about is not None and self.of(about.dataset).policy.keep_last is not None:
                    groups[about.dataset, about.config] = []
            if not groups:
                return set()
        default = world.default.keep_last
        for about in world.artifacts.values():
            if kept.get(about.dataset) is None and (
                default is None or about.dataset in world.policies
            ):
                continue
            key = (about.dataset, about.config)
            if only is None:
                groups.setdefault(key, []).append(about)
            elif key in groups:
                groups[key].append(about)
        return set(self._older(groups))

    def _older(self, groups: dict[tuple[str, str], list[Artifact]]) -> Iterator[str]:
        for (dataset, _), members in groups.items():
            rule = self.of(dataset)
            keep = rule.policy.keep_last
            if keep is None or len(members) <= keep:
                continue
            members.sort(key=lambda each: (seconds(each.sealed_at), each.id), reverse=True)
            for about in members[keep:]:
                if not self.requests(about, rule):
                    yield about.id
