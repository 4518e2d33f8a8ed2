"""The fleet's figure: its parts, what is not known, hysteresis, and when work pauses."""

import datetime
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_health_monitor.verdict import (
    Assessment,
    FleetFacts,
    NodeFact,
    Verdict,
    VerdictPolicy,
)
from interlock_schemas.cluster import ClusterHealthChanged, WorkPaused, WorkResumed
from interlock_schemas.health import PRESSURE_LEVELS, STATES, ClusterHealth, State

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def after(seconds: float) -> datetime.datetime:
    return NOW + datetime.timedelta(seconds=seconds)


def nodes(**states: int) -> tuple[NodeFact, ...]:
    number = itertools.count()
    return tuple(
        NodeFact(name=f"n{next(number)}", state=msgspec.convert(state, State))
        for state, count in states.items()
        for _ in range(count)
    )


def facts(*each: NodeFact, **more: object) -> FleetFacts:
    return msgspec.structs.replace(FleetFacts(nodes=each), **more)


def judge(*each: NodeFact, verdict: Verdict | None = None, at_s: float = 0.0) -> Assessment:
    return (verdict or Verdict()).assess(facts(*each), after(at_s))


def test_a_healthy_fleet_is_at_100_and_says_of_what() -> None:
    found = judge(*nodes(healthy=4))
    assert (found.health.level, found.health.score, found.health.paused) == ("healthy", 100, False)
    assert {part.name: part.weight for part in found.health.parts} == {
        "nodes": 1.0, "work": 0.0, "progress": 0.0, "resources": 0.0, "monitor": 0.0
    }  # fmt: skip
    assert [part.score for part in found.health.parts[1:]] == [None] * 4
    (event,) = found.events
    assert isinstance(event, ClusterHealthChanged)
    assert (event.level, event.previous_level) == ("healthy", "unknown")
    assert judge(*nodes(healthy=4), verdict=found.verdict).events == ()


@pytest.mark.parametrize(
    "there",
    [
        (),
        nodes(unknown=3),
        nodes(retired=2),
        nodes(unknown=2, healthy=1),
        (NodeFact(name="a", state="lost", in_state_s=1_000, described=False),),
    ],
)
def test_where_too_little_is_known_there_is_no_figure(there: tuple[NodeFact, ...]) -> None:
    found = judge(*there)
    assert (found.health.level, found.health.score) == ("unknown", None)
    assert found.health.reason
    assert not found.health.paused
    assert found.events == ()


def test_a_monitor_that_does_not_trust_itself_gives_no_figure() -> None:
    doubts = facts(*nodes(healthy=4), confidence=0.1, confidence_detail="its loop lags")
    found = Verdict().assess(doubts, NOW).health
    assert (found.level, found.score) == ("unknown", None)
    assert "its loop lags" in found.reason


def test_each_part_counts_by_its_weight() -> None:
    sick = NodeFact(
        name="b", state="degraded", workers=2, progressing=False, failures=10, pressure="critical"
    )
    well = NodeFact(
        name="a", state="healthy", workers=2, progressing=True, successes=30, pressure="none"
    )
    found = Verdict().assess(facts(well, sick, confidence=1.0), NOW).health
    assert {part.name: (round(part.weight, 9), part.score) for part in found.parts} == {
        "nodes": (0.4, 75),
        "work": (0.25, 75),
        "progress": (0.15, 50),
        "resources": (0.1, 50),
        "monitor": (0.1, 100),
    }
    assert found.score == pytest.approx(0.4 * 75 + 0.25 * 75 + 0.15 * 50 + 5 + 10)
    assert found.reason.startswith("nodes:")


def test_who_is_gone_for_good_is_not_in_the_denominator() -> None:
    well = nodes(healthy=3)
    for gone in (
        NodeFact(name="x", state="retired"),
        NodeFact(name="x", state="lost", in_state_s=1_000, described=False),
        NodeFact(name="x", state="lost", in_state_s=1_000, price_class="spot"),
        NodeFact(name="x", state="lost", in_state_s=5, leaving=True),
    ):
        assert judge(*well, gone).health.score == 100, gone
    for missed in (
        NodeFact(name="x", state="lost", in_state_s=1_000, price_class="owned"),
        NodeFact(name="x", state="lost", in_state_s=5, price_class="spot"),
    ):
        assert judge(*well, missed).health.score == 75, missed
        assert judge(*well, missed).health.nodes == {"healthy": 3, "lost": 1}


def test_a_level_is_left_upwards_only_some_way_above() -> None:
    def at(score: float, verdict: Verdict | None) -> Assessment:
        there = (
            NodeFact(name="a", state="healthy", weight=score),
            NodeFact(name="b", state="lost", weight=100 - score),
        )
        found = judge(*there, verdict=verdict)
        assert found.health.score == pytest.approx(score)
        return found

    verdict: Verdict | None = None
    for score, level in (
        (81, "healthy"), (79, "degraded"), (84, "degraded"), (86, "healthy"),
        (49, "critical"), (54, "critical"), (56, "degraded"), (48, "critical"), (99, "healthy"),
    ):  # fmt: skip
        found = at(score, verdict)
        assert found.health.level == level, score
        verdict = found.verdict


