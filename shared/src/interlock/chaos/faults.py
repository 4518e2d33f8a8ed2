"""Carries out the faults of a schedule against a real cluster, its network and its clients.

Each lane takes one fault after the other. After a fault of the broker, the next waits until all
servers have caught up, so that a majority is never missing; and, unless it is hasty, until the
clients were heard of again, so that how long they took can be told.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from interlock.broker import BrokerNotReadyError
from interlock.chaos import ledger
from interlock.chaos.checker import Happened
from interlock.chaos.network import Network
from interlock.chaos.proxy import Slow
from interlock.chaos.schedule import Fault
from interlock.chaos.workers import Worker
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
        publishers: Sequence[Worker],
        consumers: Sequence[Worker],
        tell: Callable[[str], None],
    ) -> None:
        """``tell`` is called with a line for a person after each fault."""
        self.happened: list[Happened] = []
        """What was carried out, by end."""
        self._cluster = cluster
        self._network = network
        self._publishers = publishers
        self._consumers = consumers
        self._tell = tell
        self._hit: set[Worker] = set()

    async def run(self, schedule: Iterable[Fault], *, seconds: float) -> None:
        """Carry out the schedule; return when the last fault has ended, or time is up.

        A lane that fell behind, because catching up took longer, leaves out what would not end
        within `seconds`.
        """
        begun = time.monotonic()
        faults = list(schedule)
        async with asyncio.TaskGroup() as group:
            for lane in ("broker", "client"):
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
        self.happened.append(Happened(fault, start_at, end_at))
        whole, told = await self._recovered(end_at, until, hasty=fault.hasty)
        self._tell(f"{fault.describe()}: {told}")
        return whole

    async def _client_fault(self, fault: Fault, length: float) -> None:
        workers = self._publishers if fault.kind.startswith("publisher") else self._consumers
        worker = workers[fault.target]
        kill = fault.kind.endswith("kill")
        start_at = ledger.now()
        if not (await worker.kill() if kill else worker.freeze()):
            self._tell(f"{fault.describe()}: it does not run")
            return
        self._hit.add(worker)
        await asyncio.sleep(length)
        end_at = ledger.now()
        if kill:
            worker.restart()
        else:
            worker.thaw()
        self._hit.discard(worker)
        self.happened.append(Happened(fault, start_at, end_at))
        self._tell(fault.describe())

    async def _recovered(self, end_at: float, until: float, *, hasty: bool) -> tuple[bool, str]:
        """Wait until clients and servers are over it, and say how long it took."""
        told = []
        if not hasty:
            over = "not over it"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(_PATIENCE_S, until - time.monotonic()))):
                    while not self._over(end_at):  # noqa: ASYNC110 - ledgers are files
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

    def _over(self, end_at: float) -> bool:
        for worker in (*self._publishers, *self._consumers):
            worker.look()
        live = [worker for worker in self._publishers if worker not in self._hit]
        handled = any(worker.last_success_at > end_at for worker in self._consumers)
        return handled and all(worker.last_success_at > end_at for worker in live)
