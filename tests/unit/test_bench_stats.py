"""The statistics of the benchmark: what is claimed rests on them."""

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.bench import stats

_RATES = st.floats(min_value=1e-3, max_value=1e9)
_TIMES = st.integers(min_value=0, max_value=10**12)


@given(st.lists(_RATES, min_size=1))
def test_the_median_is_the_middle_whatever_the_order(values: list[float]) -> None:
    assert stats.median(values) == pytest.approx(statistics.median(values))
    assert stats.median(values) == stats.median(values[::-1])
    assert min(values) <= stats.median(values) <= max(values)


def test_nothing_measured_is_an_error_and_not_a_zero() -> None:
    for summary in (stats.median, stats.Spread.of, stats.latency):
        with pytest.raises(ValueError, match="nothing was measured"):
            summary([])
    with pytest.raises(ValueError, match="nothing was measured"):
        stats.percentile([], 0.5)


@given(st.lists(st.tuples(_RATES, _RATES), min_size=1), st.floats(0.1, 10))
def test_what_slows_both_of_a_pair_down_leaves_the_ratio_alone(
    pairs: list[tuple[float, float]], slowdown: float
) -> None:
    ours, theirs = zip(*pairs, strict=True)
    alone = stats.paired_ratios(ours, theirs)
    # Each pair in a moment of its own.
    factors = [slowdown ** (number % 3) for number in range(len(pairs))]
    disturbed = stats.paired_ratios(
        [rate * factor for rate, factor in zip(ours, factors, strict=True)],
        [rate * factor for rate, factor in zip(theirs, factors, strict=True)],
    )
    assert disturbed == pytest.approx(alone)


@given(st.lists(st.tuples(_RATES, _RATES), min_size=1))
def test_swapping_sides_turns_the_ratios_over(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    for one, other in zip(
        stats.paired_ratios(ours, theirs), stats.paired_ratios(theirs, ours), strict=True
    ):
        assert one * other == pytest.approx(1)


def test_a_run_without_partner_or_rate_is_no_pair() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        stats.paired_ratios([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="above 0"):
        stats.paired_ratios([1.0], [0.0])


@given(st.lists(_TIMES, min_size=1), st.floats(min_value=0.001, max_value=1))
def test_a_percentile_is_the_first_value_that_enough_do_not_exceed(
    values: list[int], fraction: float
) -> None:
    ordered = sorted(values)
    found = stats.percentile(ordered, fraction)
    assert found in ordered
    wanted = round(fraction * len(ordered), 6)
    assert sum(value <= found for value in ordered) >= wanted
    assert sum(value < found for value in ordered) < wanted


@pytest.mark.parametrize("count", [1_000, 2_000, 10_000])
def test_p999_leaves_one_in_a_thousand_above_it(count: int) -> None:
    values = list(range(count))
    assert stats.percentile(values, 0.999) == count - count // 1_000 - 1


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1])
def test_no_percentile_outside_of_the_values(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        stats.percentile([1], fraction)


@given(st.lists(_TIMES, min_size=1))
def test_latencies_are_in_order_and_in_milliseconds(nanoseconds: list[int]) -> None:
    found = stats.latency(nanoseconds)
    assert found.p50_ms <= found.p99_ms <= found.p999_ms <= found.max_ms
    assert found.max_ms == max(nanoseconds) / 1e6
    assert found.samples == len(nanoseconds)


@given(_TIMES, st.floats(min_value=0.1, max_value=1e5), st.integers(1, 10_000))
def test_a_schedule_keeps_its_rate_and_never_goes_back(start: int, rate: float, count: int) -> None:
    times = [stats.intended_ns(start, rate, number) for number in range(min(count, 200))]
    assert times[0] == start
    assert all(one <= other for one, other in itertools.pairwise(times))
    # It does not drift: the last one is where the rate alone puts it.
    assert stats.intended_ns(start, rate, count) - start == pytest.approx(count * 1e9 / rate, abs=1)


def test_a_stall_shows_in_all_that_it_kept_waiting() -> None:
    """One second of standstill at 1,000/s is a thousand late messages, and not a single one."""
    rate, stall_ns = 1_000.0, 1_000_000_000
    taken = []
    for number in range(10_000):
        intended = stats.intended_ns(0, rate, number)
        # Everything meant for the first second can only be sent at its end.
        sent = max(intended, stall_ns)
        taken.append(sent - intended + 1_000)
    found = stats.latency(taken)
    assert found.p50_ms < 0.01
    assert found.p99_ms > 890


def test_a_rate_is_above_zero() -> None:
    with pytest.raises(ValueError, match="rate"):
        stats.intended_ns(0, 0, 1)
