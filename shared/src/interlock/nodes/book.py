"""The book of nodes: reads and writes their records, each by compare-and-set.

Whoever writes at the same time, an agent that joins or another operator, takes nothing away: a
change is made to what stands at that moment, again if need be. What operators decide is published
as an event too, under an id that is the decision's, so that deciding it again stores it once.
"""

import asyncio
import difflib
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from interlock.acks import Ack
from interlock.backoff import delay_s
from interlock.clock import now, rfc3339
from interlock.errors import InterlockError, WrongRevision
from interlock.fleet import Fleet
from interlock.kv import Store
from interlock.nodes import changes
from interlock.nodes.changes import ImportPlan, MarkName
from interlock.nodes.fleet_file import FleetFile
from interlock_schemas.event import Event
from interlock_schemas.node import NodeCordoned, NodeDrainRequested, NodeRetired, NodeUncordoned
from interlock_schemas.nodes import FLEET_KEY, FleetRecord, Mark, NodeRecord, node_key
from interlock_schemas.topology import NODES

__all__ = ["Decided", "NodeBook", "Page", "UnknownNode", "mark_event_id"]

T = TypeVar("T")

_TRIES: Final = 20
_AT_ONCE: Final = 32


class UnknownNode(InterlockError):
    """Nodes that nothing describes."""

    def __init__(self, names: Iterable[str], known: Iterable[str]) -> None:
        self.names = tuple(names)
        there = sorted(known)
        told = []
        for name in self.names:
            near = difflib.get_close_matches(name, there, n=3)
            told.append(f"{name} (did you mean {' or '.join(near)}?)" if near else name)
        more = "" if there else ". No node is described: `interlock nodes import FILE`"
        super().__init__(f"no such node: {', '.join(told)}{more}")


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What the book says at a moment."""

    nodes: Mapping[str, NodeRecord] = {}
    fleet: FleetRecord | None = None
    unreadable: Mapping[str, str] = {}
    """Keys whose records cannot be read, and why."""


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one node."""

    node: str
    changed: bool
    """False: it was so already."""
    record: NodeRecord


def mark_event_id(event_type: str, node: str, mark: Mark) -> str:
    """The id of the event that tells of a mark, for whoever publishes it."""
    return f"{event_type}/{node}/{mark.at}"


