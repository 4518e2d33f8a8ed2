"""Works off the orders of one node: fetches, drops and checks, and writes receipts.

Only whoever holds the lock of the node's store writes it, and only for the newest router: both
tokens are shown with every commit, so that one that was frozen cannot write any more. Which order
is next is decided in `queue`, by which way in `choosing`; where it goes is the `Destination`, and
what is done about an order is in `moving`.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Final

from interlock.artifacts.choosing import Tracks
from interlock.artifacts.destination import Destination
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.moving.book import OrderBook
from interlock.artifacts.moving.checking import Checking
from interlock.artifacts.moving.dropping import Dropping
from interlock.artifacts.moving.fetching import Fetching
from interlock.artifacts.moving.outcomes import Outcomes
from interlock.artifacts.moving.tenure import Tenure
from interlock.artifacts.moving.under_way import Run, UnderWay
from interlock.artifacts.moving.ways import Ways
from interlock.artifacts.queue import TRIPS, Tried, Trip, TripLimits, next_trips, wake_at
from interlock.artifacts.receipts import Receipts
from interlock.artifacts.transports.base import Carrier
from interlock.fleet import Fleet
from interlock_schemas.artifacts import Transport
from interlock_schemas.nodes import NodeRecord, Storage

__all__ = ["Mover", "UnderWay"]

_LEASE_S: Final = 15.0
_PAUSE_S: Final = 1.0
_GATHER_S: Final = 0.005


class Mover:
    """Carries out the orders of the node that `destination` is of.

    `carriers`: the ways for bytes to come here; whoever made them closes them. `lease_s`: how long
    the store stays with a mover that has vanished, seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        destination: Destination,
        receipts: Receipts,
        *,
        carriers: Mapping[Transport, Carrier],
        lease_s: float = _LEASE_S,
        limits: TripLimits = TRIPS,
    ) -> None:
        self.node = destination.node
        self._limits = limits
        self._tracks = Tracks()
        self._book = OrderBook(fleet.bus, self.node)
        self._ways = Ways(fleet, self.node, carriers, self._tracks)
        self._wake = asyncio.Event()
        self._tenure = Tenure(
            fleet, destination, self._book, lease_s=lease_s, gained=self._wake.set
        )
        self._outcomes = Outcomes(fleet.bus, self._book)
        self._checking = Checking(destination, receipts, self._outcomes)
        self._dropping = Dropping(destination, receipts, self._book, self._outcomes, self._tenure)
        self._fetching = Fetching(
            destination,
            receipts,
            self._book,
            self._outcomes,
            self._tenure,
            self._ways,
            self._checking,
        )
        self._runs: list[Run] = []
        self._draining = False

    async def run(self) -> None:
        """Carry out orders for ever. Raises what it does not know."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._tenure.run())
            group.create_task(self._dispatch(group))

    async def drain(self) -> None:
        """Begin nothing any more, and end what is under way; what is here of it is kept."""
        self._draining = True
        for run in self._runs:
            self._withdraw(run)
        tasks = [run.task for run in self._runs if run.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    def progress(self) -> list[UnderWay]:
        """What is being fetched, at this moment."""
        return [run.told() for run in self._runs if run.fetches]

    def rates(self) -> dict[str, float]:
        """Bytes per second lately received from each source."""
        return self._tracks.rates()

    def handles(self, id: str) -> bool:
        """Whether an artifact is just being dealt with here."""
        return any(id in run.trip.ids for run in self._runs)

    async def described(self) -> NodeRecord | None:
        """How the node is described, as of some seconds ago."""
        return await self._ways.record(self.node)

    async def _watch(self) -> None:
        async for changed in self._book.changes():
            for id in self._outcomes.known if changed is None else (changed,):
                order = self._outcomes.note_change(id)
                if order is not None and order.action == "fetch":
                    self._ways.limit(order)
            for run in self._runs:
                action = run.trip.orders[0].order.action
                if not any(self._book.still(id, action) for id in run.trip.ids):
                    self._withdraw(run)
            self._tenure.epoch_changed()
            self._wake.set()

    def _withdraw(self, run: Run) -> None:
        if run.task is not None and not run.committing:
            run.task.cancel()

    async def _dispatch(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._woken()
            # Orders are given several at a time, and small ones are to go together.
            await asyncio.sleep(_GATHER_S)
            if self._draining or not self._book.is_read or not self._tenure.stands:
                continue
            own = await self.described()
            for trip in next_trips(
                self._book.orders.values(),
                epoch=self._book.epoch,
                now=time.monotonic(),
                slots=(own.storage if own is not None else Storage()).slots,
                under_way=[run.trip for run in self._runs],
                histories=self._outcomes.histories,
                paused=self._book.paused,
                ranked=self._ways.ranked,
                limits=self._limits,
            ):
                self._begin(trip, group)

    async def _woken(self) -> None:
        """Wait for news, or for the next attempt to be due."""
        at = time.monotonic()
        due = wake_at(self._book.orders.values(), self._outcomes.histories, at)
        patience_s = None if due is None else due - at
        if self._book.pauses_end:
            patience_s = min(_PAUSE_S, patience_s or _PAUSE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._wake.wait()
        self._wake.clear()

    def _begin(self, trip: Trip, group: asyncio.TaskGroup) -> None:
        if self._draining:
            return
        run = Run(trip)
        self._runs.append(run)
        run.task = group.create_task(self._carry_out(run))
        run.task.add_done_callback(lambda _: self._ended(run))

    def _ended(self, run: Run) -> None:
        self._runs.remove(run)
        self._wake.set()

    async def _carry_out(self, run: Run) -> None:
        order = run.trip.orders[0].order
        try:
            if order.action == "fetch":
                await self._fetching.fetch(run)
            elif order.action == "drop":
                await self._dropping.drop(run, order)
            else:
                await self._checking.verify(run, order)
        except TransferFailed as error:
            await self._outcomes.failed(order, Tried(code=error.code, text=str(error)))
