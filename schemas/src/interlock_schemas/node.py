"""Nodes: their membership, health, capacity, recovery and equipment.

What concerns the fleet as a whole, its leader or its quorum is `cluster`; whether calls to a node
are tried at all is `breaker`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "NodeActivated",
    "NodeAttentionRequested",
    "NodeCapacityUpdated",
    "NodeCordoned",
    "NodeDegraded",
    "NodeDrainRequested",
    "NodeEvicted",
    "NodeHealthCheckFailed",
    "NodeHealthCheckPassed",
    "NodeIdleDetected",
    "NodeJoined",
    "NodeLeaveAnnounced",
    "NodeLeft",
    "NodeLost",
    "NodeOverloaded",
    "NodeRecovered",
    "NodeRecoveryCompleted",
    "NodeRecoveryFailed",
    "NodeRecoveryStarted",
    "NodeRetired",
    "NodeSuspected",
    "NodeTerminated",
    "NodeUncordoned",
]


class NodeJoined(Event, frozen=True, kw_only=True):
    """A node came online and takes part from now on; emitted by the health monitor or the node
    itself at its start."""

    event_type: ClassVar[str] = "node.joined"

    node: str | None = None
    host_type: str | None = None
    """Kind of machine, for example ``gpu`` or ``spot``."""


class NodeSuspected(Event, frozen=True, kw_only=True):
    """A node has been silent too long and may be lost; emitted by the health monitor, which then
    asks it in other ways."""

    event_type: ClassVar[str] = "node.suspected"

    node: str | None = None
    silent_s: float | None = None
    """Time since its last heartbeat."""
    last_heard_at: str | None = None
    """When it was last heard of, RFC 3339."""
    suspected_at: str | None = None
    reason: str | None = None
    evidence: list[str] | None = None
    """What the verdict rests on, oldest first."""
    phi: float | None = None
    """How unlikely the silence is by the node's own rhythm: minus the decimal logarithm."""
    zone: str | None = None


class NodeLost(Event, frozen=True, kw_only=True):
    """A node is gone: it said goodbye, or every way of reaching it failed; emitted by the health
    monitor. Whoever relied on it should stop doing so."""

    event_type: ClassVar[str] = "node.lost"

    node: str | None = None
    offline_s: float | None = None
    """Time since it was last seen."""
    reason: str | None = None
    last_heard_at: str | None = None
    """When it was last heard of, RFC 3339."""
    suspected_at: str | None = None
    lost_at: str | None = None
    evidence: list[str] | None = None
    """What the verdict rests on, oldest first."""
    zone: str | None = None


class NodeRecovered(Event, frozen=True, kw_only=True):
    """A node that was suspected, unhealthy or lost works again; emitted by the health monitor."""

    event_type: ClassVar[str] = "node.recovered"

    node: str | None = None
    recovery_type: str | None = None
    offline_s: float | None = None
    """How long it was away."""
    from_state: str | None = None
    """What it was before: ``suspect``, ``degraded``, ``recovering``."""


class NodeDegraded(Event, frozen=True, kw_only=True):
    """A node answers but fails its health checks, so it should get no new work; emitted by the
    health monitor."""

    event_type: ClassVar[str] = "node.degraded"

    node: str | None = None
    reason: str | None = None
    gpu_utilization: float | None = None
    disk_used_percent: float | None = None
    consecutive_failures: int | None = None
    symptoms: list[str] | None = None
    """Everything that is wrong with it."""
    evidence: list[str] | None = None


class NodeOverloaded(Event, frozen=True, kw_only=True):
    """A node has more work than it can carry and some of it should move; emitted by the resource
    monitor of that node."""

    event_type: ClassVar[str] = "node.overloaded"

    node: str | None = None
    resource_type: str | None = None
    """The resource that is short, for example ``cpu``."""
    cpu_percent: float | None = None
    gpu_percent: float | None = None
    memory_percent: float | None = None


class NodeRetired(Event, frozen=True, kw_only=True):
    """A node was taken out of the fleet on purpose; emitted by the health monitor or an
    operator."""

    event_type: ClassVar[str] = "node.retired"

    node: str | None = None
    reason: str | None = None
    total_uptime_s: float | None = None


