"""The shell of the sync-mutex: commands in, steps committed, holders and waiters told.

Any number of replicas do the same side by side. Each follows the bucket, decides on what it has
seen, and commits on the condition that the group still stands so; the broker picks the winner, and
the others look again. What follows from a record, a notice, an event, the next grant, every replica
does, so none is missed when one dies; events carry the record's sequence as their id, so that they
are stored once.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from interlock import logs, rising
from interlock.bus import ApiError, Write
from interlock.clock import parse_ns
from interlock.conditional import PURGE, expecting, living
from interlock.delivery import Delivery
from interlock.errors import BusUnavailable, CommandFailed, InterlockError, Reject, WrongRevision
from interlock.kv import decode_message
from interlock.reader import Reader, Record
from interlock.service import Service
from interlock_schemas import envelope, locks, subjects
from interlock_schemas.letters import Code
from interlock_schemas.lock import LockRefused
from interlock_schemas.locks import (
    AcquireLock,
    ClaimAnswer,
    EndLock,
    KeepWaiting,
    ListLocks,
    LockEnded,
    LockPage,
    LockSummary,
    LockView,
    ReleaseLock,
    RenewLock,
    ShowLock,
)
from interlock_schemas.node import NodeLeft, NodeLost
from interlock_schemas.topology import LOCKS
from interlock_sync_mutex import deadlock, leases
from interlock_sync_mutex.contract import NODES_LOST
from interlock_sync_mutex.leases import Ended, Lock, Put, Refusal, Standing, Step
from interlock_sync_mutex.registry import Change, Registry, Told
from interlock_sync_mutex.settings import Settings
from interlock_sync_mutex.telling import Teller

__all__ = ["SyncMutex", "setup", "writes"]

T = TypeVar("T")

_CONDITION: Final = "Nats-Expected-Last-Subject-Sequence"

_TICK_S: Final = 0.25
#: How long to wait for the bucket to tell what the broker says it holds.
_CATCH_UP_S: Final = 1.0
#: Past its time to live by so much, a claim is looked up: its marker was missed.
_OVERDUE_S: Final = 2.0
#: Rounds of deciding and losing before a command is given up.
_ROUNDS: Final = 60
#: Replicas that see the same do not all act in the same instant.
_SPREAD_S: Final = 0.004
_COMMANDS_AT_ONCE: Final = 512
#: Locks that were changed here and are still thought of.
_MOST_GATES: Final = 10_000

log = logs.get_logger("interlock.locks")


class Committed(msgspec.Struct, frozen=True):
    """A step that is stored."""

    step: Step
    last: int
    """Sequence of its last message."""

    def revision(self, id: str) -> int:
        """Sequence of the record that it wrote for a claim."""
        ids = [each.id for each in self.step.puts]
        return self.last - (len(ids) - 1 - ids.index(id))


def writes(name: str, step: Step, expected: int, by: str = "") -> list[Write]:
    """The messages of a step: first what ends, then what stands.

    The first has the condition on the group. An offer that is taken back has its own record as
    condition besides: with several servers, the one on the group does not see a renewal of it that
    is under way, and a waiter that has just taken it up would lose what it was told it has.
    """
    group = expecting(expected, locks.group(name))
    found = [
        _purge(
            name,
            end,
            expecting(end.standing.revision) if end.why == "not_taken_up" else {},
            by,
        )
        for end in step.ends
    ]
    found += [_put(name, put) for put in step.puts]
    for place, write in enumerate(found):
        if _CONDITION not in write.headers:
            found[place] = Write(write.subject, write.body, {**write.headers, **group})
            break
    return found


def with_leftovers(step: Step, leftovers: Sequence[Standing]) -> Step:
    """The step, with the records that would come back to life when it ends what came after."""
    ending = {end.standing.claim.after for end in step.ends}
    back = tuple(Ended(each, "released") for each in leftovers if each.id in ending)
    return Step(ends=step.ends + back, puts=step.puts) if back else step


def handed_over(step: Step) -> Put | None:
    """The one message that carries out a step in which one gives back and the next one takes.

    Where a purge and a grant would be a batch, which the broker stages in a folder of its own, the
    grant alone says that the one before is over; its record is removed afterwards.
    """
    if len(step.ends) != 1 or len(step.puts) != 1 or step.ends[0].why != "released":
        return None
    put = step.puts[0]
    claim = msgspec.structs.replace(put.claim, after=step.ends[0].standing.id)
    return Put(put.id, claim, put.ttl_s)


def _purge(name: str, end: Ended, condition: Mapping[str, str], by: str = "") -> Write:
    headers = {
        **PURGE,
        **living(LOCKS.marker_ttl_s),
        locks.ENDED_HEADER: end.why,
        **({locks.BY_HEADER: envelope.escape(by)} if by else {}),
        **condition,
    }
    return Write(locks.claim_subject(name, end.standing.id), b"", headers)


def _put(name: str, put: Put, condition: dict[str, str] | None = None) -> Write:
    return Write(
        locks.claim_subject(name, put.id),
        msgspec.json.encode(put.claim),
        {**living(put.ttl_s), **(condition or {})},
    )


class SyncMutex:
    """One replica."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._bus = service.fleet.bus
        self._loop = asyncio.get_running_loop()
        self._registry = Registry()
        self._teller = Teller(service)
        self._gates: dict[str, asyncio.Lock] = {}
        self._own: dict[str, int] = {}
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._settling: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.ready = asyncio.Event()

    # What the bucket tells

    async def follow(self) -> None:
        """Follow the bucket for ever, from a snapshot on, and from another one after each gap.

        A marker stands for a second only: whoever was away that long has missed what it said.
        """
        prefix = len(LOCKS.key_subject(""))
        reader = Reader(
            self._bus,
            LOCKS.stream,
            (LOCKS.key_subject("claim.>"),),
            {"deliver_policy": "last_per_subject"},
        )
        fresh = Registry()
        live = False
        async for record in reader.snapshots():
            now = self._loop.time()
            if record == "begin":
                if self.ready.is_set():
                    await self._still_rising()
                fresh, live = Registry(), False
            elif record is None:
                missed = self._caught_up(fresh)
                live = True
                for each in missed:
                    self._on_change(each)
                self.ready.set()
            else:
                assert isinstance(record, Record)  # noqa: S101  # for the type checker
                told = _told(record, prefix)
                change = (self._registry if live else fresh).apply(told, now)
                if live and change is not None:
                    self._on_change(change)
                if live:
                    self._progress()

    async def _still_rising(self) -> None:
        """Raise ContractBroken where the bucket is another one: restored from a backup."""
        while True:
            try:
                return await rising.verify(self._bus, LOCKS)
            except (BusUnavailable, ApiError) as error:
                log.info("not looked at yet", bucket=LOCKS.name, why=str(error))
                await asyncio.sleep(_TICK_S)

    def _caught_up(self, fresh: Registry) -> list[Change]:
        """Replace what was known by a snapshot; what was granted meanwhile is still to be told."""
        old, self._registry = self._registry, fresh
        first = not self.ready.is_set()
        self._progress()
        if first:
            return []
        known = {(token, s.id): s for token, s in old.standings()}
        return [
            Change("acquired", s.claim.name, s, s.revision, s.at_ns)
            for token, s in fresh.standings()
            if s.held
            and s.token == s.revision
            and ((was := known.get((token, s.id))) is None or was.revision != s.revision)
        ]

    def _progress(self) -> None:
        at = self._registry.revision
        if self._waiters:
            left = []
            for seq, future in self._waiters:
                if seq <= at:
                    if not future.done():
                        future.set_result(None)
                else:
                    left.append((seq, future))
            self._waiters = left

    async def _seen(self, seq: int) -> bool:
        """Wait until the bucket has told everything up to a sequence; False where it takes long."""
        if self._registry.revision >= seq:
            return True
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((seq, future))
        done, _ = await asyncio.wait((future,), timeout=_CATCH_UP_S)
        if not done:
            future.cancel()
            self._waiters = [each for each in self._waiters if each[1] is not future]
        return bool(done)

    def _on_change(self, change: Change) -> None:
        for broken in self._registry.broken:
            self._spawn(self._teller.bury(broken))
        self._registry.broken.clear()
        self._teller.tell(change)
        if change.kind in ("ended", "queued"):
            self._settle_soon(change.name)

    # Steps

    async def _change(
        self,
        name: str,
        decide: Callable[[Lock], Step | T],
        *,
        by: str = "",
        at_once: bool = False,
    ) -> Committed | T:
        """Commit what `decide` says of the lock as it stands; look again where it has changed."""
        token = subjects.token(name)
        async with self._gate(token):
            expected: int | None = None
            for _ in range(_ROUNDS):
                await self._seen(self._own.get(token, 0))
                decision = decide(self._registry.lock(token, name))
                if not isinstance(decision, Step):
                    return decision
                now = self._loop.time()
                last = self._registry.last(token, now) if expected is None else expected
                step = with_leftovers(decision, self._registry.leftovers(token))
                handing = None if at_once else handed_over(step)
                messages = (
                    writes(name, step, last, by)
                    if handing is None
                    else writes(name, Step(puts=(handing,)), last)
                )
                try:
                    ack = await self._bus.commit(messages, timeout_s=self._settings.commit_s)
                except WrongRevision as error:
                    expected = await self._look_again(token, name, error.last)
                    continue
                if ack.seq == 0:
                    await self._refresh(token, name)
                    continue
                self._own[token] = ack.seq
                if handing is not None:
                    self._spawn(self._clear(name, step.ends[0]))
                return Committed(decision, ack.seq)
        raise CommandFailed(f"{name} is changing hands all the time: ask again", code="503")

    async def _clear(self, name: str, end: Ended) -> None:
        """Remove the record of a claim that is over."""
        condition = expecting(end.standing.revision)
        with contextlib.suppress(WrongRevision):
            await self._bus.commit(
                [_purge(name, end, condition)], timeout_s=self._settings.commit_s
            )

    def _gate(self, token: str) -> asyncio.Lock:
        gate = self._gates.get(token)
        if gate is None:
            gate = self._gates[token] = asyncio.Lock()
        return gate

    async def _look_again(self, token: str, name: str, last: int | None) -> int | None:
        """Learn what has changed. The sequence to expect, where what is known is right after all:
        a marker came to its end, which nobody is told."""
        if last is None:
            await asyncio.sleep(random.uniform(0, _SPREAD_S))  # noqa: S311
            return None
        if self._registry.is_last(token, last):
            return last
        if last > self._registry.revision and await self._seen(last):
            return None
        await self._refresh(token, name)
        return last if self._registry.is_last(token, last) else None

    async def _refresh(self, token: str, name: str) -> None:
        """Read the claims of one lock from the stream's leader."""
        before = {s.id: s.revision for s in self._registry.lock(token).claims.values()}
        prefix = len(LOCKS.key_subject(""))
        found: set[str] = set()
        seq = 1
        while True:
            try:
                answer = await self._bus.api(
                    f"STREAM.MSG.GET.{LOCKS.stream}",
                    {"seq": seq, "next_by_subj": locks.group(name)},
                    timeout_s=self._settings.commit_s,
                )
            except ApiError as error:
                if error.code == 404:
                    break
                raise
            message = answer["message"]
            seq = int(message["seq"]) + 1
            headers, body = decode_message(message)
            told = _told(
                Record(message["subject"], seq - 1, parse_ns(message["time"]), headers, body, 0),
                prefix,
            )
            found.add(message["subject"].rpartition(".")[2])
            change = self._registry.apply(told, self._loop.time())
            if change is not None:
                self._on_change(change)
        for id, revision in before.items():
            standing = self._registry.lock(token).claims.get(id)
            if id not in found and standing is not None and standing.revision == revision:
                log.info("a claim went unseen", lock=name, claim=id)
                self._registry.forget(token, id)

    def _settle_soon(self, name: str) -> None:
        if name in self._settling:
            return
        if leases.settle(self._registry.lock(subjects.token(name))) is None:
            return
        self._settling.add(name)
        self._spawn(self._settle(name))

    async def _settle(self, name: str) -> None:
        try:
            await asyncio.sleep(random.uniform(0, _SPREAD_S))  # noqa: S311
            await self._change(name, leases.settle)
        finally:
            self._settling.discard(name)
        # What came free meanwhile was not looked at.
        self._settle_soon(name)

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = self._loop.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except InterlockError as error:
            # The broker is away, or others are at it. The next tick looks again.
            log.warning("not done yet", why=str(error))

    async def tick(self) -> None:
        """See to what only time brings about."""
        while True:
            await asyncio.sleep(_TICK_S)
            self._teller.flush()
            if self._bus.connected:
                self._look_around(self._loop.time())

    def _look_around(self, now: float) -> None:
        registry = self._registry
        waiting = False
        overdue: dict[str, list[str]] = {}
        aged: dict[str, list[str]] = {}
        stale: set[tuple[str, str]] = set()
        for token, standing in registry.standings():
            claim = standing.claim
            age_s = now - registry.seen(token, standing.id)
            waiting = waiting or not standing.held
            if standing.held and claim.offered:
                if age_s >= self._settings.take_up_s:
                    overdue.setdefault(claim.name, []).append(standing.id)
                elif age_s >= _TICK_S:
                    self._teller.granted(standing)
            if standing.held and claim.max_age_s is not None:
                held_s = (standing.at_ns - standing.held_ns) / 1e9 + age_s
                if held_s >= claim.max_age_s:
                    aged.setdefault(claim.name, []).append(standing.id)
            if age_s > _life_s(standing) + _OVERDUE_S:
                stale.add((token, claim.name))
            if age_s > _life_s(standing) + 3 * _OVERDUE_S:
                # Looked up, and still there. Nobody can rest on it any more.
                self._spawn(self._clear(claim.name, Ended(standing, "expired")))
        for name, ids in overdue.items():
            self._spawn(self._change(name, partial(leases.expire_offers, overdue=ids)))
        for name, ids in aged.items():
            self._spawn(self._change(name, partial(leases.end, ids=ids, why="max_age")))
        for token, name in stale:
            self._spawn(self._refresh(token, name))
        for name in registry.locks:
            self._settle_soon(name)
            token = subjects.token(name)
            for over in registry.leftovers(token):
                if now - registry.seen(token, over.id) >= _TICK_S:
                    self._spawn(self._clear(name, Ended(over, "released")))
        if waiting:
            self._refuse_deadlocks()
        registry.sweep(now)
        if len(self._gates) > _MOST_GATES:
            idle = [token for token, gate in self._gates.items() if not gate.locked()]
            for token in idle:
                del self._gates[token]
                self._own.pop(token, None)

    def _refuse_deadlocks(self) -> None:
        """Refuse a wait that closed a circle without whoever let it in noticing."""
        all_locks = self._registry.locks
        circle = deadlock.stuck(all_locks)
        chosen = deadlock.victim(all_locks, circle) if circle is not None else None
        if circle is not None and chosen is not None:
            name, standing = chosen
            self._spawn(self._refuse(name, standing.id, deadlock.describe(circle)))

    async def _refuse(self, name: str, id: str, why: str) -> bool:
        """Refuse a wait; False where it is over already."""

        def decide(lock: Lock) -> Step | None:
            # It may have been granted meanwhile, and then there was no deadlock.
            waiting = [s.id for s in lock.queue if s.id == id]
            return leases.end(lock, waiting, "deadlock")

        return await self._change(name, decide, by=why) is not None

    # Commands

    async def acquire(self, request: AcquireLock) -> ClaimAnswer:
        """Grant it, queue up, or refuse."""
        name = request.name
        id = request.id or secrets.token_hex(12)

        def decide(lock: Lock) -> Step | Standing | Refusal:
            return leases.acquire(lock, request, id)

        outcome: Committed | Standing | Refusal = await self._change(name, decide)
        if isinstance(outcome, Refusal):
            if outcome.code != "423":
                self._refused(request, outcome.reason)
            raise CommandFailed(outcome.reason, code=outcome.code)
        if isinstance(outcome, Standing):
            return self._answer(name, outcome)
        put = outcome.step.puts[0]
        standing = Standing(id, put.claim, outcome.revision(id), 0)
        if standing.held:
            # Stored on the condition that it is as we know it, so that we know who else is there.
            others = set(self._registry.lock(subjects.token(name)).claims) - {id}
            # Told besides: who has given up meanwhile, after a request that lay somewhere for long,
            # gives it back at once.
            self._teller.granted(standing)
            return msgspec.structs.replace(
                self._answer(name, standing), fresh=True, held_ns=0, alone=not others
            )
        await self._seen(standing.revision)
        if request.owner:
            all_locks = self._registry.locks
            circle = deadlock.stuck(all_locks, (request.owner, name))
            chosen = deadlock.victim(all_locks, circle) if circle is not None else None
            # Where several close it at once, the youngest is refused, and the others go on.
            if circle is not None and (chosen is None or chosen[1].id == id):
                why = deadlock.describe(circle)
                if await self._refuse(name, id, why):
                    raise CommandFailed(why, code="508")
        known = self._registry.lock(subjects.token(name)).claims.get(id)
        return self._answer(name, known or standing)

    def _refused(self, request: AcquireLock, why: str) -> None:
        event = LockRefused(
            lock=request.name, holder=request.owner or None, node=request.node or None, reason=why
        )
        self._teller.emit(event, f"lock-refused-{request.name}-{request.id}")

    async def renew(self, request: RenewLock) -> ClaimAnswer:
        """Hold on."""
        return await self._touch(
            request.name,
            lambda lock: leases.renewing(lock, request.id, request.token, request.ttl_s),
        )

    async def keep(self, request: KeepWaiting) -> ClaimAnswer:
        """Stay in the queue."""
        return await self._touch(request.name, lambda lock: leases.waiting_kept(lock, request.id))

    async def _touch(
        self,
        name: str,
        decide: Callable[[Lock], tuple[Standing, Put] | Standing | Refusal],
    ) -> ClaimAnswer:
        """Write one claim anew, if it still stands as it was looked at."""
        token = subjects.token(name)
        looked = False
        for _ in range(_ROUNDS):
            decision = decide(self._registry.lock(token, name))
            if isinstance(decision, Refusal):
                if looked:
                    raise CommandFailed(decision.reason, code=decision.code)
                await self._refresh(token, name)
                looked = True
                continue
            if isinstance(decision, Standing):
                return self._answer(name, decision)
            standing, put = decision
            try:
                ack = await self._bus.commit(
                    [_put(name, put, expecting(standing.revision))],
                    timeout_s=self._settings.commit_s,
                )
            except WrongRevision as error:
                if not (error.last and await self._seen(error.last)):
                    await self._refresh(token, name)
                    looked = True
                continue
            now = msgspec.structs.replace(standing, claim=put.claim, revision=ack.seq)
            return self._answer(name, now, put.ttl_s)
        raise CommandFailed(f"{name} is changing hands all the time: ask again", code="503")

    def _answer(self, name: str, standing: Standing, life_s: float | None = None) -> ClaimAnswer:
        lock = self._registry.lock(subjects.token(name), name)
        claim = standing.claim
        if standing.held:
            return ClaimAnswer(
                name=name,
                id=standing.id,
                state="held",
                revision=standing.revision,
                token=standing.token,
                ttl_s=_life_s(standing) if life_s is None else life_s,
                offered=claim.offered,
                asked_ns=standing.asked_ns,
                asked_seq=standing.asked_seq,
                held_ns=standing.held_ns,
                after=claim.after,
            )
        order = [each.id for each in lock.queue]
        return ClaimAnswer(
            name=name,
            id=standing.id,
            state="waiting",
            revision=standing.revision,
            ttl_s=locks.WAITING_TTL_S,
            position=order.index(standing.id) + 1 if standing.id in order else len(order) + 1,
            asked_ns=standing.asked_ns,
            asked_seq=standing.asked_seq,
            holders=tuple(leases.view(each) for each in lock.holders[:20]),
        )

    async def release(self, request: ReleaseLock) -> LockEnded:
        """Give back, hand over."""
        name = request.name
        token = subjects.token(name)

        def decide(lock: Lock) -> Step | Refusal:
            return leases.release(
                lock, request.id, request.token, timed_out=request.timed_out_s is not None
            )

        outcome = await self._change(name, decide, at_once=request.at_once)
        if isinstance(outcome, Refusal):
            # It may have been taken a moment ago, past this replica.
            await self._refresh(token, name)
            outcome = await self._change(name, decide, at_once=request.at_once)
        if isinstance(outcome, Refusal):
            raise CommandFailed(outcome.reason, code=outcome.code)
        return _ended(name, outcome)

    async def end(self, request: EndLock) -> LockEnded:
        """Take it from its holders."""

        def decide(lock: Lock) -> Step | None:
            ids = [s.id for s in lock.holders if request.token in (None, s.token)]
            return leases.end(lock, ids, "ended")

        by = f"{request.by or 'unknown'}: {request.reason}"
        token = subjects.token(request.name)
        await self._refresh(token, request.name)
        outcome = await self._change(request.name, decide, by=by)
        if outcome is None:
            which = f" with token {request.token}" if request.token is not None else ""
            raise CommandFailed(f"nobody holds {request.name}{which}", code="404")
        log.info("lock ended", lock=request.name, by=request.by, reason=request.reason)
        return _ended(request.name, outcome)

    async def list(self, request: ListLocks) -> LockPage:
        """A page of locks, by name."""
        found = sorted(
            (
                lock
                for lock in self._registry.locks.values()
                if lock.name.startswith(request.prefix)
                and (
                    not request.node
                    or any(s.claim.node == request.node for s in lock.claims.values())
                )
            ),
            key=lambda lock: lock.name,
        )
        page = [lock for lock in found if lock.name > request.after][: request.limit]
        more = bool(page) and page[-1].name != found[-1].name
        return LockPage(
            locks=tuple(
                LockSummary(
                    name=lock.name,
                    slots=lock.slots,
                    holders=tuple(leases.view(s) for s in lock.holders),
                    waiting=len(lock.queue),
                )
                for lock in page
            ),
            total=len(found),
            next=page[-1].name if more else None,
        )

    async def show(self, request: ShowLock) -> LockView:
        """One lock, as the leader has it."""
        token = subjects.token(request.name)
        await self._refresh(token, request.name)
        lock = self._registry.lock(token, request.name)
        return LockView(
            name=request.name,
            slots=lock.slots,
            revision=self._registry.last(token, self._loop.time()),
            holders=tuple(leases.view(s) for s in lock.holders),
            waiting=tuple(leases.view(s) for s in lock.queue),
        )

    async def on_node_lost(self, delivery: Delivery) -> None:
        """End what a node that is lost, or left, had claimed before, oldest grant first."""
        left = subjects.parse_event(delivery.subject) == NodeLeft.event_type
        gone: type[NodeLeft] | type[NodeLost] = NodeLeft if left else NodeLost
        try:
            event: NodeLeft | NodeLost = msgspec.json.decode(delivery.body, type=gone)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Reject(f"not a {gone.event_type}: {error}", code=Code.INVALID) from error
        if not event.node:
            return
        theirs = sorted(
            (
                standing
                for _, standing in self._registry.standings()
                if standing.claim.node == event.node and standing.asked_ns <= delivery.stored_ns
            ),
            key=lambda s: (not s.held, s.token, s.turn),
        )
        for name in dict.fromkeys(standing.claim.name for standing in theirs):

            def decide(lock: Lock) -> Step | None:
                ids = [
                    s.id
                    for s in lock.claims.values()
                    if s.claim.node == event.node
                    and (s.held_ns if s.held else s.asked_ns) <= delivery.stored_ns
                ]
                return leases.end(lock, ids, "node_lost")

            went = "left" if left else "is lost"
            await self._change(name, decide, by=f"{event.node} {went}: {event.reason or ''}")

    async def close(self) -> None:
        """Let what is under way come to its end, and tell what is still to be told."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
        with contextlib.suppress(InterlockError, TimeoutError):
            async with asyncio.timeout(3):
                await self._teller.close()


def _ended(name: str, done: Committed) -> LockEnded:
    return LockEnded(
        name=name,
        tokens=tuple(end.standing.token for end in done.step.ends if end.standing.held),
        next_token=done.revision(done.step.puts[0].id) if done.step.puts else 0,
    )


def _life_s(standing: Standing) -> float:
    """How long a claim's record lives."""
    if not standing.held:
        return locks.WAITING_TTL_S
    life = locks.life_s(standing.claim.ttl_s)
    return min(locks.TAKE_UP_S, life) if standing.claim.offered else life


