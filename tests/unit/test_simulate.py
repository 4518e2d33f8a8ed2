"""The simulated fleet: what is shortened changes nothing, and the healthy are spared."""

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from interlock_health_monitor.cli import app
from interlock_health_monitor.simulate import baselines, traces
from interlock_health_monitor.simulate.clock import DRAIN_S, STEP_S, Clock
from interlock_health_monitor.simulate.options import Options, Rates
from interlock_health_monitor.simulate.run import simulate
from interlock_health_monitor.simulate.watch import every_beat, watch
from interlock_health_monitor.simulate.world import Away, Host, Trouble, draw

#: An hour of it has what a day of another fleet has.
STORMY = Rates(
    pauses_h=60.0,
    freezes_h=4.0,
    flaps_h=6.0,
    kills_h=3.0,
    vanishings_h=0.7,
    slow_deaths_h=0.3,
    preemptions_h=1.5,
    monitor_stops_d=60.0,
    restarts_d=40.0,
    slow_spells_d=40.0,
)

seeds = st.integers(0, 2**32)


@pytest.mark.parametrize(
    ("seed", "nodes", "loss", "jitter_ms"),
    [(1, 1, 0.01, 300), (2, 5, 0.0, 0), (3, 9, 0.3, 300), (4, 9, 0.01, 1_500), (5088, 7, 0.0, 0)],
)
def test_to_visit_only_who_is_quiet_comes_to_the_same_as_every_beat_of_everybody(
    seed: int, nodes: int, loss: float, jitter_ms: float
) -> None:
    options = Options(
        nodes=nodes, hours=0.3, seed=seed, loss=loss, jitter_ms=jitter_ms, zones=2, rates=STORMY
    )
    world = draw(options)
    clock = Clock(world.away, options.duration_s)
    beats = [traces.arrivals(host, world.away, options) for host in world.hosts]
    found = [traces.episodes(each, clock, options.policy) for each in beats]
    short, long = watch(world, clock, options, found), every_beat(world, clock, options, beats)
    assert sorted(short.told) == sorted(long.told)
    assert short.evictions == long.evictions
    assert short.disruptions == long.disruptions
    assert short.asked == long.asked


def test_the_same_seed_is_the_same_fleet_whoever_shares_the_work() -> None:
    options = Options(nodes=45, hours=0.1, seed=7)
    one = simulate(options)
    assert one == simulate(options, processes=2)
    assert one != simulate(msgspec.structs.replace(options, seed=8))


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return simulate(Options(nodes=40, hours=1.0, seed=3, rates=Rates(kills_h=0.3)))


def test_nobody_who_is_alive_is_evicted_and_the_budget_is_kept(figures: dict[str, Any]) -> None:
    assert figures["evictions"] != 0
    assert figures["false_evictions"] == 0
    assert figures["missed"] == 0
    assert figures["budget"]["exceeded"] == 0


def test_a_zone_that_is_cut_off_is_told_of_once_and_comes_back(figures: dict[str, Any]) -> None:
    (told,) = figures["disruptions"]
    assert told["zone"] == "z1"
    outage = figures["happened"]["outage"]
    assert outage["at_s"] <= told["at_s"] < outage["at_s"] + 15
    assert told["ended_s"] > outage["at_s"] + outage["lasts_s"]


def test_the_others_on_the_same_heartbeats_are_slower_or_err(figures: dict[str, Any]) -> None:
    kills = figures["detection_s"]["by_cause"]["kill"]
    assert kills["p50"] < 3
    rows = figures["baselines"]
    for name, row in rows.items():
        slower = row["detection_s"]["by_cause"]["kill"]["p50"] > kills["p50"]
        errs = row["false_positives_per_node_hour"] > 10 * figures["false_positives_per_node_hour"]
        assert slower or errs, name
        assert row["without_budget"]["false_evictions"] > 0
        assert row["with_budget"]["evictions"] <= row["without_budget"]["evictions"]


def test_in_shadow_nobody_is_taken_out() -> None:
    found = simulate(Options(nodes=20, hours=1.0, seed=3, shadow=True, rates=Rates(kills_h=0.3)))
    assert found["shadow"] is True
    assert found["evictions"] > 0
    assert found["budget"]["exceeded"] == 0


