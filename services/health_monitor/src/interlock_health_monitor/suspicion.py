"""Whether a node is healthy, suspect or lost: the state machine of one node, purely.

A node that falls out of its rhythm is first asked. Only where it does not answer is it suspect, and
lost in one of three ways: its connection to the broker is gone, as the broker says more than once;
its lease has run out; or it has kept silent for as long as is tolerated. Each is slower where the
monitor has reason to suspect itself or a common cause. A node with SSH access is looked at over SSH
before it counts as lost. Time is attentive time (`attention`), so that what the monitor could not
have heard does not count as silence.
"""

from typing import Final, Literal

import msgspec

from interlock_health_monitor.attention import Climate
from interlock_health_monitor.rhythm import Rhythm, z_of
from interlock_schemas.health import State, Symptom

__all__ = [
    "PRESETS",
    "Facts",
    "Policy",
    "Probed",
    "SshFound",
    "Transition",
    "asks",
    "judge",
    "patience_s",
]

#: What asking a node brought: it answered; the broker knows of nobody there; nothing came back.
Probed = Literal["answered", "gone", "silent"]

#: What looking over SSH brought. ``unclear``: the look itself failed, which says nothing.
SshFound = Literal["alive", "unreachable", "unclear"]

_EVERYWHERE: Final = "*"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How patient to be. Seconds; of silences, attentive ones."""

    ask_phi: float = 4.0
    """A node is asked when its silence is as unlikely as this, by its own rhythm."""
    ask_floor: float = 1.5
    """But not before so many of its intervals."""
    ask_ceiling: float = 2.0
    """And after so many at the latest, however uneven it was."""
    ask_every_s: float = 0.35
    """Between two questions to a node that is quiet."""
    ask_timeout_s: float = 0.5
    silent_after: int = 2
    """Suspect after so many questions in a row that nothing came back to: one is easily lost."""
    gone_after: int = 2
    """So many answers that nobody is there, one after the other."""
    gone_floor: float = 2.2
    """Not lost before so many intervals of silence, whatever the broker says."""
    tolerance_s: float = 8.0
    """A silence that is tolerated of a node that is connected, or of which nothing is known."""
    crowd_tolerance_s: float = 15.0
    """The same where several went quiet at once, or the monitor is settling."""
    disruption_hold_s: float = 300.0
    """Nobody is lost for so long where too large a part of a zone is quiet."""
    ssh_patience_s: float = 6.0
    """How long a verdict waits for what SSH finds."""
    prove_s: float = 5.0
    """How long a node that came back has to do well before it is healthy."""
    prove_longest_s: float = 300.0
    """The same for one that was lost again and again; it doubles with each time."""
    suspect_ttl_s: float = 600.0
    lost_ttl_s: float = 3_600.0
    degraded_ttl_s: float = 600.0
    symptom_hold_s: float = 15.0
    """A symptom stands for so long after it was seen last, so that a value at its limit does not
    make a node well and sick by turns."""
    ssh_failures: int = 3
    """A node without an agent is lost after so many looks in a row that found it unreachable."""

    @property
    def ask_z(self) -> float:
        """`ask_phi` in standard deviations."""
        return z_of(self.ask_phi)


#: ``local``: one machine or rack. ``wan``: hosts over the internet.
PRESETS: Final[dict[str, Policy]] = {
    "local": Policy(),
    "wan": Policy(
        ask_floor=2.0,
        ask_ceiling=3.0,
        ask_timeout_s=1.0,
        gone_floor=2.5,
        tolerance_s=15.0,
        crowd_tolerance_s=30.0,
    ),
}


class Facts:
    """What is known of one node. The shell writes it, `judge` reads it."""

    __slots__ = (
        "_seen",
        "agent",
        "answers",
        "ask_at_s",
        "beat_at_s",
        "flaps",
        "gone",
        "heard_at_s",
        "last_asked_s",
        "lease",
        "leaving",
        "left",
        "name",
        "recovering_since_s",
        "retired",
        "rhythm",
        "silent_probes",
        "ssh",
        "ssh_at_s",
        "ssh_failures",
        "ssh_found",
        "state",
        "state_since_s",
        "suspected_at_s",
        "symptoms",
        "told",
        "zone",
    )

    def __init__(
        self,
        name: str,
        *,
        now_s: float,
        zone: str = "",
        agent: bool = True,
        ssh: bool = False,
        state: State = "unknown",
        interval_s: float = 1.0,
    ) -> None:
        self.name = name
        self.zone = zone
        self.agent = agent
        """Whether it is expected to beat."""
        self.answers = True
        """Whether it answers when it is asked. One that only beats is judged by its silence."""
        self.ssh = ssh
        """Whether it can be looked at over SSH."""
        self.state: State = state
        self.state_since_s = now_s
        self.rhythm = Rhythm(interval_s)
        self.heard_at_s: float | None = None
        """When it was last heard of: a beat or an answer. None: never, as far as this monitor
        knows. One that begins grants every member that it was heard of just now."""
        self.beat_at_s: float | None = None
        """When its last beat came, by which its rhythm is measured: answers are not part of it."""
        self.ask_at_s = now_s
        """Quiet from then on."""
        self.last_asked_s = -1e9
        self.gone = 0
        """Answers in a row that nobody is there."""
        self.silent_probes = 0
        """Questions in a row that nothing came back to."""
        self.lease: Literal["standing", "ended", "unknown"] = "unknown"
        self.ssh_found: SshFound | None = None
        """What was found since it went quiet; of nodes without an agent, last."""
        self.ssh_at_s = -1e9
        self.ssh_failures = 0
        self.symptoms: tuple[Symptom, ...] = ()
        self.suspected_at_s: float | None = None
        self.recovering_since_s: float | None = None
        self.flaps = 0
        self.leaving = False
        """It said that it is about to go."""
        self.left = False
        """It said that it went."""
        self.retired = False
        self._seen: dict[tuple[str, str], tuple[float, Symptom]] = {}
        self.told: object = None
        """What the last transition came to: only another one is one."""

    def beat(self, now_s: float, policy: Policy) -> None:
        """A heartbeat came. `now_s` is attentive time."""
        if self.beat_at_s is not None:
            self.rhythm.heard(now_s - self.beat_at_s)
        self.beat_at_s = now_s
        self._heard(now_s, policy)

    def answered(self, now_s: float, policy: Policy) -> None:
        """It answered a question, which says that it lives and nothing about its rhythm."""
        self._heard(now_s, policy)

    def _heard(self, now_s: float, policy: Policy) -> None:
        self.heard_at_s = now_s
        self.ask_at_s = now_s + patience_s(self.rhythm, policy)
        self.gone = 0
        self.silent_probes = 0
        if self.agent:
            self.ssh_found = None
            self.ssh_failures = 0

    def probed(self, outcome: Probed, now_s: float, policy: Policy) -> None:
        """A question to its agent ended."""
        if outcome == "answered":
            self.answered(now_s, policy)
        elif outcome == "gone":
            self.gone += 1
            self.silent_probes = 0
        else:
            self.silent_probes += 1
            self.gone = 0

    def showed(self, symptoms: tuple[Symptom, ...], now_s: float, policy: Policy) -> bool:
        """What is wrong with it was drawn anew; True where `symptoms` changed by it.

        What is not seen any more stands for `Policy.symptom_hold_s` still.
        """
        seen = self._seen
        fresh = {(each.kind, each.part): (now_s, each) for each in symptoms}
        until = now_s - policy.symptom_hold_s
        held = {k: v for k, v in seen.items() if k not in fresh and v[0] > until}
        self._seen = fresh | held
        found = tuple(each for _, each in self._seen.values())
        changed = found != self.symptoms
        self.symptoms = found
        return changed

    def looked(self, found: SshFound, now_s: float) -> None:
        """A look over SSH ended."""
        self.ssh_found = found
        self.ssh_at_s = now_s
        if found == "unreachable":
            self.ssh_failures += 1
        elif found == "alive":
            self.ssh_failures = 0
            if not self.agent:
                self.heard_at_s = now_s

    def silence_s(self, now_s: float) -> float | None:
        """How long it has been silent; None: it was never heard of."""
        return None if self.heard_at_s is None else max(0.0, now_s - self.heard_at_s)

    def quiet(self, now_s: float) -> bool:
        """Whether it has fallen out of its rhythm."""
        return self.agent and self.heard_at_s is not None and now_s >= self.ask_at_s

    def entered(self, transition: "Transition", now_s: float) -> None:
        """A transition was carried out."""
        state = transition.state
        self.told = transition.key
        if state == self.state:
            return
        if state == "suspect":
            self.suspected_at_s = now_s
        if state == "lost":
            self.flaps += 1
        if state == "recovering":
            self.recovering_since_s = now_s
        if state in ("healthy", "degraded", "recovering", "retired"):
            self.suspected_at_s = None
        self.state = state
        self.state_since_s = now_s


def patience_s(rhythm: Rhythm, policy: Policy) -> float:
    """The silence after which a node of such a rhythm counts as quiet, and is asked."""
    pace = rhythm.pace_s
    # One that has slowed down is not asked at every beat; but well before it would be lost.
    latest = max(policy.ask_ceiling * rhythm.interval_s, policy.tolerance_s / 2)
    ceiling = min(policy.ask_ceiling * pace, latest)
    if not rhythm.known:
        return ceiling
    return min(max(rhythm.late_after_s(policy.ask_z), policy.ask_floor * pace), ceiling)


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A node comes into another state, or stays with another reason."""

    state: State
    reason: str
    """One word for machines."""
    detail: str
    evidence: tuple[tuple[str, str], ...] = ()
    """Kind and sentence of each observation it rests on."""
    expires_s: float | None = None
    """A negative verdict is looked at anew after so long."""
    kinds: tuple[tuple[str, str], ...] = ()
    """Kind and part of each symptom."""

    @property
    def key(self) -> object:
        """What makes it the same as another: not the figures in its sentences."""
        return self.state, self.reason, self.kinds


