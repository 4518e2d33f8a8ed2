"""Carries out the faults of a schedule against a real cluster, its network and its clients.

Each lane takes one fault after the other. After a fault of the broker, the next waits until all
servers have caught up, so that a majority is never missing; and, unless it is hasty, until the
clients were heard of again, so that how long they took can be told.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Final

from interlock.broker import BrokerNotReadyError
from interlock.chaos import ledger
from interlock.chaos.checker import Happened
from interlock.chaos.network import Network
from interlock.chaos.proxy import Slow
from interlock.chaos.schedule import Fault
from interlock.chaos.workers import AnyWorker
from interlock.cluster import LocalCluster

__all__ = ["Breaker"]

_LOOK_S: Final = 0.05
#: How long the next fault waits for the clients to get over the last, seconds.
_PATIENCE_S: Final = 12.0
#: A fault that is late by no more than this still takes place, seconds.
_LATE_S: Final = 0.1


class Breaker:
    """Breaks one cluster and its clients by a schedule."""

    def __init__(
        self,
        cluster: LocalCluster,
        network: Network,
        workers: Mapping[str, Sequence[AnyWorker]],
        tell: Callable[[str], None],
        over: Callable[[float, Container[AnyWorker]], bool],
    ) -> None:
        """``workers``: by what the kinds of their faults begin with. ``tell`` is called with a line
        for a person after each fault. ``over``: whether all those that are not broken themselves
        have done something since a time."""
        self.happened: list[Happened] = []
        """What was carried out, by end."""
        self._cluster = cluster
        self._network = network
        self._workers = workers
        self._tell = tell
        self._over = over
        self._hit: set[AnyWorker] = set()

    async def run(self, schedule: Iterable[Fault], *, seconds: float) -> None:
        """Carry out the schedule; return when the last fault has ended, or time is up.

        A lane that fell behind, because catching up took longer, leaves out what would not end
        within `seconds`.
        """
        begun = time.monotonic()
        faults = list(schedule)
        async with asyncio.TaskGroup() as group:
            for lane in ("broker", "client", "service"):
                mine = [fault for fault in faults if fault.lane == lane]
                group.create_task(self._lane(mine, begun, begun + seconds))

    async def _lane(self, faults: list[Fault], begun: float, until: float) -> None:
        for fault in faults:
            length = fault.end_s - fault.start_s
            start = max(begun + fault.start_s, time.monotonic())
            if start + length > until + _LATE_S:
                continue
            await asyncio.sleep(start - time.monotonic())
            if fault.lane == "broker":
                if not await self._broker_fault(fault, length, until):
                    return
            else:
                await self._client_fault(fault, length)

    async def _broker_fault(self, fault: Fault, length: float, until: float) -> bool:
        """Carry it out; whether all servers were whole again before the time was up."""
        server = self._cluster.servers[fault.target]
        network = self._network
        start_at = ledger.now()
        match fault.kind:
            case "kill":
                await server.kill()
            case "restart":
                await server.stop()
            case "freeze":
                server.pause()
            case "cut":
                network.cut(fault.target, fault.scope)
            case "hold":
                network.hold(fault.target, fault.scope)
            case "slow":
                how = Slow(bytes_per_s=fault.bytes_per_s, latency_s=fault.latency_s)
                network.slow(fault.target, how, fault.scope)
        await asyncio.sleep(length)
        end_at = ledger.now()
        server.resume()
        await network.heal(fault.target, deliver=fault.deliver)
        await server.start()
        whole, told = await self._recovered(end_at, until, hasty=fault.hasty)
        self.happened.append(Happened(fault, start_at, end_at, ledger.now()))
        self._tell(f"{fault.describe()}: {told}")
        return whole

    async def _client_fault(self, fault: Fault, length: float) -> None:
        who, _, how = fault.kind.partition("_")
        worker = self._workers[who][fault.target]
        start_at = ledger.now()
        match how:
            case "kill":
                done = await worker.kill()
            case "freeze":
                done = worker.freeze()
            case _:
                done = worker.jump(fault.offset_s)
        if not done:
            self._tell(f"{fault.describe()}: it cannot be done now")
            return
        if how != "clock":
            self._hit.add(worker)
        await asyncio.sleep(length)
        end_at = ledger.now()
        match how:
            case "kill":
                worker.restart()
            case "freeze":
                worker.thaw()
            case _:
                worker.jump(0.0)
        self._hit.discard(worker)
        self.happened.append(Happened(fault, start_at, end_at, end_at))
        self._tell(fault.describe())

    async def _recovered(self, end_at: float, until: float, *, hasty: bool) -> tuple[bool, str]:
        """Wait until clients and servers are over it, and say how long it took."""
        told = []
        if not hasty:
            over = "not over it"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(_PATIENCE_S, until - time.monotonic()))):
                    while not self._over(end_at, self._hit):  # noqa: ASYNC110 - ledgers are files
                        await asyncio.sleep(_LOOK_S)
                    over = "over it"
            told.append(f"clients {over} {ledger.now() - end_at:.1f} s later")
        whole = False
        with contextlib.suppress(BrokerNotReadyError):
            await self._cluster.ready(timeout_s=max(0.0, until - time.monotonic()))
            whole = True
        servers = "whole" if whole else "not whole"
        told.append(f"servers {servers} {ledger.now() - end_at:.1f} s later")
        return whole, ", ".join(told)
