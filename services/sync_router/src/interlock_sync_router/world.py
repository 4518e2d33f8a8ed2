"""What a plan rests on, and what it says. Plain data."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from interlock_schemas.artifacts import Artifact, Transport
from interlock_schemas.orders import Action, DatasetStatus, LeftOut, Pair, Policy, Priority, Request

__all__ = ["DEFAULT", "Exclusion", "Limits", "Move", "NodeFacts", "Open", "Plan", "World"]

#: The policy of a dataset that has none. Its `dataset` means nothing.
DEFAULT: Final = Policy(dataset="default")

Standing = Literal["healthy", "degraded", "suspect", "lost", "unknown"]


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has a store."""

    name: str
    zone: str = ""
    roles: frozenset[str] = frozenset()
    labels: Mapping[str, str] = {}
    ephemeral: bool = False
    """A spot node: its copies do not count as safe."""
    standing: Standing = "healthy"
    cordoned: bool = False
    draining: bool = False
    retired: bool = False
    leaving_at: float | None = None
    """It goes then, epoch seconds; it is a source until then, and nothing is safe there."""
    paused: bool = False
    receives: bool = True
    serves: bool = True
    datasets: frozenset[str] | None = None
    reachable: bool = True
    """Somebody can write there: its agent is a member, or the router has SSH."""
    transports_from: tuple[Transport, ...] = ("relay",)
    """By which others may fetch from it, the best first."""
    total_bytes: int | None = None
    free_bytes: int | None = None
    """None: not known, so nothing is sent there."""
    high_percent: float = 90.0
    low_percent: float = 80.0
    slots: int = 4
    egress_bytes_per_s: float | None = None
    ingress_bytes_per_s: float | None = None


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """An order that stands."""

    node: str
    artifact: str
    action: Action = "fetch"
    priority: Priority = "normal"
    sources: tuple[str, ...] = ()
    issued_at: float = 0.0


class Exclusion(msgspec.Struct, frozen=True, kw_only=True):
    """What lately did not work is not tried before `until`. Always with an end."""

    node: str
    artifact: str | None = None
    """None: nothing for that node."""
    source: str | None = None
    """Not from there; None: not at all."""
    until: float
    """Epoch seconds."""
    why: str


class World(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known at `now`, epoch seconds. Nothing in it is changed by a plan."""

    now: float
    nodes: Mapping[str, NodeFacts]
    artifacts: Mapping[str, Artifact]
    copies: Mapping[str, frozenset[str]]
    """By artifact: the nodes whose receipt says that they hold it. Damaged ones do not count."""
    policies: Mapping[str, Policy] = {}
    default: Policy = DEFAULT
    requests: tuple[Request, ...] = ()
    orders: Mapping[tuple[str, str], Open] = {}
    """By node and artifact."""
    exclusions: tuple[Exclusion, ...] = ()
    paused_datasets: frozenset[str] = frozenset()
    paused: bool = False


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much is ordered at a time."""

    per_node: int = 32
    """Orders that stand for one node."""
    fan_out: int = 2
    """Transfers of one artifact from one node at a time, and in all from its origin as long as
    others have it or are about to."""
    moves: int = 10_000
    """In one plan."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """An order to be given."""

    node: str
    artifact: str
    action: Action
    priority: Priority
    rank: float
    sources: tuple[str, ...] = ()
    """The best first."""
    reasons: tuple[str, ...]
    replicas: int = 0
    """Of a drop: copies that have to be verified elsewhere first."""
    others: tuple[str, ...] = ()
    """Of a drop: who holds one."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, and why."""

    moves: tuple[Move, ...]
    """The most urgent first."""
    withdraw: tuple[tuple[str, str], ...] = ()
    """Orders that stand and are not wanted any more: node and artifact."""
    left_out: tuple[LeftOut, ...] = ()
    datasets: tuple[DatasetStatus, ...] = ()
    unmet: tuple[Pair, ...] = ()
    waiting: int = 0
    """Moves that wait for a place: of a source, of a node's orders."""
