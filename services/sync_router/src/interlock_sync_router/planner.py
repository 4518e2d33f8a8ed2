"""What goes where, and why: policies, requests and what is known of the fleet become moves.

One pass over the artifacts finds what is lacking and which orders are not wanted any more; then
places are given out, the most urgent first, dataset by dataset in turn. A plan whose orders stand
leads to an empty plan. Pure, and the same for the same world.
"""

from collections.abc import Collection, Iterable, Iterator
from heapq import heapify, heappop, heapreplace
from typing import Final

from interlock_schemas.artifacts import Artifact
from interlock_schemas.orders import DatasetStatus, LeftOut, Pair
from interlock_sync_router.candidates import Candidates
from interlock_sync_router.places import Places, bits, stamp
from interlock_sync_router.rules import LEVELS, Asked, Rule, Rules, seconds
from interlock_sync_router.sources import Sources
from interlock_sync_router.world import Limits, Move, Open, Plan, World

__all__ = ["explain", "plan"]

_NOBODY: Final[frozenset[str]] = frozenset()
#: The most that is listed of what cannot be done.
_UNMET: Final = 1_000
#: Holders that an order to drop names, at most.
_OTHERS: Final = 32
#: In turns between datasets, so many bytes weigh as much as one move.
_TURN_BYTES: Final = 64 * 1024 * 1024


def plan(
    world: World, limits: Limits | None = None, *, only: Collection[str] | None = None
) -> Plan:
    """What is to be done now.

    `only`: what has changed concerns these artifacts alone. Then `datasets` stays empty, and disks
    that are too full are left to the next full plan.
    """
    return _Planning(world, limits or Limits(), only).run()


def explain(
    world: World, artifact: str, limits: Limits | None = None
) -> tuple[tuple[Move, ...], tuple[LeftOut, ...]]:
    """What is to be done about one artifact, and for every other node why it is not given one."""
    planning = _Planning(world, limits or Limits(), (artifact,))
    found = planning.run()
    return found.moves, tuple(planning.why_not(artifact, found))


class _Job:
    """An artifact that is not everywhere it is to be."""

    __slots__ = (
        "_sources",
        "about",
        "asked",
        "coming",
        "held",
        "reported",
        "rule",
        "targets",
        "there",
        "used",
        "value",
    )

    def __init__(
        self, about: Artifact, rule: Rule, asked: list[Asked], held: int, coming: int
    ) -> None:
        self.about = about
        self.rule = rule
        self.asked = asked
        self.held = held
        self.coming = coming
        self.targets = 0
        #: Who has it, whether it counts or not.
        self.there = held
        self.used: dict[int, int] = {}
        self.value = 0.0
        self.reported = False
        self._sources: Sources | None = None

    def sources(self, places: Places, fan_out: int) -> Sources:
        """Who serves it."""
        if self._sources is None:
            self._sources = Sources(self.about, self.held, self.used, places, fan_out)
        return self._sources