def asks(facts: Facts, now_s: float, policy: Policy) -> bool:
    """Whether its agent is to be asked now whether it is there."""
    if facts.retired or facts.left or not facts.agent or not facts.answers:
        return False
    if not facts.quiet(now_s):
        return False
    pause = policy.ask_every_s
    if facts.state in ("lost", "retired"):
        # It will beat when it is back; to ask is for the case that only its beats are lost.
        pause = 30.0
    elif facts.silent_probes > 3:
        pause = 1.0
    return now_s - facts.last_asked_s >= pause


def judge(facts: Facts, climate: Climate, policy: Policy) -> Transition | None:
    """The state that a node comes into, or None where it stays as it is.

    Where a degraded node gets other symptoms, it is told anew.
    """
    found = _judge(facts, climate, policy)
    return None if found is None or found.key == facts.told else found


def _judge(facts: Facts, climate: Climate, policy: Policy) -> Transition | None:
    if facts.retired:
        return _to(facts, "retired", "retired", "taken out of the fleet on purpose")
    if not facts.agent:
        return _without_agent(facts, policy)
    now = climate.now_s
    if facts.heard_at_s is None:
        return None
    if not facts.quiet(now):
        return _heard_of(facts, now, policy)
    if facts.left:
        return _to(facts, "retired", "left", "it left in good order")
    if facts.answers and not facts.gone and facts.silent_probes < policy.silent_after:
        # It has not been asked yet, the answer is under way, or the one or the other was lost.
        return None
    if facts.leaving:
        # No alert; but what it holds is freed when it has left, so it is not held for gone early.
        if _lost_by(facts, climate, policy, facts.silence_s(now) or 0.0) is None:
            return None
        detail = "it said that it would leave, and is gone"
        return _to(facts, "retired", "gone_as_announced", detail)
    return _unanswered(facts, climate, policy)


