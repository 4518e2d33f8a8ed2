"""How the monitor and the actuator are joined: what the monitor sees of a node, how commands are
run on it, and the policy that the settings say."""

import msgspec

from interlock_health_monitor.ladder import LadderPolicy, Ran, StepPolicy
from interlock_health_monitor.settings import Settings
from interlock_health_monitor.ssh_probe import Prober
from interlock_schemas.nodes import NodeRecord

__all__ = ["OverSsh", "policy_of"]


class OverSsh:
    """Runs commands on nodes over SSH."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober

    async def run_command(self, record: NodeRecord, command: str, timeout_s: float) -> Ran:
        """Run a command on a node. What went wrong is in the answer."""
        result = await self._prober.run_command(record, command, timeout_s)
        outcome = result.outcome
        detail = outcome.detail or outcome.kind
        if result.ran is not None and (output := result.ran.stderr or result.ran.stdout):
            last = output.decode(errors="replace").strip().rpartition("\n")[2]
            detail = f"{detail}: {last}" if last else detail
        return Ran(begun=result.ran is not None, succeeded=outcome.ok, detail=detail[:500])


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
