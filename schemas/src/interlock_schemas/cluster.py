"""The fleet as a whole: its verdict on itself, its leader, its voters and its peer network.

Single nodes are in `node`.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = [
    "TYPES",
    "ClusterCapacityChanged",
    "ClusterHealthChanged",
    "DisruptionDetected",
    "DisruptionEnded",
    "LeaderElected",
    "LeaderLost",
    "QuorumLost",
    "QuorumRestored",
    "WorkPaused",
    "WorkResumed",
]


class ClusterHealthChanged(Event, frozen=True, kw_only=True):
    """The verdict on the whole fleet changed; emitted by the health monitor."""

    event_type: ClassVar[str] = "cluster.health_changed"

    level: str | None = None
    """The verdict, for example ``healthy`` or ``unhealthy``."""
    score: float | None = None
    node_count: int | None = None
    previous_level: str | None = None
    reason: str | None = None
    parts: list[str] | None = None
    """What the figure is made of, one sentence a part."""


class WorkPaused(Event, frozen=True, kw_only=True):
    """The fleet is in no state to take on more: whoever starts work should wait; emitted by the
    health monitor. The level stands in the bucket of health as well, with an expiry."""

    event_type: ClassVar[str] = "cluster.work_paused"

    score: float | None = None
    reason: str | None = None


class WorkResumed(Event, frozen=True, kw_only=True):
    """Work may be started again; emitted by the health monitor."""

    event_type: ClassVar[str] = "cluster.work_resumed"

    score: float | None = None
    paused_s: float | None = None
    reason: str | None = None


class DisruptionDetected(Event, frozen=True, kw_only=True):
    """So many nodes went quiet at once that the fault is probably not theirs: nobody is evicted
    and nothing is repaired until an operator has looked or they are back; emitted by the health
    monitor."""

    event_type: ClassVar[str] = "cluster.disruption_detected"

    zone: str | None = None
    """The zone it is about, or None for the fleet as a whole."""
    quiet: int | None = None
    """Nodes that went quiet."""
    members: int | None = None
    """Nodes in all."""
    nodes: list[str] | None = None
    """Some of them."""
    reason: str | None = None


class DisruptionEnded(Event, frozen=True, kw_only=True):
    """Enough of the nodes that went quiet at once are back, or an operator said to go on; emitted
    by the health monitor."""

    event_type: ClassVar[str] = "cluster.disruption_ended"

    zone: str | None = None
    duration_s: float | None = None
    reason: str | None = None


class ClusterCapacityChanged(Event, frozen=True, kw_only=True):
    """The number of usable GPUs or nodes changed; emitted by the resource monitor of the
    fleet."""

    event_type: ClassVar[str] = "cluster.capacity_changed"

    total_gpus: int | None = None
    available_gpus: int | None = None
    total_nodes: int | None = None


class LeaderElected(Event, frozen=True, kw_only=True):
    """A node became leader; emitted by that node."""

    event_type: ClassVar[str] = "cluster.leader_elected"

    leader: str | None = None
    term: int | None = None


class LeaderLost(Event, frozen=True, kw_only=True):
    """The leader is gone and no successor is known yet; emitted by a follower."""

    event_type: ClassVar[str] = "cluster.leader_lost"

    old_leader: str | None = None
    reason: str | None = None


class QuorumLost(Event, frozen=True, kw_only=True):
    """Fewer voters are reachable than decisions need; emitted by the quorum monitor."""

    event_type: ClassVar[str] = "cluster.quorum_lost"

    total_voters: int | None = None
    quorum_size: int | None = None
    """Voters needed."""


class QuorumRestored(Event, frozen=True, kw_only=True):
    """Enough voters are reachable again to decide; emitted by the quorum monitor."""

    event_type: ClassVar[str] = "cluster.quorum_restored"

    total_voters: int | None = None
    quorum_size: int | None = None
    """Voters needed."""


TYPES = (
    typed(ClusterHealthChanged),
    typed(WorkPaused),
    typed(WorkResumed),
    typed(DisruptionDetected),
    typed(DisruptionEnded),
    typed(ClusterCapacityChanged),
    typed(LeaderElected),
    typed(LeaderLost),
    typed(QuorumLost),
    typed(QuorumRestored),
    open_type(
        "cluster.status_changed",
        "The peer network gave a node or itself a new status, with the old one; emitted by the "
        "leader.",
    ),
    open_type(
        "cluster.visibility_degraded",
        "The fleet's inventory cannot be read and local counts stand in for it; emitted by the "
        "reader that noticed.",
    ),
    open_type(
        "cluster.stall_detected",
        "Nodes are up but finish no games; emitted by the progress monitor of the fleet.",
    ),
    open_type(
        "cluster.health_alert_raised",
        "Something about the fleet needs a person's eye; emitted by whichever monitor noticed.",
    ),
    open_type(
        "cluster.nodes_lost",
        "Several nodes vanished at once, as after a network cut; emitted by the leader with their "
        "names.",
    ),
    open_type(
        "cluster.underutilized",
        "Too many GPUs of the fleet stand idle; emitted by the utilization monitor.",
    ),
    open_type(
        "cluster.utilization_recovered",
        "The fleet's GPUs are busy again; emitted by the utilization monitor.",
    ),
    open_type(
        "cluster.leader_stepped_down",
        "A leader gave up its role in good order; emitted by that leader.",
    ),
    open_type(
        "cluster.leader_heartbeat_missed",
        "The leader's heartbeat is late but its lease still runs; emitted by a follower.",
    ),
    open_type(
        "cluster.leader_lease_expired",
        "The leader's lease ran out without its stepping down; emitted by a follower.",
    ),
    open_type(
        "cluster.backup_candidates_probed",
        "The nodes that could become leader were checked; emitted by the leader.",
    ),
    open_type(
        "cluster.split_brain_detected",
        "More than one node acts as leader; emitted by the node that heard from both.",
    ),
    open_type(
        "cluster.split_brain_resolved",
        "Every leader but one was demoted; emitted by the node that settled it.",
    ),
    open_type(
        "cluster.epoch_advanced",
        "The fleet entered a new epoch because its leader changed; emitted by the new leader.",
    ),
    open_type(
        "cluster.state_persisted",
        "The peer network's state was written to disk; emitted by the node that wrote it.",
    ),
    open_type(
        "cluster.voter_lost",
        "A voter cannot be reached; emitted by the voter health monitor.",
    ),
    open_type(
        "cluster.voter_returned",
        "A voter that was away can be reached again; emitted by the voter health monitor.",
    ),
    open_type(
        "cluster.voter_demoted",
        "A voter lost its vote because of its health; emitted by the voter manager for the audit.",
    ),
    open_type(
        "cluster.voter_promoted",
        "A node got a vote, or got it back; emitted by the voter manager for the audit.",
    ),
    open_type(
        "cluster.voter_flapping_detected",
        "A voter comes and goes too often to be counted on; emitted by the voter health monitor.",
    ),
    open_type(
        "cluster.voter_healing_requested",
        "Voters are away and should be brought back; emitted by the peer network recovery.",
    ),
    open_type(
        "cluster.voter_reconnect_requested",
        "Peers should reconnect to the voters first, because quorum depends on it; emitted by the "
        "peer network recovery.",
    ),
    open_type(
        "cluster.quorum_endangered",
        "Losing one more voter would lose quorum; emitted by the quorum monitor.",
    ),
    open_type(
        "cluster.quorum_recovery_started",
        "Steps to regain quorum began; emitted by the peer network recovery.",
    ),
    open_type(
        "cluster.quorum_validation_failed",
        "A node saw too few voters before it joined and does not start; emitted by that node.",
    ),
    open_type(
        "cluster.peer_discovery_escalated",
        "Peers are sought by every means because quorum is in danger; emitted by the discovery "
        "loop.",
    ),
    open_type(
        "cluster.partition_healing_started",
        "An attempt to join the parts of a split network began; emitted by the partition healer.",
    ),
    open_type(
        "cluster.partition_healed",
        "The parts of a split network see one another again; emitted by the partition healer.",
    ),
    open_type(
        "cluster.partition_healing_failed",
        "An attempt to join the parts of a split network failed; emitted by the partition healer.",
    ),
    open_type(
        "cluster.healing_convergence_failed",
        "A healed network's members still disagree about who is in it; emitted by the partition "
        "healer.",
    ),
    open_type(
        "cluster.network_isolation_detected",
        "A node sees far fewer peers than its overlay network does; emitted by that node.",
    ),
    open_type(
        "cluster.p2p_restart_triggered",
        "The peer process is unhealthy and is going to be restarted; emitted by the peer network "
        "recovery.",
    ),
    open_type(
        "cluster.p2p_restarted",
        "The peer process was restarted and runs; emitted by the peer network recovery.",
    ),
    open_type(
        "cluster.p2p_health_recovered",
        "The peer network is healthy again after an outage; emitted by the peer network recovery.",
    ),
    open_type(
        "cluster.p2p_recovery_requested",
        "Every automatic remedy for the peer network was tried and a person is needed; emitted by "
        "the peer network recovery.",
    ),
    open_type(
        "cluster.p2p_recovery_completed",
        "A repair of the peer process on all nodes over SSH ended; emitted by the remote recovery.",
    ),
    open_type(
        "cluster.p2p_connection_reset_requested",
        "The peer process should drop its connections because sockets leak; emitted by the socket "
        "monitor.",
    ),
    open_type(
        "cluster.p2p_zombie_detected",
        "The peer process runs but no longer serves and is being ended; emitted by its own "
        "watchdog.",
    ),
    open_type(
        "cluster.gossip_cleanup_completed",
        "Expired entries were removed from the gossip state; emitted by the node that cleaned up.",
    ),
    open_type(
        "cluster.fast_failure_detected",
        "The fleet has failed for ten minutes; emitted by the fast failure detector.",
    ),
    open_type(
        "cluster.fast_failure_escalated",
        "The fleet has failed for half an hour and stronger remedies begin; emitted by the fast "
        "failure detector.",
    ),
    open_type(
        "cluster.fast_failure_recovered",
        "The fleet works again after a fast failure alarm; emitted by the fast failure detector.",
    ),
    open_type(
        "cluster.resilience_escalated",
        "Several remedies together moved to a higher tier; emitted by the resilience coordinator.",
    ),
)
