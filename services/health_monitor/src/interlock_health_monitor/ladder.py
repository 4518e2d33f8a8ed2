"""The ladder of recovery: what is done about a sick node, and when. Pure decisions.

From what stands on record, what is seen of the node and the time follows the next record, and with
it at most one step to take. Each step follows the failure of the one before: its window passed and
the node did not come back. In dry-run the same is decided and nothing is run. How commands are run,
and that one monitor alone does so, is left to `actuator`.
"""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from interlock_health_monitor import instants
from interlock_health_monitor.trouble import (
    FIRST_STEP,
    LADDER,
    ON_NODE,
    Step,
    trouble_of,
    well,
    worse,
)
from interlock_schemas.event import Event
from interlock_schemas.health import Attempt, NodeHealth, RecoveryState, State
from interlock_schemas.node import (
    NodeAttentionRequested,
    NodeRecoveryCompleted,
    NodeRecoveryFailed,
    NodeRecoveryStarted,
)
from interlock_schemas.nodes import Mark, NodeRecord, Recovery

__all__ = [
    "Decision",
    "Facts",
    "FleetUse",
    "LadderPolicy",
    "Mode",
    "Ran",
    "StepPolicy",
    "Tell",
    "after_run",
    "command_of",
    "decide",
    "elsewhere",
    "facts_of",
    "fleet_use",
    "interrupted",
    "retold",
    "running",
]

Mode = Literal["dry-run", "act", "off"]
Outcome = Literal["running", "succeeded", "failed", "refused", "abandoned"]

#: A step whose time is up counts as under way for so long, unless it is closed, seconds.
_LEFT_OPEN_S: Final = 60.0
#: Attempts that a record keeps.
_KEPT: Final = 50
_IN_BETWEEN: Final[frozenset[State]] = frozenset(("unknown", "suspect", "recovering"))
_COMPONENT: Final[dict[str, str]] = {"restart_agent": "agent", "restart_services": "services"}


class StepPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long a step may take. Seconds, above 0."""

    timeout_s: float
    """Its command is ended after so long."""
    window_s: float
    """So long after its command the node is to be back, or the step has failed."""


class LadderPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How fast, and how much."""

    grace_s: float = 30.0
    """A trouble has lasted so long before anything is done."""
    steady_s: float = 15.0
    """A node has to be well for so long before a step counts as a success."""
    restart_agent: StepPolicy = StepPolicy(timeout_s=30, window_s=60)
    restart_services: StepPolicy = StepPolicy(timeout_s=60, window_s=120)
    reboot: StepPolicy = StepPolicy(timeout_s=30, window_s=600)
    reprovision: StepPolicy = StepPolicy(timeout_s=900, window_s=900)
    call: StepPolicy = StepPolicy(timeout_s=60, window_s=1)
    reprovision_after_s: float = 600.0
    """Never reprovisioned before the trouble has lasted so long, whichever steps are left out."""
    window_s: float = 3_600.0
    """For so long a step counts against the budgets."""
    node_actions: int = 6
    """Steps on one node within the window; 1 to 50."""
    fleet_actions: int = 30
    """Steps on all nodes together within the window."""
    fleet_share: float = 0.05
    """Of all nodes, so many may be acted upon at once; one at least."""
    longest_grace_s: float = 1_800.0
    """The grace doubles with every trouble within the window that took a step, up to this."""

    def step(self, step: Step) -> StepPolicy:
        """Of one step."""
        found: StepPolicy = getattr(self, step)
        return found


class FleetUse(msgspec.Struct, frozen=True, kw_only=True):
    """What is being done elsewhere in the fleet."""

    nodes: int = 1
    acting: int = 0
    """Other nodes that are acted upon at this moment."""
    spent: int = 0
    """Steps on other nodes within the window."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a node at a moment."""

    node: str
    mode: Mode
    state: State
    reason: str = ""
    detail: str = ""
    symptoms: frozenset[str] = frozenset()
    """The words for everything that is wrong with it, its reason among them."""
    instance: str = ""
    """The run of its agent. Empty: not known."""
    recovery: Recovery = Recovery()
    agent: bool = True
    ssh: bool = True
    """Whether it can be reached over SSH, by its description."""
    evict: bool = True
    cordon: Mark | None = None
    drain: Mark | None = None
    retired: Mark | None = None
    leaving: bool = False
    disruption: str = ""
    """Why nothing is done in its zone at all. Empty: none stands."""
    fleet: FleetUse = FleetUse()


