"""A client process: ``python -m interlock.bench.locks.worker <contender> [<host:port>]``.

It connects, then does each task it reads from standard input and reports it on standard output. It
ends with its standard input, so never outlives whoever started it.
"""

import asyncio
import contextlib
import gc
import importlib
import os
import sys
import time
from typing import Any, Final

import msgspec

from interlock.bench.locks.contender import Contender
from interlock.bench.locks.task import LOCK, Outcome, Task

__all__ = ["main"]

#: The modules of the contenders, by their names.
CONTENDERS: Final = {
    "interlock": "interlock.bench.locks.clients.ours",
    "redis": "interlock.bench.locks.clients.redis_py",
    "redis_everysec": "interlock.bench.locks.clients.redis_py",
    "etcd": "interlock.bench.locks.clients.etcd",
}
#: Operations of one kind in a row, before those of the next.
_IN_A_ROW: Final = 10
#: From when somebody waits until the lock is released, so that nothing else is under way.
_SETTLE_S: Final = 0.005
#: How much longer than its time a throughput may take to come to its end.
_END_S: Final = 60.0


class _Process:
    """The clients of this process, and what it holds."""

    def __init__(self, contender: str, where: str, stack: contextlib.AsyncExitStack) -> None:
        self._module: Any = importlib.import_module(CONTENDERS[contender])
        self._where = where
        self._stack = stack
        self._clients: list[Contender] = []
        self._held: Any = None
        self._fresh = 0

    async def do(self, task: Task) -> Outcome:
        gc.collect()
        match task.way:
            case "uncontended":
                return await self._uncontended(task)
            case "hold":
                self._held = await (await self._client()).wait_for(task.name)
                return Outcome()
            case "hand_over":
                return await self._hand_over(task)
            case "connect":
                await self._connect(task.clients)
                return Outcome()
            case "throughput":
                async with asyncio.timeout(task.seconds + _END_S):
                    return await self._throughput(task)

    async def _connect(self, count: int) -> None:
        while len(self._clients) < count:
            context = self._module.connect(self._where, len(self._clients))
            self._clients.append(await self._stack.enter_async_context(context))

    async def _client(self) -> Contender:
        await self._connect(1)
        return self._clients[0]

    async def _uncontended(self, task: Task) -> Outcome:
        """Locks by one name, locks by names never used, and the others, a few of each in turns."""
        client = await self._client()
        taken: dict[str, list[int]] = {}

        def note(kind: str, begin: int, end: int) -> None:
            taken.setdefault(kind, []).append(end - begin)

        async def cycle(kind: str, name: str) -> None:
            begin = time.perf_counter_ns()
            held = await client.take(name)
            between = time.perf_counter_ns()
            await client.release(held)
            end = time.perf_counter_ns()
            note(kind, begin, end)
            note(f"{kind}.acquire", begin, between)
            note(f"{kind}.release", between, end)

        deadline = time.monotonic() + task.seconds
        left = task.count
        while left > 0 and time.monotonic() < deadline:
            in_a_row = min(left, _IN_A_ROW)
            left -= in_a_row
            for _ in range(in_a_row):
                await cycle(LOCK, task.name)
            for _ in range(in_a_row):
                self._fresh += 1
                await cycle(f"{LOCK}_fresh", f"{task.name}-{os.getpid()}-{self._fresh}")
            for kind, operate in client.others.items():
                for _ in range(in_a_row):
                    begin = time.perf_counter_ns()
                    await operate()
                    note(kind, begin, time.perf_counter_ns())
        return Outcome(taken=taken)

    async def _hand_over(self, task: Task) -> Outcome:
        """Hold the lock so many times, in turns with another process that does the same."""
        client = await self._client()
        begins = self._held is not None
        holds = []
        for number in range(task.count):
            held, self._held = self._held, None
            if held is None:
                held = await client.wait_for(task.name)
            got = time.monotonic_ns()
            last = number == task.count - 1
            if begins or not last:
                await client.until_waited_for(task.name)
                await asyncio.sleep(_SETTLE_S)
            released = time.monotonic_ns()
            await client.release(held)
            holds.append((got, released))
            if not last:
                await client.until_passed_on(task.name)
        return Outcome(holds=holds)

    async def _throughput(self, task: Task) -> Outcome:
        """Acquire and release with all clients until the time is over."""
        await self._connect(task.clients)
        end_ns = task.start_ns + round(task.seconds * 1e9)
        done = [0] * task.clients

        async def work(number: int, client: Contender) -> None:
            own = f"bench-own-{os.getpid()}-{number}"
            while time.monotonic_ns() < end_ns:
                if task.name:
                    held = await client.wait_for(task.name)
                else:
                    held = await client.take(own)
                await client.release(held)
                done[number] += time.monotonic_ns() <= end_ns

        await asyncio.sleep(max(0, task.start_ns - time.monotonic_ns()) / 1e9)
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(self._clients[: task.clients]):
                group.create_task(work(number, client))
        return Outcome(cycles=sum(done), served=sum(count > 0 for count in done))


async def _serve(contender: str, where: str) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with contextlib.AsyncExitStack() as stack:
        process = _Process(contender, where, stack)
        await process.do(Task(way="connect"))
        _report(Outcome())
        line = await reader.readline()
        while line:
            doing = asyncio.ensure_future(process.do(msgspec.json.decode(line, type=Task)))
            following = asyncio.ensure_future(reader.readline())
            await asyncio.wait((doing, following), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                # Nobody sends a task before the last one is reported: the input has ended.
                doing.cancel()
                await asyncio.wait((doing,))
                return
            _report(doing.result())
            line = await following


def _report(outcome: Outcome) -> None:
    data = msgspec.json.encode(outcome) + b"\n"
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    """Do tasks until standard input ends. Exits 1 with the reason when one fails."""
    try:
        asyncio.run(_serve(*sys.argv[1:3]))
    except Exception as error:
        plain: BaseException = error
        while isinstance(plain, BaseExceptionGroup):
            plain = plain.exceptions[0]
        _report(Outcome(error=f"{type(plain).__name__}: {plain}"))
        raise


if __name__ == "__main__":
    main()
