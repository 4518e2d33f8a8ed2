"""Commands on an outbox file: how it stands, forward it, and what the broker will not take."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag, StateOption

if TYPE_CHECKING:
    from interlock.outbox import Outbox, Refusal, Status

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="A worker's outbox: events on this host's disk that the broker does not have yet.",
)

PathArgument = Annotated[Path, typer.Argument(metavar="PATH", help="The outbox's file.")]
NumbersArgument = Annotated[
    list[int] | None, typer.Argument(metavar="[NUMBER]...", help="As `outbox refused` shows them.")
]
AllOption = Annotated[bool, typer.Option("--all", help="Everything that was set aside.")]


@asynccontextmanager
async def _opened(path: Path) -> "AsyncIterator[Outbox]":
    from interlock.outbox import Outbox

    outbox = await Outbox.open(path, create=False)
    try:
        yield outbox
    finally:
        await outbox.close()


@app.command()
def status(path: PathArgument, json: JsonFlag = False) -> None:
    """Show what waits, how old it is, who forwards it, and why that failed last."""

    async def read() -> "Status":
        async with _opened(path) as outbox:
            return await outbox.status()

    told = base.run(read())
    if json:
        base.emit(told)
        return
    oldest = "" if told.oldest_age_s is None else f", the oldest for {told.oldest_age_s:.0f} s"
    error = (
        "none"
        if told.last_error is None
        else f"{base.plain(told.last_error)} ({told.last_error_age_s or 0:.0f} s ago)"
    )
    for label, value in (
        ("waiting", f"{told.waiting:,} messages, {told.bytes:,} bytes{oldest}"),
        ("refused", f"{told.refused:,}"),
        ("forwarded", f"{told.forwarded:,}"),
        ("forwarder", "none" if told.forwarder is None else f"process {told.forwarder}"),
        ("last error", error),
        ("file", f"{told.path}, {told.file_bytes:,} bytes"),
    ):
        sys.stdout.write(f"{label:<10} {value}\n")


@app.command()
def drain(
    path: PathArgument,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which to stop; the rest stays.")
    ] = 60.0,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Forward everything that waits, or wait while the worker does. Fails when some is left."""
    told = base.run(_drain(path, timeout, state))
    if json:
        base.emit(told)
    elif told.waiting:
        why = f": {base.plain(told.last_error)}" if told.last_error else ""
        sys.stderr.write(f"{told.waiting:,} messages still wait{why}\n")
    else:
        sys.stdout.write("nothing waits\n")
    if told.refused:
        sys.stderr.write(f"{told.refused:,} refused: interlock outbox refused {path}\n")
    if told.waiting:
        raise typer.Exit(1)


async def _drain(path: Path, timeout_s: float, state: Path | None) -> "Status":
    from interlock.link import Link

    async with _opened(path) as outbox:
        outbox.forward(Link(base.settings(state), name=f"cli/{base.who()}"))
        loop = asyncio.get_running_loop()
        began = told_at = loop.time()
        while (left := await outbox.waiting()) and loop.time() - began < timeout_s:
            if loop.time() - told_at >= 1:
                told_at = loop.time()
                sys.stderr.write(f"{left:,} to go\n")
            await asyncio.sleep(0.1)
        return await outbox.status()


@app.command()
def refused(
    path: PathArgument,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Messages at most.")] = 100,
    json: JsonFlag = False,
) -> None:
    """List messages that the broker will not take, and why. They are kept until you decide."""

    async def read() -> "list[Refusal]":
        async with _opened(path) as outbox:
            return await outbox.refused(limit)

    found = base.run(read())
    if json:
        base.emit({"refused": found})
        return
    for each in found:
        sys.stdout.write(
            f"{each.seq:>8}  {base.plain(each.subject)[:60]:<60}  {each.bytes:,} bytes  "
            f"{base.plain(each.reason)}\n"
        )
    sys.stdout.write(f"{len(found)} refused\n")


@app.command()
def retry(
    path: PathArgument,
    numbers: NumbersArgument = None,
    all: AllOption = False,
    json: JsonFlag = False,
) -> None:
    """Put refused messages back behind what waits, to be sent once more."""
    chosen = _chosen(numbers, all)

    async def put_back() -> int:
        async with _opened(path) as outbox:
            return await outbox.retry(chosen)

    _report(base.run(put_back()), "put back", "retried", json)


@app.command()
def discard(
    path: PathArgument,
    numbers: NumbersArgument = None,
    all: AllOption = False,
    json: JsonFlag = False,
) -> None:
    """Delete refused messages for good."""
    chosen = _chosen(numbers, all)

    async def delete() -> int:
        async with _opened(path) as outbox:
            return await outbox.discard(chosen)

    _report(base.run(delete()), "deleted", "discarded", json)


def _chosen(numbers: list[int] | None, all: bool) -> list[int] | None:
    if bool(numbers) == all:
        raise typer.BadParameter("name messages by number, or --all")
    return numbers or None


def _report(count: int, did: str, key: str, json: bool) -> None:
    if json:
        base.emit({key: count})
    else:
        sys.stdout.write(f"{count} {did}\n")
