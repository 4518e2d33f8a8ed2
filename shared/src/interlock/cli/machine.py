"""Commands about what runs: up, demo, setup, status, env, version."""

import asyncio
import contextlib
import os
import platform
import shlex
import signal
import sys
import time
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any

import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag, StateOption
from interlock.errors import InterlockError

__all__ = ["add"]

_MARKS = {
    "starting": "·",
    "running": "●",
    "backing_off": "↻",
    "stopping": "◌",
    "stopped": "○",
}


def add(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (up, demo, setup, status, env, version):
        app.command()(command)


def _folder(given: Path | None) -> Path:
    from interlock import state

    return given.expanduser().absolute() if given is not None else state.default_folder()


def up(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="SERVICE", help="Run only this service. May be repeated."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Port of the broker. Default: the last one, if free."),
    ] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Run the broker and every service on this machine, until Ctrl-C.

    Each is a process of its own; what dies is started again. The next `up` on the same state
    folder goes on where this one stopped.
    """
    from interlock.discovery import select

    chosen = select(only or [])
    if not chosen:
        raise InterlockError("no service is installed here: install interlock-event-normalizer")
    with contextlib.suppress(asyncio.CancelledError):
        base.run(_up(_folder(state), port, chosen, json))


async def _up(folder: Path, port: int | None, chosen: list[Any], json: bool) -> None:
    from interlock import clock
    from interlock.local import local_fleet
    from interlock.supervisor import ProcessEvent

    stop = asyncio.Event()
    hurry = asyncio.Event()
    starting = asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()
        if starting is not None:
            starting.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)

    def show(event: ProcessEvent) -> None:
        if json:
            base.emit(event)
            return
        at = time.strftime("%H:%M:%S", time.localtime(event.at))
        detail = f"pid {event.pid}" if event.pid and event.state != "stopped" else ""
        if event.exit_code is not None and event.state == "backing_off":
            detail = f"ended with {event.exit_code}, again in {event.restart_in_s:.1f} s"
        if event.reason:
            detail = f"{detail} ({event.reason})"
        mark = _MARKS[event.state]
        sys.stdout.write(f"{at} {mark} {event.name:<22} {event.state:<12} {detail}\n")
        sys.stdout.flush()

    async with local_fleet(folder, port=port, services=chosen, on_event=show) as fleet:
        starting = None
        if json:
            base.emit(
                {
                    "state": "up",
                    "url": fleet.settings.nats_url,
                    "folder": str(folder),
                    "services": fleet.services,
                    "at": clock.rfc3339(clock.now()),
                }
            )
        else:
            named = (
                "" if "INTERLOCK_STATE" in os.environ else f" --state {shlex.quote(str(folder))}"
            )
            sys.stdout.write(
                f"\nbroker    {fleet.settings.nats_url}\n"
                f"state     {folder} (logs in {folder / 'logs'})\n"
                f'workers   eval "$(interlock env{named})"\n'
                "stop      Ctrl-C\n\n"
            )
            sys.stdout.flush()
        await stop.wait()
        if not json:
            sys.stdout.write("stopping: finishing what is in hand (Ctrl-C again to hurry)\n")
            sys.stdout.flush()
        hurried = asyncio.create_task(_hurry(hurry, fleet))
        try:
            await fleet.supervisor.drain()
        finally:
            hurried.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await hurried


async def _hurry(asked: asyncio.Event, fleet: Any) -> None:
    await asked.wait()
    await fleet.supervisor.drain(hurry=True)


def demo(
    events: Annotated[
        int, typer.Option("--events", min=50, help="How many messages the workers publish.")
    ] = 3_000,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Kill each service and the broker while it runs.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Choose the same messages and moments again.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the state folder for a look.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show the whole thing at work on this machine, and account for every single message.

    Starts a broker and the services in a folder of their own; workers publish canonical events,
    every legacy spelling, names nobody knows, broken JSON and wrong payloads; a handler fails;
    letters are repaired and replayed. Ends with a ledger: exit 0 only when nothing is lost and no
    effect happened twice.
    """
    from interlock.demo.play import play

    ledger = base.run(play(events=events, chaos=chaos, seed=seed, keep=keep, live=not json))
    if json:
        base.emit(ledger.summary())
    raise typer.Exit(0 if ledger.balanced else 1)


def setup(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=5,
            help="Keep every stream and bucket on so many servers. Default: as declared. "
            "What has more keeps them.",
        ),
    ] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Make the broker hold what Interlock needs: streams, buckets, consumers.

    Running it again changes nothing. It refuses to shrink or recreate what may hold data.
    """
    base.run(_setup(base.settings(state), dry_run, replicas, json))


async def _setup(settings: Any, dry_run: bool, replicas: int | None, json: bool) -> None:
    from interlock import provisioning
    from interlock.bus import connected
    from interlock.discovery import contracts

    async with connected(settings, name="interlock-setup") as bus:
        changes = await provisioning.apply(bus, contracts(), dry_run=dry_run, replicas=replicas)
    if json:
        base.emit({"dry_run": dry_run, "changes": changes})
        return
    done = {"create": "created", "update": "updated"}
    planned = {"create": "would create", "update": "would update"}
    words = planned if dry_run else done
    for change in changes:
        word = words.get(change.action, "as declared")
        sys.stdout.write(f"{word:<14} {change.kind:<9} {change.name}\n")


def env(state: StateOption = None, json: JsonFlag = False) -> None:
    """Print what a worker needs in its environment to reach this machine's broker.

    For a shell: eval "$(interlock env)". It contains the password.
    """
    from interlock import state as states
    from interlock.endpoint import SYSTEM_USER

    folder = _folder(state)
    running = states.read_run(folder, answering=False)
    if running is None:
        raise InterlockError(f"no `interlock up` is running in {folder}: start it, then ask again")
    credentials = states.read_credentials(folder)
    values = {
        "INTERLOCK_NATS_URL": running.url,
        "INTERLOCK_NATS_USER": credentials.user,
        "INTERLOCK_NATS_PASSWORD": credentials.password,
        "INTERLOCK_NATS_SYSTEM_USER": SYSTEM_USER,
        "INTERLOCK_NATS_SYSTEM_PASSWORD": credentials.password,
        # Where artifacts are sealed that this machine's agent looks after.
        "INTERLOCK_STATE": str(folder),
    }
    if json:
        base.emit(values)
        return
    for name, value in values.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


def version(json: JsonFlag = False) -> None:
    """Print the versions of what is installed."""
    from interlock.broker import BrokerError, find_server

    try:
        server = find_server()
        broker: str | None = f"{server.version_text} ({server.origin})"
    except BrokerError:
        broker = None
    values = {
        "interlock": installed("interlock"),
        "schemas": installed("interlock-schemas"),
        "nats_server": broker,
        "nats_py": installed("nats-py"),
        "python": platform.python_version(),
    }
    if json:
        base.emit(values)
        return
    for name, value in values.items():
        sys.stdout.write(f"{name:<12} {value or 'not found'}\n")


def status(state: StateOption = None, json: JsonFlag = False) -> None:
    """Show what runs and how it is doing: broker, streams, consumers, services, letters."""
    from interlock.cli import report

    base.run(report.status(base.settings(state), _folder(state), json))
