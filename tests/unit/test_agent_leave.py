"""How long a node that leaves waits for its workers, and who may have its lease."""

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock_node_agent import leave
from interlock_node_agent.lease import judge, refusal
from interlock_schemas.nodes import Member

MINE = "mine"
OTHER = Member(node="n1", instance="other", host="h2", since="2026-01-01T00:00:00Z")


def test_with_nobody_at_work_it_goes_at_once() -> None:
    going = leave.begin("sigterm", 100.0, grace_s=20, deadline_s=None)
    assert leave.may_go(going, 100.0, working=0, hurried=False)
    assert not leave.may_go(going, 100.0, working=1, hurried=False)
    assert leave.may_go(going, 100.0, working=1, hurried=True)
    assert leave.may_go(going, 120.0, working=1, hurried=False)


def test_a_notice_says_how_long_there_is() -> None:
    going = leave.begin("preempted", 100.0, grace_s=20, deadline_s=120)
    assert not leave.may_go(going, 217.9, working=1, hurried=False)
    assert leave.may_go(going, 218.0, working=1, hurried=False)
    assert leave.leaving(going, 160.0).deadline_s == 60.0


def test_being_stopped_meanwhile_shortens_it_to_the_grace() -> None:
    going = leave.begin("preempted", 100.0, grace_s=20, deadline_s=120)
    assert leave.may_go(leave.hasten(going, 110.0, grace_s=20), 130.0, working=1, hurried=False)
    late = leave.hasten(going, 210.0, grace_s=20)
    assert leave.may_go(late, 218.0, working=1, hurried=False)


@settings(deadline=None)
@given(
    now=st.floats(0, 1e6),
    grace=st.floats(0, 3_600),
    deadline=st.none() | st.floats(0, 1e5),
    stopped=st.none() | st.floats(0, 1e5),
)
def test_it_always_comes_to_an_end_before_the_machine_does(
    now: float, grace: float, deadline: float | None, stopped: float | None
) -> None:
    going = leave.begin("x", now, grace_s=grace, deadline_s=deadline)
    if stopped is not None:
        going = leave.hasten(going, now + stopped, grace_s=grace)
    end = now + (grace if deadline is None else deadline)
    assert leave.may_go(going, end + 1e-3, working=5, hurried=False)
    told = leave.leaving(going, now)
    assert told.deadline_s is not None
    assert told.deadline_s >= 0


def test_a_lease_that_nobody_has_may_be_taken() -> None:
    assert judge(None, MINE, None) == "take"


def test_an_agent_that_stands_for_the_node_is_asked_first() -> None:
    assert judge(OTHER, MINE, None) == "ask"
    assert judge(OTHER, MINE, "nobody") == "take"
    assert judge(OTHER, MINE, "answers") == "refuse"
    assert judge(OTHER, MINE, "silent") == "refuse"
    assert judge(OTHER, "other", None) == "ours"


def test_a_refusal_names_the_other_and_what_to_do() -> None:
    told = refusal(OTHER, "answers", 30)
    assert "other" in told
    assert "h2" in told
    assert "interlock agent leave --node n1" in told
    assert "within 30 s" in refusal(OTHER, "silent", 30)
