"""A report on locks as tables, for people."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from interlock.bench.locks.plan import CLIENTS
from interlock.bench.locks.result import Figures, Percentiles, Report

__all__ = ["show"]

_TIMES: tuple[tuple[str, Callable[[Figures], Percentiles | None]], ...] = (
    ("acquire + release", lambda each: each.acquire_release_ms),
    ("acquire", lambda each: each.acquire_ms),
    ("release", lambda each: each.release_ms),
    ("both, a new name each time", lambda each: each.acquire_release_fresh_ms),
    ("hand-over", lambda each: each.handover_ms),
    ("raw put", lambda each: each.raw_kv_put_ms),
    ("raw compare-and-set", lambda each: each.raw_compare_and_set_ms),
    ("round trip", lambda each: each.round_trip_ms),
)


def show(report: Report) -> None:
    """Print a report."""
    console = Console()
    machine = report.machine
    console.print(
        f"{machine.cores} cores, {machine.cpu}; {machine.kernel}; Python {machine.python}; "
        f"{machine.filesystem or 'unknown file system'}, a sync takes "
        f"{machine.fsync_ms.p50_ms:.2f} ms (p99 {machine.fsync_ms.p99_ms:.2f})",
        highlight=False,
    )
    everybody: dict[str, Figures] = {"interlock": report, **report.peers}
    for name, each in everybody.items():
        console.print(
            f"{name}: {each.server}; {each.client}; "
            f"{each.replicas} replica{'s'[: each.replicas - 1]}, sync {each.sync}",
            highlight=False,
            markup=False,
        )
    for table in (_times(everybody), _throughputs(everybody), _ratios(report)):
        console.print(table)
    for what, why in report.absent.items():
        console.print(f"left out: {what}: {why}", highlight=False, markup=False)
    for what, why in report.failed.items():
        console.print(f"failed: {what}: {why}", highlight=False, markup=False)


def _table(title: str, what: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(what, no_wrap=True)
    for column in columns:
        table.add_column(column.replace("_", "\n"), justify="right", no_wrap=True)
    return table


def _times(everybody: dict[str, Figures]) -> Table:
    table = _table("latency, ms: p50, and below it p99", "what", *everybody)
    for what, of in _TIMES:
        found = [of(each) for each in everybody.values()]
        table.add_row(what, *("" if each is None else f"{each.p50:.2f}" for each in found))
        table.add_row("", *("" if each is None else f"{each.p99:.2f}" for each in found))
    return table


def _throughputs(everybody: dict[str, Figures]) -> Table:
    table = _table("acquired and released, per second", "clients", *everybody)
    for clients in map(str, CLIENTS):
        rates = [each.throughput[clients] for each in everybody.values()]
        table.add_row(clients, *(f"{rate:,.0f}" for rate in rates))
    for clients in map(str, CLIENTS[1:]):
        rates = [each.throughput_one_lock[clients] for each in everybody.values()]
        table.add_row(f"{clients}, one lock", *(f"{rate:,.0f}" for rate in rates))
        served = [each.served_one_lock[clients] for each in everybody.values()]
        table.add_row("   that had it", *(f"{count:g}" for count in served))
    return table


def _ratios(report: Report) -> Table:
    table = _table("ours by theirs, paired rounds", "what", "median", "min", "max")
    for name, ratio in report.ratios.items():
        runs = report.ratio_runs.get(name)
        if ratio is None or not runs:
            table.add_row(name, "-", "", "")
        else:
            table.add_row(name, f"{ratio:.2f}", f"{min(runs):.2f}", f"{max(runs):.2f}")
    return table