def test_the_command_ends_with_one_line_of_json() -> None:
    outcome = CliRunner().invoke(
        app, ["fleet", "--nodes", "20", "--hours", "0.1", "--processes", "1", "--json"]
    )
    assert outcome.exit_code == 0
    found = json.loads(outcome.stdout.splitlines()[-1])
    for each in (
        "detection_s", "false_positives_per_node_hour", "false_suspects_per_node_hour",
        "false_evictions", "evictions", "budget", "missed", "disruptions", "baselines", "ratios",
    ):  # fmt: skip
        assert each in found
    assert "heartbeats" in outcome.stderr


def test_the_command_prints_a_table_for_people() -> None:
    outcome = CliRunner().invoke(
        app, ["fleet", "--nodes", "20", "--hours", "0.1", "--processes", "1"]
    )
    assert outcome.exit_code == 0
    assert "interlock" in outcome.stdout
    assert "fixed_90s" in outcome.stdout


# The world


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_troubles_of_a_host_come_one_after_the_other(seed: int) -> None:
    options = Options(nodes=10, hours=1.0, seed=seed, rates=STORMY, zones=1)
    names = set()
    for host in draw(options).hosts:
        names.add(host.name)
        for each, after in pairwise(host.troubles):
            assert each.start_s <= each.end_s <= after.start_s
        for each in host.troubles:
            assert each.start_s >= host.born_s
            assert host.at(each.start_s) == each or each.start_s == each.end_s
    assert len(names) == len(draw(options).hosts)


@settings(deadline=None, max_examples=10)
@given(seeds, st.sampled_from([0, 300, 2500]))
def test_beats_are_read_in_order_and_none_of_the_dead(seed: int, jitter_ms: float) -> None:
    options = Options(nodes=4, hours=0.5, seed=seed, jitter_ms=jitter_ms, rates=STORMY)
    world = draw(options)
    for host in world.hosts:
        beats = traces.arrivals(host, world.away, options)
        assert beats == sorted(beats)
        for at in beats:
            assert host.born_s <= at < options.duration_s
            sent = at - 0.02 - jitter_ms / 1_000 - DRAIN_S - 30
            trouble = host.at(at)
            if trouble is not None and trouble.deadly:
                assert sent <= trouble.start_s


def test_the_clock_stands_while_the_monitor_is_stopped() -> None:
    clock = Clock((Away(100.0, 130.0, "stopped"),), 300.0)
    before, after = int(100 / STEP_S), int(131 / STEP_S)
    assert clock.stamps[after] - clock.stamps[before - 2] < 2.0
    assert not any(clock.acting[before + 1 : int(130 / STEP_S)])
    assert clock.settling[after]
    assert not clock.settling[int(150 / STEP_S)]


# The others


def beats_of(*gaps: float) -> list[float]:
    found = [1.0]
    for gap in gaps:
        found.append(found[-1] + gap)
    return found


def declared(
    beats: list[float], *troubles: Trouble, away: tuple[Away, ...] = ()
) -> dict[str, baselines.Outcome]:
    host = Host("n1", "z1", 0.0, troubles, None)
    return baselines.declare(host, beats, away, 1_000.0, 60.0)


def test_a_fixed_timeout_declares_when_it_has_passed() -> None:
    killed = Trouble(101.2, 1e12, "dead", "kill")
    found = declared(beats_of(*[1.0] * 100), killed)
    assert found["fixed_10s"].detected["kill"] == [pytest.approx(9.8)]
    assert found["fixed_90s"].detected["kill"] == [pytest.approx(89.8)]
    assert len(found["fixed_90s"].declared) == 1


def test_plain_accrual_knows_the_rhythm_and_takes_a_lost_beat_for_a_death() -> None:
    found = declared(beats_of(*[1.0] * 100, 2.0, *[1.0] * 898))
    assert found["phi_8"].falsely == {"alive": 1}
    assert found["phi_8_pause_3s"].falsely == {}
    assert found["fixed_3s"].falsely == {}


def test_they_read_what_piled_up_before_they_look_at_a_timeout() -> None:
    stop = Away(200.0, 230.0, "stopped")
    gaps = [1.0] * 198 + [31.0] + [1.0] * 769
    found = declared(beats_of(*gaps), away=(stop,))
    assert all(each.falsely == {} for each in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_fleets_lose_nobody_who_is_alive(seed: int) -> None:
    found = simulate(Options(nodes=300, hours=4.0, seed=seed))
    assert found["false_evictions"] == 0
    assert found["budget"]["exceeded"] == 0
    assert found["missed"] == 0
