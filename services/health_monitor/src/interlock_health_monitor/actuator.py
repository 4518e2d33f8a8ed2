"""The one that acts on sick nodes: it carries out what `ladder` decides, under a lock per node.

A step is taken under a fenced lease, which is kept until the step has been seen to help or not; it
is on record before it is taken; and the record is written only if no other recovery of the fleet
was written since it was decided. So two monitors never act at once, the budget of the fleet holds
exactly, and whoever takes over from one that died goes on by observing, not by repeating.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from interlock import logs
from interlock.clock import now
from interlock.conditional import ALONE, Write, expecting
from interlock.errors import BusUnavailable, InterlockError, LeaseLost, LockError, WrongRevision
from interlock.fleet import Fleet
from interlock.kv import Store
from interlock.locks.lease import Lease
from interlock.reader import Reader
from interlock_health_monitor.hooks import run_hook
from interlock_health_monitor.ladder import (
    Facts,
    FleetUse,
    LadderPolicy,
    Mode,
    Ran,
    Tell,
    after_run,
    command_of,
    decide,
    elsewhere,
    facts_of,
    fleet_use,
    interrupted,
    retold,
    running,
)
from interlock_health_monitor.trouble import ON_NODE, Step
from interlock_schemas import health
from interlock_schemas.health import NodeHealth, RecoveryState
from interlock_schemas.nodes import NodeRecord, Recovery
from interlock_schemas.topology import HEALTH

__all__ = ["Actuator", "Runner", "Sight"]

#: A lease whose holder has vanished ends after so long.
_LEASE_S: Final = 15.0
#: Nodes that are seen to at once. The budgets are far below; this bounds what is written.
_AT_ONCE: Final = 32
#: Events of what ended so recently are told again when we begin: the broker stores them once.
_RETELL_S: Final = 90.0
_WRITE_S: Final = 5.0
_LAST_WRITE_S: Final = 2.0
_GROUP: Final = "recovery.*"

log = logs.get_logger("interlock.recovery")


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What the monitor sees of one node at a moment."""

    health: NodeHealth
    record: NodeRecord | None = None
    recovery: Recovery | None = None
    """The fleet's commands, for a node that has none of its own."""
    disruption: str = ""
    """Why nothing is done in its zone. Empty: nothing stands against it."""


class Runner(Protocol):
    """Runs commands on nodes."""

    async def run_command(self, record: NodeRecord, command: str, timeout_s: float) -> Ran:
        """Run a command on a node, for `timeout_s` at most. Raises nothing but cancellation."""
        ...


