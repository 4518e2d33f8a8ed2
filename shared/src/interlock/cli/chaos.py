"""Commands that break things on purpose: chaos."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag
from interlock.errors import InterlockError

if TYPE_CHECKING:
    from interlock.chaos.locks import frozen
    from interlock.chaos.locks import run as locks
    from interlock.chaos.run import Report

__all__ = ["add"]

T = TypeVar("T")


class Workload(StrEnum):
    """What the clients do meanwhile."""

    EVENTS = "events"
    LOCKS = "locks"
    FROZEN_HOLDER = "frozen-holder"


class Broken(StrEnum):
    """What is broken, with locks."""

    ALL = "all"
    CLIENTS = "clients"
    SERVICES = "services"
    NONE = "none"


class Bug(StrEnum):
    """What can be put in, with locks."""

    UNFENCED = "unfenced"
    BLIND_RENEWAL = "blind-renewal"
    TWO_STEP = "two-step"


def add(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(chaos)


def chaos(
    workload: Annotated[
        Workload,
        typer.Option(
            help="What the clients do: events are published and consumed; locks are taken, and "
            "files and keys changed under them; frozen-holder: holders are frozen past their "
            "lease, and write when they wake.",
        ),
    ] = Workload.EVENTS,
    brokers: Annotated[int, typer.Option(help="Servers: 1, or 3 with three replicas.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Draw the same faults again. Default: a new one, printed.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="How long things are broken.")
    ] = 30.0,
    clients: Annotated[int, typer.Option(min=2, max=1_000, help="locks: clients.")] = 64,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="locks: processes that they are in.")
    ] = 8,
    locks: Annotated[int, typer.Option(min=1, max=99, help="locks: how many they share.")] = 10,
    ttl: Annotated[float, typer.Option(min=1, max=60, help="locks: of each lease, seconds.")] = 2.0,
    services: Annotated[
        int, typer.Option(min=1, max=8, help="locks: replicas of the lock service.")
    ] = 2,
    faults: Annotated[
        Broken,
        typer.Option(
            help="locks: what is broken: all; clients alone; services, a replica killed every two "
            "seconds and nothing else; none.",
        ),
    ] = Broken.ALL,
    rounds: Annotated[
        int, typer.Option(min=1, max=1_000, help="frozen-holder: how many holders.")
    ] = 100,
    plant: Annotated[
        Bug | None,
        typer.Option(hidden=True, help="Put a bug in, to prove that the checker finds it."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the working folder in any case.")] = (
        False
    ),
    json: JsonFlag = False,
) -> None:
    """Break a broker, its network and its clients on purpose, and keep the books.

    Starts servers of its own in a folder of its own, with clients as processes; kills, freezes,
    restarts, cuts off and slows them by a schedule drawn from the seed; heals everything and
    compares the ledgers. Ends by itself, about a minute after the faults.

    Exit 0 only when all is well. events: nothing that was acknowledged is lost, duplicated,
    reordered or stuck. locks: by the bucket's history, and by what clients say, never more held
    than may, tokens rose, waiters were served in their order, no late write was accepted, no update
    lost, no lock stuck for longer than its lease and 2 s.
    """
    if brokers not in (1, 3):
        raise InterlockError(f"--brokers {brokers}: one server or three")
    if workload == Workload.EVENTS:
        _show(base.run(_until_told(_events(brokers, seed, seconds, keep))), _print, json=json)
    if workload == Workload.LOCKS:
        if clients < processes:
            raise InterlockError(f"--clients {clients}: at least one for each process")
        from interlock.chaos.locks import run as chaos_of_locks
        from interlock.chaos.locks.planting import Plant

        plan = chaos_of_locks.Plan(
            clients=clients,
            processes=processes,
            locks=locks,
            ttl_s=ttl,
            brokers=brokers,
            services=services,
            seconds=seconds,
            faults=chaos_of_locks.Faults(faults),
            plant=None if plant is None else Plant(plant),
        )
        running = chaos_of_locks.run(plan, seed=seed, keep=keep)
        _show(base.run(_until_told(running)), _print_locks, json=json)
    from interlock.chaos.locks import frozen
    from interlock.chaos.locks.planting import Plant

    freezing = frozen.run(
        rounds, brokers=brokers, plant=None if plant is None else Plant(plant), keep=keep
    )
    _show(base.run(_until_told(freezing)), _print_frozen, json=json)


async def _events(brokers: int, seed: int | None, seconds: float, keep: bool) -> "Report":
    from interlock.chaos.run import run

    return await run("events", seed=seed, brokers=brokers, seconds=seconds, keep=keep)


async def _until_told(running: Coroutine[Any, Any, T]) -> T:
    """Run it; SIGTERM ends it as Ctrl-C does."""
    main = asyncio.current_task()
    if main is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        # Ctrl-C comes as a cancellation too, and asyncio.run makes KeyboardInterrupt of it.
        raise KeyboardInterrupt from None


def _show(report: Any, write: Callable[[Any], None], *, json: bool) -> None:
    if json:
        base.emit(report)
    else:
        write(report)
    raise typer.Exit(0 if report.ok else 1)


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
    _end(report, again)


def _print_locks(report: "locks.Report") -> None:
    for name in (
        *("asks", "grants", "hand_overs", "renewals", "expired", "lost", "timeouts"),
        *("refused_asks", "file_writes", "file_refused", "kv_writes", "kv_refused", "unknown"),
        *("history", "missing", "faults"),
    ):
        sys.stdout.write(f"{name.replace('_', ' '):<17} {getattr(report, name):,}\n")
    sys.stdout.write(f"{'clock jumps':<17} {report.clock_jumps}\n")
    sys.stdout.write(f"{'worst stuck':<17} {report.worst_stuck_s:.2f} s beyond a lease\n")
    sys.stdout.write(f"{'broken included':<17} {report.worst_broken_s:.2f} s\n")
    sys.stdout.write(f"{'broker was well':<17} {report.watched_s:.1f} s\n")
    sys.stdout.write(f"{'worst idle':<17} {report.worst_idle_s:.2f} s\n")
    if report.worst_fresh_s is not None:
        sys.stdout.write(f"{'worst fresh':<17} {report.worst_fresh_s:.2f} s\n")
    for kind, count in report.violations.items():
        sys.stdout.write(f"{kind.replace('_', ' '):<17} {count:,}\n")
        for each in report.offending.get(kind, ()):
            sys.stdout.write(f"    {each}\n")
    for name in ("crashed", "hung"):
        if getattr(report, name):
            sys.stdout.write(f"{name:<17} {getattr(report, name):,} processes\n")
    again = f"interlock chaos --workload locks --brokers {report.brokers} --seed {report.seed} "
    again += f"--seconds {report.seconds:g} --clients {report.clients} "
    again += f"--processes {report.processes} --locks {report.locks}"
    _end(report, again)


def _print_frozen(report: "frozen.Report") -> None:
    for name in ("rounds", "taken_over", "refused_by_file", "refused_by_lease", "refused_by_store"):
        sys.stdout.write(f"{name.replace('_', ' '):<17} {getattr(report, name):,}\n")
    for each in report.offending:
        sys.stdout.write(f"    {each}\n")
    _end(report, "interlock chaos --workload frozen-holder")


def _end(report: Any, again: str) -> None:
    sys.stdout.write(
        "all is well\n" if report.ok else f"kept in {report.folder}; again with: {again}\n"
    )