class NodeEvicted(Event, frozen=True, kw_only=True):
    """A lost node was taken out of service, within the budget, and what it held goes to others;
    emitted by the health monitor."""

    event_type: ClassVar[str] = "node.evicted"

    node: str | None = None
    reason: str | None = None
    lost_s: float | None = None
    """How long it had been lost."""
    zone: str | None = None
    shadow: bool | None = None
    """True: it would have been, and was not, because evictions are only rehearsed."""
    expires_at: str | None = None
    budget_left: int | None = None
    """How many more may be evicted in its zone at this moment."""


class NodeLeaveAnnounced(Event, frozen=True, kw_only=True):
    """A node is about to go in good order: it is to get nothing new, and what it has is to move
    away first; emitted by the agent of that node."""

    event_type: ClassVar[str] = "node.leave_announced"

    node: str | None = None
    reason: str | None = None
    deadline_s: float | None = None
    """Seconds left, as far as known."""
    instance: str | None = None


class NodeLeft(Event, frozen=True, kw_only=True):
    """A node went in good order, which is no reason to worry; what it still holds is free;
    emitted by the agent of that node, or by the health monitor in its place."""

    event_type: ClassVar[str] = "node.left"

    node: str | None = None
    reason: str | None = None
    instance: str | None = None


class NodeCordoned(Event, frozen=True, kw_only=True):
    """A node is to get no new work, and no recovery is started on it; emitted by the operator's
    command."""

    event_type: ClassVar[str] = "node.cordoned"

    node: str | None = None
    by: str | None = None
    reason: str | None = None
    until: str | None = None


class NodeUncordoned(Event, frozen=True, kw_only=True):
    """A node may get work again; emitted by the operator's command."""

    event_type: ClassVar[str] = "node.uncordoned"

    node: str | None = None
    by: str | None = None
    reason: str | None = None


class NodeDrainRequested(Event, frozen=True, kw_only=True):
    """A node is to be emptied: no new work, and what it has moves away; emitted by the
    operator's command."""

    event_type: ClassVar[str] = "node.drain_requested"

    node: str | None = None
    by: str | None = None
    reason: str | None = None
    until: str | None = None


class NodeAttentionRequested(Event, frozen=True, kw_only=True):
    """A person has to look at a node: everything that could be tried was tried, or nothing may
    be; emitted by the recovery actuator."""

    event_type: ClassVar[str] = "node.attention_requested"

    node: str | None = None
    reason: str | None = None
    attempts: list[str] | None = None


class NodeActivated(Event, frozen=True, kw_only=True):
    """A node that stood by was put to work; emitted by the cluster activator."""

    event_type: ClassVar[str] = "node.activated"

    node: str | None = None
    activation_type: str | None = None
    config: str | None = None


class NodeTerminated(Event, frozen=True, kw_only=True):
    """A rented machine was given back to its provider; emitted by the provisioner."""

    event_type: ClassVar[str] = "node.terminated"

    node: str | None = None
    instance_name: str | None = None
    provider: str | None = None
    gpu_name: str | None = None
    idle_s: float | None = None
    cost_per_hour: float | None = None
    """In US dollars."""
    reason: str | None = None


class NodeHealthCheckPassed(Event, frozen=True, kw_only=True):
    """One check of a node succeeded; emitted by the prober."""

    event_type: ClassVar[str] = "node.health_check_passed"

    node: str | None = None
    check_type: str | None = None
    latency_ms: float | None = None


class NodeHealthCheckFailed(Event, frozen=True, kw_only=True):
    """One check of a node failed, which alone proves nothing; emitted by the prober."""

    event_type: ClassVar[str] = "node.health_check_failed"

    node: str | None = None
    check_type: str | None = None
    reason: str | None = None


class NodeCapacityUpdated(Event, frozen=True, kw_only=True):
    """A node measured what it could take on; emitted by the agent of that node."""

    event_type: ClassVar[str] = "node.capacity_updated"

    node: str | None = None
    gpu_memory_gb: float | None = None
    gpu_utilization: float | None = None
    cpu_utilization: float | None = None
    available_slots: int | None = None
    queue_depth: int | None = None
    reason: str | None = None


class NodeIdleDetected(Event, frozen=True, kw_only=True):
    """A node's GPU or CPU has stood idle and could take work; emitted by the idle monitor."""

    event_type: ClassVar[str] = "node.idle_detected"

    node: str | None = None
    gpu_utilization: float | None = None
    gpu_memory_gb: float | None = None
    idle_s: float | None = None
    recommended_config: str | None = None
    """Configuration that would suit it."""


