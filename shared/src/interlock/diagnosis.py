"""What can be wrong with a fleet's broker, why it matters and what to do: pure judgments.

Whether messages are kept as promised is judged in `interlock.durability`; the facts are gathered
by `interlock.doctor`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

__all__ = [
    "GUARANTEES",
    "Backlog",
    "Finding",
    "Peer",
    "Standing",
    "backlogs",
    "clock",
    "leaderless",
    "missing",
    "peers",
    "services",
    "settings",
]

#: Settings of a stream that decide how safely it keeps, not whether a service can work on it.
GUARANTEES: Final = frozenset(
    {"storage", "persist_mode", "num_replicas", "duplicate_window", "max_msg_size"}
)

#: A replica that its leader has not heard of for so long, seconds, is behind or away. Leaders
#: and followers speak at least once a second.
_SILENT_S: Final = 5.0

#: So many messages may wait without anybody being told, however the number moves.
_WAITING: Final = 1_000

#: The clocks of two machines may differ by so much, seconds. Leases carry a margin of that size.
_CLOCK_S: Final = 1.0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, or that cannot be told."""

    check: str
    """What kind of thing was looked at: ``sync``, ``replicas``, ``max_payload``, …"""
    subject: str
    """Which one: a server, a stream, a service."""
    severity: Literal["error", "warning"]
    found: str
    why: str
    """Why it matters, one sentence."""
    remedy: str
    """A command or a line of configuration."""

    def describe(self) -> str:
        """One line for a log or an error."""
        return f"{self.subject}: {self.found}. {self.why} Remedy: {self.remedy}"


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A follower of a stream, as its leader sees it."""

    name: str
    current: bool = False
    offline: bool = False
    silent_s: float = 0.0
    """How long ago the leader last heard of it."""
    lag: int = 0
    """Entries that it has yet to get."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as it stands on the broker."""

    config: Mapping[str, Any]
    leader: str = ""
    """The server that leads it; empty: none does."""
    peers: tuple[Peer, ...] = ()

    @property
    def servers(self) -> frozenset[str]:
        """Every server that holds a copy."""
        return frozenset(name for name in (self.leader, *(p.name for p in self.peers)) if name)


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """A durable consumer at one moment."""

    stream: str
    name: str
    pending: int
    """Messages that wait to be delivered."""
    in_hand: int
    """Messages delivered and not yet acknowledged."""
    pulls: int
    """Pull requests that wait for messages."""
    delivered: int
    """Deliveries so far."""
    paused_s: float = 0.0
    """How much longer it is paused; 0: it is not."""


def settings(kind: str, name: str, differences: Iterable[tuple[str, Any, Any, bool]]) -> Finding:
    """A finding for what stands otherwise than declared.

    `differences` are setting, declared value, standing value and whether `setup` can mend it.
    What touches only `GUARANTEES` is a warning: `interlock.durability` judges what falls short.
    """
    known = list(differences)
    serious = any(setting not in GUARANTEES for setting, _, _, _ in known)
    mendable = all(safe for _, _, _, safe in known)
    return Finding(
        check=kind,
        subject=name,
        severity="error" if serious else "warning",
        found="; ".join(f"{s} is {have!r}, declared {want!r}" for s, want, have, _ in known),
        why="Services check what they need at start, and refuse what stands otherwise."
        if serious
        else "It stands otherwise than every other part of the fleet expects.",
        remedy="interlock setup"
        if mendable
        else "interlock setup refuses, because the change could lose data: move the data away and "
        f"delete it (nats {'consumer' if kind == 'consumer' else 'stream'} rm), or change the "
        "declaration; then interlock setup",
    )


def missing(kind: str, name: str) -> Finding:
    """A finding for what is declared and does not stand."""
    return Finding(
        check=kind,
        subject=name,
        severity="error",
        found="missing",
        why="Whoever needs it does not start, and what is published for it is refused.",
        remedy="interlock setup",
    )


def leaderless(name: str) -> Finding:
    """A finding for a stream that no server answers for."""
    return Finding(
        check="replicas",
        subject=name,
        severity="error",
        found="no server leads it",
        why="Nothing can be published to it or read from it before most of its copies are there.",
        remedy="start the servers that hold it: nats server report jetstream names those that "
        "are away",
    )


