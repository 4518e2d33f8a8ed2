"""Taking locks: alone straight at the bucket, beside others through the lock service.

Where nobody has a claim, one compare-and-set on the lock's group takes it, and one gives it back.
Where somebody has, the service queues the claim and hands over; this end keeps the claim alive,
hears of the grant, and takes it up by renewing it before it rests on it.
"""

import asyncio
import contextlib
import itertools
import math
import random
import secrets
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec

from interlock import logs
from interlock.bus import ApiError, Bus, Write
from interlock.clock import parse_ns, rfc3339_ns
from interlock.conditional import PURGE, expecting, living
from interlock.errors import (
    BusUnavailable,
    CommandFailed,
    InterlockError,
    LeaseLost,
    LockBusy,
    LockDeadlock,
    LockError,
    LockRefused,
    LockTimeout,
    PublishRefused,
    WrongRevision,
)
from interlock.kv import decode_message
from interlock.locks.holding import Hold, confirmed
from interlock.locks.lease import Lease
from interlock_schemas import locks, subjects
from interlock_schemas.contracts import Command
from interlock_schemas.locks import (
    AcquireLock,
    Claim,
    ClaimAnswer,
    ClaimView,
    KeepWaiting,
    LockNotice,
    ReleaseLock,
    RenewLock,
    ShowLock,
    claim_of,
)
from interlock_schemas.topology import LOCKS

__all__ = ["Ask", "Locker"]

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")

_KEEP_S: Final = 1.8
_TRY_S: Final = 1.5
_PAUSE_S: Final = 0.1
#: The marker of what we gave back is named for so long, and then taken to be gone.
_MARKER_S: Final = 0.9
_MOST_MARKERS: Final = 4_096
#: How long to try to say that we have left; a waiting claim is gone by itself before.
_DEPART_S: Final = 8.0
#: What looks like a deadlock is looked at again after so long.
_SECOND_LOOK_S: Final = 0.2

