"""What the node-agent adds to the command line: ``interlock agent``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag, StateOption

if TYPE_CHECKING:
    from interlock_node_agent.settings import Settings
    from interlock_schemas.nodes import Beat, ProbeAnswer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The agent of a node: join, show, leave.")

NodeOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The node. Default: INTERLOCK_NODE, else the host name."),
]


@app.command()
def join(
    node: NodeOption = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The broker. Default: INTERLOCK_NATS_URL.")
    ] = None,
    zone: Annotated[str | None, typer.Option(help="What fails together.")] = None,
    provider: Annotated[str | None, typer.Option(help="Who the machine is from.")] = None,
    price_class: Annotated[
        str | None, typer.Option(help="owned, on_demand or spot: may it be taken away?")
    ] = None,
    role: Annotated[list[str] | None, typer.Option(help="What it is for. Repeatable.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label. Repeatable.")
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="A folder whose disk is measured. Repeatable."),
    ] = None,
    systemd_unit: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Only write a systemd unit there, and a file with its environment beside it.",
        ),
    ] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Join this host to the fleet, and be its agent until Ctrl-C, which leaves in good order.

    Connects outward only. The options describe the node where nobody has described it yet.
    """
    given: dict[str, Any] = {
        "node": node,
        "nats_url": url,
        "agent_zone": zone,
        "agent_provider": provider,
        "agent_price_class": price_class,
        "agent_roles": tuple(role) if role else None,
        "agent_labels": ",".join(label) if label else None,
        "agent_watch": tuple(watch) if watch else None,
        "state": state,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if systemd_unit is not None:
        _install(given, systemd_unit, json)
        return
    from interlock import endpoint
    from interlock.service import run
    from interlock_node_agent.contract import CONTRACT
    from interlock_node_agent.service import Outcome, setup_for

    outcome = Outcome()
    where = endpoint.resolve(_settings(given))
    sys.stderr.write(f"joining the fleet at {where.url}; Ctrl-C leaves in good order\n")
    try:
        run(CONTRACT, lambda: _settings({"agent_after_leave": "exit", **given}), setup_for(outcome))
    except SystemExit:
        outcome.error = outcome.error or "it could not run: standard error says why"
        raise
    finally:
        if json:
            base.emit(outcome)


def _settings(given: dict[str, Any]) -> "Settings":
    from interlock_node_agent.settings import Settings

    if "state" in given and "nats_url" not in given:
        given = {"nats_url": None, **given}
    return Settings(**given)


def _install(given: dict[str, Any], path: Path, json: bool) -> None:
    from interlock import endpoint
    from interlock_node_agent.unit_file import install

    settings = _settings(given)
    where = endpoint.resolve(settings)
    variables = {
        "INTERLOCK_NATS_URL": where.url if where.token is None else settings.nats_url,
        "INTERLOCK_NATS_USER": where.user,
        "INTERLOCK_NATS_PASSWORD": where.password,
        "INTERLOCK_NATS_CREDS": str(where.creds.absolute()) if where.creds else None,
        **_variables(settings),
    }
    written = install(
        path,
        {name: value for name, value in variables.items() if value is not None},
        python=sys.executable,
        grace_s=settings.agent_grace_s,
    )
    if json:
        base.emit(written)
        return
    unit = Path(written.unit)
    sys.stdout.write(
        f"unit         {written.unit}\n"
        f"environment  {written.environment} (holds the credentials: for its owner alone)\n"
        f"broker       {where.url} ({where.origin})\n\n"
        f"Next: systemctl enable --now {unit.name if _known(unit) else unit}\n"
    )


def _known(unit: Path) -> bool:
    return unit.parent in (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"))


def _variables(settings: "Settings") -> dict[str, str | None]:
    """The settings of the agent that are not as they are by default, as variables."""
    from interlock_node_agent.settings import LIST_SEPARATOR

    found: dict[str, str | None] = {"INTERLOCK_NODE": settings.node}
    for name in sorted(settings.model_fields_set):
        if not name.startswith("agent_"):
            continue
        value = getattr(settings, name)
        if isinstance(value, dict):
            value = LIST_SEPARATOR.join(f"{key}={each}" for key, each in value.items())
        elif isinstance(value, tuple):
            value = LIST_SEPARATOR.join(str(each) for each in value)
        found[f"INTERLOCK_{name.upper()}"] = None if value is None else str(value)
    return found


@app.command()
def show(
    watch: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="A folder whose disk is measured. Repeatable."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show what an agent would measure here, right now. Needs no broker."""
    settings = _settings({"agent_watch": tuple(watch)} if watch else {})
    told = base.run(_measure(settings))
    if json:
        base.emit(told)
        return
    _write(told)


async def _measure(settings: "Settings") -> "Beat":
    import socket
    import time

    from interlock_node_agent.beat import Identity, beat
    from interlock_node_agent.collector import Collector
    from interlock_node_agent.contract import CONTRACT

    collector = Collector(settings)
    async with collector.measuring():
        await collector.settle(max(3.0, settings.agent_gpu_deadline_s + 1.0))
        seen = collector.newest()
    who = Identity(
        node=settings.node or socket.gethostname(),
        instance="none",
        version=CONTRACT.version,
        interval_s=settings.agent_heartbeat_s,
    )
    return beat(
        who,
        seq=0,
        sent_at=time.time(),
        uptime_s=0.0,
        loop_lag_s=None,
        machine=seen.machine,
        disks=seen.disks,
        gpus=seen.gpus.gpus,
        gpu_fault=seen.gpus.fault,
        addresses=seen.addresses,
        answers=False,
    )


def _write(told: "Beat") -> None:
    rows = [
        ("node", told.node),
        ("cores", _known_or(told.cores, "")),
        ("processor", _known_or(told.cpu_percent, " %")),
        ("load", _known_or(told.load_per_core, " per core")),
        (
            "memory",
            f"{_known_or(told.memory_used_percent, ' % used')}, "
            f"{_gib(told.memory_available_bytes)} available of {_gib(told.memory_total_bytes)}",
        ),
    ]
    for disk in told.disks:
        what = disk.fault or (
            f"{_known_or(disk.used_percent, ' % used')}, {_gib(disk.free_bytes)} free"
            f"{', read-only' if disk.read_only else ''}"
        )
        rows.append((f"disk {base.plain(disk.path)}", base.plain(what)))
    if told.gpus is None:
        rows.append(("GPUs", base.plain(told.gpu_fault or "not known")))
    elif not told.gpus:
        rows.append(("GPUs", "none"))
    for gpu in told.gpus or ():
        what = gpu.fault or (
            f"{gpu.name or ''} {_known_or(gpu.utilization_percent, ' % busy')}, "
            f"{_gib(gpu.memory_used_bytes)} of {_gib(gpu.memory_total_bytes)}, "
            f"{_known_or(gpu.temperature_c, ' °C')}"
        )
        rows.append((f"GPU {gpu.index}", base.plain(what.strip())))
    rows.append(("addresses", ", ".join(told.addresses) or "none"))
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        sys.stdout.write(f"{label:<{width}}  {value}\n")


def _known_or(value: float | None, unit: str) -> str:
    return "not known" if value is None else f"{value:g}{unit}"


def _gib(value: int | None) -> str:
    return "not known" if value is None else f"{value / 2**30:.1f} GiB"


@app.command()
def leave(
    node: NodeOption = None,
    reason: Annotated[str, typer.Option(help="Why; the fleet is told.")] = "asked",
    deadline: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds that its workers have. Default: the agent's own grace."),
    ] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Ask the agent of a node to leave in good order. Returns once it has begun to."""
    answer: ProbeAnswer = base.run(_leave(state, node, reason, deadline))
    if json:
        base.emit(answer)
        return
    left = answer.leaving.deadline_s if answer.leaving is not None else None
    within = "" if left is None else f", within {left:.0f} s"
    sys.stdout.write(f"{answer.node} is leaving{within}\n")


async def _leave(
    state: Path | None, node: str | None, reason: str, deadline_s: float | None
) -> "ProbeAnswer":
    import msgspec

    from interlock.errors import BusUnavailable
    from interlock.fleet import connect
    from interlock_node_agent.service import LEAVE_VERB
    from interlock_schemas import subjects
    from interlock_schemas.nodes import AGENT, Leave, ProbeAnswer

    request = Leave(reason=reason[:200] or "asked", deadline_s=deadline_s)
    async with connect(base.settings(state), source=f"cli/{base.who()}") as fleet:
        name = node or fleet.node
        try:
            reply = await fleet.bus.request(
                subjects.node_command(AGENT, name, LEAVE_VERB),
                msgspec.json.encode(request),
                timeout_s=5.0,
            )
        except BusUnavailable:
            raise BusUnavailable(
                f"no agent of a node {name!r} answers: see `interlock nodes list` for the names, "
                "or name another with --node"
            ) from None
        return msgspec.json.decode(reply.data, type=ProbeAnswer)
