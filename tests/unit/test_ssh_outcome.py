"""What an attempt over SSH says is read from types and codes, never from words."""

import errno

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_health_monitor import ssh_outcome
from interlock_health_monitor.ssh_outcome import Fault, Outcome, Stage, classify, mro

STAGES: tuple[Stage, ...] = (
    "settings",
    "queue",
    "resolve",
    "connect",
    "through",
    "login",
    "open",
    "command",
)


def of(error: Exception, stage: Stage = "login") -> Outcome:
    return classify(
        Fault(
            stage=stage,
            types=mro(error),
            errno=error.errno if isinstance(error, OSError) else None,
            code=error.code if isinstance(error, asyncssh.ChannelOpenError) else None,
            detail=str(error),
        )
    )


@pytest.mark.parametrize(
    ("error", "stage", "kind", "cause"),
    [
        (OSError(errno.ECONNREFUSED, ""), "connect", "unreachable", "refused"),
        (OSError(errno.EHOSTUNREACH, ""), "connect", "unreachable", "no_route"),
        (OSError(errno.ETIMEDOUT, ""), "connect", "unreachable", "timed_out"),
        (OSError(errno.ENETUNREACH, ""), "connect", "unreachable", "no_route_to_network"),
        (OSError(errno.ECONNRESET, ""), "connect", "protocol", "disconnected"),
        (OSError(errno.EMFILE, ""), "connect", "monitor_busy", "out_of_resources"),
        (OSError(errno.EPERM, ""), "connect", "config", "not_permitted"),
        (OSError(errno.ETIMEDOUT, ""), "command", "protocol", "lost_in_command"),
        (asyncssh.HostKeyNotVerifiable(""), "login", "host_key", "mismatch"),
        (asyncssh.PermissionDenied(""), "login", "auth", "refused"),
        (asyncssh.KeyImportError(""), "settings", "config", "unusable"),
        (asyncssh.ProtocolError(""), "login", "protocol", "malformed"),
        (asyncssh.ProtocolNotSupported(""), "login", "protocol", "not_supported"),
        (asyncssh.KeyExchangeFailed(""), "login", "protocol", "not_supported"),
        (asyncssh.ConnectionLost(""), "login", "protocol", "disconnected"),
        (asyncssh.ConnectionLost(""), "command", "protocol", "lost_in_command"),
        (asyncssh.ChannelOpenError(1, ""), "through", "config", "forwarding_prohibited"),
        (asyncssh.ChannelOpenError(2, ""), "through", "unreachable", "refused_behind_jump"),
        (
            asyncssh.ChannelOpenError(4, ""),
            "through",
            "monitor_busy",
            "jump_host_short_of_resources",
        ),
        (asyncssh.ChannelOpenError(2, ""), "open", "protocol", "session_refused"),
    ],
)
def test_each_failure_has_its_kind(error: Exception, stage: Stage, kind: str, cause: str) -> None:
    outcome = of(error, stage)
    assert (outcome.kind, outcome.cause) == (kind, cause)


@given(
    text=st.text(),
    stage=st.sampled_from(STAGES),
    number=st.none() | st.integers(-10, 200),
    types=st.lists(st.sampled_from(["OSError", "Error", "DisconnectError", "ValueError", "X"])),
)
def test_words_change_nothing(
    text: str, stage: Stage, number: int | None, types: list[str]
) -> None:
    plain = classify(Fault(stage=stage, types=tuple(types), errno=number))
    worded = classify(Fault(stage=stage, types=tuple(types), errno=number, detail=text))
    assert (plain.kind, plain.cause) == (worded.kind, worded.cause)


def test_only_a_host_that_cannot_be_reached_or_hangs_may_be_down() -> None:
    weights = {
        "refused": of(OSError(errno.ECONNREFUSED, ""), "connect").speaks_for_down,
        "hanging": ssh_outcome.hanging("login", "").speaks_for_down,
        "key": of(asyncssh.HostKeyNotVerifiable("")).speaks_for_down,
        "auth": of(asyncssh.PermissionDenied("")).speaks_for_down,
        "garbage": of(asyncssh.ProtocolError("")).speaks_for_down,
        "busy": ssh_outcome.busy("queue", "").speaks_for_down,
        "held": ssh_outcome.held_back(3, "").speaks_for_down,
        "command": ssh_outcome.hanging("command", "").speaks_for_down,
        "failed": ssh_outcome.command_failed(1).speaks_for_down,
    }
    assert {name: weight for name, weight in weights.items() if weight != "none"} == {
        "refused": "strong",
        "hanging": "weak",
    }


@given(
    kind=st.sampled_from(
        ["unreachable", "hanging", "protocol", "auth", "host_key", "name_not_resolved"]
    ),
    cause=st.text(),
)
def test_what_befalls_a_jump_host_is_no_evidence_against_the_node(
    kind: ssh_outcome.Kind, cause: str
) -> None:
    outcome = Outcome(kind=kind, cause=cause, against="jump", host="bastion")
    assert outcome.speaks_for_down == "none"
    assert not outcome.opens_breaker
    assert not outcome.proves_up


def test_a_host_that_refuses_us_behind_its_own_key_is_up() -> None:
    assert of(asyncssh.PermissionDenied("")).proves_up
    assert ssh_outcome.command_failed(1).proves_up
    assert ssh_outcome.hanging("command", "").proves_up
    assert not of(asyncssh.HostKeyNotVerifiable("")).proves_up
    assert not ssh_outcome.hanging("login", "").proves_up


def test_what_a_person_has_to_mend_is_not_tried_again_at_once() -> None:
    assert not of(asyncssh.HostKeyNotVerifiable("")).retry
    assert not of(asyncssh.PermissionDenied("")).retry
    assert not ssh_outcome.misconfigured("no_identity", "").retry
    assert of(OSError(errno.ECONNREFUSED, ""), "connect").retry


def test_what_is_our_own_fault_or_a_jump_hosts_does_not_open_the_breaker() -> None:
    assert ssh_outcome.busy("late", "").counts_as == "neutral"
    assert ssh_outcome.misconfigured("no_identity", "").counts_as == "neutral"
    assert ssh_outcome.command_failed(1).counts_as == "success"
    assert ssh_outcome.OK.counts_as == "success"
    assert of(asyncssh.PermissionDenied("")).opens_breaker
