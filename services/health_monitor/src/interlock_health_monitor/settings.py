"""Settings of the health-monitor."""

from pathlib import Path
from typing import Literal

import msgspec
from pydantic import Field

from interlock.settings import ServiceSettings
from interlock_health_monitor.disruption import DisruptionPolicy
from interlock_health_monitor.eviction import EvictionPolicy
from interlock_health_monitor.ladder import LadderPolicy
from interlock_health_monitor.suspicion import PRESETS, Policy

__all__ = ["Settings"]

_DISRUPTION = DisruptionPolicy()
_EVICTION = EvictionPolicy()
_LADDER = LadderPolicy()


class Settings(ServiceSettings):
    """What every service can be told, and how patient and how bold this one is."""

    health_preset: Literal["local", "wan"] = Field(
        default="local",
        description="How patient to be. local: hosts of one site. wan: hosts over the internet.",
    )
    health_tolerance_s: float | None = Field(
        default=None,
        ge=2,
        le=3_600,
        description="Seconds of silence that are tolerated of a node whose connection stands, or "
        "is not known of. Default: as the preset says.",
    )
    health_eviction: Literal["enforce", "shadow"] = Field(
        default="enforce",
        description="enforce: lost nodes are evicted, on the budget. shadow: it is only said which "
        "would have been.",
    )
    health_evict_after_s: float = Field(
        default=_EVICTION.after_s,
        ge=0,
        le=86_400,
        description="Seconds that a node has been lost before it is evicted.",
    )
    health_evict_window_s: float = Field(
        default=_EVICTION.window_s,
        gt=0,
        le=86_400,
        description="Seconds for which evictions count against the budget.",
    )
    health_evict_zone_share: float = Field(
        default=_EVICTION.zone_share,
        ge=0,
        le=1,
        description="Share of a zone's nodes that may be evicted within the window; one at least.",
    )
    health_evict_fleet_share: float = Field(
        default=_EVICTION.fleet_share,
        ge=0,
        le=1,
        description="Share of all nodes, as above.",
    )
    health_disruption_zone_share: float = Field(
        default=_DISRUPTION.zone_share,
        gt=0,
        le=1,
        description="Where this share of a zone's nodes is quiet, none of them is evicted.",
    )
    health_disruption_fleet_share: float = Field(
        default=_DISRUPTION.fleet_share,
        gt=0,
        le=1,
        description="Where this share of all nodes is quiet, nobody is evicted.",
    )
    health_recovery: Literal["dry-run", "act", "off"] = Field(
        default="dry-run",
        description="What is done about sick nodes. dry-run: it is only said what would be. act: "
        "the steps of fleet.toml are taken. off: nothing.",
    )
    health_recovery_grace_s: float = Field(
        default=_LADDER.grace_s,
        ge=0,
        le=86_400,
        description="Seconds that a trouble has lasted before the first step of recovery.",
    )
    health_recovery_steady_s: float = Field(
        default=_LADDER.steady_s,
        ge=0,
        le=86_400,
        description="Seconds that a node has to be well before a step counts as a success.",
    )
    health_recovery_restart_agent_s: float = Field(
        default=_LADDER.restart_agent.window_s,
        gt=0,
        le=86_400,
        description="Seconds in which restarting the agent is to have helped, before the next "
        "step.",
    )
    health_recovery_restart_services_s: float = Field(
        default=_LADDER.restart_services.window_s,
        gt=0,
        le=86_400,
        description="The same for restarting the services.",
    )
    health_recovery_reboot_s: float = Field(
        default=_LADDER.reboot.window_s,
        gt=0,
        le=86_400,
        description="The same for a reboot.",
    )
    health_recovery_reprovision_s: float = Field(
        default=_LADDER.reprovision.window_s,
        gt=0,
        le=86_400,
        description="The same for provisioning it anew.",
    )
    health_recovery_reprovision_after_s: float = Field(
        default=_LADDER.reprovision_after_s,
        ge=0,
        le=86_400,
        description="No node is provisioned anew before its trouble has lasted so many seconds.",
    )
    health_recovery_node_actions: int = Field(
        default=_LADDER.node_actions,
        ge=1,
        le=50,
        description="Steps of recovery on one node within an hour.",
    )
    health_recovery_fleet_actions: int = Field(
        default=_LADDER.fleet_actions,
        ge=1,
        le=10_000,
        description="Steps of recovery on all nodes together within an hour.",
    )
    health_recovery_fleet_share: float = Field(
        default=_LADDER.fleet_share,
        ge=0,
        le=1,
        description="Share of all nodes that may be acted upon at the same time; one at least.",
    )
    health_ssh_known_hosts: Path | None = Field(
        default=None,
        description="Host keys of nodes whose description names none. A host in neither is not "
        "talked to.",
    )
    health_ssh_identity: Path | None = Field(
        default=None, description="Private key for nodes whose description names none."
    )
    health_ssh_interval_s: float = Field(
        default=30.0,
        ge=0.5,
        le=3_600,
        description="Seconds between two looks at a node without an agent.",
    )
    health_ssh_at_once: int = Field(
        default=100, ge=1, le=5_000, description="Looks over SSH at the same time."
    )

    @property
    def policy(self) -> Policy:
        """How patient to be with one node."""
        policy = PRESETS[self.health_preset]
        if self.health_tolerance_s is None:
            return policy
        return msgspec.structs.replace(
            policy,
            tolerance_s=self.health_tolerance_s,
            crowd_tolerance_s=max(policy.crowd_tolerance_s, self.health_tolerance_s),
        )

    @property
    def disruption(self) -> DisruptionPolicy:
        """When too many are quiet."""
        return DisruptionPolicy(
            zone_share=self.health_disruption_zone_share,
            fleet_share=self.health_disruption_fleet_share,
        )

    @property
    def eviction(self) -> EvictionPolicy:
        """How much is evicted."""
        return EvictionPolicy(
            after_s=self.health_evict_after_s,
            window_s=self.health_evict_window_s,
            zone_share=self.health_evict_zone_share,
            fleet_share=self.health_evict_fleet_share,
        )
