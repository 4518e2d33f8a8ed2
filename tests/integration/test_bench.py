"""The benchmark runs, and its JSON says what it promises. Never how fast anything is."""

import json
from pathlib import Path
from typing import Any

import pytest

from interlock.bench import growth
from interlock.bench.plot import PlotImpossible, check
from interlock.bench.workers import BenchFailed
from tests.conftest import run_cli

pytestmark = pytest.mark.timeout(240)

_TINY = ("--runs", "1", "--seconds", "0.02")
_RATIOS = {
    "durable_publish_vs_nats_py_async",
    "durable_publish_vs_faststream",
    "durable_publish_vs_faststream_tasks",
    "fast_publish_vs_nats_py_async",
    "consume_vs_nats_py_fetch",
}


def _bench(*arguments: str) -> tuple[dict[str, Any], str]:
    told = run_cli(None, "bench", *arguments, "--json", timeout_s=200)
    assert told.returncode == 0, told.stderr + told.stdout[-2_000:]
    report = json.loads(told.stdout.splitlines()[-1])
    return report, told.stderr


def test_a_quick_run_reports_the_ratios_and_what_they_rest_on(tmp_path: Path) -> None:
    picture = tmp_path / "rates.svg"
    report, progress = _bench(
        "bus", "--quick", *_TINY, "--dir", str(tmp_path), "--plot", str(picture)
    )
    assert "this takes about" in progress
    assert set(report["ratios"]) == _RATIOS
    for name, ratio in report["ratios"].items():
        assert ratio > 0
        assert len(report["ratio_runs"][name]) == 1
    measured = {(rate["client"], rate["way"], rate["sync"]) for rate in report["rates"]}
    assert measured >= {
        ("interlock", "publish_soon", "always"),
        ("nats_py", "publish_async", "always"),
        ("faststream", "publish", "always"),
        ("interlock", "bulk", "default"),
        ("interlock", "consume_batches", "always"),
        ("nats_py", "fetch", "always"),
    }
    for rate in report["rates"]:
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]
        assert (rate["size"], rate["replicas"], rate["runs"]) == (256, 1, 1)
        assert rate["count"] > 0
    assert {row["role"] for row in report["memory"]} == {"publisher", "consumer"}
    assert all(row["peak_mib"] >= row["idle_mib"] > 1 for row in report["memory"])
    assert report["normalizer_e2e"]["median"] > 0
    machine = report["machine"]
    assert machine["cores"] >= 1
    assert machine["nats_server"].count(".") == 2
    assert machine["packages"]["nats-py"]
    assert machine["fsync_ms"]["p50_ms"] > 0
    assert (report["skipped"], report["failed"], report["quick"]) == ({}, {}, True)
    assert picture.read_text().lstrip().startswith("<?xml")
    # Neither brokers nor their stores are left.
    assert [path.name for path in tmp_path.iterdir()] == [picture.name]


def test_latency_is_reported_for_every_client_and_path() -> None:
    report, _ = _bench(
        "bus", *_TINY, "--sizes", "256", "--replicas", "1", "--sync", "always",
        "--cases", "latency",
    )  # fmt: skip
    rows = {(row["what"], row["client"]): row for row in report["latency"]}
    assert set(rows) == {
        (what, client)
        for what in ("publish_to_ack", "publish_to_handler", "request_to_reply")
        for client in ("interlock", "nats_py", "faststream")
    }
    for row in rows.values():
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"] <= row["max_ms"]
        assert row["samples"] == 30
    assert set(report["ratios"].values()) == {None}
    assert report["normalizer_e2e"] is None


def test_three_replicas_are_three_servers() -> None:
    report, _ = _bench(
        "bus", *_TINY, "--sizes", "1024", "--replicas", "3", "--sync", "default",
        "--cases", "publish,consume",
    )  # fmt: skip
    assert {(rate["replicas"], rate["size"]) for rate in report["rates"]} == {(3, 1_024)}
    assert {rate["kind"] for rate in report["rates"]} == {"publish", "consume"}


async def test_growth_measures_the_same_windows_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "BASE", 1_000)
    monkeypatch.setattr(growth, "_WINDOW", 500)
    said: list[str] = []
    found = await growth.play(3_000, runs=2, parent=tmp_path, say=said.append)
    assert set(found.ratios) == {"publish_at_n_vs_100k", "consume_at_n_vs_100k"}
    assert all(len(runs) == 2 for runs in found.ratio_runs.values())
    assert [held.stored for held in found.held] == [1_000, 3_000]
    assert all(held.publisher_mib > 1 and held.consumer_mib > 1 for held in found.held)
    assert "GiB" in said[0]
    assert not list(tmp_path.iterdir())


async def test_growth_refuses_what_the_disk_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(BenchFailed, match="--dir"):
        await growth.play(10**12, runs=1, parent=tmp_path, say=lambda _: None)
    assert not list(tmp_path.iterdir())


def test_a_plot_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = run_cli(None, "bench", "bus", "--quick", "--plot", str(tmp_path / "a.jpg"), "--json")
    assert told.returncode == 1
    assert ".png or .svg" in json.loads(told.stdout)["error"]
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(PlotImpossible, match=r"interlock\[bench\]"):
        check(tmp_path / "a.png")


@pytest.mark.parametrize(
    "arguments",
    [("--sizes", "12"), ("--replicas", "2"), ("--sync", "never"), ("--cases", "everything")],
)
def test_a_choice_that_makes_no_sense_is_refused(arguments: tuple[str, str]) -> None:
    told = run_cli(None, "bench", "bus", *arguments)
    assert told.returncode == 2
    assert arguments[0] in told.stderr
