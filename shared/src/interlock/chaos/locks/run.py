"""One run of locks: start, warm up, break, heal, finish, ask anew, and judge the history.

Every phase has a limit of its own, so that a run ends by itself about a minute after its faults.
"""

import asyncio
import contextlib
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from interlock.broker import BrokerNotReadyError
from interlock.bus import ApiError, Bus
from interlock.chaos import ledger
from interlock.chaos.checker import Happened
from interlock.chaos.faults import Breaker
from interlock.chaos.locks import clocks
from interlock.chaos.locks.checker import Found, Fresh, Verdict, check
from interlock.chaos.locks.client import Shared, lock_name
from interlock.chaos.locks.findings import KINDS, Window, Windows
from interlock.chaos.locks.lines import Line
from interlock.chaos.locks.observer import read_records
from interlock.chaos.locks.planting import Plant
from interlock.chaos.locks.records import Value
from interlock.chaos.locks.stage import (
    Processes,
    behind_ns,
    environment,
    observing,
    prepare,
    served,
)
from interlock.chaos.network import Network
from interlock.chaos.schedule import (
    BROKER_KINDS,
    GAPS_S,
    PROCESS_KINDS,
    SERVICE_KINDS,
    Fault,
    Kind,
    Lane,
    draw,
)
from interlock.chaos.stage import Progress, bus_to, finish, serving
from interlock.chaos.workers import AnyWorker, Worker
from interlock.cluster import LocalCluster
from interlock.errors import InterlockError
from interlock.fleet import Fleet
from interlock_schemas.topology import LOCKS

__all__ = ["Faults", "Plan", "Report", "run"]

_START_S: Final = 40.0
_HEAL_S: Final = 20.0
_FINISH_S: Final = 40.0
_READ_S: Final = 10.0
_LOOK_S: Final = 0.1
_SHOWN: Final = 10
#: How long a client waits for a lock, seconds.
_WAIT_S: Final = 60.0
#: After a server is whole again, so long until a client has noticed, seconds: it connects anew, or
#: waits for an answer that will not come and asks again.
_GRACE_S: Final = 4.0
#: Between two faults of the broker, seconds: past the grace, so that locks can be seen not to be
#: stuck.
_BROKER_GAP_S: Final = (_GRACE_S + 1.0, _GRACE_S + 8.0)
#: Between two faults of clients, seconds.
_CLIENT_GAP_S: Final = (0.1, 1.0)
#: How often a replica is killed, where only they are, seconds; and how long it stays away.
_SERVICE_EVERY_S: Final = 2.0
_SERVICE_AWAY_S: Final = 0.1
#: So many processes are killed at the end, as they hold.
_KILLED_LAST: Final = 2


