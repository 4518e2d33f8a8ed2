"""A fresh broker for a benchmark, its stream, and the worker processes that are connected to it."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from interlock import provisioning
from interlock.bench import message
from interlock.bench.task import Task, Timing
from interlock.bench.workers import BenchFailed, Worker, worker
from interlock.bus import ApiError, Bus, connected
from interlock.cluster import LocalCluster
from interlock.settings import ConnectionSettings
from interlock.state import make_private_folder
from interlock_schemas.topology import EVENTS

__all__ = ["Session", "session"]

_POLL_S: Final = 0.05
_LEADER_S: Final = 20.0


class Session:
    """A running broker. Make one with `session`."""

    def __init__(self, bus: Bus, settings: ConnectionSettings, folder: Path, replicas: int) -> None:
        self.bus = bus
        self.settings = settings
        self.folder = folder
        self.replicas = replicas
        self._stack = contextlib.AsyncExitStack()
        self._workers: dict[tuple[str, str], Worker] = {}
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> "Session":
        """Nothing yet: workers are started when they are asked for."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the workers."""
        await self._stack.aclose()

    def mark(self) -> str:
        """Text that no other run has: begins its message ids, names its consumer."""
        return f"bench-{next(self._numbers)}"

    async def worker(self, client: str, role: str) -> Worker:
        """The process of a client in a role, started when first asked for, then kept."""
        key = (client, role)
        if key not in self._workers:
            started = worker(client, self.settings, self.folder)
            self._workers[key] = await self._stack.enter_async_context(started)
        return self._workers[key]

    async def start(self, keys: Iterable[tuple[str, str]]) -> None:
        """Start the processes of several clients and roles at once."""
        async with asyncio.TaskGroup() as group:
            for client, role in dict.fromkeys(keys):
                group.create_task(self.worker(client, role))

    def standing(self, client: str, role: str) -> Worker | None:
        """The process of a client in a role, where there is one."""
        return self._workers.get((client, role))

    async def retire(self, client: str, role: str) -> None:
        """End the process of a client in a role, with all that it subscribed to."""
        hand = self._workers.pop((client, role), None)
        if hand is not None:
            await hand.end()

    async def run(self, client: str, task: Task, role: str = "") -> Timing:
        """Have a task done by the client's process for this way (or in this role).

        A process that failed, or was left in the middle, is not used again.
        """
        key = (client, role or task.way)
        hand = await self.worker(*key)
        try:
            return await hand.do(task)
        except BaseException:
            self._workers.pop(key, None)
            raise

    async def fresh_stream(self, **changes: Any) -> None:
        """An empty EVENTS stream as it is declared, with this session's replicas."""
        config = provisioning.stream_config(EVENTS)
        config |= {"num_replicas": self.replicas, **changes}
        try:
            async with asyncio.timeout(_LEADER_S):
                while not await self._made_anew(config):  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(_POLL_S)
                while not await self._has_leader():  # noqa: ASYNC110 - an election tells nobody
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise BenchFailed(
                f"an empty stream {EVENTS.name} did not come to stand within {_LEADER_S:g} s: "
                f"the logs of the servers are in {self.folder}"
            ) from error

    async def _made_anew(self, config: Mapping[str, Any]) -> bool:
        """Delete the stream and create it; False while a server still removes the old one."""
        with contextlib.suppress(ApiError):
            await self.bus.api(f"STREAM.DELETE.{EVENTS.name}")
        try:
            await self.bus.api(f"STREAM.CREATE.{EVENTS.name}", config)
        except ApiError as error:
            if error.code < 500:
                raise
            return False
        return True

    async def _has_leader(self) -> bool:
        try:
            info = await self.bus.api(f"STREAM.INFO.{EVENTS.name}")
        except ApiError as error:
            if error.code in (404, 503):
                return False
            raise
        followers = (info.get("cluster") or {}).get("replicas") or []
        return all(follower.get("current") for follower in followers)

    async def preload(self, count: int, size: int) -> None:
        """An empty stream, then `count` messages in it."""
        await self.fresh_stream()
        await self.fill(count, size, way="publish_soon")

    async def fill(self, count: int, size: int, *, way: str = "bulk") -> None:
        """Add messages. Raises BenchFailed when the stream then holds others."""
        before = await self.stored()
        task = Task(
            way=way,
            count=count,
            stream=EVENTS.name,
            subject=message.SUBJECT,
            size=size,
            mark=self.mark(),
        )
        await self.run("interlock", task, role="preload")
        stored = await self.stored() - before
        if stored != count:
            raise BenchFailed(f"{count} messages were published to be read, {stored} are stored")

    async def stored(self) -> int:
        """How many messages the stream holds."""
        info = await self.bus.api(f"STREAM.INFO.{EVENTS.name}")
        return int(info["state"]["messages"])


@contextlib.asynccontextmanager
async def session(folder: Path, *, replicas: int, sync_always: bool) -> AsyncIterator[Session]:
    """A broker with an empty store below `folder`, of one server or of three."""
    make_private_folder(folder)
    cluster = LocalCluster(folder, size=replicas, sync_always=sync_always)
    async with cluster.running():
        settings = cluster.settings()
        async with (
            connected(settings, name="interlock-bench") as bus,
            Session(bus, settings, folder, replicas) as running,
        ):
            yield running
