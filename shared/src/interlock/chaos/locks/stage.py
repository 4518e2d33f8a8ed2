"""What runs of locks have in common: servers, the bucket's history, replicas of the service."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from interlock import discovery, provisioning
from interlock.bus import Bus
from interlock.chaos.ledger import Lines
from interlock.chaos.locks import clocks
from interlock.chaos.locks.lines import Held, Line, Written
from interlock.chaos.locks.observer import REPUBLISH
from interlock.chaos.locks.planting import Plant
from interlock.chaos.stage import Progress, bus_to
from interlock.chaos.workers import AnyWorker, Worker
from interlock.cluster import LocalCluster
from interlock.endpoint import SYSTEM_USER
from interlock.errors import InterlockError
from interlock.process import log_path, signal_group, spawn
from interlock_schemas.locks import SERVICE
from interlock_schemas.topology import LOCKS

__all__ = ["LINES", "Processes", "behind_ns", "environment", "observing", "prepare", "served"]

LineT = TypeVar("LineT")

LINES: Final[Lines[Line]] = Lines(Line)

_LAUNCH: Final = "interlock.chaos.locks.launch"
#: The service, by name: this kit depends on none.
_SERVICE_MODULE: Final = "interlock_sync_mutex"
_START_S: Final = 40.0
_LOOK_S: Final = 0.1
_OBSERVED_S: Final = 5.0


def environment(cluster: LocalCluster) -> dict[str, str]:
    """How a process of the run connects."""
    return {
        "INTERLOCK_NATS_URL": cluster.url,
        "INTERLOCK_NATS_USER": cluster.user,
        "INTERLOCK_NATS_PASSWORD": cluster.password,
        "INTERLOCK_NATS_SYSTEM_USER": SYSTEM_USER,
        "INTERLOCK_NATS_SYSTEM_PASSWORD": cluster.password,
        "INTERLOCK_CONNECT_TIMEOUT_S": "60",
    }


def behind_ns() -> int:
    """The broker's clock, which is this machine's, less the ledgers' clock."""
    return time.time_ns() - time.monotonic_ns()


class Processes:
    """Makes the processes of a run, with wall clocks that can jump where that can be had."""

    def __init__(
        self, folder: Path, env: Mapping[str, str], plant: Plant | None, *, clocks_jump: bool
    ) -> None:
        self.library = clocks.find_library() if clocks_jump else None
        """What makes clocks jump; None where it is not installed."""
        self._folder = folder
        self._env = env
        self._plant = ["--plant", plant] if plant is not None else []
        self._made: list[AnyWorker] = []

    def client(self, name: str, *arguments: str) -> Worker[Line]:
        """A process with clients."""
        return self.make(name, "interlock.chaos.locks.client", *arguments, lines=LINES)

    def service(self, name: str) -> Worker[Line]:
        """A replica of the lock service."""
        return self.make(name, _SERVICE_MODULE, lines=LINES)

    def make(self, name: str, module: str, *arguments: str, lines: Lines[LineT]) -> Worker[LineT]:
        """Any process."""
        clock: Path | None = None
        env = dict(self._env)
        if self.library is not None:
            clock = self._folder / f"{name}.clock"
            clock.write_text("+0\n")
            env |= clocks.env_for(self.library, clock)
        made = Worker(
            self._folder,
            name,
            env,
            _LAUNCH,
            *("--module", module),
            *self._plant,
            *arguments,
            lines=lines,
            success=_success,
            clock=clock,
        )
        self._made.append(made)
        return made

    def clear_away(self) -> None:
        """Once they have ended: remove what killed ones could not."""
        if self.library is not None:
            clocks.clear_away(pid for each in self._made for pid in each.pids)


def _success(line: object) -> float:
    """When somebody got on."""
    return line.at if isinstance(line, (Held, Written)) else 0.0


async def prepare(cluster: LocalCluster) -> None:
    """Make streams and buckets, and have the lock bucket tell all that it stores."""
    async with bus_to(cluster) as bus:
        contracts = discovery.select([SERVICE])
        await provisioning.apply(bus, contracts, replicas=cluster.size)
        standing = await bus.api(f"STREAM.INFO.{LOCKS.stream}")
        await bus.api(
            f"STREAM.UPDATE.{LOCKS.stream}", {**standing["config"], "republish": REPUBLISH}
        )


async def served(bus: Bus, replicas: int) -> None:
    """Return when so many replicas of the service answer. Raises InterlockError."""
    deadline = time.monotonic() + _START_S
    answered: set[str] = set()
    inbox = bus.inbox()

    def on_answer(_: bytes, __: bytes, ___: bytes, body: bytes) -> None:
        answered.add(body.decode(errors="replace"))

    subscription = await bus.listen(inbox, on_answer)
    try:
        while len(answered) < replicas:
            if time.monotonic() > deadline:
                raise InterlockError(
                    f"{len(answered)} of {replicas} lock services answered within {_START_S:g} s: "
                    "see their logs in the run's folder"
                )
            answered.clear()
            bus.post(f"$SRV.PING.{SERVICE}", b"", reply=inbox)
            await asyncio.sleep(0.5)
    finally:
        await bus.unsubscribe(subscription)


@contextlib.asynccontextmanager
async def observing(
    cluster: LocalCluster, folder: Path, path: Path, tell: Progress
) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Have all messages of the bucket written to `path` while the block lasts.

    Gives a function that waits until it was written down up to a sequence, or a few seconds.
    """
    env = environment(cluster) | {
        "INTERLOCK_NATS_URL": ",".join(server.url for server in cluster.servers)
    }
    command = [sys.executable, "-m", "interlock.chaos.locks.observer", "--path", str(path)]
    process = await spawn(
        command, env=env, log=log_path(folder, "observer"), orphan_signal=signal.SIGKILL
    )

    async def until(last: int) -> None:
        deadline = time.monotonic() + _OBSERVED_S
        while not _holds(path, last):
            if time.monotonic() > deadline:
                tell(f"the message {last} of the bucket was not seen")
                return
            await asyncio.sleep(_LOOK_S)

    try:
        yield until
    finally:
        signal_group(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(_OBSERVED_S):
                await process.wait()
        except TimeoutError:
            signal_group(process, signal.SIGKILL)
            await process.wait()


def _holds(path: Path, seq: int) -> bool:
    """Whether a message is among the last ones written down."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 100_000))
        return f",{seq},".encode() in file.read()
    return False
