"""What becomes of a message whose handling failed: again later, or a dead letter. Pure.

The broker redelivers without limit and counts deliveries; these rules decide. Deliveries also rise
when a process or the broker is killed, so a message is called poison only well above the number
of attempts that a handler gets; and `slack` are those that a flood may have spent.
"""

from collections.abc import Callable

import msgspec

from interlock.backoff import delay_s as backoff_s
from interlock_schemas.letters import Code

__all__ = ["Dead", "Handled", "Later", "Retry", "RetryPolicy", "after_failure", "on_delivery"]


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how patiently a message is tried."""

    attempts: int = 5
    """Deliveries after which a failure makes it a dead letter. At least 1."""
    base_s: float = 0.5
    """Pause before the second attempt; it doubles from there, with jitter."""
    cap_s: float = 60.0
    """The longest pause."""
    poison_after: int = 20
    """Deliveries without any end after which it is not handed to the handler again."""
    timeout_s: float = 300.0
    """How long one call of the handler may take."""


class Handled(msgspec.Struct, frozen=True):
    """What a batch handler says of a message that it handled."""


class Retry(msgspec.Struct, frozen=True):
    """What a batch handler says of a message that it could not handle now: a failed attempt."""

    delay_s: float | None = None
    """Pause before the next attempt, seconds. None: as the retry policy has it."""
    reason: str = "the handler asked for another attempt"
    """One sentence, which a dead letter would show."""


class Later(msgspec.Struct, frozen=True):
    """Deliver it again after so many seconds."""

    delay_s: float


class Dead(msgspec.Struct, frozen=True):
    """Make it a dead letter."""

    code: Code


def on_delivery(policy: RetryPolicy, deliveries: int, *, slack: int = 0) -> Dead | None:
    """Whether a message is too dangerous to be handed out once more."""
    if deliveries > max(policy.poison_after, policy.attempts) + slack:
        return Dead(Code.POISON)
    return None


def after_failure(
    policy: RetryPolicy,
    deliveries: int,
    code: Code,
    *,
    bus_failed: bool = False,
    flood_s: float | None = None,
    slack: int = 0,
    delay_s: float | None = None,
    rand: Callable[[], float],
) -> Later | Dead:
    """Decide after attempt number `deliveries` failed.

    A permanent failure is never retried. A failure of the bus itself says nothing about the
    message, nor does one during a flood, which lasts for another `flood_s` seconds: both are
    retried whatever the count; `on_delivery` bounds it. `delay_s` is the handler's own wish.
    """
    if code.failure_class != "exhausted":
        return Dead(code)
    if not bus_failed and flood_s is None and deliveries >= policy.attempts + slack:
        return Dead(code)
    if delay_s is None:
        delay_s = backoff_s(deliveries, base_s=policy.base_s, cap_s=policy.cap_s, rand=rand)
    return Later(max(delay_s, flood_s or 0.0))
