"""Decides how long a node that leaves waits for its workers. Pure.

Times are those of one rising clock, in seconds.
"""

from typing import Final

import msgspec

from interlock_schemas.nodes import Leave

__all__ = ["MARGIN_S", "Going", "begin", "hasten", "leaving", "may_go"]

#: What is kept of a known deadline for saying farewell, seconds.
MARGIN_S: Final = 2.0


class Going(msgspec.Struct, frozen=True, kw_only=True):
    """A leave that has begun."""

    reason: str
    ends_at: float
    """When the workers have had their time."""
    deadline_at: float | None = None
    """When the machine goes, as far as known."""


def begin(reason: str, now: float, *, grace_s: float, deadline_s: float | None) -> Going:
    """Begin to leave: the workers get what a notice leaves them, else the grace."""
    if deadline_s is None:
        return Going(reason=reason, ends_at=now + grace_s)
    ends_at = now + max(0.0, deadline_s - MARGIN_S)
    return Going(reason=reason, ends_at=ends_at, deadline_at=now + deadline_s)


def hasten(going: Going, now: float, *, grace_s: float) -> Going:
    """Somebody stops the agent meanwhile, and waits no longer than the grace."""
    return msgspec.structs.replace(going, ends_at=min(going.ends_at, now + grace_s))


def may_go(going: Going, now: float, *, working: int, hurried: bool) -> bool:
    """Whether nothing is left to wait for."""
    return hurried or working == 0 or now >= going.ends_at


def leaving(going: Going, now: float) -> Leave:
    """What is said of it at this moment."""
    until = going.ends_at if going.deadline_at is None else going.deadline_at
    return Leave(reason=going.reason, deadline_s=round(max(0.0, until - now), 3))
