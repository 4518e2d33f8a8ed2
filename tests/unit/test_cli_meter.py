"""How far something is, on standard error."""

import io

import pytest

from interlock.cli import meter
from interlock.cli.meter import Meter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("interlock.cli.meter.time.monotonic", lambda: now[0])
    return now


def test_what_is_over_soon_says_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Meter("moving") as shown:
        shown.show(10, 20)
        clock[0] += 0.9
        shown.add(10)
    assert capsys.readouterr().err == ""


def test_without_a_terminal_a_line_comes_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Meter("moving") as shown:
        clock[0] += 2
        shown.show(4_000_000, 10_000_000, "1 of 2 copies")
        shown.show(5_000_000, 10_000_000)
        clock[0] += 5
        shown.add(2_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "moving: 4.00 MB of 10.0 MB, 2.00 MB/s, 1 of 2 copies",
        "moving: 7.00 MB, 1.00 MB/s",
    ]


def test_on_a_terminal_there_is_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(meter, "_FIRST_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Meter("moving") as shown:
        shown.show(4_000_000, 10_000_000, "1 of 2 copies")
    said = screen.getvalue()
    assert "moving" in said
    assert "1 of 2 copies" in said
