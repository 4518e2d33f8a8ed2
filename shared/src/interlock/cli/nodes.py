"""Commands on nodes: how they are, how they are described, and what operators decide about them."""

import datetime
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag, StateOption
from interlock.errors import BusUnavailable, CommandFailed
from interlock_schemas import health
from interlock_schemas.health import STATES, ListNodes, NodeView, ShowNode, State
from interlock_schemas.nodes import Mark, NodeRecord

if TYPE_CHECKING:
    from interlock.fleet import Fleet
    from interlock.nodes.book import Decided, NodeBook
    from interlock.nodes.changes import Change, ImportPlan

__all__ = ["app"]

#: How long a monitor may take to answer, seconds.
_MONITOR_S = 5.0
_TELL_AFTER_S = 1.0
_LONGEST_REASON = 500

app = typer.Typer(
    rich_markup_mode=None,
    help="Nodes: how they are, how they are described, and what operators decided about them.",
)

NodesArgument = Annotated[
    list[str], typer.Argument(metavar="NODE...", help="The nodes, by name.", show_default=False)
]
ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why; it is kept, and shown to whoever asks.")
]
ForOption = Annotated[
    str | None,
    typer.Option("--for", metavar="SPAN", help="It ends by itself after so long: 30m, 2h, 3d."),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="It ends by itself then (RFC 3339).")
]


@app.callback(invoke_without_command=True)
def nodes(ctx: typer.Context, state: StateOption = None, json: JsonFlag = False) -> None:
    """Nodes: how they are, how they are described, and what operators decided about them.

    Without a command: list them.
    """
    if ctx.invoked_subcommand is None:
        _list(ListNodes(), state, json)
    elif json or state is not None:
        raise typer.BadParameter(
            f"options stand behind the command: nodes {ctx.invoked_subcommand}"
        )