log = logs.get_logger("interlock.locks")


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, and how long to wait for it."""

    request: AcquireLock
    wait_s: float


class _Granted(msgspec.Struct, frozen=True):
    """A claim that holds, and is to be taken up."""

    token: int
    revision: int
    asked_ns: int
    asked_seq: int
    held_ns: int
    after: str


class _Waiter:
    """One request on its way through the queue."""

    def __init__(self, request: AcquireLock) -> None:
        self.request = request
        self.notices: asyncio.Queue[LockNotice | None] = asyncio.Queue()
        self.answer: ClaimAnswer | None = None
        """That it waits; None: it is not known to."""
        self.queued = False
        self.refused = False
        """As a deadlock, once."""
        self.holders: tuple[ClaimView, ...] = ()
        self.waiting_at = -math.inf
        """When something was sent whose answer was that it waits."""
        self.why = ""
        """What went wrong last."""

    @property
    def id(self) -> str:
        """Of the claim."""
        return str(self.request.id)

    def waits(self, answer: ClaimAnswer, sent: float) -> None:
        """It is in the queue."""
        self.answer = answer
        self.queued = True
        self.holders = answer.holders
        self.waiting_at = sent
        self.why = ""
        self.request = msgspec.structs.replace(
            self.request, asked_ns=answer.asked_ns, asked_seq=answer.asked_seq
        )

    def begin_anew(self) -> None:
        """Its claim is gone: the next one has another id, and the same place."""
        self.request = msgspec.structs.replace(self.request, id=secrets.token_hex(12))
        self.answer = None
        self.waiting_at = -math.inf
        self.notices = asyncio.Queue()


class Locker:
    """The locks of one connection."""

    def __init__(
        self,
        bus: Bus,
        ask: Callable[..., Coroutine[Any, Any, Any]],
        *,
        source: str,
        node: str,
        direct: bool = True,
    ) -> None:
        """`ask`: sends a command, as `Fleet.command` does. `direct`: go to the bucket where that
        is enough, which takes permission to write it."""
        self.bus = bus
        self._ask = ask
        self._source = source
        self._node = node
        self._direct = direct
        self._client = secrets.token_hex(8)
        self._loop = asyncio.get_running_loop()
        self._listening = False
        self._to_listen = asyncio.Lock()
        self._closed = False
        self._notices: dict[str, asyncio.Queue[LockNotice | None]] = {}
        self._leases: dict[str, Lease] = {}
        self._markers: dict[str, tuple[int, float]] = {}
        self._owners: weakref.WeakKeyDictionary[asyncio.Task[Any], str] = (
            weakref.WeakKeyDictionary()
        )
        self._numbers = itertools.count(1)
        self._leaving: dict[asyncio.Task[None], str] = {}

    def owner(self) -> str:
        """Who asks, in deadlocks: the task that runs."""
        task = asyncio.current_task()
        if task is None:
            return ""
        owner = self._owners.get(task)
        if owner is None:
            owner = self._owners[task] = (
                f"{self._source[:150]}/{self._client}#{next(self._numbers)}"
            )
        return owner

    def asking(
        self,
        name: str,
        *,
        ttl: float,
        wait: float,
        priority: str,
        slots: int,
        max_age: float | None,
        note: str,
        owner: str | None,
    ) -> Ask:
        """A request, checked. Raises LockRefused, which names the field."""
        if not wait >= 0:
            raise LockRefused(f"wait is 0 or more seconds, or math.inf, not {wait!r}")
        fields: dict[str, Any] = {
            "name": name,
            "id": secrets.token_hex(12),
            "wait": wait > 0,
            "ttl_s": ttl,
            "priority": priority,
            "slots": slots,
            "max_age_s": max_age,
            "owner": self.owner() if owner is None else owner,
            "client": self._client,
            "node": self._node,
            "note": note,
        }
        if isinstance(ttl, float) and not math.isfinite(ttl):
            raise LockRefused(f"ttl is a number of seconds, not {ttl!r}")
        try:
            return Ask(request=msgspec.convert(fields, AcquireLock), wait_s=wait)
        except msgspec.ValidationError as error:
            raise LockRefused(f"lock {name!r}: {error}") from None

    async def acquire(self, ask: Ask) -> Lease:
        """Take a lock. Raises LockBusy, LockTimeout, LockDeadlock, LockRefused, BusUnavailable."""
        if self._closed:
            raise BusUnavailable(f"{ask.request.name} was not asked for: the connection is closed")
        # What we have given up and not given back yet would stand in our own way.
        leaving = [task for task, name in self._leaving.items() if name == ask.request.name]
        if leaving:
            await asyncio.wait(leaving, timeout=min(ask.wait_s, _TRY_S))
        if not self._listening:
            await self._listen()
        lease = await self._take(ask.request) if self._direct else None
        if lease is None:
            lease = await self._queue(ask)
        self._leases[lease.id] = lease
        lease.start()
        return lease

    # Alone

    async def _take(self, request: AcquireLock) -> Lease | None:
        """Take it where nobody has a claim to it; None where the service has to see to it."""
        assert request.id is not None  # noqa: S101  # for the type checker
        claim = claim_of(request)
        body = msgspec.json.encode(claim)
        group = locks.group(request.name)
        marker, since = self._markers.pop(request.name, (0, 0.0))
        last = marker if self._loop.time() - since < _MARKER_S else 0
        for _ in range(3):
            sent = self._loop.time()
            write = Write(
                locks.claim_subject(request.name, request.id),
                body,
                {**living(locks.life_s(request.ttl_s)), **expecting(last, group)},
            )
            try:
                ack = await self.bus.commit([write], timeout_s=_TRY_S)
            except asyncio.CancelledError:
                # What was sent may be stored all the same, and would stand for a whole lease.
                self.leave(request.name, self._undo(request))
                raise
            except WrongRevision as error:
                if error.last is None or error.last == last or error.last not in (0, marker):
                    return None
                # Our own marker goes after about a second; we cannot tell just when.
                last = error.last
                continue
            except PublishRefused as error:
                log.info("locks go through the service from now on", why=str(error))
                self._direct = False
                return None
            except BusUnavailable:
                return None
            hold = Hold(request.ttl_s, sent, sent, request.max_age_s)
            if ack.seq == 0 or self._loop.time() >= hold.until:
                return None
            return Lease(
                self, claim, request.id, token=ack.seq, revision=ack.seq, hold=hold, alone=True
            )
        return None

    async def _undo(self, request: AcquireLock) -> None:
        """Remove what may be stored though nobody waits for it any more.

        A marker in its place comes behind it on the same connection; and where it is not stored by
        then, its condition on the group does not hold any more.
        """
        name, id = request.name, str(request.id)
        try:
            await self._remove(name, id, expecting(0))
        except WrongRevision as error:
            if not await self._purge(name, id, error.last or 0):
                await self._depart(request)
        except (PublishRefused, BusUnavailable):
            await self._depart(request)

    # Beside others

    async def _queue(self, ask: Ask) -> Lease:
        waiter = _Waiter(ask.request)
        self._notices[waiter.id] = waiter.notices
        try:
            return await self._wait(ask, waiter)
        except (LockDeadlock, LockRefused):
            raise
        except LockTimeout:
            self._abandon(waiter.request, timed_out_s=ask.wait_s)
            raise
        except LockBusy:
            raise
        except BaseException:
            # Also when cancelled: nobody may wait, or hold, for someone who has left.
            self._abandon(waiter.request)
            raise
        finally:
            self._notices.pop(waiter.id, None)

    async def _wait(self, ask: Ask, waiter: "_Waiter") -> Lease:
        deadline = self._loop.time() + ask.wait_s
        while True:
            if self._closed:
                raise BusUnavailable(
                    f"{ask.request.name} was not granted before the connection was closed"
                )
            try:
                if waiter.answer is None:
                    granted = await self._enter(ask, waiter)
                else:
                    granted = await self._linger(waiter, deadline)
                if isinstance(granted, Lease):
                    return granted
                if granted is not None:
                    return await self._take_up(waiter, granted)
            except _GoneError:
                # It ran out, or was handed on, while we were cut off.
                self._ask_anew(waiter)
            except LockDeadlock:
                # What holds us up may be a request of our own, given up long ago, that a replica
                # carried out when it thawed: we give that back as soon as we hear of it.
                late = self._loop.time() + _SECOND_LOOK_S >= deadline
                if late or (waiter.refused and not self._is_clear(waiter.request.owner)):
                    raise
                waiter.refused = True
                await asyncio.sleep(_SECOND_LOOK_S)
                self._ask_anew(waiter)
            except BusUnavailable as error:
                waiter.why = str(error)
                if self._direct and not waiter.queued:
                    # No service, then; and what kept us from the bucket may have passed.
                    lease = await self._take(waiter.request)
                    if lease is not None:
                        return lease
                if self._loop.time() < deadline:
                    await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311
            if self._loop.time() >= deadline:
                raise await self._timed_out(ask, waiter)

    def _is_clear(self, owner: str) -> bool:
        """Whether what an owner seems to hold is about to go: it cannot be in a circle then."""
        if self._leaving:
            return True
        holds = any(lease.claim.owner == owner for lease in self._leases.values())
        return not holds and owner in self._owners.values()

    def _ask_anew(self, waiter: "_Waiter") -> None:
        """Under another id, since the old one may still be talked of, for the place that we had."""
        self._notices.pop(waiter.id, None)
        waiter.begin_anew()
        self._notices[waiter.id] = waiter.notices

    async def _enter(self, ask: Ask, waiter: "_Waiter") -> "Lease | _Granted | None":
        """Ask for it. Not to wait is not to wait for others; the answer itself takes its time."""
        sent = self._loop.time()
        answer = await self._command(locks.ACQUIRE, waiter.request, max(ask.wait_s, _TRY_S))
        if answer.state == "held":
            granted = _granted_by(answer)
            lease = (
                self._lease(waiter.request, granted, sent, alone=answer.alone)
                if answer.fresh
                else None
            )
            return lease or granted
        waiter.waits(answer, sent)
        return None

    async def _linger(self, waiter: "_Waiter", deadline: float) -> "_Granted | None":
        """Wait for the grant for a while, and say that we are still here."""
        granted = await self._hear(waiter.notices, min(_KEEP_S, deadline - self._loop.time()))
        if granted is not None or self._closed or self._loop.time() >= deadline:
            return granted
        sent = self._loop.time()
        keep = KeepWaiting(name=waiter.request.name, id=waiter.id)
        answer = await self._command(locks.KEEP, keep, _TRY_S)
        if answer.state == "held":
            return _granted_by(answer)
        waiter.waits(answer, sent)
        return None

    async def _hear(
        self, notices: "asyncio.Queue[LockNotice | None]", patience_s: float
    ) -> _Granted | None:
        try:
            async with asyncio.timeout(max(0.0, patience_s)):
                notice = await notices.get()
        except TimeoutError:
            return None
        if notice is None:
            return None
        if notice.what == "granted":
            return _Granted(
                notice.token,
                notice.revision,
                notice.asked_ns,
                notice.asked_seq,
                notice.held_ns,
                notice.after,
            )
        if notice.deadlock:
            raise LockDeadlock(notice.reason.removeprefix("deadlock: "))
        if notice.reason.startswith("node_lost"):
            raise LockRefused(f"{notice.name}: the wait was ended: {notice.reason}")
        raise _GoneError(notice.reason)

    async def _take_up(self, waiter: "_Waiter", granted: _Granted) -> Lease:
        """Renew what was handed over: only then it is ours."""
        request = waiter.request
        claim = msgspec.structs.replace(
            claim_of(request),
            asked_ns=granted.asked_ns,
            asked_seq=granted.asked_seq,
            after=granted.after,
        )
        surely_waited_at = waiter.waiting_at
        while True:
            sent = self._loop.time()
            try:
                revision = await self._renew(
                    claim, waiter.id, granted.token, granted.revision, granted.held_ns, _TRY_S
                )
            except LockRefused as error:
                # It was taken back, and granted once more to a request that we had sent twice.
                self._abandon(request)
                raise _GoneError(str(error)) from None
            granted = msgspec.structs.replace(granted, revision=revision)
            if confirmed(request.ttl_s, surely_waited_at, self._loop.time()):
                lease = self._lease(request, granted, sent)
                if lease is not None:
                    return lease
            # The next one is stored after anything that this one may have crossed, if it is soon.
            surely_waited_at = sent

    def _lease(
        self, request: AcquireLock, granted: _Granted, sent: float, *, alone: bool = False
    ) -> Lease | None:
        """A lease that can still be rested on, or None."""
        hold = Hold(request.ttl_s, sent, sent, request.max_age_s)
        if self._loop.time() >= hold.until:
            return None
        claim = msgspec.structs.replace(
            claim_of(request),
            asked_ns=granted.asked_ns,
            asked_seq=granted.asked_seq,
            held_ns=granted.held_ns,
            after=granted.after,
        )
        return Lease(
            self,
            claim,
            str(request.id),
            token=granted.token,
            revision=granted.revision,
            hold=hold,
            alone=alone,
        )

    async def _timed_out(self, ask: Ask, waiter: "_Waiter") -> InterlockError:
        name = ask.request.name
        if not waiter.queued:
            return BusUnavailable(
                f"{name} was not asked for within {ask.wait_s:g} s: {waiter.why or 'no answer'}"
            )
        holders = waiter.holders
        with contextlib.suppress(InterlockError):
            holders = (await self._command(locks.SHOW, ShowLock(name=name), 1.0)).holders
        who = "; ".join(
            f"held by {h.owner or h.id}{f' on {h.node}' if h.node else ''} (token {h.token}) since "
            f"{rfc3339_ns(h.since_ms * 1_000_000)}"
            for h in holders[:5]
        )
        return LockTimeout(
            f"{name} was not granted within {ask.wait_s:g} s: {who or 'nobody holds it now'}"
            f"{f'; {waiter.why}' if waiter.why else ''}. "
            f"Wait longer, or see `interlock lock show {name}`"
        )

    def _abandon(self, request: AcquireLock, *, timed_out_s: float | None = None) -> None:
        """Say that we do not wait any more; and give back what we were handed in that moment."""
        self.leave(request.name, self._depart(request, timed_out_s))

    def leave(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Have a lock given back in the background; `close`, and who asks for it, wait for that."""

        async def leaving() -> None:
            try:
                await work
            except InterlockError as error:
                log.warning("not given back: it runs out", why=str(error))

        task = self._loop.create_task(leaving())
        self._leaving[task] = name
        task.add_done_callback(self._leaving.pop)

    async def _depart(self, request: AcquireLock, timed_out_s: float | None = None) -> None:
        leaving = ReleaseLock(name=request.name, id=str(request.id), timed_out_s=timed_out_s)
        keep = KeepWaiting(name=request.name, id=str(request.id))
        deadline = self._loop.time() + _DEPART_S
        while self._loop.time() < deadline:
            try:
                await self._command(locks.RELEASE, leaving, _TRY_S)
            except LockRefused:
                # It holds by now, and is given back by its token.
                with contextlib.suppress(LockError, BusUnavailable):
                    token = (await self._command(locks.KEEP, keep, _TRY_S)).token
                    leaving = msgspec.structs.replace(leaving, token=token)
                    continue
            except BusUnavailable:
                await asyncio.sleep(_PAUSE_S)
                continue
            except LockError:
                return
            else:
                return

    # Holding

    async def renew(self, lease: Lease, *, timeout_s: float) -> int:
        """Renew a lease; the new revision. Raises LockRefused when it is gone."""
        if self._direct and not lease.claim.held_ns:
            lease.claim = msgspec.structs.replace(
                lease.claim, held_ns=await self._stored_ns(lease.revision, timeout_s)
            )
        timeout_s = min(timeout_s, _TRY_S)
        if lease.alone:
            revision = await self._renew_alone(lease, timeout_s)
            if revision is not None:
                return revision
        try:
            return await self._renew(
                lease.claim, lease.id, lease.token, lease.revision, lease.claim.held_ns, timeout_s
            )
        except _GoneError as error:
            raise LockRefused(str(error)) from None

    async def _renew_alone(self, lease: Lease, timeout_s: float) -> int | None:
        """Renew as the only one with a claim, or learn that we are not; None then.

        A renewal becomes the last record of the group. On the condition of our own record alone it
        would hide from the release that somebody has queued up in between.
        """
        if not self._direct or not lease.claim.held_ns:
            lease.alone = False
            return None
        write = self._renewal(
            lease.claim,
            lease.id,
            lease.token,
            lease.claim.held_ns,
            expecting(lease.revision, locks.group(lease.name)),
        )
        try:
            ack = await self.bus.commit([write], timeout_s=timeout_s)
        except PublishRefused:
            lease.alone = False
            return None
        return ack.seq or None

    def _renewal(
        self, claim: Claim, id: str, token: int, held_ns: int, condition: dict[str, str]
    ) -> Write:
        record = msgspec.structs.replace(
            claim, state="held", token=token, held_ns=held_ns, offered=False
        )
        return Write(
            locks.claim_subject(claim.name, id),
            msgspec.json.encode(record),
            {**living(locks.life_s(claim.ttl_s)), **condition},
        )

    async def _renew(
        self, claim: Claim, id: str, token: int, revision: int, held_ns: int, timeout_s: float
    ) -> int:
        if self._direct and held_ns:
            at: int | None = revision
            while at is not None:
                write = self._renewal(claim, id, token, held_ns, expecting(at))
                try:
                    ack = await self.bus.commit([write], timeout_s=timeout_s)
                except WrongRevision:
                    # Gone; or it was renewed by an attempt whose answer was lost.
                    found = await self._find(claim.name, id, token, timeout_s)
                    at = found if found != at else None
                except PublishRefused:
                    break
                else:
                    if ack.seq:
                        return ack.seq
                    break
        renewal = RenewLock(name=claim.name, id=id, token=token, ttl_s=claim.ttl_s)
        answer = await self._command(locks.RENEW, renewal, timeout_s)
        return answer.revision

    async def _find(self, name: str, id: str, token: int, timeout_s: float) -> int | None:
        """The revision of a claim that holds under this token, or None."""
        subject = locks.claim_subject(name, id)
        try:
            answer = await self.bus.api(
                f"STREAM.MSG.GET.{LOCKS.stream}",
                {"last_by_subj": subject},
                timeout_s=min(timeout_s, _TRY_S),
            )
            seq = int(answer["message"]["seq"])
            claim = msgspec.json.decode(decode_message(answer["message"])[1], type=Claim)
        except (ApiError, BusUnavailable, msgspec.DecodeError):
            return None
        return seq if claim.state == "held" and (claim.token or seq) == token else None

    async def _stored_ns(self, seq: int, timeout_s: float) -> int:
        """When a record was stored, broker's clock; 0 where that cannot be told."""
        try:
            answer = await self.bus.api(
                f"STREAM.MSG.GET.{LOCKS.stream}", {"seq": seq}, timeout_s=min(timeout_s, _TRY_S)
            )
        except (ApiError, BusUnavailable):
            return 0
        return parse_ns(answer["message"]["time"])

    async def release(self, lease: Lease, *, timeout_s: float) -> None:
        """Give a lease back. Raises BusUnavailable when that could not be told in time."""
        deadline = self._loop.time() + timeout_s
        release = ReleaseLock(name=lease.name, id=lease.id, token=lease.token, at_once=lease.unsure)
        if self._direct and lease.alone:
            if await self._purge(lease.name, lease.id, lease.revision):
                return
            lease.alone = False
        while True:
            # Somebody waits for it: the service hands it over.
            try:
                await self._command(locks.RELEASE, release, _TRY_S)
            except (_GoneError, LockRefused):
                return
            except BusUnavailable:
                if self._loop.time() >= deadline:
                    raise
                if self._direct and await self._give_up(lease):
                    return
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _give_up(self, lease: Lease) -> bool:
        """Give a lease back while no service answers: whoever waits gets it once one does."""
        at = await self._find(lease.name, lease.id, lease.token, _TRY_S)
        if at is None or not await self._purge(lease.name, lease.id, at):
            return False
        # Its marker would let us past those who wait.
        self._markers.pop(lease.name, None)
        return True

    async def _purge(self, name: str, id: str, revision: int) -> bool:
        """Remove the one claim that there is to a lock; False where that is for the service."""
        try:
            await self._remove(name, id, expecting(revision, locks.group(name)))
        except (PublishRefused, BusUnavailable):
            return False
        return True

    async def _remove(self, name: str, id: str, condition: dict[str, str]) -> None:
        headers = {
            **PURGE,
            **living(LOCKS.marker_ttl_s),
            locks.ENDED_HEADER: "released",
            **condition,
        }
        write = Write(locks.claim_subject(name, id), b"", headers)
        ack = await self.bus.commit([write], timeout_s=_TRY_S)
        if len(self._markers) >= _MOST_MARKERS:
            self._markers.clear()
        self._markers[name] = (ack.seq, self._loop.time())

    def forget(self, id: str) -> None:
        """A lease is over."""
        self._leases.pop(id, None)

    async def state(self, key: str) -> bytes | None:
        """A piece of fenced state, as the stream's leader has it."""
        subject = LOCKS.key_subject(locks.state_key(key))
        try:
            answer = await self.bus.api(f"STREAM.MSG.GET.{LOCKS.stream}", {"last_by_subj": subject})
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        return decode_message(answer["message"])[1]

    async def stored(self, key: str, value: bytes, token: int) -> int | None:
        """The revision of a piece of state, if it is this value, written under this token."""
        subject = LOCKS.key_subject(locks.state_key(key))
        try:
            answer = await self.bus.api(f"STREAM.MSG.GET.{LOCKS.stream}", {"last_by_subj": subject})
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        headers, body = decode_message(answer["message"])
        same = body == value and headers.get(locks.TOKEN_HEADER) == str(token)
        return int(answer["message"]["seq"]) if same else None

    # Talking to the service

    async def _command(
        self, command: "Command[RequestT, ReplyT]", request: RequestT, timeout_s: float
    ) -> ReplyT:
        try:
            reply: ReplyT = await self._ask(
                command, request, timeout_s=max(0.05, min(timeout_s, _TRY_S))
            )
        except CommandFailed as error:
            if error.code == "410":
                raise _GoneError(str(error)) from None
            if error.code == "423":
                raise LockBusy(str(error)) from None
            if error.code == "508":
                raise LockDeadlock(str(error)) from None
            if error.code in ("503", "500"):
                raise BusUnavailable(str(error)) from error
            raise LockRefused(str(error)) from None
        return reply

    async def _listen(self) -> None:
        """Hear of grants and losses. What is asked on this connection afterwards comes behind."""
        async with self._to_listen:
            if not self._listening:
                await self.bus.listen(subjects.lock_notice(self._client), self._on_notice)
                self._listening = True

    def _on_notice(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        del subject, reply, headers
        try:
            notice = msgspec.json.decode(body, type=LockNotice)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("not a notice of a lock", why=str(error))
            return
        lease = self._leases.get(notice.id)
        if lease is not None:
            if notice.what == "ended" and notice.token == lease.token:
                lease.lose(f"it was taken away: {notice.reason}")
            return
        waiting = self._notices.get(notice.id)
        if waiting is not None:
            waiting.put_nowait(notice)
        elif notice.what == "granted" and not self._closed:
            # We have left, and our leaving was overtaken by the grant.
            self.leave(notice.name, self._return(notice))

    async def _return(self, notice: LockNotice) -> None:
        release = ReleaseLock(name=notice.name, id=notice.id, token=notice.token)
        deadline = self._loop.time() + _DEPART_S
        while self._loop.time() < deadline:
            try:
                await self._command(locks.RELEASE, release, _TRY_S)
            except BusUnavailable:
                await asyncio.sleep(_PAUSE_S)
            except LockError:
                return
            else:
                return

    async def close(self) -> None:
        """Give everything back, and end whatever waits."""
        self._closed = True
        for notices in self._notices.values():
            notices.put_nowait(None)
        leases = list(self._leases.values())
        await asyncio.gather(*(each.release() for each in leases), return_exceptions=True)
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=_TRY_S)


class _GoneError(LeaseLost):
    """The service has no such claim any more."""


def _granted_by(answer: ClaimAnswer) -> _Granted:
    return _Granted(
        answer.token,
        answer.revision,
        answer.asked_ns,
        answer.asked_seq,
        answer.held_ns,
        answer.after,
    )
