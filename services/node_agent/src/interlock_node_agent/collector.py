"""Everything that is measured on this node, each thing by itself, to be told at any moment."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock_node_agent.beat import Machine, text
from interlock_node_agent.gpus import Gpus, View
from interlock_node_agent.in_thread import in_thread
from interlock_node_agent.machine import addresses, disk, host_meter
from interlock_node_agent.sampler import Sampler
from interlock_node_agent.settings import Settings
from interlock_schemas.nodes import Disk

__all__ = ["Collector", "Measured"]

_DISKS_S: Final = 5.0
_ADDRESSES_S: Final = 30.0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The newest of everything."""

    machine: Machine | None
    disks: tuple[Disk, ...]
    gpus: View
    addresses: tuple[str, ...]


class Collector:
    """Measures while its context lasts."""

    def __init__(self, settings: Settings) -> None:
        self._machine = Sampler(
            "host", host_meter(), every_s=max(0.2, min(1.0, settings.agent_heartbeat_s))
        )
        self._disks = {
            path: Sampler(str(path), functools.partial(disk, path), every_s=_DISKS_S)
            for path in dict.fromkeys(path.expanduser() for path in settings.agent_watch)
        }
        self._addresses = Sampler("addresses", addresses, every_s=_ADDRESSES_S)
        self._gpus = Gpus(deadline_s=settings.agent_gpu_deadline_s) if settings.agent_gpus else None

    @contextlib.asynccontextmanager
    async def measuring(self) -> AsyncIterator[None]:
        """Measure for as long as the block lasts."""
        samplers = self._samplers()
        for sampler in samplers:
            sampler.start()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._gpus.run()) if self._gpus is not None else None
            try:
                yield
            finally:
                for sampler in samplers:
                    sampler.stop()
                if asking is not None:
                    asking.cancel()

    async def settle(self, timeout_s: float) -> None:
        """Wait until everything was measured once, or that long."""
        deadline = time.monotonic() + timeout_s

        def measured() -> None:
            for sampler in self._samplers():
                sampler.wait(max(0.0, deadline - time.monotonic()))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await in_thread(measured)
                if self._gpus is not None:
                    await self._gpus.measured.wait()

    def _samplers(self) -> "list[Sampler[Any]]":
        return [self._machine, self._addresses, *self._disks.values()]

    def newest(self) -> Measured:
        """What is known at this moment. Never waits."""
        return Measured(
            machine=self._machine.value,
            disks=tuple(_told(path, each) for path, each in self._disks.items()),
            gpus=self._gpus.view if self._gpus is not None else View(),
            addresses=self._addresses.value or (),
        )


def _told(path: Path, sampler: Sampler[Disk]) -> Disk:
    fault = sampler.fault
    if fault is not None:
        return Disk(path=text(str(path), 500), fault=text(fault, 500))
    return sampler.value or Disk(path=text(str(path), 500))
