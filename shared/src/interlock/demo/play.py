"""Runs the demo: starts everything, looks on, repairs, replays, and draws up the ledger."""

import asyncio
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from interlock import provisioning
from interlock.bus import ApiError, Bus, connect
from interlock.demo.consumer import EFFECTS, EFFECTS_STREAM, FIXED_FILE
from interlock.demo.ledger import Found, Ledger, balance
from interlock.demo.script import CONSUMER, MAPPED_NAME, MAPPED_TYPE, script
from interlock.discovery import contracts
from interlock.errors import BusUnavailable, InterlockError
from interlock.fleet import Fleet
from interlock.local import BROKER, LocalFleet, local_fleet
from interlock.reader import Reader
from interlock.supervisor import Child, ProcessEvent, Supervisor
from interlock_schemas import envelope, letters, mappings
from interlock_schemas.letters import LetterFilter, LetterRecord
from interlock_schemas.topology import DEAD, EVENTS, LEGACY, Stream

__all__ = ["play"]

_WORKERS: Final = 3
_HANDLERS: Final = ("demo-handler-1", "demo-handler-2")
_TICK_S: Final = 0.3
_QUIET_TICKS: Final = 4
_SETTLE_S: Final = 300.0
_KILLS_EACH: Final = 2
_PATIENCE_S: Final = 60.0

_EFFECTS = Stream(
    name=EFFECTS_STREAM,
    summary="What the demo's handler did.",
    subjects=(EFFECTS,),
    max_age_s=0,
)


class _Stage:
    """What the onlooker sees."""

    def __init__(self, *, events: int, live: bool) -> None:
        self.events = events
        self.live = live
        self.begun = time.monotonic()
        self.act = "starting"
        self.processes: dict[str, ProcessEvent] = {}
        self.figures: dict[str, int] = {}
        self.notes: list[str] = []
        self.console = Console(stderr=not live)

    def say(self, act: str) -> None:
        """A new act begins."""
        self.act = act
        self.note(act)

    def note(self, text: str) -> None:
        """Something happened."""
        line = f"{time.monotonic() - self.begun:6.1f} s  {text}"
        self.notes.append(line)
        if not self.live or not self.console.is_terminal:
            sys.stderr.write(line + "\n")

    def on_process(self, event: ProcessEvent) -> None:
        """A process changed its state."""
        self.processes[event.name] = event

    def render(self) -> Group:
        """The picture of this moment."""
        processes = Table("process", "state", "restarts", box=None, header_style="bold")
        colours = {"running": "green", "backing_off": "red", "starting": "yellow"}
        for event in self.processes.values():
            colour = colours.get(event.state, "dim")
            processes.add_row(
                event.name, f"[{colour}]{event.state}[/{colour}]", str(event.restarts or "")
            )
        figures = Table("", "", box=None, show_header=False)
        for label, value in self.figures.items():
            figures.add_row(label, f"{value:,}")
        beside = Table.grid(padding=(0, 4))
        beside.add_row(processes, figures)
        elapsed = time.monotonic() - self.begun
        head = Text(f"interlock demo · {self.events:,} messages · {elapsed:.0f} s · {self.act}")
        head.stylize("bold")
        return Group(head, beside, Text("\n".join(self.notes[-8:]), style="dim"))


