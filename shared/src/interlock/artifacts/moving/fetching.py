"""Carries out a trip: manifests, room, bytes, commit, receipt, in this order.

What is complete is committed, whatever became of the rest. A failure that concerns one artifact
takes it out of the trip; one of the way has the next transport tried.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import msgspec

from interlock import logs
from interlock.artifacts import manifest as manifests
from interlock.artifacts.destination import Destination, Incoming
from interlock.artifacts.errors import ArtifactError, TransferFailed
from interlock.artifacts.moving.book import OrderBook
from interlock.artifacts.moving.checking import Checking
from interlock.artifacts.moving.intake import Intake
from interlock.artifacts.moving.outcomes import Outcomes
from interlock.artifacts.moving.tenure import Tenure
from interlock.artifacts.moving.under_way import Run
from interlock.artifacts.moving.ways import Ways
from interlock.artifacts.queue import Tried
from interlock.artifacts.receipts import Receipts
from interlock.artifacts.transports.base import Carrier, Peer
from interlock.clock import now, rfc3339
from interlock_schemas.artifacts import Copy, Transport
from interlock_schemas.orders import FailureCode, Order, Source

__all__ = ["Fetching"]

_MANIFESTS_AT_ONCE: Final = 8
_WRITES_AT_ONCE: Final = 32
#: What is complete of a trip stands so soon, whatever is still on its way: its source may be gone
#: before the rest has come.
_TAKEN_IN_EVERY_S: Final = 0.5
#: Failures of one artifact, that say nothing about the others of a trip.
_OF_ONE: Final[frozenset[FailureCode]] = frozenset(("damaged", "source_gone", "source_damaged"))

log = logs.get_logger("interlock.artifacts.mover")


class _Spent(msgspec.Struct):
    """What it took so far to have an artifact here, by all attempts of this process."""

    began: float
    count: int = 0
    """Bytes that came."""


class Fetching:
    """Fetches artifacts into one store."""

    def __init__(
        self,
        destination: Destination,
        receipts: Receipts,
        book: OrderBook,
        outcomes: Outcomes,
        tenure: Tenure,
        ways: Ways,
        checking: Checking,
    ) -> None:
        self.node = destination.node
        self._destination = destination
        self._receipts = receipts
        self._book = book
        self._outcomes = outcomes
        self._tenure = tenure
        self._ways = ways
        self._checking = checking
        self._spent: dict[str, _Spent] = {}

    async def fetch(self, run: Run) -> None:
        """Have the artifacts of a trip here. What fails is noted with its order."""
        wanted: dict[str, Order] = {}
        for id in [id for id in self._spent if id not in self._book.orders]:
            del self._spent[id]
        for each in run.trip.orders:
            order = each.order
            try:
                if await self._destination.holds(order.artifact):
                    await self._checking.is_held(order)
                else:
                    wanted[order.artifact] = order
            except TransferFailed as error:
                await self._outcomes.failed(order, Tried(code=error.code, text=str(error)))
        source = run.trip.source
        if source is None:
            for order in wanted.values():
                await self._outcomes.failed(
                    order, Tried(code="source_gone", text="no node is known to have a copy")
                )
        elif wanted:
            async with self._ways.slot(source, run.trip.orders[0].order):
                await self._fetch_from(run, source, wanted)

    async def _fetch_from(self, run: Run, source: Source, wanted: dict[str, Order]) -> None:
        """By each transport in turn, until nothing is wanted any more."""
        first = next(iter(wanted.values()))
        peer = await self._ways.peer(source)
        tried: list[Tried] = []
        for transport in self._ways.transports(source, first):
            carrier = self._ways.carriers[transport]
            unusable = await carrier.usable(peer)
            if unusable is not None:
                tried.append(_tried("unreachable", unusable, source, transport))
                continue
            while wanted:
                failed = await self._fetch_by(run, peer, carrier, wanted)
                if failed is None:
                    continue
                self._ways.failed(source, transport, failed.code)
                tried.append(failed)
                break
            if not wanted:
                return
        if not tried:
            text = f"no way leads to {source.node}: {', '.join(source.transports) or 'none named'}"
            tried.append(_tried("unreachable", text, source, None))
        for order in wanted.values():
            await self._outcomes.failed(order, *tried)

    async def _fetch_by(
        self, run: Run, peer: Peer, carrier: Carrier, wanted: dict[str, Order]
    ) -> Tried | None:
        """One attempt. What is settled goes out of `wanted`, one at least, unless the way failed:
        then why it did."""
        source = peer.source
        coming: list[Incoming] = []
        try:
            why = await self._prepare_all(peer, carrier, wanted, coming)
            if why is not None or not coming:
                return why
            intake = Intake(coming, run.count)
            pieces = [piece for each in coming for piece in each.missing]
            asked = sum(piece.length for piece in pieces)
            began = time.monotonic()
            for each in coming:
                self._spent.setdefault(each.id, _Spent(began))
            error: TransferFailed | None = None
            there = len(wanted)

            async def take_in() -> None:
                coming_yet = intake.expected
                here = [
                    each.id
                    for each in coming
                    if each.complete and each.id in wanted and each.id not in coming_yet
                ]
                for id in here:
                    self._spent[id].count += intake.received.pop(id, 0)
                await self._take_in(run, here, wanted, source, carrier.name)

            if pieces:
                try:
                    async with _again_and_again(take_in, wanted=len(coming) > 1):
                        await carrier.fetch(peer, pieces, intake, self._ways.pacer(source))
                except TransferFailed as failed:
                    error = failed
                finally:
                    intake.close()
            if error is None and pieces:
                self._ways.went(source, carrier.name, asked, time.monotonic() - began)
            await take_in()
            for id, count in intake.received.items():
                if id in self._spent:
                    self._spent[id].count += count
            if error is None:
                if len(wanted) == there:
                    text = "it delivered less than was asked for"
                    return _tried("io", text, source, carrier.name)
                return None
            guilty = intake.current
            refused = intake.refused
            if refused is not None and refused.code == "damaged" and error.code != "damaged":
                # The bytes did not fit, and the carrier found out why.
                refused = None
            if refused is not None and guilty is not None:
                ours = refused.code != "damaged"
                failure = _tried(
                    refused.code,
                    str(refused),
                    None if ours else source,
                    carrier.name,
                )
                await self._settle(wanted, guilty, failure)
                return None
            failure = _tried(error.code, str(error), source, carrier.name)
            if error.code in _OF_ONE and guilty is not None:
                await self._settle(wanted, guilty, failure)
                return None
            return failure
        finally:
            for each in coming:
                await each.close()

    async def _settle(self, wanted: dict[str, Order], id: str, failure: Tried) -> None:
        order = wanted.pop(id, None)
        if order is not None:
            await self._outcomes.failed(order, failure)

    async def _prepare_all(
        self, peer: Peer, carrier: Carrier, wanted: dict[str, Order], coming: list[Incoming]
    ) -> Tried | None:
        """Fetch the manifests and make room. What cannot be taken in at all goes out of `wanted`.
        Why the way failed, if it did."""
        source = peer.source
        places = asyncio.Semaphore(_MANIFESTS_AT_ONCE)
        broken: list[Tried] = []

        async def one(order: Order) -> bytes | Tried | None:
            async with places:
                if broken:
                    return None
                try:
                    data = await carrier.manifest(peer, order.artifact)
                except TransferFailed as error:
                    failure = _tried(error.code, str(error), source, carrier.name)
                    if error.code not in _OF_ONE:
                        broken.append(failure)
                    return failure
                if manifests.id_of(data) != order.artifact:
                    text = "its manifest is not the one that the artifact is called after"
                    return _tried("damaged", text, source, carrier.name)
                return data

        orders = list(wanted.values())
        found = await asyncio.gather(*(one(order) for order in orders))
        if broken:
            return broken[0]
        for order, data in zip(orders, found, strict=True):
            if isinstance(data, Tried):
                await self._settle(wanted, order.artifact, data)
            elif data is not None:
                try:
                    coming.append(await self._destination.prepare(order.about, data))
                except TransferFailed as error:
                    failure = Tried(code=error.code, text=str(error))
                    await self._settle(wanted, order.artifact, failure)
                except ArtifactError as error:
                    failure = Tried(code="refused_name", text=str(error))
                    await self._settle(wanted, order.artifact, failure)
        return None

    async def _take_in(
        self,
        run: Run,
        here: Sequence[str],
        wanted: dict[str, Order],
        source: Source,
        transport: Transport,
    ) -> None:
        """Commit what is complete, and see it through to the receipts."""
        if not here:
            return
        run.committing = True
        try:
            if len(here) > 1:
                await self._destination.flush()
            done: list[tuple[Order, Copy]] = []
            for id in here:
                order = wanted.pop(id)
                if not await self._commit(order, flushed=len(here) > 1):
                    continue
                at = rfc3339(now())
                spent = self._spent.pop(id)
                copy = Copy(
                    id=order.artifact,
                    node=self.node,
                    bytes=order.about.bytes,
                    at=at,
                    verified_at=at,
                    seconds=round(time.monotonic() - spent.began, 6),
                    moved=spent.count,
                    source=source.node,
                    transport=transport,
                    token=self._book.token(order),
                    order=order.id,
                )
                done.append((order, copy))
            places = asyncio.Semaphore(_WRITES_AT_ONCE)

            async def tell(order: Order, copy: Copy) -> None:
                async with places:
                    await self._receipts.held(order.about, copy)
                    await self._outcomes.done(order)

            await asyncio.gather(*(tell(order, copy) for order, copy in done))
        finally:
            run.committing = False

    async def _commit(self, order: Order, *, flushed: bool) -> bool:
        """Have it stand under its final name, by the tokens of this moment; whether it does."""
        lease = self._tenure.lease
        token = self._book.token(order)
        if self._book.still(order.artifact, "fetch") is None:
            return False
        if lease is None or not self._tenure.stands or token < self._book.epoch:
            # It is taken up again with the next lease or token, and nothing of it is missing then.
            self._outcomes.put_off(order)
            return False
        try:
            await self._destination.commit(
                order.artifact, order_token=token, store_token=lease.token, flushed=flushed
            )
        except TransferFailed as error:
            if error.code != "stale_token":
                await self._outcomes.failed(order, Tried(code=error.code, text=str(error)))
                return False
            log.warning("not committed", artifact=order.artifact, why=str(error))
            if token >= self._book.epoch:
                lease.lose(str(error))
            self._outcomes.put_off(order)
            return False
        return True


@contextlib.asynccontextmanager
async def _again_and_again(
    work: Callable[[], Awaitable[None]], *, wanted: bool
) -> AsyncIterator[None]:
    """Have something done every moment while the block lasts; the last time is seen through."""
    if not wanted:
        yield
        return
    over = asyncio.Event()

    async def repeat() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TAKEN_IN_EVERY_S):
                    await over.wait()
                    return
            await work()

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        over.set()
        await task


def _tried(
    code: FailureCode, text: str, source: Source | None, transport: Transport | None
) -> Tried:
    return Tried(
        code=code,
        text=text,
        source=source.node if source is not None else None,
        transport=transport,
    )
