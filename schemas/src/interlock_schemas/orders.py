"""Moving artifacts on the wire: policies, requests, and the orders that a node works off.

The router decides; what it wants of a node stands as orders in a bucket, one key for each node and
artifact. That is the node's queue: its agent watches it, takes the most urgent first, and the key
goes once the copy's receipt stands. An order carries the token of the router that gave it, and a
node does not carry out an older router's.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from interlock_schemas import subjects
from interlock_schemas.artifacts import Artifact, Dataset, Digest, StoreReport, Transport
from interlock_schemas.contracts import Command
from interlock_schemas.nodes import Count, Name, Seconds, Short, Text

__all__ = [
    "EPOCH_KEY",
    "EVACUATE",
    "PAUSE",
    "PLAN",
    "PLANNER_LOCK",
    "POLICIES",
    "REPORT",
    "ROUTER",
    "SET_POLICY",
    "STATUS",
    "SYNC",
    "Action",
    "AskEvacuation",
    "AskPlan",
    "AskPolicies",
    "AskReport",
    "AskStatus",
    "AskSync",
    "Asked",
    "DatasetStatus",
    "Epoch",
    "Evacuation",
    "Failure",
    "FailureCode",
    "Leaving",
    "LeftOut",
    "NodeStatus",
    "Order",
    "Pair",
    "Pause",
    "PlanView",
    "PlannedMove",
    "PoliciesPage",
    "Policy",
    "Priority",
    "Request",
    "SetPause",
    "SetPolicy",
    "Source",
    "SyncReport",
    "SyncStatus",
    "evacuation_key",
    "mover_lock",
    "order_key",
    "order_keys",
    "pause_key",
    "policy_key",
    "request_key",
    "slot_lock",
]

#: The router's name as a service.
ROUTER: Final = "sync-router"

#: Whoever holds this lock plans.
PLANNER_LOCK: Final = "sync-router:planner"

#: The key that says whose orders count.
EPOCH_KEY: Final = "epoch"

Priority = Literal["critical", "high", "normal", "low", "background"]

#: ``fetch``: have a copy. ``drop``: have none any more. ``verify``: check every digest again.
Action = Literal["fetch", "drop", "verify"]

FailureCode = Literal[
    "no_space",
    "denied",
    "source_gone",
    "source_damaged",
    "damaged",
    "unreachable",
    "stale_token",
    "refused_name",
    "too_few_copies",
    "timeout",
    "io",
]


class Policy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where artifacts of a dataset are to be."""

    dataset: Dataset
    copies: Annotated[int, Meta(ge=1, le=1_000)] = 2
    """At least so many, on nodes that do not vanish (not spot), in different zones if there are.
    The origin's own counts where it is such a node."""
    targets: tuple[Short, ...] = ()
    """Besides, a copy on each of: ``all``, ``role:<role>``, ``label:<name>=<value>``,
    ``zone:<zone>``, ``node:<name>``."""
    avoid: tuple[Short, ...] = ()
    """Selectors of nodes that are given none."""
    priority: Priority = "normal"
    keep_last: Annotated[int, Meta(ge=1)] | None = None
    """Of each configuration only so many of the newest; what is older is dropped everywhere."""
    largest_bytes: Count | None = None
    """Larger ones stay where they are, and are told of."""
    transports: tuple[Transport, ...] = ()
    """To be tried first, in this order."""
    keep_at_origin: bool = True
    """False: the origin may drop its own copy once the policy is met without it."""


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node that has a verified copy."""

    node: Name
    transports: tuple[Transport, ...]
    """That may reach it, the best first."""
    root: Text = ""
    """Folder of its store."""
    bytes_per_s: Annotated[float, Meta(gt=0)] | None = None
    """Not faster than this from there."""
    slots: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """So many transfers at once from there: see `slot_lock`."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an order was not carried out, in the words of whoever tried."""

    code: FailureCode
    text: Text
    at: str
    source: Name | None = None
    transport: Transport | None = None
    attempts: Count = 1


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node is to do about an artifact."""

    id: Short
    node: Name
    artifact: Digest
    action: Action = "fetch"
    about: Artifact
    token: Count
    """Of the router that gave it. One below `Epoch.token` does not count."""
    priority: Priority = "normal"
    rank: float = 0.0
    """Within a priority, the higher one first."""
    sources: tuple[Source, ...] = ()
    """The best first."""
    transports: tuple[Transport, ...] = ()
    """That the policy would rather have."""
    reasons: tuple[Text, ...] = ()
    issued_at: str
    deadline_at: str | None = None
    """What is not done by then need not be done: its source will be gone."""
    bytes_per_s: Annotated[float, Meta(gt=0)] | None = None
    """The whole of what the node may take in."""
    fleet_slots: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """So many transfers at once in the whole fleet: see `slot_lock`. None: no limit."""
    replicas: Count = 0
    """Of a drop: verified copies that have to stand elsewhere."""
    others: tuple[Name, ...] = ()
    """Of a drop: who was found to hold one, by digest of the current content."""
    failure: Failure | None = None
    """Set by the node: it was tried and given up. The router decides what is next."""


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """The newest router. Orders with a lower token do not count."""

    token: Count
    router: Short
    at: str


class Pause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Nothing is begun any more: of the fleet, of a dataset, to a node."""

    by: Short
    reason: Text = ""
    at: str
    until: str | None = None
    """RFC 3339. None: until it is taken back."""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody wants data at some nodes now, on top of the policies."""

    id: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
    dataset: Dataset | None = None
    config: Short | None = None
    artifacts: tuple[Digest, ...] = ()
    """None named: all that the dataset has when it is asked."""
    targets: tuple[Short, ...] = ("all",)
    """Selectors, as in `Policy.targets`."""
    priority: Priority = "normal"
    by: Short = ""
    at: str = ""
    until: str = ""
    """It is forgotten then, RFC 3339."""


class AskSync(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Have data moved to some nodes. Asked again under the same id, it is the same request."""

    request: Request
    timeout_s: Annotated[float, Meta(gt=0, le=7 * 86_400)] = 3_600.0


class AskReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far is a request?"""

    id: Short
    failures: Annotated[int, Meta(ge=0, le=1_000)] = 100
    """The most that are listed one by one."""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact and a node, and why it is not there."""

    artifact: Digest
    node: Name
    code: Short
    text: Text = ""


class SyncReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request. Counts are of pairs of an artifact and a node."""

    id: Short
    done: bool
    """Nothing is pending any more."""
    targets: tuple[Name, ...] = ()
    left_out: "tuple[LeftOut, ...]" = ()
    """Nodes that a selector names and that cannot be given anything, and why."""
    artifacts: Count = 0
    asked: Count = 0
    asked_bytes: Count = 0
    already_there: Count = 0
    moved: Count = 0
    """Received since it was asked, each with a receipt."""
    moved_bytes: Count = 0
    verified: Count = 0
    """Pairs with a receipt: those already there, and those moved."""
    pending: Count = 0
    pending_bytes: Count = 0
    failed: Count = 0
    failures: tuple[Pair, ...] = ()
    timed_out: bool = False


class AskPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What would be done now, and why; nothing is moved."""

    dataset: Dataset | None = None
    artifact: Digest | None = None
    node: Name | None = None
    request: Request | None = None
    """As if this were asked too."""
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 200


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A node that gets nothing, and why."""

    node: Name
    reasons: tuple[Text, ...]
    artifacts: Count = 0
    """That it would have been given otherwise; 0: not counted."""


class PlannedMove(msgspec.Struct, frozen=True, kw_only=True):
    """One move."""

    action: Action
    artifact: Digest
    dataset: Dataset
    name: Short
    bytes: Count
    node: Name
    sources: tuple[Name, ...] = ()
    priority: Priority = "normal"
    reasons: tuple[Text, ...] = ()
    under_way: bool = False


class DatasetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset, beside its policy."""

    dataset: Dataset
    artifacts: Count = 0
    bytes: Count = 0
    complete: Count = 0
    """Artifacts whose policy is met."""
    short: Count = 0
    unreachable: Count = 0
    """Short, and there is nothing that could be done now."""


class PlanView(msgspec.Struct, frozen=True, kw_only=True):
    """What would be done, the most urgent first."""

    moves: tuple[PlannedMove, ...]
    more: Count = 0
    """That are not listed."""
    left_out: tuple[LeftOut, ...] = ()
    datasets: tuple[DatasetStatus, ...] = ()
    unmet: tuple[Pair, ...] = ()
    """Artifacts that stay short, and why; the first hundred."""


class AskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How is the fleet's data?"""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node, as the router sees it."""

    node: Name
    usable: bool
    why_not: tuple[Text, ...] = ()
    ephemeral: bool = False
    store: StoreReport | None = None
    held: Count = 0
    held_bytes: Count = 0
    pending: Count = 0
    pending_bytes: Count = 0
    at_risk: Count = 0
    """Artifacts that would be lost if it died now."""
    at_risk_bytes: Count = 0
    at_risk_steps: Count = 0
    at_risk_value: float = 0.0


class SyncStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the fleet's data is."""

    at: str
    planner: Short | None = None
    """The router that decides; None: nobody does."""
    token: Count = 0
    artifacts: Count = 0
    bytes: Count = 0
    datasets: tuple[DatasetStatus, ...] = ()
    nodes: tuple[NodeStatus, ...] = ()
    pauses: dict[str, Pause] = {}
    """By scope: ``fleet``, ``dataset:<dataset>``, ``node:<node>``."""
    requests: tuple[Request, ...] = ()


