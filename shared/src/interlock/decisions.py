"""What handlers are, and what a batch handler's answer says of each message."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from interlock.delivery import Delivery
from interlock.endings import Failure, failure_of
from interlock.redelivery import Handled, Retry
from interlock_schemas.letters import Code

__all__ = ["BatchHandler", "Decision", "Handler", "failures"]

#: What a consumption calls for each message.
Handler = Callable[[Delivery], Awaitable[None]]

#: What a batch handler says of one message. An exception is a failed attempt, `Reject` the last.
Decision = Handled | Retry | Exception | None

#: What a consumption calls for a batch: one decision for each message, or None: all are handled.
BatchHandler = Callable[[Sequence[Delivery]], Awaitable[Sequence[Decision] | None]]


def failures(answer: Any, count: int) -> list[Failure | None]:
    """One failure or None for each message. Raises TypeError for what is no list of decisions."""
    if answer is None:
        return [None] * count
    if not isinstance(answer, list | tuple) or len(answer) != count:
        raise TypeError(
            f"a batch handler returns None or a list with one decision for each of the {count} "
            f"messages, not {type(answer).__name__}"
        )
    return [_failure(decision) for decision in answer]


def _failure(decision: Any) -> Failure | None:
    if decision is None or isinstance(decision, Handled) or decision is Handled:
        return None
    if isinstance(decision, Retry):
        return Failure(Code.HANDLER_FAILED, decision.reason, delay_s=decision.delay_s)
    if isinstance(decision, Exception):
        return failure_of(decision)
    raise TypeError(f"{decision!r} is no decision: Handled, Retry or an exception")