@app.command("list")
def list_nodes(
    states: Annotated[
        list[str] | None,
        typer.Option("--is", metavar="STATE", help=f"Only nodes that are {', '.join(STATES)}."),
    ] = None,
    zone: Annotated[str | None, typer.Option(help="Only nodes of this zone.")] = None,
    role: Annotated[str | None, typer.Option(help="Only nodes with this role.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="Only nodes with this label."),
    ] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """List nodes with their state, since when, and why; the worst first.

    Asks the health monitor. Where none answers, what stands in the buckets is shown: the states
    that have not expired, and unknown for all others.
    """
    wanted = ListNodes(
        states=_states(states or []), zone=zone, role=role, labels=_pairs(label or [], "--label")
    )
    _list(wanted, state, json)


def _list(wanted: ListNodes, state: Path | None, json: bool) -> None:
    found, without = base.run(_gather(state, wanted))
    if json:
        base.emit({"nodes": found, "total": len(found), "monitor": not without})
        return
    if without:
        sys.stderr.write(f"{without}\n")
    _table(found)


async def _gather(state: Path | None, wanted: ListNodes) -> tuple[list[NodeView], str]:
    """The nodes, and why they do not come from a monitor, if so."""
    from interlock.fleet import connect

    async with connect(base.settings(state), source=f"cli/{base.who()}") as fleet:
        return await _views(fleet, wanted)


async def _views(fleet: "Fleet", wanted: ListNodes) -> tuple[list[NodeView], str]:
    found: list[NodeView] = []
    try:
        while True:
            page = await fleet.command(health.NODES_LIST, wanted, timeout_s=_MONITOR_S)
            found += page.nodes
            if not page.next:
                return found, ""
            wanted = msgspec.structs.replace(wanted, after=page.next)
    except (BusUnavailable, CommandFailed) as error:
        if isinstance(error, CommandFailed) and error.code.startswith("4"):
            raise
        from interlock.nodes.standing import views

        return await views(fleet.bus, wanted), _without(error)


def _without(error: Exception) -> str:
    return f"no health monitor answers, so this is what stands in the buckets ({error})"


@app.command()
def show(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node, by name.")],
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Show everything about one node: its state and why, its description, its last heartbeat."""
    view, record, without = base.run(_one(state, node))
    if json:
        base.emit({**msgspec.to_builtins(view), "record": record, "monitor": not without})
        return
    if without:
        sys.stderr.write(f"{without}\n")
    _write(view, record)


async def _one(state: Path | None, name: str) -> tuple[NodeView, NodeRecord | None, str]:
    from interlock.fleet import connect
    from interlock.nodes import standing
    from interlock.nodes.book import NodeBook, UnknownNode

    async with connect(base.settings(state), source=f"cli/{base.who()}") as fleet:
        record = await NodeBook(fleet, by=base.who()).get(name)
        without = ""
        view: NodeView | None = None
        try:
            asked = ShowNode(node=name)
            view = await fleet.command(health.NODE_SHOW, asked, timeout_s=_MONITOR_S)
        except (BusUnavailable, CommandFailed) as error:
            if not isinstance(error, CommandFailed) or not error.code.startswith("4"):
                without = _without(error)
            # Also where the monitor does not know it: it may have been described just now.
            view = await standing.view_of(fleet.bus, name)
        if view is None:
            known, _ = await _views(fleet, ListNodes())
            raise UnknownNode([name], [each.node for each in known])
        return view, record, without


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file.")] = Path("fleet.toml"),
    prune: Annotated[
        bool, typer.Option("--prune", help="Retire nodes that the file describes no more.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Have the fleet know its nodes as a fleet.toml describes them.

    Doing it again changes nothing. Cordons, drains and retirements by operators stay.
    """
    from interlock.nodes.fleet_file import FleetFileInvalid, read

    try:
        described = read(file)
    except FleetFileInvalid as error:
        if json:
            base.emit({"error": str(error), "problems": error.problems})
            sys.stderr.write(f"error: {error}\n")
            sys.exit(1)
        raise

    async def work(book: "NodeBook") -> "ImportPlan":
        return await book.import_file(described, prune=prune, dry_run=dry_run)

    plan = base.run(_with_book(state, work))
    if json:
        base.emit({**msgspec.to_builtins(plan), "dry_run": dry_run})
        return
    _write_plan(plan, dry_run=dry_run, prune=prune)


@app.command()
def label(
    names: NodesArgument,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set this label.")
    ] = None,
    removed: Annotated[
        list[str] | None, typer.Option("--remove", metavar="KEY", help="Take this label away.")
    ] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Set labels of nodes, or take them away."""
    labels, gone = _pairs(given or [], "--set"), removed or []
    if not labels and not gone:
        raise typer.BadParameter("say what to change: --set KEY=VALUE or --remove KEY")
    decided = base.run(_with_book(state, lambda book: book.label(names, labels, gone)))
    _tell(decided, "labelled", "has these labels already", json)
    from interlock.nodes.fleet_file import SOURCE

    described = [each.node for each in decided if each.record.source == SOURCE and each.changed]
    if described:
        sys.stderr.write(
            f"{', '.join(described)}: described by a fleet.toml. Say it there too, or the next "
            "import takes it back.\n"
        )


@app.command()
def cordon(
    names: NodesArgument,
    reason: ReasonOption = "",
    span: ForOption = None,
    until: UntilOption = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """No new work for these nodes, and no recovery on them. What runs there goes on."""
    why, end = _reason(reason), _end(span, until)
    decided = base.run(_with_book(state, lambda book: book.cordon(names, reason=why, until=end)))
    _tell(decided, "cordoned", "is cordoned already", json)


@app.command()
def uncordon(
    names: NodesArgument, reason: ReasonOption = "", state: StateOption = None,
    json: JsonFlag = False,
) -> None:  # fmt: skip
    """Take back what keeps work away from these nodes: cordon, drain and retirement."""
    why = _reason(reason)
    decided = base.run(_with_book(state, lambda book: book.uncordon(names, reason=why)))
    _tell(decided, "may get work again", "was not cordoned, drained or retired", json)


@app.command()
def drain(
    names: NodesArgument,
    reason: ReasonOption = "",
    span: ForOption = None,
    until: UntilOption = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Have these nodes emptied: no new work, and what they have moves away."""
    why, end = _reason(reason), _end(span, until)
    decided = base.run(_with_book(state, lambda book: book.drain(names, reason=why, until=end)))
    _tell(decided, "is to be drained", "is being drained already", json)


@app.command()
def retire(
    names: NodesArgument, reason: ReasonOption = "", state: StateOption = None,
    json: JsonFlag = False,
) -> None:  # fmt: skip
    """Take these nodes out of the fleet, on purpose; `uncordon` brings them back."""
    why = _reason(reason)
    decided = base.run(_with_book(state, lambda book: book.retire(names, reason=why)))
    _tell(decided, "retired", "is retired already", json)


async def _with_book(state: Path | None, work: "Callable[[NodeBook], Awaitable[Any]]") -> Any:
    from interlock.fleet import connect
    from interlock.nodes.book import NodeBook

    async with connect(base.settings(state), source=f"cli/{base.who()}") as fleet:
        return await work(NodeBook(fleet, by=base.who(), progress=_progress()))


# What was typed


def _states(texts: list[str]) -> tuple[State, ...]:
    names = [name for text in texts for name in text.split(",") if name]
    try:
        return msgspec.convert(names, tuple[State, ...])
    except msgspec.ValidationError:
        raise typer.BadParameter(
            f"a state is one of {', '.join(STATES)}", param_hint="--is"
        ) from None


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or len(key) > 200 or len(value) > 200:
            raise typer.BadParameter("KEY=VALUE, 200 characters each at most", param_hint=option)
        pairs[key] = value
    return pairs


def _reason(text: str) -> str:
    if len(text) > _LONGEST_REASON:
        raise typer.BadParameter(f"{_LONGEST_REASON} characters at most", param_hint="--reason")
    return text.strip()


def _end(span: str | None, until: str | None) -> datetime.datetime | None:
    now = datetime.datetime.now(datetime.UTC)
    if span is not None and until is not None:
        raise typer.BadParameter("either --for or --until")
    try:
        if span is not None:
            match = re.fullmatch(r"(\d+)([smhd])", span.strip())
            if match is None or not int(match[1]):
                raise typer.BadParameter("30s, 10m, 2h, 3d", param_hint="--for")
            unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
            return now + datetime.timedelta(**{unit: int(match[1])})
        if until is None:
            return None
        at = datetime.datetime.fromisoformat(until)
    except (ValueError, OverflowError):
        option = "--for" if span is not None else "--until"
        raise typer.BadParameter("no time that makes sense", param_hint=option) from None
    at = at.replace(tzinfo=at.tzinfo or datetime.UTC)
    if at <= now:
        raise typer.BadParameter("that is past", param_hint="--until")
    return at


# What is printed


def _progress() -> Callable[[int, int], None]:
    """Say how far it is, once it takes a while."""
    begun = last = datetime.datetime.now(datetime.UTC)

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = datetime.datetime.now(datetime.UTC)
        if (now - begun).total_seconds() < _TELL_AFTER_S:
            return
        if (now - last).total_seconds() >= _TELL_AFTER_S:
            last = now
            sys.stderr.write(f"{done} of {total} nodes written\n")

    return tell


#: The worst first.
_ORDER: tuple[State, ...] = (
    "lost",
    "suspect",
    "degraded",
    "recovering",
    "unknown",
    "healthy",
    "retired",
)
_HEAD = ("node", "state", "since", "reason", "zone", "GPUs", "silent", "marks")


def _table(nodes: list[NodeView]) -> None:
    """Whole names, however wide: what is cut cannot be typed again."""
    rows: list[tuple[str, ...]] = [
        (
            base.plain(node.node),
            node.state,
            base.ago(node.since) if node.since else "",
            base.plain(node.reason),
            base.plain(node.zone),
            _gpus(node),
            _span(node.silent_s),
            ", ".join(_marks(node)),
        )
        for node in sorted(nodes, key=lambda each: (_ORDER.index(each.state), each.node))
    ]
    if rows:
        rows.insert(0, _HEAD)
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))] if rows else []
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    states = [node.state for node in nodes]
    told = ", ".join(f"{states.count(state)} {state}" for state in _ORDER if state in states)
    sys.stdout.write(f"{len(nodes)} nodes{f': {told}' if told else ''}\n")