def _told(record: Record, prefix: int) -> Told:
    """A message of the bucket."""
    headers = record.headers
    gone = "KV-Operation" in headers or "Nats-Marker-Reason" in headers
    return Told(
        key=record.subject[prefix:],
        revision=record.seq,
        at_ns=record.time_ns,
        body=None if gone else record.body,
        why=envelope.lookup(headers, locks.ENDED_HEADER) or ("expired" if gone else ""),
        by=envelope.unescape(envelope.lookup(headers, locks.BY_HEADER) or ""),
    )


async def setup(service: Service) -> None:
    """Wire the sync-mutex into its service."""
    settings = service.settings
    assert isinstance(settings, Settings)  # noqa: S101  # for the type checker
    mutex = SyncMutex(service, settings)
    service.beside(mutex.follow, ready=mutex.ready)
    service.beside(mutex.tick)
    service.at_end(mutex.close)
    service.consume(NODES_LOST, mutex.on_node_lost)
    service.answer(locks.ACQUIRE, mutex.acquire, at_once=_COMMANDS_AT_ONCE)
    service.answer(locks.RENEW, mutex.renew, at_once=_COMMANDS_AT_ONCE)
    service.answer(locks.KEEP, mutex.keep, at_once=_COMMANDS_AT_ONCE)
    service.answer(locks.RELEASE, mutex.release, at_once=_COMMANDS_AT_ONCE)
    service.answer(locks.END, mutex.end)
    service.answer(locks.LIST, mutex.list)
    service.answer(locks.SHOW, mutex.show, at_once=16)
