"""A report as a picture: rates of every client, side by side. Needs matplotlib."""

import importlib.util
from pathlib import Path
from typing import Any, Final

from interlock.bench.result import Rate, Report
from interlock.errors import InterlockError

__all__ = ["FORMATS", "PlotImpossible", "check", "draw"]

FORMATS: Final = (".png", ".svg")
_COLOURS: Final = {"interlock": "#1b6ca8", "nats_py": "#8a8d91", "faststream": "#d08c3c"}


class PlotImpossible(InterlockError):
    """The picture cannot be drawn. The message says what to do."""


def check(path: Path) -> None:
    """Raise PlotImpossible now, and not after minutes of measuring."""
    if path.suffix.lower() not in FORMATS:
        raise PlotImpossible(f"{path}: name a file that ends in {' or '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise PlotImpossible(f"{path.absolute().parent} is no folder: make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise PlotImpossible(
            "a plot needs matplotlib, which is not installed: pip install 'interlock[bench]'"
        )


def draw(report: Report, path: Path) -> None:
    """Draw the rates, one panel for each setting, into a PNG or SVG file."""
    check(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, list[Rate]] = {}
    for rate in report.rates:
        title = f"{rate.kind}, {rate.replicas} replica(s), sync {rate.sync}"
        panels.setdefault(title, []).append(rate)
    if not panels:
        raise PlotImpossible("there are no rates to draw: choose the cases publish or consume")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7.5 * columns, 4.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, rates) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        if len({rate.size for rate in rates}) > 1:
            _lines(axes, rates)
        else:
            _bars(axes, rates)
        axes.set_title(title)
    machine = report.machine
    figure.supxlabel(
        f"{machine.cores} cores, {machine.cpu}, nats-server {machine.nats_server}, "
        f"Python {machine.python}, median of runs",
        fontsize=8,
    )
    try:
        figure.savefig(path)
    except OSError as error:
        raise PlotImpossible(f"{path}: {error.strerror}") from error


def _name(rate: Rate) -> str:
    return f"{rate.client} {rate.way}"


def _bars(axes: Any, rates: list[Rate]) -> None:
    shown = [rate for rate in rates if rate.fastest][::-1]
    medians = [rate.median for rate in shown]
    axes.barh(
        [_name(rate) for rate in shown],
        medians,
        xerr=[
            [rate.median - rate.min for rate in shown],
            [rate.max - rate.median for rate in shown],
        ],
        color=[_COLOURS[rate.client] for rate in shown],
        ecolor="#444444",
    )
    axes.set_xlabel(f"messages/s of {shown[0].size} B, with the range of runs")
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _lines(axes: Any, rates: list[Rate]) -> None:
    series: dict[str, list[Rate]] = {}
    for rate in rates:
        if rate.fastest:
            series.setdefault(_name(rate), []).append(rate)
    marks = "osD^vP*X"
    for number, (name, points) in enumerate(series.items()):
        points.sort(key=lambda rate: rate.size)
        axes.plot(
            [rate.size for rate in points],
            [rate.median for rate in points],
            label=name,
            color=_COLOURS[points[0].client],
            marker=marks[number % len(marks)],
            alpha=0.85,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("bytes of a body")
    axes.set_ylabel("messages/s")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=7)
