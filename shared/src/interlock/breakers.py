"""The breakers of one process: one for each peer and transport, asked before every call.

`interlock.breaker` decides; this keeps the states, makes sure that every call that was let through
reports what came of it, cancelled or not, tells of changes, and forgets peers that nobody asks for
any more. What it holds can be saved and taken up again by the process that comes after.
"""

import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final

import msgspec

from interlock import breaker
from interlock.breaker import PRESETS, BreakerPolicy, BreakerState, Result, Standing, Ticket
from interlock.errors import BreakerOpen
from interlock_schemas.breaker import BreakerClosed, BreakerHalfOpened, BreakerOpened
from interlock_schemas.event import Event

__all__ = ["Breakers", "Call", "SavedBreaker"]

#: Breakers that are kept; past it, those that were not used for longest are forgotten.
_KEPT: Final = 50_000

Key = tuple[str, str]


class SavedBreaker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A breaker as it is saved: times by the wall clock, which outlives the process."""

    node: str
    transport: str
    standing: Standing
    failures: int = 0
    level: int = 0
    since: float = 0.0
    """Seconds since the epoch, as are the next two."""
    until: float = 0.0
    failed_at: float = 0.0


class Call:
    """One call that was let through. Leaving the block without an error is a success."""

    def __init__(self) -> None:
        self.result: Result | None = None

    def failed(self) -> None:
        """Count it as a failure, although no error leaves the block."""
        self.result = "failure"

    def neutral(self) -> None:
        """Count it neither way: it says nothing about the peer."""
        self.result = "neutral"

    def succeeded(self) -> None:
        """Count it as a success, whatever leaves the block."""
        self.result = "success"


class Breakers:
    """The breakers of one process.

    `policies` names those of each transport; the entry ``default``, else the default policy, holds
    for the rest. `tell` is called with an event for each change, and has to be quick. `clock` is
    monotonic, `wall` the seconds since the epoch.
    """

    def __init__(
        self,
        policies: Mapping[str, BreakerPolicy] = PRESETS,
        *,
        tell: Callable[[Event], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rand: Callable[[], float] = random.random,
        kept: int = _KEPT,
    ) -> None:
        self._policies = policies
        self._default = policies.get("default", PRESETS["default"])
        self._tell = tell
        self._clock = clock
        self._wall = wall
        self._rand = rand
        self._kept = kept
        #: In the order of use, the oldest first.
        self._states: dict[Key, BreakerState] = {}
        self._swept = 0.0

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._states)

    def policy(self, transport: str) -> BreakerPolicy:
        """What holds for a transport."""
        return self._policies.get(transport, self._default)

    def state(self, node: str, transport: str) -> BreakerState:
        """Where the breaker stands."""
        return self._states.get((node, transport), breaker.CLOSED)

    def retry_after_s(self, node: str, transport: str) -> float:
        """Seconds until a call would be let through. 0: now."""
        asked = breaker.ask(self.policy(transport), self.state(node, transport), self._clock())
        return asked.retry_after_s if asked.ticket is None else 0.0

    @contextlib.asynccontextmanager
    async def guard(self, node: str, transport: str) -> AsyncIterator[Call]:
        """Make one call under the breaker of that peer.

        An error that leaves the block is a failure, unless the call was told otherwise or is itself
        held back by a breaker. Cancellation counts neither way.

        Raises BreakerOpen, which says when to come back, where calls are held back.
        """
        ticket = self._let_through(node, transport)
        call = Call()
        result: Result = "neutral"
        try:
            yield call
            result = call.result or "success"
        except BreakerOpen:
            result = call.result or "neutral"
            raise
        except Exception:
            result = call.result or "failure"
            raise
        finally:
            # Cancelled or torn down: what the call was told so far, else neither way.
            self._record(node, transport, ticket, call.result or result)

    def reset(self, node: str, transport: str) -> None:
        """Close it ahead of time: the peer was seen to work."""
        state = self._states.get((node, transport))
        if state is None:
            return
        # The epoch goes on: the result of a trial that is on its way must not count for what
        # comes after.
        self._states[node, transport] = BreakerState(since=self._clock(), epoch=state.epoch + 1)
        if state.standing != "closed":
            self._say(node, transport, state, "closed")

    def forget(self, node: str) -> None:
        """Drop every breaker of a node that is out of the fleet."""
        for key in [key for key in self._states if key[0] == node]:
            del self._states[key]

    def open_nodes(self, transport: str) -> tuple[str, ...]:
        """The nodes whose breaker is not closed."""
        return tuple(
            node
            for (node, each), state in self._states.items()
            if each == transport and state.standing != "closed"
        )

    def save(self) -> tuple[SavedBreaker, ...]:
        """What is worth keeping past the end of this process."""
        now = self._clock()
        ahead = self._wall() - now
        return tuple(
            SavedBreaker(
                node=node,
                transport=transport,
                standing=state.standing,
                failures=state.failures,
                level=breaker.level_at(self.policy(transport), state, now),
                since=state.since + ahead,
                until=state.until + ahead,
                failed_at=state.failed_at + ahead,
            )
            for (node, transport), state in self._states.items()
            if not breaker.idle(self.policy(transport), state, now)
        )

    def restore(self, saved: Iterable[SavedBreaker]) -> None:
        """Take up what an earlier process saved. A trial that it had on its way is given up."""
        now = self._clock()
        behind = now - self._wall()
        for each in saved:
            policy = self.policy(each.transport)
            on_its_way = each.standing == "half_open"
            state = BreakerState(
                standing="open" if on_its_way else each.standing,
                failures=max(0, each.failures),
                level=min(max(0, each.level), policy.highest_level),
                since=min(now, each.since + behind),
                # Clocks differ: no wait becomes longer than it can be.
                until=now
                if on_its_way
                else min(each.until + behind, now + breaker.longest_wait_s(policy)),
                failed_at=min(now, each.failed_at + behind),
            )
            if not breaker.idle(policy, state, now):
                self._keep((each.node, each.transport), state)

    def _let_through(self, node: str, transport: str) -> Ticket:
        before = self.state(node, transport)
        asked = breaker.ask(self.policy(transport), before, self._clock())
        if asked.state is not before:
            self._keep((node, transport), asked.state)
        if asked.ticket is None:
            raise BreakerOpen(
                f"{transport} to {node} failed {before.failures} times in a row and is not tried "
                f"for another {asked.retry_after_s:.1f} s; see to the node, or wait",
                node=node,
                transport=transport,
                retry_after_s=asked.retry_after_s,
            )
        if asked.state.standing != before.standing:
            self._say(node, transport, before, asked.state.standing)
        return asked.ticket

    def _record(self, node: str, transport: str, ticket: Ticket, result: Result) -> None:
        policy = self.policy(transport)
        before = self.state(node, transport)
        now = self._clock()
        after = breaker.record(policy, before, ticket, result, now, self._rand)
        if after is before:
            return
        if breaker.idle(policy, after, now) and ticket.epoch == 0:
            self._states.pop((node, transport), None)
        else:
            self._keep((node, transport), after)
        if after.standing != before.standing and not (
            result == "neutral" and before.standing == "half_open"
        ):
            self._say(node, transport, after, after.standing, wait_s=after.until - now)

    def _keep(self, key: Key, state: BreakerState) -> None:
        self._states.pop(key, None)
        self._states[key] = state
        now = self._clock()
        if now - self._swept > self._default.decay_s or len(self._states) > self._kept:
            self._swept = now
            for other in [
                other
                for other, kept in self._states.items()
                if breaker.idle(self.policy(other[1]), kept, now)
            ]:
                del self._states[other]
            while len(self._states) > self._kept:
                del self._states[next(iter(self._states))]

    def _say(
        self,
        node: str,
        transport: str,
        state: BreakerState,
        standing: Standing,
        wait_s: float | None = None,
    ) -> None:
        if self._tell is None:
            return
        event: Event
        if standing == "open":
            event = BreakerOpened(
                node=node,
                component=transport,
                failure_count=state.failures,
                recovery_timeout_s=None if wait_s is None else round(wait_s, 3),
            )
        elif standing == "half_open":
            event = BreakerHalfOpened(node=node, component=transport, failure_count=state.failures)
        else:
            event = BreakerClosed(node=node, component=transport, failure_count=state.failures)
        self._tell(event)