class Tell(msgspec.Struct, frozen=True):
    """An event, and the id under which it is stored once, whoever tells it."""

    event: Event
    id: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be stored, told and run, in this order."""

    record: RecoveryState
    tells: tuple[Tell, ...] = ()
    step: Step | None = None
    """Its command is to be run now; the record says so already."""
    spends: bool = False
    """A step begins, or its rehearsal, that counts against the budgets."""


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a command."""

    begun: bool
    """False: it never began, because the host could not be reached or nothing could be started."""
    succeeded: bool
    """It ended with exit status 0."""
    detail: str = ""


def facts_of(
    health: NodeHealth,
    described: NodeRecord | None,
    fleet_recovery: Recovery | None,
    *,
    mode: Mode,
    disruption: str = "",
    fleet: FleetUse | None = None,
) -> Facts:
    """The facts, by a node's verdict and its description; its own commands before the fleet's."""
    record = described or NodeRecord(name=health.node)
    return Facts(
        node=health.node,
        mode=mode,
        state=health.state,
        reason=health.reason,
        detail=health.detail,
        symptoms=frozenset((health.reason, *(each.kind for each in health.symptoms))),
        instance=health.instance or "",
        # Nothing is run for what nobody has described.
        recovery=(record.recovery or fleet_recovery or Recovery()) if described else Recovery(),
        agent=record.agent,
        ssh=record.ssh is not None,
        evict=record.evict,
        cordon=record.cordon,
        drain=record.drain,
        retired=record.retired,
        leaving=health.leaving is not None,
        disruption=disruption,
        fleet=fleet or FleetUse(),
    )


def fleet_use(
    records: Iterable[RecoveryState], nodes: int, mode: Mode, policy: LadderPolicy, now: datetime
) -> FleetUse:
    """What the records of nodes amount to."""
    acting = spent = 0
    long_over = now - timedelta(seconds=_LEFT_OPEN_S)
    for record in records:
        attempt = running(record)
        # One whose time was up long ago does not count: nobody may be left to close it.
        acting += (
            attempt is not None
            and attempt.mode == mode
            and attempt.step != "call"
            and not _past(attempt.until, long_over)
        )
        spent += len(_spent(record, mode, policy, now))
    return FleetUse(nodes=nodes, acting=acting, spent=spent)


def elsewhere(
    all_of_it: FleetUse,
    record: RecoveryState,
    mode: Mode,
    policy: LadderPolicy,
    now: datetime,
) -> FleetUse:
    """What the fleet uses without one node, which is part of `all_of_it`."""
    own = fleet_use((record,), 0, mode, policy, now)
    return FleetUse(
        nodes=all_of_it.nodes,
        acting=all_of_it.acting - own.acting,
        spent=all_of_it.spent - own.spent,
    )


def command_of(step: Step, recovery: Recovery) -> str | None:
    """The command of a step."""
    found: str | None = getattr(recovery, step)
    return found


def running(record: RecoveryState) -> Attempt | None:
    """The attempt that is under way: its command runs, or whether it helped is to be seen."""
    if record.attempts and record.state in ("acting", "verifying"):
        return record.attempts[-1]
    return None


