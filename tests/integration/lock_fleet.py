"""A broker, or three, with replicas of the lock service, to be frozen and killed one by one."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from interlock import provisioning
from interlock.bus import Bus, Message, connect
from interlock.cluster import ClusterServer, LocalCluster
from interlock.fleet import Fleet
from interlock.process import log_path, signal_group, spawn
from interlock_schemas import locks
from interlock_schemas.locks import LockView, ShowLock
from interlock_schemas.topology import LOCKS
from interlock_sync_mutex.contract import CONTRACT

Process = asyncio.subprocess.Process


class LockFleet:
    """What runs. Clients of it are made by `client`, and closed with it."""

    def __init__(
        self, folder: Path, *, size: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        """`settings`: more of the environment of replicas."""
        self.folder = folder
        self.cluster = LocalCluster(folder / "cluster", size=size)
        self.replicas: list[Process] = []
        self.processes: list[Process] = []
        self.bus: Bus
        self._clients: list[Fleet] = []
        self._size = size
        self._settings = dict(settings or {})

    @contextlib.asynccontextmanager
    async def running(self, replicas: int = 2) -> AsyncIterator["LockFleet"]:
        """Run it while the block lasts."""
        await self.cluster.start()
        try:
            self.bus = await connect(self.cluster.settings(), name="test")
            await provisioning.apply(self.bus, [CONTRACT], replicas=self._size)
            async with asyncio.TaskGroup() as group:
                for _ in range(replicas):
                    group.create_task(self.start_replica())
            yield self
        finally:
            for server in self.cluster.servers:
                await server.start()
            for fleet in self._clients:
                await fleet.close()
            await self.bus.close()
            for process in (*self.replicas, *self.processes):
                signal_group(process, signal.SIGKILL)
                await process.wait()
            await self.cluster.stop()

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to connect."""
        return {
            "INTERLOCK_NATS_URL": self.cluster.url,
            "INTERLOCK_NATS_USER": self.cluster.user,
            "INTERLOCK_NATS_PASSWORD": self.cluster.password,
            "INTERLOCK_DURABILITY": "degrade",
        }

    async def client(self, *, node: str = "test") -> Fleet:
        """A worker with a connection of its own."""
        bus = await connect(self.cluster.settings(), name="worker")
        fleet = Fleet(bus, source="worker", node=node)
        self._clients.append(fleet)
        return fleet

    async def start_replica(self) -> Process:
        """Start one more replica; return when it answers."""
        process = await spawn(
            [sys.executable, "-m", "interlock_sync_mutex"],
            env=self.env | self._settings,
            log=log_path(self.folder, f"replica-{len(self.replicas)}"),
            orphan_signal=signal.SIGKILL,
        )
        self.replicas.append(process)
        answers = asyncio.Event()

        async def heard(message: Message) -> None:
            # Without data: nobody answers yet.
            if message.data and json.loads(message.data)["metadata"]["pid"] == str(process.pid):
                answers.set()

        inbox = self.bus.inbox()
        subscription = await self.bus.subscribe(inbox, heard)
        async with asyncio.timeout(60):
            while not answers.is_set():
                assert process.returncode is None, self.logs()
                await self.bus.client.publish(f"$SRV.PING.{locks.SERVICE}", reply=inbox)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await answers.wait()
        await self.bus.unsubscribe(subscription)
        return process

    async def kill_replica(self, process: Process) -> None:
        """SIGKILL."""
        process.kill()
        await process.wait()
        self.replicas.remove(process)

    async def start_worker(self, script: str, *arguments: str) -> Process:
        """A Python program with the way to the broker in its environment, and pipes."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            script,
            *arguments,
            env=dict(self.env) | {"PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    async def leader(self) -> ClusterServer:
        """The server that leads the bucket of locks."""
        while True:
            info = await self.bus.api(f"STREAM.INFO.{LOCKS.stream}", timeout_s=30)
            if name := info.get("cluster", {}).get("leader"):
                return next(each for each in self.cluster.servers if each.name == name)
            await asyncio.sleep(0.05)

    async def show(self, name: str) -> LockView:
        """A lock, as a replica sees it."""
        return await show(Fleet(self.bus, source="test"), name)

    def logs(self) -> str:
        """The end of every replica's log."""
        parts = sorted((self.folder / "logs").glob("replica-*.log"))
        return "\n".join(f"== {p.name}\n{p.read_text()[-3_000:]}" for p in parts)


async def show(fleet: Fleet, name: str) -> LockView:
    """A lock, as the service shows it."""
    return await fleet.command(locks.SHOW, ShowLock(name=name), timeout_s=5, patience_s=20)
