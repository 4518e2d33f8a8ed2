"""A report as tables, for people."""

from rich.console import Console
from rich.table import Table

from interlock.bench.result import Report

__all__ = ["show"]


def show(report: Report) -> None:
    """Print a report."""
    console = Console()
    machine = report.machine
    console.print(
        f"{machine.cores} cores, {machine.cpu}; {machine.kernel}; Python {machine.python}; "
        f"nats-server {machine.nats_server}; "
        + ", ".join(f"{name} {version or '-'}" for name, version in machine.packages.items())
        + f"; {machine.filesystem or 'unknown file system'}, a sync takes "
        f"{machine.fsync_ms.p50_ms:.2f} ms (p99 {machine.fsync_ms.p99_ms:.2f})",
        highlight=False,
    )
    for table in (_ratios(report), *_rates(report), _latency(report), _memory(report)):
        if table.row_count:
            console.print(table)
    if report.normalizer_e2e is not None:
        e2e = report.normalizer_e2e
        console.print(
            f"normalizer, end to end, sync always: {e2e.median:,.0f} messages/s "
            f"({e2e.min:,.0f} to {e2e.max:,.0f} in {e2e.runs} runs)",
            highlight=False,
        )
    for what, why in report.skipped.items():
        console.print(f"left out: {what}: {why}", highlight=False, markup=False)
    for what, why in report.failed.items():
        console.print(f"failed: {what}: {why}", highlight=False, markup=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        right = column not in ("what", "client", "way", "role", "sync")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    return table


def _ratios(report: Report) -> Table:
    table = _table("ours by theirs, paired runs", "what", "median", "min", "max")
    for name, ratio in report.ratios.items():
        runs = report.ratio_runs.get(name)
        if ratio is None or not runs:
            table.add_row(name, "-", "", "")
        else:
            table.add_row(name, f"{ratio:.2f}", f"{min(runs):.2f}", f"{max(runs):.2f}")
    return table


def _rates(report: Report) -> list[Table]:
    """A table for each setting: with the setting in a column, a line would be too long."""
    tables: dict[str, Table] = {}
    for row in report.rates:
        setting = (
            f"{row.kind}, {row.size:,} B, {row.replicas} replica{'s'[: row.replicas - 1]}, "
            f"sync {row.sync}; messages/s"
        )
        if setting not in tables:
            tables[setting] = _table(
                setting, "client", "way", "tuned", "median", "min", "max", "MiB/s"
            )
        tables[setting].add_row(
            row.client,
            row.way,
            str(row.tuned or ""),
            f"{row.median:,.0f}",
            f"{row.min:,.0f}",
            f"{row.max:,.0f}",
            f"{row.median * row.size / 2**20:,.1f}",
        )
    return list(tables.values())


def _latency(report: Report) -> Table:
    table = _table(
        f"latency at {report.latency[0].rate:,.0f}/s, ms, from when it was due"
        if report.latency
        else "",
        "what", "client", "R", "p50", "p99", "p99.9", "max",
    )  # fmt: skip
    for row in report.latency:
        table.add_row(
            row.what.replace("_", " "),
            row.client,
            str(row.replicas),
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.p999_ms:.2f}",
            f"{row.max_ms:.2f}",
        )
    return table


def _memory(report: Report) -> Table:
    table = _table("peak memory, MiB", "role", "client", "way", "sync", "connected", "peak")
    for row in report.memory:
        table.add_row(
            row.role, row.client, row.way, row.sync, f"{row.idle_mib:.1f}", f"{row.peak_mib:.1f}"
        )
    return table
