"""What the benchmark of locks found, in the shape of its JSON, and the ratios. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from interlock.bench import stats
from interlock.bench.locks.plan import CLIENTS
from interlock.bench.locks.task import LOCK
from interlock.bench.machine import Machine

__all__ = ["Figures", "Measured", "Percentiles", "Report", "figures", "ratios"]

#: The raw writes that a lock is compared with, by the names that their ratios have.
_RAW: Final = {"raw_put": "raw_kv_put", "raw_compare_and_set": "raw_compare_and_set"}
_TO_RAW: Final = (LOCK, f"{LOCK}_fresh", f"{LOCK}.acquire")
#: The peers that ours is compared with: those that are as durable.
_COMPARED: Final = ("redis", "etcd")


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Of all rounds together, milliseconds. Each is one that was measured."""

    p50: float
    p99: float
    max: float
    samples: int

    @classmethod
    def of(cls, nanoseconds: Sequence[int]) -> "Percentiles":
        """Sum up at least one. Raises ValueError for none."""
        found = stats.latency(nanoseconds)
        return cls(p50=found.p50_ms, p99=found.p99_ms, max=found.max_ms, samples=found.samples)


class Measured:
    """What one contender did, round by round; round i of each followed on another's round i."""

    def __init__(self) -> None:
        self.taken: dict[str, list[list[int]]] = {}
        """Nanoseconds of each operation, by kind and round."""
        self.rates: dict[tuple[int, bool], list[float]] = {}
        """Acquired and released a second, run by run; by clients, and whether on one lock."""
        self.served: dict[int, list[int]] = {}
        """How many of the clients on one lock had it at all, run by run."""

    def add(self, taken: Mapping[str, list[int]]) -> None:
        """Note a round."""
        for kind, times in taken.items():
            self.taken.setdefault(kind, []).append(times)


class Figures(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The figures of one contender."""

    server: str
    client: str
    replicas: int
    sync: str
    """When the server syncs to disk, in its own words."""
    acquire_release_ms: Percentiles
    """Both together, one name again and again, nobody else wants it."""
    acquire_ms: Percentiles
    release_ms: Percentiles
    acquire_release_fresh_ms: Percentiles
    """Both together, each time a name that was never used."""
    handover_ms: Percentiles
    """From the holder's call for the release until the waiter has it, in another process."""
    raw_kv_put_ms: Percentiles
    """One write of 256 B to the same server."""
    raw_compare_and_set_ms: Percentiles | None = None
    """The same by our own client, on the condition that nobody wrote since. Ours alone."""
    round_trip_ms: Percentiles
    """A question to the server for which it neither writes nor asks others."""
    throughput: dict[str, float]
    """Acquired and released a second, by number of clients, each with a lock of its own."""
    throughput_one_lock: dict[str, float]
    """The same, all on one lock."""
    served_one_lock: dict[str, float]
    """How many of the clients on one lock had it at all within a run."""


class Report(Figures, kw_only=True):
    """Everything that ``interlock bench lock --json`` prints; the figures of its own are ours."""

    ratios: dict[str, float | None]
    """Ours by theirs, the median of paired rounds; null where one of the two was not measured."""
    ratio_runs: dict[str, list[float]]
    """The ratio of each pair of rounds."""
    peers: dict[str, Figures]
    absent: dict[str, str]
    """Peers that are not installed here, and what to install."""
    failed: dict[str, str]
    """Peers that were tried and did not work, and why."""
    machine: Machine
    quick: bool
    seconds: float
    """How long it all took."""


def figures(found: Measured, *, server: str, client: str, replicas: int, sync: str) -> Figures:
    """Sum up one contender, of which everything was measured."""

    def pooled(kind: str) -> Percentiles:
        return Percentiles.of([each for times in found.taken[kind] for each in times])

    def rates(one_lock: bool) -> dict[str, float]:
        return {
            str(clients): round(stats.median(runs), 1)
            for (clients, together), runs in found.rates.items()
            if together == one_lock
        }

    compared = "raw_compare_and_set"
    return Figures(
        server=server,
        client=client,
        replicas=replicas,
        sync=sync,
        acquire_release_ms=pooled(LOCK),
        acquire_ms=pooled(f"{LOCK}.acquire"),
        release_ms=pooled(f"{LOCK}.release"),
        acquire_release_fresh_ms=pooled(f"{LOCK}_fresh"),
        handover_ms=pooled("handover"),
        raw_kv_put_ms=pooled("raw_kv_put"),
        raw_compare_and_set_ms=pooled(compared) if compared in found.taken else None,
        round_trip_ms=pooled("round_trip"),
        throughput=rates(False),
        throughput_one_lock=rates(True),
        served_one_lock={
            str(clients): stats.median(runs) for clients, runs in found.served.items()
        },
    )


def ratios(
    ours: Measured, peers: Mapping[str, Measured]
) -> tuple[dict[str, float | None], dict[str, list[float]]]:
    """The median of each named ratio, and the ratio of each pair of rounds.

    Those of times are below 1 where ours is faster, those of throughputs above.
    """
    times = _middle(ours)
    pairs = {
        f"{kind.removeprefix(f'{LOCK}.')}_vs_{short}": _paired(times.get(kind), times.get(raw))
        for kind in _TO_RAW
        for short, raw in _RAW.items()
    }
    for name in _COMPARED:
        peer = peers.get(name, Measured())
        theirs = _middle(peer)
        pairs |= {
            f"{kind}_vs_{name}": _paired(times.get(kind), theirs.get(kind))
            for kind in (LOCK, "handover", "raw_kv_put")
        }
        if name == "etcd":
            pairs[f"{LOCK}_vs_etcd_without_round_trips"] = _paired(
                times.get(LOCK), _less_round_trips(theirs)
            )
        for clients in CLIENTS:
            alone, together = (clients, False), (clients, True)
            pairs[f"throughput_{clients}_vs_{name}"] = _paired(
                ours.rates.get(alone), peer.rates.get(alone)
            )
            if clients > 1:
                pairs[f"throughput_one_lock_{clients}_vs_{name}"] = _paired(
                    ours.rates.get(together), peer.rates.get(together)
                )
    medians = {name: stats.median(each) if each else None for name, each in pairs.items()}
    return medians, {name: each for name, each in pairs.items() if each}


def _middle(found: Measured) -> dict[str, list[float]]:
    """The median of each round, by kind."""
    return {kind: [stats.median(times) for times in rounds] for kind, rounds in found.taken.items()}


def _less_round_trips(times: Mapping[str, list[float]]) -> list[float] | None:
    """Acquire and release as if their two round trips took no time at all."""
    both, trips = times.get(LOCK), times.get("round_trip")
    if both is None or trips is None:
        return None
    return [cycle - 2 * trip for cycle, trip in zip(both, trips, strict=True)]


def _paired(ours: Sequence[float] | None, theirs: Sequence[float] | None) -> list[float]:
    """Ours by theirs, round by round; nothing where one was not measured in every round."""
    if not ours or not theirs or len(ours) != len(theirs) or min(*ours, *theirs) <= 0:
        return []
    return stats.paired_ratios(ours, theirs)