class SetPause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Pause, or go on."""

    scope: Short = "fleet"
    pause: Pause | None = None
    """None: go on."""


class SetPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Give a dataset a policy, or (None) the default."""

    dataset: Dataset
    policy: Policy | None = None


class AskPolicies(msgspec.Struct, frozen=True, kw_only=True):
    """Which policies hold?"""


class PoliciesPage(msgspec.Struct, frozen=True, kw_only=True):
    """The policies. A dataset without one is kept as `default` says."""

    policies: tuple[Policy, ...]
    default: Policy


class AskEvacuation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node is about to go: have saved what only it has. Asked again, it tells how far that is."""

    node: Name
    deadline_s: Seconds | None = None
    listed: Annotated[int, Meta(ge=0, le=10_000)] = 1_000


class Evacuation(msgspec.Struct, frozen=True, kw_only=True):
    """What only that node had when its leave began, and where that is now."""

    node: Name
    began_at: str = ""
    at_risk: Count = 0
    """That are not safe yet. 0: the node may be torn down."""
    at_risk_bytes: Count = 0
    at_risk_steps: Count = 0
    at_risk_value: float = 0.0
    saved: tuple[Digest, ...] = ()
    """In the order of their receipts."""
    saved_bytes: Count = 0
    saved_value: float = 0.0
    unsaved: tuple[Digest, ...] = ()
    """The most valuable first."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request as it is kept: what it came to when it was asked is fixed."""

    request: Request
    nodes: tuple[Name, ...] = ()
    """That its selectors named, and that could be given something."""
    left_out: "tuple[LeftOut, ...]" = ()
    revision: Count = 0
    """Of the inventory when it was asked. Where the request names no artifacts, it is about those
    that stood there then: an artifact's record is written once."""
    already_there: Count = 0
    """Pairs of an artifact and a node."""
    already_bytes: Count = 0


class Leaving(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An evacuation as it is kept."""

    node: Name
    began_at: str
    deadline_at: str
    """Until then the node counts as leaving, RFC 3339."""
    artifacts: tuple[Digest, ...] = ()
    """That only it had, the most valuable first."""
    saved: tuple[Digest, ...] = ()
    """Of them, in the order of their receipts."""
    gone_at: str | None = None
    """When it left or was lost. What is not saved shortly after that is lost."""


SYNC = Command(
    service=ROUTER,
    verb="sync",
    summary="Have data moved to some nodes, and report.",
    request=AskSync,
    reply=SyncReport,
)
REPORT = Command(
    service=ROUTER,
    verb="report",
    summary="How far a request is.",
    request=AskReport,
    reply=SyncReport,
)
PLAN = Command(
    service=ROUTER,
    verb="plan",
    summary="What would be done now, and why.",
    request=AskPlan,
    reply=PlanView,
)
STATUS = Command(
    service=ROUTER,
    verb="status",
    summary="How the fleet's data is.",
    request=AskStatus,
    reply=SyncStatus,
)
PAUSE = Command(
    service=ROUTER,
    verb="pause",
    summary="Pause, or go on.",
    request=SetPause,
    reply=SyncStatus,
)
SET_POLICY = Command(
    service=ROUTER,
    verb="policy",
    summary="Give a dataset a policy.",
    request=SetPolicy,
    reply=PoliciesPage,
)
POLICIES = Command(
    service=ROUTER,
    verb="policies",
    summary="List the policies.",
    request=AskPolicies,
    reply=PoliciesPage,
)
EVACUATE = Command(
    service=ROUTER,
    verb="evacuate",
    summary="Have saved what only one node has.",
    request=AskEvacuation,
    reply=Evacuation,
)


def order_key(node: str, artifact: str) -> str:
    """The key of what a node is to do about an artifact."""
    return f"order.{subjects.token(node)}.{artifact}"


def order_keys(node: str | None = None) -> str:
    """The filter for orders, of one node or of all."""
    return f"order.{subjects.token(node) if node is not None else '*'}.*"


def policy_key(dataset: str) -> str:
    """The key of a dataset's policy."""
    return f"policy.{dataset}"


def request_key(id: str) -> str:
    """The key of a request."""
    return f"request.{id}"


def pause_key(scope: str) -> str:
    """The key of a pause."""
    return f"pause.{subjects.token(scope)}"


def evacuation_key(node: str) -> str:
    """The key of a node's evacuation."""
    return f"evacuation.{subjects.token(node)}"


def mover_lock(node: str) -> str:
    """The name of the lock under which a node's store is written."""
    return f"store:{node}"


def slot_lock(node: str | None) -> str:
    """The name of the slots for transfers from a node; None: of the fleet as a whole."""
    return "sync:fleet" if node is None else f"sync:from:{node}"
