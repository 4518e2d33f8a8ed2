"""The recovery of sick nodes: real commands, a real broker, one step at a time."""

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.breakers import Breakers
from interlock.bus import connected
from interlock.clock import now, rfc3339
from interlock.conditional import ALONE
from interlock.fleet import Fleet
from interlock.kv import Store
from interlock.reader import Reader
from interlock_health_monitor.actuator import Actuator, Runner, Sight
from interlock_health_monitor.hooks import run_hook
from interlock_health_monitor.ladder import LadderPolicy, Mode, Ran, StepPolicy
from interlock_health_monitor.node_commands import NodeCommands
from interlock_health_monitor.ssh_pool import PoolLimits, SshPool
from interlock_health_monitor.ssh_probe import Prober
from interlock_schemas import envelope, health, subjects
from interlock_schemas.health import NodeHealth, RecoveryState
from interlock_schemas.nodes import Mark, NodeRecord, Recovery, SshAccess
from interlock_schemas.topology import EVENTS, HEALTH
from tests.conftest import PATIENCE_S, Up, eventually
from tests.sshd import Sshd, needs_sshd, private_sshd

FAST = StepPolicy(timeout_s=10, window_s=0.15)
POLICY = LadderPolicy(
    grace_s=0.1,
    steady_s=0.1,
    restart_agent=FAST,
    restart_services=FAST,
    reboot=FAST,
    reprovision=FAST,
    call=FAST,
    reprovision_after_s=0,
    node_actions=50,
    # The broker is shared with other tests, and so is the budget of the fleet.
    fleet_actions=10_000,
    fleet_share=1.0,
)
STEPS = ["restart_agent", "restart_services", "reboot", "reprovision", "call"]


class Local:
    """Runs on this host what is meant for a node."""

    async def run_command(self, record: NodeRecord, command: str, timeout_s: float) -> Ran:
        return await run_hook(command, node=record.name, reason="", timeout_s=timeout_s)


class Patient:
    """A node, as a test has it be, and the file in which every command leaves a line."""

    def __init__(self, folder: Path) -> None:
        self.name = f"sick-{secrets.token_hex(4)}"
        self.file = folder / f"{self.name}.steps"
        self.health = NodeHealth(node=self.name, state="healthy", since="", reason="beating")
        self.record = NodeRecord(
            name=self.name,
            ssh=SshAccess(host="127.0.0.1"),
            recovery=Recovery(**{step: self.line(step) for step in STEPS}),
        )
        self.becomes("lost", "silent")

    def line(self, step: str) -> str:
        """The command of a step."""
        return f'echo "{step} $INTERLOCK_NODE" >> {self.file}'

    def becomes(self, state: Any, reason: str) -> None:
        """Another verdict."""
        self.health = NodeHealth(
            node=self.name, state=state, since=rfc3339(now()), reason=reason, instance="one"
        )

    def observe(self, node: str) -> Sight | None:
        return Sight(health=self.health, record=self.record) if node == self.name else None

    def taken(self) -> list[str]:
        """The commands that were run, in order."""
        return (
            [each.split()[0] for each in self.file.read_text().splitlines()]
            if self.file.exists()
            else []
        )

    async def stored(self, fleet: Fleet) -> RecoveryState:
        entry = await Store(fleet.bus, HEALTH).get(health.recovery_key(self.name))
        if not entry.value:
            return RecoveryState(node=self.name)
        return msgspec.json.decode(entry.value, type=RecoveryState)

    async def comes_to(self, fleet: Fleet, state: str) -> RecoveryState:
        """Its recovery, once it is in a state."""

        async def check() -> RecoveryState | None:
            record = await self.stored(fleet)
            return record if record.state == state else None

        found: RecoveryState = await eventually(check)
        return found

    def actuator(
        self,
        fleet: Fleet,
        mode: Mode = "act",
        policy: LadderPolicy = POLICY,
        lease_s: float = 5.0,
        runner: Runner | None = None,
    ) -> Actuator:
        return Actuator(
            fleet,
            runner or Local(),
            observe=self.observe,
            sick=lambda: [self.name],
            size=lambda: 1_000_000,
            policy=policy,
            mode=mode,
            lease_s=lease_s,
            look_every_s=0.02,
        )


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(tmp_path)


