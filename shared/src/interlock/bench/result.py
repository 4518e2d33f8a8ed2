"""What a benchmark found, in the shape of its JSON; and the ratios read from the runs. Pure."""

from collections.abc import Mapping, Sequence

import msgspec

from interlock.bench import stats
from interlock.bench.cases import COMPARED_SIZE, RATIOS, Case, Kind, Setting
from interlock.bench.machine import Machine

__all__ = ["LatencyRow", "Measured", "Memory", "Rate", "Report", "rate_of", "ratios"]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of one case under one setting, in order; run i of each case followed on another."""

    kind: Kind
    setting: Setting
    case: Case
    tuned: int
    """The window or size of a fetch that was used; 0: the client's own."""
    fastest: bool
    """Whether it did best of this case's tunings, and is what ours is compared with."""
    count: int
    """Messages of a run."""
    rates: tuple[float, ...]
    """Messages a second, run by run."""


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A rate in the report, messages a second."""

    kind: Kind
    client: str
    way: str
    size: int
    replicas: int
    sync: str
    tuned: int
    fastest: bool
    median: float
    min: float
    max: float
    runs: int
    count: int


class LatencyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A latency in the report: the median run of each percentile, the worst of all runs."""

    what: str
    """``publish_to_ack``, ``publish_to_handler`` or ``request_to_reply``."""
    client: str
    size: int
    replicas: int
    sync: str
    rate: float
    """Messages a second of the open loop."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    runs: int
    samples: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Peak resident memory of a client's process, MiB, after its runs at 256 B."""

    role: str
    """``publisher`` or ``consumer``."""
    client: str
    way: str
    sync: str
    idle_mib: float
    """Connected, before the first message."""
    peak_mib: float


class Report(msgspec.Struct, kw_only=True):
    """Everything that ``interlock bench bus --json`` prints."""

    ratios: dict[str, float | None]
    """Ours by theirs, the median of paired runs; null where one of the two was not measured."""
    ratio_runs: dict[str, list[float]]
    """The ratio of each pair of runs."""
    rates: list[Rate]
    latency: list[LatencyRow]
    memory: list[Memory]
    normalizer_e2e: stats.Spread | None
    """Legacy messages a second that one normalizer turned into canonical events, sync always."""
    machine: Machine
    skipped: dict[str, str]
    """What was left out, and why."""
    failed: dict[str, str]
    """What was tried and did not work, and why."""
    quick: bool
    seconds: float
    """How long it all took."""


def rate_of(measured: Measured) -> Rate:
    """The row of one case."""
    spread = stats.Spread.of(measured.rates)
    return Rate(
        kind=measured.kind,
        client=measured.case.client,
        way=measured.case.way,
        size=measured.setting.size,
        replicas=measured.setting.replicas,
        sync=measured.setting.sync,
        tuned=measured.tuned,
        fastest=measured.fastest,
        median=spread.median,
        min=spread.min,
        max=spread.max,
        runs=spread.runs,
        count=measured.count,
    )


def ratios(
    found: Sequence[Measured],
) -> tuple[Mapping[str, float | None], Mapping[str, list[float]]]:
    """The median of each named ratio, and the ratio of each pair of runs."""
    medians: dict[str, float | None] = {}
    pairs: dict[str, list[float]] = {}
    for ratio in RATIOS:
        setting = Setting(1, ratio.sync, COMPARED_SIZE)
        runs = {
            each.case.name: each.rates
            for each in found
            if each.kind == ratio.kind and each.setting == setting and each.fastest
        }
        ours, theirs = runs.get(ratio.ours), runs.get(ratio.theirs)
        if ours is None or theirs is None:
            medians[ratio.name] = None
            continue
        pairs[ratio.name] = stats.paired_ratios(ours, theirs)
        medians[ratio.name] = stats.median(pairs[ratio.name])
    return medians, pairs
