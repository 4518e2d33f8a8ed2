"""When failures are a flood: limits, the shared mark, and what a flood does not cost a message."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.flood import (
    Closed,
    FloodPolicy,
    Follow,
    Mark,
    Open,
    Outcomes,
    Standing,
    on_start,
    on_trip,
    pause_s,
    slack,
)
from interlock.redelivery import Later, RetryPolicy, after_failure, on_delivery
from interlock_schemas.letters import Code

policies = st.builds(
    FloodPolicy,
    ratio=st.floats(0.05, 1),
    least=st.integers(1, 50),
    window_s=st.floats(1, 600),
    consecutive=st.integers(1, 50),
    pause_s=st.floats(0.1, 60),
    cap_s=st.floats(0.1, 3_600),
)
seconds = st.integers(1_600_000_000, 2_000_000_000)
marks = st.builds(Mark, seconds, st.integers(1, 499), st.booleans())


def message(number: int) -> bytes:
    return f"{number}.1".encode()


@given(policies)
def test_a_handler_that_fails_for_everything_reaches_a_limit_within_it(policy: FloodPolicy) -> None:
    outcomes = Outcomes(policy)
    verdicts = [
        outcomes.failed(message(n), 1_000.0) for n in range(max(policy.least, policy.consecutive))
    ]
    assert any(verdicts[: max(policy.least, policy.consecutive)])
    first = next(n for n, verdict in enumerate(verdicts, 1) if verdict)
    assert first <= min(policy.least, policy.consecutive)


@given(policies, st.integers(1, 500), st.floats(0, 10_000))
def test_one_message_is_one_failure_however_often_it_fails(
    policy: FloodPolicy, times: int, now: float
) -> None:
    outcomes = Outcomes(policy)
    for _ in range(times):
        outcomes.failed(message(1), now)
    assert outcomes.counts(now) == (0, 1)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=200))
def test_no_flood_where_few_fail(outcomes: list[tuple[bool, float]]) -> None:
    """Whatever the times: below the ratio and below the run, nothing is paused."""
    policy = FloodPolicy(consecutive=10_000, least=1, window_s=1_000_000, ratio=0.5)
    counted = Outcomes(policy)
    now, failed = 0.0, 0
    for total, (good, pause) in enumerate(outcomes, 1):
        now += pause
        if good:
            counted.handled(1, now)
            assert counted.verdict(now) is None or failed >= total / 2
        else:
            failed += 1
            verdict = counted.failed(message(total), now)
            assert (verdict is not None) == (failed >= total / 2)


def test_outcomes_past_the_window_do_not_count() -> None:
    counted = Outcomes(FloodPolicy(least=10, window_s=60))
    for number in range(9):
        counted.failed(message(number), 0.0)
    assert counted.failed(message(9), 61.0) is None
    assert counted.counts(61.0) == (0, 1)


def test_a_slow_consumer_is_paused_by_failures_in_a_row() -> None:
    counted = Outcomes(FloodPolicy(consecutive=5, window_s=60))
    verdicts = [counted.failed(message(n), n * 100.0) for n in range(5)]
    assert verdicts[:4] == [None] * 4
    assert verdicts[4] == "5 messages in a row failed"


def test_one_success_ends_a_row() -> None:
    counted = Outcomes(FloodPolicy(consecutive=5, window_s=60))
    for number in range(4):
        counted.failed(message(number), number * 100.0)
    counted.handled(1, 450.0)
    assert counted.failed(message(5), 500.0) is None


@given(marks)
def test_what_a_mark_says_is_read_back(mark: Mark) -> None:
    assert Mark.read(mark.write()) == mark


@given(st.datetimes().map(lambda at: at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")))
def test_a_pause_by_somebody_else_is_read_as_such_or_not_at_all(text: str) -> None:
    mark = Mark.read(text)
    assert mark is None or mark.level == 0


@pytest.mark.parametrize("text", [None, "", "0001-01-01T00:00:00Z", "nonsense", "2026-13-01T0Z"])
def test_no_pause_is_no_mark(text: str | None) -> None:
    assert Mark.read(text) is None


@given(policies, st.integers(1, 499))
def test_pauses_grow_up_to_the_longest(policy: FloodPolicy, level: int) -> None:
    this, next = pause_s(policy, level), pause_s(policy, level + 1)
    assert 0 < this <= next <= policy.cap_s


@given(policies, st.one_of(st.none(), marks), st.booleans(), seconds, st.booleans())
def test_a_pause_always_ends(
    policy: FloodPolicy, mark: Mark | None, paused: bool, now: int, probing: bool
) -> None:
    decision = on_trip(policy, Standing(mark, paused), now, probing=probing)
    if isinstance(decision, Open):
        assert now < decision.mark.until_s <= math.ceil(now + policy.cap_s)
        assert not decision.mark.over
        assert decision.first == (decision.mark.level == 1)


@given(policies, marks, seconds)
def test_who_finds_the_consumer_paused_does_not_pause_it_again(
    policy: FloodPolicy, mark: Mark, now: int
) -> None:
    for probing in (False, True):
        decision = on_trip(policy, Standing(mark, paused=True), now, probing=probing)
        assert decision == Follow(mark)


@given(policies, seconds)
def test_a_flood_is_announced_once_while_probes_fail(policy: FloodPolicy, now: int) -> None:
    """Each pause follows the one before, in whichever process: one of them is the first."""
    standing = Standing(None, paused=False)
    firsts = 0
    level = 0
    for probing in [False] + [True] * 20:
        decision = on_trip(policy, standing, now, probing=probing)
        assert isinstance(decision, Open)
        firsts += decision.first
        level = decision.mark.level
        now = decision.mark.until_s
        standing = Standing(decision.mark, paused=False)
        assert on_start(policy, standing, now) == Follow(decision.mark)
    assert firsts == 1
    over = Standing(Mark(now, level, over=True), paused=False)
    assert on_trip(policy, over, now, probing=True) == Closed()
    assert on_start(policy, over, now) == Closed()
    again = on_trip(policy, over, now, probing=False)
    assert isinstance(again, Open)
    assert again.first


@given(policies, seconds)
def test_a_flood_that_was_left_alone_is_forgotten(policy: FloodPolicy, now: int) -> None:
    mark = Mark(now, 7)
    later = now + math.ceil(policy.window_s + policy.cap_s) + 1
    decision = on_trip(policy, Standing(mark, paused=False), later, probing=False)
    assert isinstance(decision, Open)
    assert decision.first
    assert on_start(policy, Standing(mark, paused=False), later) == Closed()


@given(st.integers(1, 10), st.integers(0, 9), st.integers(1, 300), st.integers(5, 40))
def test_a_flood_costs_no_message_its_attempts(
    attempts: int, before: int, pauses: int, poison_after: int
) -> None:
    """Failed before the flood was noticed, once in each pause, and then fixed: all attempts are
    there, and it is no poison."""
    policy = RetryPolicy(attempts=attempts, poison_after=poison_after)
    stored = 1_700_000_000
    spent = min(before, attempts - 1) + pauses
    ended = Mark(stored + 1_000, pauses, over=True)
    excused = slack(ended, attempts, stored)
    for more in range(1, attempts + 1):
        assert on_delivery(policy, spent + more, slack=excused) is None
        decision = after_failure(
            policy, spent + more, Code.HANDLER_FAILED, slack=excused, rand=lambda: 0.5
        )
        if more < attempts:
            assert isinstance(decision, Later)
    assert slack(ended, attempts, stored + 1_001) == 0


@given(st.integers(1, 10**6), st.sampled_from([Code.HANDLER_FAILED, Code.TIMED_OUT]),
       st.floats(0, 400))  # fmt: skip
def test_nothing_becomes_a_letter_while_the_flood_lasts(
    deliveries: int, code: Code, left_s: float
) -> None:
    decision = after_failure(RetryPolicy(), deliveries, code, flood_s=left_s, rand=lambda: 0.5)
    assert isinstance(decision, Later)
    assert decision.delay_s >= left_s


@pytest.mark.parametrize(
    "wrong", [{"ratio": 0}, {"ratio": 1.1}, {"least": 0}, {"consecutive": 0}, {"pause_s": 0}]
)
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FloodPolicy(**wrong)  # type: ignore[arg-type]


@given(policies, seconds)
def test_one_failure_after_a_pause_of_somebody_elses_is_no_flood(
    policy: FloodPolicy, now: int
) -> None:
    for mark in (None, Mark(now - 1, 0), Mark(now - 1, 3, over=True)):
        assert on_trip(policy, Standing(mark, paused=False), now, probing=True) == Closed()