def decide(record: RecoveryState, facts: Facts, policy: LadderPolicy, now: datetime) -> Decision:
    """What follows. The same record, where nothing does.

    A record that says ``acting`` is another's, who is gone: whoever runs a command itself does not
    ask before it has ended.
    """
    against = _against(facts, now)
    if record.state in ("idle", "stopped"):
        return Decision(record=_begun(record, facts, policy, now, against))
    if against:
        return _stopped(record, now, against)
    record = _worse(record, facts)
    if record.state == "idle":
        return Decision(record=_begun(record, facts, policy, now, against))
    tells: tuple[Tell, ...] = ()
    attempt = running(record)
    if attempt is not None and attempt.mode != facts.mode and attempt.mode == "dry-run":
        record = _closed(record, "abandoned", "from now on steps are taken", now)
        record = msgspec.structs.replace(record, state="waiting")
        attempt = None
    if well(record.trouble, facts.state, facts.symptoms):
        return _recovering(record, facts, policy, now)
    record = msgspec.structs.replace(record, well_since="")
    if attempt is not None:
        if record.state == "acting":
            record = _taken_over(record, now)
        if running(record) is None or not _past(attempt.until, now):
            return Decision(record=record)
        if facts.state in _IN_BETWEEN:
            return Decision(record=record)
        record, tells = _failed(record, facts, now)
    if facts.state in _IN_BETWEEN or not _past(record.next_at, now):
        return Decision(record=record, tells=tells)
    chosen = _next_step(record, facts)
    if chosen is None:
        return Decision(record=record, tells=tells)
    step, left_out = chosen
    if step != "call":
        held = _held_back(record, step, facts, policy, now)
        if held is not None:
            return Decision(record=held, tells=tells)
    begun = _begin(record, step, left_out, facts, policy, now)
    return msgspec.structs.replace(begun, tells=tells + begun.tells)


def after_run(record: RecoveryState, ran: Ran, policy: LadderPolicy, now: datetime) -> Decision:
    """The command of the step that was being taken has ended: whether it helped is to be seen.

    That holds also where it failed: a command that reboots a host may well end badly.
    """
    attempt = running(record)
    if attempt is None:
        return Decision(record=record)
    if attempt.step == "call":
        outcome: Outcome = "succeeded" if ran.succeeded else "failed"
        return Decision(
            record=msgspec.structs.replace(
                _closed(record, outcome, ran.detail, now),
                state="exhausted",
                reason="a person was called"
                if ran.succeeded
                else "a person is needed, and the command that calls one failed",
            )
        )
    step: Step = attempt.step  # type: ignore[assignment]
    until = now + timedelta(seconds=policy.step(step).window_s)
    seen = msgspec.structs.replace(
        attempt,
        detail=_joined(attempt.detail, ran.detail),
        until=instants.text(until),
        # The next step waits for the window all the same: what keeps us out now may be over soon.
        outcome="running" if ran.begun else "refused",
    )
    return Decision(
        record=msgspec.structs.replace(
            record,
            state="verifying",
            attempts=(*record.attempts[:-1], seen),
            reason=f"{step}: {'done' if ran.succeeded else ran.detail}; waiting for the node"[:500],
        )
    )


def interrupted(record: RecoveryState) -> RecoveryState:
    """The monitor is told to end while the command runs: the next one goes on by observation."""
    attempt = running(record)
    if attempt is None:
        return record
    detail = _joined(attempt.detail, "the monitor was stopped while its command ran")
    return msgspec.structs.replace(
        record,
        state="verifying" if attempt.step != "call" else "acting",
        attempts=(*record.attempts[:-1], msgspec.structs.replace(attempt, detail=detail)),
    )


def retold(record: RecoveryState, since: datetime) -> tuple[Tell, ...]:
    """The events of what was stored since then: whoever stored it may have died before telling."""
    tells: list[Tell] = []
    failures = 0
    for attempt in record.attempts:
        if attempt.episode != record.episode or attempt.mode != "act":
            continue
        begun = instants.parse(attempt.at)
        if begun is not None and begun >= since:
            tells.append(
                _attention(record, attempt)
                if attempt.step == "call"
                else _started(record, attempt, failures)
            )
        failures += attempt.outcome in ("failed", "refused")
        ended = instants.parse(attempt.ended_at)
        if ended is not None and ended >= since:
            told = _ended(record, attempt)
            if told is not None:
                tells.append(told)
    return tuple(tells)


# Beginning and ending an episode


def _against(facts: Facts, now: datetime) -> str:
    """Why nothing may be done with a node. Empty: nothing stands against it."""
    if facts.mode == "off":
        return "recovery is switched off"
    for what, mark in (
        ("retired", facts.retired),
        ("drained", facts.drain),
        ("cordoned", facts.cordon),
    ):
        if mark is not None and instants.stands(mark.until, now):
            return f"{what} by {mark.by}" + (f": {mark.reason}" if mark.reason else "")
    if facts.state == "retired":
        return "it is retired"
    if facts.leaving:
        return "it is leaving in good order"
    return facts.disruption


