"""Calls a handler, and sees that each call ends: returned, raised, or out of time.

One look at all calls every so often stands in for a timer for each. A handler is cancelled at its
time limit; one that goes on all the same is reported, so that its messages can be answered for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from interlock.delivery import Delivery
from interlock.endings import Failure, failure_of
from interlock_schemas.letters import Code

__all__ = ["Caller", "Calls"]

#: A handler that is cancelled at its time limit, and goes on, is answered for after so long.
_GRACE_S: Final = 2.0


class Caller:
    """A task that calls the handler, one call after the other."""

    __slots__ = ("answered", "begun_at", "items", "late_at", "task")

    def __init__(self, task: "asyncio.Task[None]") -> None:
        self.task = task
        self.items: Sequence[Delivery] = ()
        """What the call is about."""
        self.begun_at = 0.0
        """When the handler was called; 0 while it does not run."""
        self.late_at = 0.0
        """When it was cancelled at its time limit; 0 while within it."""
        self.answered = False
        """The messages were answered for it, because it did not end."""

    def was_answered_for(self) -> bool:
        """Whether the call that has ended at last is not to be answered any more."""
        answered, self.answered = self.answered, False
        return answered


class Calls:
    """All calls of one handler."""

    def __init__(
        self,
        handler: Callable[[Any], Awaitable[Any]],
        *,
        timeout_s: float,
        measure: Callable[[float], None] | None,
    ) -> None:
        """`measure` is told the seconds that a successful call took."""
        self._handler = handler
        self._timeout_s = timeout_s
        self._measure = measure
        self._time = asyncio.get_running_loop().time
        self.callers: set[Caller] = set()
        self.closing = False
        """Cancellations are meant for the callers themselves."""

    async def call(self, caller: Caller, argument: Any) -> tuple[Failure | None, Any]:
        """Call the handler. Why it failed, or else what it returned.

        A cancellation that the handler raises, or that its time limit brings, ends this call
        alone.
        """
        started = caller.begun_at = self._time()
        answer = None
        failure: Failure | None = None
        try:
            answer = await self._handler(argument)
        except (Exception, asyncio.CancelledError) as error:
            caller.begun_at = 0.0
            if self.closing and isinstance(error, asyncio.CancelledError):
                raise
            failure = failure_of(error)
        else:
            caller.begun_at = 0.0
        if caller.late_at:
            caller.late_at = 0.0
            reason = f"still running after {self._timeout_s:g} s"
            failure = Failure(Code.TIMED_OUT, reason, failure.error if failure else None)
        if caller.task.cancelling():
            while caller.task.uncancel():
                pass
        if self._measure is not None and failure is None:
            self._measure(self._time() - started)
        return failure, answer

    def sweep(self, now: float) -> Iterator[tuple[Sequence[Delivery], Failure]]:
        """Cancel the calls that are past their limit.

        Yields the messages of those that were cancelled and do not end, with why: once each.
        """
        for caller in self.callers:
            if not caller.begun_at or now - caller.begun_at <= self._timeout_s:
                continue
            if not caller.late_at:
                caller.late_at = now
                caller.task.cancel()
            elif not caller.answered and now - caller.late_at > _GRACE_S:
                caller.answered = True
                reason = f"still running after {self._timeout_s:g} s, and does not end"
                yield list(caller.items), Failure(Code.TIMED_OUT, reason)
                caller.task.cancel()