class _Planning:
    """One plan in the making."""

    def __init__(self, world: World, limits: Limits, only: Collection[str] | None) -> None:
        self._world = world
        self._limits = limits
        self._only = None if only is None else sorted(set(only))
        self._places = Places(world, limits)
        self._rules = Rules(world, self._places)
        self._orders: dict[str, list[Open]] = {}
        self._charges: dict[str, float] = {}
        self._moves: list[Move] = []
        self._withdrawn: set[tuple[str, str]] = set()
        self._unmet: list[Pair] = []
        self._stuck: set[str] = set()
        self._waiting = 0
        #: By level: by dataset: minus the rank, the id, whether it is about the first safe copy.
        self._queues: dict[int, dict[str, list[tuple[float, str, bool]]]] = {}
        self._jobs: dict[str, _Job] = {}
        self._candidates: dict[int, Candidates] = {}
        self._counts: dict[str, list[int]] = {}
        self._short: list[tuple[str, str]] = []
        self._origins: list[str] = []
        self._pressed: dict[int, list[tuple[int, float, str]]] = {}
        self._dropping = [0] * len(self._places.names)
        self._moved = 0

    def run(self) -> Plan:
        """Make it."""
        self._take_orders()
        self._superseded = self._rules.superseded(self._only)
        self._scan()
        self._give_out()
        self._drop()
        self._moves.sort(key=lambda each: (LEVELS.index(each.priority), -each.rank))
        return Plan(
            moves=tuple(self._moves),
            withdraw=tuple(sorted(self._withdrawn)),
            left_out=tuple(self._left_out()),
            datasets=tuple(self._statuses()) if self._only is None else (),
            unmet=tuple(self._unmet),
            waiting=self._waiting,
        )

    # What stands already.

    def _take_orders(self) -> None:
        places, artifacts = self._places, self._world.artifacts
        for (node, artifact), order in self._world.orders.items():
            self._orders.setdefault(artifact, []).append(order)
            i = places.number.get(node)
            about = artifacts.get(artifact)
            if i is None or about is None:
                continue
            places.order(i)
            if order.action == "fetch":
                places.room[i] -= about.bytes
                self._charge(about)
                source = places.number.get(order.sources[0]) if order.sources else None
                if source is not None:
                    places.serves[source] += 1
            elif order.action == "drop":
                self._dropping[i] += about.bytes

    def _charge(self, about: Artifact) -> None:
        self._charges[about.dataset] = (
            self._charges.get(about.dataset, 0.0) + 1 + about.bytes / _TURN_BYTES
        )

    def _withdraw(self, order: Open, about: Artifact | None) -> None:
        """An order is not wanted any more; what it took is free again."""
        places = self._places
        self._withdrawn.add((order.node, order.artifact))
        i = places.number.get(order.node)
        if i is None or about is None:
            return
        places.orders[i] -= 1
        if places.orders[i] < self._limits.per_node:
            places.busy &= ~(1 << i)
        if order.action == "fetch":
            places.room[i] += about.bytes
            source = places.number.get(order.sources[0]) if order.sources else None
            if source is not None:
                places.serves[source] -= 1
        elif order.action == "drop":
            self._dropping[i] -= about.bytes

    # What is lacking.

    def _scan(self) -> None:
        """Look at every artifact. What is as it should be costs little."""
        world, places, rules = self._world, self._places, self._rules
        copies, orders, superseded = world.copies, self._orders, self._superseded
        counted, mask, over = places.counted, places.mask, places.over & places.droppable
        counts, whole = self._counts, self._only is None
        many_zones = places.zones > 1
        for order in (each for id, o in orders.items() if id not in world.artifacts for each in o):
            self._withdraw(order, None)
        abouts: Iterable[Artifact] = world.artifacts.values()
        if self._only is not None:
            abouts = [a for id in self._only if (a := world.artifacts.get(id)) is not None]
        for about in abouts:
            id = about.id
            rule = rules.of(about.dataset)
            held = mask(copies.get(id, _NOBODY))
            have = held & counted
            if whole:
                count = counts.get(about.dataset) or counts.setdefault(about.dataset, [0, 0, 0])
                count[0] += 1
                count[1] += about.bytes
            asked = rules.requests(about, rule)
            if (
                not asked
                and id not in orders
                and id not in superseded
                and not rule.paused
                and have.bit_count() >= rule.copies
                and not rule.targets & ~held
                and (not many_zones or rule.copies == 1 or not rule.lacks(have)[1])
            ):
                met = True
            else:
                met = self._consider(about, rule, asked, held)
            if met:
                if whole:
                    counts[about.dataset][2] += 1
                    if held & over:
                        for i in bits(held & over):
                            self._pressed.setdefault(i, []).append(
                                (-about.bytes, seconds(about.sealed_at), id)
                            )
                if not rule.policy.keep_at_origin and held & places.bit.get(about.origin, 0):
                    self._origins.append(id)
            elif whole:
                self._short.append((id, about.dataset))

    def _consider(self, about: Artifact, rule: Rule, asked: list[Asked], held: int) -> bool:
        """An artifact that something may have to be done about. True: all is there."""
        places, id = self._places, about.id
        orders = self._orders.get(id, ())
        wanted = rule.targets
        raw = rule.asked
        for each in asked:
            raw |= each.targets
            wanted |= each.targets & rule.eligible
        # A disk that is full takes no more, and what it has shall go only if nobody asks for it.
        there = held
        missing = wanted & ~held
        have = held & places.counted
        if id in self._superseded:
            for order in orders:
                i = places.number.get(order.node)
                if (
                    order.action == "fetch"
                    or i is None
                    or not held >> i & 1
                    or (order.action == "drop" and rule.paused)
                ):
                    self._withdraw(order, about)
            return True
        large = rule.policy.largest_bytes is not None and about.bytes > rule.policy.largest_bytes
        coming = 0
        used: dict[int, int] = {}
        fetches: list[tuple[int, Open]] = []
        barred = places.barred.get(id, 0)
        for order in sorted(orders, key=lambda each: each.node, reverse=True):
            i = places.number.get(order.node)
            if i is None:
                self._withdraw(order, about)
            elif order.action == "fetch":
                bit = 1 << i
                if rule.paused or large or held & bit or not rule.eligible & bit or barred & bit:
                    self._withdraw(order, about)
                else:
                    coming |= bit
                    fetches.append((i, order))
            elif not held >> i & 1 or (order.action == "drop" and rule.paused):
                self._withdraw(order, about)
        for i, order in fetches:
            bit = 1 << i
            if not wanted & bit:
                rest = (have | coming & places.counted) & ~bit
                short, zones = rule.lacks(rest)
                if not short and not self._would_spread(bit, zones):
                    self._withdraw(order, about)
                    coming &= ~bit
                    continue
            source = places.number.get(order.sources[0]) if order.sources else None
            if source is not None:
                used[source] = used.get(source, 0) + 1
        for order in orders:
            if order.action == "drop" and (order.node, id) not in self._withdrawn:
                i = places.number[order.node]
                if self._may_drop(rule, raw, held, coming | missing, i) and (
                    self._still_pressed(i) or self._origin_goes(about, rule, i)
                ):
                    held &= ~(1 << i)
                    have &= ~(1 << i)
                else:
                    self._withdraw(order, about)
        short, zones = rule.lacks(have | coming & places.counted)
        if large:
            if short or missing:
                self._tell(
                    id,
                    about.origin,
                    "too_large",
                    f"{about.bytes} bytes; the policy of {about.dataset} moves no more than "
                    f"{rule.policy.largest_bytes}",
                )
                self._stuck.add(id)
            return not short and not missing
        if rule.paused:
            return not missing and have.bit_count() >= rule.copies
        if short or zones or missing & ~coming:
            job = _Job(about, rule, asked, held, coming)
            job.there = there
            job.targets = missing & ~coming
            job.used = used
            self._enqueue(job, have)
        return not missing and have.bit_count() >= rule.copies

    def _would_spread(self, bit: int, zones: frozenset[str]) -> bool:
        return bool(zones) and self._places.zone[bit.bit_length() - 1] in zones

    def _enqueue(self, job: _Job, have: int) -> None:
        """Sort it in: what only nodes have that may vanish comes before all else."""
        places, about, rule = self._places, job.about, job.rule
        alive = job.held & places.alive
        level = rule.level
        for asked in job.asked:
            if job.targets & asked.targets & rule.eligible:
                level = min(level, asked.level)
        # A small share for its age lets the older one of two go first.
        older = 1.0 - min(max(seconds(about.sealed_at), 0.0), 1e10) / 1e10
        self._jobs[about.id] = job
        if not have and alive:
            job.value = about.value
            if not job.coming & places.counted:
                raised = 0 if not alive & ~places.leaving else max(rule.level - 1, 0)
                self._push(min(raised, level), job, about.value + older, True)
        self._push(level, job, job.value + older, False)

    def _push(self, level: int, job: _Job, rank: float, first: bool) -> None:
        datasets = self._queues.setdefault(level, {})
        datasets.setdefault(job.about.dataset, []).append((-rank, job.about.id, first))

    # Who gets what.

    def _give_out(self) -> None:
        """Level by level; within one, the dataset that has had least is next."""
        for level in sorted(self._queues):
            queues = self._queues[level]
            for queue in queues.values():
                heapify(queue)
            turns = [(self._charges.get(name, 0.0), name) for name in queues]
            heapify(turns)
            while turns:
                _, dataset = turns[0]
                queue = queues[dataset]
                if not queue:
                    heappop(turns)
                    continue
                rank, id, first = queue[0]
                job = self._jobs[id]
                if self._moved < self._limits.moves and self._step(job, level, -rank, first):
                    self._charge(job.about)
                    heapreplace(turns, (self._charges[dataset], dataset))
                    if first:
                        heappop(queue)
                    continue
                heappop(queue)
                if not first:
                    self._waiting += self._left(job)

    def _left(self, job: _Job) -> int:
        """How much is lacking and could be had, if somebody were not busy."""
        targets = (job.targets & ~job.coming).bit_count()
        if job.about.id in self._stuck:
            return targets if job.held & self._places.serving else 0
        short, _ = job.rule.lacks((job.held | job.coming) & self._places.counted)
        return max(short, targets)

    def _step(self, job: _Job, level: int, rank: float, first: bool) -> bool:
        """Order one more copy, if that can be done."""
        places = self._places
        sources = job.sources(places, self._limits.fan_out)
        if not sources.any:
            if not job.reported:
                job.reported = True
                self._stuck.add(job.about.id)
                self._tell(
                    job.about.id,
                    job.about.origin,
                    "no_source",
                    "nobody who has a verified copy can be reached",
                )
            return False
        if not sources.spare:
            return False
        return self._copy(job, level, rank, sources) or (
            not first and self._target(job, level, rank, sources)
        )

    def _copy(self, job: _Job, level: int, rank: float, sources: Sources) -> bool:
        """One more copy on a node where it counts."""
        places, rule, about = self._places, job.rule, job.about
        have = (job.held | job.coming) & places.counted
        short, zones = rule.lacks(have)
        if not short and not zones:
            return False
        found = self._candidates.get(rule.safe)
        if found is None:
            found = self._candidates[rule.safe] = Candidates(rule.safe, places)
        without = job.there | job.coming | places.barred.get(about.id, 0)
        target = found.best(about.bytes, without, zones) if zones else None
        if target is None and zones and self._busy_in(zones, rule, without, about.bytes):
            # A place in another zone will come free.
            return False
        if target is None and short:
            target = found.best(about.bytes, without, None)
        if target is None:
            if short and not job.reported and not self._busy_in(None, rule, without, about.bytes):
                job.reported = True
                self._stuck.add(about.id)
                self._tell(
                    about.id,
                    about.origin,
                    "no_node",
                    f"{have.bit_count()} of {rule.copies} safe copies, and no other node that "
                    f"stays may be given {about.bytes} bytes of {about.dataset}",
                )
            return False
        says = f"policy {about.dataset}: {have.bit_count()} of {rule.copies} safe copies"
        zone = places.zone[target]
        if zones and zone in zones:
            says += f"; zone {zone or '(none)'} has none"
        if self._order(job, target, level, rank, sources, [says]):
            return True
        # Nobody who is free may serve that one: it is another one's turn.
        job.there |= 1 << target
        return self._copy(job, level, rank, sources)

    def _busy_in(self, zones: frozenset[str] | None, rule: Rule, without: int, size: int) -> bool:
        """Whether a node would do that only has too many orders now."""
        places = self._places
        return any(
            places.room[i] >= size and (zones is None or places.zone[i] in zones)
            for i in bits(rule.safe & places.busy & ~without)
        )

    def _target(self, job: _Job, level: int, rank: float, sources: Sources) -> bool:
        """One of the nodes that the policy or a request names; first one in a zone without."""
        places, about = self._places, job.about
        barred = places.barred.get(about.id, 0)
        rest = job.targets & ~job.coming
        if rest & barred:
            for i in bits(rest & barred):
                why = places.barred_pairs[places.names[i], about.id][0]
                self._tell(
                    about.id, places.names[i], "excluded", f"{why.why}, until {stamp(why.until)}"
                )
            job.targets &= ~barred
            rest &= ~barred
        free = rest & ~places.busy
        there = job.held | job.coming
        pools = [free]
        if len(places.in_zone) > 1:
            new = free
            for zone in places.in_zone.values():
                if there & zone:
                    new &= ~zone
            pools = [new, free & ~new]
        for pool in pools:
            for i in bits(pool):
                if places.room[i] < about.bytes:
                    job.targets &= ~(1 << i)
                    self._tell(
                        about.id,
                        places.names[i],
                        "no_space",
                        f"{about.bytes} bytes would fill its disk beyond "
                        f"{places.facts[i].high_percent:g} %",
                    )
                    continue
                says = [
                    f"request {each.id}" + (f" of {each.by}" if each.by else "")
                    for each in job.asked
                    if each.targets >> i & 1
                ]
                if job.rule.targets >> i & 1:
                    says.append(
                        f"policy {about.dataset}: a copy on each of "
                        f"{', '.join(job.rule.policy.targets)}"
                    )
                if self._order(job, i, level, rank, sources, says):
                    return True
        return False

    def _order(
        self,
        job: _Job,
        target: int,
        level: int,
        rank: float,
        sources: Sources,
        says: list[str],
    ) -> bool:
        places, about = self._places, job.about
        took = sources.take(target)
        if not took:
            return False
        if not job.held & places.counted:
            kind = "leave" if not job.held & places.alive & ~places.leaving else "may vanish"
            says.append(f"only nodes that {kind} have it")
        places.order(target)
        places.room[target] -= about.bytes
        job.coming |= 1 << target
        self._moved += 1
        self._moves.append(
            Move(
                node=places.names[target],
                artifact=about.id,
                action="fetch",
                priority=LEVELS[level],
                rank=rank,
                sources=tuple(places.names[i] for i in took),
                reasons=tuple(says),
            )
        )
        return True

    # What goes.

    def _may_drop(self, rule: Rule, raw: int, held: int, pending: int, i: int) -> bool:
        """Whether the policy is met without the copy there, by copies that are certain."""
        places, bit = self._places, 1 << i
        if pending or raw & bit or not held & bit:
            return False
        rest = held & places.sure & ~bit
        if rest.bit_count() < rule.copies:
            return False
        # A zone less would only have it fetched again.
        spread = places.spread(held & places.counted, rule.copies)
        return places.spread(rest, rule.copies) >= spread

    def _still_pressed(self, i: int) -> bool:
        facts = self._places.facts[i]
        if facts.free_bytes is None or not facts.total_bytes:
            return False
        used = facts.total_bytes - facts.free_bytes
        return used > facts.total_bytes * facts.low_percent / 100

    def _origin_goes(self, about: Artifact, rule: Rule, i: int) -> bool:
        return not rule.policy.keep_at_origin and self._places.names[i] == about.origin

    def _drop(self) -> None:
        """What is superseded, what its origin need not keep, what fills a disk."""
        world, places = self._world, self._places
        dropping = {
            id for id, orders in self._orders.items() for each in orders if each.action == "drop"
        }
        ids: Iterable[str] = self._superseded if self._only is None else self._only
        for id in sorted(ids):
            if id not in self._superseded:
                continue
            about = world.artifacts[id]
            rule = self._rules.of(about.dataset)
            if rule.paused:
                continue
            standing = {each.node for each in self._orders.get(id, ()) if each.action != "fetch"}
            for i in bits(places.mask(world.copies.get(id, _NOBODY)) & places.droppable):
                if places.names[i] not in standing:
                    self._send_drop(
                        about,
                        i,
                        "background",
                        f"policy {about.dataset}: the newest {rule.policy.keep_last} of "
                        f"{about.config or 'its configuration'} are kept",
                        0,
                    )
        for id in self._origins:
            about = world.artifacts[id]
            i = places.number[about.origin]
            if id not in dropping and self._free_to_drop(about, i):
                rule = self._rules.of(about.dataset)
                says = f"policy {about.dataset}: {rule.copies} safe copies are elsewhere"
                if self._send_drop(about, i, "low", says, rule.copies):
                    dropping.add(id)
        for i in sorted(self._pressed):
            self._relieve(i, dropping)

    def _free_to_drop(self, about: Artifact, i: int) -> bool:
        places = self._places
        rule = self._rules.of(about.dataset)
        if (
            rule.paused
            or not places.droppable >> i & 1
            or about.id in self._jobs
            or about.id in self._superseded
        ):
            return False
        held = places.mask(self._world.copies.get(about.id, _NOBODY))
        raw, wanted = rule.asked, rule.targets
        for each in self._rules.requests(about, rule):
            raw |= each.targets
            wanted |= each.targets & rule.eligible
        for order in self._orders.get(about.id, ()):
            if (order.node, order.artifact) not in self._withdrawn:
                return False
        return self._may_drop(rule, raw, held, wanted & ~held, i)

    def _relieve(self, i: int, dropping: set[str]) -> None:
        """A disk is too full: drop what is safe elsewhere, the largest and oldest first."""
        facts = self._places.facts[i]
        assert facts.total_bytes is not None and facts.free_bytes is not None  # noqa: S101, PT018
        used = facts.total_bytes - facts.free_bytes - self._dropping[i]
        if used <= facts.total_bytes * facts.high_percent / 100:
            return
        until = facts.total_bytes * facts.low_percent / 100
        says = (
            f"its disk is {100 * used / facts.total_bytes:.0f} % full, beyond "
            f"{facts.high_percent:g} %"
        )
        for _, _, id in sorted(self._pressed[i]):
            if used <= until:
                return
            about = self._world.artifacts[id]
            if id in dropping or not self._free_to_drop(about, i):
                continue
            copies = self._rules.of(about.dataset).copies
            if not self._send_drop(about, i, "high", says, copies):
                return
            dropping.add(id)
            used -= about.bytes

    def _send_drop(self, about: Artifact, i: int, priority: str, says: str, replicas: int) -> bool:
        places = self._places
        if self._moved >= self._limits.moves or places.busy >> i & 1:
            self._waiting += 1
            return False
        held = places.mask(self._world.copies.get(about.id, _NOBODY)) & ~(1 << i)
        others = places.names_of(held & places.sure)[: max(_OTHERS, replicas)] if replicas else ()
        self._moved += 1
        places.order(i)
        self._moves.append(
            Move(
                node=places.names[i],
                artifact=about.id,
                action="drop",
                priority=LEVELS[LEVELS.index(priority)],
                rank=float(about.bytes),
                reasons=(says,),
                replicas=replicas,
                others=others,
            )
        )
        return True

    # What is told.

    def _tell(self, artifact: str, node: str, code: str, text: str) -> None:
        if len(self._unmet) < _UNMET:
            self._unmet.append(Pair(artifact=artifact, node=node, code=code, text=text))

    def _left_out(self) -> Iterator[LeftOut]:
        places = self._places
        for name, reasons in zip(places.names, places.refusals, strict=True):
            if reasons:
                yield LeftOut(node=name, reasons=tuple(each[:500] for each in reasons))

    def _statuses(self) -> Iterator[DatasetStatus]:
        stuck: dict[str, int] = {}
        short: dict[str, int] = {}
        for id, dataset in self._short:
            short[dataset] = short.get(dataset, 0) + 1
            if id in self._stuck:
                stuck[dataset] = stuck.get(dataset, 0) + 1
        for dataset in sorted(self._counts):
            artifacts, size, complete = self._counts[dataset]
            yield DatasetStatus(
                dataset=dataset,
                artifacts=artifacts,
                bytes=size,
                complete=complete,
                short=short.get(dataset, 0),
                unreachable=stuck.get(dataset, 0),
            )

    def why_not(self, artifact: str, found: Plan) -> Iterator[LeftOut]:
        """Every node that is given nothing, and why."""
        places, world = self._places, self._world
        about = world.artifacts.get(artifact)
        if about is None:
            return
        rule = self._rules.of(about.dataset)
        held = world.copies.get(artifact, _NOBODY)
        given = {each.node for each in found.moves}
        avoided = places.selected(rule.policy.avoid)
        told = {each.node: each.text for each in found.unmet if each.code != "no_node"}
        for i, name in enumerate(places.names):
            if name in given:
                continue
            reasons = ["it has it"] if name in held else list(places.refusals[i])
            if name not in held:
                facts = places.facts[i]
                if facts.datasets is not None and about.dataset not in facts.datasets:
                    reasons.append(f"it does not take {about.dataset}")
                if avoided >> i & 1:
                    reasons.append(f"policy {about.dataset} avoids it")
                reasons += [
                    f"excluded until {stamp(each.until)}: {each.why}"
                    for each in places.barred_pairs.get((name, artifact), ())
                ]
                if (name, artifact) in world.orders and (name, artifact) not in found.withdraw:
                    reasons.append("it is ordered already")
                if rule.paused:
                    reasons.append("the fleet or the dataset is paused")
                if name in told and told[name] not in reasons:
                    reasons.append(told[name])
                if not reasons:
                    reasons.append(
                        "its disk would be too full"
                        if places.room[i] < about.bytes
                        else "it waits for a source or for a place among its orders"
                        if rule.targets >> i & 1
                        else "nobody asks for a copy there"
                    )
            yield LeftOut(node=name, reasons=tuple(each[:500] for each in reasons))
