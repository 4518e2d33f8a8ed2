"""Looks at nodes over SSH: one session a look, under the breaker of that node.

It joins the pool of connections, the breakers and the report of a host, and answers with what came
of it. It never raises for what befalls a host, and concludes nothing about a node.
"""

import asyncio
import math
import secrets
import shlex
import time
from collections.abc import Callable
from typing import Final

import msgspec

from interlock.breakers import Breakers
from interlock.errors import BreakerOpen
from interlock_health_monitor import ssh_outcome, ssh_report
from interlock_health_monitor.ssh_outcome import Outcome, SshFailed
from interlock_health_monitor.ssh_pool import SshPool
from interlock_health_monitor.ssh_report import HostReport
from interlock_health_monitor.ssh_session import Ran
from interlock_schemas.nodes import NodeRecord, SshAccess

__all__ = ["SSH", "CommandResult", "ProbeResult", "Prober"]

#: The transport, as breakers know it.
SSH: Final = "ssh"

#: Seconds that the script may take on the host: two steps one after the other, and some more.
_LOOK_S: Final = 15.0
_COMMAND_BYTES: Final = 65_536
#: A command is ended on the host itself; so long after, seconds, we wait no more.
_GRACE_S: Final = 5.0
_ENDED_BY_TIMEOUT: Final = (124, 137)


#: What came of it, what the host told, and for how long it was asked, seconds.
_Look = tuple[Outcome, HostReport | None, float]


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a look at a node."""

    node: str
    outcome: Outcome
    report: HostReport | None = None
    """None: it told nothing."""
    took_s: float = 0.0
    """Seconds, waiting for a turn included."""
    at: float = 0.0
    """When it ended, by the monitor's clock, seconds since the epoch."""
    asked_at: float = 0.0
    """When the host was asked, as above: it read its own clock between then and the end."""


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a command on a node."""

    node: str
    outcome: Outcome
    ran: Ran | None = None
    """Its output and how it ended. None: it is not known to have run."""
    took_s: float = 0.0
    """Seconds, waiting for a turn included."""


class Prober:
    """Looks at nodes, and runs commands on them. `wall` returns seconds since the epoch."""

    def __init__(
        self,
        pool: SshPool,
        breakers: Breakers,
        *,
        look_s: float = _LOOK_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._pool = pool
        self._breakers = breakers
        self._look_s = look_s
        self._wall = wall

    async def probe(self, record: NodeRecord) -> ProbeResult:
        """Look at a node.

        The outcome is ``ok`` where the host told anything at all; `HostReport.missing` says what it
        did not tell.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        outcome, report, ran_s = await self._look(record)
        at = self._wall()
        return ProbeResult(
            node=record.name,
            outcome=outcome,
            report=report,
            took_s=loop.time() - began,
            at=at,
            asked_at=at - ran_s,
        )

    async def run_command(
        self, record: NodeRecord, command: str, timeout_s: float
    ) -> CommandResult:
        """Run a shell command on a node, once, on a new connection, ``timeout_s`` seconds at most.

        Where the host has `timeout`, the command and what it started are ended there, even if the
        connection breaks meanwhile. What it leaves in the background goes on when it ends in time.
        It goes past an open breaker: whoever mends a node has decided that already. What comes of
        it is recorded nowhere but in the answer.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        ran: Ran | None = None
        if record.ssh is None:
            outcome = _no_access(record)
        else:
            try:
                ran = await self._pool.run(
                    record.ssh,
                    ssh_report.COMMAND,
                    stdin=_bounded(command, timeout_s),
                    timeout_s=timeout_s + _GRACE_S,
                    max_output_bytes=_COMMAND_BYTES,
                    fresh=True,
                )
                if ran.took_s >= timeout_s and ran.exit_status in _ENDED_BY_TIMEOUT:
                    ran = msgspec.structs.replace(ran, timed_out=True)
                outcome = _of_command(ran, timeout_s)
            except SshFailed as failed:
                outcome = failed.outcome
        return CommandResult(node=record.name, outcome=outcome, ran=ran, took_s=loop.time() - began)

    async def _look(self, record: NodeRecord) -> _Look:
        access = record.ssh
        if access is None:
            return _no_access(record), None, 0.0
        try:
            async with self._breakers.guard(record.name, SSH) as call:
                look = outcome, _, _ = await self._ask(access, record.paths)
                counts_as = outcome.counts_as
                if counts_as == "failure":
                    call.failed()
                elif counts_as == "neutral":
                    call.neutral()
                return look
        except BreakerOpen as held:
            return ssh_outcome.held_back(held.retry_after_s, str(held)), None, 0.0

    async def _ask(self, access: SshAccess, paths: tuple[str, ...]) -> _Look:
        mark = f"interlock{secrets.token_hex(8)}"
        try:
            ran = await self._pool.run(
                access,
                ssh_report.COMMAND,
                stdin=ssh_report.script(paths, mark=mark),
                timeout_s=self._look_s,
                max_output_bytes=ssh_report.LARGEST_REPORT_BYTES,
            )
        except SshFailed as failed:
            return failed.outcome, None, 0.0
        report = ssh_report.parse(ran.stdout, mark=mark, paths=paths)
        if report.empty:
            outcome = _of_command(ran, self._look_s)
            return (ssh_outcome.NO_REPORT if outcome.ok else outcome), None, ran.took_s
        return ssh_outcome.OK, report, ran.took_s


def _no_access(record: NodeRecord) -> Outcome:
    return ssh_outcome.misconfigured(
        "no_access", f"{record.name} has no SSH access: describe it in fleet.toml"
    )


def _bounded(command: str, timeout_s: float) -> bytes:
    """The command for a shell's standard input, ended by the host itself when its time is over."""
    quoted = shlex.quote(command)
    return (
        "if command -v timeout >/dev/null 2>&1; then\n"
        f"exec timeout -k 2 {math.ceil(timeout_s)} sh -c {quoted} </dev/null\n"
        f"else exec sh -c {quoted} </dev/null\nfi\n"
    ).encode(errors="surrogateescape")


def _of_command(ran: Ran, timeout_s: float) -> Outcome:
    if ran.timed_out:
        return ssh_outcome.hanging("command", f"it did not end within {timeout_s:g} s")
    if ran.exit_status == 0:
        return ssh_outcome.OK
    return ssh_outcome.command_failed(ran.exit_status, ran.signal)