class NodeBook:
    """The records of nodes, on one connection."""

    def __init__(
        self, fleet: Fleet[Ack], *, by: str, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """`by`: who decides, for the marks; 200 characters at most. `progress` is told how many
        nodes are written, of how many."""
        self._fleet = fleet
        self._store = Store(fleet.bus, NODES)
        self._by = by[:200]
        self._progress = progress

    async def read(self) -> Page:
        """Everything that stands."""
        nodes: dict[str, NodeRecord] = {}
        fleet: FleetRecord | None = None
        unreadable: dict[str, str] = {}
        for entry in await self._store.entries():
            value = entry.value or b""
            try:
                if entry.key == FLEET_KEY:
                    fleet = msgspec.json.decode(value, type=FleetRecord)
                else:
                    record = msgspec.json.decode(value, type=NodeRecord)
                    nodes[record.name] = record
            except msgspec.DecodeError as error:
                unreadable[entry.key] = str(error)
        return Page(nodes=dict(sorted(nodes.items())), fleet=fleet, unreadable=unreadable)

    async def get(self, node: str) -> NodeRecord | None:
        """One record. Raises InterlockError where it cannot be read."""
        entry = await self._store.get(node_key(node))
        return None if entry.value is None else _decode(node, entry.value)

    async def put(
        self, node: str, change: Callable[[NodeRecord | None], NodeRecord]
    ) -> tuple[NodeRecord, bool]:
        """Have `change` make the record anew of what stands; it may be asked again.

        Returns the record, and whether it is another one now.
        """
        return await self._change(node_key(node), lambda value: _changed(node, value, change))

    async def import_file(
        self,
        file: FleetFile,
        *,
        prune: bool = False,
        dry_run: bool = False,
    ) -> ImportPlan:
        """Have the book say what a file says. Doing it again changes nothing.

        With `prune`, nodes that such a file described before, and this one does not, are retired;
        InterlockError where it describes none at all.
        """
        page = await self.read()
        for record in file.nodes:
            if node_key(record.name) in page.unreadable:
                why = page.unreadable[node_key(record.name)]
                raise InterlockError(
                    f"the record of {record.name} cannot be read ({why}); is this version of "
                    "Interlock older than the one that wrote it? Nothing was imported."
                )
        if prune and not file.nodes:
            raise InterlockError("the file describes no node: with --prune all would be retired")
        plan = changes.plan_import(file.nodes, file.fleet, page.nodes, page.fleet, prune=prune)
        if dry_run:
            return plan
        described = {record.name: record for record in file.nodes}

        async def one(name: str) -> None:
            if name in described:
                await self.put(name, lambda old: changes.imported(described[name], old))
            else:
                await self._mark(name, "retired", self._new(changes.GONE_FROM_FILE, None))

        if plan.fleet:
            body = msgspec.json.encode(file.fleet)
            await self._change(FLEET_KEY, lambda _: (file.fleet, body))
        await _each([*plan.added, *plan.changed, *plan.retired], one, self._progress)
        return plan

    async def label(
        self, nodes: Iterable[str], given: Mapping[str, str], removed: Iterable[str] = ()
    ) -> list[Decided]:
        """Set labels and take others away. Raises UnknownNode before anything is changed."""
        gone = tuple(removed)

        async def one(node: str) -> Decided:
            return await self._known(node, lambda record: changes.labelled(record, given, gone))

        return await _each(await self._all_known(nodes), one, self._progress)

    async def cordon(
        self, nodes: Iterable[str], *, reason: str = "", until: datetime | None = None
    ) -> list[Decided]:
        """No new work for these. Raises UnknownNode before anything is changed."""
        return await self._mark_all(nodes, "cordon", reason, until)

    async def drain(
        self, nodes: Iterable[str], *, reason: str = "", until: datetime | None = None
    ) -> list[Decided]:
        """No new work, and what they have is to move away. As `cordon`."""
        return await self._mark_all(nodes, "drain", reason, until)

    async def retire(self, nodes: Iterable[str], *, reason: str = "") -> list[Decided]:
        """Take them out of the fleet, on purpose. As `cordon`."""
        return await self._mark_all(nodes, "retired", reason, None)

    async def uncordon(self, nodes: Iterable[str], *, reason: str = "") -> list[Decided]:
        """Take back what keeps work away: cordon, drain, retirement. As `cordon`."""

        async def one(node: str) -> Decided:
            lifted: dict[MarkName, Mark] = {}

            def lift(record: NodeRecord) -> NodeRecord:
                lifted.clear()
                lifted.update(changes.marks_of(record))
                return changes.unmarked(record)

            decided = await self._known(node, lift)
            if lifted:
                latest = max(lifted.values(), key=lambda mark: mark.at)
                event = NodeUncordoned(node=node, by=self._by, reason=reason or None)
                await self._tell(event, latest)
            return decided

        return await _each(await self._all_known(nodes), one, self._progress)

    async def _mark_all(
        self, nodes: Iterable[str], which: MarkName, reason: str, until: datetime | None
    ) -> list[Decided]:
        mark = self._new(reason, until)
        known = await self._all_known(nodes)
        return await _each(known, lambda node: self._mark(node, which, mark), self._progress)

    def _new(self, reason: str, until: datetime | None) -> Mark:
        end = rfc3339(until) if until is not None else None
        return Mark(by=self._by, reason=reason[:500], at=rfc3339(now()), until=end)

    async def _mark(self, node: str, which: MarkName, mark: Mark) -> Decided:
        decided = await self._known(node, lambda record: changes.marked(record, which, mark))
        standing: Mark | None = getattr(decided.record, which)
        if standing is not None:
            # Also where it stood already: whoever set it may have ended before it was told.
            await self._tell(_event(node, which, standing), standing)
        return decided

    async def _tell(self, event: Event, mark: Mark) -> None:
        node: str = getattr(event, "node", "")
        await self._fleet.publish(event, id=mark_event_id(event.event_type, node, mark))

    async def _known(self, node: str, change: Callable[[NodeRecord], NodeRecord]) -> Decided:
        def known(record: NodeRecord | None) -> NodeRecord:
            if record is None:
                raise UnknownNode([node], [])
            return change(record)

        record, changed = await self.put(node, known)
        return Decided(node=node, changed=changed, record=record)

    async def _all_known(self, nodes: Iterable[str]) -> list[str]:
        """The nodes, each once. Raises UnknownNode where one is not described."""
        names = list(dict.fromkeys(nodes))
        entries = await _each(names, lambda name: self._store.get(node_key(name)))
        unknown = [name for name, entry in zip(names, entries, strict=True) if entry.value is None]
        if unknown:
            raise UnknownNode(unknown, (await self.read()).nodes)
        return names

    async def _change(
        self, key: str, change: Callable[[bytes | None], tuple[T, bytes | None]]
    ) -> tuple[T, bool]:
        """Write what `change` makes of what stands, and whether that is anything else."""
        for attempt in range(1, _TRIES + 1):
            entry = await self._store.get(key)
            result, body = change(entry.value)
            if body is None or body == entry.value:
                return result, False
            try:
                await self._store.put(key, body, revision=entry.revision)
            except WrongRevision:
                await asyncio.sleep(delay_s(attempt, base_s=0.005, cap_s=0.5, rand=random.random))
                continue
            return result, True
        raise InterlockError(f"{key} is written all the time by others: try again")


async def _each(
    names: Sequence[str],
    work: Callable[[str], Awaitable[T]],
    progress: Callable[[int, int], None] | None = None,
) -> list[T]:
    """Do it for each, several at once, so that they share the broker's syncs to disk."""
    limit = asyncio.Semaphore(_AT_ONCE)
    done = 0

    async def one(name: str) -> T:
        nonlocal done
        async with limit:
            result = await work(name)
        done += 1
        if progress is not None:
            progress(done, len(names))
        return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(name)) for name in names]
    return [task.result() for task in tasks]


def _decode(node: str, value: bytes) -> NodeRecord:
    try:
        return msgspec.json.decode(value, type=NodeRecord)
    except msgspec.DecodeError as error:
        raise InterlockError(
            f"the record of {node} cannot be read ({error}); is this version of Interlock older "
            "than the one that wrote it?"
        ) from error


def _changed(
    node: str, value: bytes | None, change: Callable[[NodeRecord | None], NodeRecord]
) -> tuple[NodeRecord, bytes | None]:
    """The new record, and its bytes where it is not what stands."""
    standing = None if value is None else _decode(node, value)
    record = change(standing)
    return record, None if record == standing else msgspec.json.encode(record)


def _event(node: str, which: MarkName, mark: Mark) -> Event:
    reason = mark.reason or None
    if which == "cordon":
        return NodeCordoned(node=node, by=mark.by, reason=reason, until=mark.until)
    if which == "drain":
        return NodeDrainRequested(node=node, by=mark.by, reason=reason, until=mark.until)
    return NodeRetired(node=node, reason=reason)
