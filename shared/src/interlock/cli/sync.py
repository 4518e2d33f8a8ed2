"""Commands on moving data: have it moved, look at the plan and its reasons, pause, policies."""

import contextlib
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import msgspec
import typer

from interlock import amounts
from interlock.cli import base, sync_policy
from interlock.cli.base import JsonFlag, StateOption
from interlock.cli.router import ask, ask_on
from interlock.cli.table import write_table
from interlock.errors import BusUnavailable, InterlockError
from interlock_schemas import orders
from interlock_schemas.orders import (
    AskEvacuation,
    AskPlan,
    AskStatus,
    Evacuation,
    LeftOut,
    Pause,
    PlanView,
    Priority,
    SetPause,
    SyncReport,
    SyncStatus,
)

if TYPE_CHECKING:
    from interlock.settings import ConnectionSettings

__all__ = ["app"]

#: Entry points of this group make a plan for a made-up fleet: see `_made_up`.
_PLANS: Final = "interlock.plans"

_POLL_S: Final = 0.5
_SHORT: Final = 12
_PRIORITIES: Final = get_args(Priority)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Data between nodes: have it moved, see what would be and why, pause, set policies.",
)
app.add_typer(sync_policy.app, name="policy")

DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="For example games.")]
DatasetOption = Annotated[
    str | None, typer.Argument(metavar="[DATASET]", help="Default: all of them.")
]
ToOption = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="SELECTOR",
        help="Nodes: all, role:<role>, label:<name>=<value>, zone:<zone>, node:<name>.",
    ),
]
ConfigOption = Annotated[str | None, typer.Option(help="Only of this configuration.")]
PriorityOption = Annotated[
    str, typer.Option(metavar="PRIORITY", help=f"One of {', '.join(_PRIORITIES)}.")
]
ScopeArgument = Annotated[
    str,
    typer.Argument(metavar="[SCOPE]", help="fleet, dataset:<dataset> or node:<node>."),
]


# Have it moved


