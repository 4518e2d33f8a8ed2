"""The policy of recovery, as the settings say it."""

import msgspec

from interlock_health_monitor.ladder import LadderPolicy, StepPolicy
from interlock_health_monitor.settings import Settings

__all__ = ["policy_of"]


def policy_of(settings: Settings) -> LadderPolicy:
    """How fast and how much, as the settings say."""
    usual = LadderPolicy()

    def step(found: StepPolicy, window_s: float) -> StepPolicy:
        return msgspec.structs.replace(found, window_s=window_s)

    return msgspec.structs.replace(
        usual,
        grace_s=settings.health_recovery_grace_s,
        steady_s=settings.health_recovery_steady_s,
        restart_agent=step(usual.restart_agent, settings.health_recovery_restart_agent_s),
        restart_services=step(usual.restart_services, settings.health_recovery_restart_services_s),
        reboot=step(usual.reboot, settings.health_recovery_reboot_s),
        reprovision=step(usual.reprovision, settings.health_recovery_reprovision_s),
        reprovision_after_s=settings.health_recovery_reprovision_after_s,
        node_actions=settings.health_recovery_node_actions,
        fleet_actions=settings.health_recovery_fleet_actions,
        fleet_share=settings.health_recovery_fleet_share,
    )
