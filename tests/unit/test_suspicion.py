"""Whether a node is healthy, suspect or lost: it is asked first, and lost on evidence alone."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock_health_monitor.attention import Attention, Climate
from interlock_health_monitor.suspicion import (
    PRESETS,
    Facts,
    Policy,
    Probed,
    Transition,
    asks,
    judge,
    patience_s,
)
from interlock_schemas.health import Symptom

POLICY = Policy()
STEP_S = 0.15
NEGATIVE = ("suspect", "lost", "degraded")

Answer = Callable[[float], Probed]


def gone(_: float) -> Probed:
    return "gone"


def silent(_: float) -> Probed:
    return "silent"


def answered(_: float) -> Probed:
    return "answered"


class Course:
    """A monitor with one node, in steps of attentive time."""

    def __init__(self, policy: Policy = POLICY, **facts: Any) -> None:
        self.policy = policy
        self.facts = Facts("n1", now_s=0.0, **facts)
        self.at = 0.0
        self.climate: dict[str, Any] = {}
        self.told: list[tuple[float, Transition]] = []
        self.asked = 0
        self._waiting: tuple[float, Probed] | None = None

    @property
    def states(self) -> list[str]:
        return [each.state for _, each in self.told]

    def judge(self) -> None:
        found = judge(self.facts, Climate(now_s=self.at, **self.climate), self.policy)
        if found is not None:
            self.facts.entered(found, self.at)
            self.told.append((self.at, found))

    def steps(self, lasts_s: float, answer: Answer = silent) -> "Course":
        """Time passes, and questions are answered so. One is under way at a time."""
        until = self.at + lasts_s
        while self.at < until - 1e-9:
            self.at += STEP_S
            if self._waiting is not None and self._waiting[0] <= self.at:
                outcome = self._waiting[1]
                self._waiting = None
                self.facts.probed(outcome, self.at, self.policy)
            if asks(self.facts, self.at, self.policy) and self._waiting is None:
                self.asked += 1
                self.facts.last_asked_s = self.at
                outcome = answer(self.at)
                late = self.policy.ask_timeout_s if outcome == "silent" else 0.01
                self._waiting = (self.at + late, outcome)
            self.judge()
        return self

    def beats(self, count: int, gap_s: float = 1.0, answer: Answer = answered) -> "Course":
        for _ in range(count):
            self.facts.beat(self.at, self.policy)
            self.judge()
            self.steps(gap_s, answer)
        return self

    def beat(self) -> "Course":
        self.facts.beat(self.at, self.policy)
        self.judge()
        return self

    def back(self) -> "Course":
        """From now on it is as it was before anything was told."""
        self.told.clear()
        self.asked = 0
        return self


def beating(count: int = 20, **facts: Any) -> Course:
    return Course(**facts).beats(count).back()


# In its rhythm


def test_one_that_beats_is_healthy_and_is_never_asked() -> None:
    course = Course().beats(50)
    assert course.states == ["healthy"]
    assert course.asked == 0


def test_one_that_was_never_heard_of_stays_unknown() -> None:
    course = Course().steps(100, gone)
    assert course.states == []
    assert course.facts.state == "unknown"


def test_a_late_beat_is_asked_about_and_nothing_is_told() -> None:
    course = beating().beat().steps(2.1, answered).beat()
    assert course.asked >= 1
    assert course.told == []


def test_one_unanswered_question_is_no_suspicion() -> None:
    answers = iter(["silent"])
    course = beating().beat().steps(4.0, lambda _: next(answers, "answered"))  # type: ignore[arg-type]
    assert course.told == []


def test_answers_are_no_part_of_its_rhythm() -> None:
    course = beating(50)
    before = course.facts.rhythm.mean_s
    course.beat().steps(2.1, answered).beat()
    assert course.facts.rhythm.mean_s >= before


# Lost


def test_one_whose_connection_is_gone_is_suspect_and_then_lost() -> None:
    course = beating().beat().steps(3.0, gone)
    assert course.states == ["suspect", "lost"]
    assert course.told[-1][1].reason == "agent_gone"


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.7, 1.3), min_size=6, max_size=60), st.floats(0, STEP_S))
def test_a_killed_agent_is_lost_soon_after_its_last_beat(gaps: list[float], within: float) -> None:
    course = Course()
    for gap in gaps:
        course.beats(1, gap)
    course.back()
    course.at += within
    last = course.at
    course.beat().steps(10.0, gone)
    lost = next(at for at, each in course.told if each.state == "lost")
    assert lost - last <= 2.6 + STEP_S


def test_one_that_is_connected_and_silent_is_lost_after_what_is_tolerated() -> None:
    course = beating().beat()
    last = course.at
    course.steps(20, silent)
    assert course.states == ["suspect", "lost"]
    at, told = course.told[-1]
    assert POLICY.tolerance_s <= at - last <= POLICY.tolerance_s + 2 * STEP_S
    assert told.reason == "silent"


def test_one_whose_lease_ran_out_needs_no_further_proof() -> None:
    course = beating().beat()
    course.facts.lease = "ended"
    last = course.at
    course.steps(20, silent)
    at, told = course.told[-1]
    assert told.reason == "lease_ended"
    assert at - last < POLICY.tolerance_s


def test_one_that_never_answers_is_judged_by_its_silence() -> None:
    """A worker in another language may beat and know no questions."""
    course = Course()
    course.facts.answers = False
    course.beats(20, answer=gone).back()
    course.beat().steps(30, gone)
    assert course.asked == 0
    assert course.states == ["suspect", "lost"]
    assert course.told[-1][0] - course.told[0][0] > 5


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_one_that_beats_or_answers_within_its_tolerance_is_never_lost(data: st.DataObject) -> None:
    course = beating().beat()
    for _ in range(data.draw(st.integers(1, 8))):
        quiet = data.draw(st.floats(0.1, POLICY.tolerance_s - 2 * STEP_S))
        course.steps(quiet, silent)
        if data.draw(st.booleans()):
            course.beat()
        else:
            course.facts.answered(course.at, course.policy)
            course.judge()
    assert "lost" not in course.states


@pytest.mark.parametrize("interval", [0.5, 5.0, 60.0])
def test_all_is_in_proportion_to_its_own_interval(interval: float) -> None:
    course = Course(interval_s=interval).beats(10, interval).back()
    course.beat().steps(1.9 * interval, gone)
    assert "lost" not in course.states
    course.steps(1.5 * interval, gone)
    assert course.states == ["suspect", "lost"]


def test_one_that_has_slowed_down_is_given_more_time() -> None:
    course = beating().beats(100, 5.0).back()
    assert course.facts.rhythm.pace_s > 3
    course.beat().steps(9.0, silent)
    assert "lost" not in course.states


# The monitor's own fault, and common causes


def test_a_monitor_that_does_badly_itself_is_more_patient() -> None:
    course = beating()
    course.climate = {"score": 3}
    last = course.beat().at
    course.steps(60, gone)
    lost = course.told[-1][0] - last
    assert lost >= POLICY.gone_floor * 4


@pytest.mark.parametrize("climate", [{"crowd": True}, {"settling": True}])
def test_where_several_went_quiet_nobody_is_lost_quickly(climate: dict[str, Any]) -> None:
    course = beating()
    course.climate = climate
    last = course.beat().at
    course.steps(60, gone)
    assert course.told[-1][1].state == "lost"
    assert course.told[-1][0] - last >= POLICY.crowd_tolerance_s


def test_nobody_is_suspected_while_agents_come_back_with_the_monitor() -> None:
    course = beating()
    course.climate = {"settling": True}
    course.beat().steps(6.0, gone).beat()
    assert course.told == []


@pytest.mark.parametrize("where", ["z", "*"])
def test_in_a_disruption_nobody_is_lost_for_long(where: str) -> None:
    course = beating(zone="z")
    course.climate = {"disrupted": frozenset({where})}
    last = course.beat().at
    course.steps(POLICY.disruption_hold_s + 10, gone)
    assert course.states == ["suspect", "lost"]
    assert course.told[-1][0] - last >= POLICY.disruption_hold_s


def test_a_disruption_elsewhere_does_not_matter() -> None:
    course = beating(zone="z")
    course.climate = {"disrupted": frozenset({"other"})}
    assert course.beat().steps(3.0, gone).states == ["suspect", "lost"]


@settings(deadline=None, max_examples=25)
@given(st.floats(0.2, 1e9), st.floats(0, 1.0), st.floats(0, 5.0))
def test_a_monitor_that_was_stopped_suspects_nobody(
    stopped_s: float, since_beat_s: float, back_s: float
) -> None:
    """However long it was stopped, and though agents need some seconds to connect again."""
    course = beating().beat()
    attention = Attention(0.0)
    attention.echoed(60.0, 60.0)
    start = attention.now_s
    wall = 60.0 + since_beat_s
    began = course.at
    until = wall + stopped_s + back_s
    wall += stopped_s
    while wall < until:
        attention.echoed(wall, wall + 0.01)
        now = Climate(now_s=began + since_beat_s + attention.now_s - start, settling=True)
        assert attention.settling or stopped_s < 2
        if asks(course.facts, now.now_s, POLICY):
            course.facts.last_asked_s = now.now_s
            course.facts.probed("gone", now.now_s, POLICY)
        assert judge(course.facts, now, POLICY) is None
        wall += STEP_S


# SSH


def test_one_with_ssh_is_not_lost_before_it_was_looked_at() -> None:
    course = beating(ssh=True).beat().steps(4.0, gone)
    assert course.states == ["suspect"]
    course.facts.looked("unreachable", course.at)
    course.judge()
    assert course.states == ["suspect", "lost"]
    assert ("ssh", "over SSH: unreachable") in course.told[-1][1].evidence


def test_a_look_that_takes_too_long_is_not_waited_for() -> None:
    course = beating(ssh=True).beat().steps(POLICY.ssh_patience_s + 4, gone)
    assert course.states == ["suspect", "lost"]


def test_where_the_host_answers_only_the_agent_is_gone() -> None:
    course = beating(ssh=True).beat().steps(4.0, gone)
    course.facts.looked("alive", course.at)
    course.steps(100, gone)
    assert course.states == ["suspect", "degraded"]
    assert course.told[-1][1].reason == "agent_gone"


def test_also_where_it_counted_as_lost_already() -> None:
    course = beating(ssh=True).beat().steps(20, gone)
    course.facts.looked("alive", course.at)
    course.judge()
    assert course.states == ["suspect", "lost", "degraded"]


def test_a_host_that_answered_and_then_goes_too_is_lost_after_all() -> None:
    course = beating(ssh=True).beat().steps(4.0, gone)
    course.facts.looked("alive", course.at)
    course.steps(5, gone)
    course.facts.looked("unreachable", course.at)
    course.steps(5, gone)
    assert course.states == ["suspect", "degraded", "suspect", "lost"]


def test_without_an_agent_only_looks_count_and_one_is_not_enough() -> None:
    course = Course(agent=False, ssh=True)
    course.facts.looked("alive", 0.0)
    course.steps(100)
    for _ in range(POLICY.ssh_failures):
        course.facts.looked("unreachable", course.at)
        course.steps(30)
    assert course.states == ["healthy", "suspect", "lost"]
    assert course.asked == 0


def test_a_look_that_itself_failed_says_nothing() -> None:
    course = Course(agent=False, ssh=True)
    course.facts.looked("alive", 0.0)
    course.steps(1)
    for _ in range(20):
        course.facts.looked("unclear", course.at)
        course.steps(30)
    assert course.states == ["healthy", "unknown"]


# Coming back, leaving


def test_one_that_comes_back_has_to_prove_itself() -> None:
    course = beating().beat().steps(5, gone)
    back = course.at
    course.beats(10)
    assert course.states == ["suspect", "lost", "recovering", "healthy"]
    assert course.told[-1][0] - back >= POLICY.prove_s


def test_the_more_often_it_was_lost_the_longer() -> None:
    course = beating()
    for _ in range(3):
        course.beat().steps(5, gone)
        course.beats(40)
    course.back()
    course.beat().steps(5, gone)
    back = course.at
    course.beats(100)
    assert course.states[-1] == "healthy"
    assert course.told[-1][0] - back >= 8 * POLICY.prove_s


def test_one_that_was_only_suspect_is_well_at_once() -> None:
    course = beating().beat().steps(5, silent).beat()
    assert course.states == ["suspect", "healthy"]


def test_one_that_said_goodbye_is_never_suspected() -> None:
    course = beating().beat()
    course.facts.left = True
    course.steps(100, gone)
    assert course.states == ["retired"]
    assert course.told[0][1].reason == "left"
    assert course.asked == 0


def test_one_that_is_about_to_leave_leaves_when_it_is_gone() -> None:
    course = beating().beat()
    course.facts.leaving = True
    course.steps(100, gone)
    assert course.states == ["retired"]


def test_one_that_is_about_to_leave_is_not_held_for_gone_while_it_only_pauses() -> None:
    course = beating().beat()
    course.facts.leaving = True
    course.steps(6.0, silent).beat()
    assert course.told == []


def test_a_retired_node_is_not_asked_and_not_judged() -> None:
    course = beating()
    course.facts.retired = True
    course.steps(1_000, gone)
    assert course.states == ["retired"]
    assert course.asked == 0


# Symptoms


def full(detail: str = "/data: 96 % used") -> Symptom:
    return Symptom(kind="disk_full", detail=detail, part="/data")


def test_one_that_beats_with_a_symptom_is_degraded() -> None:
    course = beating()
    course.facts.showed((full(),), course.at, POLICY)
    course.beats(3)
    assert course.states == ["degraded"]
    assert course.told[0][1].kinds == (("disk_full", "/data"),)


def test_other_figures_are_no_news_but_other_symptoms_are() -> None:
    course = beating()
    for percent in (96, 97, 98):
        course.facts.showed((full(f"{percent} %"),), course.at, POLICY)
        course.beats(2)
    assert course.states == ["degraded"]
    course.facts.showed((full(), Symptom(kind="gpu_ecc", detail="2", part="3")), course.at, POLICY)
    course.beats(2)
    assert course.states == ["degraded", "degraded"]


def test_a_value_at_its_limit_does_not_flicker() -> None:
    course = beating()
    for turn in range(40):
        course.facts.showed((full(),) if turn % 3 == 0 else (), course.at, POLICY)
        course.beats(2)
    assert course.states == ["degraded"]
    for _ in range(20):
        course.facts.showed((), course.at, POLICY)
        course.beats(1)
    assert course.states == ["degraded", "healthy"]


def test_many_symptoms_fit_in_what_is_told() -> None:
    course = beating()
    many = tuple(Symptom(kind="gpu_fault", detail="x" * 400, part=str(each)) for each in range(64))
    course.facts.showed(many, course.at, POLICY)
    course.beats(1)
    assert len(course.told[0][1].detail) <= 500


# Whatever happens


def test_presets_are_in_order() -> None:
    local, wan = PRESETS["local"], PRESETS["wan"]
    for each in ("ask_ceiling", "ask_timeout_s", "gone_floor", "tolerance_s", "crowd_tolerance_s"):
        assert getattr(wan, each) > getattr(local, each)
    for policy in PRESETS.values():
        assert policy.ask_floor <= policy.ask_ceiling
        assert policy.tolerance_s <= policy.crowd_tolerance_s < policy.disruption_hold_s


@given(st.lists(st.floats(0, 1_000), max_size=100), st.floats(0.05, 3_600))
def test_every_rhythm_is_asked_about_in_time(gaps: list[float], interval: float) -> None:
    facts = Facts("n1", now_s=0.0, interval_s=interval)
    for gap in gaps:
        facts.rhythm.heard(gap)
    patience = patience_s(facts.rhythm, POLICY)
    assert POLICY.ask_floor * interval <= patience
    assert patience <= max(POLICY.ask_ceiling * interval, POLICY.tolerance_s / 2)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0.05, 400)),
        st.tuples(st.just("beat"), st.just(0.0)),
        st.tuples(st.sampled_from(["gone", "silent", "answered"]), st.floats(0, 1)),
        st.tuples(st.sampled_from(["alive", "unreachable", "unclear"]), st.floats(0, 1)),
        st.tuples(st.sampled_from(["ended", "standing"]), st.just(0.0)),
        st.tuples(st.sampled_from(["sick", "well", "leaving", "left", "retired", "unretired"]),
                  st.just(0.0)),
        st.tuples(st.sampled_from(["crowd", "settling", "disrupted", "calm", "slow"]),
                  st.just(0.0)),
    ),
    max_size=60,
)  # fmt: skip


@settings(deadline=None, max_examples=120)
@given(STEPS, st.booleans(), st.booleans(), st.booleans())
def test_no_course_of_events_breaks_the_rules(
    steps: list[tuple[str, float]], agent: bool, ssh: bool, answers: bool
) -> None:
    facts = Facts("n1", now_s=0.0, zone="z", agent=agent, ssh=ssh)
    facts.answers = answers
    climate: dict[str, Any] = {}
    at = 0.0
    for what, value in steps:
        match what:
            case "pass":
                at += value
            case "beat" if agent:
                facts.beat(at, POLICY)
            case "gone" | "silent" | "answered" if agent:
                facts.probed(what, at + value, POLICY)
            case "alive" | "unreachable" | "unclear" if ssh:
                facts.looked(what, at)
            case "ended" | "standing":
                facts.lease = what
            case "sick" | "well":
                facts.showed((full(),) if what == "sick" else (), at, POLICY)
            case "leaving" | "left":
                setattr(facts, what, True)
            case "retired" | "unretired":
                facts.retired = what == "retired"
            case "crowd" | "settling":
                climate[what] = True
            case "disrupted":
                climate[what] = frozenset({"z"})
            case "slow":
                climate["score"] = 8
            case "calm":
                climate = {}
        for _ in range(4):
            now = Climate(now_s=at, **climate)
            found = judge(facts, now, POLICY)
            if found is None:
                break
            before = facts.state
            silence = facts.silence_s(at)
            if found.state == "lost":
                assert before == "suspect"
                assert not facts.left
                assert facts.ssh_found != "alive"
                if agent and now.disrupted:
                    assert silence is not None
                    assert silence >= POLICY.disruption_hold_s
                elif agent and (now.crowd or now.settling):
                    assert silence is not None
                    assert silence >= POLICY.crowd_tolerance_s
            if found.state in NEGATIVE:
                assert found.expires_s is not None
                assert found.expires_s > 0
            if found.state == "healthy":
                assert not facts.symptoms
            assert found.reason
            assert found.detail
            msgspec.json.encode(found.evidence)
            facts.entered(found, at)
            assert judge(facts, now, POLICY) != found
        else:
            pytest.fail("it does not come to rest")
