"""How overloaded a node and the fleet are: levels, with a threshold up and another one down.

A level is state that is written with an expiry and refreshed, not an edge that could be missed.
What is not measured has no level, which is not the level ``none``.

`gauge` takes what was gauged before (None at first), a heartbeat that is fresh (None where there is
none) and the node's limits; `fleet_gauge` takes the gauges of the nodes. `record` is what to store
of a gauge, `due` whether it has to be stored by now, and `told` the event of a change.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from interlock_health_monitor import instants
from interlock_health_monitor.symptoms import DEFAULT_LIMITS, Limits
from interlock_schemas.event import Event
from interlock_schemas.health import PRESSURE_LEVELS, Pressure, PressureLevel
from interlock_schemas.nodes import Beat
from interlock_schemas.resource import BackpressureActivated, BackpressureReleased

__all__ = [
    "FLEET",
    "Gauge",
    "PressurePolicy",
    "at_least",
    "due",
    "fleet_gauge",
    "gauge",
    "rank",
    "record",
    "scope_of",
    "told",
]

#: The scope of the fleet as a whole.
FLEET: Final = "fleet"


class PressurePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """From what on a resource is at ``low``, ``medium``, ``high`` and ``critical``."""

    of_limit: tuple[float, float, float, float] = (0.80, 0.88, 0.95, 1.0)
    """Memory and disk, by the share of the node's limit that is used."""
    load: tuple[float, float, float, float] = (0.16, 0.25, 0.5, 1.0)
    """Load per core, by the share of the node's limit."""
    gpu_memory: tuple[float, float, float, float] = (0.92, 0.98, 2.0, 2.0)
    """Of the memory of all its GPUs together. Training fills them on purpose: no more than
    ``medium``."""
    back: float = 0.04
    """A level is left downwards only so far below, as a share of its threshold."""
    fleet_share: float = 0.5
    """The fleet is at the level that so many of the nodes measured are at, or above."""
    fleet_back: float = 0.1
    """It leaves a level downwards when so many fewer are."""
    ttl_s: float = 60.0
    calm_ttl_s: float = 300.0
    """Of the level ``none`` of a node, which is written less often."""
    tell: PressureLevel = "medium"
    """From this level on a change is an event."""


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """One scope's pressure at a moment."""

    scope: str
    """``fleet`` or ``node.<name>``."""
    level: PressureLevel | None = None
    """None: not known."""
    since: datetime
    """When it came to that level."""
    reason: str = ""
    resource: str = ""
    """The one that is shortest."""
    levels: Mapping[str, PressureLevel] = {}
    """Of each resource that was measured."""
    known: PressureLevel | None = None
    """The last level that was known."""
    known_since: datetime | None = None


def rank(level: PressureLevel) -> int:
    """Its place, 0 for ``none``."""
    return PRESSURE_LEVELS.index(level)


def at_least(level: PressureLevel | None, other: PressureLevel) -> bool:
    """Whether a level is as high as another. What is not known is not."""
    return level is not None and rank(level) >= rank(other)


def scope_of(node: str) -> str:
    """The scope of one node."""
    return f"node.{node}"


def gauge(
    before: Gauge | None,
    node: str,
    beat: Beat | None,
    now: datetime,
    *,
    limits: Limits = DEFAULT_LIMITS,
    policy: PressurePolicy = PressurePolicy(),  # noqa: B008  # frozen
) -> Gauge:
    """The pressure on a node, by its last heartbeat."""
    were = before.levels if before is not None else {}
    levels: dict[str, PressureLevel] = {}
    details: dict[str, str] = {}
    for resource, value, steps, detail in _measured(beat, limits, policy):
        levels[resource] = _stepped(value, steps, were.get(resource), policy)
        details[resource] = detail
    if not levels:
        return _next(before, scope_of(node), None, now, "nothing was measured")
    worst = max(levels, key=lambda resource: rank(levels[resource]))
    level = levels[worst]
    reason = details[worst] if level != "none" else ""
    return _next(before, scope_of(node), level, now, reason, worst, levels)


def fleet_gauge(
    before: Gauge | None,
    nodes: Iterable[PressureLevel | None],
    now: datetime,
    policy: PressurePolicy = PressurePolicy(),  # noqa: B008  # frozen
) -> Gauge:
    """The pressure on the fleet, by the levels of its nodes; None for those that are not known."""
    known = [rank(level) for level in nodes if level is not None]
    if not known:
        return _next(before, FLEET, None, now, "no node was measured")
    was = rank(before.level) if before is not None and before.level is not None else 0
    level, count = 0, len(known)
    for step in range(1, len(PRESSURE_LEVELS)):
        there = sum(1 for each in known if each >= step)
        share = policy.fleet_share - (policy.fleet_back if step <= was else 0.0)
        if there / len(known) < share:
            break
        level, count = step, there
    name = PRESSURE_LEVELS[level]
    reason = f"{count} of {len(known)} nodes are at {name} or above" if level else ""
    return _next(before, FLEET, name, now, reason)


