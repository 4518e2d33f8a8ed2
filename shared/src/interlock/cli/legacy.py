"""Commands on legacy names: list, explain, send, map, unmap."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag, StateOption
from interlock.cli.events import assignments

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Legacy event names: what they mean, and mappings made at run time.",
)


@app.command("list")
def list_names(
    filter: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help="Only names or types that contain this."),
    ] = None,
    types: Annotated[
        bool, typer.Option("--types", help="List the canonical types instead, with what they mean.")
    ] = False,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """List every known legacy name with its canonical type. Works without a broker.

    Where a broker runs, the mappings made at run time are listed too.
    """
    from interlock_schemas import catalogue, legacy

    wanted = (filter or "").casefold()
    if types:
        entries = [
            {"type": entry.name, "typed": entry.struct is not None, "summary": entry.summary}
            for entry in catalogue.all_types()
            if wanted in entry.name.casefold()
        ]
        if json:
            base.emit(entries)
            return
        for entry in entries:
            sys.stdout.write(f"{entry['type']:<42} {entry['summary']}\n")
        return
    rows = [
        {"name": name, "canonical_type": rule.type, "rule": rule.reason, "origin": "table"}
        for name, rule in legacy.known_names()
    ]
    rows += [
        {"name": m.name, "canonical_type": m.target, "rule": m.reason, "origin": "run time"}
        for m in _mappings(state)
    ]
    rows = [
        row
        for row in rows
        if wanted in row["name"].casefold() or wanted in row["canonical_type"].casefold()
    ]
    if json:
        base.emit(rows)
        return
    for row in rows:
        mark = "*" if row["origin"] == "run time" else " "
        sys.stdout.write(f"{mark} {base.plain(row['name']):<52} {row['canonical_type']}\n")


def _mappings(state: Path | None) -> list[Any]:
    """The mappings made at run time, or none where no normalizer can be asked."""
    from interlock import state as states
    from interlock.errors import InterlockError
    from interlock.settings import ConnectionSettings

    found = ConnectionSettings()
    if found.nats_url is None:
        folder = state or found.state or states.default_folder()
        if states.read_run(folder, answering=False) is None:
            return []
    from interlock_schemas import mappings

    try:
        reply = base.run(
            base.ask(base.settings(state, timeout_s=1.0), mappings.LIST, mappings.ListMappings())
        )
    except InterlockError as error:
        sys.stderr.write(f"warning: mappings made at run time are not known here: {error}\n")
        return []
    return list(reply.mappings)


@app.command()
def explain(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Legacy names.")],
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Say what a legacy name means today, and why. Works without a broker.

    Where a broker runs, mappings made at run time count too. Exits 1 when a name is unknown; its
    nearest known names are shown. With --json one line for each name.
    """
    from interlock_schemas import legacy, mappings

    made = {legacy.fold(mapping.name): mapping for mapping in _mappings(state)}
    unknown = False
    for name in names:
        match = mappings.resolve(name, made)
        if match is None:
            unknown = True
            near = legacy.suggest(name, tuple(m.name for m in made.values()))
            if json:
                base.emit(
                    {
                        "name": name,
                        "known": False,
                        "canonical_type": None,
                        "rule": None,
                        "suggestions": near,
                    }
                )
                continue
            hint = f"; nearest: {', '.join(near)}" if near else ""
            sys.stderr.write(f"{base.plain(name)}: unknown{hint}\n")
            continue
        if json:
            base.emit(
                {
                    "name": name,
                    "known": True,
                    "canonical_type": match.type,
                    "rule": match.rule,
                    "sets": match.sets,
                    "suggestions": [],
                }
            )
        else:
            sys.stdout.write(f"{base.plain(name)} → {match.type}\n    {match.rule}\n")
            if match.sets:
                fields = ", ".join(f"{k}={v}" for k, v in match.sets.items())
                sys.stdout.write(f"    sets {fields}\n")
    if unknown:
        raise typer.Exit(1)


@app.command()
def send(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The legacy name, as spelled.")],
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="The payload's fields.")
    ] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Publish an event as an old worker would, to see what becomes of it.

    Example: interlock legacy send TRAINING_COMPLETE config_key=hex8_2p host=gpu-7
    """
    if not name.strip():
        raise typer.BadParameter("a name is needed", param_hint="NAME")
    base.run(_send(base.settings(state), name, assignments(pairs or []), json))


async def _send(settings: Any, name: str, payload: dict[str, Any], json: bool) -> None:
    from interlock.fleet import connect
    from interlock_schemas import subjects

    async with connect(settings, source=f"cli/{base.who()}") as fleet:
        ack = await fleet.publish_legacy(name, payload, timeout_s=5.0)
    told = {"subject": subjects.legacy(name), "stream": ack.stream, "seq": ack.seq}
    if json:
        base.emit(told)
    else:
        sys.stdout.write(f"{told['subject']} stored as {ack.stream} {ack.seq}\n")


@app.command("map")
def map_name(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The legacy name.")],
    target: Annotated[
        str, typer.Argument(metavar="TYPE", help="A canonical type, or a name that is known.")
    ],
    reason: Annotated[str, typer.Option(help="Why; kept with the mapping.")] = "",
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Map a legacy name that nobody knew. Takes effect in every running normalizer at once."""
    from interlock_schemas import mappings

    reply = base.run(
        base.ask(
            base.settings(state),
            mappings.MAP,
            mappings.MapName(name=name, target=target, by=base.who(), reason=reason),
        )
    )
    if json:
        base.emit(reply)
    else:
        how = "" if reply.changed else " (it did already)"
        sys.stdout.write(f"{base.plain(name)} means {reply.canonical_type} now{how}\n")


@app.command()
def unmap(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The legacy name.")],
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Forget a mapping made at run time."""
    from interlock_schemas import mappings

    reply = base.run(
        base.ask(base.settings(state), mappings.UNMAP, mappings.UnmapName(name=name, by=base.who()))
    )
    if json:
        base.emit(reply)
    elif reply.changed:
        means = f"means {reply.canonical_type} again" if reply.canonical_type else "is unknown now"
        sys.stdout.write(f"{base.plain(name)} {means}\n")
    else:
        sys.stdout.write(f"{base.plain(name)} was not mapped\n")
