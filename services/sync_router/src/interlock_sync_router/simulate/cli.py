"""What the sync-router adds to ``interlock simulate``."""

import sys
from typing import Annotated

import typer

from interlock.cli.base import JsonFlag, emit

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _simulate() -> None:
    """Try the decisions on a simulated fleet."""


@app.command()
def sync(
    nodes: Annotated[int, typer.Option(min=4, max=5_000, help="Nodes at a time.")] = 1_000,
    artifacts: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Sealed over the time.")
    ] = 100_000,
    hours: Annotated[float, typer.Option(min=0.1, max=168, help="Of simulated time.")] = 24.0,
    seed: Annotated[int, typer.Option(help="Another seed, another day.")] = 1,
    json: JsonFlag = False,
) -> None:
    """Run the planner's real decisions on a made-up fleet whose nodes come, go and fall silent.

    The clock is simulated. It fails if a rule was broken, or if in the end an artifact that still
    exists is not where its policy asks.
    """
    from interlock_sync_router.simulate.day import play

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    found = play(nodes, artifacts, hours, seed, say)
    if json:
        emit(found)
    else:
        sys.stdout.write(
            f"{found.hours:g} hours, {found.nodes:,} nodes, {found.artifacts:,} artifacts sealed\n"
            f"moved {found.moves:,} copies, {found.moved_bytes / 1e12:.1f} TB; "
            f"{found.failures:,} transfers failed, {found.drops:,} copies dropped\n"
            f"{found.preempted:,} nodes preempted, {found.silent:,} fell silent; "
            f"{found.lost:,} artifacts lost with them\n"
            f"in the end {found.complete:,} as their policy asks, {found.short:,} short, "
            f"{found.no_room:,} without room where they are wanted\n"
            f"{found.plans:,} plans, {found.plan_p50_s * 1e3:.1f} ms in the middle, "
            f"{found.plan_max_s:.2f} s at most; {found.violations} rules broken\n"
        )
        for each in found.violated:
            sys.stdout.write(f"  {each}\n")
    if found.violations or found.short or found.settled_s is None:
        sys.exit(1)
