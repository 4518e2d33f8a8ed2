"""What came of an attempt over SSH, and what it says about the host. Pure decisions.

An attempt is judged by where it failed, by the type of the exception, by ``errno`` and by the code
in the protocol: never by a message, which a remote command, a login banner or another version of a
library may word as it likes. What befalls a jump host says nothing about the host behind it.
"""

import errno
from typing import Final, Literal

import msgspec

__all__ = [
    "NO_REPORT",
    "OK",
    "Against",
    "Fault",
    "Kind",
    "Outcome",
    "SshFailed",
    "Stage",
    "Weight",
    "busy",
    "classify",
    "command_failed",
    "hanging",
    "held_back",
    "host_key_unknown",
    "misconfigured",
    "mro",
    "unanswered_behind_jump",
]

#: Where an attempt was when it failed. ``settings``: before anything was sent. ``queue``: it waited
#: for its turn. ``open``: the channel for the command. ``through``: the jump host was asked for a
#: way on.
Stage = Literal["settings", "queue", "resolve", "connect", "through", "login", "open", "command"]

Kind = Literal[
    "ok",
    "unreachable",
    "name_not_resolved",
    "host_key",
    "auth",
    "config",
    "protocol",
    "hanging",
    "command_failed",
    "monitor_busy",
    "held_back",
]

#: At which host of the way it failed.
Against = Literal["node", "jump"]

#: How much an outcome speaks for the host being down.
Weight = Literal["none", "weak", "strong"]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a failed attempt."""

    stage: Stage
    types: tuple[str, ...] = ()
    """Names of the exception's class and its bases, the class first."""
    errno: int | None = None
    code: int | None = None
    """Why a channel was not opened, by RFC 4254, 5.1."""
    detail: str = ""
    """For a person. Nothing is decided by it."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an attempt."""

    kind: Kind
    cause: str = ""
    """Which of its kind: ``refused``, ``timed_out``, ``mismatch`` and the like."""
    against: Against = "node"
    host: str = ""
    """The host of the way at which it failed. Empty: the node itself."""
    exit_status: int | None = None
    """Of the command, where one ran to its end."""
    retry_after_s: float | None = None
    """Seconds after which it makes sense to ask again, where that is known."""
    detail: str = ""
    """For a person."""

    @property
    def ok(self) -> bool:
        """Whether the command ran and succeeded."""
        return self.kind == "ok"

    @property
    def proves_up(self) -> bool:
        """Whether the node itself has been talked to: it showed its pinned key."""
        return self.against == "node" and (
            self.kind in ("ok", "command_failed", "auth") or self.cause in _AFTER_LOGIN
        )

    @property
    def speaks_for_down(self) -> Weight:
        """Whether this is evidence that the node is down."""
        if self.against == "jump":
            return "none"
        if self.kind == "unreachable":
            # Without a route to the whole network, the fault is more likely near us.
            return "weak" if self.cause == "no_route_to_network" else "strong"
        return "weak" if self.kind == "hanging" and not self.proves_up else "none"

    @property
    def retry(self) -> bool:
        """Whether another attempt may end otherwise without anybody mending anything."""
        return self.kind in ("unreachable", "hanging", "protocol", "monitor_busy", "held_back") or (
            self.kind == "name_not_resolved" and self.cause == "resolver_failed"
        )

    @property
    def counts_as(self) -> Literal["success", "failure", "neutral"]:
        """What a breaker for this node is told.

        A command that fails was carried there and back. What failed before the node was reached, or
        on our side, says nothing about it.
        """
        if self.kind in ("ok", "command_failed"):
            return "success"
        if self.against == "jump" or self.kind in ("config", "monitor_busy", "held_back"):
            return "neutral"
        return "failure"

    @property
    def opens_breaker(self) -> bool:
        """Whether enough of these in a row open the breaker of this node."""
        return self.counts_as == "failure"


class SshFailed(Exception):
    """An attempt came to nothing; its outcome says how, and at which host."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"{outcome.kind}: {outcome.cause}: {outcome.detail}")
        self.outcome = outcome


OK: Final = Outcome(kind="ok", exit_status=0)
#: The session went well, and nothing of the report was in it: a shell that runs something else.
NO_REPORT: Final = Outcome(
    kind="command_failed", cause="no_report", exit_status=0, detail="it told nothing about itself"
)

#: Causes that can only be seen behind a login.
_AFTER_LOGIN: Final = frozenset(
    {"open_timed_out", "command_timed_out", "session_refused", "lost_in_command"}
)

_BUSY: Final = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,
        errno.ENETDOWN,
        errno.EAGAIN,
    }
)
_UNREACHABLE: Final = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timed_out",
    errno.EHOSTUNREACH: "no_route",
    errno.EHOSTDOWN: "no_route",
    errno.ENETUNREACH: "no_route_to_network",
}
#: A firewall that answers for the host, or a host that answers and drops: it was reached.
_DROPPED: Final = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE})
_NOT_OURS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.EAFNOSUPPORT})

#: The resolver says that there is no such name, and asking again will not change that.
_NO_SUCH_NAME: Final = frozenset({-2, -5})

_PROHIBITED: Final = 1
_CONNECT_FAILED: Final = 2
_UNKNOWN_CHANNEL: Final = 3
_SHORTAGE: Final = 4


def mro(error: BaseException) -> tuple[str, ...]:
    """The names of an exception's class and its bases, for `Fault.types`."""
    return tuple(each.__name__ for each in type(error).__mro__)