@app.command()
def run(
    dataset: DatasetArgument,
    to: ToOption = None,
    config: ConfigOption = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option("--artifact", metavar="ID", help="Exactly these, not the whole dataset."),
    ] = None,
    priority: PriorityOption = "normal",
    timeout: Annotated[
        float, typer.Option(min=0.1, max=604_800, help="Seconds to wait for it at most.")
    ] = 3_600.0,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Have data at some nodes, and wait until each has said that it has it, whole.

    Default: at all nodes. It ends with 1 where something failed, or is not there in time. Ctrl-C
    ends the waiting; the router goes on.
    """
    from interlock.artifacts.sdk import succeeded

    targets = tuple(to or ("all",))
    report = base.run(
        _run(
            base.settings(state),
            dataset,
            targets=targets,
            config=config,
            artifacts=artifact or [],
            priority=_priority(priority),
            timeout=timeout,
        )
    )
    named = {each[5:] for each in targets if each.startswith("node:")}
    missed = [each.node for each in report.left_out if each.node in named]
    done = succeeded(report) and not missed
    if json:
        base.emit({**msgspec.to_builtins(report), "succeeded": done})
    else:
        _write_report(report, targets)
    if not done:
        raise typer.Exit(1)


async def _run(
    settings: "ConnectionSettings",
    dataset: str,
    *,
    targets: tuple[str, ...],
    config: str | None,
    artifacts: list[str],
    priority: Priority,
    timeout: float,  # noqa: ASYNC109 - the router keeps it
) -> SyncReport:
    from interlock.cli.meter import Meter
    from interlock.fleet import connect

    async with connect(settings, source=f"cli/{base.who()}") as fleet:
        ids = [await fleet.artifacts.find(each) for each in artifacts]
        with Meter(dataset) as meter:

            def show(report: SyncReport) -> None:
                meter.show(
                    report.moved_bytes,
                    report.moved_bytes + report.pending_bytes,
                    f"{report.verified:,} of {report.asked:,} copies",
                )

            return await fleet.sync(
                dataset,
                config=config,
                artifacts=ids,
                targets=targets,
                priority=priority,
                timeout=timeout,
                on_progress=show,
            )


def _write_report(report: SyncReport, targets: tuple[str, ...]) -> None:
    out = sys.stdout
    if not report.targets:
        out.write(f"nobody was asked: no node is {' or '.join(targets)}, or could be given it\n")
    elif not report.artifacts:
        out.write(f"{len(report.targets):,} nodes, and no artifact that matches\n")
    else:
        out.write(
            f"{report.artifacts:,} artifacts for {len(report.targets):,} nodes: "
            f"{report.verified:,} of {report.asked:,} copies have their receipt, "
            f"{report.already_there:,} were there, {report.moved:,} moved "
            f"({amounts.size(report.moved_bytes)})\n"
        )
    if report.failed:
        out.write(f"{report.failed:,} failed\n")
    write_table(
        ("artifact", "node", "code", "why"),
        [(each.artifact[:_SHORT], each.node, each.code, each.text) for each in report.failures],
    )
    if report.failed > len(report.failures):
        out.write(f"and {report.failed - len(report.failures):,} more\n")
    if report.pending:
        out.write(f"{report.pending:,} pending, {amounts.size(report.pending_bytes)}\n")
    _write_left_out(report.left_out)
    if report.timed_out:
        sys.stderr.write("error: it was not all there in time. Asked again, it goes on\n")


def _write_left_out(left_out: tuple[LeftOut, ...]) -> None:
    if left_out:
        sys.stdout.write("left out\n")
    for each in left_out:
        count = f" ({each.artifacts:,} artifacts)" if each.artifacts else ""
        sys.stdout.write(base.plain(f"  {each.node}{count}: {'; '.join(each.reasons)}") + "\n")


# What would be


@app.command()
def plan(
    dataset: DatasetOption = None,
    to: ToOption = None,
    config: ConfigOption = None,
    node: Annotated[str | None, typer.Option(help="Only what concerns this node.")] = None,
    artifact: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this one: why it goes where it goes.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="List so many moves.")] = 200,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Of a made-up fleet of so many nodes, no broker."),
    ] = None,
    artifacts: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="With --nodes: so many artifacts.")
    ] = 1_000,
    seed: Annotated[int, typer.Option(help="With --nodes: another seed, another fleet.")] = 1,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Show what would be moved now, and why; and what is left out, and why. Nothing is moved.

    With --to: as if `sync run` were asked for that too.
    """
    if (to or config) and dataset is None:
        raise typer.BadParameter("name the dataset that would be asked for")
    if nodes is not None and (to or config or artifact):
        raise typer.BadParameter("a made-up fleet is planned for as it is: without these options")
    if nodes is not None:
        found: PlanView = _made_up(nodes, artifacts, seed, _plan_of(dataset, node, limit))
    else:
        found = base.run(
            _plan(base.settings(state), _plan_of(dataset, node, limit), to, config, artifact)
        )
    if json:
        base.emit(found)
    else:
        _write_plan(found)


def _plan_of(dataset: str | None, node: str | None, limit: int) -> AskPlan:
    try:
        asked = AskPlan(dataset=dataset, node=node, limit=limit)
        return msgspec.convert(msgspec.to_builtins(asked), AskPlan)
    except msgspec.ValidationError as error:
        raise InterlockError(f"there is no plan for that: {error}") from None


async def _plan(
    settings: "ConnectionSettings",
    asked: AskPlan,
    to: list[str] | None,
    config: str | None,
    artifact: str | None,
) -> PlanView:
    from interlock.artifacts.syncing import make_request
    from interlock.fleet import connect

    async with connect(settings, source=f"cli/{base.who()}") as fleet:
        if artifact is not None:
            id = await fleet.artifacts.find(artifact)
            asked = msgspec.structs.replace(asked, artifact=id)
        if to or config:
            request = make_request(asked.dataset, config=config, targets=to or ("all",))
            asked = msgspec.structs.replace(asked, request=request)
        view: PlanView = await ask_on(fleet, orders.PLAN, asked)
        return view