async def play(*, events: int, chaos: bool, seed: int | None, keep: bool, live: bool) -> Ledger:
    """Run the demo in a state folder of its own and return its ledger."""
    seed = random.SystemRandom().randrange(1 << 30) if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix="interlock-demo-"))
    stage = _Stage(events=events, live=live)
    try:
        ledger = await _play(stage, folder, events=events, chaos=chaos, seed=seed)
    finally:
        if keep:
            sys.stderr.write(f"kept: {folder}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if live:
        _print(stage.console, ledger)
    return ledger


async def _play(stage: _Stage, folder: Path, *, events: int, chaos: bool, seed: int) -> Ledger:
    begun = time.monotonic()
    stage.note(f"seed {seed}")
    async with local_fleet(folder, on_event=stage.on_process) as local:
        bus = await connect(local.settings, name="demo")
        try:
            config = provisioning.stream_config(_EFFECTS)
            await bus.api(f"STREAM.CREATE.{EFFECTS_STREAM}", config)
            for name in _HANDLERS:
                command = [sys.executable, "-m", "interlock.demo.consumer"]
                local.supervisor.start(Child(name=name, command=command, env=local.env))
            async with _onlooker(stage, bus):
                kills = await _acts(stage, bus, local, folder, events, chaos, seed)
                stage.say("drawing up the ledger")
                found = await _find(bus, folder)
            ledger = balance(
                script(events, seed), found, seconds=time.monotonic() - begun, kills=kills
            )
        finally:
            await bus.close()
    return ledger


async def _acts(
    stage: _Stage,
    bus: Bus,
    local: LocalFleet,
    folder: Path,
    events: int,
    chaos: bool,
    seed: int,
) -> int:
    """Everything that happens, in order. Returns how many processes were killed."""
    fleet = Fleet(bus, source="demo")
    spread_s = max(6.0, min(120.0, events / 900))
    if chaos:
        spread_s = max(15.0, spread_s)
    stage.say(f"{_WORKERS} workers publish for about {spread_s:.0f} s")
    killed: Counter[str] = Counter()
    async with asyncio.TaskGroup() as group:
        if chaos:
            rand = random.Random(seed)  # noqa: S311  # reproducible moments, no secret
            group.create_task(_kill(stage, local, rand, spread_s, killed))
        group.create_task(_publish(local, folder, events, seed, spread_s))
    stage.say("all published; waiting until nothing moves")
    await _settled(bus)
    stage.say(f"repairing: {MAPPED_NAME} is mapped to {MAPPED_TYPE}, the handler is fixed")
    request = mappings.MapName(name=MAPPED_NAME, target=MAPPED_TYPE, by="demo", reason="it cooks")
    await fleet.command(mappings.MAP, request, patience_s=_PATIENCE_S)
    (folder / FIXED_FILE).touch()
    stage.say("replaying their letters")
    second_wave = (
        asyncio.create_task(
            _kill(stage, local, random.Random(seed + 1), 4.0, killed, each=1)  # noqa: S311
        )
        if chaos
        else None
    )
    try:
        for wanted in (LetterFilter(name=MAPPED_NAME), LetterFilter(consumer=CONSUMER)):
            await _replay(fleet, wanted)
    finally:
        if second_wave is not None:
            await second_wave
    await _settled(bus)
    return killed.total()


async def _publish(
    local: LocalFleet, folder: Path, events: int, seed: int, spread_s: float
) -> None:
    """Run the workers to their end."""
    processes = []
    for index in range(_WORKERS):
        arguments = {
            "events": events,
            "seed": seed,
            "index": index,
            "workers": _WORKERS,
            "spread-s": spread_s,
            "acked": folder / f"acknowledged-{index}",
        }
        command = [sys.executable, "-m", "interlock.demo.worker"]
        for name, value in arguments.items():
            command += [f"--{name}", str(value)]
        with (folder / "logs" / f"demo-worker-{index}.log").open("wb") as log:
            processes.append(
                await asyncio.create_subprocess_exec(
                    *command, env={**os.environ, **local.env}, stdout=log, stderr=log
                )
            )
    try:
        for index, process in enumerate(processes):
            if await process.wait() != 0:
                log_file = folder / "logs" / f"demo-worker-{index}.log"
                raise InterlockError(
                    f"worker {index} ended with {process.returncode}:\n"
                    + log_file.read_text(errors="replace")[-2_000:]
                )
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _kill(
    stage: _Stage,
    local: LocalFleet,
    rand: random.Random,
    within_s: float,
    killed: Counter[str],
    each: int = _KILLS_EACH,
) -> None:
    """Kill each service, the broker and a handler at random moments."""
    targets = [BROKER, *local.services, rand.choice(_HANDLERS)]
    moments = sorted(
        (rand.uniform(0.1, 0.95) * within_s, target) for target in targets for _ in range(each)
    )
    begun = time.monotonic()
    for moment, target in moments:
        await asyncio.sleep(max(0.0, begun + moment - time.monotonic()))
        if await _kill_one(local.supervisor, target):
            killed[target] += 1
            stage.note(f"SIGKILL {target}")


async def _kill_one(supervisor: Supervisor, target: str) -> bool:
    """Kill it, once it runs again if it was killed just before."""
    for _ in range(100):
        if await supervisor.kill(target):
            return True
        await asyncio.sleep(0.1)
    return False


async def _replay(fleet: Fleet, wanted: LetterFilter) -> None:
    """Replay all that fit, until none is left. What the broker's absence refused is asked again."""
    request = letters.ReplayLetters(filter=wanted, by="demo", reason="repaired")
    while True:
        report = await fleet.command(
            letters.REPLAY, request, timeout_s=20.0, patience_s=_PATIENCE_S
        )
        if report.remaining == 0 and not report.refused:
            return
        await asyncio.sleep(0.2)


def _consumers() -> list[tuple[str, str]]:
    named = [
        (consumer.stream.name, consumer.name)
        for contract in contracts()
        for consumer in contract.consumes
    ]
    return [*named, (EVENTS.name, CONSUMER)]


async def _settled(bus: Bus) -> None:
    """Wait until nothing waits for anybody, and stays so."""
    deadline = time.monotonic() + _SETTLE_S
    quiet = 0
    last: object = None
    while quiet < _QUIET_TICKS:
        await asyncio.sleep(_TICK_S)
        try:
            moving = 0
            for stream, consumer in _consumers():
                info = await bus.api(f"CONSUMER.INFO.{stream}.{consumer}", timeout_s=5)
                moving += info["num_pending"] + info["num_ack_pending"]
            seen = await _figures(bus)
        except (ApiError, BusUnavailable):
            quiet = 0
            continue
        quiet = quiet + 1 if moving == 0 and seen == last else 0
        last = seen
        if time.monotonic() > deadline:
            raise InterlockError(f"still {moving} messages on their way after {_SETTLE_S:.0f} s")


async def _figures(bus: Bus) -> dict[str, int]:
    figures = {}
    for label, stream in (
        ("legacy messages", LEGACY.name),
        ("canonical events", EVENTS.name),
        ("effects", EFFECTS_STREAM),
        ("dead letters", DEAD.name),
    ):
        info = await bus.api(f"STREAM.INFO.{stream}", timeout_s=5)
        figures[label] = info["state"]["messages"]
    return figures


@contextlib.asynccontextmanager
async def _onlooker(stage: _Stage, bus: Bus) -> Any:
    """Keep the picture up to date while the block lasts."""

    async def look(live: Live | None) -> None:
        told = 0.0
        while True:
            with contextlib.suppress(ApiError, BusUnavailable):
                stage.figures = await _figures(bus)
            if live is not None:
                live.update(stage.render())
            elif stage.live and time.monotonic() - told > 3:
                told = time.monotonic()
                stage.note(", ".join(f"{n} {label}" for label, n in stage.figures.items()))
            await asyncio.sleep(0.25)

    shown: Any = contextlib.nullcontext()
    if stage.live and stage.console.is_terminal:
        shown = Live(stage.render(), console=stage.console, refresh_per_second=8)
    with shown as live:
        task = asyncio.create_task(look(live))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _acknowledged(folder: Path) -> set[str]:
    return {id for path in folder.glob("acknowledged-*") for id in path.read_text().split()}


async def _find(bus: Bus, folder: Path) -> Found:
    """Read everything that the ledger rests on."""
    acknowledged = await asyncio.to_thread(_acknowledged, folder)
    events: dict[str, list[str]] = {}
    async for record in Reader(
        bus, EVENTS.name, (EVENTS.subjects[0],), {"deliver_policy": "all"}, headers_only=True
    ).records(until_end=True):
        # A replayed event is the same event on its way to the one consumer that failed it.
        if envelope.lookup(record.headers, envelope.REPLAY_OF):
            continue
        id = envelope.lookup(record.headers, envelope.ID) or record.headers.get(envelope.MSG_ID)
        if id is not None:
            events.setdefault(id, []).append(".".join(record.subject.split(".")[1:3]))
    effects: Counter[str] = Counter()
    async for record in Reader(bus, EFFECTS_STREAM, (EFFECTS,), {"deliver_policy": "all"}).records(
        until_end=True
    ):
        effects[msgspec.json.decode(record.body)["id"]] += 1
    return Found(
        acknowledged=frozenset(acknowledged),
        events=events,
        effects=effects,
        letters=await _letters(bus),
    )


async def _letters(bus: Bus) -> dict[str, LetterRecord]:
    fleet = Fleet(bus, source="demo")
    found: dict[str, LetterRecord] = {}
    after: str | None = None
    while True:
        request = letters.ListLetters(limit=500, after=after)

        page = await fleet.command(letters.LIST, request, patience_s=_PATIENCE_S)
        found |= {record.message_id: record for record in page.letters}
        after = page.next
        if after is None:
            return found


_MEANING: Final = {
    "published": "messages that the workers published",
    "acknowledged": "of them acknowledged by the broker",
    "normalized": "legacy messages with a canonical event",
    "delivered": "messages whose effect happened",
    "duplicates": "effects that happened more than once",
    "dead_lettered": "messages that were a dead letter at some time",
    "replayed": "letters sent again after the repair",
    "resolved": "letters whose replay was handled",
    "still_dead": "messages that are dead letters now, and say why",
    "lost": "acknowledged messages without an end",
    "kills": "processes killed while it ran",
    "seconds": "",
}


def _print(console: Console, ledger: Ledger) -> None:
    table = Table("ledger", "", "", box=None, header_style="bold")
    summary = ledger.summary()
    for name, meaning in _MEANING.items():
        table.add_row(name, f"{summary[name]:,}", f"[dim]{meaning}[/dim]")
    console.print()
    console.print(table)
    if ledger.balanced:
        console.print(
            f"[green]balanced[/green]: {ledger.acknowledged:,} acknowledged = "
            f"{ledger.delivered:,} handled once + {ledger.still_dead:,} dead letters"
        )
    else:
        console.print(f"[red]not balanced[/red]: {', '.join(ledger.unbalanced)}")
