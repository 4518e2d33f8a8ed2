"""What becomes of a message whose handling failed: again later, or a dead letter. Pure.

The broker redelivers without limit and counts deliveries; these rules decide. Deliveries also rise
when a process or the broker is killed, so a message is called poison only well above the number
of attempts that a handler gets.
"""

from collections.abc import Callable

import msgspec

from interlock.backoff import delay_s
from interlock_schemas.letters import Code

__all__ = ["Dead", "Retry", "RetryPolicy", "after_failure", "on_delivery"]


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
    """How long the handler may take for one message."""


class Retry(msgspec.Struct, frozen=True):
    """Deliver it again after so many seconds."""

    delay_s: float


class Dead(msgspec.Struct, frozen=True):
    """Make it a dead letter."""

    code: Code


def on_delivery(policy: RetryPolicy, deliveries: int) -> Dead | None:
    """Whether a message is too dangerous to be handed out once more."""
    if deliveries > max(policy.poison_after, policy.attempts):
        return Dead(Code.POISON)
    return None


def after_failure(
    policy: RetryPolicy,
    deliveries: int,
    code: Code,
    *,
    bus_failed: bool = False,
    rand: Callable[[], float],
) -> Retry | Dead:
    """Decide after attempt number `deliveries` failed.

    A permanent failure is never retried. A failure of the bus itself says nothing about the
    message, and is retried whatever the count; `on_delivery` bounds it.
    """
    if code.failure_class == "permanent":
        return Dead(code)
    if not bus_failed and deliveries >= policy.attempts:
        return Dead(code)
    return Retry(delay_s(deliveries, base_s=policy.base_s, cap_s=policy.cap_s, rand=rand))