class NodeRecoveryStarted(Event, frozen=True, kw_only=True):
    """An attempt to repair a node or one of its components began; emitted by the recovery
    actuator."""

    event_type: ClassVar[str] = "node.recovery_started"

    node: str | None = None
    component: str | None = None
    strategy: str | None = None
    consecutive_failures: int | None = None
    reason: str | None = None


class NodeRecoveryCompleted(Event, frozen=True, kw_only=True):
    """An attempt to repair a node or one of its components succeeded; emitted by the recovery
    actuator."""

    event_type: ClassVar[str] = "node.recovery_completed"

    node: str | None = None
    component: str | None = None
    action: str | None = None
    duration_s: float | None = None


class NodeRecoveryFailed(Event, frozen=True, kw_only=True):
    """An attempt to repair a node or one of its components did not help; emitted by the recovery
    actuator."""

    event_type: ClassVar[str] = "node.recovery_failed"

    node: str | None = None
    component: str | None = None
    action: str | None = None
    reason: str | None = None


TYPES = (
    typed(NodeJoined),
    typed(NodeSuspected),
    typed(NodeLost),
    typed(NodeRecovered),
    typed(NodeDegraded),
    typed(NodeOverloaded),
    typed(NodeRetired),
    typed(NodeEvicted),
    typed(NodeLeaveAnnounced),
    typed(NodeLeft),
    typed(NodeCordoned),
    typed(NodeUncordoned),
    typed(NodeDrainRequested),
    typed(NodeAttentionRequested),
    typed(NodeActivated),
    typed(NodeTerminated),
    typed(NodeHealthCheckPassed),
    typed(NodeHealthCheckFailed),
    typed(NodeCapacityUpdated),
    typed(NodeIdleDetected),
    typed(NodeRecoveryStarted),
    typed(NodeRecoveryCompleted),
    typed(NodeRecoveryFailed),
    open_type(
        "node.provisioned",
        "A machine was rented and is starting; emitted by the provisioner.",
    ),
    open_type(
        "node.provisioning_failed",
        "A provider could not supply the machine that was asked for; emitted by the provisioner.",
    ),
    open_type(
        "node.idle_state_requested",
        "Somebody wants to hear from every node whether it is idle; emitted by a scheduler.",
    ),
    open_type(
        "node.idle_state_reported",
        "A node says whether it is idle, regularly or because it was asked; emitted by the agent "
        "of that node.",
    ),
    open_type(
        "node.ssh_check_started",
        "A node is being asked over SSH whether it lives; emitted by the SSH prober.",
    ),
    open_type(
        "node.ssh_check_passed",
        "A node answered over SSH; emitted by the SSH prober.",
    ),
    open_type(
        "node.ssh_check_failed",
        "A node refused or missed one SSH check; emitted by the SSH prober.",
    ),
    open_type(
        "node.ssh_lost",
        "A node has missed so many SSH checks in a row that SSH to it counts as gone; emitted by "
        "the SSH prober.",
    ),
    open_type(
        "node.ssh_recovered",
        "A node that could not be reached over SSH can be again; emitted by the SSH prober.",
    ),
    open_type(
        "node.p2p_recovery_completed",
        "The peer process of a remote node was restarted over SSH and answers; emitted by the "
        "remote recovery.",
    ),
    open_type(
        "node.p2p_recovery_failed",
        "The peer process of a remote node could not be restarted over SSH; emitted by the remote "
        "recovery.",
    ),
    open_type(
        "node.private_address_advertised",
        "A node tells its peers an address that only its own site can reach; emitted by the peer "
        "that noticed.",
    ),
    open_type(
        "node.tailscale_cli_failed",
        "The overlay network's command line does not answer on a node; emitted by the network "
        "check of that node.",
    ),
    open_type(
        "node.tailscale_cli_recovered",
        "The overlay network's command line answers again on a node; emitted by the network check "
        "of that node.",
    ),
    open_type(
        "node.gpu_mismatch_detected",
        "A node's role expects a GPU and none was found; emitted by the node at its start.",
    ),
    open_type(
        "node.cuda_mismatch_detected",
        "A node has a GPU but its PyTorch cannot use it; emitted by the node at its start.",
    ),
    open_type(
        "node.incompatibility_detected",
        "A node can run none of the configurations that are wanted; emitted by the self-play "
        "scheduler.",
    ),
)