@contextlib.asynccontextmanager
async def at_work(*actuators: Actuator) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(each.run()) for each in actuators]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome


async def told(fleet: Fleet, patient: Patient) -> list[tuple[str, dict[str, Any]]]:
    """What was told of a node's recovery, in order."""
    of_it = f"events.node.*.{subjects.token(patient.name)}"
    reader = Reader(fleet.bus, EVENTS.name, (of_it,), {"deliver_policy": "all"})
    found = []
    async for record in reader.records(until_end=True):
        body = msgspec.json.decode(record.body)
        if isinstance(body, dict) and body.get("node") == patient.name:
            found.append((record.headers[envelope.TYPE], body))
    return found


async def test_a_node_that_never_recovers_gets_every_step_once_in_order(
    fleet: Fleet, patient: Patient
) -> None:
    async with at_work(patient.actuator(fleet)):
        record = await patient.comes_to(fleet, "exhausted")
    assert patient.taken() == STEPS
    assert [each.step for each in record.attempts] == STEPS
    assert [each.outcome for each in record.attempts] == ["failed"] * 4 + ["succeeded"]
    assert all(each.token and each.ended_at > each.at for each in record.attempts)
    ends = [each.ended_at for each in record.attempts[:-1]]
    begins = [each.at for each in record.attempts[1:]]
    assert all(begin >= end for begin, end in zip(begins, ends, strict=True))
    events = await told(fleet, patient)
    assert [name for name, _ in events] == [
        *["node.recovery_started", "node.recovery_failed"] * 4,
        "node.attention_requested",
    ]
    assert events[-1][1]["attempts"] == [f"{step}: failed" for step in STEPS[:-1]]


async def test_a_cordon_stops_the_ladder_and_its_end_begins_it_anew(
    fleet: Fleet, patient: Patient
) -> None:
    slow = msgspec.structs.replace(
        POLICY, restart_services=StepPolicy(timeout_s=10, window_s=PATIENCE_S)
    )
    async with at_work(patient.actuator(fleet, policy=slow)):

        async def second_step() -> bool:
            return (await patient.stored(fleet)).state == "verifying" and patient.taken() == STEPS[
                :2
            ]

        await eventually(second_step)
        described = patient.record
        patient.record = msgspec.structs.replace(
            described, cordon=Mark(by="ann", reason="I look at it")
        )
        record = await patient.comes_to(fleet, "stopped")
        assert record.reason == "cordoned by ann: I look at it"
        assert [each.outcome for each in record.attempts] == ["failed", "abandoned"]
        patient.record = described

        async def again() -> bool:
            return patient.taken() == [*STEPS[:2], *STEPS[:2]]

        await eventually(again)
        patient.record = msgspec.structs.replace(described, drain=Mark(by="ann"))
        await patient.comes_to(fleet, "stopped")
    assert (await patient.stored(fleet)).episode == 2


async def test_a_node_that_recovers_after_the_second_step_is_left_alone(
    fleet: Fleet, patient: Patient
) -> None:
    slow = msgspec.structs.replace(
        POLICY, restart_services=StepPolicy(timeout_s=10, window_s=PATIENCE_S)
    )
    async with at_work(patient.actuator(fleet, policy=slow)):

        async def second_step() -> bool:
            return patient.taken() == STEPS[:2]

        await eventually(second_step)
        patient.becomes("recovering", "back")
        patient.becomes("healthy", "beating")
        record = await patient.comes_to(fleet, "idle")
    assert patient.taken() == STEPS[:2]
    assert [each.outcome for each in record.attempts] == ["failed", "succeeded"]
    assert [name for name, _ in await told(fleet, patient)][-1] == "node.recovery_completed"