def _begun(
    record: RecoveryState, facts: Facts, policy: LadderPolicy, now: datetime, against: str
) -> RecoveryState:
    trouble = trouble_of(facts.state, facts.symptoms)
    if against:
        return record
    if trouble is None:
        if record.state == "stopped" and facts.state == "healthy":
            return msgspec.structs.replace(record, state="idle", reason="well again", next_at="")
        return record
    window = now - timedelta(seconds=policy.window_s)
    lately = {
        each.episode
        for each in record.attempts
        if each.step != "call" and (at := instants.parse(each.at)) is not None and at > window
    }
    grace = min(max(policy.longest_grace_s, policy.grace_s), policy.grace_s * 2.0 ** len(lately))
    return msgspec.structs.replace(
        record,
        episode=record.episode + 1,
        trouble=trouble,
        state="waiting",
        since=instants.text(now),
        next_at=instants.text(now + timedelta(seconds=grace)),
        well_since="",
        reason=_trouble_text(facts),
    )


def _worse(record: RecoveryState, facts: Facts) -> RecoveryState:
    """A disk that ran full must not keep a node from being recovered that is lost since."""
    now = trouble_of(facts.state, facts.symptoms)
    if now is None or not worse(now, record.trouble):
        return record
    if record.state == "exhausted":
        return msgspec.structs.replace(record, state="idle")
    if all(each.episode != record.episode for each in record.attempts):
        return msgspec.structs.replace(record, trouble=now, reason=_trouble_text(facts))
    return record


def _stopped(record: RecoveryState, now: datetime, why: str) -> Decision:
    if running(record) is not None:
        record = _closed(record, "abandoned", f"stopped: {why}", now)
    return Decision(
        record=msgspec.structs.replace(
            record, state="stopped", reason=why[:500], next_at="", well_since=""
        )
    )


def _recovering(
    record: RecoveryState, facts: Facts, policy: LadderPolicy, now: datetime
) -> Decision:
    """It looks well. Where something was done, it has to stay so for a while."""
    attempt = running(record)
    if any(each.episode == record.episode for each in record.attempts):
        if not record.well_since:
            record = msgspec.structs.replace(record, well_since=instants.text(now))
        since = instants.parse(record.well_since)
        if since is not None and now < since + timedelta(seconds=policy.steady_s):
            return Decision(record=record)
    over = msgspec.structs.replace(
        record, state="idle", reason="well again", next_at="", well_since=""
    )
    if attempt is None:
        return Decision(record=over)
    if attempt.step == "reboot" and attempt.instance and attempt.instance == facts.instance:
        if not _past(attempt.until, now):
            return Decision(record=record)
        return Decision(
            record=_closed(over, "abandoned", "well again, and its agent never began anew", now)
        )
    if attempt.mode == "dry-run":
        return Decision(record=_closed(over, "abandoned", "it came back without the step", now))
    over = _closed(over, "succeeded", "", now)
    told = _ended(over, over.attempts[-1])
    return Decision(record=over, tells=(told,) if told is not None else ())


# Steps


def _next_step(record: RecoveryState, facts: Facts) -> tuple[Step, str] | None:
    """The next step, and which were left out and why; None where all were taken."""
    taken = [
        LADDER.index(each.step)
        for each in record.attempts
        if each.episode == record.episode and each.mode == facts.mode and each.step in LADDER
    ]
    first = LADDER.index(FIRST_STEP.get(record.trouble, "call"))  # type: ignore[call-overload]
    start = max(first, max(taken) + 1 if taken else 0)
    if start >= len(LADDER):
        return None
    if not facts.evict:
        return "call", "its description lets nobody act upon it"
    left_out: list[str] = []
    for step in LADDER[start:]:
        why = _left_out(step, facts)
        if not why:
            return step, "; ".join(left_out)
        left_out.append(f"{step} left out: {why}")
    return None