def _marks(node: NodeView) -> list[str]:
    leaving = node.health.leaving if node.health is not None else None
    return [
        text
        for text, stands in (
            ("cordoned", node.cordoned),
            ("draining", node.draining),
            ("evicted", node.evicted),
            ("leaving", leaving is not None),
            ("no agent", not node.agent),
            ("not described", not node.described),
        )
        if stands
    ]


def _gpus(node: NodeView) -> str:
    return "" if node.gpus is None else str(node.gpus)


def _span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"


def _write(view: NodeView, record: NodeRecord | None) -> None:
    since = f" since {view.since} ({base.ago(view.since)})" if view.since else ""
    rows = [("state", f"{view.state}{since}"), ("reason", f"{view.reason} {view.detail}".strip())]
    if view.silent_s is not None:
        rows.append(("heard", f"{_span(view.silent_s)} ago"))
    rows += [
        ("provider", " ".join(filter(None, (view.provider, view.price_class)))),
        ("zone", view.zone),
        ("roles", ", ".join(view.roles)),
        ("labels", ", ".join(f"{key}={value}" for key, value in sorted(view.labels.items()))),
        ("marks", ", ".join(_marks(view))),
    ]
    if record is not None:
        rows += [
            (name, _said(mark))
            for name, mark in (
                ("cordon", record.cordon), ("drain", record.drain), ("retired", record.retired),
            )
            if mark is not None
        ]  # fmt: skip
        if record.ssh is not None:
            way = [*(hop.host for hop in record.ssh.jump), record.ssh.host]
            rows.append(("ssh", f"{record.ssh.user}@{' → '.join(way)} port {record.ssh.port}"))
        rows.append(("described", f"by {record.source or 'nobody knows whom'}"))
    held = view.health
    if held is not None:
        rows += [("symptom", f"{each.kind} {each.detail}") for each in held.symptoms]
        rows += [("evidence", f"{each.at} {each.kind}: {each.detail}") for each in held.evidence]
        if held.eviction is not None:
            rows.append(("evicted", f"{held.eviction.at} until {held.eviction.expires_at}"))
    rows += _measured(view)
    if view.recovery is not None:
        rows.append(("recovery", f"{view.recovery.state} {view.recovery.reason}".strip()))
        rows += [
            ("", f"{each.at} {each.step} ({each.mode}): {each.outcome} {each.detail}".rstrip())
            for each in view.recovery.attempts
        ]
    sys.stdout.write(f"{base.plain(view.node)}\n")
    for name, text in rows:
        if text:
            sys.stdout.write(f"  {name:<10} {base.plain(text)}\n")


