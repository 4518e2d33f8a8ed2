"""Runs the steps of recovery that are commands on a node, over SSH.

What matters to a recovery is whether a command began at all: one that was cut off in the middle,
as by the reboot that it asked for, did.
"""

from interlock_health_monitor.hooks import last_line
from interlock_health_monitor.ladder import Ran
from interlock_health_monitor.ssh_probe import Prober
from interlock_schemas.nodes import NodeRecord

__all__ = ["NodeCommands"]


class NodeCommands:
    """The `Runner` of an actuator."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober

    async def run_command(self, record: NodeRecord, command: str, timeout_s: float) -> Ran:
        """Run a command on a node, for `timeout_s` at most, not counting the way there."""
        result = await self._prober.run_command(record, command, timeout_s)
        outcome = result.outcome
        if result.ran is None and (outcome.kind == "auth" or not outcome.proves_up):
            where = f" at {outcome.host}" if outcome.host else ""
            why = f"{outcome.kind}{where}: {outcome.detail}" if outcome.detail else outcome.kind
            return Ran(begun=False, succeeded=False, detail=f"not run: {why}"[:400])
        if outcome.ok:
            return Ran(begun=True, succeeded=True, detail="exit status 0")
        said = last_line(result.ran.stderr or result.ran.stdout) if result.ran is not None else ""
        detail = outcome.detail or outcome.cause or outcome.kind
        return Ran(
            begun=True, succeeded=False, detail=f"{detail}: {said}"[:400] if said else detail[:400]
        )