def peers(name: str, standing: Standing) -> list[Finding]:
    """Whether every copy of a stream is there and has everything."""
    if not standing.leader:
        return [leaderless(name)]
    found = []
    for peer in standing.peers:
        if peer.offline:
            severity: Literal["error", "warning"] = "error"
            what = f"its copy on {peer.name} is offline"
        elif peer.silent_s >= _SILENT_S:
            severity = "error"
            what = f"its copy on {peer.name} has been silent for {peer.silent_s:.0f} s"
        elif not peer.current:
            severity = "warning"
            what = f"its copy on {peer.name} lags by {peer.lag:,} entries"
        else:
            continue
        found.append(
            Finding(
                check="replicas",
                subject=name,
                severity=severity,
                found=what,
                why="There are fewer copies than declared until it has caught up: one failure "
                "more may stop the stream.",
                remedy=f"see that {peer.name} runs and reaches the others "
                "(nats server report jetstream)",
            )
        )
    return found


def backlogs(
    before: Iterable[Backlog], after: Iterable[Backlog], *, apart_s: float
) -> list[Finding]:
    """Consumers that are paused, or that fall behind between two looks `apart_s` seconds apart."""
    earlier = {(each.stream, each.name): each for each in before}
    found = []
    for now in after:
        was = earlier.get((now.stream, now.name))
        if now.paused_s > 0:
            found.append(
                _behind(
                    now,
                    f"paused for {now.paused_s:,.0f} s more, {now.pending:,} messages wait",
                    "Nothing is delivered to it: somebody paused it, or its flood breaker did "
                    "after too many failures.",
                    f"find out why it was paused, then: nats consumer resume {now.stream} "
                    f"{now.name}",
                )
            )
        elif was is None or not now.pending:
            continue
        elif now.delivered == was.delivered and not (now.pulls or now.in_hand):
            found.append(
                _behind(
                    now,
                    f"{now.pending:,} messages wait and nobody asks for them",
                    "Its service or worker is not running, and the stream's age limit takes what "
                    "waits too long.",
                    f"start whoever consumes as {now.name}; if nobody shall any more: "
                    f"nats consumer rm {now.stream} {now.name}",
                )
            )
        elif now.pending > was.pending and now.pending >= _WAITING:
            found.append(
                _behind(
                    now,
                    f"{now.pending:,} messages wait, {now.pending - was.pending:,} more than "
                    f"{apart_s:g} s ago",
                    "They arrive faster than they are handled, and the stream's age limit takes "
                    "what waits too long.",
                    f"run more processes that consume as {now.name}, or raise "
                    "INTERLOCK_CONCURRENCY",
                )
            )
    return found


def _behind(consumer: Backlog, found: str, why: str, remedy: str) -> Finding:
    return Finding(
        check="backlog",
        subject=f"{consumer.stream}/{consumer.name}",
        severity="warning",
        found=found,
        why=why,
        remedy=remedy,
    )


def services(wanted: Mapping[str, str], answering: Iterable[str]) -> list[Finding]:
    """Services, by name with their module, that do not answer."""
    there = set(answering)
    return [
        Finding(
            check="service",
            subject=name,
            severity="error",
            found="does not answer",
            why="What it is owed waits, and its commands fail.",
            remedy=f"interlock up --only {name}, or python -m {module}; its log says why it ended",
        )
        for name, module in sorted(wanted.items())
        if name not in there
    ]


def clock(
    *, broker_s: float, asked_s: float, answered_s: float, subject: str = "broker"
) -> list[Finding]:
    """Whether the broker's clock and ours agree, from one question and its answer.

    All in seconds since 1970: the broker's time in the answer, ours when asking and when
    answered. The broker's lies between both, so only what is certain counts.
    """
    if asked_s <= broker_s <= answered_s:
        return []
    off = broker_s - (asked_s if broker_s < asked_s else answered_s)
    if abs(off) <= _CLOCK_S:
        return []
    return [
        Finding(
            check="clock",
            subject=subject,
            severity="warning",
            found=f"its clock is {abs(off):.1f} s {'ahead of' if off > 0 else 'behind'} this "
            "machine's",
            why="Times of events and letters and `--since` are off by that much, and so is every "
            "expiry that is compared with another machine's clock.",
            remedy="synchronise both clocks: timedatectl set-ntp true",
        )
    ]
