"""What becomes of a message whose handling failed."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from interlock.redelivery import Dead, Later, RetryPolicy, after_failure, on_delivery
from interlock_schemas.letters import Code

PERMANENT = [code for code in Code if code.failure_class == "permanent"]
TRANSIENT = [code for code in Code if code.failure_class == "exhausted"]

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 50),
    base_s=st.floats(0.001, 100),
    cap_s=st.floats(0.001, 10_000),
    poison_after=st.integers(1, 100),
)
deliveries = st.integers(1, 10**9)
fractions = st.floats(0, 1, exclude_max=True)


@given(policies, deliveries, st.sampled_from(PERMANENT), st.booleans())
def test_a_permanent_failure_is_never_retried(
    policy: RetryPolicy, delivery: int, code: Code, bus_failed: bool
) -> None:
    decided = after_failure(policy, delivery, code, bus_failed=bus_failed, rand=lambda: 0.5)
    assert decided == Dead(code)


@given(policies, deliveries, st.sampled_from(TRANSIENT))
def test_a_failure_of_the_handler_is_retried_up_to_the_limit(
    policy: RetryPolicy, delivery: int, code: Code
) -> None:
    decided = after_failure(policy, delivery, code, rand=lambda: 0.5)
    assert isinstance(decided, Dead) == (delivery >= policy.attempts)
    assert isinstance(decided, Later) or decided.code is code


@given(policies, deliveries, st.sampled_from(TRANSIENT))
def test_a_failure_of_the_bus_is_never_held_against_the_message(
    policy: RetryPolicy, delivery: int, code: Code
) -> None:
    decided = after_failure(policy, delivery, code, bus_failed=True, rand=lambda: 0.5)
    assert isinstance(decided, Later)


@given(policies, deliveries)
def test_a_message_is_poison_beyond_its_limit_and_never_within_its_attempts(
    policy: RetryPolicy, delivery: int
) -> None:
    decided = on_delivery(policy, delivery)
    assert decided == (
        Dead(Code.POISON) if delivery > max(policy.poison_after, policy.attempts) else None
    )


@given(policies, deliveries)
def test_what_is_poison_is_a_dead_letter_at_once(policy: RetryPolicy, delivery: int) -> None:
    assume(on_delivery(policy, delivery) is not None)
    assert after_failure(policy, delivery, Code.POISON, rand=lambda: 0.5) == Dead(Code.POISON)


def pause(policy: RetryPolicy, delivery: int, fraction: float) -> float:
    decided = after_failure(
        policy, delivery, Code.TIMED_OUT, bus_failed=True, rand=lambda: fraction
    )
    assert isinstance(decided, Later)
    return decided.delay_s


@given(policies, deliveries, fractions)
def test_a_pause_is_never_longer_than_the_longest(
    policy: RetryPolicy, delivery: int, fraction: float
) -> None:
    assert 0 <= pause(policy, delivery, fraction) <= policy.cap_s


@given(policies, deliveries, deliveries, fractions)
def test_pauses_grow_with_the_attempts(
    policy: RetryPolicy, one: int, other: int, fraction: float
) -> None:
    earlier, later = sorted((one, other))
    assert pause(policy, earlier, fraction) <= pause(policy, later, fraction)


def test_by_default_five_attempts_within_minutes() -> None:
    policy = RetryPolicy()
    outcomes = [
        after_failure(policy, n, Code.HANDLER_FAILED, rand=lambda: 1.0) for n in range(1, 6)
    ]
    assert outcomes == [Later(0.5), Later(1.0), Later(2.0), Later(4.0), Dead(Code.HANDLER_FAILED)]


@pytest.mark.parametrize("code", Code)
def test_every_code_is_of_one_class(code: Code) -> None:
    assert code.failure_class in {"permanent", "exhausted", "poison"}
