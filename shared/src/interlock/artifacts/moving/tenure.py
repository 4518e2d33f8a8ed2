"""By which right a store is written: the lock of the store, and the epoch of the newest router.

Both tokens are shown to the store's fence before anything rests on them, so that from then on an
older mover and an older router are refused.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from interlock import logs
from interlock.artifacts.destination import Destination
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.moving.book import OrderBook
from interlock.errors import (
    BusUnavailable,
    FenceBusy,
    FenceUnusable,
    LockBusy,
    LockDeadlock,
    StaleToken,
)
from interlock.fleet import Fleet
from interlock.locks.lease import Lease
from interlock_schemas.orders import mover_lock

__all__ = ["Tenure"]

_WAIT_S: Final = 60.0
_PAUSE_S: Final = 1.0

log = logs.get_logger("interlock.artifacts.mover")


class Tenure:
    """The right to write one store. `gained` is called whenever it has come."""

    def __init__(
        self,
        fleet: Fleet,
        destination: Destination,
        book: OrderBook,
        *,
        lease_s: float,
        gained: Callable[[], None],
    ) -> None:
        self.node = destination.node
        self.lease: Lease | None = None
        self._fleet = fleet
        self._destination = destination
        self._book = book
        self._lease_s = lease_s
        self._gained = gained
        self._shown = (0, 0)
        self._to_show = asyncio.Event()

    async def run(self) -> None:
        """Hold it for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lead())
            group.create_task(self._show_on())

    @property
    def stands(self) -> bool:
        """Whether the store may be written at this moment."""
        lease = self.lease
        return lease is not None and lease.held and self._shown == (lease.token, self._book.epoch)

    def epoch_changed(self) -> None:
        """There may be a newer router."""
        self._to_show.set()

    async def _lead(self) -> None:
        """Hold the lock of the store, and take it again when it was lost."""
        while True:
            try:
                lease = await self._fleet.acquire_lock(
                    mover_lock(self.node),
                    ttl=self._lease_s,
                    wait=_WAIT_S,
                    priority="high",
                    note="writes the store",
                    owner=f"mover:{self.node}",
                )
            except (LockBusy, LockDeadlock, BusUnavailable) as error:
                log.info("the store is not ours to write yet", node=self.node, why=str(error))
                await asyncio.sleep(_PAUSE_S)
                continue
            log.info("writes the store", node=self.node, token=lease.token)
            self.lease = lease
            self._to_show.set()
            try:
                await lease.lost.wait()
            finally:
                self.lease = None
                self._shown = (0, 0)
                if not lease.lost.is_set():
                    with contextlib.suppress(BusUnavailable):
                        await lease.release()

    async def _show_on(self) -> None:
        """Show each new token to the fence, before anything rests on it."""
        while True:
            await self._to_show.wait()
            self._to_show.clear()
            lease, epoch = self.lease, self._book.epoch
            if lease is None or not self._book.is_read or self._shown == (lease.token, epoch):
                continue
            try:
                await self._destination.show(order_token=epoch or None, store_token=lease.token)
            except StaleToken as error:
                log.warning("another mover or router came after", node=self.node, why=str(error))
                if error.resource == "store":
                    lease.lose("its token was shown after a higher one")
                await self._look_again()
                continue
            except (FenceBusy, FenceUnusable, TransferFailed) as error:
                log.error("the store cannot be written", node=self.node, why=str(error))
                await self._look_again()
                continue
            if self.lease is lease:
                self._shown = (lease.token, epoch)
            self._gained()

    async def _look_again(self) -> None:
        await asyncio.sleep(_PAUSE_S)
        self._to_show.set()
