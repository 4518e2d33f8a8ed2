"""Failed work as evidence: a node that beats happily may still fail all that it is given.

Outcomes count for a while and then no more. A node is judged by many failures and hardly a success,
so that one bad task handed to all nodes marks none of them unless it is all they do.
"""

from collections import deque
from typing import Final

from interlock_schemas.health import Symptom

__all__ = ["WorkLedger"]

_WINDOW_S: Final = 600.0
_LEAST: Final = 5
_SHARE: Final = 0.8
_MOST_KEPT: Final = 200


class WorkLedger:
    """The outcomes of work on one node."""

    __slots__ = ("_outcomes",)

    def __init__(self) -> None:
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=_MOST_KEPT)

    def note(self, succeeded: bool, now_s: float) -> None:
        """A piece of work ended."""
        self._outcomes.append((now_s, succeeded))

    def counts(self, now_s: float) -> tuple[int, int]:
        """Failures and successes within the window."""
        while self._outcomes and now_s - self._outcomes[0][0] > _WINDOW_S:
            self._outcomes.popleft()
        failures = sum(1 for _, succeeded in self._outcomes if not succeeded)
        return failures, len(self._outcomes) - failures

    def symptom(self, now_s: float) -> Symptom | None:
        """What is wrong with the node by its work, if anything."""
        failures, successes = self.counts(now_s)
        done = failures + successes
        if failures < _LEAST or failures < _SHARE * done:
            return None
        return Symptom(
            kind="work_fails",
            detail=f"{failures} of {done} pieces of work failed within {_WINDOW_S / 60:g} minutes",
        )