def _left_out(step: Step, facts: Facts) -> str:
    if step == "call":
        return ""
    if command_of(step, facts.recovery) is None:
        return "no command is configured"
    if step in ON_NODE and not facts.ssh:
        return "its description names no access over SSH"
    if step == "restart_agent" and not facts.agent:
        return "it has no agent"
    return ""


def _held_back(
    record: RecoveryState, step: Step, facts: Facts, policy: LadderPolicy, now: datetime
) -> RecoveryState | None:
    """The record that says why a step has to wait; None where it has not."""

    def wait(why: str, at: datetime | None = None) -> RecoveryState:
        return msgspec.structs.replace(
            record,
            state="waiting",
            reason=f"{step} waits: {why}",
            next_at=instants.text(at) if at is not None else "",
        )

    since = instants.parse(record.since) or now
    earliest = since + timedelta(seconds=policy.reprovision_after_s)
    if step == "reprovision" and now < earliest:
        return wait("the trouble has not lasted for long enough", earliest)
    spent = _spent(record, facts.mode, policy, now)
    if len(spent) >= policy.node_actions:
        oldest = instants.parse(spent[-policy.node_actions]) or now
        refills = oldest + timedelta(seconds=policy.window_s)
        return wait("the budget of this node is spent", refills)
    at_once = max(1, math.floor(facts.fleet.nodes * policy.fleet_share))
    if facts.fleet.acting >= at_once:
        return wait("as many nodes as may be are acted upon")
    if facts.fleet.spent + len(spent) >= policy.fleet_actions:
        return wait("the budget of the fleet is spent")
    return None


def _begin(
    record: RecoveryState,
    step: Step,
    left_out: str,
    facts: Facts,
    policy: LadderPolicy,
    now: datetime,
) -> Decision:
    dry = facts.mode != "act"
    times = policy.step(step)
    until = now + timedelta(seconds=times.window_s + (0.0 if dry else times.timeout_s))
    attempt = Attempt(
        step=step,
        at=instants.text(now),
        mode="dry-run" if dry else "act",
        detail=_joined(_trouble_text(facts), left_out),
        until=instants.text(until),
        episode=record.episode,
        instance=facts.instance,
    )
    spent = _spent(record, "act", policy, now)
    begun = msgspec.structs.replace(
        record,
        attempts=(*record.attempts, attempt)[-_KEPT:],
        state="verifying" if dry else "acting",
        reason=f"{step}{', in dry-run: nothing is run' if dry else ''}: {_trouble_text(facts)}"[
            :500
        ],
        next_at="",
        spent=spent if dry or step == "call" else (*spent, attempt.at),
    )
    if step != "call":
        return Decision(
            record=begun,
            tells=() if dry else (_started(begun, attempt),),
            step=None if dry else step,
            spends=True,
        )
    tell = _attention(begun, attempt)
    if dry or command_of("call", facts.recovery) is None:
        why = "in dry-run the command is not run" if dry else "no command is configured"
        outcome: Outcome = "abandoned" if dry else "succeeded"
        begun = msgspec.structs.replace(
            _closed(begun, outcome, f"told by event; {why}", now),
            state="exhausted",
            reason=f"a person is needed: {_trouble_text(facts)}"[:500],
        )
        return Decision(record=begun, tells=(tell,))
    return Decision(record=begun, tells=(tell,), step=step)


def _taken_over(record: RecoveryState, now: datetime) -> RecoveryState:
    """Whoever ran the command is gone, and how it ended is not known: it is not repeated."""
    attempt = record.attempts[-1]
    detail = "how its command ended is not known: the monitor that ran it did not put it down"
    if attempt.step == "call":
        closed = _closed(record, "abandoned", detail, now)
        return msgspec.structs.replace(
            closed, state="exhausted", reason="a person is needed, and may have been called"
        )
    seen = msgspec.structs.replace(attempt, detail=_joined(attempt.detail, detail))
    return msgspec.structs.replace(
        record,
        state="verifying",
        attempts=(*record.attempts[:-1], seen),
        reason=f"{attempt.step}: {detail}"[:500],
    )


