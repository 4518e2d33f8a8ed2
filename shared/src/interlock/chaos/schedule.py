"""Which faults happen when: drawn from a seed, before anything runs.

Lanes run side by side, one for the broker and its network, one for the processes of its clients,
one for the replicas of a service; within a lane one fault ends before the next begins. So of three
servers never more than one is away, which leaves the others a majority, and of two replicas one.
Carrying it out is left to `interlock.chaos.faults`.
"""

import random
from collections.abc import Mapping
from typing import Final, Literal, get_args

import msgspec

__all__ = [
    "BROKER_KINDS",
    "CLIENT_KINDS",
    "EVENT_LANES",
    "GAPS_S",
    "KINDS",
    "PROCESS_KINDS",
    "SERVICE_KINDS",
    "Fault",
    "Kind",
    "Lane",
    "Scope",
    "draw",
]

#: Which connections of a server: to its clients, to the other servers, or both.
Scope = Literal["all", "clients", "routes"]

BrokerKind = Literal["kill", "freeze", "restart", "cut", "hold", "slow"]
ClientKind = Literal["publisher_kill", "publisher_freeze", "consumer_kill", "consumer_freeze"]
ProcessKind = Literal["process_kill", "process_freeze", "process_clock"]
ServiceKind = Literal["service_kill", "service_freeze", "service_clock"]
Kind = Literal[BrokerKind, ClientKind, ProcessKind, ServiceKind]
Lane = Literal["broker", "client", "service"]

BROKER_KINDS: Final[tuple[BrokerKind, ...]] = get_args(BrokerKind)
CLIENT_KINDS: Final[tuple[ClientKind, ...]] = get_args(ClientKind)
PROCESS_KINDS: Final[tuple[ProcessKind, ...]] = get_args(ProcessKind)
SERVICE_KINDS: Final[tuple[ServiceKind, ...]] = get_args(ServiceKind)
#: What is broken while events are published and consumed.
KINDS: Final[tuple[Kind, ...]] = (*BROKER_KINDS, *CLIENT_KINDS)
EVENT_LANES: Final[Mapping[Lane, tuple[Kind, ...]]] = {
    "broker": BROKER_KINDS,
    "client": CLIENT_KINDS,
}

#: Shortest and longest duration of each kind, seconds. What is frozen or silent may be so for
#: longer than clients wait for an answer to their pings (6 to 9 s) and servers for their leader
#: (4 to 9 s); a kill lasts until the process is started again.
_DURATION_S: Final[dict[Kind, tuple[float, float]]] = {
    "kill": (0.0, 4.0),
    "freeze": (0.5, 10.0),
    "restart": (0.0, 2.0),
    "cut": (0.5, 6.0),
    "hold": (0.5, 10.0),
    "slow": (1.0, 5.0),
    "publisher_kill": (0.0, 2.0),
    "publisher_freeze": (0.5, 10.0),
    "consumer_kill": (0.0, 2.0),
    "consumer_freeze": (0.5, 10.0),
    "process_kill": (0.0, 2.0),
    "process_freeze": (0.5, 10.0),
    "process_clock": (1.5, 6.0),
    "service_kill": (0.0, 2.0),
    "service_freeze": (0.5, 10.0),
    "service_clock": (1.5, 6.0),
}
#: Between the end of one fault and the start of the next in the same lane, seconds.
GAPS_S: Final[Mapping[Lane, tuple[float, float]]] = {
    "broker": (0.3, 2.0),
    "client": (0.2, 2.5),
    "service": (0.5, 2.5),
}
_SHORTEST_S: Final = 0.2


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is broken for a while. Times in seconds since the faults began."""

    kind: Kind
    target: int
    """Which server, publisher, consumer, process or replica, from 0."""
    start_s: float
    end_s: float
    scope: Scope = "all"
    """For the network: which of the server's connections."""
    deliver: bool = True
    """For ``hold``: what was held back arrives late; False: is lost with its connection."""
    bytes_per_s: float | None = None
    """For ``slow``."""
    latency_s: float = 0.0
    """For ``slow``."""
    offset_s: float = 0.0
    """For a clock: how far it jumps ahead, or back where negative."""
    hasty: bool = False
    """Of the broker: the next follows while clients may still be getting over this one."""

    @property
    def lane(self) -> Lane:
        """What it breaks."""
        if self.kind in BROKER_KINDS:
            return "broker"
        return "service" if self.kind in SERVICE_KINDS else "client"

    def describe(self) -> str:
        """A few words for a person."""
        what = "server" if self.lane == "broker" else self.kind.partition("_")[0]
        done = self.kind.rpartition("_")[2]
        detail = ""
        if self.kind in ("cut", "hold", "slow"):
            detail = "" if self.scope == "all" else f" ({self.scope})"
        if self.kind == "hold":
            detail += ", delivered late" if self.deliver else ", then reset"
        if self.kind == "slow":
            rate = f"{self.bytes_per_s / 1000:.0f} kB/s" if self.bytes_per_s else "any rate"
            detail += f", {rate}, +{self.latency_s * 1000:.0f} ms"
        if done == "clock":
            detail = f", {self.offset_s:+.0f} s"
        return f"{done} {what} {self.target + 1} for {self.end_s - self.start_s:.1f} s{detail}"


