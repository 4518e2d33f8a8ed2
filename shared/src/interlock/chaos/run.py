"""One chaos run: start, warm up, break, heal, finish, drain, and draw up the verdict.

Every phase has a limit of its own, so that a run ends by itself about a minute after its faults.
"""

import asyncio
import contextlib
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock import provisioning
from interlock.broker import BrokerNotReadyError
from interlock.bus import ApiError, Bus
from interlock.chaos import ledger
from interlock.chaos.checker import Found, Stored, Verdict, check
from interlock.chaos.consumer import EFFECTS, ORDERED, SHARED
from interlock.chaos.faults import Breaker
from interlock.chaos.lines import Effect, Entered, Line, Outcome
from interlock.chaos.network import Network
from interlock.chaos.schedule import draw
from interlock.chaos.stage import Progress, bus_to, finish, serving
from interlock.chaos.workers import AnyWorker, Worker
from interlock.cluster import LocalCluster
from interlock.errors import BusUnavailable, InterlockError
from interlock.reader import Reader
from interlock_schemas import subjects
from interlock_schemas.topology import EVENTS
from interlock_schemas.training import TrainingProgressed

__all__ = ["Report", "run"]

_PUBLISHERS: Final = 3
_CONSUMERS: Final = 3
_START_S: Final = 30.0
_HEAL_S: Final = 20.0
_FINISH_S: Final = 20.0
_DRAIN_S: Final = 25.0
_STOP_S: Final = 10.0
_LEAST_DRAIN_S: Final = 5.0
_READ_S: Final = 10.0
#: All that comes after the faults, together, seconds.
_AFTER_S: Final = 60.0
_LOOK_S: Final = 0.1
_TELL_S: Final = 3.0
_SHOWN: Final = 10


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found. Counts of events unless said otherwise."""

    ok: bool
    workload: str
    seed: int
    brokers: int
    seconds: float
    """Length of the phase with faults, as asked for."""
    took_s: float
    """Length of the whole run."""
    published: int
    acknowledged: int
    delivered: int
    lost: int
    duplicates: int
    reordered: int
    stuck: int
    misplaced: int
    redelivered: int
    late: int
    """Handled out of the order of their key because a delivery was lost on its way."""
    crashed: int
    """Client processes that ended by themselves with an error."""
    hung: int
    """Client processes that did not end when they were asked to."""
    faults: int
    """Faults that were carried out."""
    faults_by_kind: dict[str, int]
    worst_recovery_s: float
    offending: dict[str, list[str]]
    """The first few ids of each kind of finding."""
    folder: str | None
    """Where ledgers, logs and stores are kept for a look; None when all is well."""


async def run(
    workload: str,
    *,
    seed: int | None,
    brokers: int,
    seconds: float,
    keep: bool = False,
) -> Report:
    """Run publishers and consumers against `brokers` servers (1 or 3) and break things.

    ``workload``: named in the report; there is one, ``events``. ``seconds``: length of the phase
    with faults. Raises BrokerError when the servers cannot
    start.
    """
    seed = random.SystemRandom().randrange(1 << 30) if seed is None else seed
    begun = time.monotonic()
    tell = Progress()
    tell(f"seed {seed}, {brokers} broker{'s' if brokers > 1 else ''}, {seconds:g} s of faults")
    folder = Path(tempfile.mkdtemp(prefix="interlock-chaos-"))
    kept = False
    try:
        found, workers = await _run(folder, seed, brokers, seconds, tell)
        verdict = check(found)
        report = _report(verdict, found, workers, workload, seed, brokers, seconds, begun)
        if not report.ok or keep:
            kept = True
            report = msgspec.structs.replace(report, folder=str(folder))
            (folder / "report.json").write_bytes(
                msgspec.json.format(
                    msgspec.json.encode({"report": report, "happened": found.happened})
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


def _report(
    verdict: Verdict,
    found: Found,
    workers: list[Worker[Line]],
    workload: str,
    seed: int,
    brokers: int,
    seconds: float,
    begun: float,
) -> Report:
    crashed = sum(each.crashes for each in workers)
    hung = sum(each.hung for each in workers)
    offending = {
        name: list(getattr(verdict, name)[:_SHOWN])
        for name in ("lost", "duplicates", "reordered", "stuck", "misplaced", "late")
        if getattr(verdict, name)
    }
    return Report(
        ok=verdict.clean and not crashed and not hung and bool(found.happened),
        workload=workload,
        seed=seed,
        brokers=brokers,
        seconds=seconds,
        took_s=round(time.monotonic() - begun, 1),
        published=verdict.published,
        acknowledged=verdict.acknowledged,
        delivered=verdict.delivered,
        lost=len(verdict.lost),
        duplicates=len(verdict.duplicates),
        reordered=len(verdict.reordered),
        stuck=len(verdict.stuck),
        misplaced=len(verdict.misplaced),
        redelivered=verdict.redelivered,
        late=len(verdict.late),
        crashed=crashed,
        hung=hung,
        faults=len(found.happened),
        faults_by_kind=dict(sorted(Counter(each.fault.kind for each in found.happened).items())),
        worst_recovery_s=round(verdict.worst_recovery_s, 2),
        offending=offending,
        folder=None,
    )


async def _run(
    folder: Path, seed: int, brokers: int, seconds: float, tell: Progress
) -> tuple[Found, list[Worker[Line]]]:
    cluster = LocalCluster(folder / "cluster", size=brokers)
    network = Network(cluster)
    env = {
        "INTERLOCK_NATS_URL": cluster.url,
        "INTERLOCK_NATS_USER": cluster.user,
        "INTERLOCK_NATS_PASSWORD": cluster.password,
        "INTERLOCK_CONNECT_TIMEOUT_S": "60",
    }

    def worker(name: str, *arguments: str) -> Worker[Line]:
        kind = "publisher" if name.startswith("publisher") else "consumer"
        module = f"interlock.chaos.{kind}"
        lines = ledger.EVENT_LINES
        return Worker(folder, name, env, module, *arguments, lines=lines, success=_success)

    publishers = [worker(f"publisher-{n + 1}") for n in range(_PUBLISHERS)]
    consumers = [worker(f"consumer-{n + 1}") for n in range(_CONSUMERS)]
    ordered = worker("ordered", "--ordered")
    async with network.running(), serving(cluster):
        await _provision(cluster)
        tell("broker up; starting publishers and consumers")
        async with asyncio.TaskGroup() as consuming:
            tasks = [consuming.create_task(each.run()) for each in (*consumers, ordered)]
            async with asyncio.TaskGroup() as publishing:
                sending = [publishing.create_task(each.run()) for each in publishers]
                await _warm(publishers, [*consumers, ordered])
                tell("all of them at work; breaking things")

                def over(since: float, hit: Container[AnyWorker]) -> bool:
                    for each in (*publishers, *consumers, ordered):
                        each.look()
                    live = [each for each in publishers if each not in hit]
                    handled = any(each.last_success_at > since for each in (*consumers, ordered))
                    return handled and all(each.last_success_at > since for each in live)

                workers = {"publisher": publishers, "consumer": [*consumers, ordered]}
                breaker = Breaker(cluster, network, workers, tell, over)
                schedule = draw(
                    seed,
                    seconds=seconds,
                    brokers=brokers,
                    publishers=_PUBLISHERS,
                    consumers=_CONSUMERS + 1,
                )
                await breaker.run(schedule, seconds=seconds)
                deadline = time.monotonic() + _AFTER_S
                tell("healed; publishers resolve what is unknown")
                with contextlib.suppress(BrokerNotReadyError):
                    await cluster.ready(timeout_s=_HEAL_S)
                await finish(publishers, sending, _FINISH_S, tell)
            read_s = _READ_S + seconds / 20
            left_s = deadline - time.monotonic() - _STOP_S - _READ_S
            tell("consumers drain")
            last = _last_acknowledged(publishers)
            async with bus_to(cluster) as bus:
                drain_s = max(_LEAST_DRAIN_S, min(_DRAIN_S, left_s))
                drained = await _drain(bus, last, drain_s, tell)
                await finish([*consumers, ordered], tasks, _STOP_S, tell)
                tell("comparing the ledgers" if drained else "not drained in time; comparing")
                try:
                    async with asyncio.timeout(read_s):
                        stored, effects = await _stored(bus, last), await _effects(bus)
                except TimeoutError as error:
                    raise InterlockError(
                        f"the healed broker could not be read within {read_s:g} s"
                    ) from error
    found = Found(
        publishers={each.name: each.lines() for each in publishers},
        consumers={each.name: each.lines() for each in consumers},
        ordered=ordered.lines(),
        stored=stored,
        effects=effects,
        drained=drained,
        happened=breaker.happened,
        publisher_names=[each.name for each in publishers],
    )
    return found, [*publishers, *consumers, ordered]


def _success(line: Line) -> float:
    """When something was published or handled."""
    if isinstance(line, Outcome):
        return line.at if line.result == "acknowledged" else 0.0
    return line.at if isinstance(line, (Effect, Entered)) else 0.0


async def _provision(cluster: LocalCluster) -> None:
    async with bus_to(cluster) as bus:
        await provisioning.apply(bus, (), replicas=cluster.size)
        bucket = msgspec.structs.replace(EFFECTS, replicas=cluster.size)
        await bus.api(f"STREAM.CREATE.{bucket.stream}", provisioning.bucket_config(bucket))


async def _warm(publishers: list[Worker[Line]], consumers: list[Worker[Line]]) -> None:
    """Wait until each publisher had an acknowledgement and each durable a delivery."""
    deadline = time.monotonic() + _START_S
    while True:
        for each in (*publishers, *consumers):
            each.look()
        idle = [each.name for each in publishers if not each.last_success_at]
        if not any(each.last_success_at for each in consumers[:-1]):
            idle.append("consumers")
        if not consumers[-1].last_success_at:
            idle.append(consumers[-1].name)
        if not idle:
            return
        if time.monotonic() > deadline:
            logs = "\n".join(
                each.log.read_text(errors="replace")[-500:] for each in (*publishers, *consumers)
            )
            raise InterlockError(f"nothing was heard of {', '.join(idle)}. Their logs:\n{logs}")
        await asyncio.sleep(_LOOK_S)


def _last_acknowledged(publishers: list[Worker[Line]]) -> int:
    """The last number in the stream that a publisher was told."""
    return max(
        (
            line.stream_seq
            for each in publishers
            for line in each.lines()
            if isinstance(line, Outcome) and line.result == "acknowledged"
        ),
        default=0,
    )


async def _drain(bus: Bus, last: int, limit_s: float, tell: Progress) -> bool:
    """Wait until nothing up to `last` is pending at either durable; whether it came to that.

    A server that has just been cut off and does not know it yet may answer from what it knew then,
    so nothing pending counts only where everything has been acknowledged too.
    """
    deadline = time.monotonic() + limit_s
    told_at = time.monotonic()
    quiet = 0
    while time.monotonic() < deadline:
        left = {}
        for durable in (SHARED, ORDERED):
            with contextlib.suppress(ApiError, BusUnavailable):
                info = await bus.api(f"CONSUMER.INFO.{EVENTS.name}.{durable}", timeout_s=3)
                if info["ack_floor"]["stream_seq"] >= last:
                    left[durable] = (info["num_pending"], info["num_ack_pending"])
        # Twice, because the server looked at one durable after the other.
        quiet = quiet + 1 if list(left.values()) == [(0, 0), (0, 0)] else 0
        if quiet == 2:
            return True
        if time.monotonic() - told_at > _TELL_S:
            told_at = time.monotonic()
            for durable, (pending, unacknowledged) in left.items():
                tell(f"{durable}: {pending} pending, {unacknowledged} not acknowledged")
        await asyncio.sleep(_LOOK_S)
    return False


async def _stored(bus: Bus, last: int) -> list[Stored]:
    """The whole stream, in order, from a server that knows it up to `last`."""
    while True:
        found = await _read(bus)
        if not last or (found and found[-1].seq >= last):
            return found
        if (await bus.api(f"STREAM.INFO.{EVENTS.name}"))["state"]["last_seq"] >= last:
            # It knows the number, and the message is not there.
            return found
        await asyncio.sleep(_LOOK_S)


async def _read(bus: Bus) -> list[Stored]:
    reader = Reader(bus, EVENTS.name, (subjects.EVENTS,), {"deliver_policy": "all"})
    found = []
    async with contextlib.aclosing(reader.records(until_end=True)) as records:
        async for record in records:
            event: Any = msgspec.json.decode(record.body, type=TrainingProgressed)
            found.append(Stored(record.seq, event.config, event.epoch))
    return found


async def _effects(bus: Bus) -> frozenset[str]:
    """Ids whose effect stands."""
    start = {"deliver_policy": "all"}
    reader = Reader(bus, EFFECTS.stream, (EFFECTS.subject,), start, headers_only=True)
    prefix = len(EFFECTS.key_subject(""))
    async with contextlib.aclosing(reader.records(until_end=True)) as records:
        return frozenset([record.subject[prefix:] async for record in records])