def record(
    gauge: Gauge,
    now: datetime,
    policy: PressurePolicy = PressurePolicy(),  # noqa: B008  # frozen
) -> Pressure | None:
    """What to store; None where nothing is known, so that what stands expires."""
    if gauge.level is None:
        return None
    return Pressure(
        scope=gauge.scope,
        level=gauge.level,
        reason=gauge.reason[:500],
        since=instants.text(gauge.since),
        expires_at=instants.text(now + timedelta(seconds=lives_s(gauge, policy))),
    )


def lives_s(gauge: Gauge, policy: PressurePolicy) -> float:
    """How long its record says something."""
    calm = gauge.level == "none" and gauge.scope != FLEET
    return policy.calm_ttl_s if calm else policy.ttl_s


def due(
    stored: Pressure | None,
    gauge: Gauge,
    now: datetime,
    policy: PressurePolicy = PressurePolicy(),  # noqa: B008  # frozen
) -> bool:
    """Whether the gauge has to be stored by now: it changed, or what is stored is half gone."""
    if gauge.level is None:
        return False
    if stored is None or stored.level != gauge.level:
        return True
    left = instants.seconds_until(stored.expires_at, now)
    return left is None or left < lives_s(gauge, policy) / 2


def told(
    before: Gauge | None,
    after: Gauge,
    now: datetime,
    policy: PressurePolicy = PressurePolicy(),  # noqa: B008  # frozen
) -> Event | None:
    """The event of a change, if it is worth one. What is not known any more is no relief."""
    was = before.known if before is not None else None
    if after.level is None or after.level == was:
        return None
    node = None if after.scope == FLEET else after.scope.removeprefix("node.")
    if at_least(after.level, policy.tell):
        return BackpressureActivated(
            node=node,
            level=after.level,
            resource_type=after.resource or None,
            reason=after.reason or None,
        )
    if before is not None and at_least(was, policy.tell):
        since = before.known_since or before.since
        return BackpressureReleased(
            node=node,
            previous_level=was,
            duration_s=max(0.0, (now - since).total_seconds()),
            reason=f"{after.level} now",
        )
    return None


Steps = tuple[float, float, float, float]


def _measured(
    beat: Beat | None, limits: Limits, policy: PressurePolicy
) -> Iterable[tuple[str, float, Steps, str]]:
    """Each resource that was measured: name, value, thresholds, and what to tell."""
    if beat is None:
        return
    used = beat.memory_used_percent
    if used is not None:
        detail = f"{used:.0f} % of memory used"
        yield "memory", used, _scaled(policy.of_limit, limits.memory_used_percent), detail
    fullest = max(
        (
            (share, disk.path)
            for disk in beat.disks
            for share in (disk.used_percent, disk.inodes_used_percent)
            if share is not None
        ),
        default=None,
    )
    if fullest is not None:
        detail = f"{fullest[0]:.0f} % of {fullest[1]} used"
        yield "disk", fullest[0], _scaled(policy.of_limit, limits.disk_used_percent), detail
    if beat.load_per_core is not None:
        detail = f"load of {beat.load_per_core:.1f} per core"
        yield "cpu", beat.load_per_core, _scaled(policy.load, limits.load_per_core), detail
    boards = [
        (gpu.memory_used_bytes, gpu.memory_total_bytes)
        for gpu in beat.gpus or ()
        if gpu.memory_used_bytes is not None and gpu.memory_total_bytes
    ]
    if boards:
        share = sum(used for used, _ in boards) / sum(total for _, total in boards)
        yield "gpu_memory", share, policy.gpu_memory, f"{share:.0%} of GPU memory used"


def _scaled(steps: Steps, limit: float) -> Steps:
    low, medium, high, critical = (step * limit for step in steps)
    return low, medium, high, critical


def _stepped(
    value: float, steps: Steps, was: PressureLevel | None, policy: PressurePolicy
) -> PressureLevel:
    """The level of a value: up at a threshold, down only some way below it."""
    before = rank(was) if was is not None else 0
    level = 0
    for step, threshold in enumerate(steps, 1):
        if value >= (threshold * (1 - policy.back) if step <= before else threshold):
            level = step
    return PRESSURE_LEVELS[level]


def _next(
    before: Gauge | None,
    scope: str,
    level: PressureLevel | None,
    now: datetime,
    reason: str,
    resource: str = "",
    levels: Mapping[str, PressureLevel] | None = None,
) -> Gauge:
    same = before is not None and before.level == level
    known, known_since = (before.known, before.known_since) if before is not None else (None, None)
    if level is not None and level != known:
        known, known_since = level, now
    return Gauge(
        scope=scope,
        level=level,
        since=before.since if same and before is not None else now,
        reason=reason,
        resource=resource,
        levels=levels or {},
        known=known,
        known_since=known_since,
    )
