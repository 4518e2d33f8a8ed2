"""Real agents for tests: processes of their own against a fleet of the test run."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec

from interlock.bus import Bus, Message
from interlock_schemas import subjects
from interlock_schemas.nodes import Beat
from tests.conftest import PATIENCE_S, Up


class AgentProcess:
    """One agent. Killed at the end of the block that it was started in."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for it to end; its exit code."""
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)


@contextlib.contextmanager
def agent(up: Up, node: str, log: Path, **settings: str) -> Iterator[AgentProcess]:
    """Start an agent of a node; settings without their prefix, in lower case."""
    env = up.env | {
        "INTERLOCK_NODE": node,
        "INTERLOCK_AGENT_GPUS": "false",
        "INTERLOCK_AGENT_HEARTBEAT_S": "0.1",
        "INTERLOCK_AGENT_STORE": "false",
        "INTERLOCK_LOG_FORMAT": "json",
    }
    env |= {f"INTERLOCK_{name.upper()}": value for name, value in settings.items()}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "interlock_node_agent"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield AgentProcess(process, log)
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)


class Beats:
    """The heartbeats of one node, as they come."""

    def __init__(self) -> None:
        self.seen: list[Beat] = []
        self._more = asyncio.Event()

    async def on_message(self, message: Message) -> None:
        self.seen.append(msgspec.json.decode(message.data, type=Beat))
        self._more.set()

    async def next(self, instance_not: str = "") -> Beat:
        """The next heartbeat, of another run than that one."""
        async with asyncio.timeout(PATIENCE_S):
            begin = len(self.seen)
            while True:
                for beat in self.seen[begin:]:
                    if beat.instance != instance_not:
                        return beat
                self._more.clear()
                await self._more.wait()


@contextlib.asynccontextmanager
async def beats(bus: Bus, node: str) -> AsyncIterator[Beats]:
    """Listen to the heartbeats of a node while the block lasts."""
    found = Beats()
    subscription = await bus.subscribe(subjects.heartbeat(node), found.on_message)
    await bus.flush()
    try:
        yield found
    finally:
        await bus.unsubscribe(subscription)