async def test_two_monitors_take_each_step_once(up: Up, fleet: Fleet, patient: Patient) -> None:
    async with connected(up.settings, name="second") as bus:
        second = Fleet(bus, source="second")
        async with at_work(patient.actuator(fleet), patient.actuator(second)):
            record = await patient.comes_to(fleet, "exhausted")
    assert patient.taken() == STEPS
    assert [each.step for each in record.attempts] == STEPS
    assert len(await told(fleet, patient)) == 9


async def test_the_budget_of_the_fleet_holds_across_monitors(
    up: Up, fleet: Fleet, tmp_path: Path
) -> None:
    one_at_once = msgspec.structs.replace(POLICY, fleet_share=0.0)
    first, second = Patient(tmp_path), Patient(tmp_path)
    async with connected(up.settings, name="second") as bus:
        other = Fleet(bus, source="second")
        async with at_work(
            first.actuator(fleet, policy=one_at_once), second.actuator(other, policy=one_at_once)
        ):
            records = [await each.comes_to(fleet, "exhausted") for each in (first, second)]
    steps = sorted(
        (attempt.at, attempt.ended_at)
        for record in records
        for attempt in record.attempts
        if attempt.step != "call"
    )
    assert len(steps) == 8
    assert all(ended <= begun for (_, ended), (begun, _) in itertools.pairwise(steps))


@needs_sshd
async def test_steps_on_a_node_are_taken_over_ssh(
    fleet: Fleet, patient: Patient, tmp_path: Path
) -> None:
    with private_sshd(tmp_path / "sshd") as sshd:
        commands = Recovery(
            restart_agent=patient.line("restart_agent") + "; echo no such unit >&2; exit 5",
            # As a reboot does, it takes the connection down with it.
            reboot=patient.line("reboot") + '; kill -9 "$(ps -o ppid= -p $PPID)" $PPID',
        )
        patient.record = msgspec.structs.replace(
            patient.record, ssh=sshd.access(), recovery=commands
        )
        async with SshPool(limits=PoolLimits()) as pool:
            runner = NodeCommands(Prober(pool, Breakers()))
            async with at_work(patient.actuator(fleet, runner=runner)):
                record = await patient.comes_to(fleet, "exhausted")
    assert patient.taken() == ["restart_agent", "reboot"]
    assert [(each.step, each.outcome) for each in record.attempts] == [
        ("restart_agent", "failed"),
        ("reboot", "failed"),
        ("call", "succeeded"),
    ]
    assert "exit status 5: no such unit" in record.attempts[0].detail


@needs_sshd
async def test_a_node_that_cannot_be_reached_refuses_each_step(
    fleet: Fleet, patient: Patient, tmp_path: Path
) -> None:
    unused = Sshd(tmp_path / "sshd")
    unused.write()
    patient.record = msgspec.structs.replace(patient.record, ssh=unused.access())
    async with SshPool(limits=PoolLimits()) as pool:
        runner = NodeCommands(Prober(pool, Breakers()))
        async with at_work(patient.actuator(fleet, runner=runner)):
            record = await patient.comes_to(fleet, "exhausted")
    assert patient.taken() == ["reprovision", "call"]
    assert [each.outcome for each in record.attempts] == ["refused"] * 3 + ["failed", "succeeded"]
    assert "not run: unreachable" in record.attempts[0].detail


async def test_dry_run_runs_nothing_and_puts_down_what_it_would_do(
    fleet: Fleet, patient: Patient
) -> None:
    async with at_work(patient.actuator(fleet, "dry-run")):
        record = await patient.comes_to(fleet, "exhausted")
    assert patient.taken() == []
    assert [(each.step, each.mode, each.outcome) for each in record.attempts] == [
        (step, "dry-run", "abandoned") for step in STEPS
    ]
    assert [name for name, _ in await told(fleet, patient)] == ["node.attention_requested"]


