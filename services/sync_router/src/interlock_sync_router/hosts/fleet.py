"""Which hosts the router drives at this moment, each with a keeper of its own.

The router that decides drives them all; one that does not decide any more drives none. A host whose
description changes is driven anew.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from interlock import logs, state
from interlock.artifacts.transports import carriers
from interlock.artifacts.transports.base import Carrier
from interlock.artifacts.transports.ssh_options import SshOptions
from interlock.fleet import Fleet
from interlock_schemas.artifacts import Transport
from interlock_schemas.nodes import NodeRecord
from interlock_sync_router.hosts.rhythm import Rhythm
from interlock_sync_router.settings import Settings

__all__ = ["Hosts", "is_driven", "staging_folder"]

_LOOK_S: Final = 0.5

log = logs.get_logger("interlock.router.hosts")


def is_driven(record: NodeRecord) -> bool:
    """Whether the router writes the store of a node: no agent runs there, and SSH leads to it."""
    return (
        not record.agent
        and record.ssh is not None
        and record.retired is None
        and record.storage.path is not None
        and record.storage.path.startswith("/")
    )


def staging_folder(settings: Settings) -> Path:
    """Through which data goes to them."""
    return settings.sync_staging or (settings.state or state.default_folder()) / "sync-staging"


class Hosts:
    """All hosts that have SSH only. `run` it.

    `wanted` says which are to be driven now, by name: none, unless this router decides.
    """

    def __init__(
        self,
        fleet: Fleet,
        settings: Settings,
        *,
        wanted: Callable[[], Mapping[str, NodeRecord]],
        rhythm: Rhythm | None = None,
    ) -> None:
        self._fleet = fleet
        self._staging = staging_folder(settings)
        self._options = SshOptions(
            identity=settings.sync_ssh_identity, known_hosts=settings.sync_known_hosts
        )
        self._instance = secrets.token_hex(8)
        self._wanted = wanted
        self._rhythm = rhythm
        self._ways: dict[Transport, Carrier] = {}
        self._driven: dict[str, tuple[NodeRecord, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Drive those that are wanted, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    wanted = self._wanted()
                    for name, (record, task) in list(self._driven.items()):
                        if name not in wanted or not _same(record, wanted[name]):
                            await self._end(name, task)
                    for name, record in wanted.items():
                        if name not in self._driven:
                            self._driven[name] = record, group.create_task(self._keep(record))
                    await asyncio.sleep(_LOOK_S)
        finally:
            self._driven.clear()
            for way in self._ways.values():
                await way.close()

    async def _keep(self, record: NodeRecord) -> None:
        # A fleet without such hosts needs no SSH.
        from interlock_sync_router.hosts.keeper import HostKeeper

        if not self._ways:
            self._ways = carriers(self._fleet.bus, self._options)
        log.info("a host is driven from here", node=record.name)
        keeper = HostKeeper(
            self._fleet,
            record,
            staging=self._staging / record.name,
            carriers=self._ways,
            options=self._options,
            instance=self._instance,
            rhythm=self._rhythm,
        )
        await keeper.run()

    async def _end(self, name: str, task: asyncio.Task[None]) -> None:
        del self._driven[name]
        task.cancel()
        await asyncio.wait([task])
        log.info("a host is not driven from here any more", node=name)


def _same(one: NodeRecord, other: NodeRecord) -> bool:
    """Whether a keeper of the one is one of the other."""
    return (one.ssh, one.storage.path, one.storage.egress_bytes_per_s) == (
        other.ssh,
        other.storage.path,
        other.storage.egress_bytes_per_s,
    )