def draw(
    seed: int,
    *,
    seconds: float,
    brokers: int,
    publishers: int = 3,
    consumers: int = 3,
    processes: int = 8,
    services: int = 2,
    lanes: Mapping[Lane, tuple[Kind, ...]] = EVENT_LANES,
    gaps_s: Mapping[Lane, tuple[float, float]] = GAPS_S,
) -> list[Fault]:
    """The faults of one run, by start. All of them end within `seconds`.

    Each lane takes every kind once, in an order of its own, before any kind comes again.
    ``gaps_s``: shortest and longest time between two of a lane.
    """
    faults = []
    counts = {
        "publisher": publishers,
        "consumer": consumers,
        "process": processes,
        "service": services,
    }
    for lane, kinds in lanes.items():
        rand = random.Random(f"{seed}/{lane}")  # noqa: S311  # to be repeated, no secret
        at = rand.uniform(0.1, 1.0)
        bag: list[Kind] = []
        while kinds:
            if not bag:
                bag = list(kinds)
                rand.shuffle(bag)
            kind = bag.pop()
            shortest, longest = _DURATION_S[kind]
            # Short ones are as interesting as long ones, and leave room for more.
            length = shortest + (longest - shortest) * rand.random() ** 2
            gap = rand.uniform(*gaps_s[lane])
            fault = _fault(rand, kind, counts.get(kind.partition("_")[0], brokers), brokers)
            end = min(at + length, seconds)
            if end - at < max(shortest, _SHORTEST_S if at + length > seconds else 0.0):
                break
            faults.append(msgspec.structs.replace(fault, start_s=at, end_s=end))
            at = end + gap
    return sorted(faults, key=lambda fault: fault.start_s)


def _fault(rand: random.Random, kind: Kind, targets: int, brokers: int) -> Fault:
    """A fault without its times. Draws the same number of figures for every kind."""
    target = rand.randrange(targets)
    scopes: tuple[Scope, ...] = ("all", "all", "clients", "routes")
    scope = rand.choice(scopes)
    deliver = rand.random() < 0.5
    hasty = rand.random() < 0.3
    rate = rand.choice((None, 20_000.0, 100_000.0))
    latency_s = rand.choice((0.02, 0.1, 0.3))
    fault = Fault(kind=kind, target=target, start_s=0.0, end_s=0.0)
    if kind in BROKER_KINDS:
        fault = msgspec.structs.replace(fault, hasty=hasty)
    if kind in ("cut", "hold", "slow") and brokers > 1:
        fault = msgspec.structs.replace(fault, scope=scope)
    if kind == "hold":
        fault = msgspec.structs.replace(fault, deliver=deliver)
    if kind == "slow":
        fault = msgspec.structs.replace(fault, bytes_per_s=rate, latency_s=latency_s)
    if kind.endswith("clock"):
        # Up to a day, either way, small jumps as well as large ones.
        offset_s = rand.choice((-1, 1)) * 10 ** rand.uniform(0.5, 4.9)
        fault = msgspec.structs.replace(fault, offset_s=round(offset_s))
    return fault
