"""The benchmark of locks: what its figures rest on. Never how fast anything is."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.bench import stats
from interlock.bench.locks import servers
from interlock.bench.locks.handover import NotAlternating, latencies
from interlock.bench.locks.plan import CLIENTS, Plan, next_count, share
from interlock.bench.locks.result import Figures, Measured, Percentiles, figures, ratios
from interlock.bench.locks.task import Outcome, Task

_TIMES = st.lists(st.integers(1, 10**10), min_size=1, max_size=50)
_GAPS = st.integers(0, 10**9)


@given(st.lists(st.tuples(_GAPS, _GAPS), min_size=2, max_size=40).filter(lambda g: len(g) % 2 == 0))
def test_a_hand_over_lasts_from_the_call_for_the_release_to_the_next_holder(
    gaps: list[tuple[int, int]],
) -> None:
    now, turns = 0, []
    for waited, held in gaps:
        got = now + waited
        now = got + held
        turns.append((got, now))
    found = latencies(turns[::2], turns[1::2])
    assert found == [waited for waited, _ in gaps[1:]]


def test_a_lock_that_both_held_is_found_out() -> None:
    first = [(0, 2_000_000), (5_000_000, 6_000_000)]
    second = [(1_000_000, 4_000_000), (7_000_000, 8_000_000)]
    with pytest.raises(NotAlternating, match=r"hand-over 1: .* 1\.000 ms before"):
        latencies(first, second)


def test_who_held_more_often_did_not_take_turns() -> None:
    with pytest.raises(NotAlternating, match="2 times, the other 1"):
        latencies([(0, 1), (2, 3)], [(1, 2)])


@given(st.integers(1, 1_000), st.floats(1e-6, 1e3), st.floats(0.01, 10), st.integers(2, 1_000))
def test_hand_overs_fill_their_time_and_no_more(
    count: int, taken_s: float, budget_s: float, most: int
) -> None:
    chosen = next_count(count, taken_s, budget_s=budget_s, most=most)
    assert 2 <= chosen <= most
    # Each process holds the lock equally often.
    assert chosen % 2 == 0
    assert chosen == 2 or chosen * taken_s / count <= budget_s * (1 + 1e-9)


def test_nothing_measured_is_nothing_to_go_by() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        next_count(0, 1.0, budget_s=1.0, most=10)
    with pytest.raises(ValueError, match="nothing was measured"):
        next_count(10, 0.0, budget_s=1.0, most=10)


@given(st.integers(1, 1_000))
def test_the_two_processes_share_the_clients_evenly(clients: int) -> None:
    one, other = share(clients)
    assert one + other == clients
    assert 0 <= one - other <= 1


def test_the_whole_is_bounded() -> None:
    assert Plan.of(quick=True).estimate_s(4) < 60
    assert Plan.of(quick=False).estimate_s(4) < 180


@given(st.lists(_TIMES, min_size=1, max_size=5))
def test_percentiles_are_of_all_rounds_together(rounds: list[list[int]]) -> None:
    found = Percentiles.of([each for times in rounds for each in times])
    everything = sorted(each for times in rounds for each in times)
    assert found.samples == len(everything)
    assert found.p50 == stats.percentile(everything, 0.5) / 1e6
    assert found.p50 <= found.p99 <= found.max == everything[-1] / 1e6


def _measured(scale: int, *, compared: bool = False) -> Measured:
    """Two rounds, the second ten times as slow as the first, as on a machine that is disturbed."""
    found = Measured()
    for slow in (1, 10):
        unit = scale * slow
        taken = {
            "acquire_release": [3 * unit] * 5,
            "acquire_release.acquire": [2 * unit] * 5,
            "acquire_release.release": [unit] * 5,
            "acquire_release_fresh": [4 * unit] * 5,
            "raw_kv_put": [2 * unit] * 5,
            "round_trip": [unit] * 5,
            "handover": [6 * unit] * 5,
        }
        if compared:
            taken["raw_compare_and_set"] = [unit] * 5
        found.add(taken)
        for clients in CLIENTS:
            found.rates.setdefault((clients, False), []).append(clients * 1_000 / unit)
            if clients > 1:
                found.rates.setdefault((clients, True), []).append(500 / unit)
                found.served.setdefault(clients, []).append(clients)
    return found


def _figures(found: Measured) -> Figures:
    return figures(found, server="a server 1.0", client="a client", replicas=1, sync="always")


def test_ratios_are_medians_of_paired_rounds() -> None:
    medians, pairs = ratios(_measured(1_000, compared=True), {"etcd": _measured(2_000)})
    assert pairs["acquire_release_vs_etcd"] == [0.5, 0.5]
    assert medians["acquire_release_vs_etcd"] == 0.5
    assert medians["handover_vs_etcd"] == 0.5
    assert medians["raw_kv_put_vs_etcd"] == 0.5
    assert medians["acquire_release_vs_raw_put"] == 1.5
    assert medians["acquire_release_vs_raw_compare_and_set"] == 3
    assert medians["acquire_release_fresh_vs_raw_put"] == 2
    assert medians["acquire_vs_raw_put"] == 1
    # 3 of ours; 2 times 3 of theirs, less twice its round trip.
    assert medians["acquire_release_vs_etcd_without_round_trips"] == 1.5
    # Above 1 is better here.
    assert medians["throughput_64_vs_etcd"] == 2
    assert medians["throughput_one_lock_16_vs_etcd"] == 2


def test_a_peer_that_is_not_there_has_a_name_and_no_ratio() -> None:
    medians, pairs = ratios(_measured(1_000), {})
    for name in ("acquire_release_vs_etcd", "handover_vs_redis", "throughput_16_vs_redis"):
        assert medians[name] is None
        assert name not in pairs
    assert medians["acquire_release_vs_raw_put"] == 1.5
    assert medians["acquire_release_vs_raw_compare_and_set"] is None


def test_rounds_that_cannot_be_paired_have_no_ratio() -> None:
    short = _measured(1_000)
    short.taken["handover"].pop()
    medians, _ = ratios(_measured(1_000), {"redis": short})
    assert medians["handover_vs_redis"] is None
    assert medians["acquire_release_vs_redis"] == 1


def test_figures_name_all_that_they_depend_on() -> None:
    told = msgspec.to_builtins(_figures(_measured(1_000_000)))
    assert told["acquire_release_ms"] == {"p50": 3.0, "p99": 30.0, "max": 30.0, "samples": 10}
    assert told["acquire_ms"]["p50"] == 2.0
    assert told["release_ms"]["p50"] == 1.0
    assert told["handover_ms"]["p50"] == 6.0
    assert told["raw_kv_put_ms"]["p50"] == 2.0
    assert set(told["throughput"]) == {"1", "16", "64"}
    assert set(told["throughput_one_lock"]) == set(told["served_one_lock"]) == {"16", "64"}
    assert (told["server"], told["sync"], told["replicas"]) == ("a server 1.0", "always", 1)
    # A peer has no compare-and-set of ours.
    assert "raw_compare_and_set_ms" not in told


@given(st.lists(st.tuples(_GAPS, _GAPS)), st.dictionaries(st.text(max_size=20), _TIMES))
def test_what_a_process_tells_is_one_line(
    holds: list[tuple[int, int]], taken: dict[str, list[int]]
) -> None:
    outcome = Outcome(holds=holds, taken=taken)
    line = msgspec.json.encode(outcome)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=Outcome) == outcome
    task = Task(way="hand_over", name="a", seconds=0.1, start_ns=2**63 - 1)
    assert msgspec.json.decode(msgspec.json.encode(task), type=Task) == task
    assert math.isclose(task.seconds, 0.1)


def test_what_is_not_installed_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert set(servers.absent()) == {"redis", "etcd"}
    assert all("apt-get install" in why for why in servers.absent().values())
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert set(servers.absent()) == {"redis"}
    assert "pip install redis" in servers.absent()["redis"]