async def test_a_monitor_that_is_stopped_leaves_its_step_on_record(
    fleet: Fleet, patient: Patient, tmp_path: Path
) -> None:
    ended = tmp_path / "ended"
    commands = Recovery(restart_agent=f"{patient.line('restart_agent')}; sleep 60; touch {ended}")
    patient.record = msgspec.structs.replace(patient.record, recovery=commands)
    async with at_work(patient.actuator(fleet)):

        async def begun() -> bool:
            return patient.taken() == ["restart_agent"]

        await eventually(begun)
    record = await patient.stored(fleet)
    assert record.state == "verifying"
    assert "the monitor was stopped" in record.attempts[-1].detail
    async with at_work(patient.actuator(fleet)):
        patient.becomes("healthy", "beating")
        record = await patient.comes_to(fleet, "idle")
    assert record.attempts[-1].outcome == "succeeded"
    assert patient.taken() == ["restart_agent"]
    assert not ended.exists()


@contextlib.asynccontextmanager
async def holding_a_step(up: Up, patient: Patient) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """Another monitor, in the middle of the first step."""
    holder = subprocess.Popen(
        [sys.executable, __file__, str(patient.file), patient.name],
        env=up.env | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:

        async def begun() -> bool:
            return patient.taken() == ["restart_agent"]

        await eventually(begun)
        yield holder
    finally:
        holder.kill()
        holder.wait()


async def test_a_step_of_a_killed_monitor_is_observed_and_not_repeated(
    up: Up, fleet: Fleet, patient: Patient
) -> None:
    async with holding_a_step(up, patient) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (await patient.stored(fleet)).state == "acting"
        async with at_work(patient.actuator(fleet)):
            record = await patient.comes_to(fleet, "exhausted")
    assert patient.taken() == STEPS
    first = record.attempts[0]
    assert "how its command ended is not known" in first.detail
    assert first.outcome == "failed"
    assert record.attempts[1].at >= first.until
    assert [name for name, _ in await told(fleet, patient)].count("node.recovery_started") == 4


@pytest.mark.slow
async def test_a_monitor_that_was_frozen_in_a_step_does_nothing_more(
    up: Up, fleet: Fleet, patient: Patient
) -> None:
    async with holding_a_step(up, patient) as holder:
        holder.send_signal(signal.SIGSTOP)
        async with at_work(patient.actuator(fleet)):
            record = await patient.comes_to(fleet, "exhausted")
        holder.send_signal(signal.SIGCONT)
        # Past the time of its command, and many of its looks.
        await asyncio.sleep(4)
        assert holder.poll() is None
    assert await patient.stored(fleet) == record
    assert patient.taken() == STEPS


async def test_a_record_of_a_later_holder_wins(fleet: Fleet, patient: Patient) -> None:
    async with at_work(patient.actuator(fleet)):
        record = await patient.comes_to(fleet, "exhausted")
    *before, last = record.attempts
    later = msgspec.structs.replace(
        record,
        state="waiting",
        attempts=(*before[:1], msgspec.structs.replace(last, step="restart_agent", token=2**62)),
    )
    subject = HEALTH.key_subject(health.recovery_key(patient.name))
    await fleet.bus.publish(subject, msgspec.json.encode(later), ALONE)
    async with at_work(patient.actuator(fleet)):
        await asyncio.sleep(0.2)
    assert await patient.stored(fleet) == later
    assert patient.taken() == STEPS


async def _hold(file: Path, name: str) -> None:
    """A monitor that is to be killed while a command of its runs."""
    from interlock.settings import ConnectionSettings

    patient = Patient(file.parent)
    patient.name, patient.file = name, file
    patient.becomes("lost", "silent")
    command = patient.line("restart_agent").replace("$INTERLOCK_NODE", name)
    patient.record = NodeRecord(
        name=name,
        ssh=SshAccess(host="127.0.0.1"),
        recovery=Recovery(restart_agent=f"{command}; exec sleep 60"),
    )
    async with connected(ConnectionSettings(), name="held") as bus:
        policy = msgspec.structs.replace(
            POLICY, restart_agent=StepPolicy(timeout_s=1.5, window_s=0.15)
        )
        actuator = patient.actuator(Fleet(bus, source="held"), policy=policy, lease_s=1.0)
        async with asyncio.timeout(PATIENCE_S):
            await actuator.run()


if __name__ == "__main__":
    asyncio.run(_hold(Path(sys.argv[1]), sys.argv[2]))