def test_work_pauses_at_once_and_resumes_late() -> None:
    bad, fair, well = nodes(lost=4, healthy=1), nodes(lost=2, healthy=3), nodes(healthy=5)
    down = judge(*bad)
    assert down.health.paused
    assert isinstance(down.events[-1], WorkPaused)
    early = judge(*well, verdict=down.verdict, at_s=60)
    assert early.health.paused
    assert early.health.paused_since == down.health.paused_since
    still = judge(*nodes(lost=9, degraded=9, healthy=9), verdict=early.verdict, at_s=200)
    assert still.health.score == pytest.approx(50)
    assert still.health.paused
    up = judge(*fair, verdict=still.verdict, at_s=300)
    assert not up.health.paused
    resumed = up.events[-1]
    assert isinstance(resumed, WorkResumed)
    assert resumed.paused_s == 300


@pytest.mark.parametrize(
    ("there", "why"),
    [
        (nodes(suspect=1, lost=1, healthy=2), "2 of 4 nodes are suspect or lost"),
        (
            (NodeFact(name="a", state="healthy", failures=18, successes=2), *nodes(healthy=9)),
            "18 of 20 pieces of work failed",
        ),
    ],
)
def test_work_pauses_whatever_the_figure(there: tuple[NodeFact, ...], why: str) -> None:
    found = judge(*there)
    assert found.health.paused
    assert why in found.health.reason


def test_a_pause_of_which_nothing_is_known_ends() -> None:
    down = judge(*nodes(lost=5))
    dark = judge(verdict=down.verdict, at_s=100)
    assert (dark.health.level, dark.health.paused) == ("unknown", True)
    still = judge(verdict=dark.verdict, at_s=600)
    assert still.health.paused
    over = judge(verdict=still.verdict, at_s=700)
    assert not over.health.paused
    assert isinstance(over.events[-1], WorkResumed)


def test_hysteresis_outlasts_a_moment_without_a_figure() -> None:
    down = judge(*nodes(healthy=3, lost=1))
    assert down.health.level == "degraded"
    dark = judge(verdict=down.verdict, at_s=1)
    back = judge(*nodes(healthy=41, lost=9), verdict=dark.verdict, at_s=2)
    assert back.health.score == pytest.approx(82)
    assert back.health.level == "degraded"


def test_another_monitor_goes_on_where_one_left_off() -> None:
    down = judge(*nodes(lost=4, healthy=1))
    stored = msgspec.json.decode(msgspec.json.encode(down.health), type=ClusterHealth)
    other = Verdict.resumed(stored, after(100))
    assert (other.level, other.paused_since) == (down.verdict.level, NOW)
    found = judge(*nodes(healthy=5), verdict=other, at_s=130)
    assert not found.health.paused
    assert found.health.level == "healthy"
    old = msgspec.structs.replace(stored, paused_since="")
    assert Verdict.resumed(old, after(100)).paused_since == after(100)


def test_a_verdict_expires() -> None:
    health = judge(*nodes(healthy=1)).health
    assert (health.at, health.expires_at) == (
        "2026-03-01T12:00:00.000000Z",
        "2026-03-01T12:00:30.000000Z",
    )


node_facts = st.builds(
    NodeFact,
    name=st.text("abc", min_size=1, max_size=3),
    state=st.sampled_from(STATES),
    in_state_s=st.floats(0, 10_000),
    described=st.booleans(),
    price_class=st.sampled_from(["owned", "spot", "on_demand"]),
    weight=st.floats(0, 16),
    leaving=st.booleans(),
    workers=st.none() | st.integers(0, 9),
    progressing=st.none() | st.booleans(),
    failures=st.integers(0, 50),
    successes=st.integers(0, 50),
    pressure=st.none() | st.sampled_from(PRESSURE_LEVELS),
)
fleets = st.builds(
    FleetFacts,
    nodes=st.lists(node_facts, max_size=12).map(tuple),
    confidence=st.none() | st.floats(0, 1),
)


@given(st.lists(st.tuples(fleets, st.floats(0, 900)), min_size=1, max_size=8))
def test_whatever_happens_the_figure_is_explained(
    course: list[tuple[FleetFacts, float]],
) -> None:
    verdict, now, policy = Verdict(), NOW, VerdictPolicy()
    for each, pause_s in course:
        now += datetime.timedelta(seconds=pause_s)
        was = verdict
        found = verdict.assess(each, now, policy)
        health, verdict = found.health, found.verdict
        assert msgspec.json.decode(msgspec.json.encode(health), type=ClusterHealth) == health
        known = [part for part in health.parts if part.score is not None]
        assert (health.score is None) == (health.level == "unknown")
        if health.score is not None:
            assert 0 <= health.score <= 100
            assert sum(part.weight for part in known) == pytest.approx(1)
        assert all(part.weight == 0 for part in health.parts if part.score is None)
        assert all(part.detail for part in health.parts)
        changes = [event for event in found.events if isinstance(event, ClusterHealthChanged)]
        assert len(changes) == (was.level != health.level)
        pauses = [event for event in found.events if not isinstance(event, ClusterHealthChanged)]
        assert len(pauses) == ((was.paused_since is None) == health.paused)
        if was.paused_since is not None and not health.paused and health.score is not None:
            assert health.score >= policy.resume
            assert (now - was.paused_since).total_seconds() >= policy.paused_s


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 5))
def test_one_more_healthy_node_never_lowers_the_figure(well: int, sick: int, more: int) -> None:
    before = judge(*nodes(healthy=well, lost=sick)).health.score
    later = judge(*nodes(healthy=well + more, lost=sick)).health.score
    assert later is not None
    assert before is None or later >= before
