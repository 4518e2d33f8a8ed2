"""What the health-monitor adds to the command line: ``interlock simulate``."""

import os
import sys
from typing import Annotated, Any

import typer

from interlock.cli.base import JsonFlag, emit

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Try the decisions on a simulated fleet.",
)


@app.callback()
def _simulate() -> None:
    """Try the decisions on a simulated fleet."""


@app.command()
def fleet(
    nodes: Annotated[int, typer.Option(min=1, max=20_000, help="Hosts at a time.")] = 1_000,
    hours: Annotated[float, typer.Option(min=0.1, max=168, help="Of simulated time.")] = 24.0,
    seed: Annotated[int, typer.Option(help="Another seed, another fleet.")] = 1,
    loss: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of heartbeats, questions, answers lost.")
    ] = 0.01,
    jitter_ms: Annotated[
        float, typer.Option(min=0, max=10_000, help="Each way takes 20 ms and up to so much more.")
    ] = 300.0,
    zones: Annotated[int, typer.Option(min=1, max=100, help="The largest has an outage.")] = 4,
    preset: Annotated[str, typer.Option(help="How patient to be: local or wan.")] = "local",
    shadow: Annotated[bool, typer.Option("--shadow", help="Only rehearse evictions.")] = False,
    processes: Annotated[
        int, typer.Option(min=0, max=64, help="0: as many as there are cores.")
    ] = 0,
    json: JsonFlag = False,
) -> None:
    """Run the monitor's real decisions on made-up hosts and networks, beside other detectors.

    The clock is simulated: a day of a thousand nodes takes a minute or two. Hosts pause, die,
    vanish, slow down, flap and are preempted; a zone is cut off, the broker restarts, and the
    monitor itself is stopped. It fails if a node that was alive was evicted.
    """
    from interlock.errors import InterlockError
    from interlock_health_monitor.simulate.options import Options
    from interlock_health_monitor.simulate.run import simulate
    from interlock_health_monitor.suspicion import PRESETS

    if preset not in PRESETS:
        raise InterlockError(f"--preset {preset!r}: one of {', '.join(PRESETS)}")
    options = Options(
        nodes=nodes,
        hours=hours,
        seed=seed,
        loss=loss,
        jitter_ms=jitter_ms,
        zones=zones,
        preset=preset,
        shadow=shadow,
    )
    found = simulate(options, processes=processes or os.cpu_count() or 1, progress=_Meter().show)
    if json:
        emit(found)
    else:
        _print(found)
    if found["false_evictions"] or found["budget"]["exceeded"]:
        sys.stderr.write("error: a node that was alive was evicted, or the budget was exceeded\n")
        sys.exit(1)


class _Meter:
    """Progress on standard error, a line for each tenth."""

    def __init__(self) -> None:
        self._said = ("", -1)

    def show(self, what: str, share: float) -> None:
        """Say how far it is, if that is news."""
        said = (what, int(share * 10))
        if said != self._said:
            self._said = said
            sys.stderr.write(f"{what}: {share:.0%}\n")
            sys.stderr.flush()


def _print(found: dict[str, Any]) -> None:
    lines = [
        ("detector", "p50 s", "p99 s", "max s", "missed", "false / node-hour", "evicted", "falsely")
    ]
    rows = {"interlock": found, **found["baselines"]}
    for name, each in rows.items():
        times = each["detection_s"]
        evicted = each.get("with_budget", each)
        lines.append(
            (
                name,
                *("-" if times[k] is None else f"{times[k]:.2f}" for k in ("p50", "p99", "max")),
                str(each["missed"]),
                f"{each['false_positives_per_node_hour']:.4f}",
                str(evicted["evictions"]),
                str(evicted["false_evictions"]),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        sys.stdout.write("  ".join(cells) + "\n")
    budget = found["budget"]
    sys.stdout.write(
        f"\n{found['node_hours']:,.0f} node-hours, {found['beats']:,} heartbeats, "
        f"{found['questions']:,} questions. Evicted within {budget['window_s']:g} s at most "
        f"{budget['fleet']['most']} of {budget['fleet']['limit']} allowed"
        f"{' (rehearsed)' if found['shadow'] else ''}.\n"
    )
    for each in found["disruptions"]:
        where = "the fleet" if each["zone"] == "*" else f"zone {each['zone']}"
        sys.stdout.write(
            f"Disruption of {where} at {each['at_s']:g} s until {each['ended_s']} s: "
            f"{each['quiet']} of {each['members']} quiet.\n"
        )