class Actuator:
    """The recovery of a fleet, as one monitor sees to it. Several may run: one acts at a time."""

    def __init__(
        self,
        fleet: Fleet,
        runner: Runner,
        *,
        observe: Callable[[str], Sight | None],
        sick: Callable[[], Iterable[str]],
        size: Callable[[], int],
        policy: LadderPolicy | None = None,
        mode: Mode = "dry-run",
        lease_s: float = _LEASE_S,
        look_every_s: float = 1.0,
    ) -> None:
        """`observe`: what is seen of a node now; None where that is nothing, and nothing is done.
        `sick`: the nodes that something is wrong with. `size`: how many nodes the fleet has."""
        self._fleet = fleet
        self._runner = runner
        self._observe = observe
        self._sick = sick
        self._size = size
        self._policy = policy or LadderPolicy()
        self._mode: Mode = mode
        self._lease_s = lease_s
        self._look_every_s = look_every_s
        self._store = Store(fleet.bus, HEALTH)
        self._records: dict[str, RecoveryState] = {}
        self._last = 0
        """The last sequence of all records of recovery that have been read."""
        self._known = asyncio.Event()
        self._busy: set[str] = set()
        """Nodes that are being seen to."""

    @property
    def records(self) -> Mapping[str, RecoveryState]:
        """Every node's recovery as it stands."""
        return self._records

    async def run(self) -> None:
        """See to the fleet until cancelled. What is under way then is on record."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            await self._known.wait()
            await self._tell(self._retold())
            while True:
                self._begin(group)
                await asyncio.sleep(self._look_every_s)

    def _retold(self) -> list[Tell]:
        since = now() - timedelta(seconds=_RETELL_S)
        return [tell for record in self._records.values() for tell in retold(record, since)]

    # What is on record

    async def _follow(self) -> None:
        subject = HEALTH.key_subject(_GROUP)
        policy = {"deliver_policy": "last_per_subject"}
        reader = Reader(self._fleet.bus, HEALTH.stream, (subject,), policy)
        async for told in reader.snapshots():
            if told is None:
                self._known.set()
            elif told == "begin":
                self._last = 0
            else:
                self._last = told.seq
                self._read(told.subject, told.body)

    def _read(self, subject: str, body: bytes) -> None:
        if not body:
            for name in [each for each in self._records if subject == _subject(each)]:
                del self._records[name]
            return
        try:
            record = msgspec.json.decode(body, type=RecoveryState)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("not a record of a recovery", subject=subject, why=str(error))
            return
        self._records[record.node] = record

    # Who needs something

    def _begin(self, group: asyncio.TaskGroup) -> None:
        """Begin to see to every node for which something is to be done."""
        at = now()
        used = self._use(at)
        open_ones = [name for name, record in self._records.items() if record.state != "idle"]
        # Those whose step is under way take long, and little: they do not keep others waiting.
        begun = sum(not self._under_way(name) for name in self._busy)
        for name in dict.fromkeys((*open_ones, *self._sick())):
            if begun >= _AT_ONCE:
                return
            sight = None if name in self._busy else self._observe(name)
            if sight is None:
                continue
            record = self._records.get(name) or RecoveryState(node=name)
            facts = self._facts(name, sight, used, at)
            if decide(record, facts, self._policy, at).record != record or running(record):
                begun += 1
                self._busy.add(name)
                group.create_task(self._see_to(name))

    def _under_way(self, name: str) -> bool:
        record = self._records.get(name)
        return record is not None and running(record) is not None

    def _use(self, at: datetime) -> FleetUse:
        return fleet_use(self._records.values(), self._size(), self._mode, self._policy, at)

    def _facts(self, name: str, sight: Sight, used: FleetUse, at: datetime) -> Facts:
        own = self._records.get(name) or RecoveryState(node=name)
        return facts_of(
            sight.health,
            sight.record,
            sight.recovery,
            mode=self._mode,
            disruption=sight.disruption,
            fleet=elsewhere(used, own, self._mode, self._policy, at),
        )

    # One node

    async def _see_to(self, name: str) -> None:
        try:
            await self._under_lock(name)
        finally:
            self._busy.discard(name)

    async def _under_lock(self, name: str) -> None:
        try:
            lease = await self._fleet.acquire_lock(
                health.recovery_lock(name), ttl=self._lease_s, wait=0, note="recovery"
            )
        except (LockError, BusUnavailable) as error:
            log.debug("left to another", node=name, why=str(error))
            return
        try:
            await self._hold(name, lease)
        except WrongRevision as error:
            log.debug("decided again soon", node=name, why=str(error))
        except InterlockError as error:
            log.warning("recovery of a node was left", node=name, why=str(error))
        finally:
            with contextlib.suppress(InterlockError):
                await lease.release()

    async def _hold(self, name: str, lease: Lease) -> None:
        """See to a node for as long as a step is under way; what comes then is seen to anew."""
        first = True
        while True:
            lease.check()
            record, revision = await self._stored(name)
            if any(each.token > lease.token for each in record.attempts):
                raise LeaseLost(f"{name}: a later holder of the lock has acted")
            if first:
                await self._tell(retold(record, now() - timedelta(seconds=_RETELL_S)))
                first = False
            sight = self._observe(name)
            if sight is None:
                return
            # Nothing is awaited from here to the write: what the budget rests on must still stand.
            at, last = now(), self._last
            facts = self._facts(name, sight, self._use(at), at)
            decision = decide(record, facts, self._policy, at)
            if decision.record != record:
                record = _signed(decision.record, lease)
                revision = await self._write(
                    record, revision=revision, last=last if decision.spends else None
                )
                log.info("recovery", node=name, state=record.state, why=record.reason)
                await self._tell(decision.tells)
                if decision.step is not None:
                    await self._take(record, revision, decision.step, facts, sight, lease)
                    continue
            if running(record) is None:
                return
            await self._pause(lease)

    async def _take(
        self,
        record: RecoveryState,
        revision: int,
        step: Step,
        facts: Facts,
        sight: Sight,
        lease: Lease,
    ) -> None:
        """Run the command of a step, and put down how it ended."""
        lease.check()
        try:
            ran = await self._run(step, facts, sight)
        except asyncio.CancelledError:
            with contextlib.suppress(InterlockError, TimeoutError):
                async with asyncio.timeout(_LAST_WRITE_S):
                    await self._write(interrupted(record), revision=revision)
            raise
        # Where the lease was lost meanwhile, whoever has it now goes by what it observes.
        lease.check()
        ended = after_run(record, ran, self._policy, now())
        # The broker may be away just now: for as long as the lease stands, nobody else goes on.
        patience_s = max(_WRITE_S, lease.remaining_s)
        await self._write(ended.record, revision=revision, timeout_s=patience_s)
        log.info("step taken", node=record.node, step=step, came=ran.detail)

    async def _run(self, step: Step, facts: Facts, sight: Sight) -> Ran:
        command = command_of(step, facts.recovery)
        timeout_s = self._policy.step(step).timeout_s
        if command is None or (step in ON_NODE and sight.record is None):
            return Ran(begun=False, succeeded=False, detail="not run: its command is gone")
        if step in ON_NODE and sight.record is not None:
            return await self._runner.run_command(sight.record, command, timeout_s)
        return await run_hook(
            command, node=facts.node, reason=f"{facts.state}: {facts.reason}", timeout_s=timeout_s
        )

    async def _pause(self, lease: Lease) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._look_every_s):
                await lease.lost.wait()

    async def _stored(self, name: str) -> tuple[RecoveryState, int]:
        entry = await self._store.get(health.recovery_key(name))
        if not entry.value:
            return RecoveryState(node=name), entry.revision
        try:
            return msgspec.json.decode(entry.value, type=RecoveryState), entry.revision
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InterlockError(
                f"the record of {name}'s recovery cannot be read, so nothing is done: {error}. "
                f"Delete the key {entry.key} of the bucket {HEALTH.name}"
            ) from error

    async def _write(
        self,
        record: RecoveryState,
        *,
        revision: int,
        last: int | None = None,
        timeout_s: float = _WRITE_S,
    ) -> int:
        """Store a record in the place of `revision`; with `last`, only if no node's recovery was
        written since. Returns its revision. Raises WrongRevision, BusUnavailable."""
        body = msgspec.json.encode(record)
        condition = (
            expecting(revision) if last is None else expecting(last, HEALTH.key_subject(_GROUP))
        )
        write = Write(_subject(record.node), body, {**ALONE, **condition})
        try:
            ack = await self._fleet.bus.commit([write], timeout_s=timeout_s)
        except WrongRevision as error:
            if not error.unsure:
                raise
            return await self._found(record.node, body, error)
        except BusUnavailable as error:
            return await self._found(record.node, body, error)
        return ack.seq or await self._found(
            record.node, body, BusUnavailable("the record was stored, and is not there any more")
        )

    async def _found(self, name: str, body: bytes, error: InterlockError) -> int:
        """The revision of what we may have stored; raises `error` where it does not stand."""
        entry = await self._store.get(health.recovery_key(name))
        if entry.value != body:
            raise error
        return entry.revision

    async def _tell(self, tells: Iterable[Tell]) -> None:
        """Publish events. One that cannot be told now must not hold up a recovery."""
        for tell in tells:
            try:
                await self._fleet.publish(tell.event, id=tell.id, timeout_s=_WRITE_S)
            except InterlockError as error:
                log.warning("not told", id=tell.id, why=str(error))


def _subject(node: str) -> str:
    return HEALTH.key_subject(health.recovery_key(node))


def _signed(record: RecoveryState, lease: Lease) -> RecoveryState:
    """With the token of our lease on the step that is under way."""
    if running(record) is None:
        return record
    *before, attempt = record.attempts
    return msgspec.structs.replace(
        record, attempts=(*before, msgspec.structs.replace(attempt, token=lease.token))
    )
