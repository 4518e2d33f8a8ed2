"""Many agents in one process, for measuring a monitor: ``python -m interlock.bench.agents``.

Each beats once a second at a moment of its own and answers when it is asked, on a few connections
that all share. Lines on standard input kill agents (``kill NAME``), and lines on standard output
say when: a killed one beats no more and nobody listens for it. Ends with its standard input.
"""

import argparse
import asyncio
import functools
import os
import secrets
import sys
import time
from typing import Final

import msgspec
from nats.aio.subscription import Subscription

from interlock.bus import Bus, connect
from interlock.settings import ConnectionSettings
from interlock_schemas import subjects
from interlock_schemas.nodes import Beat, Disk, Gpu, ProbeAnswer

__all__ = ["main"]

#: Beats go out in so many portions a second.
_PORTIONS: Final = 50
_CONNECTIONS: Final = 4


class _Agent:
    __slots__ = ("bus", "instance", "name", "seq", "subject", "subscription")

    def __init__(self, name: str, bus: Bus) -> None:
        self.name = name
        self.bus = bus
        self.instance = secrets.token_hex(6)
        self.seq = 0
        self.subject = subjects.heartbeat(name)
        self.subscription: Subscription | None = None

    def beat(self, encode: msgspec.json.Encoder) -> None:
        self.seq += 1
        beat = Beat(
            node=self.name,
            instance=self.instance,
            seq=self.seq,
            sent_at=time.time(),
            version="0.1.0",
            answers=True,
            uptime_s=float(self.seq),
            loop_lag_s=0.001,
            cores=64,
            cpu_percent=71.5,
            load_per_core=0.7,
            memory_used_percent=41.2,
            memory_available_bytes=200_000_000_000,
            memory_total_bytes=400_000_000_000,
            disks=(Disk(path="/", used_percent=63.1, free_bytes=10**11, total_bytes=10**12),),
            gpus=(
                Gpu(
                    index=0,
                    name="GH200",
                    utilization_percent=93.0,
                    memory_used_bytes=60 * 10**9,
                    memory_total_bytes=96 * 10**9,
                    temperature_c=61.0,
                    ecc_uncorrected=0,
                ),
            ),
        )
        self.bus.post(self.subject, encode.encode(beat))

    async def listen(self) -> None:
        self.subscription = await self.bus.client.listen(subjects.probe(self.name), self.answer)

    def answer(self, _: bytes, reply: bytes, __: bytes, ___: bytes) -> None:
        answer = ProbeAnswer(node=self.name, instance=self.instance, seq=self.seq)
        self.bus.post(reply.decode(), msgspec.json.encode(answer))

    async def die(self) -> None:
        if self.subscription is not None:
            await self.bus.client.unlisten(self.subscription)
            await self.bus.flush()


async def main(count: int, first: int) -> None:
    """Run so many agents until standard input ends."""
    settings = ConnectionSettings()
    buses = [await connect(settings, name=f"agents-{n}") for n in range(_CONNECTIONS)]
    alive = {
        agent.name: agent
        for agent in (_Agent(f"sim-{first + n:05d}", buses[n % _CONNECTIONS]) for n in range(count))
    }
    for agent in alive.values():
        await agent.listen()
    for bus in buses:
        await bus.flush()
    _say("ready")
    loop = asyncio.get_running_loop()
    dying: set[asyncio.Task[None]] = set()
    ended = asyncio.Event()

    def on_line() -> None:
        text = os.read(sys.stdin.fileno(), 65_536).decode()
        if not text:
            ended.set()
        for line in text.splitlines():
            agent = alive.pop(line.removeprefix("kill ").strip(), None)
            if agent is not None:
                dying.add(loop.create_task(_die(agent)))

    loop.add_reader(sys.stdin.fileno(), on_line)
    encode = msgspec.json.Encoder()
    begin = loop.time()
    turn = 0
    behind = 0.0
    while not ended.is_set():
        for agent in list(alive.values())[turn % _PORTIONS :: _PORTIONS]:
            agent.beat(encode)
        turn += 1
        due = begin + turn / _PORTIONS
        behind = max(behind, loop.time() - due)
        await asyncio.sleep(max(0.0, due - loop.time()))
    _say(f"behind {behind:.3f}")
    _say(f"sent {sum(agent.seq for agent in alive.values())}")
    for bus in buses:
        await bus.close()


async def _die(agent: _Agent) -> None:
    await agent.die()
    _say(f"killed {agent.name} {time.time():.6f}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(functools.partial(main, given.count, given.first)())
