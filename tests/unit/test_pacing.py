"""A rate holds, whoever takes and however much at once, and is shared fairly."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.artifacts.pacing import Bucket, Pacer

RATES = st.floats(min_value=1.0, max_value=1e10)


@given(
    rate=RATES,
    steps=st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 5)), min_size=1, max_size=60),
)
def test_no_more_passes_than_the_rate_allows_within_any_time(
    rate: float, steps: list[tuple[int, float]]
) -> None:
    bucket = Bucket(rate, 0.0, 0.0)
    now = 0.0
    passed: list[tuple[float, int]] = []
    for wanted, pause in steps:
        now += pause
        now += bucket.wait_s(now)
        part = min(wanted, bucket.part)
        bucket = bucket.taken(part, now)
        passed.append((now, part))
    burst = 0.05 * rate + Bucket(rate, 0.0, 0.0).part
    for at, (begin, _) in enumerate(passed):
        total = 0
        for when, part in passed[at:]:
            total += part
            assert total <= (rate * (when - begin) + burst) * (1 + 1e-6) + 1


@given(rate=RATES, count=st.integers(1, 1 << 20), now=st.floats(0, 1e6))
def test_who_waits_as_long_as_told_may_pass(rate: float, count: int, now: float) -> None:
    bucket = Bucket(rate, 0.0, now).taken(count, now)
    later = now + bucket.wait_s(now) * (1 + 1e-9) + 1e-9
    assert bucket.wait_s(later) == pytest.approx(0.0, abs=1e-6 + later * 1e-9)


@given(rate=RATES, other=RATES, count=st.integers(1, 1 << 20))
def test_a_new_rate_neither_forgives_nor_adds_to_what_was_taken(
    rate: float, other: float, count: int
) -> None:
    bucket = Bucket(rate, 0.0, 0.0).taken(count, 0.0).at_rate(other, 0.0)
    assert bucket.tokens == -count
    assert bucket.rate == other


@given(rate=RATES)
def test_a_clock_that_goes_back_gives_nothing(rate: float) -> None:
    bucket = Bucket(rate, 0.0, 100.0).taken(1_000, 100.0)
    assert bucket.level(50.0) == bucket.level(100.0)


def taking(
    pacer: Pacer, part: int, cancelled: threading.Event
) -> tuple[threading.Thread, list[int]]:
    taken = [0]

    def run() -> None:
        while not cancelled.is_set():
            pacer.take(part, cancelled)
            if not cancelled.is_set():
                taken[0] += part

    thread = threading.Thread(target=run)
    thread.start()
    return thread, taken


def test_three_at_once_stay_below_the_limit_of_the_node_and_share_it() -> None:
    rate = 20e6
    node = Pacer(rate)
    cancelled = threading.Event()
    begun = time.monotonic()
    takers = [taking(Pacer(None, node), part, cancelled) for part in (1 << 20, 1 << 20, 64 * 1024)]
    cancelled.wait(0.8)
    cancelled.set()
    for thread, _ in takers:
        thread.join()
    took = time.monotonic() - begun
    counts = [taken[0] for _, taken in takers]
    assert sum(counts) <= rate * (took + 0.1) + 3 * (1 << 20)
    assert min(counts) * 6 >= sum(counts)


def test_a_slow_source_does_not_hold_up_the_others() -> None:
    node = Pacer(50e6)
    slow = Pacer(1_000, node)
    cancelled = threading.Event()
    stuck, _ = taking(slow, 1 << 20, cancelled)
    quick = Pacer(None, node)
    quick.take(1 << 20, threading.Event())
    cancelled.set()
    stuck.join()


def test_no_limit_means_no_waiting() -> None:
    pacer = Pacer()
    pacer.take(1 << 50, threading.Event())
    assert pacer.rate is None
    assert pacer.tightest is None
    assert Pacer(5e6, Pacer(3e6)).tightest == 3e6


def test_who_waits_profits_from_a_new_rate() -> None:
    pacer = Pacer(1.0)
    thread = threading.Thread(target=pacer.take, args=(1 << 20, threading.Event()))
    thread.start()
    pacer.set_rate(None)
    thread.join(20)
    assert not thread.is_alive()


def test_cancelled_it_returns() -> None:
    pacer = Pacer(1.0)
    cancelled = threading.Event()
    threads = [threading.Thread(target=pacer.take, args=(1 << 20, cancelled)) for _ in range(3)]
    for thread in threads:
        thread.start()
    cancelled.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_is_above_zero(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Pacer(rate)
