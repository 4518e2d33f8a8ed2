"""The whole benchmark of locks: servers, clients, rounds in turns, and the report."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from interlock.bench import machine
from interlock.bench.compare import Say
from interlock.bench.locks import handover, servers
from interlock.bench.locks.hand import Hand, hand
from interlock.bench.locks.plan import CLIENTS, Plan, next_count, share
from interlock.bench.locks.result import Figures, Measured, Report, figures, ratios
from interlock.bench.locks.servers import Server
from interlock.bench.locks.task import Outcome, Task
from interlock.bench.play import scratch
from interlock.bench.workers import BenchFailed
from interlock.broker import find_server

__all__ = ["play"]

_OURS: Final = "interlock"
_WARM_UP: Final = 10
_WARM_UP_HANDOVERS: Final = 6
_WARM_UP_S: Final = 1.0
#: From when clients are told of a throughput until it begins, so that all are ready.
_LEAD_S: Final = 0.05


class _Contender:
    """One that runs: its server, two client processes, and what was measured so far."""

    def __init__(self, name: str, server: Server, hands: tuple[Hand, Hand]) -> None:
        self.name = name
        self.server = server
        self.hands = hands
        self.found = Measured()
        self.handovers = _WARM_UP_HANDOVERS
        """Of a round, by each of the two together."""

    def figures(self) -> Figures:
        server = self.server
        return figures(
            self.found,
            server=server.server,
            client=server.client,
            replicas=server.replicas,
            sync=server.sync,
        )


class _Field:
    """All who are measured. A peer that fails is noted and left out from then on."""

    def __init__(self) -> None:
        self.contenders: list[_Contender] = []
        self.failed: dict[str, str] = {}

    async def each(self, do: Callable[[_Contender], Awaitable[None]]) -> None:
        """Do it with one after the other. Raises BenchFailed where ours fails."""
        for contender in list(self.contenders):
            try:
                await do(contender)
                await contender.server.settled()
            except BenchFailed as error:
                if contender.name == _OURS:
                    raise
                self.failed[contender.name] = str(error)
                self.contenders.remove(contender)


async def play(*, quick: bool, replicas: int, parent: Path | None, say: Say) -> Report:
    """Measure locks of ours, and of Redis and etcd where they are installed.

    All store in a temporary folder below `parent`, and are gone at the end. Raises BenchFailed when
    ours is not installed or does not work, BrokerError when there is no broker.
    """
    begin = time.monotonic()
    plan = Plan.of(quick=quick)
    absent = servers.absent()
    chosen = _chosen(absent, replicas)
    say(
        f"this takes up to {plan.estimate_s(len(chosen)):.0f} seconds; other work on this machine "
        "falsifies it"
    )
    with scratch(parent) as made:
        folder = Path(made)
        found_machine = machine.examine(folder, find_server().version_text)
        if found_machine.filesystem in ("tmpfs", "ramfs"):
            say(f"{folder} is in memory: a sync costs nothing there. Name a disk with --dir")
        async with contextlib.AsyncExitStack() as stack:
            field = await _started(stack, chosen, folder, say)
            await _uncontended(field, plan, say)
            await _handovers(field, plan, say)
            await _throughputs(field, plan, say)
            (us,) = (each for each in field.contenders if each.name == _OURS)
            peers = [each for each in field.contenders if each is not us]
            own = us.figures()
            medians, pairs = ratios(us.found, {peer.name: peer.found for peer in peers})
            say("stopping")
    return Report(
        **{name: getattr(own, name) for name in own.__struct_fields__},
        ratios=medians,
        ratio_runs=pairs,
        peers={peer.name: peer.figures() for peer in peers},
        absent=absent,
        failed=field.failed,
        machine=found_machine,
        quick=quick,
        seconds=round(time.monotonic() - begin, 1),
    )


_Start = Callable[[Path], AbstractAsyncContextManager[Server]]


def _chosen(absent: dict[str, str], replicas: int) -> dict[str, _Start]:
    """How to start each contender that is installed, ours first. Raises BenchFailed without it."""
    contract = servers.installed()
    if contract is None:
        raise BenchFailed(servers.NOT_HERE)
    chosen: dict[str, _Start] = {
        _OURS: lambda folder: servers.ours(folder, contract, replicas=replicas)
    }
    if "redis" not in absent:
        chosen["redis"] = lambda folder: servers.redis(folder, fsync="always")
        chosen["redis_everysec"] = lambda folder: servers.redis(folder, fsync="everysec")
    if "etcd" not in absent:
        chosen["etcd"] = lambda folder: servers.etcd(folder, replicas=replicas)
    return chosen


async def _started(
    stack: contextlib.AsyncExitStack, chosen: dict[str, _Start], folder: Path, say: Say
) -> _Field:
    field = _Field()
    for name, start in chosen.items():
        say(f"starting {name}")
        try:
            server = await stack.enter_async_context(start(folder / name))
            hands = [
                await stack.enter_async_context(
                    hand(name, server.where, server.environment, folder)
                )
                for _ in range(2)
            ]
        except BenchFailed as error:
            if name == _OURS:
                raise
            field.failed[name] = str(error)
        else:
            field.contenders.append(_Contender(name, server, (hands[0], hands[1])))
    return field


async def _uncontended(field: _Field, plan: Plan, say: Say) -> None:
    async def warm_up(contender: _Contender) -> None:
        task = Task(way="uncontended", name="bench-warm", count=_WARM_UP, seconds=_WARM_UP_S)
        await contender.hands[0].do(task)

    async def measure(contender: _Contender) -> None:
        task = Task(way="uncontended", name="bench", count=plan.operations, seconds=plan.round_s)
        contender.found.add((await contender.hands[0].do(task)).taken)

    await field.each(warm_up)
    for number in range(plan.rounds):
        say(f"uncontended locks and raw writes, round {number + 1} of {plan.rounds}")
        await field.each(measure)


async def _handovers(field: _Field, plan: Plan, say: Say) -> None:
    async def warm_up(contender: _Contender) -> None:
        begin = time.monotonic()
        await _hand_over(contender, _WARM_UP_HANDOVERS)
        contender.handovers = next_count(
            _WARM_UP_HANDOVERS,
            time.monotonic() - begin,
            budget_s=plan.handover_s,
            most=plan.handovers,
        )

    async def measure(contender: _Contender) -> None:
        contender.found.add({"handover": await _hand_over(contender, contender.handovers)})

    await field.each(warm_up)
    for number in range(plan.handover_rounds):
        say(f"hand-overs between two processes, round {number + 1} of {plan.handover_rounds}")
        await field.each(measure)


async def _hand_over(contender: _Contender, count: int) -> list[int]:
    """Nanoseconds of each hand-over of one lock between the two processes."""
    one, other = contender.hands
    name = "bench-handed-over"
    await one.do(Task(way="hold", name=name))
    task = Task(way="hand_over", name=name, count=count // 2)
    try:
        first, second = await _together([(one, task), (other, task)])
        return handover.latencies(first.holds, second.holds)
    except handover.NotAlternating as error:
        raise BenchFailed(f"{contender.name}: {error}") from error


async def _throughputs(field: _Field, plan: Plan, say: Say) -> None:
    for number in range(plan.runs):
        for clients in CLIENTS:
            for together in (False, True) if clients > 1 else (False,):
                say(
                    f"throughput of {clients} client{'s'[: clients - 1]}"
                    f"{' on one lock' if together else ''}, run {number + 1} of {plan.runs}"
                )

                async def measure(
                    contender: _Contender, clients: int = clients, together: bool = together
                ) -> None:
                    await _throughput(contender, clients, together, plan.run_s)

                await field.each(measure)


async def _throughput(contender: _Contender, clients: int, together: bool, seconds: float) -> None:
    shared = [
        (worker, part) for worker, part in zip(contender.hands, share(clients), strict=True) if part
    ]
    await _together([(worker, Task(way="connect", clients=part)) for worker, part in shared])
    start_ns = time.monotonic_ns() + round(_LEAD_S * 1e9)
    name = "bench-one-lock" if together else ""
    outcomes = await _together(
        [
            (
                worker,
                Task(way="throughput", name=name, clients=part, seconds=seconds, start_ns=start_ns),
            )
            for worker, part in shared
        ]
    )
    cycles = sum(outcome.cycles for outcome in outcomes)
    if not cycles:
        raise BenchFailed(
            f"{contender.name}: of {clients} clients none got a lock within {seconds:g} s"
        )
    contender.found.rates.setdefault((clients, together), []).append(cycles / seconds)
    if together:
        contender.found.served.setdefault(clients, []).append(
            sum(outcome.served for outcome in outcomes)
        )


async def _together(work: Sequence[tuple[Hand, Task]]) -> list[Outcome]:
    """Tasks of different processes at the same time. Raises the first failure."""
    try:
        async with asyncio.TaskGroup() as group:
            doing = [group.create_task(worker.do(task)) for worker, task in work]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [each.result() for each in doing]
