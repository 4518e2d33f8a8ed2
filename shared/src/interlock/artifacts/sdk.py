"""What a worker does with artifacts: seal them on its host, find them, have them moved.

Sealing needs this host's store and nothing else: no broker, no agent. The agent of the host finds
what was sealed, tells the fleet, and the sync-router sees to the copies. What the fleet knows of
artifacts is read from the inventory, where only receipts count as copies.
"""

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from interlock.artifacts.errors import ArtifactError
from interlock.bus import Bus
from interlock.errors import BusUnavailable, SettingsInvalid
from interlock.reader import Reader
from interlock_schemas import subjects
from interlock_schemas.artifacts import Artifact, Copy, artifact_key, artifact_keys, copy_keys
from interlock_schemas.nodes import AGENT, Name
from interlock_schemas.orders import SyncReport
from interlock_schemas.topology import INVENTORY

if TYPE_CHECKING:
    from interlock.artifacts.store import LocalStore

__all__ = ["Artifacts", "Shown", "succeeded"]

#: Under this verb an agent is told to look for what was sealed at once.
_LOOK_VERB: Final = "look"
_CONNECTED_S: Final = 30.0
_FIRST_POLL_S: Final = 0.02
_LONGEST_POLL_S: Final = 0.5
_LISTED: Final = 5
_REMEMBERED: Final = 1_000

