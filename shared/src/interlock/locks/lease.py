"""A lock that is held: renewed by itself, shown with every write, and given back.

The holder stops before its lease can have ended, on its own monotonic clock. What it writes is
checked besides, by the broker or by a fence, because a process that was frozen learns of the time
only when it wakes.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from interlock import logs
from interlock.bus import Write
from interlock.conditional import ALONE, expecting
from interlock.errors import (
    BusUnavailable,
    InterlockError,
    LeaseLost,
    LockRefused,
    NotAcknowledged,
    WrongRevision,
)
from interlock.locks.holding import Hold, renew_after_s
from interlock_schemas import locks
from interlock_schemas.topology import LOCKS

if TYPE_CHECKING:
    from interlock.locks.locker import Locker

__all__ = ["Lease", "LockContext", "OnLost"]

#: What happens to the body of an ``async with`` when its lease is lost.
OnLost = Literal["cancel", "signal"]

_RETRY_S: Final = 0.1
_RELEASE_S: Final = 5.0

log = logs.get_logger("interlock.locks")


class Lease:
    """A lock in our hands. Made by `Fleet.lock` and `Fleet.acquire_lock`."""

    def __init__(
        self,
        locker: "Locker",
        claim: locks.Claim,
        id: str,
        *,
        token: int,
        revision: int,
        hold: Hold,
        alone: bool,
    ) -> None:
        self._locker = locker
        self.claim = claim
        """As it was asked for."""
        self.id = id
        """Of the claim, in the bucket."""
        self.token = token
        """The fencing token: it rises with each grant of this lock, for ever."""
        self.revision = revision
        """Of the claim's record; renewals change it."""
        self.hold = hold
        self.alone = alone
        """Nobody else had a claim to the lock when we took it, as far as we know."""
        self.lost = asyncio.Event()
        """Set when the lease is lost. Not when it is released."""
        self.lost_reason = ""
        self.released = False
        self._returned = False
        """The broker has been told that it was released."""
        self.unsure = False
        """Something was written under it, and its acknowledgement never came."""
        self._busy = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._alarm = self._loop.call_at(hold.until, self._ran_out)
        self._renewing: asyncio.Task[None] | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._on_lost: list[Callable[[], None]] = []

    @property
    def name(self) -> str:
        """The lock."""
        return self.claim.name

    @property
    def held(self) -> bool:
        """Whether it may be rested on at this moment."""
        return not self.released and not self.lost.is_set() and self.remaining_s > 0

    @property
    def remaining_s(self) -> float:
        """How long it may be rested on without another renewal, seconds."""
        return max(0.0, self.hold.until - self._loop.time())

    def check(self) -> None:
        """Raise LeaseLost unless it may be rested on at this moment. Costs no round trip."""
        if self.released:
            raise LeaseLost(f"{self.name}: token {self.token} was given back")
        if not self.lost.is_set() and self._loop.time() >= self.hold.until:
            # Nothing ran here for so long that the alarm has not gone off yet.
            self.lose(self.hold.why)
        if self.lost.is_set():
            raise LeaseLost(
                f"{self.name}: token {self.token} was lost: {self.lost_reason}. "
                "Acquire it again and begin anew from what stands"
            )

    def headers(self) -> dict[str, str]:
        """What a message written under this lock says of it. Raises LeaseLost."""
        self.check()
        return {locks.LOCK_HEADER: self.name, locks.TOKEN_HEADER: str(self.token)}

    def start(self) -> None:
        """Renew from now on, until it is released or lost."""
        if self._renewal is None:
            first = renew_after_s(self.claim.ttl_s)
            self._renewal = self._loop.call_later(first, self._begin_to_renew)

    def _begin_to_renew(self) -> None:
        # Not before it is due: most locks are given back long before.
        self._renewing = self._loop.create_task(self._renew_on())

    def _stop_renewing(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        if self._renewing is not None and self._renewing is not asyncio.current_task():
            self._renewing.cancel()

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, without arguments, when the lease is lost."""
        self._on_lost.append(callback)

    def lose(self, why: str) -> None:
        """It is not ours any more."""
        if self.lost.is_set() or self.released:
            return
        self.lost_reason = why
        self.lost.set()
        self._alarm.cancel()
        self._stop_renewing()
        log.warning("lease lost", lock=self.name, token=self.token, why=why)
        for callback in self._on_lost:
            callback()
        self._locker.forget(self.id)

    def _ran_out(self) -> None:
        self.lose(self.hold.why)

    def _set_hold(self, hold: Hold) -> None:
        self.hold = hold
        self._alarm.cancel()
        self._alarm = self._loop.call_at(hold.until, self._ran_out)

    async def _renew_on(self) -> None:
        while True:
            while not self.lost.is_set():
                try:
                    await self.renew()
                except LeaseLost:
                    return
                except InterlockError as error:
                    log.info("not renewed yet", lock=self.name, why=str(error))
                    await asyncio.sleep(_RETRY_S * random.uniform(0.5, 1.5))  # noqa: S311
                else:
                    break
            await asyncio.sleep(renew_after_s(self.claim.ttl_s))

    async def renew(self) -> None:
        """Renew now. Raises LeaseLost, and BusUnavailable when it could not be done yet."""
        async with self._busy:
            self.check()
            sent = self._loop.time()
            try:
                revision = await self._locker.renew(self, timeout_s=self.remaining_s)
            except LockRefused as error:
                self.lose(str(error))
                self.check()
                return
            self._renewed(sent, revision)

    def _renewed(self, sent: float, revision: int) -> None:
        hold = self.hold.renewed(sent, self._loop.time())
        if hold is None:
            self.lose(self.hold.why)
        self.check()
        assert hold is not None  # noqa: S101  # for the type checker
        self.revision = revision
        self._set_hold(hold)

    async def put(self, key: str, value: bytes, *, timeout_s: float = 10.0) -> int:
        """Write a piece of Interlock's own state; stored only if this lease stands then.

        The broker checks, so a write that was delayed past the end of the lease stores nothing.
        Returns the revision. Raises LeaseLost, and NotAcknowledged when it may be stored or not.
        """
        async with self._busy:
            for _ in range(3):
                try:
                    return await self._put(key, value, timeout_s)
                except (BusUnavailable, asyncio.CancelledError):
                    self.unsure = True
                    raise
                except WrongRevision as error:
                    if error.unsure:
                        stored = await self._locker.stored(key, value, self.token)
                        if stored is not None:
                            return stored
                        self.unsure = True
                    try:
                        await self._find_again()
                    except LeaseLost as lost:
                        if not error.unsure:
                            raise
                        raise NotAcknowledged(
                            f"{lost}. Whether {key} was stored before that is not known"
                        ) from lost
            raise LeaseLost(f"{self.name}: others write its record: token {self.token} is void")

    async def _put(self, key: str, value: bytes, timeout_s: float) -> int:
        write = Write(
            LOCKS.key_subject(locks.state_key(key)),
            value,
            {
                **self.headers(),
                **ALONE,
                **expecting(self.revision, locks.claim_subject(self.name, self.id)),
            },
        )
        return (await self._locker.bus.commit([write], timeout_s=timeout_s)).seq

    async def _find_again(self) -> None:
        """Lost, or an earlier renewal was stored that nobody told us of."""
        self.check()
        sent = self._loop.time()
        try:
            revision = await self._locker.renew(self, timeout_s=max(0.05, self.remaining_s))
        except LockRefused as error:
            self.lose(str(error))
            self.check()
            raise
        self._renewed(sent, revision)

    async def release(self) -> None:
        """Give it back, for the next to have. Once it is lost or given back, nothing is done.

        Raises BusUnavailable when that could not be told; it ends by itself then.
        """
        try:
            await self._release()
        except (asyncio.CancelledError, BusUnavailable):
            # Seen through all the same: nobody renews it any more.
            self._locker.leave(self.name, self._release())
            raise

    async def _release(self) -> None:
        # Behind a renewal that is under way, so that its revision is known.
        async with self._busy:
            self._stop_renewing()
            self._alarm.cancel()
            if self._returned or self.lost.is_set():
                return
            self.released = True
            self._locker.forget(self.id)
            await self._locker.release(self, timeout_s=_RELEASE_S)
            self._returned = True


class LockContext:
    """``async with fleet.lock(…) as lease``."""

    def __init__(self, acquire: Callable[[], Awaitable[Lease]], on_lost: OnLost) -> None:
        self._acquire = acquire
        self._on_lost = on_lost
        self._lease: Lease | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._cancelling = 0
        """How often the task had been cancelled before: it may be on its way out already."""

    async def __aenter__(self) -> Lease:
        """Take it."""
        self._lease = lease = await self._acquire()
        self._task = task = asyncio.current_task()
        self._cancelling = task.cancelling() if task is not None else 0
        if self._on_lost == "cancel":
            lease.when_lost(self._cancel)
            if lease.lost.is_set():
                self._cancel()
        return lease

    def _cancel(self) -> None:
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give it back; LeaseLost where it was lost and the block was to end by it."""
        lease, task = self._lease, self._task
        self._task = None
        if lease is None:
            return
        if self._cancelled and task is not None:
            # Where the loss came to light in the body itself, or as it ended, our cancellation is
            # still to come. It comes here, and nowhere after.
            stray = task.uncancel() <= self._cancelling and kind is not asyncio.CancelledError
            if stray:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            by_others = task.cancelling() > self._cancelling
            if by_others and stray:
                raise asyncio.CancelledError
            if not by_others and (kind is None or kind is asyncio.CancelledError):
                lease.check()
            return
        if lease.lost.is_set():
            if self._on_lost == "cancel" and kind is None:
                lease.check()
            return
        try:
            await lease.release()
        except BusUnavailable as failure:
            log.warning("not given back: it runs out", lock=lease.name, why=str(failure))
