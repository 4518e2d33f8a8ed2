"""What the fleet knows of artifacts and their copies: one bucket, written by those who have them.

Each record has one writer, the node that it speaks of, so that a conflict only comes from a run of
that node before this one, or from an attempt that got no answer.
"""

from typing import Final, TypeVar

import msgspec

from interlock import logs
from interlock.bus import Bus
from interlock.conditional import ALONE, PURGE, Write, expecting, living
from interlock.errors import WrongRevision
from interlock.kv import Store
from interlock.reader import Reader
from interlock_schemas.artifacts import (
    Artifact,
    Copy,
    StoreReport,
    artifact_key,
    copy_key,
    copy_keys,
    store_key,
)
from interlock_schemas.topology import INVENTORY

__all__ = ["Inventory"]

T = TypeVar("T")

_COMMIT_S: Final = 10.0

log = logs.get_logger("interlock.artifacts.inventory")


class Inventory:
    """The inventory, over one connection.

    Everything here raises BusUnavailable where the broker does not answer, and may then be called
    again: each call does once, however often it is made.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._store = Store(bus, INVENTORY)

    async def artifact(self, id: str) -> Artifact | None:
        """What is known of an artifact; None: nothing, or nothing that can be read."""
        return _decoded((await self._store.get(artifact_key(id))).value, Artifact)

    async def copy(self, node: str, id: str) -> Copy | None:
        """The receipt of a node's copy; None where there is none."""
        return _decoded((await self._store.get(copy_key(node, id))).value, Copy)

    async def tell_artifact(self, about: Artifact) -> bool:
        """Tell of an artifact that nobody has told of yet; whether it was us."""
        key, body = artifact_key(about.id), msgspec.json.encode(about)
        revision = 0
        while True:
            try:
                await self._write(key, body, revision)
            except WrongRevision:
                entry = await self._store.get(key)
                if entry.value is not None:
                    return False
                revision = entry.revision
            else:
                return True

    async def tell_copy(self, copy: Copy) -> None:
        """Write the receipt of a copy over the one before."""
        await self._tell(copy_key(copy.node, copy.id), msgspec.json.encode(copy))

    async def tell_store(self, report: StoreReport) -> None:
        """Write how a store is."""
        await self._tell(store_key(report.node), msgspec.json.encode(report))

    async def forget_copy(self, node: str, id: str) -> bool:
        """Take a receipt back: there is no such copy; whether there was a receipt."""
        key = copy_key(node, id)
        while True:
            entry = await self._store.get(key)
            if entry.value is None:
                return False
            headers = {
                **living(INVENTORY.marker_ttl_s),
                **PURGE,
                **expecting(entry.revision),
            }
            write = Write(INVENTORY.key_subject(key), b"", headers)
            try:
                await self._bus.commit([write], timeout_s=_COMMIT_S)
            except WrongRevision:
                continue
            return True

    async def copies(self, node: str, part: str | None = None) -> dict[str, Copy]:
        """A node's receipts by artifact, as they stand; of ids that begin with `part`, if given.

        Tombstones are among them. What cannot be read counts as not there.
        """
        reader = Reader(
            self._bus,
            INVENTORY.stream,
            (INVENTORY.key_subject(copy_keys(node, part)),),
            {"deliver_policy": "last_per_subject"},
        )
        found = {}
        async for record in reader.records(until_end=True):
            copy = _decoded(record.body or None, Copy)
            if copy is not None:
                found[copy.id] = copy
        return found

    async def _tell(self, key: str, body: bytes) -> None:
        revision = 0
        while True:
            try:
                await self._write(key, body, revision)
            except WrongRevision:
                revision = (await self._store.get(key)).revision
            else:
                return

    async def _write(self, key: str, body: bytes, revision: int) -> None:
        write = Write(INVENTORY.key_subject(key), body, {**ALONE, **expecting(revision)})
        await self._bus.commit([write], timeout_s=_COMMIT_S)


def _decoded(value: bytes | None, type: type[T]) -> T | None:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=type)
    except (msgspec.DecodeError, RecursionError) as error:
        log.warning("a record makes no sense", type=type.__name__, why=str(error))
        return None
