"""Decides how long a node that leaves waits for its workers, and for its artifacts. Pure.

Times are those of one rising clock, in seconds.
"""

from typing import Final

import msgspec

from interlock_schemas.nodes import Leave

__all__ = ["MARGIN_S", "Going", "Handover", "at_risk", "begin", "hasten", "leaving", "may_go"]

#: What is kept of a known deadline for saying farewell, seconds.
MARGIN_S: Final = 2.0

#: Where no router has said anything for so long, seconds, nobody counts what is at risk. One that
#: was killed is back by then.
SILENT_S: Final = 5.0
#: As above, where none has ever answered: there is no router in this fleet.
NOBODY_S: Final = 2.0


class Going(msgspec.Struct, frozen=True, kw_only=True):
    """A leave that has begun."""

    reason: str
    ends_at: float
    """When the workers, and what is handed over, have had their time."""
    deadline_at: float | None = None
    """When the machine goes, as far as known."""


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What of a leaving node's artifacts is not safe elsewhere, as the router says."""

    held: int
    """Artifacts in its store."""
    since: float
    """When the leave began, or something was sealed after that."""
    at_risk: int | None = None
    """As it was told last. None: nobody has."""
    asked_at: float = 0.0
    """When that was asked."""
    heard_at: float = 0.0
    """When that was told."""


def at_risk(handover: Handover, now: float) -> bool:
    """Whether it is worth waiting for artifacts to be handed over. Not knowing is, for a while."""
    if not handover.held:
        return False
    if handover.at_risk is None:
        return now - handover.since < NOBODY_S
    if handover.asked_at < handover.since:
        return now - handover.since < SILENT_S
    return handover.at_risk > 0 and now - handover.heard_at < SILENT_S


def begin(reason: str, now: float, *, grace_s: float, deadline_s: float | None) -> Going:
    """Begin to leave: the workers get what a notice leaves them, else the grace."""
    if deadline_s is None:
        return Going(reason=reason, ends_at=now + grace_s)
    ends_at = now + max(0.0, deadline_s - MARGIN_S)
    return Going(reason=reason, ends_at=ends_at, deadline_at=now + deadline_s)


def hasten(going: Going, now: float, *, grace_s: float) -> Going:
    """Somebody stops the agent meanwhile, and waits no longer than the grace."""
    return msgspec.structs.replace(going, ends_at=min(going.ends_at, now + grace_s))


def may_go(
    going: Going,
    now: float,
    *,
    working: int,
    hurried: bool,
    handover: Handover | None = None,
) -> bool:
    """Whether nothing is left to wait for. `handover` None: the node has no store."""
    if hurried or now >= going.ends_at:
        return True
    return working == 0 and (handover is None or not at_risk(handover, now))


def leaving(going: Going, now: float) -> Leave:
    """What is said of it at this moment."""
    until = going.ends_at if going.deadline_at is None else going.deadline_at
    return Leave(reason=going.reason, deadline_s=round(max(0.0, until - now), 3))