class Faults(StrEnum):
    """What is broken."""

    ALL = "all"
    """Servers, their network, clients, replicas of the service, wall clocks."""
    CLIENTS = "clients"
    """Clients are killed and frozen, and nothing else."""
    SERVICES = "services"
    """A replica of the service is killed every two seconds, and nothing else."""
    NONE = "none"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is to be."""

    clients: int = 64
    processes: int = 8
    locks: int = 10
    ttl_s: float = 2.0
    """Of each lease."""
    brokers: int = 1
    """1, or 3 with three replicas."""
    services: int = 2
    """Replicas of the lock service."""
    seconds: float = 30.0
    """Length of the phase with faults."""
    faults: Faults = Faults.ALL
    plant: Plant | None = None
    """A bug to put in: the run must fail."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found."""

    ok: bool
    workload: str = "locks"
    seed: int
    brokers: int
    services: int
    clients: int
    processes: int
    locks: int
    ttl_s: float
    seconds: float
    """Length of the phase with faults, as asked for."""
    took_s: float
    """Length of the whole run."""
    asks: int
    """Turns that clients began."""
    grants: int
    """Holds that the bucket saw begin."""
    hand_overs: int
    """Of these, to a client that waited."""
    renewals: int
    expired: int
    """Holds that nobody renewed in time."""
    lost: int
    """Leases that clients were told they lost."""
    timeouts: int
    """Turns in which the lock was not granted in time."""
    refused_asks: int
    """Turns that ended without the lock for another reason."""
    file_writes: int
    """Accepted by the fence of files."""
    file_refused: int
    """Late writes that it refused, and those that could not have their turn."""
    kv_writes: int
    """Accepted by the broker."""
    kv_refused: int
    """Late writes that it refused."""
    unknown: int
    """Writes whose writer was not told; the history tells."""
    history: int
    """Messages of the bucket that were judged."""
    missing: int
    """Messages of the bucket that nobody saw."""
    worst_stuck_s: float
    """The longest that a lock with a waiter stood still beyond its lease, while the broker was
    well."""
    worst_broken_s: float
    """The same, counting all the time."""
    watched_s: float
    """How long the broker was well, of the phase with faults and after it."""
    worst_idle_s: float
    """The longest that a lock with a waiter was held by nobody, while the broker was well."""
    worst_fresh_s: float | None
    """The longest that somebody new waited for a lock whose holders were killed, at the end.
    None: in vain."""
    violations: dict[str, int]
    """By kind; all of them 0 when all is well."""
    offending: dict[str, list[str]]
    """The first few of each kind."""
    crashed: int
    """Clients that ended by themselves with an error, and replicas with an unknown one."""
    service_exits: int
    """How often a replica ended by itself, as it does when the broker is away as it starts."""
    hung: int
    """Processes that did not end when they were asked to."""
    faults: int
    """Faults that were carried out."""
    faults_by_kind: dict[str, int]
    clock_jumps: str
    """Whether wall clocks were made to jump."""
    planted: str | None
    """The bug that was put in."""
    folder: str | None
    """Where ledgers, logs and stores are kept for a look; None when all is well."""


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run leaves."""

    found: Found
    begun_at: float
    """When the first fault could come."""
    happened: Sequence[Happened]
    crashed: int
    service_exits: int
    hung: int
    clock_jumps: str


async def run(plan: Plan, *, seed: int | None, keep: bool = False) -> Report:
    """Run clients of locks and break things by a schedule drawn from the seed.

    Raises BrokerError when the servers cannot start, InterlockError when the service does not.
    """
    seed = random.SystemRandom().randrange(1 << 30) if seed is None else seed
    begun = time.monotonic()
    tell = Progress()
    tell(
        f"seed {seed}, {plan.brokers} broker{'s' if plan.brokers > 1 else ''}, "
        f"{plan.clients} clients in {plan.processes} processes, {plan.locks} locks, "
        f"{plan.seconds:g} s of faults"
    )
    if plan.plant is not None:
        tell(f"with a bug put in: {plan.plant}")
    folder = Path(tempfile.mkdtemp(prefix="interlock-chaos-"))
    kept = False
    try:
        outcome = await _run(folder, plan, seed, tell)
        verdict = check(outcome.found)
        report = _report(plan, seed, verdict, outcome, time.monotonic() - begun)
        if not report.ok or keep:
            kept = True
            report = msgspec.structs.replace(report, folder=str(folder))
            findings = [each for of_kind in verdict.findings.values() for each in of_kind]
            (folder / "report.json").write_bytes(
                msgspec.json.format(
                    msgspec.json.encode(
                        {
                            "report": report,
                            "findings": findings,
                            "happened": outcome.happened,
                            "found": {
                                "first": outcome.found.first,
                                "last": outcome.found.last,
                                "end_at": outcome.found.end_at,
                                "finals": outcome.found.finals,
                                "fresh": outcome.found.fresh,
                                "broken": outcome.found.broken,
                                "frozen": outcome.found.frozen,
                            },
                        }
                    )
                )
            )
            tell(f"kept: {folder}")
        return report
    except Exception:
        kept = True
        tell(f"kept: {folder}")
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def _report(plan: Plan, seed: int, verdict: Verdict, outcome: _Outcome, took_s: float) -> Report:
    counts = verdict.counts
    fresh = [each.took_s for each in outcome.found.fresh]
    waited = [each for each in fresh if each is not None]
    return Report(
        ok=verdict.clean
        and not outcome.crashed
        and not outcome.hung
        and (bool(outcome.happened) or plan.faults == Faults.NONE),
        seed=seed,
        brokers=plan.brokers,
        services=plan.services,
        clients=plan.clients,
        processes=plan.processes,
        locks=plan.locks,
        ttl_s=plan.ttl_s,
        seconds=plan.seconds,
        took_s=round(took_s, 1),
        asks=verdict.asks,
        grants=counts.grants,
        hand_overs=counts.hand_overs,
        renewals=counts.renewals,
        expired=counts.expired,
        lost=verdict.lost,
        timeouts=verdict.timeouts,
        refused_asks=verdict.refused_asks,
        file_writes=verdict.told["file"].accepted,
        file_refused=verdict.told["file"].refused,
        kv_writes=verdict.told["kv"].accepted,
        kv_refused=verdict.told["kv"].refused,
        unknown=sum(each.unknown for each in verdict.told.values()),
        history=len({record.seq for record in outcome.found.records}),
        missing=counts.missing,
        worst_stuck_s=round(counts.worst_stuck_s, 2),
        worst_broken_s=round(counts.worst_broken_s, 2),
        watched_s=round(
            Windows(outcome.found.broken).outside_s(outcome.begun_at, outcome.found.end_at), 1
        ),
        worst_idle_s=round(counts.worst_idle_s, 2),
        worst_fresh_s=round(max(waited), 2) if waited and len(waited) == len(fresh) else None,
        violations={kind: len(verdict.findings.get(kind, ())) for kind in KINDS},
        offending={
            kind: [f"{each.where}: {each.what}" for each in found[:_SHOWN]]
            for kind, found in verdict.findings.items()
        },
        crashed=outcome.crashed,
        service_exits=outcome.service_exits,
        hung=outcome.hung,
        faults=len(outcome.happened),
        faults_by_kind=dict(sorted(Counter(each.fault.kind for each in outcome.happened).items())),
        clock_jumps=outcome.clock_jumps,
        planted=plan.plant,
        folder=None,
    )


def _schedule(plan: Plan, seed: int, *, clocks_jump: bool) -> list[Fault]:
    if plan.faults == Faults.NONE:
        return []
    if plan.faults == Faults.SERVICES:
        rand = random.Random(f"{seed}/services")  # noqa: S311  # to be repeated, no secret
        starts = [_SERVICE_EVERY_S * n for n in range(int(plan.seconds / _SERVICE_EVERY_S))]
        return [
            Fault(
                kind="service_kill",
                target=rand.randrange(plan.services),
                start_s=start,
                end_s=start + _SERVICE_AWAY_S,
            )
            for start in starts
        ]

    def possible(kinds: Sequence[Kind]) -> tuple[Kind, ...]:
        return tuple(kind for kind in kinds if clocks_jump or not kind.endswith("clock"))

    lanes: dict[Lane, tuple[Kind, ...]] = {
        "broker": BROKER_KINDS,
        "client": possible(PROCESS_KINDS),
        "service": possible(SERVICE_KINDS),
    }
    if plan.faults == Faults.CLIENTS:
        lanes = {"client": ("process_freeze", "process_kill", "process_freeze")}
    return draw(
        seed,
        seconds=plan.seconds,
        brokers=plan.brokers,
        processes=plan.processes,
        services=plan.services,
        lanes=lanes,
        gaps_s={**GAPS_S, "broker": _BROKER_GAP_S, "client": _CLIENT_GAP_S},
    )


async def _run(folder: Path, plan: Plan, seed: int, tell: Progress) -> _Outcome:
    cluster = LocalCluster(folder / "cluster", size=plan.brokers)
    network = Network(cluster)
    processes = Processes(
        folder, environment(cluster), plan.plant, clocks_jump=plan.faults == Faults.ALL
    )
    schedule = _schedule(plan, seed, clocks_jump=processes.library is not None)
    services = [processes.service(f"service-{n + 1}") for n in range(plan.services)]
    clients = [
        _client(processes, folder, plan, n, _share(plan.clients, plan.processes, n))
        for n in range(plan.processes)
    ]
    history = folder / "history.jsonl"
    behind = behind_ns()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(processes.clear_away)
        await stack.enter_async_context(network.running())
        await stack.enter_async_context(serving(cluster))
        await prepare(cluster)
        bus = await stack.enter_async_context(bus_to(cluster))
        first = await _last(bus) + 1
        observed = await stack.enter_async_context(observing(cluster, folder, history, tell))
        async with asyncio.TaskGroup() as group:
            serve = [group.create_task(each.run()) for each in services]
            tell("broker up; starting lock services and clients")
            await served(bus, plan.services)
            work = [group.create_task(each.run()) for each in clients]
            await _warm(clients)
            tell("all of them at work; breaking things")
            begun_at = ledger.now()
            breaker = Breaker(
                cluster, network, {"process": clients, "service": services}, tell, _over(clients)
            )
            await breaker.run(schedule, seconds=plan.seconds)
            if not schedule:
                await asyncio.sleep(plan.seconds)
            tell("healed; clients end their turns")
            with contextlib.suppress(BrokerNotReadyError):
                await cluster.ready(timeout_s=_HEAL_S)
            killed = _KILLED_LAST if plan.processes > _KILLED_LAST else 0
            await finish(clients[killed:], work[killed:], _FINISH_S, tell)
            tell("killing those that are left, and asking for every lock")
            for each, task in zip(clients[:killed], work, strict=False):
                await each.kill()
                task.cancel()
            fresh = await _ask_anew(bus, plan)
            end_at = ledger.now()
            last = await _last(bus)
            finals = {lock_name(n): await _stored(bus, lock_name(n)) for n in range(plan.locks)}
            await observed(last)
            for task in serve:
                task.cancel()
    happened = breaker.happened
    shared = Shared(folder / "shared")
    found = Found(
        ledgers={each.name: each.lines() for each in clients},
        records=read_records(history, behind_ns=behind),
        first=first,
        last=last,
        end_at=end_at,
        files={lock_name(n): shared.values(lock_name(n)) for n in range(plan.locks)},
        finals=finals,
        fresh=fresh,
        ttl_s=plan.ttl_s,
        broken=[
            Window(each.start_at, each.whole_at + _GRACE_S)
            for each in happened
            if each.fault.lane == "broker"
        ],
        frozen={
            worker.name: [
                Window(each.start_at, each.end_at)
                for each in happened
                if each.fault.kind == "process_freeze" and each.fault.target == n
            ]
            for n, worker in enumerate(clients)
        },
        killed=frozenset(each.name for each in clients[:killed]),
        nobody_times_out=plan.faults in (Faults.SERVICES, Faults.NONE),
    )
    return _Outcome(
        found=found,
        begun_at=begun_at,
        happened=happened,
        crashed=sum(each.crashes for each in clients) + sum(map(_unknown_errors, services)),
        service_exits=sum(each.crashes for each in services),
        hung=sum(each.hung for each in clients),
        clock_jumps=_jumps(plan, happened, possible=processes.library is not None),
    )


def _unknown_errors(worker: AnyWorker) -> int:
    """How often it ended with an error that it has no sentence for."""
    return worker.log.read_text(errors="replace").count("Traceback (most recent call last)")


def _jumps(plan: Plan, happened: Sequence[Happened], *, possible: bool) -> str:
    if plan.faults == Faults.ALL and not possible:
        return clocks.MISSING
    count = sum(each.fault.kind.endswith("clock") for each in happened)
    return f"{count} times"


def _share(clients: int, processes: int, number: int) -> int:
    """How many clients one process has."""
    return clients // processes + (number < clients % processes)


def _client(
    processes: Processes, folder: Path, plan: Plan, number: int, clients: int
) -> Worker[Line]:
    return processes.client(
        f"clients-{number + 1}",
        *("--folder", str(folder / "shared")),
        *("--clients", str(clients)),
        *("--locks", str(plan.locks)),
        *("--ttl", str(plan.ttl_s)),
        *("--wait", str(_WAIT_S)),
    )


def _over(clients: Sequence[AnyWorker]) -> Callable[[float, Container[AnyWorker]], bool]:
    def over(since: float, hit: Container[AnyWorker]) -> bool:
        for each in clients:
            each.look()
        return all(each.last_success_at > since for each in clients if each not in hit)

    return over


async def _warm(clients: Sequence[AnyWorker]) -> None:
    """Wait until somebody in each process held a lock."""
    deadline = time.monotonic() + _START_S
    while True:
        for each in clients:
            each.look()
        idle = [each for each in clients if not each.last_success_at]
        if not idle:
            return
        if time.monotonic() > deadline:
            logs = "\n".join(each.log.read_text(errors="replace")[-500:] for each in idle)
            names = ", ".join(each.name for each in idle)
            raise InterlockError(f"nobody held a lock in {names}. Their logs:\n{logs}")
        await asyncio.sleep(_LOOK_S)


async def _ask_anew(bus: Bus, plan: Plan) -> list[Fresh]:
    """Ask for every lock at once, before everybody who may still be queued."""
    fleet = Fleet(bus, source="chaos/fresh")

    async def one(lock: str) -> Fresh:
        begun = ledger.now()
        try:
            lease = await fleet.acquire_lock(
                lock, ttl=plan.ttl_s, wait=_READ_S, priority="critical", note=f"fresh.{lock}"
            )
        except InterlockError as error:
            return Fresh(lock=lock, took_s=None, text=str(error))
        took_s = ledger.now() - begun
        with contextlib.suppress(InterlockError):
            await lease.release()
        return Fresh(lock=lock, took_s=took_s)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(lock_name(n))) for n in range(plan.locks)]
    return [task.result() for task in tasks]


async def _last(bus: Bus) -> int:
    info = await bus.api(f"STREAM.INFO.{LOCKS.stream}", timeout_s=_READ_S)
    last: int = info["state"]["last_seq"]
    return last


async def _stored(bus: Bus, lock: str) -> int:
    """The value of a lock's key at the end."""
    fleet = Fleet(bus, source="chaos/fresh")
    try:
        body = await fleet.fenced_state(lock)
    except ApiError as error:
        raise InterlockError(f"the healed broker could not be read: {error}") from error
    return msgspec.json.decode(body, type=Value).value if body is not None else 0
