"""Sends on what waits in an outbox, in order, when the broker can be reached.

One process at a time does it, for all that write into the file. A row leaves the file only after
the broker's acknowledgement; before it is sent, it is marked on disk, so that whoever comes after a
crash knows what may have arrived.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence

import msgspec

from interlock import logs, metrics
from interlock.backoff import delay_s
from interlock.bus import Ack, ApiError, Bus
from interlock.errors import (
    BusUnavailable,
    ContractBroken,
    MessageTooLarge,
    OutboxUnusable,
    PublishRefused,
)
from interlock.link import Link
from interlock.outbox.disk import Disk
from interlock.outbox.lock import ForwarderLock, holder
from interlock.outbox.lookup import NoStream, duplicate_window, stored
from interlock.outbox.rules import SENDING_S, Row, lane
from interlock_schemas import envelope

__all__ = ["Forwarder"]

#: Rows that are marked, sent and taken out together.
_BATCH = 2_000

#: A publish is given up by the forwarder, not by its own deadline, seconds.
_NEVER_S = 10 * SENDING_S

#: How often a file is looked at for what other processes wrote, seconds.
_POLL_S = 0.2

#: After so long without a connection, that is the last error, seconds.
_PATIENCE_S = 5.0

#: After so long without an acknowledgement, it is asked whether a stream takes it at all, seconds.
_ASK_AFTER_S = 3.0

_RETRY_BASE_S = 0.2
_RETRY_CAP_S = 5.0

log = logs.get_logger("interlock.outbox")

_decode_headers = msgspec.json.Decoder(dict[str, str]).decode


class Forwarder:
    """Forwards one outbox over one link. `on_room` is called when messages have left."""

    def __init__(self, disk: Disk, link: Link, *, on_room: Callable[[], None]) -> None:
        self._disk = disk
        self._store = disk.store
        self._link = link
        self._on_room = on_room
        self._lock = ForwarderLock(disk.store.path)
        self._woken = asyncio.Event()
        self._empty = asyncio.Event()
        self._windows_s: dict[str, float] = {}
        self._done: list[int] = []
        self._refused: dict[int, str] = {}
        self._failing = False
        self.forwards = False
        """Whether it is this process that forwards."""

    def wake(self) -> None:
        """Something was stored."""
        self._empty.clear()
        self._woken.set()

    async def drained(self) -> None:
        """Return when nothing waits, or at once where another process forwards."""
        while await self._disk.do(self._store.waiting) > 0:
            if not self.forwards and holder(self._store.path) is not None:
                return
            self.wake()
            await _either(self._empty)

    async def run(self) -> None:
        """Forward until cancelled, whenever there is a connection and no other process does."""
        failures = 0
        while True:
            try:
                bus = await self._connection()
                if not self._acquire():
                    await asyncio.sleep(_POLL_S)
                    continue
                try:
                    self.forwards = True
                    while bus.connected:
                        await self._turn(bus)
                        failures = 0
                finally:
                    # A process with a better connection may go on.
                    self.forwards = False
                    with contextlib.suppress(OutboxUnusable):
                        await self._settle()
                    self._lock.release()
            except (BusUnavailable, ContractBroken, ApiError, OutboxUnusable) as error:
                failures += 1
                await self._note(str(error))
                await asyncio.sleep(
                    delay_s(failures, base_s=_RETRY_BASE_S, cap_s=_RETRY_CAP_S, rand=random.random)
                )

    def _acquire(self) -> bool:
        try:
            return self._lock.acquire()
        except OSError as error:
            raise OutboxUnusable(
                f"cannot lock the outbox {self._store.path}: {error.strerror}"
            ) from error

    async def _turn(self, bus: Bus) -> None:
        self._woken.clear()
        turn = await self._disk.do(
            self._store.advance,
            self._done,
            self._refused,
            limit=_BATCH,
            windows_s=self._windows_s,
        )
        self._settled()
        if turn.rows:
            await self._send(bus, turn.rows)
            self._failing = False
        elif turn.doubtful:
            await self._look_up(bus)
        else:
            metrics.OUTBOX_WAITING.set(0)
            self._empty.set()
            await _either(self._woken)

    async def _connection(self) -> Bus:
        """The connection, once it stands. Raises BusUnavailable, so that `status` has a reason."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        while True:
            bus = await self._link.wait(_PATIENCE_S)
            back = asyncio.Event()
            with bus.on_reconnect(back.set):
                if bus.connected:
                    return bus
                # In the end it may also be closed, and the link makes another.
                await _either(back)
            if asyncio.get_running_loop().time() > deadline:
                raise BusUnavailable(f"the connection to the broker at {bus.url} is lost")

    async def _send(self, bus: Bus, rows: Sequence[Row]) -> None:
        """Send rows; what became of them is in `_done` and `_refused`, also when this raises."""
        sent: list[tuple[Row, dict[str, str], asyncio.Future[Ack]]] = []
        given_up = False
        try:
            for row in rows:
                headers = _decode_headers(row.headers)
                try:
                    future = await bus.publish_soon(
                        row.subject, row.body, headers, timeout_s=_NEVER_S
                    )
                except (PublishRefused, MessageTooLarge) as error:
                    self._refuse(row, error)
                else:
                    sent.append((row, headers, future))
            if sent:
                futures = [each for _, _, each in sent]
                _, late = await asyncio.wait(futures, timeout=_ASK_AFTER_S)
                if late:
                    await self._set_aside(bus, sent)
                    _, late = await asyncio.wait(futures, timeout=SENDING_S - _ASK_AFTER_S)
                given_up = bool(late)
        finally:
            failure = self._outcomes(sent)
        if failure is not None:
            raise failure
        if given_up:
            raise await self._silence(bus, rows[0].subject)

    async def _set_aside(
        self, bus: Bus, sent: Sequence[tuple[Row, dict[str, str], "asyncio.Future[Ack]"]]
    ) -> None:
        """Refuse what no stream takes, so that it does not keep back what others do take."""
        waiting = [(row, future) for row, _, future in sent if not future.done()]
        for subject in {row.subject for row, _ in waiting}:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await duplicate_window(bus, subject)
            except NoStream as error:
                for row, future in waiting:
                    if row.subject == subject and future.cancel():
                        self._refuse(row, error)
            except (BusUnavailable, ContractBroken, TimeoutError):
                return

    def _outcomes(
        self, sent: Sequence[tuple[Row, dict[str, str], "asyncio.Future[Ack]"]]
    ) -> BaseException | None:
        """Note what has an outcome, and give up the rest; the first error, where there is one.

        All is given up at the same moment. With deadlines of their own, a row could still be sent
        after the one before it was given up, and be stored first.
        """
        failure: BaseException | None = None
        for row, headers, future in sent:
            if not future.done():
                future.cancel()
            elif not future.cancelled():
                error = future.exception()
                if error is None:
                    self._acknowledge(row, headers)
                elif isinstance(error, PublishRefused | MessageTooLarge):
                    self._refuse(row, error)
                elif failure is None:
                    failure = error
        return failure

    async def _silence(self, bus: Bus, subject: str) -> BusUnavailable:
        """Why a publish was not acknowledged, as far as can be found out."""
        why = "the broker did not answer"
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await duplicate_window(bus, subject)
        except (BusUnavailable, ContractBroken) as error:
            why = str(error)
        except TimeoutError:
            pass
        return BusUnavailable(f"{subject} was not acknowledged within {SENDING_S:g} s: {why}")

    def _acknowledge(self, row: Row, headers: dict[str, str]) -> None:
        self._done.append(row.seq)
        metrics.OUTBOX_FORWARDED.add(1)
        kind = envelope.lookup(headers, envelope.TYPE) or lane(row.subject)
        metrics.PUBLISHED.add(1, {"type": kind})

    def _refuse(self, row: Row, error: Exception) -> None:
        self._refused[row.seq] = str(error)
        metrics.OUTBOX_REFUSED.add(1)
        log.error(
            "refused by the broker, set aside: see `interlock outbox refused`",
            path=str(self._store.path),
            id=row.id,
            subject=row.subject,
            why=str(error),
        )

    async def _settle(self) -> None:
        """Take out of the file what has an outcome."""
        if self._done or self._refused:
            await self._disk.do(
                self._store.advance, self._done, self._refused, limit=0, windows_s={}
            )
            self._settled()

    def _settled(self) -> None:
        if self._done or self._refused:
            self._done, self._refused = [], {}
            self._on_room()

    async def _look_up(self, bus: Bus) -> None:
        """Ask which of the doubtful rows have arrived, and take those out."""
        streams: dict[str, str] = {}
        gone: set[str] = set()
        for subject in await self._disk.do(self._store.suspects):
            try:
                streams[lane(subject)], window_s = await duplicate_window(bus, subject)
            except NoStream:
                # Nothing of it can have arrived; sending it will set it aside.
                gone.add(lane(subject))
                window_s = 0.0
            self._windows_s[lane(subject)] = window_s
        doubts = await self._disk.do(self._store.doubts, self._windows_s)
        if never := [each.row.seq for each in doubts if lane(each.row.subject) in gone]:
            await self._disk.do(self._store.resolve, [], never)
        for name, stream in streams.items():
            asked = [each for each in doubts if lane(each.row.subject) == name]
            if not asked:
                continue
            found = await stored(
                bus,
                stream,
                [each.row.subject for each in asked],
                {each.row.id for each in asked},
                since_ns=min(each.since_ns for each in asked),
            )
            arrived = [each.row.seq for each in asked if each.row.id in found]
            absent = [each.row.seq for each in asked if each.row.id not in found]
            await self._disk.do(self._store.resolve, arrived, absent)
            log.info(
                "looked up what had been sent before",
                stream=stream,
                arrived=len(arrived),
                absent=len(absent),
            )
            if arrived:
                self._on_room()

    async def _note(self, why: str) -> None:
        """Say what is wrong, once."""
        with contextlib.suppress(OutboxUnusable):
            await self._disk.do(self._store.failed, why)
        if not self._failing:
            self._failing = True
            log.warning("cannot forward, trying on", path=str(self._store.path), why=why)


async def _either(event: asyncio.Event) -> None:
    """Wait for an event, or until it is time to look for what nobody tells."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_POLL_S):
            await event.wait()
