"""Health on the wire: what the monitor holds of each node and of the fleet, and what it is asked.

Every negative fact (suspect, lost, evicted, paused, under pressure, admitted against a reservation)
carries an expiry. What is not known is said to be unknown, and never counts as healthy or idle.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from interlock_schemas import subjects
from interlock_schemas.contracts import Command
from interlock_schemas.nodes import Beat, Leave, Name, Short, Text
from interlock_schemas.topology import HEALTH

__all__ = [
    "ADMIT",
    "CLUSTER_KEY",
    "DISRUPTION_KEY",
    "LEAVE",
    "MONITOR",
    "NODES_LIST",
    "NODE_SHOW",
    "PRESSURE_LEVELS",
    "RECOVERY_LOCK",
    "STATES",
    "VERDICT",
    "Admission",
    "Admit",
    "AnnounceLeave",
    "Attempt",
    "ClusterHealth",
    "Eviction",
    "Evidence",
    "LeaveNoted",
    "Level",
    "ListNodes",
    "NodeHealth",
    "NodeView",
    "NodesPage",
    "Part",
    "Pressure",
    "PressureLevel",
    "RecoveryState",
    "Reservation",
    "ShowNode",
    "ShowVerdict",
    "State",
    "Symptom",
    "health_key",
    "pressure_key",
    "recovery_key",
    "recovery_lock",
    "reservation_group",
    "reservation_key",
]

#: The name of the service, and of its commands (``cmd.health.admit``).
MONITOR: Final = "health-monitor"
_COMMANDS: Final = "health"

CLUSTER_KEY: Final = "cluster"
DISRUPTION_KEY: Final = "disruption"
RECOVERY_LOCK: Final = "recovery"

#: ``unknown``: nothing is known, or nothing that could be trusted. ``healthy``: it answers and does
#: its work. ``degraded``: it answers, and something is wrong. ``suspect``: it has gone quiet.
#: ``lost``: it is gone, as far as can be told. ``recovering``: it is back and has to prove itself.
#: ``retired``: taken out on purpose, or left in good order.
State = Literal["unknown", "healthy", "degraded", "suspect", "lost", "recovering", "retired"]
STATES: Final[tuple[State, ...]] = (
    "unknown",
    "healthy",
    "degraded",
    "suspect",
    "lost",
    "recovering",
    "retired",
)

Level = Literal["healthy", "degraded", "critical", "unknown"]
PressureLevel = Literal["none", "low", "medium", "high", "critical"]
#: The least first.
PRESSURE_LEVELS: Final[tuple[PressureLevel, ...]] = ("none", "low", "medium", "high", "critical")


class Symptom(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong with a node that answers."""

    kind: Short
    """``disk_full``, ``gpu_fault``, ``clock_skew``, ``no_progress`` and the like."""
    detail: Text
    """What was measured, and the limit."""
    part: Short = ""
    """Which: the path, the GPU's index."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One observation that a verdict rests on."""

    kind: Short
    """``silence``, ``probe``, ``lease``, ``ssh``, ``work``, ``symptom``, ``leave``."""
    detail: Text
    at: str
    """RFC 3339."""


class Eviction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A lost node was taken out of service: what it held goes to others."""

    at: str
    expires_at: str
    """RFC 3339. If it is not back by then, it may be evicted anew."""
    reason: Text = ""


class NodeHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the monitor holds of one node; the record in the bucket of health."""

    node: Name
    state: State
    since: str
    """When it came into this state, RFC 3339."""
    reason: Short
    """One word for machines: ``beating``, ``silent``, ``disk_full``, ``agent_gone``."""
    detail: Text = ""
    """The same for people."""
    evidence: tuple[Evidence, ...] = ()
    previous: State | None = None
    """What it was before. None: this monitor had not known it."""
    suspected_at: str | None = None
    """When it was suspected, of a node that is lost, RFC 3339."""
    silent_s: float | None = None
    """How long it had been silent when it came into this state."""
    phi: float | None = None
    expires_at: str | None = None
    """When a negative state is looked at anew at the latest, RFC 3339."""
    last_heard_at: str | None = None
    instance: str | None = None
    zone: Short = ""
    symptoms: tuple[Symptom, ...] = ()
    eviction: Eviction | None = None
    leaving: Leave | None = None
    flaps: int = 0
    """How often it was lost and came back lately."""
    by: Short = ""
    """The monitor that wrote it."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part of the figure for the fleet."""

    name: Short
    weight: float
    """Its share, 0 to 1; the weights of what is known add up to 1 in the figure."""
    score: float | None
    """0 to 100. None: not known, and left out of the figure."""
    detail: Text = ""


class ClusterHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The verdict on the whole fleet."""

    level: Level
    score: float | None
    """0 to 100. None: too little is known."""
    parts: tuple[Part, ...] = ()
    nodes: dict[State, int] = {}
    """How many nodes are in each state."""
    paused: bool = False
    """Whether new work should wait."""
    paused_since: str = ""
    """RFC 3339; empty while it is not paused."""
    reason: Text = ""
    since: str = ""
    """When the level was reached, RFC 3339."""
    at: str = ""
    """When it was last looked at."""
    expires_at: str = ""
    """After that it says nothing any more: the monitor is gone."""
    disruption: Text | None = None
    """Why nobody is evicted at this moment, if so."""
    evictions: Literal["enforce", "shadow"] = "enforce"
    recovery: Literal["dry-run", "act", "off"] = "dry-run"
    by: Short = ""


class Pressure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much a node, a zone or the fleet is overloaded: a level, with an expiry."""

    scope: Short
    """``fleet`` or ``node.<name>``."""
    level: PressureLevel
    reason: Text = ""
    since: str = ""
    expires_at: str = ""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of recovery that was taken, or would have been."""

    step: Short
    at: str
    mode: Literal["dry-run", "act"] = "act"
    outcome: Literal["running", "succeeded", "failed", "refused", "abandoned"] = "running"
    detail: Text = ""
    until: str = ""
    """By when it is to have helped, RFC 3339."""
    token: int = 0
    """The fencing token of the lock it was taken under."""
    ended_at: str = ""
    episode: int = 0
    """The trouble it was taken against."""
    instance: Short = ""
    """The run of the node's agent at that time, as far as known."""


class RecoveryState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the recovery of a node stands; its audit."""

    node: Name
    episode: int = 0
    """1 for the first trouble of this node; a new one begins after it was healthy."""
    attempts: tuple[Attempt, ...] = ()
    """Of this episode and the ones before, the last 50."""
    state: Literal["idle", "waiting", "acting", "verifying", "exhausted", "stopped"] = "idle"
    reason: Text = ""
    next_at: str = ""
    """Nothing is done before, RFC 3339."""
    since: str = ""
    spent: tuple[str, ...] = ()
    """When steps were taken lately, RFC 3339: what the budget counts."""
    trouble: Short = ""
    """What this episode is about: ``gone``, ``work``, ``gpu``, ``person``."""
    well_since: str = ""
    """Since when the node has looked well again, in an episode that is not over, RFC 3339."""


class Reservation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was promised to somebody who is about to start something."""

    node: Name
    id: Short
    cores: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: int = 0
    gpu_indices: tuple[int, ...] = ()
    """Which ones."""
    purpose: Short = ""
    until: str = ""


# Commands


class ListNodes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which nodes are there."""

    states: tuple[State, ...] = ()
    """None: all."""
    zone: Short | None = None
    role: Short | None = None
    labels: dict[Short, Short] = {}
    after: Short = ""
    """Names behind this one."""
    limit: Annotated[int, Meta(ge=1, le=5_000)] = 1_000


class NodeView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node as the monitor sees it at this moment."""

    node: Name
    state: State
    since: str
    reason: Short
    detail: Text = ""
    zone: Short = ""
    provider: Short = ""
    price_class: Short = ""
    roles: tuple[Short, ...] = ()
    labels: dict[Short, Short] = {}
    described: bool = True
    """Whether there is a record for it, or only heartbeats."""
    agent: bool = True
    cordoned: bool = False
    draining: bool = False
    evicted: bool = False
    gpus: int | None = None
    """How many it reports, else how many it should have. None: neither is known."""
    silent_s: float | None = None
    """Since it was last heard of. None: never."""
    phi: float | None = None
    """How unlikely that silence is, by its own rhythm."""
    health: NodeHealth | None = None
    beat: Beat | None = None
    """Its last heartbeat; in `ShowNode` alone."""
    recovery: RecoveryState | None = None
    """In `ShowNode` alone."""


class NodesPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Nodes, sorted by name."""

    nodes: tuple[NodeView, ...]
    total: int
    next: Short = ""
    """What to ask for `after` this page. Empty: this is the last."""
    heartbeats: int = 0
    """Heard by the monitor that answers, since it began."""
    heartbeats_missed: int = 0
    """That did not arrive, by the numbers of those that did."""


class ShowNode(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one node."""

    node: Name


class ShowVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """How the fleet as a whole is doing."""


class Admit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """May something heavy be started on a node? Asked before it is started."""

    node: Name
    purpose: Short = ""
    cores: Annotated[float, Meta(ge=0, le=100_000)] = 0.0
    memory_bytes: Annotated[int, Meta(ge=0, le=2**62)] = 0
    disk_bytes: Annotated[int, Meta(ge=0, le=2**62)] = 0
    path: Text | None = None
    """Where on disk. None: on every watched folder."""
    gpus: Annotated[int, Meta(ge=0, le=1024)] = 0
    gpu_memory_bytes: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """Free, on each of them."""
    role: Short | None = None
    id: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")] | None = None
    """Yours, unique: asked again under the same id, it reserves once."""
    reserve_s: Annotated[float, Meta(ge=0, le=600)] = 30.0
    """For so long what was promised counts as taken, until it shows in what is measured."""


class Admission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Yes, or no with the reason."""

    admitted: bool
    code: Short
    """``ok``, ``cordoned``, ``lost``, ``unknown``, ``memory``, ``gpus``, …"""
    reason: Text = ""
    id: Short = ""
    until: str = ""
    """Until when what was promised is reserved, RFC 3339."""
    gpus: tuple[int, ...] = ()
    """Indices of GPUs that fit."""
    retry_after_s: float | None = None
    """When to ask again, where that could help."""


class AnnounceLeave(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node is about to go, in good order."""

    node: Name
    leave: Leave
    instance: Short = ""


class LeaveNoted(msgspec.Struct, frozen=True, kw_only=True):
    """It counts as leaving from now on."""

    node: Name


NODES_LIST = Command(
    service=_COMMANDS,
    verb="nodes",
    summary="List the nodes and how they are.",
    request=ListNodes,
    reply=NodesPage,
)
NODE_SHOW = Command(
    service=_COMMANDS,
    verb="node",
    summary="Show everything about one node.",
    request=ShowNode,
    reply=NodeView,
)
VERDICT = Command(
    service=_COMMANDS,
    verb="verdict",
    summary="How the fleet as a whole is doing, and why.",
    request=ShowVerdict,
    reply=ClusterHealth,
)
ADMIT = Command(
    service=_COMMANDS,
    verb="admit",
    summary="May something heavy be started on a node?",
    request=Admit,
    reply=Admission,
)
LEAVE = Command(
    service=_COMMANDS,
    verb="leave",
    summary="A node is about to go, in good order.",
    request=AnnounceLeave,
    reply=LeaveNoted,
)


def health_key(node: str) -> str:
    """The key of what is held of a node."""
    return f"node.{subjects.token(node)}"


def recovery_key(node: str) -> str:
    """The key of a node's recovery."""
    return f"recovery.{subjects.token(node)}"


def pressure_key(scope: str) -> str:
    """The key of a level of pressure; of ``fleet`` or ``node.<name>``."""
    kind, dot, name = scope.partition(".")
    return f"pressure.{kind}.{subjects.token(name)}" if dot else f"pressure.{kind}"


def reservation_group(node: str) -> str:
    """The subjects of all that is reserved on a node."""
    return f"{HEALTH.key_subject('reserved')}.{subjects.token(node)}.*"


def reservation_key(node: str, id: str) -> str:
    """The key of one reservation."""
    return f"reserved.{subjects.token(node)}.{id}"


def recovery_lock(node: str) -> str:
    """The name of the lock under which a node is acted upon."""
    return f"{RECOVERY_LOCK}:{node}"