def _made_up(nodes: int, artifacts: int, seed: int, asked: AskPlan) -> PlanView:
    """Have the planner itself plan for a made-up fleet: the kit finds it by its entry point."""
    from importlib.metadata import entry_points

    for point in entry_points(group=_PLANS, name="made-up"):
        view: PlanView = point.load()(nodes, artifacts, seed, asked)
        return view
    raise InterlockError(
        "no planner is installed here: install interlock-sync-router, or leave --nodes out to ask "
        "the one that runs"
    )


def _write_plan(found: PlanView) -> None:
    write_table(
        ("do", "artifact", "what", "size", "to", "from", "priority", "why"),
        [
            (
                f"{each.action}{' (ordered)' if each.under_way else ''}",
                each.artifact[:_SHORT],
                f"{each.dataset} {each.name}",
                amounts.size(each.bytes),
                each.node,
                ", ".join(each.sources),
                each.priority,
                "; ".join(each.reasons),
            )
            for each in found.moves
        ],
    )
    count = len(found.moves) + found.more
    size = amounts.size(sum(each.bytes for each in found.moves if each.action == "fetch"))
    more = f", {found.more:,} of them not listed" if found.more else ""
    sys.stdout.write(f"{count:,} moves, {size}{more}\n" if count else "nothing to move\n")
    for pair in found.unmet:
        sys.stdout.write(
            base.plain(f"short: {pair.artifact[:_SHORT]} {pair.node}: {pair.text or pair.code}")
            + "\n"
        )
    _write_left_out(found.left_out)
    _write_datasets(found.datasets)


def _write_datasets(datasets: tuple[orders.DatasetStatus, ...]) -> None:
    write_table(
        ("dataset", "artifacts", "size", "as the policy says", "short", "nothing to be done"),
        [
            (
                each.dataset,
                f"{each.artifacts:,}",
                amounts.size(each.bytes),
                f"{each.complete:,}",
                f"{each.short:,}",
                f"{each.unreachable:,}",
            )
            for each in datasets
        ],
    )


# How it is


@app.command()
def status(state: StateOption = None, json: JsonFlag = False) -> None:
    """Show datasets beside their policies, nodes, what would be lost with each, and pauses."""
    found: SyncStatus = base.run(ask(base.settings(state), orders.STATUS, AskStatus()))
    if json:
        base.emit(found)
        return
    decides = f"{found.planner} decides" if found.planner else "no router decides"
    sys.stdout.write(
        base.plain(f"{found.artifacts:,} artifacts, {amounts.size(found.bytes)}; {decides}\n")
    )
    for scope, pause in found.pauses.items():
        sys.stdout.write(base.plain(f"paused: {_pause_line(scope, pause)}\n"))
    _write_datasets(found.datasets)
    write_table(
        ("node", "held", "size", "free", "pending", "at risk", "steps at risk", "given nothing as"),
        [
            (
                f"{each.node}{' (spot)' if each.ephemeral else ''}",
                f"{each.held:,}",
                amounts.size(each.held_bytes),
                _free(each),
                f"{each.pending:,}",
                f"{each.at_risk:,} ({amounts.size(each.at_risk_bytes)})" if each.at_risk else "0",
                f"{each.at_risk_steps:,}",
                "; ".join(each.why_not),
            )
            for each in found.nodes
        ],
    )
    for request in found.requests:
        what = request.dataset or f"{len(request.artifacts):,} artifacts"
        sys.stdout.write(
            base.plain(f"asked: {what} to {', '.join(request.targets)}, by {request.by}\n")
        )


