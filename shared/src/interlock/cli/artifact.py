"""Commands on artifacts: seal what is on this host, and look at what the fleet has."""

import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag, StateOption
from interlock.cli.table import write_table
from interlock.errors import BusUnavailable, ConnectFailed

if TYPE_CHECKING:
    from interlock.artifacts.sdk import Artifacts, Shown
    from interlock.bus import Bus
    from interlock.settings import ConnectionSettings
    from interlock_schemas.artifacts import Artifact

__all__ = ["app"]

#: How long a connection may take, and the agent of this host to tell of what was sealed, seconds.
_CONNECTED_S: Final = 1.0
_TOLD_S: Final = 3.0
_SHORT: Final = 12

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Artifacts: data that is sealed on a host, kept, and moved by `interlock sync`.",
)

IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The artifact, or enough of its beginning.")
]


@app.command()
def add(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Files, folders, SQLite databases.")
    ],
    dataset: Annotated[str, typer.Option(help="What kind of data: games, models, npz, …")],
    config: Annotated[str, typer.Option(help="For example hex8_2p.")] = "",
    name: Annotated[str | None, typer.Option(help="Default: the name of the file.")] = None,
    value: Annotated[
        float, typer.Option(min=0, help="What losing it would cost, in units of your own.")
    ] = 0.0,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Steps of training that it holds.")
    ] = None,
    games: Annotated[int | None, typer.Option(min=0, help="Games that it holds.")] = None,
    log: Annotated[
        bool, typer.Option("--log", help="It grows: seal the lines that it gained since last time.")
    ] = False,
    move: Annotated[
        bool, typer.Option("--move", help="Delete the original once it is sealed.")
    ] = False,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Seal files, folders or databases: from now on they are kept, and never change.

    Needs neither a broker nor an agent: the agent of this host tells the fleet, now or later.
    """
    if name is not None and len(paths) > 1:
        raise typer.BadParameter("one name is for one path", param_hint="--name")
    if log and move:
        raise typer.BadParameter("a growing log stays where it is: without --move")
    described = {"dataset": dataset, "config": config, "name": name, "value": value,
                 "steps": steps, "games": games}  # fmt: skip
    found, failed, told = base.run(
        _add(base.settings(state, timeout_s=_CONNECTED_S), paths, described, log=log, move=move)
    )
    if json:
        base.emit({"artifacts": found, "failed": failed, "told": told})
    else:
        for about in found:
            sys.stdout.write(f"{about.id}  {base.plain(_described(about))}\n")
        if log and not found and not failed:
            sys.stdout.write("nothing new\n")
    for why in failed.values():
        sys.stderr.write(f"error: {base.plain(why)}\n")
    if found and not told:
        sys.stderr.write(
            "sealed and kept; the fleet does not know of it yet. It will once the broker and the "
            "agent of this host run.\n"
        )
    if failed:
        raise typer.Exit(1)


async def _add(
    settings: "ConnectionSettings",
    paths: list[Path],
    described: dict[str, Any],
    *,
    log: bool,
    move: bool,
) -> tuple[list["Artifact"], dict[str, str], bool]:
    """What was sealed, what was not and why, and whether the fleet knows of it."""
    from interlock.artifacts.errors import ArtifactError
    from interlock.artifacts.segments import LARGEST_SEGMENT_BYTES
    from interlock.bus import connected
    from interlock.cli.meter import Meter

    found: list[Artifact] = []
    failed: dict[str, str] = {}
    bus: Bus | None = None

    def current() -> "Bus":
        if bus is None:
            raise BusUnavailable("nothing was connected to yet")
        return bus

    async def standing(_: float | None) -> "Bus":
        return current()

    artifacts = _artifacts(settings, current, standing)
    with Meter("sealing") as meter:
        for path in paths:
            try:
                if not log:
                    found.append(
                        await artifacts.add(path, **described, move=move, progress=meter.add)
                    )
                    continue
                began = path.stat().st_mtime_ns if path.exists() else 0
                while (segment := await artifacts.add_log(path, **described)) is not None:
                    found.append(segment)
                    meter.add(segment.bytes)
                    written = path.exists() and path.stat().st_mtime_ns != began
                    if written and segment.bytes < LARGEST_SEGMENT_BYTES // 2:
                        # It is being written to: what comes now is left to the next time.
                        break
            except ArtifactError as error:
                failed[str(path)] = str(error)
    if not found:
        return found, failed, True
    try:
        async with connected(settings, name=f"cli/{base.who()}") as bus:
            return found, failed, await artifacts.told(_TOLD_S)
    except ConnectFailed:
        return found, failed, False


@app.command("list")
def list_artifacts(
    dataset: Annotated[str | None, typer.Option(help="Only of this dataset.")] = None,
    config: Annotated[str | None, typer.Option(help="Only of this configuration.")] = None,
    node: Annotated[str | None, typer.Option(help="Only what this node holds.")] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """List what the fleet knows of, the newest last."""
    found = base.run(_list(base.settings(state), dataset, config, node))
    if json:
        base.emit({"artifacts": found, "total": len(found)})
        return
    from interlock import amounts

    rows = [
        (
            about.id[:_SHORT],
            about.dataset,
            about.config,
            about.name,
            amounts.size(about.bytes),
            str(about.files),
            about.origin,
            base.ago(about.sealed_at),
        )
        for about in found
    ]
    write_table(("id", "dataset", "config", "name", "size", "files", "origin", "age"), rows)
    total = amounts.size(sum(about.bytes for about in found))
    sys.stdout.write(f"{len(found):,} artifacts, {total}\n")


async def _list(
    settings: "ConnectionSettings", dataset: str | None, config: str | None, node: str | None
) -> tuple["Artifact", ...]:
    from interlock.fleet import connect

    async with connect(settings, source=f"cli/{base.who()}") as fleet:
        return await fleet.artifacts.list(dataset, config, node=node)


@app.command()
def show(id: IdArgument, state: StateOption = None, json: JsonFlag = False) -> None:
    """Show an artifact, and the receipt of each of its copies."""
    shown = base.run(_show(base.settings(state), id))
    if json:
        base.emit(shown)
        return
    from interlock import amounts

    about = shown.artifact
    lines = [
        ("artifact", about.id),
        ("what", _described(about)),
        ("sealed", f"{about.sealed_at} on {about.origin}, from {about.source or 'unknown'}"),
    ]
    worth = [
        f"{label} {given:g}"
        for label, given in (("value", about.value), ("steps", about.steps), ("games", about.games))
        if given
    ]
    if worth:
        lines.append(("worth", ", ".join(worth)))
    if shown.path is not None:
        lines.append(("here", shown.path))
    for label, text in lines:
        sys.stdout.write(f"{label:<10} {base.plain(text)}\n")
    write_table(
        ("node", "copy", "since", "verified", "came", "why"),
        [
            (
                copy.node,
                copy.state,
                base.ago(copy.at),
                base.ago(copy.verified_at),
                f"from {copy.source} by {copy.transport}" if copy.source else "sealed there",
                copy.reason,
            )
            for copy in shown.copies
        ],
    )
    held = sum(copy.state == "held" for copy in shown.copies)
    sys.stdout.write(f"{held} verified copies of {amounts.size(about.bytes)}\n")


async def _show(settings: "ConnectionSettings", id: str) -> "Shown":
    from interlock.fleet import connect

    async with connect(settings, source=f"cli/{base.who()}") as fleet:
        return await fleet.artifacts.show(id)


@app.command()
def path(id: IdArgument, state: StateOption = None, json: JsonFlag = False) -> None:
    """Print where an artifact is on this host: its file, or its folder. Read it, never write it."""
    artifacts = _here(state)
    whole = artifacts.find_here(id)
    where = artifacts.path(whole)
    if json:
        base.emit({"id": whole, "path": str(where)})
    else:
        sys.stdout.write(f"{where}\n")


@app.command()
def verify(
    id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Default: everything in the store.")
    ] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Read artifacts on this host again, and check every digest. Nothing is changed by it."""
    from interlock import amounts
    from interlock.artifacts.errors import ArtifactError
    from interlock.artifacts.store import LocalStore
    from interlock.cli.meter import Meter

    artifacts = _here(state)
    store = LocalStore(artifacts.root, create=False)
    ids = [artifacts.find_here(id)] if id is not None else store.ids()
    damaged: dict[str, tuple[str, ...]] = {}
    checked = count = 0
    with Meter("verifying") as meter:
        for number, each in enumerate(ids):
            meter.show(count, note=f"{number:,} of {len(ids):,} artifacts")
            try:
                found = store.verify(each)
            except ArtifactError as error:
                if id is None and not store.has(each):
                    # Dropped since it was listed.
                    continue
                damaged[each] = (str(error),)
                continue
            checked += 1
            count += found.bytes
            if not found.ok:
                damaged[each] = found.problems
    if json:
        base.emit({"checked": checked, "bytes": count, "damaged": damaged})
    else:
        sys.stdout.write(f"{checked:,} artifacts read, {amounts.size(count)}, ")
        sys.stdout.write(f"{len(damaged):,} damaged\n" if damaged else "all as they should be\n")
        for each, problems in damaged.items():
            sys.stdout.write(f"{each}  {base.plain('; '.join(problems))}\n")
    if damaged:
        sys.stderr.write(
            "error: what is damaged is put aside by the agent of this host when it comes to check "
            "it, and fetched again from where there is a copy\n"
        )
        raise typer.Exit(1)


def _here(state: Path | None) -> "Artifacts":
    """The artifacts of this host, without a broker."""

    def none(*_: Any) -> Any:
        raise BusUnavailable("this needs no broker")

    return _artifacts(base.settings(state), none, none)


def _artifacts(
    settings: "ConnectionSettings",
    bus: "Callable[[], Bus]",
    connected: "Callable[[float | None], Awaitable[Bus]]",
) -> "Artifacts":
    from interlock.artifacts.sdk import Artifacts
    from interlock.state import store_root

    node = settings.node or socket.gethostname()
    return Artifacts(node=node, root=store_root(settings), bus=bus, connected=connected)


def _described(about: "Artifact") -> str:
    from interlock import amounts

    where = f"{about.dataset}/{about.config}" if about.config else about.dataset
    files = f", {about.files:,} files" if about.kind == "folder" else ""
    return f"{where} {about.name}: {about.kind}, {amounts.size(about.bytes)}{files}"