def _failed(
    record: RecoveryState, facts: Facts, now: datetime
) -> tuple[RecoveryState, tuple[Tell, ...]]:
    """The window of the step passed, and the node is as bad."""
    attempt = record.attempts[-1]
    still = f"still {_trouble_text(facts)}"
    if attempt.mode == "dry-run":
        record = _closed(record, "abandoned", f"nothing was run; {still}", now)
    else:
        record = _closed(record, "failed", still, now)
    record = msgspec.structs.replace(
        record, state="waiting", next_at="", reason=f"{attempt.step} did not help: {still}"[:500]
    )
    told = _ended(record, record.attempts[-1])
    return record, (told,) if told is not None else ()


# Records and events


def _closed(record: RecoveryState, outcome: Outcome, detail: str, now: datetime) -> RecoveryState:
    attempt = record.attempts[-1]
    ended = msgspec.structs.replace(
        attempt,
        # What never began cannot have helped, nor failed to.
        outcome="refused" if attempt.outcome == "refused" else outcome,
        detail=_joined(attempt.detail, detail),
        ended_at=instants.text(now),
    )
    return msgspec.structs.replace(record, attempts=(*record.attempts[:-1], ended))


def _spent(
    record: RecoveryState, mode: Mode, policy: LadderPolicy, now: datetime
) -> tuple[str, ...]:
    """When steps were taken that still count, oldest first. A rehearsal counts for rehearsals."""
    since = now - timedelta(seconds=policy.window_s)
    times = [*record.spent]
    if mode == "dry-run":
        times += [
            each.at for each in record.attempts if each.mode == "dry-run" and each.step != "call"
        ]
    return tuple(
        sorted(each for each in times if (at := instants.parse(each)) is not None and at > since)
    )


def _past(rfc: str, now: datetime) -> bool:
    at = instants.parse(rfc)
    return at is None or now >= at


def _joined(*parts: str) -> str:
    return "; ".join(each for each in parts if each)[:500]


def _trouble_text(facts: Facts) -> str:
    text = f"{facts.state}, {facts.reason}"
    return f"{text}: {facts.detail}"[:150] if facts.detail else text


def _id(record: RecoveryState, attempt: Attempt, what: str) -> str:
    return f"recovery-{record.node}-{attempt.episode}-{attempt.step}-{attempt.at}-{what}"


def _started(record: RecoveryState, attempt: Attempt, failures: int | None = None) -> Tell:
    if failures is None:
        failures = sum(
            each.episode == attempt.episode and each.outcome in ("failed", "refused")
            for each in record.attempts
        )
    return Tell(
        NodeRecoveryStarted(
            node=record.node,
            component=_COMPONENT.get(attempt.step, "node"),
            strategy=attempt.step,
            consecutive_failures=failures,
            reason=attempt.detail,
        ),
        _id(record, attempt, "started"),
    )


def _ended(record: RecoveryState, attempt: Attempt) -> Tell | None:
    """What is told of an attempt that has ended. Nothing of those that were given up."""
    component = _COMPONENT.get(attempt.step, "node")
    if attempt.mode != "act" or attempt.step == "call":
        return None
    if attempt.outcome == "succeeded":
        begun, ended = instants.parse(attempt.at), instants.parse(attempt.ended_at)
        took = (ended - begun).total_seconds() if begun and ended else None
        event: Event = NodeRecoveryCompleted(
            node=record.node, component=component, action=attempt.step, duration_s=took
        )
    elif attempt.outcome in ("failed", "refused"):
        event = NodeRecoveryFailed(
            node=record.node, component=component, action=attempt.step, reason=attempt.detail
        )
    else:
        return None
    return Tell(event, _id(record, attempt, "ended"))


def _attention(record: RecoveryState, attempt: Attempt) -> Tell:
    tried = [
        f"{each.step}: {each.outcome}" + (" (dry-run)" if each.mode == "dry-run" else "")
        for each in record.attempts
        if each.episode == attempt.episode and each.step != "call"
    ]
    return Tell(
        NodeAttentionRequested(node=record.node, reason=attempt.detail, attempts=tried),
        _id(record, attempt, "attention"),
    )