def _measured(view: NodeView) -> list[tuple[str, str]]:
    beat = view.beat
    if beat is None:
        return []
    rows = []
    if beat.cores is not None:
        load = "" if beat.load_per_core is None else f", load {beat.load_per_core:.2f} per core"
        rows.append(("cores", f"{beat.cores}{load}"))
    if beat.memory_used_percent is not None:
        rows.append(("memory", f"{beat.memory_used_percent:.0f} % used"))
    rows += [
        ("disk", f"{disk.path} {disk.used_percent:.0f} % used")
        for disk in beat.disks
        if disk.used_percent is not None
    ]
    for gpu in beat.gpus or ():
        parts = [gpu.name or "", gpu.fault or ""]
        if gpu.utilization_percent is not None:
            parts.append(f"{gpu.utilization_percent:.0f} % busy")
        if gpu.memory_used_bytes is not None and gpu.memory_total_bytes:
            share = gpu.memory_used_bytes / gpu.memory_total_bytes
            parts.append(f"{share:.0%} of {gpu.memory_total_bytes / 2**30:.0f} GiB used")
        if gpu.temperature_c is not None:
            parts.append(f"{gpu.temperature_c:.0f} °C")
        rows.append((f"GPU {gpu.index}", ", ".join(filter(None, parts))))
    if beat.gpu_fault is not None:
        rows.append(("GPUs", f"unknown: {beat.gpu_fault}"))
    if beat.progress is not None:
        age = _span(beat.progress.age_s)
        rows.append(
            ("progress", f"{beat.progress.workers} workers{f', last {age} ago' if age else ''}")
        )
    return rows


def _said(mark: Mark) -> str:
    until = f", until {mark.until}" if mark.until else ""
    return f"by {mark.by} at {mark.at}{until}{f': {mark.reason}' if mark.reason else ''}"


def _write_plan(plan: "ImportPlan", *, dry_run: bool, prune: bool) -> None:
    for name in plan.added:
        sys.stdout.write(f"+ {name}\n")
    for name, changed in [("fleet", plan.fleet), *plan.changed.items()]:
        if changed:
            sys.stdout.write(f"~ {name}\n")
            for each in changed:
                sys.stdout.write(f"    {base.plain(_change(each))}\n")
    for name in plan.missing:
        what = "retired" if prune else "not in the file any more; --prune retires it"
        sys.stdout.write(f"- {name}: {what}\n")
    if plan.others:
        sys.stdout.write(
            f"{len(plan.others)} nodes are not in the file and never were: they joined by "
            "themselves\n"
        )
    counts = (
        f"{len(plan.added)} added, {len(plan.changed)} changed, {len(plan.unchanged)} as before"
    )
    retired = f", {len(plan.retired)} retired" if prune else f", {len(plan.missing)} missing"
    sys.stdout.write(f"{counts}{retired}{' (dry run: nothing was written)' if dry_run else ''}\n")


def _change(change: "Change") -> str:
    def told(value: object) -> str:
        return "nothing" if value is None else msgspec.json.encode(value).decode()

    return f"{change.field}: {told(change.before)} → {told(change.after)}"


def _tell(decided: "list[Decided]", done: str, already: str, json: bool) -> None:
    if json:
        base.emit({"nodes": decided})
        return
    for each in decided:
        sys.stdout.write(f"{each.node}: {done if each.changed else already}\n")