def _unanswered(facts: Facts, climate: Climate, policy: Policy) -> Transition | None:
    now = climate.now_s
    silence = facts.silence_s(now) or 0.0
    evidence = _evidence(facts, silence)
    if facts.ssh_found == "alive":
        # Also where it counted as lost already: whatever the host holds is not to be given away.
        return _to(
            facts,
            "degraded",
            "agent_gone",
            "its agent is silent, and the host answers over SSH",
            (*evidence, ("ssh", "the host answers")),
            policy.degraded_ttl_s,
        )
    if facts.state not in ("suspect", "lost"):
        if climate.settling and silence < policy.tolerance_s:
            # Its connection broke with ours, as likely as not, and it is on its way back.
            return None
        return _to(
            facts,
            "suspect",
            "silent",
            f"silent for {silence:.1f} s and does not answer",
            evidence,
            policy.suspect_ttl_s,
        )
    if facts.state == "suspect" and (why := _lost_by(facts, climate, policy, silence)):
        if facts.ssh and facts.ssh_found is None and not _ssh_overdue(facts, now, policy):
            return None
        if facts.ssh_found is not None:
            evidence = (*evidence, ("ssh", f"over SSH: {facts.ssh_found}"))
        reason, detail = why
        return _to(facts, "lost", reason, detail, evidence, policy.lost_ttl_s)
    return None


def _ssh_overdue(facts: Facts, now_s: float, policy: Policy) -> bool:
    since = facts.suspected_at_s
    return since is not None and now_s - since >= policy.ssh_patience_s


