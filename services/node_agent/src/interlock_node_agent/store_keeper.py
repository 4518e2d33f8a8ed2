"""Keeps the store of a node: moves what it is told to, serves what it has, and knows what that is.

What is sealed here is found by looking, so that nothing is lost while no agent runs. What the
receipts say is compared with the disk, part by part, and what lies on it is read again and checked.
The disk is only ever touched in threads of its own: a heartbeat does not wait for it.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

from interlock import logs, state
from interlock.artifacts import layout
from interlock.artifacts.destination import LocalDestination
from interlock.artifacts.errors import ArtifactError
from interlock.artifacts.mover import Mover
from interlock.artifacts.pacing import Pacer
from interlock.artifacts.receipts import Receipts, surely
from interlock.artifacts.store import LocalStore
from interlock.artifacts.transports import carriers
from interlock.artifacts.transports.read_server import ReadServer
from interlock.artifacts.transports.ssh_options import SshOptions
from interlock.clock import now, rfc3339
from interlock.errors import FenceUnusable
from interlock.fleet import Fleet
from interlock_node_agent.holdings import Holdings, differences, is_news
from interlock_node_agent.inbox import Inbox
from interlock_node_agent.occupancy import StoreOccupied, occupied
from interlock_node_agent.settings import Settings
from interlock_schemas import subjects
from interlock_schemas.artifacts import Artifact, Copy, StoreReport
from interlock_schemas.nodes import AGENT

__all__ = ["LOOK_VERB", "StoreKeeper"]

#: An agent is told under this verb that something was sealed, so that it looks at once.
LOOK_VERB: Final = "look"

_LOOK_S: Final = 1.0
_REPORT_S: Final = 30.0
_REPORT_GAP_S: Final = 2.0
_CLEAN_S: Final = 3_600.0
_RETRY_S: Final = 30.0
_LONGEST_SCRUB_PAUSE_S: Final = 60.0
_TOLD_AT_ONCE: Final = 32
_THREADS: Final = 8
_PARTS: Final = tuple(f"{number:02x}" for number in range(256))

T = TypeVar("T")

log = logs.get_logger("interlock.agent.store")


class StoreKeeper:
    """The store of one node, and everything that is done for it. `run` it."""

    def __init__(self, fleet: Fleet, settings: Settings, *, node: str, instance: str) -> None:
        self.node = node
        self.root = state.store_root(settings)
        self._fleet = fleet
        self._settings = settings
        self._instance = instance
        self._holdings = Holdings()
        self._receipts = Receipts(fleet, node, self._holdings.note)
        self._egress = Pacer()
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._ending = threading.Event()
        self._mover: Mover | None = None
        self._nudged = asyncio.Event()
        self._changed = asyncio.Event()
        self.found_at = 0.0
        """When something was found that nobody had told of; of the loop's clock, seconds."""
        self._looked = asyncio.Event()
        self._leaving = False

    @property
    def held(self) -> int:
        """How many artifacts are held."""
        return len(self._holdings)

    async def run(self) -> None:
        """Keep the store for ever. Where the disk does not let us, try on."""
        try:
            with contextlib.ExitStack() as stack:
                store = await self._open(stack)
                device = await self._in_thread(lambda: _device(store))
                async with self._serving(store):
                    await self._keep(store, device)
        finally:
            self._ending.set()
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def drain(self) -> None:
        """Fetch nothing any more, and leave the disk to those who fetch from here."""
        self._leaving = True
        if self._mover is not None:
            await self._mover.drain()

    async def look(self, timeout_s: float) -> None:
        """Look for what was sealed, at once; returns when that is done, or the time is over."""
        if self._mover is None:
            return
        self._looked.clear()
        self._nudged.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._looked.wait()

    async def _open(self, stack: contextlib.ExitStack) -> LocalStore:
        def open_it() -> LocalStore:
            store = LocalStore(self.root)
            stack.enter_context(occupied(store.root, self.node))
            return store

        while True:
            try:
                return await self._in_thread(open_it)
            except (OSError, ArtifactError, FenceUnusable, StoreOccupied) as error:
                log.error("the store cannot be used", root=str(self.root), why=str(error))
            await asyncio.sleep(_RETRY_S)

    @contextlib.asynccontextmanager
    async def _serving(self, store: LocalStore) -> AsyncIterator[None]:
        """Answer those who read from it, and be nudged."""
        server = ReadServer(self._fleet.bus, self.node, store, self._egress)
        await server.start()
        nudge = await self._fleet.bus.listen(
            subjects.node_command(AGENT, self.node, LOOK_VERB), self._on_nudge
        )
        try:
            yield
        finally:
            await self._fleet.bus.unsubscribe(nudge)
            await server.stop()

    async def _keep(self, store: LocalStore, device: tuple[int, int]) -> None:
        for copy in (await surely(lambda: self._receipts.inventory.copies(self.node))).values():
            self._holdings.note(copy)
        options = SshOptions(
            identity=self._settings.agent_ssh_identity,
            known_hosts=self._settings.agent_known_hosts,
        )
        ways = carriers(self._fleet.bus, options)
        destination = LocalDestination(store, self.node, self._executor)
        mover = Mover(
            self._fleet,
            destination,
            self._receipts,
            carriers=ways,
            lease_s=self._settings.agent_store_lease_s,
        )
        try:
            async with asyncio.TaskGroup() as group:
                self._mover = mover
                for work in (
                    mover.run(),
                    self._look(store, mover),
                    self._report(store, mover),
                    self._compare(store, mover, device),
                    self._scrub(store, mover),
                    self._take_from_inbox(store),
                    self._clean(store),
                ):
                    group.create_task(work)
        finally:
            for carrier in ways.values():
                await carrier.close()

    def _on_nudge(self, _subject: bytes, reply: bytes, _block: bytes, _body: bytes) -> None:
        self._nudged.set()
        if reply:
            self._fleet.bus.post(reply.decode(), b"{}")

    # What is there

    async def _look(self, store: LocalStore, mover: Mover) -> None:
        """Find what was sealed since the last look."""
        seen: dict[str, int] = {}
        while True:
            none: list[str] = []
            parts = await self._of_disk(functools.partial(store.changed_parts, seen), none)
            for part in parts:
                await self._look_at(store, mover, part, self._holdings.of_part(part))
            if not self._nudged.is_set():
                # Else this look may have begun before what it was asked for.
                self._looked.set()
            await _set_within(self._nudged, _LOOK_S)

    async def _compare(self, store: LocalStore, mover: Mover, device: tuple[int, int]) -> None:
        """Compare receipts with the disk, a part at a time, again and again."""
        while True:
            for part in _PARTS:
                await asyncio.sleep(self._settings.agent_check_every_s)
                if await self._of_disk(lambda: _device(store), None) != device:
                    # Without its disk it looks empty, and nothing is known of what it holds.
                    log.error("the store is not where it was: is it mounted?", root=str(self.root))
                    continue
                told = await surely(
                    functools.partial(self._receipts.inventory.copies, self.node, part)
                )
                for id in [id for id in self._holdings.of_part(part) if id not in told]:
                    if not mover.handles(id):
                        self._holdings.forget(id)
                await self._look_at(store, mover, part, told, check=True)

    async def _look_at(
        self,
        store: LocalStore,
        mover: Mover,
        part: str,
        receipts: dict[str, Copy],
        *,
        check: bool = False,
    ) -> None:
        """Tell of what stands on the disk without a receipt; with `check`, take receipts back of
        what does not."""
        ids = await self._of_disk(lambda: store.ids(part), None)
        if ids is None:
            return
        found = differences(ids, receipts, [id for id in ids if mover.handles(id)])
        places = asyncio.Semaphore(_TOLD_AT_ONCE)

        async def tell(id: str) -> None:
            async with places:
                await self._tell(store, mover, id)

        if found.untold:
            self.found_at = asyncio.get_running_loop().time()
        await asyncio.gather(*(tell(id) for id in found.untold))
        for id in found.missing if check else ():
            if mover.handles(id) or await self._of_disk(functools.partial(store.has, id), True):
                continue
            log.error("an artifact is gone from the disk", artifact=id, node=self.node)
            await self._receipts.forget(id)
            self._holdings.forget(id)
            about = await surely(functools.partial(self._receipts.inventory.artifact, id))
            if about is not None:
                why = "it was gone from the disk"
                await self._receipts.tell_dropped(about, replicas=None, why=why)
        if found.untold or found.missing:
            self._changed.set()

    async def _tell(self, store: LocalStore, mover: Mover, id: str) -> None:
        """Have an artifact known that stands on the disk, and of which nobody was told."""
        try:
            about, problem = await self._in_thread(lambda: _glance(store, id))
        except (OSError, ArtifactError) as error:
            if mover.handles(id) or not await self._of_disk(lambda: store.has(id), False):
                return
            about, problem = None, str(error)
        if problem is not None:
            await self._damaged(store, id, about.bytes if about is not None else 0, problem)
        elif about is not None and not mover.handles(id):
            known = await self._receipts.of(id)
            if known is not None and known.state == "held":
                # The mover wrote it while we looked.
                self._holdings.note(known)
                return
            if about.origin == self.node:
                await self._receipts.sealed(about)
                return
            at = rfc3339(now())
            verified_at = about.sealed_at
            copy = Copy(id=id, node=self.node, bytes=about.bytes, at=at, verified_at=verified_at)
            await self._receipts.held(about, copy)

    async def _damaged(self, store: LocalStore, id: str, size: int, why: str) -> None:
        try:
            await self._in_thread(lambda: store.quarantine(id, why))
        except OSError as error:
            log.error("a damaged artifact cannot be put aside", artifact=id, why=str(error))
            return
        await self._receipts.damaged(id, size, why)
        self._changed.set()

    # Whether it is whole

    async def _scrub(self, store: LocalStore, mover: Mover) -> None:
        """Read again what was not checked for the longest time."""
        pace = Pacer(self._settings.agent_scrub_bytes_per_s)
        unreadable: set[str] = set()
        while True:
            before = rfc3339(now() - timedelta(seconds=self._settings.agent_scrub_after_s))
            copy = self._holdings.longest_unverified(before, but=unreadable)
            if copy is None or self._leaving or mover.handles(copy.id):
                after_s = self._settings.agent_scrub_after_s
                await asyncio.sleep(min(_LONGEST_SCRUB_PAUSE_S, max(_LOOK_S, after_s / 100)))
                continue
            try:
                verified = await self._in_thread(
                    functools.partial(store.verify, copy.id, pace=pace, cancelled=self._ending)
                )
            except (OSError, ArtifactError) as error:
                if await self._of_disk(functools.partial(store.has, copy.id), True):
                    log.error("an artifact cannot be read", artifact=copy.id, why=str(error))
                    unreadable.add(copy.id)
                else:
                    self._holdings.forget(copy.id)
                continue
            if copy.id not in self._holdings or mover.handles(copy.id):
                continue
            if verified.ok:
                await self._receipts.verified(copy.id, copy.bytes)
            elif await self._of_disk(functools.partial(store.has, copy.id), False):
                why = "; ".join(verified.problems)[:400] or "its digests do not agree"
                await self._damaged(store, copy.id, copy.bytes, why)

    # What is put in, and what is cleared away

    async def _take_from_inbox(self, store: LocalStore) -> None:
        inbox = Inbox(store, self.node, settle_s=self._settings.agent_inbox_settle_s)
        while True:
            sealed: Sequence[Artifact] = await self._of_disk(
                lambda: inbox.take(time.monotonic(), self._ending), ()
            )
            if sealed:
                self._nudged.set()
            await asyncio.sleep(min(_LOOK_S, max(0.1, self._settings.agent_inbox_settle_s / 2)))

    async def _clean(self, store: LocalStore) -> None:
        while True:
            await self._of_disk(store.clean, None)
            await asyncio.sleep(_CLEAN_S)

    # What is said of it

    async def _report(self, store: LocalStore, mover: Mover) -> None:
        """Tell how the store is: when that changes, and now and then."""
        told: StoreReport | None = None
        told_at = 0.0
        while True:
            report = await self._state(store, mover)
            at = time.monotonic()
            if is_news(report, told) or at - told_at >= _REPORT_S:
                await surely(functools.partial(self._receipts.inventory.tell_store, report))
                told, told_at = report, at
                own = await mover.described()
                self._egress.set_rate(own.storage.egress_bytes_per_s if own is not None else None)
                # While much arrives, one report says it for all of it.
                await asyncio.sleep(_REPORT_GAP_S)
            await _set_within(self._changed, _LOOK_S)

    async def _state(self, store: LocalStore, mover: Mover) -> StoreReport:
        room = await self._of_disk(store.free, None)
        quarantined = await self._of_disk(lambda: _count(store.root / layout.QUARANTINE), 0)
        return StoreReport(
            node=self.node,
            instance=self._instance,
            root=str(store.root),
            at=rfc3339(now()),
            free_bytes=max(0, room[0]) if room is not None else None,
            total_bytes=room[1] if room is not None else None,
            held=len(self._holdings),
            held_bytes=self._holdings.bytes,
            quarantined=quarantined,
            fetching=len(mover.progress()),
            rates={source: round(rate) for source, rate in mover.rates().items()},
        )

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def _of_disk(self, call: Callable[[], T], otherwise: T) -> T:
        """What a call says; `otherwise` where the disk does not let it."""
        try:
            return await self._in_thread(call)
        except OSError as error:
            log.warning("the store cannot be read", root=str(self.root), why=str(error))
            return otherwise


def _device(store: LocalStore) -> tuple[int, int]:
    """Which folder it is: another one once its disk is taken away."""
    told = (store.root / layout.ARTIFACTS).stat()
    return told.st_dev, told.st_ino


def _count(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except FileNotFoundError:
        return 0


def _glance(store: LocalStore, id: str) -> tuple[Artifact, str | None]:
    """What an artifact says of itself, and what is wrong with it at first sight."""
    about = store.about(id)
    manifest = store.manifest(id)
    files = store.root / layout.artifact_dir(id) / layout.FILES
    for entry in manifest.files:
        try:
            size = (files / entry.path).lstat().st_size
        except FileNotFoundError:
            return about, f"{entry.path} is missing"
        if size != entry.size:
            return about, f"{entry.path} has {size:,} bytes and should have {entry.size:,}"
    return about, None


async def _set_within(event: asyncio.Event, timeout_s: float) -> None:
    """Wait until it is set, and clear it, or until the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    event.clear()
