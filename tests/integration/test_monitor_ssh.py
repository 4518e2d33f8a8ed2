"""The health monitor and a real OpenSSH server: nodes without an agent, and recovery."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from interlock.bus import Bus
from interlock.kv import Store
from interlock_schemas import nodes
from interlock_schemas.nodes import Mark, NodeRecord, Recovery
from interlock_schemas.topology import NODES
from tests.conftest import Up, eventually
from tests.integration.watching import HealthUp, MadeUp, in_state, seen, watching
from tests.sshd import needs_sshd, private_sshd

pytestmark = needs_sshd

ENV = {
    "INTERLOCK_HEALTH_SSH_INTERVAL_S": "1",
    "INTERLOCK_HEALTH_RECOVERY": "act",
    "INTERLOCK_HEALTH_RECOVERY_GRACE_S": "1",
    "INTERLOCK_HEALTH_RECOVERY_STEADY_S": "1",
    "INTERLOCK_HEALTH_RECOVERY_RESTART_AGENT_S": "2",
    "INTERLOCK_HEALTH_RECOVERY_RESTART_SERVICES_S": "2",
    "INTERLOCK_HEALTH_RECOVERY_REBOOT_S": "2",
    "INTERLOCK_HEALTH_RECOVERY_REPROVISION_S": "2",
    "INTERLOCK_HEALTH_RECOVERY_REPROVISION_AFTER_S": "0",
}


@pytest.fixture(scope="module")
def ssh_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = HealthUp(tmp_path_factory.mktemp("health-ssh"), env=ENV)
    up.start()
    yield up
    up.stop()


async def describe(bus: Bus, record: NodeRecord) -> None:
    book = Store(bus, NODES)
    before = await book.get(nodes.node_key(record.name))
    await book.put(
        nodes.node_key(record.name), msgspec.json.encode(record), revision=before.revision
    )


async def test_a_host_without_an_agent_is_looked_at_over_ssh(ssh_up: Up, tmp_path: Path) -> None:
    async with watching(ssh_up) as (bus, fleet, told):
        with private_sshd(tmp_path) as server:
            access = server.access()
            await describe(bus, NodeRecord(name="bare", agent=False, ssh=access, paths=("/",)))
            wrong = msgspec.structs.replace(
                access,
                host_key="ssh-ed25519 "
                "AAAAC3NzaC1lZDI1NTE5AAAAIGfEyiuYQv2vMWTHxGQ0vOud0+DTPeY7vm8HXrliHjON",
            )
            await describe(bus, NodeRecord(name="stranger", agent=False, ssh=wrong))
            # Its description expects an agent, and none has been heard of.
            await describe(bus, NodeRecord(name="agentless", ssh=access))
            view = await in_state(fleet, "bare", "healthy", "degraded")
            await in_state(fleet, "agentless", "healthy", "degraded")

            async def measured() -> object:
                shown = await seen(fleet, "bare")
                return shown is not None and shown.beat is not None and shown.beat.disks

            await eventually(measured)
            # That it could not be looked at says nothing about it: never lost.
            view = await in_state(fleet, "stranger", "unknown")
            assert view.health is None or view.health.reason == "ssh_unclear"
        await told.until("node.suspected", "bare")
        await told.until("node.lost", "bare")
        view = await in_state(fleet, "stranger", "suspect", "lost", "unknown")
        assert view is not None


async def test_the_ladder_on_a_host_whose_agent_does_not_come_back(
    ssh_up: Up, tmp_path: Path
) -> None:
    steps = tmp_path / "steps"
    commands = Recovery(
        restart_agent=f"echo restart_agent >> {steps}",
        restart_services=f"echo restart_services >> {steps}",
        reboot=f"echo reboot >> {steps}",
        call=f"echo call >> {steps}",
    )
    async with watching(ssh_up) as (bus, fleet, told):
        with private_sshd(tmp_path) as server:
            record = NodeRecord(name="sick", ssh=server.access(), recovery=commands)
            await describe(bus, record)
            agent = await MadeUp(bus, "sick").start()
            await in_state(fleet, "sick", "healthy")
            await agent.kill()
            # The host answers, so it is not lost.
            view = await in_state(fleet, "sick", "degraded")
            assert view.reason == "agent_gone"
            await told.until("node.attention_requested", "sick")
            expected = ["restart_agent", "restart_services", "reboot", "call"]

            async def called() -> bool:
                return "call" in steps.read_text().split()

            await eventually(called)
            assert steps.read_text().split() == expected
            view = await in_state(fleet, "sick", "degraded")
            assert view.recovery is not None
            audited = [(each.step, each.outcome) for each in view.recovery.attempts]
            assert [step for step, _ in audited] == expected
            assert {outcome for _, outcome in audited[:3]} == {"failed"}
            assert "node.lost" not in told.of("sick")
            assert told.of("sick").count("node.recovery_failed") == 3
            await agent.leave()


async def test_a_cordon_stops_the_ladder(ssh_up: Up, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    commands = Recovery(
        restart_agent=f"echo restart_agent >> {steps}",
        restart_services=f"echo restart_services >> {steps}",
        call=f"echo call >> {steps}",
    )
    async with watching(ssh_up) as (bus, fleet, told):
        with private_sshd(tmp_path) as server:
            record = NodeRecord(name="stopped", ssh=server.access(), recovery=commands)
            await describe(bus, record)
            agent = await MadeUp(bus, "stopped").start()
            await in_state(fleet, "stopped", "healthy")
            await agent.kill()
            await told.until("node.recovery_started", "stopped")
            await describe(
                bus, msgspec.structs.replace(record, cordon=Mark(by="test", reason="look first"))
            )

            async def is_stopped() -> bool:
                view = await seen(fleet, "stopped")
                return (
                    view is not None
                    and view.recovery is not None
                    and (view.recovery.state == "stopped")
                )

            await eventually(is_stopped)
            await asyncio.sleep(3)
            assert steps.read_text().split() == ["restart_agent"]
            await agent.leave()
