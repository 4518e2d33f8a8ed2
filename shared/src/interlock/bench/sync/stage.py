"""A fleet on this machine for measuring transfers: real services, agents with stores of their own,
and one sshd through which they reach one another."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from interlock.artifacts.inventory import Inventory
from interlock.bench.sshd import Sshd, private_sshd
from interlock.bus import Bus, connected
from interlock.discovery import select
from interlock.errors import BusUnavailable, CommandFailed, InterlockError
from interlock.fleet import Fleet
from interlock.local import local_fleet
from interlock.nodes.book import NodeBook
from interlock.process import die_with
from interlock_schemas import orders
from interlock_schemas.artifacts import Copy
from interlock_schemas.locks import SERVICE as MUTEX
from interlock_schemas.nodes import NodeRecord
from interlock_schemas.orders import Policy

__all__ = ["Stage", "staged"]

_PATIENCE_S: Final = 60.0


class Stage(msgspec.Struct, frozen=True):
    """What runs."""

    folder: Path
    fleet: Fleet
    bus: Bus
    sshd: Sshd

    def root(self, node: str) -> Path:
        """The store of a node."""
        return self.folder / "stores" / node

    async def receipts(self, node: str) -> dict[str, Copy]:
        """What a node has receipts for."""
        return await Inventory(self.bus).copies(node, None)

    async def only_where_asked(self, dataset: str) -> None:
        """Have nothing of a dataset moved but by request."""
        policy = Policy(dataset=dataset, copies=1)
        await self.fleet.command(
            orders.SET_POLICY, orders.SetPolicy(dataset=dataset, policy=policy)
        )

    async def known(self, node: str, count: int) -> None:
        """Wait until the fleet knows of so many artifacts at a node."""
        deadline = time.monotonic() + _PATIENCE_S
        while len(await self.receipts(node)) < count:
            if time.monotonic() > deadline:
                raise InterlockError(f"the agent of {node} does not tell what its store has")
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def staged(folder: Path, nodes: Sequence[str]) -> AsyncIterator[Stage]:
    """Broker, lock service, router, an agent for each node, one sshd. Ends all of it."""
    services = select([MUTEX, orders.ROUTER])
    with private_sshd(folder / "sshd", "Subsystem sftp internal-sftp") as sshd:
        async with (
            local_fleet(folder / "state", services=services) as running,
            connected(running.settings, name="bench-sync") as bus,
            contextlib.AsyncExitStack() as stack,
        ):
            for service in services:
                await running.supervisor.until_running(service.name)
            fleet: Fleet = Fleet(bus, source="bench")
            book = NodeBook(fleet, by="bench")
            for node in nodes:
                record = NodeRecord(name=node, ssh=sshd.access(), price_class="owned")
                await book.put(node, lambda _, record=record: record)  # type: ignore[misc]
            stage = Stage(folder, fleet, bus, sshd)
            for node in nodes:
                await stack.enter_async_context(_agent(node, stage, running.env))
            await _all_there(fleet, nodes)
            yield stage


@contextlib.asynccontextmanager
async def _agent(node: str, stage: Stage, env: dict[str, str]) -> AsyncIterator[None]:
    own = {
        "INTERLOCK_NODE": node,
        "INTERLOCK_DATA": str(stage.root(node)),
        "INTERLOCK_AGENT_GPUS": "false",
        "INTERLOCK_AGENT_GRACE_S": "0",
        "INTERLOCK_AGENT_SCRUB_BYTES_PER_S": "1",
        "INTERLOCK_LOG_LEVEL": "warning",
    }
    with (stage.folder / f"{node}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "interlock_node_agent",
            stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, **env, **own}, preexec_fn=die_with(os.getpid(), signal.SIGKILL),
        )  # fmt: skip
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _all_there(fleet: Fleet, nodes: Sequence[str]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with contextlib.suppress(BusUnavailable, CommandFailed):
            status = await fleet.command(orders.STATUS, orders.AskStatus(), timeout_s=5)
            ready = {each.node for each in status.nodes if each.usable and each.store}
            if ready >= set(nodes) and status.planner is not None:
                return
        if time.monotonic() > deadline:
            raise InterlockError("the agents did not all come up: is the machine busy?")
        await asyncio.sleep(0.2)
