"""A fleet with a health monitor for tests, agents that are made up, and what is told of nodes."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from interlock.bus import Bus, Message, connected
from interlock.errors import InterlockError
from interlock.fleet import Fleet
from interlock.reader import Reader
from interlock_schemas import health, subjects
from interlock_schemas.health import NodeView
from interlock_schemas.node import NodeLeft
from interlock_schemas.nodes import Beat, ProbeAnswer
from interlock_schemas.topology import EVENTS
from tests.conftest import PATIENCE_S, Up


class HealthUp(Up):
    """`interlock up` with what is needed to watch nodes."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        super().__init__(folder, "--only", "health-monitor", "--only", "sync-mutex", env=env)

    def await_services(self) -> None:
        """Wait until the monitor decides."""
        # In a thread of its own: a test may be running in this one's event loop.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(self._deciding())).result()

    async def _deciding(self) -> None:
        async with connected(self.settings, name="test") as bus:
            fleet = Fleet(bus, source="test")
            deadline = time.monotonic() + PATIENCE_S
            while True:
                with contextlib.suppress(InterlockError):
                    told = await fleet.command(health.VERDICT, health.ShowVerdict(), timeout_s=1)
                    if told.by:
                        return
                assert time.monotonic() < deadline, self.logs()
                await asyncio.sleep(0.1)


class MadeUp:
    """An agent of our own: it beats once a second and answers, until it is killed."""

    def __init__(self, bus: Bus, name: str, **fields: Any) -> None:
        self.bus = bus
        self.name = name
        self.fields = fields
        self.instance = secrets.token_hex(6)
        self.seq = 0
        self.beating = True
        self._task: asyncio.Task[None] | None = None
        self._subscription: Any = None

    async def start(self) -> "MadeUp":
        self._subscription = await self.bus.subscribe(subjects.probe(self.name), self._answer)
        self._task = asyncio.get_running_loop().create_task(self._beat())
        return self

    async def _answer(self, message: Message) -> None:
        answer = ProbeAnswer(node=self.name, instance=self.instance, seq=self.seq)
        await self.bus.signal(message.reply, msgspec.json.encode(answer))

    async def _beat(self) -> None:
        while True:
            if self.beating:
                self.seq += 1
                given = {"sent_at": time.time(), "answers": True} | self.fields
                beat = Beat(node=self.name, instance=self.instance, seq=self.seq, **given)
                self.bus.post(subjects.heartbeat(self.name), msgspec.json.encode(beat))
            await asyncio.sleep(1.0)

    async def kill(self) -> None:
        """As SIGKILL does it: no more beats, and nobody listens."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._subscription is not None:
            await self.bus.unsubscribe(self._subscription)
            self._subscription = None
            await self.bus.flush()

    async def leave(self) -> None:
        """Go in good order, so that nobody takes it for one of many that vanish."""
        event = NodeLeft(node=self.name, reason="the test is over", instance=self.instance)
        await Fleet(self.bus, source="test").publish(event)
        await self.kill()


class Told:
    """The events about nodes and the cluster, as they are stored."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self._more = asyncio.Event()

    def of(self, node: str) -> list[str]:
        """The types of what was told of a node, in order."""
        return [type for type, key, _ in self.events if key == node]

    def all(self, type: str) -> list[dict[str, Any]]:
        return [body for each, _, body in self.events if each == type]

    async def until(self, type: str, node: str | None = None, *, after: int = 0) -> dict[str, Any]:
        """Wait for an event; those before place `after` do not count."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for each, key, body in self.events[after:]:
                    if each == type and (node is None or key == node):
                        return body
                self._more.clear()
                await self._more.wait()

    async def follow(self, bus: Bus) -> None:
        filters = ("events.node.>", "events.cluster.>")
        async for record in Reader(bus, EVENTS.name, filters, {"deliver_policy": "all"}).records():
            _, domain, event, key = record.subject.split(".")
            self.events.append((f"{domain}.{event}", key, json.loads(record.body)))
            self._more.set()


@contextlib.asynccontextmanager
async def watching(up: Up) -> AsyncIterator[tuple[Bus, Fleet, Told]]:
    """A connection to a fleet, and all that is told on it."""
    told = Told()
    async with connected(up.settings, name="test") as bus:
        task = asyncio.get_running_loop().create_task(told.follow(bus))
        try:
            yield bus, Fleet(bus, source="test"), told
        finally:
            task.cancel()


async def seen(fleet: Fleet, node: str) -> NodeView | None:
    """A node as the monitor sees it."""
    try:
        return await fleet.command(health.NODE_SHOW, health.ShowNode(node=node), timeout_s=5)
    except InterlockError:
        return None


async def in_state(fleet: Fleet, node: str, *states: str) -> NodeView:
    """Wait until a node is in one of these states."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        view = await seen(fleet, node)
        if view is not None and view.state in states:
            return view
        assert time.monotonic() < deadline, (node, states, view)
        await asyncio.sleep(0.1)