def _lost_by(
    facts: Facts, climate: Climate, policy: Policy, silence: float
) -> tuple[str, str] | None:
    """Reason and sentence where a suspect counts as lost."""
    interval = facts.rhythm.interval_s
    patience = 1 + climate.score
    if facts.zone in climate.disrupted or _EVERYWHERE in climate.disrupted:
        if silence >= policy.disruption_hold_s:
            return "silent", f"silent for {silence:.0f} s, as a large part of its zone is"
        return None
    slow = climate.crowd or climate.settling
    if not slow:
        gone = facts.gone >= policy.gone_after + climate.score
        if gone and silence >= policy.gone_floor * interval * patience:
            return "agent_gone", "its connection to the broker is gone and it does not come back"
        if facts.lease == "ended" and silence >= policy.gone_floor * interval * patience:
            return "lease_ended", "its lease ran out and it does not answer"
    tolerance = (policy.crowd_tolerance_s if slow else policy.tolerance_s) * patience
    tolerance = max(tolerance, 4 * facts.rhythm.pace_s)
    if silence >= tolerance:
        return "silent", f"silent for {silence:.1f} s, longer than the {tolerance:g} s tolerated"
    return None


def _heard_of(facts: Facts, now: float, policy: Policy) -> Transition | None:
    if facts.left:
        return None
    if facts.state == "lost":
        return _to(facts, "recovering", "back", "it is heard of again")
    if facts.state == "recovering":
        since = facts.recovering_since_s if facts.recovering_since_s is not None else now
        proof = min(policy.prove_s * 2 ** max(0, facts.flaps - 1), policy.prove_longest_s)
        if now - since < proof:
            return None
    if facts.symptoms:
        return _degraded(facts, policy)
    return _to(facts, "healthy", "beating", "it beats and nothing is wrong with it")


def _without_agent(facts: Facts, policy: Policy) -> Transition | None:
    """A node that is only looked at over SSH."""
    found = facts.ssh_found
    if found is None:
        return None
    if found == "alive":
        if facts.state == "lost":
            return _to(facts, "recovering", "back", "it answers over SSH again")
        if facts.symptoms:
            return _degraded(facts, policy)
        return _to(facts, "healthy", "answers", "it answers over SSH")
    if found == "unclear":
        # Keys, users, jump hosts, our own net: nothing that says how the node is.
        if facts.state in ("suspect", "lost"):
            return None
        return _to(
            facts,
            "unknown",
            "ssh_unclear",
            "it could not be looked at over SSH, which says nothing about it",
        )
    evidence = (("ssh", f"unreachable {facts.ssh_failures} times in a row"),)
    if facts.ssh_failures >= policy.ssh_failures:
        if facts.state == "lost":
            return None
        if facts.state == "suspect":
            return _to(
                facts,
                "lost",
                "ssh_unreachable",
                f"unreachable over SSH {facts.ssh_failures} times in a row",
                evidence,
                policy.lost_ttl_s,
            )
    if facts.state in ("healthy", "degraded", "recovering", "unknown"):
        return _to(
            facts,
            "suspect",
            "ssh_unreachable",
            "unreachable over SSH",
            evidence,
            policy.suspect_ttl_s,
        )
    return None


def _degraded(facts: Facts, policy: Policy) -> Transition:
    return Transition(
        state="degraded",
        reason=facts.symptoms[0].kind,
        detail="; ".join(each.detail for each in facts.symptoms)[:500],
        evidence=tuple(("symptom", each.detail) for each in facts.symptoms),
        expires_s=policy.degraded_ttl_s,
        kinds=tuple((each.kind, each.part) for each in facts.symptoms),
    )


def _evidence(facts: Facts, silence: float) -> tuple[tuple[str, str], ...]:
    found = [("silence", f"{silence:.2f} s, phi {facts.rhythm.phi(silence):.1f}")]
    if facts.gone:
        found.append(("probe", f"nobody is there, {facts.gone} times"))
    if facts.silent_probes:
        found.append(("probe", f"no answer, {facts.silent_probes} times"))
    if facts.lease != "unknown":
        found.append(("lease", facts.lease))
    return tuple(found)


def _to(
    facts: Facts,
    state: State,
    reason: str,
    detail: str,
    evidence: tuple[tuple[str, str], ...] = (),
    expires_s: float | None = None,
) -> Transition | None:
    """The transition, unless it is there already."""
    if facts.state == state and state != "degraded":
        return None
    return Transition(
        state=state, reason=reason, detail=detail, evidence=evidence, expires_s=expires_s
    )
