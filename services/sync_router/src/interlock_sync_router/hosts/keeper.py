"""Keeps the store of one host that has SSH only: moves what it is told to, serves what is there,
says how it is, and compares what stands there with what the receipts say.

What the host's own agent would do, the router does from afar. Nothing here decides what goes where.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from interlock import logs
from interlock.artifacts.errors import ArtifactError, TransferFailed
from interlock.artifacts.mover import Mover
from interlock.artifacts.pacing import Pacer
from interlock.artifacts.receipts import Receipts, surely
from interlock.artifacts.store import LocalStore
from interlock.artifacts.transports.base import Carrier
from interlock.artifacts.transports.read_server import ReadServer
from interlock.artifacts.transports.ssh_options import SshOptions
from interlock.clock import now, rfc3339
from interlock.errors import FenceUnusable
from interlock.fleet import Fleet
from interlock_schemas.artifacts import Copy, StoreReport, Transport
from interlock_schemas.nodes import NodeRecord
from interlock_sync_router.hosts.destination import RemoteDestination
from interlock_sync_router.hosts.reading import RemoteReadable
from interlock_sync_router.hosts.remote import RemoteHost
from interlock_sync_router.hosts.rhythm import Rhythm

__all__ = ["HostKeeper"]

_THREADS: Final = 4

log = logs.get_logger("interlock.router.hosts")


class HostKeeper:
    """The store of one host. `run` it, for as long as the host is described as `record` says.

    `staging`: a folder for this host alone. `carriers` are closed by whoever made them.
    """

    def __init__(
        self,
        fleet: Fleet,
        record: NodeRecord,
        *,
        staging: Path,
        carriers: Mapping[Transport, Carrier],
        options: SshOptions,
        instance: str,
        rhythm: Rhythm | None = None,
    ) -> None:
        if record.ssh is None or not record.storage.path:
            raise ValueError(f"{record.name} has no way over SSH, or no folder for a store")
        self.node = record.name
        self._fleet = fleet
        self._staging = staging
        self._carriers = carriers
        self._instance = instance
        self._rhythm = rhythm or Rhythm()
        self._egress = record.storage.egress_bytes_per_s
        self._host = RemoteHost(record.name, record.ssh, record.storage.path, options)
        self._held: dict[str, int] = {}
        self._receipts = Receipts(fleet, record.name, self._note)

    async def run(self) -> None:
        """Keep it for ever. Where the host does not let us, try on."""
        executor = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"host-{self.node}")
        try:
            destination = await self._open(executor)
            known = await surely(lambda: self._receipts.inventory.copies(self.node))
            for copy in known.values():
                self._note(copy)
            mover = Mover(
                self._fleet,
                destination,
                self._receipts,
                carriers=self._carriers,
                lease_s=self._rhythm.lease_s,
            )
            async with self._serving(destination), asyncio.TaskGroup() as group:
                for work in (
                    mover.run(),
                    self._report(destination, mover),
                    self._compare(destination, mover),
                    self._tidy(destination),
                ):
                    group.create_task(work)
        finally:
            await self._host.close()
            executor.shutdown(wait=False, cancel_futures=True)

    def _note(self, copy: Copy) -> None:
        if copy.state == "held":
            self._held[copy.id] = copy.bytes
        else:
            self._held.pop(copy.id, None)

    async def _open(self, executor: Executor) -> RemoteDestination:
        loop = asyncio.get_running_loop()
        while True:
            try:
                staging = await loop.run_in_executor(executor, LocalStore, self._staging)
                destination = RemoteDestination(self._host, staging, executor)
                await destination.open()
            except (OSError, ArtifactError, FenceUnusable) as error:
                log.error("the store of a host cannot be used", node=self.node, why=str(error))
            else:
                return destination
            await asyncio.sleep(self._rhythm.retry_s)

    @contextlib.asynccontextmanager
    async def _serving(self, destination: RemoteDestination) -> AsyncIterator[None]:
        """Answer those who reach it through the broker alone."""
        readable = RemoteReadable(self._host, destination)
        server = ReadServer(self._fleet.bus, self.node, readable, Pacer(self._egress))
        await server.start()
        try:
            yield
        finally:
            await server.stop()

    async def _report(self, destination: RemoteDestination, mover: Mover) -> None:
        """Tell how the store is, now and then. Of a host that does not answer nothing is told, so
        that soon nobody knows how much room it has."""
        while True:
            try:
                look = await destination.look()
            except TransferFailed as error:
                log.warning("a host does not answer", node=self.node, why=str(error))
            else:
                report = StoreReport(
                    node=self.node,
                    instance=self._instance,
                    root=self._host.root,
                    at=rfc3339(now()),
                    total_bytes=look.total_bytes,
                    free_bytes=look.free_bytes,
                    held=len(self._held),
                    held_bytes=sum(self._held.values()),
                    quarantined=look.quarantined,
                    fetching=len(mover.progress()),
                    rates={source: round(rate) for source, rate in mover.rates().items()},
                )
                await surely(functools.partial(self._receipts.inventory.tell_store, report))
            await asyncio.sleep(self._rhythm.report_s)

    async def _compare(self, destination: RemoteDestination, mover: Mover) -> None:
        """Compare what stands there with the receipts, again and again."""
        while True:
            await asyncio.sleep(self._rhythm.compare_s)
            try:
                told = await surely(lambda: self._receipts.inventory.copies(self.node))
                there = set(await destination.ids())
                held = {id for id, copy in told.items() if copy.state == "held"}
                for id in sorted(held - there):
                    await self._is_gone(destination, mover, id)
                for id in sorted(there - held):
                    await self._is_untold(destination, mover, id)
            except TransferFailed as error:
                log.warning("a host cannot be compared", node=self.node, why=str(error))

    async def _is_gone(self, destination: RemoteDestination, mover: Mover, id: str) -> None:
        if mover.handles(id) or await destination.holds(id):
            return
        log.error("an artifact is gone from the disk", artifact=id, node=self.node)
        await self._receipts.forget(id)
        self._held.pop(id, None)
        about = await surely(lambda: self._receipts.inventory.artifact(id))
        if about is not None:
            why = "it was gone from the disk"
            await self._receipts.tell_dropped(about, replicas=None, why=why)

    async def _is_untold(self, destination: RemoteDestination, mover: Mover, id: str) -> None:
        """It stands there without a receipt: who committed it was ended before it wrote one."""
        about = await surely(lambda: self._receipts.inventory.artifact(id))
        if about is None or mover.handles(id):
            return
        verified = await destination.verify(id)
        if mover.handles(id) or not await destination.holds(id):
            return
        if verified.ok:
            at = rfc3339(now())
            copy = Copy(id=id, node=self.node, bytes=about.bytes, at=at, verified_at=at)
            await self._receipts.held(about, copy)
        else:
            why = "; ".join(verified.problems)[:400]
            await destination.quarantine(id, why)
            await self._receipts.damaged(id, about.bytes, why)

    async def _tidy(self, destination: RemoteDestination) -> None:
        while True:
            with contextlib.suppress(TransferFailed):
                await destination.tidy()
            await asyncio.sleep(self._rhythm.tidy_s)
