"""Nodes on the wire: how each is described, what its agent reports, what the agent is asked.

A node's description is a record in the bucket of nodes: it is written by operators and by the
agent that joins, and is the one definition that every service reads. That a node is there at all is
a lease in the bucket of members, which the broker ends by itself. What is measured rides in the
heartbeat, where what could not be measured is absent.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from interlock_schemas import subjects

__all__ = [
    "AGENT",
    "FLEET_KEY",
    "HEARTBEAT_S",
    "LARGEST_BEAT_BYTES",
    "MEMBER_TTL_S",
    "Beat",
    "Checkpoint",
    "Disk",
    "FleetRecord",
    "Gpu",
    "Leave",
    "Mark",
    "Member",
    "Name",
    "NodeLimits",
    "NodeRecord",
    "PriceClass",
    "Probe",
    "ProbeAnswer",
    "Progress",
    "Recovery",
    "Report",
    "SshAccess",
    "Storage",
    "member_key",
    "node_key",
]

#: The agent's name as a service.
AGENT: Final = "node-agent"

#: Seconds between two heartbeats.
HEARTBEAT_S: Final = 1.0
#: A node whose lease nobody renews is no member any more after so long, seconds.
MEMBER_TTL_S: Final = 30
#: A heartbeat with more is not looked at.
LARGEST_BEAT_BYTES: Final = 65_536

#: The key of what holds for the fleet as a whole, beside the nodes.
FLEET_KEY: Final = "fleet"

PriceClass = Literal["owned", "on_demand", "spot"]

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")]
Text = Annotated[str, Meta(max_length=500)]
Short = Annotated[str, Meta(max_length=200)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Seconds = Annotated[float, Meta(ge=0, le=1e10)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
Instance = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]


class Mark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody decided about a node: who, why, when, until when."""

    by: Short
    reason: Text = ""
    at: str = ""
    """RFC 3339."""
    until: str | None = None
    """RFC 3339. None: until it is taken back."""


