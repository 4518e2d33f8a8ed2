from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.backoff import Jitter, RestartPolicy, delay_s

ALMOST_ONE = 1 - 2**-53

attempts = st.integers(min_value=1, max_value=10**6)
seconds = st.floats(min_value=0.001, max_value=10**6)
fractions = st.floats(min_value=0, max_value=ALMOST_ONE)


@given(attempts, seconds, seconds, fractions, st.sampled_from(["full", "equal"]))
def test_a_delay_is_never_negative_and_never_above_the_cap(
    attempt: int, base_s: float, cap_s: float, fraction: float, jitter: Jitter
) -> None:
    delay = delay_s(attempt, base_s=base_s, cap_s=cap_s, rand=lambda: fraction, jitter=jitter)
    assert 0 <= delay <= cap_s


@given(attempts, seconds, seconds, fractions)
def test_equal_jitter_keeps_half_of_the_longest_delay(
    attempt: int, base_s: float, cap_s: float, fraction: float
) -> None:
    least = delay_s(attempt, base_s=base_s, cap_s=cap_s, rand=lambda: 0.0, jitter="equal")
    most = delay_s(attempt, base_s=base_s, cap_s=cap_s, rand=lambda: ALMOST_ONE, jitter="equal")
    between = delay_s(attempt, base_s=base_s, cap_s=cap_s, rand=lambda: fraction, jitter="equal")
    assert least <= between <= most
    assert least == pytest.approx(most / 2)


def test_full_jitter_may_try_again_at_once() -> None:
    assert delay_s(5, base_s=1, cap_s=60, rand=lambda: 0.0) == 0


def test_the_bound_doubles_from_the_base_up_to_the_cap() -> None:
    bounds = [delay_s(n, base_s=0.5, cap_s=5, rand=lambda: 1.0) for n in range(1, 8)]
    assert bounds == [0.5, 1, 2, 4, 5, 5, 5]


def test_the_bound_never_falls_however_many_attempts() -> None:
    bounds = [delay_s(n, base_s=0.5, cap_s=1e300, rand=lambda: 1.0) for n in range(1, 3000)]
    assert all(earlier <= later for earlier, later in pairwise(bounds))


def test_attempts_count_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        delay_s(0, base_s=1, cap_s=2, rand=lambda: 0.5)


def test_failures_in_a_row_add_up() -> None:
    assert RestartPolicy(healthy_after_s=10).failures(3, ran_s=9.9) == 4


def test_a_healthy_period_makes_the_next_failure_the_first() -> None:
    assert RestartPolicy(healthy_after_s=10).failures(3, ran_s=10) == 1


@given(st.integers(min_value=1, max_value=10**6), fractions)
def test_a_restart_is_never_immediate(failures: int, fraction: float) -> None:
    policy = RestartPolicy(base_s=0.2, cap_s=30)
    assert 0.1 <= policy.delay_s(failures, lambda: fraction) <= 30
