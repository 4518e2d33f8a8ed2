"""Whether a stream slows down as it grows: the same windows of messages at 100,000 and at N.

Between the two lie minutes in which a shared machine changes more than the stream does. So a second
broker keeps a stream at 100,000 all the time, and each window is measured on both in turn.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from interlock import provisioning
from interlock.bench import machine, message, stats
from interlock.bench.compare import Say
from interlock.bench.play import scratch
from interlock.bench.session import Session, session
from interlock.bench.task import Task
from interlock.bench.workers import BenchFailed
from interlock.broker import find_server
from interlock_schemas import subjects
from interlock_schemas.topology import EVENTS, Consumer
from interlock_schemas.training import TrainingProgressed

__all__ = ["BASE", "Growth", "needed_bytes", "play", "show"]

#: What the stream holds when it is measured first.
BASE: Final = 100_000
_SIZE: Final = 256
_WINDOW: Final = 40_000
_BATCH: Final = 500
_CHUNK: Final = 500_000
#: What a message takes on disk beside its body: subject, headers, record, index.
_BESIDE_BYTES: Final = 150
_SLACK: Final = 1.2
#: Free disk that is left alone, bytes.
_LEFT_ALONE: Final = 1024**3
#: Seconds for which the broker remembers ids: it keeps them in memory, and ten million are a lot.
_DUPLICATE_WINDOW_S: Final = 10


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured while the stream held so many messages."""

    stored: int
    publish: stats.Spread
    """`Bus.publish_soon`, messages a second."""
    consume: stats.Spread
    """`Fleet.consume` with batches, until the broker has nothing pending, messages a second."""
    control_publish: stats.Spread
    """The same on the stream that stays at 100,000, in turns with it."""
    control_consume: stats.Spread
    publisher_mib: float
    """Peak memory of the publishing process so far, MiB."""
    consumer_mib: float


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``interlock bench growth --json`` prints."""

    ratios: dict[str, float]
    """At N by at 100,000, each by its control, the median of paired windows: 1 is no change."""
    ratio_runs: dict[str, list[float]]
    held: tuple[Held, Held]
    machine: machine.Machine
    seconds: float


class _Windows(msgspec.Struct):
    """Messages a second, window by window."""

    publish: list[float] = []
    consume: list[float] = []
    control_publish: list[float] = []
    control_consume: list[float] = []


def needed_bytes(messages: int) -> int:
    """Disk that the stream takes, bytes, on the safe side. Pure."""
    return round((messages + BASE + 2 * _WINDOW) * (_SIZE + _BESIDE_BYTES) * _SLACK)


async def play(messages: int, *, runs: int, parent: Path | None, say: Say) -> Growth:
    """Fill a stream and measure it twice.

    Raises BenchFailed when the disk has not got the room, before anything is written.
    """
    begin = time.monotonic()
    where = Path(parent or tempfile.gettempdir())
    need, free = needed_bytes(messages), shutil.disk_usage(where).free
    say(f"{messages:,} messages need {need / 2**30:.1f} GiB below {where}; {free / 2**30:.1f} free")
    if free < need + _LEFT_ALONE:
        raise BenchFailed(
            f"{messages:,} messages need {(need + _LEFT_ALONE) / 2**30:.1f} GiB below {where} and "
            f"{free / 2**30:.1f} are free: name another disk with --dir, or fewer --messages"
        )
    with scratch(parent) as made:
        folder = Path(made)
        found_machine = machine.examine(folder, find_server().version_text)
        async with (
            session(folder / "broker", replicas=1, sync_always=False) as running,
            session(folder / "control", replicas=1, sync_always=False) as control,
        ):
            for each in (running, control):
                await each.fresh_stream(duplicate_window=_DUPLICATE_WINDOW_S * 1_000_000_000)
                await _window(each)  # a warm-up
            await _fill(control, BASE, say)
            small, before = await _measure(running, control, BASE, runs, say)
            large, after = await _measure(running, control, messages, runs, say)
    pairs = {
        "publish_at_n_vs_100k": stats.paired_ratios(
            stats.paired_ratios(after.publish, after.control_publish),
            stats.paired_ratios(before.publish, before.control_publish),
        ),
        "consume_at_n_vs_100k": stats.paired_ratios(
            stats.paired_ratios(after.consume, after.control_consume),
            stats.paired_ratios(before.consume, before.control_consume),
        ),
    }
    return Growth(
        ratios={name: stats.median(ratios) for name, ratios in pairs.items()},
        ratio_runs=pairs,
        held=(small, large),
        machine=found_machine,
        seconds=round(time.monotonic() - begin, 1),
    )


async def _fill(running: Session, stored: int, say: Say) -> None:
    begin = time.monotonic()
    while (missing := stored - await running.stored()) > 0:
        await running.fill(min(missing, _CHUNK), _SIZE)
        say(f"{await running.stored():,} of {stored:,} stored, {time.monotonic() - begin:.0f} s")


async def _measure(
    running: Session, control: Session, stored: int, runs: int, say: Say
) -> tuple[Held, _Windows]:
    await _fill(running, stored, say)
    windows = _Windows()
    for number in range(runs):
        say(f"at {stored:,}: window {number + 1} of {runs}")
        published, consumed = await _window(running)
        windows.publish.append(_WINDOW / published)
        windows.consume.append(_WINDOW / consumed)
        await _keep(running, stored)
        published, consumed = await _window(control)
        windows.control_publish.append(_WINDOW / published)
        windows.control_consume.append(_WINDOW / consumed)
        await _keep(control, BASE)
    publisher = await running.worker("interlock", "publish_soon")
    consumer = await running.worker("interlock", "consume_batches")
    held = Held(
        stored=stored,
        publish=stats.Spread.of(windows.publish),
        consume=stats.Spread.of(windows.consume),
        control_publish=stats.Spread.of(windows.control_publish),
        control_consume=stats.Spread.of(windows.control_consume),
        publisher_mib=round(publisher.peak_mib, 1),
        consumer_mib=round(consumer.peak_mib, 1),
    )
    return held, windows


async def _window(running: Session) -> tuple[float, float]:
    """Publish a window, then consume it: seconds of both."""
    mark = running.mark()
    # It stands before the window is published, and begins with it.
    await provisioning.ensure_worker_consumer(
        running.bus,
        Consumer(
            stream=EVENTS,
            name=mark,
            filters=(subjects.event_filter(TrainingProgressed.event_type),),
            from_start=False,
        ),
    )

    def task(way: str) -> Task:
        return Task(
            way=way,
            count=_WINDOW,
            stream=EVENTS.name,
            subject=message.SUBJECT,
            size=_SIZE,
            mark=mark,
            batch=_BATCH,
        )

    published = await running.run("interlock", task("publish_soon"))
    consumed = await running.run("interlock", task("consume_batches"))
    return published.seconds, consumed.seconds


async def _keep(running: Session, stored: int) -> None:
    """Drop the oldest messages beyond so many."""
    await running.bus.api(f"STREAM.PURGE.{EVENTS.name}", {"keep": stored}, timeout_s=60.0)


def show(growth: Growth) -> None:
    """Print what was found, for people."""
    table = Table(
        title="256 B, one replica, sync default; medians; peak memory of publisher and consumer",
        title_justify="left",
    )
    columns = (
        "stored",
        "publish/s",
        "control",
        "consume/s",
        "control",
        "publisher",
        "consumer MiB",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for held in growth.held:
        table.add_row(
            f"{held.stored:,}",
            f"{held.publish.median:,.0f}",
            f"{held.control_publish.median:,.0f}",
            f"{held.consume.median:,.0f}",
            f"{held.control_consume.median:,.0f}",
            f"{held.publisher_mib:.1f}",
            f"{held.consumer_mib:.1f}",
        )
    ratios = growth.ratios
    table.add_row(
        "ratio",
        f"{ratios['publish_at_n_vs_100k']:.2f}",
        "",
        f"{ratios['consume_at_n_vs_100k']:.2f}",
        "",
        "",
        "",
    )
    Console().print(table)
