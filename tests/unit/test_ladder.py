"""The ladder of recovery: what is done about a sick node, and what is not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from interlock_health_monitor import instants
from interlock_health_monitor.ladder import (
    Decision,
    Facts,
    FleetUse,
    LadderPolicy,
    Ran,
    after_run,
    decide,
    elsewhere,
    facts_of,
    fleet_use,
    interrupted,
    retold,
    running,
)
from interlock_health_monitor.trouble import LADDER
from interlock_schemas.health import NodeHealth, RecoveryState, Symptom
from interlock_schemas.node import (
    NodeAttentionRequested,
    NodeRecoveryCompleted,
    NodeRecoveryFailed,
    NodeRecoveryStarted,
)
from interlock_schemas.nodes import Mark, NodeRecord, Recovery, SshAccess

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
ALL = Recovery(**{step: f"do {step}" for step in LADDER})
#: A node's budget that no ladder can spend.
POLICY = LadderPolicy(node_actions=50)
DONE = Ran(begun=True, succeeded=True, detail="exit status 0")
UNREACHABLE = Ran(begun=False, succeeded=False, detail="the host refused the connection")
BAD: dict[str, Any] = {"state": "lost", "reason": "silent", "symptoms": frozenset(("silent",))}
WELL: dict[str, Any] = {
    "state": "healthy",
    "reason": "beating",
    "symptoms": frozenset(("beating",)),
}


class Story:
    """One node and the one that acts on it, told step by step."""

    def __init__(self, policy: LadderPolicy = POLICY, **facts: Any) -> None:
        self.policy = policy
        self.now = EPOCH
        self.record = RecoveryState(node="n1")
        self.facts = Facts(node="n1", **{"mode": "act", "recovery": ALL, **BAD, **facts})
        self.ran: list[str] = []
        self.told: list[Any] = []
        self.ids: list[str] = []
        self.answer: Ran | None = DONE
        """What comes of a command; None: the monitor dies while it runs."""

    def sees(self, **facts: Any) -> "Story":
        """Something changes, and is looked at."""
        self.facts = msgspec.structs.replace(self.facts, **facts)
        return self.after(0)

    def degraded(self, kind: str) -> "Story":
        return self.sees(state="degraded", reason=kind, symptoms=frozenset((kind,)))

    def after(self, seconds: float) -> "Story":
        """So much time passes; it is looked at every five seconds."""
        until = self.now + timedelta(seconds=seconds)
        while True:
            self._look()
            if self.now >= until:
                return self
            self.now = min(until, self.now + timedelta(seconds=5))

    def _look(self) -> None:
        decision = decide(self.record, self.facts, self.policy, self.now)
        self._carry_out(decision)
        if decision.step is not None:
            self.ran.append(decision.step)
            if self.answer is not None:
                self._carry_out(after_run(self.record, self.answer, self.policy, self.now))

    def _carry_out(self, decision: Decision) -> None:
        self.record = decision.record
        self.told += [each.event for each in decision.tells]
        self.ids += [each.id for each in decision.tells]

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(each.step, each.outcome) for each in self.record.attempts]


def test_nothing_is_done_about_a_healthy_node() -> None:
    story = Story(**WELL).after(3_600)
    assert story.record == RecoveryState(node="n1")
    assert story.ran == []


def test_nothing_is_done_within_the_grace() -> None:
    story = Story().after(29)
    assert story.record.state == "waiting"
    assert story.ran == []
    assert story.after(1).ran == ["restart_agent"]


def test_a_node_that_comes_back_within_the_grace_was_never_touched() -> None:
    story = Story().after(20).sees(**WELL).after(3_600)
    assert story.record.state == "idle"
    assert story.record.attempts == ()
    assert story.told == []


def test_each_step_follows_the_failure_of_the_one_before() -> None:
    story = Story().after(30 + 60)
    assert story.outcomes == [("restart_agent", "failed"), ("restart_services", "running")]
    story.after(120)
    assert story.outcomes[1:] == [("restart_services", "failed"), ("reboot", "running")]
    story.after(600 + 900)
    assert story.ran == list(LADDER)
    assert story.record.state == "exhausted"


def test_a_ladder_that_is_exhausted_is_not_begun_anew() -> None:
    story = Story().after(10_000)
    assert story.ran == list(LADDER)
    assert [type(each) for each in story.told] == [
        *[NodeRecoveryStarted, NodeRecoveryFailed] * 4,
        NodeAttentionRequested,
    ]
    assert story.told[-1].attempts == [f"{step}: failed" for step in LADDER[:-1]]
    assert len(set(story.ids)) == len(story.ids)


def test_a_node_that_is_well_again_for_a_while_ends_the_episode() -> None:
    story = Story().after(40).sees(**WELL)
    assert running(story.record) is not None
    story.after(15)
    assert story.record.state == "idle"
    assert story.outcomes == [("restart_agent", "succeeded")]
    assert isinstance(story.told[-1], NodeRecoveryCompleted)
    assert story.told[-1].duration_s == 25.0
    assert story.after(10_000).ran == ["restart_agent"]


def test_a_node_that_is_well_only_for_a_moment_is_not() -> None:
    story = Story().after(40).sees(**WELL).after(10).sees(**BAD).after(10).sees(**WELL).after(10)
    assert running(story.record) is not None
    assert story.after(5).record.state == "idle"


def test_a_step_has_not_failed_while_the_node_is_proving_itself() -> None:
    story = Story().after(40).sees(state="recovering", reason="back").after(600)
    assert story.outcomes == [("restart_agent", "running")]
    assert story.sees(**WELL).after(15).outcomes == [("restart_agent", "succeeded")]


def test_what_is_not_known_of_a_node_neither_begins_nor_fails_a_step() -> None:
    assert Story(state="unknown", reason="ssh_unclear").after(3_600).ran == []
    story = Story().after(40).sees(state="unknown").after(3_600)
    assert story.outcomes == [("restart_agent", "running")]


def test_a_command_that_ends_badly_waits_for_its_window_all_the_same() -> None:
    story = Story()
    story.answer = Ran(begun=True, succeeded=False, detail="exit status 255")
    assert story.after(60).outcomes == [("restart_agent", "running")]
    assert story.after(30).outcomes[0] == ("restart_agent", "failed")


def test_a_host_that_cannot_be_reached_is_not_reprovisioned_in_a_hurry() -> None:
    story = Story()
    story.answer = UNREACHABLE
    story.after(30 + 60 + 120 + 595)
    assert story.ran == ["restart_agent", "restart_services", "reboot"]
    assert story.after(5).ran[-1] == "reprovision"
    assert story.outcomes[:3] == [
        ("restart_agent", "refused"),
        ("restart_services", "refused"),
        ("reboot", "refused"),
    ]


def test_a_step_that_never_ran_did_not_help() -> None:
    story = Story()
    story.answer = UNREACHABLE
    story.after(40).sees(**WELL).after(20)
    assert story.outcomes == [("restart_agent", "refused")]
    assert story.record.state == "idle"


def test_a_step_without_a_command_is_left_out_and_that_is_said() -> None:
    story = Story(recovery=Recovery(reboot="do reboot")).after(30)
    assert story.ran == ["reboot"]
    assert "restart_agent left out: no command is configured" in story.record.attempts[0].detail
    assert "restart_services left out" in story.record.attempts[0].detail


def test_steps_over_ssh_are_left_out_where_there_is_no_access() -> None:
    story = Story(ssh=False).after(30 + 565)
    assert story.ran == []
    assert "has not lasted for long enough" in story.record.reason
    assert story.after(5).ran == ["reprovision"]
    assert "names no access over SSH" in story.record.attempts[0].detail


def test_without_any_command_a_person_is_told_by_event() -> None:
    story = Story(recovery=Recovery()).after(30)
    assert story.ran == []
    assert [type(each) for each in story.told] == [NodeAttentionRequested]
    assert story.outcomes == [("call", "succeeded")]


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("agent_gone", "restart_agent"),
        ("no_progress", "restart_services"),
        ("work_fails", "restart_services"),
        ("gpu_fault", "reboot"),
        ("disk_full", "call"),
        ("clock_skew", "call"),
    ],
)
def test_a_trouble_has_its_first_step(kind: str, first: str) -> None:
    story = Story(state="degraded", reason=kind, symptoms=frozenset((kind,))).after(30)
    assert story.ran == [first]


@pytest.mark.parametrize("kind", ["overloaded", "memory_full", "beats_lost", "agent_slow", "new"])
def test_what_goes_by_itself_is_left_alone(kind: str) -> None:
    story = Story(state="degraded", reason=kind, symptoms=frozenset((kind,))).after(3_600)
    assert story.record.state == "idle"


def test_another_symptom_does_not_keep_a_step_from_having_helped() -> None:
    story = Story().degraded("agent_gone").after(35).degraded("overloaded").after(20)
    assert story.outcomes == [("restart_agent", "succeeded")]


def test_a_node_that_is_lost_after_a_full_disk_called_a_person_is_recovered() -> None:
    story = Story().degraded("disk_full").after(3_000)
    assert story.ran == ["call"]
    assert story.sees(**BAD).after(30).ran == ["call", "restart_agent"]


def test_a_reboot_shows_in_a_new_run_of_the_agent() -> None:
    story = Story(instance="one").degraded("gpu_fault").after(30)
    story.sees(**WELL).after(100)
    assert running(story.record) is not None
    assert story.sees(instance="two").outcomes == [("reboot", "succeeded")]


def test_a_node_that_is_well_without_having_rebooted_is_let_be() -> None:
    story = Story(instance="one").degraded("gpu_fault").after(30).sees(**WELL).after(700)
    assert story.outcomes == [("reboot", "abandoned")]
    assert story.record.state == "idle"


@pytest.mark.parametrize(
    "against",
    [
        {"cordon": Mark(by="ann")},
        {"drain": Mark(by="ann")},
        {"retired": Mark(by="ann")},
        {"leaving": True},
        {"state": "retired"},
        {"disruption": "half of zone b is quiet"},
        {"mode": "off"},
    ],
)
def test_what_stops_it(against: dict[str, Any]) -> None:
    assert Story(**against).after(3_600).record == RecoveryState(node="n1")
    story = Story().after(40).sees(**against)
    assert story.record.state == "stopped"
    assert story.outcomes == [("restart_agent", "abandoned")]
    assert story.after(3_600).ran == ["restart_agent"]


def test_after_an_uncordon_a_new_episode_begins_with_its_grace() -> None:
    story = Story().after(40).sees(cordon=Mark(by="ann")).after(60).sees(cordon=None)
    assert (story.record.state, story.record.episode) == ("waiting", 2)
    assert story.after(55).ran == ["restart_agent"]
    assert story.after(5).ran == ["restart_agent", "restart_agent"]


def test_a_cordon_that_ran_out_stops_nothing() -> None:
    story = Story(cordon=Mark(by="ann", until=instants.text(EPOCH)))
    assert story.after(30).ran == ["restart_agent"]


def test_a_node_that_is_never_evicted_has_a_person_called_at_once() -> None:
    story = Story(evict=False).after(3_600)
    assert story.ran == ["call"]
    assert "lets nobody act upon it" in story.told[0].reason


def test_the_budget_of_a_node_refills() -> None:
    story = Story(LadderPolicy(node_actions=2)).after(30 + 60 + 120)
    assert story.ran == ["restart_agent", "restart_services"]
    assert "the budget of this node is spent" in story.record.reason
    assert story.after(3_400).ran == ["restart_agent", "restart_services"]
    assert story.after(30).ran == ["restart_agent", "restart_services", "reboot"]


def test_the_budgets_of_the_fleet_hold_a_step_back() -> None:
    busy = Story(fleet=FleetUse(nodes=100, acting=5)).after(3_600)
    assert busy.ran == []
    assert busy.sees(fleet=FleetUse(nodes=100, acting=4)).ran == ["restart_agent"]
    spent = Story(fleet=FleetUse(nodes=100, spent=30)).after(3_600)
    assert spent.ran == []
    assert spent.sees(fleet=FleetUse(nodes=100, spent=29)).ran == ["restart_agent"]


def test_one_node_may_be_acted_upon_in_the_smallest_fleet() -> None:
    assert Story(fleet=FleetUse(nodes=1)).after(30).ran == ["restart_agent"]


def test_a_person_is_called_whatever_the_budgets_say() -> None:
    story = Story(fleet=FleetUse(acting=9, spent=999)).degraded("disk_full").after(30)
    assert story.ran == ["call"]


def test_what_the_fleet_uses_is_drawn_from_the_records() -> None:
    at = EPOCH + timedelta(seconds=40)
    acting = Story().after(40).record
    done = Story().after(40).sees(**WELL).after(20).record
    dry = Story(mode="dry-run").after(40).record
    everywhere = fleet_use([acting, done, dry], 10, "act", POLICY, at)
    assert elsewhere(everywhere, acting, "act", POLICY, at) == FleetUse(nodes=10, spent=1)
    used = fleet_use([acting, done, dry], 10, "act", POLICY, at)
    assert (used.acting, used.spent) == (1, 2)
    later = at + timedelta(hours=2)
    # One that nobody closes any more does not count for ever.
    assert fleet_use([acting, done], 10, "act", POLICY, later) == FleetUse(nodes=10)


def test_a_node_that_flaps_waits_longer_each_time() -> None:
    story = Story()
    waits = []
    for _ in range(4):
        begun = story.sees(**BAD).now
        taken = len(story.ran)
        while len(story.ran) == taken:
            story.after(5)
        waits.append((story.now - begun).total_seconds())
        story.sees(**WELL).after(20)
    assert waits == [30, 60, 120, 240]
    story.after(3_600)
    assert len(story.sees(**BAD).after(30).ran) == 5


def test_dry_run_decides_the_same_and_runs_nothing() -> None:
    story = Story(mode="dry-run").after(31)
    assert story.ran == []
    assert [(each.step, each.mode) for each in story.record.attempts] == [
        ("restart_agent", "dry-run")
    ]
    story.after(60)
    assert story.outcomes == [("restart_agent", "abandoned"), ("restart_services", "running")]
    assert "nothing was run; still lost" in story.record.attempts[0].detail
    story.after(10_000)
    assert story.ran == []
    assert [type(each) for each in story.told] == [NodeAttentionRequested]
    assert story.told[0].attempts[0] == "restart_agent: abandoned (dry-run)"


def test_dry_run_claims_no_success() -> None:
    story = Story(mode="dry-run").after(40).sees(**WELL).after(20)
    assert story.outcomes == [("restart_agent", "abandoned")]
    assert "came back without the step" in story.record.attempts[0].detail


def test_what_was_only_rehearsed_is_done_once_it_is_switched_on() -> None:
    story = Story(LadderPolicy(node_actions=4), mode="dry-run").after(10_000)
    assert story.sees(mode="act").ran == ["restart_agent"]
    assert len(story.record.spent) == 1
    story = Story(mode="dry-run").after(40).sees(mode="act")
    assert story.outcomes == [("restart_agent", "abandoned"), ("restart_agent", "running")]


def test_a_rehearsal_in_between_gives_no_budget_back() -> None:
    story = Story(LadderPolicy(node_actions=1)).after(30).sees(cordon=Mark(by="ann"))
    story.sees(cordon=None, mode="dry-run").after(3_000).sees(mode="act").after(500)
    assert story.ran == ["restart_agent"]


def test_the_step_of_a_monitor_that_died_is_observed_and_not_repeated() -> None:
    story = Story()
    story.answer = None
    story.after(30)
    assert story.record.state == "acting"
    story.answer = DONE
    story.after(85)
    assert story.ran == ["restart_agent"]
    assert "how its command ended is not known" in story.record.attempts[0].detail
    assert story.after(5).ran == ["restart_agent", "restart_services"]


def test_a_call_of_a_monitor_that_died_is_not_repeated() -> None:
    story = Story(evict=False)
    story.answer = None
    story.after(3_600)
    assert story.ran == ["call"]
    assert story.record.state == "exhausted"
    assert len(set(story.ids)) == 1


def test_a_call_that_fails_says_so() -> None:
    story = Story(evict=False)
    story.answer = Ran(begun=True, succeeded=False, detail="exit status 1")
    story.after(3_600)
    assert story.outcomes == [("call", "failed")]
    assert "command that calls one failed" in story.record.reason


def test_a_monitor_that_is_stopped_says_so_on_record() -> None:
    story = Story()
    story.answer = None
    story.after(30)
    story.record = interrupted(story.record)
    assert story.record.state == "verifying"
    assert story.after(85).ran == ["restart_agent"]
    assert "the monitor was stopped" in story.record.attempts[0].detail


def test_what_was_stored_and_not_told_is_told_under_the_same_ids() -> None:
    story = Story().after(30 + 60)
    again = retold(story.record, EPOCH)
    assert [each.id for each in again] == story.ids
    assert [type(each.event) for each in again] == [type(each) for each in story.told]
    assert retold(story.record, story.now + timedelta(seconds=1)) == ()


def test_the_record_keeps_the_last_fifty() -> None:
    story = Story()
    for _ in range(60):
        story.sees(**BAD).after(1_830).sees(**WELL).after(3_600)
    assert len(story.record.attempts) == 50
    assert story.record.episode == 60


def test_a_nodes_own_commands_come_before_the_fleets() -> None:
    seen = NodeHealth(
        node="n1",
        state="degraded",
        since="",
        reason="gpu_fault",
        symptoms=(Symptom(kind="disk_full", detail="d"),),
        instance="i",
    )
    fleet = Recovery(reboot="fleet")
    assert facts_of(seen, None, fleet, mode="act").recovery == Recovery()
    facts = facts_of(seen, NodeRecord(name="n1"), fleet, mode="act")
    assert facts.recovery == fleet
    assert facts.symptoms == {"gpu_fault", "disk_full"}
    assert not facts.ssh
    own = NodeRecord(name="n1", recovery=Recovery(call="own"), ssh=SshAccess(host="h"))
    facts = facts_of(seen, own, fleet, mode="act")
    assert facts.recovery == Recovery(call="own")
    assert facts.ssh


SEEN: list[tuple[Any, str]] = [
    ("lost", "silent"),
    ("healthy", "beating"),
    ("recovering", "back"),
    ("suspect", "silent"),
    ("unknown", "unknown"),
    ("degraded", "agent_gone"),
    ("degraded", "gpu_fault"),
    ("degraded", "no_progress"),
    ("degraded", "disk_full"),
    ("degraded", "overloaded"),
]


class AnyStory(RuleBasedStateMachine):
    """Whatever happens to a node, its commands and its monitors."""

    @initialize(actions=st.integers(1, 6))
    def begin(self, actions: int) -> None:
        self.policy = LadderPolicy(node_actions=actions)
        self.now = EPOCH
        self.record = RecoveryState(node="n1")
        self.facts = Facts(node="n1", mode="act", recovery=ALL, **BAD)
        self.in_hand = False
        self.steps: list[tuple[int, str, str, datetime]] = []

    @rule(seen=st.sampled_from(SEEN), instance=st.sampled_from(("one", "two")))
    def node_changes(self, seen: tuple[Any, str], instance: str) -> None:
        state, reason = seen
        self.facts = msgspec.structs.replace(
            self.facts,
            state=state,
            reason=reason,
            symptoms=frozenset((reason,)),
            instance=instance,
            detail="x" * 500,
        )

    @rule(
        cordon=st.sampled_from((None, None, Mark(by="ann", reason="y" * 500))),
        disruption=st.sampled_from(("", "", "half is quiet")),
        mode=st.sampled_from(("act", "act", "act", "dry-run", "off")),
        evict=st.sampled_from((True, True, False)),
    )
    def operator_decides(self, **decided: Any) -> None:
        self.facts = msgspec.structs.replace(self.facts, **decided)

    @rule(recovery=st.sampled_from((ALL, ALL, Recovery(), Recovery(reboot="r", call="c"))))
    def commands_change(self, recovery: Recovery) -> None:
        self.facts = msgspec.structs.replace(self.facts, recovery=recovery)

    @rule(acting=st.integers(0, 1))
    def fleet_is_busy(self, acting: int) -> None:
        self.facts = msgspec.structs.replace(self.facts, fleet=FleetUse(acting=acting))

    @rule(seconds=st.sampled_from((1.0, 16.0, 31.0, 130.0, 700.0, 2_000.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.in_hand)
    @rule(ran=st.sampled_from((DONE, UNREACHABLE, Ran(begun=True, succeeded=False, detail="z"))))
    def command_ends(self, ran: Ran) -> None:
        self.in_hand = False
        self.record = after_run(self.record, ran, self.policy, self.now).record

    @precondition(lambda self: self.in_hand)
    @rule(told=st.booleans())
    def monitor_dies(self, told: bool) -> None:
        self.in_hand = False
        if told:
            self.record = interrupted(self.record)

    @precondition(lambda self: not self.in_hand)
    @rule()
    def monitor_looks(self) -> None:
        for _ in range(3):
            before = self.record
            decision = decide(before, self.facts, self.policy, self.now)
            self.record = decision.record
            fresh = len(self.steps_of(decision.record)) > 0 and (
                decision.spends or decision.step is not None
            )
            if fresh:
                self.step_begins(before, decision)
            if decision.step is not None:
                self.in_hand = True
                return
            if decision.record == before:
                return

    def steps_of(self, record: RecoveryState) -> list[str]:
        return [each.step for each in record.attempts if each.episode == record.episode]

    def step_begins(self, before: RecoveryState, decision: Decision) -> None:
        attempt = decision.record.attempts[-1]
        facts = self.facts
        assert facts.cordon is None
        assert not facts.disruption
        assert facts.mode == attempt.mode
        assert (decision.step is not None) <= (facts.mode == "act")
        assert facts.state in ("lost", "degraded")
        assert facts.evict or attempt.step == "call"
        assert attempt.step == "call" or facts.fleet.acting == 0
        # One at a time: what was under way has ended.
        assert all(each.outcome != "running" for each in decision.record.attempts[:-1])
        assert before.state != "acting"
        same = [each for each in self.steps if each[:2] == (attempt.episode, attempt.mode)]
        order = [LADDER.index(each[2]) for each in same]
        assert not order or LADDER.index(attempt.step) > max(order)
        earlier = [
            each
            for each in decision.record.attempts[:-1]
            if each.episode == attempt.episode and each.mode == attempt.mode
        ]
        assert all(each.outcome in ("failed", "refused", "abandoned") for each in earlier)
        self.steps.append((attempt.episode, attempt.mode, attempt.step, self.now))
        if attempt.mode == "act" and attempt.step != "call":
            since = self.now - timedelta(seconds=self.policy.window_s)
            spent = [
                each
                for each in self.steps
                if each[1] == "act" and each[2] != "call" and each[3] > since
            ]
            assert len(spent) <= self.policy.node_actions

    @invariant()
    def the_record_can_be_read(self) -> None:
        if hasattr(self, "record"):
            encoded = msgspec.json.encode(self.record)
            assert msgspec.json.decode(encoded, type=RecoveryState) == self.record

    @invariant()
    def what_is_over_has_ended(self) -> None:
        if hasattr(self, "record") and running(self.record) is None:
            assert all(each.ended_at for each in self.record.attempts)


AnyStory.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
test_any_story = AnyStory.TestCase