class SshAccess(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the health monitor reaches a node over SSH."""

    host: Short
    port: Annotated[int, Meta(ge=1, le=65_535)] = 22
    user: Short = "root"
    host_key: Text | None = None
    """The host's public key, as in ``ssh-ed25519 AAAA…``. None: as the monitor's known_hosts file
    says. A host whose key is in neither is not talked to."""
    identity: Text | None = None
    """File of the private key, on the monitor's host. None: the monitor's own setting."""
    jump: "tuple[SshAccess, ...]" = ()
    """Hosts to go through, in this order."""


class NodeLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Past what a node counts as degraded. None: as the fleet says, else the default."""

    disk_used_percent: Percent | None = None
    memory_used_percent: Percent | None = None
    load_per_core: Annotated[float, Meta(gt=0)] | None = None
    gpu_temperature_c: Annotated[float, Meta(gt=0, le=200)] | None = None
    progress_s: Annotated[float, Meta(gt=0)] | None = None
    """No counter of its workers rose for so long: alive without progress."""
    checkpoint_s: Annotated[float, Meta(gt=0)] | None = None
    clock_skew_s: Annotated[float, Meta(gt=0)] | None = None
    loop_lag_s: Annotated[float, Meta(gt=0)] | None = None


class Recovery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The commands of the steps of recovery. None: that step is left out for this node."""

    restart_agent: Text | None = None
    """Run on the node over SSH, as are the next two."""
    restart_services: Text | None = None
    reboot: Text | None = None
    reprovision: Text | None = None
    """Run where the monitor runs, with the node's name in ``INTERLOCK_NODE``."""
    call: Text | None = None
    """Run where the monitor runs, to call a person. The event goes out in any case."""


class Storage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node's store of artifacts may be used for."""

    path: Text | None = None
    """Its folder on a host without an agent. An agent says where its own is."""
    receives: bool = True
    """False: it is given nothing."""
    serves: bool = True
    """False: nobody fetches from it, unless there is no other copy."""
    datasets: tuple[Short, ...] | None = None
    """That it takes. None: all."""
    high_percent: Percent = 90.0
    """Of its disk: it is given nothing that would take it beyond."""
    low_percent: Percent = 80.0
    """Beyond `high_percent`, what may be dropped is, down to this."""
    ingress_bytes_per_s: Annotated[float, Meta(gt=0)] | None = None
    """The most that it takes in, by all transfers together."""
    egress_bytes_per_s: Annotated[float, Meta(gt=0)] | None = None
    """The most that is taken from it."""
    slots: Annotated[int, Meta(ge=1, le=1_000)] = 4
    """Transfers at once, in each direction."""


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node as the fleet knows it."""

    name: Name
    provider: Short = ""
    zone: Short = ""
    price_class: PriceClass = "on_demand"
    roles: tuple[Short, ...] = ()
    labels: dict[Short, Short] = {}
    ssh: SshAccess | None = None
    agent: bool = True
    """Whether an agent runs there. False: it is asked over SSH, regularly."""
    gpus: Annotated[int, Meta(ge=0, le=1024)] | None = None
    """How many it should have. Fewer is degraded. None: not said."""
    paths: tuple[Text, ...] = ()
    """Folders whose disks are watched."""
    limits: NodeLimits = NodeLimits()
    recovery: Recovery | None = None
    """None: as the fleet says."""
    storage: Storage = Storage()
    evict: bool = True
    """False: it is never evicted, and no recovery is started; operators are told instead."""
    cordon: Mark | None = None
    """No new work."""
    drain: Mark | None = None
    """No new work, and what it has is to move away."""
    retired: Mark | None = None
    """Out of the fleet, on purpose. It is kept, so that its history makes sense."""
    source: Short = ""
    """Who described it last: ``fleet.toml``, ``agent``, or an operator."""


class FleetRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What holds for every node, unless its own record says otherwise."""

    limits: NodeLimits = NodeLimits()
    recovery: Recovery | None = None
    source: Short = ""


class Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The lease of a node's agent: it is a member for as long as this stands."""

    node: Name
    instance: Instance
    """Of this run of the agent."""
    version: Short = ""
    host: Short = ""
    addresses: tuple[Short, ...] = ()
    since: str = ""
    """When this run began, RFC 3339."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU. What the vendor's library could not say is absent."""

    index: Annotated[int, Meta(ge=0, le=4096)]
    name: Short | None = None
    uuid: Short | None = None
    utilization_percent: Percent | None = None
    memory_used_bytes: Count | None = None
    memory_total_bytes: Count | None = None
    temperature_c: Annotated[float, Meta(ge=-100, le=300)] | None = None
    power_w: Annotated[float, Meta(ge=0, le=100_000)] | None = None
    ecc_uncorrected: Count | None = None
    """Memory errors that could not be corrected, since the driver started."""
    rows_failed: bool | None = None
    """Memory rows could not be remapped: the board has to be replaced."""
    processes: Count | None = None
    fault: Text | None = None
    """Why it cannot be used: it fell off the bus, or does not answer."""


class Disk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The file system of a watched folder."""

    path: Text
    used_percent: Percent | None = None
    free_bytes: Count | None = None
    total_bytes: Count | None = None
    inodes_used_percent: Percent | None = None
    read_only: bool | None = None
    fault: Text | None = None
    """Why it could not be measured."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the workers on a node have got done, as they reported it."""

    workers: Count = 0
    """That reported lately."""
    counters: dict[Short, float] = {}
    """Sums over the workers: games, steps."""
    age_s: Seconds | None = None
    """Since a counter last rose."""
    failures: Count = 0
    """Pieces of work that failed within the last ten minutes."""
    successes: Count = 0
    """That succeeded, as above."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last durable artifact that a worker on a node reported."""

    age_s: Seconds
    artifact: Text = ""


class Leave(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node is about to go, in good order."""

    reason: Short
    """``sigterm``, ``preempted``, ``file``, ``command``, or what the provider said."""
    deadline_s: Seconds | None = None
    """Seconds left, as far as known."""


class Beat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One heartbeat, on ``heartbeat.<node>``."""

    node: Name
    instance: Instance
    seq: Count
    """1 for the first of this run."""
    sent_at: float | None = None
    """The node's own clock, seconds since the epoch. For its skew alone."""
    interval_s: Annotated[float, Meta(gt=0, le=3600)] = HEARTBEAT_S
    version: Short | None = None
    answers: bool = False
    """Whether it answers on ``probe.<node>``."""
    uptime_s: Seconds | None = None
    """Of the agent."""
    loop_lag_s: Seconds | None = None
    """By how much the agent's own loop was late, at worst, since the last beat."""
    cores: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    cpu_percent: Percent | None = None
    """Of all cores together."""
    load_per_core: Annotated[float, Meta(ge=0)] | None = None
    """The one-minute load average by the number of cores."""
    memory_used_percent: Percent | None = None
    memory_available_bytes: Count | None = None
    memory_total_bytes: Count | None = None
    disks: tuple[Disk, ...] = ()
    gpus: tuple[Gpu, ...] | None = None
    """Every one. None: not known; empty: there is none."""
    gpu_fault: Text | None = None
    """Why GPUs could not be measured: the library hangs, or fails."""
    addresses: tuple[Short, ...] = ()
    progress: Progress | None = None
    """None: no worker has reported."""
    checkpoint: Checkpoint | None = None
    leaving: Leave | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker tells the agent of its node, on ``progress.<node>``. Not kept."""

    worker: Short
    counters: dict[Short, float] = {}
    """What it has done since it began: totals, which only rise."""
    failures: Count = 0
    """Pieces of work that failed since it began."""
    successes: Count = 0
    checkpoint: Text | None = None
    """An artifact that it has just made durable."""
    done: bool = False
    """It ends in good order: no more is to be expected of it."""


class Probe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a node's agent is there. Asked on ``probe.<node>``."""

    by: Short = ""


class ProbeAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The agent is there."""

    node: Name
    instance: Instance
    seq: Count
    """Of its last heartbeat."""
    leaving: Leave | None = None


def node_key(node: str) -> str:
    """The key of a node's description."""
    return f"node.{subjects.token(node)}"


def member_key(node: str) -> str:
    """The key of a node's lease."""
    return f"member.{subjects.token(node)}"