def busy(cause: str, detail: str) -> Outcome:
    """We did not get round to it: it says nothing about any host."""
    return Outcome(kind="monitor_busy", cause=cause, detail=detail)


def held_back(retry_after_s: float, detail: str) -> Outcome:
    """The breaker is open: nothing was tried."""
    return Outcome(
        kind="held_back", cause="breaker_open", retry_after_s=retry_after_s, detail=detail
    )


def misconfigured(cause: str, detail: str) -> Outcome:
    """What we were told cannot be used: no identity, a key file that cannot be read."""
    return Outcome(kind="config", cause=cause, detail=detail)


def host_key_unknown(detail: str) -> Outcome:
    """Nobody has said which key the host has, and it is not trusted on first use."""
    return Outcome(kind="host_key", cause="unknown", detail=detail)


def hanging(stage: Stage, detail: str) -> Outcome:
    """It did not answer in time."""
    if stage == "connect":
        return Outcome(kind="unreachable", cause="timed_out", detail=detail)
    if stage == "resolve":
        return Outcome(kind="name_not_resolved", cause="resolver_failed", detail=detail)
    cause = "command_timed_out" if stage == "command" else f"{stage}_timed_out"
    return Outcome(kind="hanging", cause=cause, detail=detail)


def unanswered_behind_jump(detail: str) -> Outcome:
    """The jump host is well, and cannot get through to the host behind it in time."""
    return Outcome(kind="unreachable", cause="timed_out", detail=detail)


def command_failed(exit_status: int | None, signal: str | None = None) -> Outcome:
    """The command ran, and did not succeed."""
    how = f"signal {signal}" if exit_status is None else f"exit status {exit_status}"
    cause = "signal" if exit_status is None else "exit_status"
    return Outcome(kind="command_failed", cause=cause, exit_status=exit_status, detail=how)


def classify(fault: Fault) -> Outcome:
    """The outcome of an attempt that ended in an exception."""
    kind, cause = _kind(fault)
    return Outcome(kind=kind, cause=cause, detail=fault.detail)


def _kind(fault: Fault) -> tuple[Kind, str]:
    types = frozenset(fault.types)
    if fault.stage == "settings":
        return "config", "unusable"
    if "gaierror" in types or "herror" in types:
        known = fault.errno in _NO_SUCH_NAME
        return "name_not_resolved", "no_such_name" if known else "resolver_failed"
    if "ChannelOpenError" in types:
        return _channel(fault)
    by_type = _by_type(types)
    if by_type is not None:
        return by_type
    if "OSError" in types:
        return _os_error(fault)
    if "Error" in types:
        return "protocol", _lost(fault.stage)
    # Names that cannot be resolved, or what the library stumbled over in what it was sent.
    return ("config", "unusable") if fault.stage == "resolve" else ("protocol", "malformed")


def _by_type(types: frozenset[str]) -> tuple[Kind, str] | None:
    if "HostKeyNotVerifiable" in types:
        return "host_key", "mismatch"
    if types & {"PermissionDenied", "IllegalUserName", "PasswordChangeRequired"}:
        return "auth", "refused"
    if types & {"KeyImportError", "KeyEncryptionError", "ConfigParseError"}:
        return "config", "unusable"
    if types & {"ProtocolNotSupported", "KeyExchangeFailed", "CompressionError"}:
        return "protocol", "not_supported"
    if types & {"ProtocolError", "MACError", "PacketDecodeError", "ServiceNotAvailable"}:
        return "protocol", "malformed"
    return None


def _lost(stage: Stage) -> str:
    return "lost_in_command" if stage == "command" else "disconnected"


def _os_error(fault: Fault) -> tuple[Kind, str]:
    number = fault.errno
    if number in _BUSY:
        return "monitor_busy", "out_of_resources"
    if number in _NOT_OURS:
        return "config", "not_permitted"
    if number in _DROPPED:
        return "protocol", _lost(fault.stage)
    if fault.stage != "connect":
        # It was there a moment ago: the connection broke.
        return "protocol", _lost(fault.stage)
    cause = "failed" if number is None else _UNREACHABLE.get(number, "failed")
    return "unreachable", cause


def _channel(fault: Fault) -> tuple[Kind, str]:
    if fault.stage != "through":
        return "protocol", "session_refused"
    if fault.code == _CONNECT_FAILED:
        return "unreachable", "refused_behind_jump"
    if fault.code in (_PROHIBITED, _UNKNOWN_CHANNEL):
        return "config", "forwarding_prohibited"
    if fault.code == _SHORTAGE:
        return "monitor_busy", "jump_host_short_of_resources"
    return "protocol", "session_refused"