T = TypeVar("T")


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact and where it is."""

    artifact: Artifact
    copies: tuple[Copy, ...] = ()
    """Every receipt, of copies that are held, damaged or dropped, by node."""
    path: str | None = None
    """Where it is on this host; None: it is not here."""


def succeeded(report: SyncReport) -> bool:
    """Whether all that was asked for is there: each copy has its receipt, and somebody was asked.

    Nodes that a selector names and that cannot be given anything are in `SyncReport.left_out`, and
    do not count: ``all`` also names hosts that are lost or retired.
    """
    return (
        report.done
        and not report.timed_out
        and not report.failed
        and report.verified >= report.asked
        and bool(report.targets)
    )


class Artifacts:
    """The artifacts of this host and of the fleet: ``fleet.artifacts``.

    `root`: the store of this host. `bus` gives the connection, and may raise BusUnavailable;
    `connected` waits for it.
    """

    def __init__(
        self,
        *,
        node: str,
        root: Path,
        bus: Callable[[], Bus],
        connected: Callable[[float | None], Awaitable[Bus]],
    ) -> None:
        self.node = node
        self.root = root
        self._bus = bus
        self.connected = connected
        self._untold: dict[str, Artifact] = {}

    # On this host

    async def add(
        self,
        path: str | os.PathLike[str],
        *,
        dataset: str,
        config: str = "",
        name: str | None = None,
        value: float = 0.0,
        steps: int | None = None,
        games: int | None = None,
        move: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Artifact:
        """Seal a file, a folder or a SQLite database: from now on it is kept, and never changes.

        It returns once everything is on this host's disk, whether or not there is a broker. The
        same content under the same names is the same artifact: adding it again adds nothing.
        `value`: what losing it would cost, in units of your own (games, steps); of a node that
        goes, the most valuable is saved first. With `move`, the original is gone afterwards.
        `progress` is told how many more bytes are done, in another thread.

        Raises NotSealed, with nothing added: a file that is being written, a name that is refused,
        no room; and ArtifactError where the store cannot be used.
        """
        from interlock.artifacts.sealing import seal

        origin = self._origin()

        def work(cancelled: threading.Event) -> Artifact:
            return seal(
                self._store(),
                Path(path),
                dataset=dataset,
                config=config,
                name=name,
                origin=origin,
                value=value,
                steps=steps,
                games=games,
                move=move,
                progress=progress,
                cancelled=cancelled,
            )

        about = await _sealed(work)
        self._note(about)
        return about

    async def add_log(
        self,
        path: str | os.PathLike[str],
        *,
        dataset: str,
        config: str = "",
        name: str | None = None,
        value: float = 0.0,
        steps: int | None = None,
        games: int | None = None,
    ) -> Artifact | None:
        """Seal the complete lines that a growing log gained since the last time. None: no new one.

        Each segment is an artifact; what is long comes in several, so call it until it returns
        None. Interrupted anywhere and called again, it loses nothing and adds nothing twice. Raises
        as `add`.
        """
        from interlock.artifacts.segments import seal_log

        origin = self._origin()

        def work(_: threading.Event) -> Artifact | None:
            return seal_log(
                self._store(),
                Path(path),
                dataset=dataset,
                config=config,
                name=name,
                origin=origin,
                value=value,
                steps=steps,
                games=games,
            )

        about = await _sealed(work)
        if about is not None:
            self._note(about)
        return about

    def path(self, artifact: str | Artifact) -> Path:
        """Where an artifact is on this host: its file, or its folder. Read it, never write it.

        Raises ArtifactError where it is not here.
        """
        id = _whole(artifact if isinstance(artifact, str) else artifact.id)
        store = self._store(create=False)
        if not store.has(id):
            raise ArtifactError(
                f"artifact {id} is not on this host: have it moved here, with "
                f"fleet.sync(artifacts=[…], targets=['node:{self.node}']) or `interlock sync run`"
            )
        return store.path(id)

    async def told(self, timeout_s: float = 30.0, among: Collection[str] | None = None) -> bool:
        """Wait until the fleet knows of what was sealed through this object; whether it does.

        Of `among` alone, if given. The agent of this host tells of it, usually within milliseconds.
        """
        pause_s = _FIRST_POLL_S
        try:
            async with asyncio.timeout(timeout_s):
                while waiting := [a for a in self.untold if among is None or a.id in among]:
                    with contextlib.suppress(BusUnavailable):
                        bus = await self.connected(None)
                        for about in waiting:
                            while not await self._is_told(bus, about):
                                self._nudge()
                                await asyncio.sleep(pause_s)
                                pause_s = min(_LONGEST_POLL_S, pause_s * 1.6)
                            self._untold.pop(about.id, None)
                        continue
                    await asyncio.sleep(_LONGEST_POLL_S)
        except TimeoutError:
            return False
        return True

    @property
    def untold(self) -> tuple[Artifact, ...]:
        """What was sealed through this object, and is not known to be known to the fleet."""
        return tuple(self._untold.values())

    # In the fleet

    async def list(
        self, dataset: str | None = None, config: str | None = None, *, node: str | None = None
    ) -> tuple[Artifact, ...]:
        """What the fleet knows of, the oldest first; with `node`, only what that node holds.

        Raises BusUnavailable.
        """
        bus = await self.connected(_CONNECTED_S)
        held: set[str] | None = None
        if node is not None:
            copies = await _read(bus, copy_keys(node), Copy)
            held = {copy.id for copy in copies if copy.state == "held"}
        found = [
            about
            for about in await _read(bus, artifact_keys(), Artifact)
            if dataset in (None, about.dataset)
            and config in (None, about.config)
            and (held is None or about.id in held)
        ]
        return tuple(sorted(found, key=lambda about: (about.sealed_at, about.id)))

    async def show(self, artifact: str | Artifact) -> Shown:
        """An artifact and its receipts; `artifact`: its id, or enough of the beginning.

        Raises ArtifactError where none is called so, or several are, and BusUnavailable.
        """
        bus = await self.connected(_CONNECTED_S)
        given = artifact if isinstance(artifact, str) else artifact.id
        id = await self.find(given)
        found = await _read(bus, artifact_key(id), Artifact)
        if not found:
            raise _unknown(id)
        copies = await _read(bus, copy_keys(part=id[:2]).removesuffix("*") + id, Copy)
        return Shown(
            artifact=found[0],
            copies=tuple(sorted(copies, key=lambda copy: copy.node)),
            path=await asyncio.to_thread(self._here, id),
        )

    async def find(self, prefix: str) -> str:
        """The id that begins so. Raises ArtifactError where there is none, or there are several."""
        if _is_whole(prefix):
            return prefix
        return one_of(prefix, await self._ids(_begin(prefix)))

    def find_here(self, prefix: str) -> str:
        """The id on this host that begins so, without a broker. Raises ArtifactError."""
        if _is_whole(prefix):
            return prefix
        begin = _begin(prefix)
        part = begin[:2] if len(begin) >= 2 else None
        return one_of(prefix, self._store(create=False).ids(part))

    async def _ids(self, begin: str) -> "tuple[str, ...]":
        bus = await self.connected(_CONNECTED_S)
        cut = len(INVENTORY.key_subject(artifact_key("")))
        reader = Reader(
            bus,
            INVENTORY.stream,
            (INVENTORY.key_subject(artifact_keys()),),
            {"deliver_policy": "last_per_subject"},
            headers_only=True,
        )
        async with contextlib.aclosing(reader.records(until_end=True)) as records:
            ids = [record.subject[cut:] async for record in records]
        return tuple(id for id in ids if id.startswith(begin))

    def _here(self, id: str) -> str | None:
        try:
            store = self._store(create=False)
            return str(store.path(id)) if store.has(id) else None
        except (ArtifactError, OSError):
            return None

    def _store(self, *, create: bool = True) -> "LocalStore":
        from interlock.artifacts.store import LocalStore

        return LocalStore(self.root, create=create)

    def _origin(self) -> str:
        try:
            return msgspec.convert(self.node, Name)
        except msgspec.ValidationError:
            raise SettingsInvalid(
                f"INTERLOCK_NODE: {self.node[:120]!r} is no name of a node, and its artifacts "
                "would belong to nobody: it begins with a letter or digit and goes on with those "
                "and _ . -, 100 characters at most"
            ) from None

    def _note(self, about: Artifact) -> None:
        self._untold[about.id] = about
        if len(self._untold) > _REMEMBERED:
            # Whoever asks for none of it need not keep it for ever.
            del self._untold[next(iter(self._untold))]
        self._nudge()

    def _nudge(self) -> None:
        """Have the agent look now, not within a second."""
        with contextlib.suppress(BusUnavailable):
            bus = self._bus()
            if bus.connected:
                bus.post(subjects.node_command(AGENT, self.node, _LOOK_VERB), b"")

    async def _is_told(self, bus: Bus, about: Artifact) -> bool:
        from interlock.artifacts.inventory import Inventory

        inventory = Inventory(bus)
        copy = await inventory.copy(self.node, about.id)
        if copy is None or (copy.state != "held" and copy.at < about.sealed_at):
            return False
        return await inventory.artifact(about.id) is not None


def one_of(prefix: str, ids: "Collection[str]") -> str:
    """The one id that begins with a prefix. Raises ArtifactError."""
    begin = _begin(prefix)
    found = [id for id in ids if id.startswith(begin)]
    if not found:
        raise _unknown(prefix)
    if len(found) > 1:
        named = ", ".join(id[: len(begin) + 4] for id in found[:_LISTED])
        more = ", …" if len(found) > _LISTED else ""
        raise ArtifactError(f"{len(found):,} artifacts begin with {begin}: {named}{more}")
    return found[0]


def _is_whole(id: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", id) is not None


def _begin(prefix: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{1,64}", prefix.lower()):
        raise ArtifactError(
            f"{prefix[:80]!r} is no id of an artifact: 64 digits and letters a to f, or the first "
            "ones"
        )
    return prefix.lower()


def _whole(id: str) -> str:
    if not _is_whole(id):
        raise ArtifactError(f"{id[:80]!r} is no id of an artifact: 64 digits and letters a to f")
    return id


def _unknown(id: str) -> ArtifactError:
    return ArtifactError(f"no artifact {id} is known: `interlock artifact list` lists them")


async def _read(bus: Bus, keys: str, type: type[T]) -> "list[T]":
    """What stands under some keys of the inventory. What cannot be read counts as not there."""
    reader = Reader(
        bus,
        INVENTORY.stream,
        (INVENTORY.key_subject(keys),),
        {"deliver_policy": "last_per_subject"},
    )
    decoder = msgspec.json.Decoder(type)
    found = []
    async with contextlib.aclosing(reader.records(until_end=True)) as records:
        async for record in records:
            if record.body:
                with contextlib.suppress(msgspec.DecodeError):
                    found.append(decoder.decode(record.body))
    return found


async def _sealed(work: Callable[[threading.Event], T]) -> T:
    """Seal in a thread. Cancelled, it is told to stop, and waited for: nothing is left behind."""
    cancelled = threading.Event()
    sealing = asyncio.get_running_loop().run_in_executor(None, work, cancelled)
    try:
        return await asyncio.shield(sealing)
    except asyncio.CancelledError:
        cancelled.set()
        with contextlib.suppress(Exception):
            await sealing
        raise
