"""Commands that break things on purpose: chaos."""

import asyncio
import signal
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag
from interlock.errors import InterlockError

if TYPE_CHECKING:
    from interlock.chaos.run import Report

__all__ = ["add"]


class Workload(StrEnum):
    """What the clients do meanwhile."""

    EVENTS = "events"


def add(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(chaos)


def chaos(
    workload: Annotated[
        Workload, typer.Option(help="What the clients do: events are published and consumed.")
    ] = Workload.EVENTS,
    brokers: Annotated[int, typer.Option(help="Servers: 1, or 3 with three replicas.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Draw the same faults again. Default: a new one, printed.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="How long things are broken.")
    ] = 30.0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the working folder in any case.")] = (
        False
    ),
    json: JsonFlag = False,
) -> None:
    """Break a broker, its network and its clients on purpose, and keep the books.

    Starts servers of its own in a folder of its own, with publishers and consumers as processes;
    kills, freezes, restarts, cuts off and slows them by a schedule drawn from the seed; heals
    everything and compares the ledgers. Exit 0 only when nothing that was acknowledged is lost,
    duplicated, reordered or stuck. Ends by itself, about a minute after the faults.
    """
    if brokers not in (1, 3):
        raise InterlockError(f"--brokers {brokers}: one server or three")
    report = base.run(_chaos(workload, brokers, seed, seconds, keep))
    if json:
        base.emit(report)
    else:
        _print(report)
    raise typer.Exit(0 if report.ok else 1)


async def _chaos(
    workload: Workload, brokers: int, seed: int | None, seconds: float, keep: bool
) -> "Report":
    from interlock.chaos.run import run

    main = asyncio.current_task()
    if main is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    try:
        return await run(workload, seed=seed, brokers=brokers, seconds=seconds, keep=keep)
    except asyncio.CancelledError:
        # Ctrl-C comes as a cancellation too, and asyncio.run makes KeyboardInterrupt of it.
        raise KeyboardInterrupt from None


def _print(report: "Report") -> None:
    for name in ("published", "acknowledged", "delivered", "redelivered", "faults"):
        sys.stdout.write(f"{name:<17} {getattr(report, name):,}\n")
    sys.stdout.write(f"{'worst recovery':<17} {report.worst_recovery_s:.1f} s\n")
    for name in ("lost", "duplicates", "reordered", "stuck", "misplaced"):
        shown = ", ".join(report.offending.get(name, ()))
        sys.stdout.write(f"{name:<17} {getattr(report, name):,}  {shown}".rstrip() + "\n")
    for name in ("crashed", "hung"):
        if getattr(report, name):
            sys.stdout.write(f"{name:<17} {getattr(report, name):,} client processes\n")
    again = f"interlock chaos --brokers {report.brokers} --seed {report.seed} "
    again += f"--seconds {report.seconds:g}"
    sys.stdout.write(
        "all is well\n" if report.ok else f"kept in {report.folder}; again with: {again}\n"
    )