def _free(node: orders.NodeStatus) -> str:
    if node.store is None or node.store.free_bytes is None:
        return "unknown"
    return amounts.size(node.store.free_bytes)


def _pause_line(scope: str, pause: Pause) -> str:
    until = f" until {pause.until}" if pause.until else ""
    return f"{scope}{until} by {pause.by}{f': {pause.reason}' if pause.reason else ''}"


# What was


@app.command()
def history(
    since: Annotated[str, typer.Option(help="From then on: 10m, 2h, 3d, a time, or all.")] = "1d",
    node: Annotated[str | None, typer.Option(help="Only what names this node.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only what names this dataset.")] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """List what was received, given up, dropped, found damaged, and saved from nodes that went."""
    start: dict[str, Any] = {"deliver_policy": "all"}
    if since != "all":
        start = {"deliver_policy": "by_start_time", "opt_start_time": base.parse_since(since)}
    found = base.run(_history(base.settings(state), start, node, dataset))
    if json:
        base.emit({"events": found, "total": len(found)})
        return
    for each in found:
        sys.stdout.write(base.plain(_line(each)) + "\n")
    sys.stdout.write(f"{len(found):,} events\n")


async def _history(
    settings: "ConnectionSettings", start: dict[str, Any], node: str | None, dataset: str | None
) -> list[dict[str, Any]]:
    from interlock.bus import connected
    from interlock.clock import rfc3339_ns
    from interlock.reader import Reader
    from interlock_schemas import subjects
    from interlock_schemas.sync import (
        ArtifactDropped,
        NodeEvacuated,
        SyncChecksumFailed,
        SyncCompleted,
        SyncFailed,
    )
    from interlock_schemas.topology import EVENTS

    types = (SyncCompleted, SyncFailed, ArtifactDropped, SyncChecksumFailed, NodeEvacuated)
    filters = tuple(subjects.event_filter(type.event_type) for type in types)
    found = []
    async with connected(settings, name="interlock-history") as bus:
        records = Reader(bus, EVENTS.name, filters, start).records(until_end=True)
        async with contextlib.aclosing(records):
            async for record in records:
                try:
                    payload = msgspec.json.decode(record.body)
                except msgspec.DecodeError:
                    continue
                if not isinstance(payload, dict):
                    continue
                names = (payload.get(key) for key in ("node", "target_node", "source_node"))
                if node is not None and node not in names:
                    continue
                if dataset is not None and payload.get("dataset") != dataset:
                    continue
                type = subjects.parse_event(record.subject)
                found.append({"time": rfc3339_ns(record.time_ns), "type": type, "payload": payload})
    return found


def _line(event: dict[str, Any]) -> str:
    said = event["payload"]
    words = [
        f"{event['time'][:19]}Z",
        event["type"].removeprefix("sync."),
        said.get("node") or said.get("target_node"),
        said.get("dataset"),
        said.get("config"),
        (said.get("artifact") or "")[:_SHORT],
    ]
    for label, key in (("from", "source_node"), ("by", "transport"), ("code", "code"),
                       ("saved", "saved"), ("lost", "lost")):  # fmt: skip
        words.append(f"{label} {said[key]}" if said.get(key) is not None else "")
    for label, key in (("moved", "bytes_transferred"), ("lost", "lost_bytes")):
        if isinstance(said.get(key), int):
            words.append(f"{label} {amounts.size(said[key])}")
    words.append(said.get("reason"))
    return "  ".join(str(word) for word in words if word)


# What operators decide


@app.command()
def pause(
    scope: ScopeArgument = "fleet",
    reason: Annotated[str, typer.Option(help="Why; shown to whoever asks.")] = "",
    span: Annotated[
        str | None,
        typer.Option("--for", metavar="SPAN", help="It ends by itself after so long: 30m, 2h, 3d."),
    ] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Begin no more transfers: of the fleet, of a dataset, to a node. What moves is finished."""
    from interlock.clock import now, rfc3339

    if len(reason) > 500:
        raise typer.BadParameter("500 characters at most", param_hint="--reason")
    at = now()
    try:
        until = rfc3339(at + _span(span, "--for")) if span is not None else None
    except OverflowError:
        raise typer.BadParameter("no time that makes sense", param_hint="--for") from None
    made = Pause(by=base.who()[:200], reason=reason.strip(), at=rfc3339(at), until=until)
    _set_pause(SetPause(scope=scope, pause=made), state, json)


@app.command()
def resume(
    scope: ScopeArgument = "fleet", state: StateOption = None, json: JsonFlag = False
) -> None:
    """Go on: the fleet, a dataset, or a node."""
    _set_pause(SetPause(scope=scope), state, json)


def _set_pause(asked: SetPause, state: Path | None, json: bool) -> None:
    found: SyncStatus = base.run(ask(base.settings(state), orders.PAUSE, asked))
    if json:
        base.emit({"scope": asked.scope, "pauses": found.pauses})
        return
    for scope, standing in found.pauses.items():
        sys.stdout.write(base.plain(f"paused: {_pause_line(scope, standing)}\n"))
    if not found.pauses:
        sys.stdout.write("nothing is paused\n")


@app.command()
def evacuate(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node that is about to go.")],
    within: Annotated[
        str | None, typer.Option(metavar="SPAN", help="It goes after so long: 90s, 30m, 2h.")
    ] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait until all is safe, or only begin and report."),
    ] = True,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait at most.")] = 3_600.0,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Have saved what only this node has. It ends with 0 once the node may be torn down.

    Asked again, it is the same evacuation.
    """
    deadline_s = _span(within, "--within").total_seconds() if within is not None else None
    found = base.run(_evacuate(base.settings(state), node, deadline_s, timeout if wait else 0.0))
    if json:
        base.emit(found)
    else:
        sys.stdout.write(
            f"{len(found.saved):,} artifacts saved ({amounts.size(found.saved_bytes)}), "
            f"{found.at_risk:,} at risk ({amounts.size(found.at_risk_bytes)}, "
            f"{found.at_risk_steps:,} steps)\n"
        )
        for id in found.unsaved[:20]:
            sys.stdout.write(f"  at risk: {id}\n")
        if not found.at_risk:
            sys.stdout.write(base.plain(f"{found.node} may be torn down\n"))
    if found.at_risk:
        sys.stderr.write("error: what is at risk is on no other node that stays\n")
        raise typer.Exit(1)


async def _evacuate(
    settings: "ConnectionSettings", node: str, deadline_s: float | None, wait_s: float
) -> Evacuation:
    import asyncio

    from interlock.cli.meter import Meter
    from interlock.fleet import connect

    async with connect(settings, source=f"cli/{base.who()}") as fleet:
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        asked = AskEvacuation(node=node, deadline_s=deadline_s)
        found: Evacuation = await ask_on(fleet, orders.EVACUATE, asked)
        asked = AskEvacuation(node=node)
        with Meter(f"saving what {node} has") as meter:
            while found.at_risk and loop.time() < end:
                meter.show(found.saved_bytes, found.saved_bytes + found.at_risk_bytes)
                await asyncio.sleep(_POLL_S)
                # A router that is just being started again is asked again.
                with contextlib.suppress(BusUnavailable):
                    found = await ask_on(fleet, orders.EVACUATE, asked)
        return found


def _priority(text: str) -> Priority:
    try:
        found: Priority = msgspec.convert(text, Priority)
    except msgspec.ValidationError:
        raise typer.BadParameter(
            f"one of {', '.join(_PRIORITIES)}", param_hint="--priority"
        ) from None
    return found


def _span(text: str, option: str) -> timedelta:
    span = base.parse_span(text)
    if not span:
        raise typer.BadParameter("30s, 10m, 2h, 3d", param_hint=option)
    return span
