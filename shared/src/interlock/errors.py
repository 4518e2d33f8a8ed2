"""Every error that Interlock raises, each with a message that says what to do next."""

from interlock_schemas.letters import Code

__all__ = [
    "BreakerOpen",
    "BusUnavailable",
    "CommandFailed",
    "ConnectFailed",
    "ContractBroken",
    "FenceBusy",
    "FenceUnusable",
    "InterlockError",
    "LeaseLost",
    "LockBusy",
    "LockDeadlock",
    "LockError",
    "LockRefused",
    "LockTimeout",
    "MessageTooLarge",
    "NobodyThere",
    "NotAcknowledged",
    "OutboxFull",
    "OutboxUnusable",
    "PublishRefused",
    "Reject",
    "SettingsInvalid",
    "StaleToken",
    "WrongRevision",
]


class InterlockError(Exception):
    """Base of all errors that Interlock raises on purpose."""


class ConnectFailed(InterlockError):
    """No broker could be reached, or it did not let us in."""


class SettingsInvalid(InterlockError):
    """A variable of the environment has a value that makes no sense."""


class BusUnavailable(InterlockError):
    """The broker did not answer in time. Nothing is known about what was asked of it."""


class NobodyThere(BusUnavailable):
    """The broker says that nobody listens on a subject that was asked."""


class NotAcknowledged(BusUnavailable):
    """A publish got no acknowledgement before its deadline.

    It may be stored or not. Publishing again under the same id is safe.
    """


class PublishRefused(InterlockError):
    """The broker said no, and a retry will not change its mind."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code
        """The JetStream error code."""


class WrongRevision(PublishRefused):
    """A compare-and-set lost: somebody else wrote in between."""

    def __init__(self, message: str, *, code: int, last: int | None = None) -> None:
        super().__init__(message, code=code)
        self.last = last
        """The sequence that stands instead, where the broker names it; 0: none."""
        self.unsure = False
        """An earlier attempt got no answer: it may have been stored, and be the reason."""


class LockError(InterlockError):
    """Base of what can go wrong with a lock."""


class LockBusy(LockError):
    """Somebody else holds it, and we did not want to wait."""


class LockTimeout(LockBusy):
    """It was not granted before the deadline."""


class LockDeadlock(LockError):
    """To wait for it would be to wait for ever: the holders wait for what we hold."""


class LockRefused(LockError):
    """The lock service says no: the request makes no sense, or contradicts what stands."""


class LeaseLost(LockError):
    """The lock is not held any more. What was to be written under it must not be written."""


class StaleToken(InterlockError):
    """A higher fencing token has been seen: whoever shows this one has lost its lease."""

    def __init__(self, message: str, *, resource: str, shown: int, seen: int) -> None:
        super().__init__(message)
        self.resource = resource
        """What was to be written."""
        self.shown = shown
        """The token of the refused writer."""
        self.seen = seen
        """The highest token that the checker knows."""


class FenceBusy(InterlockError):
    """Another write of the same resource goes on. Nothing was written; try again."""


class FenceUnusable(InterlockError):
    """A fence cannot vouch for its records: damaged, gone, or kept where it must not be."""


class MessageTooLarge(InterlockError):
    """The message is larger than the broker takes."""


class OutboxFull(InterlockError):
    """The outbox has no room, and none came in time. Nothing of the publish is stored."""


class OutboxUnusable(InterlockError):
    """The outbox's file cannot be used: damaged, of a newer format, on a full disk, or closed."""


class ContractBroken(InterlockError):
    """What stands on the broker differs from what is needed: `interlock setup` mends it."""


class BreakerOpen(InterlockError):
    """Calls to a node failed too often, and are held back for a while. Nothing was tried."""

    def __init__(self, message: str, *, node: str, transport: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.node = node
        self.transport = transport
        self.retry_after_s = retry_after_s
        """Seconds until the next trial may be made."""


class CommandFailed(InterlockError):
    """A service answered a command with an error."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
        """The service's error code: 400 bad request, 404 not found, 409 conflict, 500 its fault."""


class Reject(InterlockError):
    """Raised by a handler: no retry will help, make this message a dead letter now."""

    def __init__(
        self,
        reason: str,
        *,
        code: str = "rejected",
        name: str = "",
        suggestions: tuple[str, ...] = (),
    ) -> None:
        """`code` is one of `interlock_schemas.letters.Code`; ValueError for any other."""
        super().__init__(str(reason))
        self.reason = str(reason)
        self.code = Code(code)
        self.name = name
        """The event type or legacy name, where one could be read."""
        self.suggestions = suggestions
