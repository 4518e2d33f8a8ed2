"""A breaker lets one trial through at a time, is never stuck, and never waits for ever."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from interlock import breaker
from interlock.breaker import CLOSED, PRESETS, BreakerPolicy, BreakerState, Result, Ticket

POLICY = BreakerPolicy()


def middle() -> float:
    return 0.5


def opened(policy: BreakerPolicy = POLICY, now: float = 0.0) -> BreakerState:
    state = CLOSED
    for _ in range(policy.failures):
        state = fail(policy, state, now)
    assert state.standing == "open"
    return state


def fail(policy: BreakerPolicy, state: BreakerState, now: float) -> BreakerState:
    asked = breaker.ask(policy, state, now)
    assert asked.ticket is not None
    return breaker.record(policy, asked.state, asked.ticket, "failure", now, middle)


def test_five_failures_in_a_row_open_it_and_the_first_wait_is_the_base() -> None:
    state = opened()
    assert breaker.ask(POLICY, state, 9.9).ticket is None
    asked = breaker.ask(POLICY, state, 10.0)
    assert asked.ticket is not None
    assert asked.ticket.trial


def test_a_success_between_failures_begins_the_count_anew() -> None:
    state = CLOSED
    for _ in range(4):
        state = fail(POLICY, state, 0.0)
    state = breaker.record(POLICY, state, Ticket(0, False), "success", 0.0, middle)
    for _ in range(4):
        state = fail(POLICY, state, 0.0)
    assert state.standing == "closed"


def test_failures_far_apart_are_not_in_a_row() -> None:
    state = CLOSED
    for number in range(20):
        state = fail(POLICY, state, number * (POLICY.window_s + 1))
    assert state.standing == "closed"


def test_waits_double_up_to_the_cap() -> None:
    state, now, waits = opened(), 0.0, []
    for _ in range(8):
        waits.append(state.until - now)
        now = state.until
        state = fail(POLICY, state, now)
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]


def test_the_level_is_lost_by_having_been_closed() -> None:
    state = opened()
    for _ in range(2):
        state = fail(POLICY, state, state.until)
    asked = breaker.ask(POLICY, state, state.until)
    assert asked.ticket is not None
    now = state.until
    state = breaker.record(POLICY, asked.state, asked.ticket, "success", now, middle)
    levels = [breaker.level_at(POLICY, state, now + n * POLICY.decay_s) for n in range(5)]
    assert levels == [3, 2, 1, 0, 0]


def test_one_trial_at_a_time_and_it_expires() -> None:
    asked = breaker.ask(POLICY, opened(), 10.0)
    assert asked.ticket is not None
    again = breaker.ask(POLICY, asked.state, 11.0)
    assert again.ticket is None
    assert again.retry_after_s == POLICY.trial_s - 1
    later = breaker.ask(POLICY, again.state, 10.0 + POLICY.trial_s)
    assert later.ticket is not None
    late = breaker.record(POLICY, later.state, asked.ticket, "failure", 75.0, middle)
    assert late == later.state, "what became of the first trial says nothing any more"


def test_a_cancelled_trial_leaves_the_next_to_be_made_at_once() -> None:
    asked = breaker.ask(POLICY, opened(), 10.0)
    assert asked.ticket is not None
    state = breaker.record(POLICY, asked.state, asked.ticket, "neutral", 12.0, middle)
    assert state.standing == "open"
    assert breaker.ask(POLICY, state, 12.0).ticket is not None


def test_an_open_breaker_that_nobody_asks_is_forgotten() -> None:
    state = opened()
    asked = breaker.ask(POLICY, state, state.until + POLICY.expires_s)
    assert asked.state.standing == "closed"
    assert asked.ticket is not None
    assert not asked.ticket.trial


def test_a_success_from_before_it_opened_does_not_close_it() -> None:
    early = breaker.ask(POLICY, CLOSED, 0.0).ticket
    assert early is not None
    state = opened()
    assert breaker.record(POLICY, state, early, "success", 1.0, middle) is state


@pytest.mark.parametrize(
    "wrong",
    [
        {"failures": 0},
        {"base_s": 0},
        {"base_s": 20, "cap_s": 10},
        {"cap_s": math.inf},
        {"jitter": 1},
        {"trial_s": -1},
        {"window_s": math.nan},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        BreakerPolicy(**wrong)


@given(level=st.integers(-5, 5_000), draw=st.floats(0, 1, exclude_max=True))
def test_every_wait_is_bounded(level: int, draw: float) -> None:
    for policy in PRESETS.values():
        wait = policy.wait_s(level, lambda: draw)
        assert policy.base_s * (1 - policy.jitter) <= wait <= breaker.longest_wait_s(policy)


class Calls(RuleBasedStateMachine):
    """Callers of one breaker that come, report, are cancelled or vanish, at any time."""

    policy = BreakerPolicy(
        failures=2, base_s=1, cap_s=8, trial_s=5, decay_s=20, expires_s=30, window_s=10
    )

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.state = CLOSED
        self.out: list[tuple[Ticket, float]] = []

    def trials(self) -> list[Ticket]:
        return [
            ticket
            for ticket, at in self.out
            if ticket.trial and self.now < at + self.policy.trial_s
        ]

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.floats(0, 1_000))
    def the_clock_is_set_back(self, seconds: float) -> None:
        self.now -= seconds
        self.out = [(ticket, min(at, self.now)) for ticket, at in self.out]

    @rule()
    def somebody_asks(self) -> None:
        trials = self.trials()
        asked = breaker.ask(self.policy, self.state, self.now)
        self.state = asked.state
        if asked.ticket is None:
            assert asked.retry_after_s > 0
            assert asked.retry_after_s <= max(
                breaker.longest_wait_s(self.policy), self.policy.trial_s
            )
            return
        if asked.ticket.trial:
            assert not trials, "two trials at once"
        self.out.append((asked.ticket, self.now))

    @precondition(lambda self: self.out)
    @rule(
        which=st.integers(0, 100),
        result=st.sampled_from(["success", "failure", "neutral"]),
        draw=st.floats(0, 1, exclude_max=True),
    )
    def somebody_reports(self, which: int, result: Result, draw: float) -> None:
        ticket, _ = self.out.pop(which % len(self.out))
        before = self.state
        self.state = breaker.record(self.policy, before, ticket, result, self.now, lambda: draw)
        if result == "success" and before.standing == "half_open" and self.state != before:
            assert self.state.standing == "closed"

    @precondition(lambda self: self.out)
    @rule()
    def somebody_vanishes(self) -> None:
        self.out.pop()

    @invariant()
    def it_is_never_stuck(self) -> None:
        longest = max(breaker.longest_wait_s(self.policy), self.policy.trial_s)
        asked = breaker.ask(self.policy, self.state, self.now)
        later = breaker.ask(self.policy, asked.state, self.now + longest)
        assert asked.ticket is not None or later.ticket is not None

    @invariant()
    def a_success_always_ends_it(self) -> None:
        longest = max(breaker.longest_wait_s(self.policy), self.policy.trial_s)
        now = self.now + longest
        asked = breaker.ask(self.policy, breaker.ask(self.policy, self.state, self.now).state, now)
        if asked.ticket is None:
            return
        after = breaker.record(self.policy, asked.state, asked.ticket, "success", now, middle)
        assert after.standing == "closed"


Calls.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCalls = Calls.TestCase
