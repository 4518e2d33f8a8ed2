"""What a simulated fleet is like: its size, its network, and how often what goes wrong."""

from typing import Final

import msgspec

from interlock_health_monitor.disruption import DisruptionPolicy
from interlock_health_monitor.eviction import EvictionPolicy
from interlock_health_monitor.suspicion import PRESETS, Policy

__all__ = ["DAY_S", "HOUR_S", "Options", "Rates"]

HOUR_S: Final = 3_600.0
DAY_S: Final = 86_400.0


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """How often what goes wrong. ``_h``: of one host, an hour; ``_d``: of all, a day."""

    pauses_h: float = 4.0
    """The agent stands for 0.2 to 6 s, mostly for short, and its connection stays: GC, disk."""
    freezes_h: float = 0.01
    """The same for 2 to 20 s: a virtual machine is moved, memory is short."""
    flaps_h: float = 0.05
    """The connection breaks and is back after 0.1 to 3 s."""
    kills_h: float = 0.01
    """The agent is killed, and repaired after 2 to 20 min."""
    vanishings_h: float = 0.004
    """The host is gone without a word; another takes its place."""
    slow_deaths_h: float = 0.002
    """Over 10 min beats come more and more slowly, at last every 6 s; then the host is gone."""
    spot_share: float = 0.4
    """Of the hosts are spot hosts,"""
    preemptions_h: float = 0.125
    """which are taken away so often,"""
    notice_share: float = 0.75
    """of these with notice, in good order; of the rest nothing more is heard."""
    monitor_stops_d: float = 4.0
    """The monitor is stopped for 30 s. At least one."""
    restarts_d: float = 2.0
    """The broker restarts: 1 to 4 s, then all connect again within 5 s. At least one."""
    slow_spells_d: float = 4.0
    """The monitor is slow for 20 s, up to 0.8 s late. At least one."""
    outage_s: float = 900.0
    """The largest zone is cut off once for so long, or for 15 % of the run if that is less."""
    outage_deaths: float = 0.02
    """Share of its hosts that do not survive it."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    nodes: int = 1_000
    hours: float = 24.0
    seed: int = 1
    loss: float = 0.01
    """Of heartbeats, questions and answers, each."""
    jitter_ms: float = 300.0
    """Each way takes 20 ms and up to so much more."""
    zones: int = 4
    """Their sizes go down evenly: of four, 40, 30, 20 and 10 % of the nodes."""
    preset: str = "local"
    shadow: bool = False
    """Evictions are only rehearsed."""
    rates: Rates = Rates()

    @property
    def duration_s(self) -> float:
        """Of simulated time."""
        return self.hours * HOUR_S

    @property
    def policy(self) -> Policy:
        """How patient the monitor is."""
        return PRESETS[self.preset]

    @property
    def disruption(self) -> DisruptionPolicy:
        """When too many are quiet."""
        return DisruptionPolicy()

    @property
    def eviction(self) -> EvictionPolicy:
        """How much is evicted."""
        return EvictionPolicy()
