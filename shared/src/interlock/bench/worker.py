"""One client in a process of its own: ``python -m interlock.bench.worker <client>``.

It connects to the broker that the environment names, then does each task it reads from standard
input and reports it on standard output. It ends with its standard input, so never outlives whoever
started it.
"""

import asyncio
import gc
import importlib
import os
import resource
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.bench.task import Outcome, Task, Where

__all__ = ["main", "peak_mib"]

#: The modules of the clients, by their names.
PEERS: Final = {
    "nats_py": "interlock.bench.peers.nats_py",
    "faststream": "interlock.bench.peers.fast_stream",
    "interlock": "interlock.bench.peers.ours",
}
_STATUS: Final = Path("/proc/self/status")


def peak_mib() -> float:
    """The most memory that this process had resident so far, MiB."""
    if _STATUS.exists():
        # The usage counters would begin with what the process had that started this one.
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _where() -> Where:
    return Where(
        urls=tuple(os.environ["INTERLOCK_NATS_URL"].split(",")),
        user=os.environ["INTERLOCK_NATS_USER"],
        password=os.environ["INTERLOCK_NATS_PASSWORD"],
    )


async def _serve(client: str) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    module: Any = importlib.import_module(PEERS[client])
    async with module.connect(_where()) as connection:
        idle = peak_mib()
        _report(Outcome(idle_mib=idle, peak_mib=idle))
        line = await reader.readline()
        while line:
            doing = asyncio.ensure_future(_do(module, connection, line))
            following = asyncio.ensure_future(reader.readline())
            await asyncio.wait((doing, following), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                # Nobody sends a task before the last one is reported: the input has ended.
                doing.cancel()
                await asyncio.wait((doing,))
                return
            timing = doing.result()
            _report(Outcome(timing=timing, idle_mib=idle, peak_mib=peak_mib()))
            line = await following


async def _do(module: Any, connection: Any, line: bytes) -> Any:
    task = msgspec.json.decode(line, type=Task)
    gc.collect()
    return await module.WAYS[task.way](connection, task)


def _report(outcome: Outcome) -> None:
    os.write(1, msgspec.json.encode(outcome) + b"\n")


def main() -> None:
    """Do tasks until standard input ends. Exits 1 with the reason when one fails."""
    try:
        asyncio.run(_serve(sys.argv[1]))
    except Exception as error:
        plain: BaseException = error
        while isinstance(plain, BaseExceptionGroup):
            plain = plain.exceptions[0]
        _report(Outcome(error=f"{type(plain).__name__}: {plain}"))
        raise


if __name__ == "__main__":
    main()
