"""What the rules find, and what they share: times when nothing can be expected. Pure."""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import msgspec

__all__ = ["KINDS", "Finding", "Kind", "Window", "Windows"]

#: ``overlap``: more held at once than may. ``token``: a token did not rise, or changed.
#: ``stale_write``: accepted from somebody who held no more. ``lost_update``: a write that was
#: accepted is missing, or built on something else than the one before. ``misreported``: stored
#: although its writer was told that it was refused. ``barged``: served before somebody whose turn
#: it was. ``stuck``: nobody held although somebody waited, past the lease. ``unanswered``: somebody
#: asked and was never told.
Kind = Literal[
    "overlap",
    "token",
    "stale_write",
    "lost_update",
    "misreported",
    "barged",
    "stuck",
    "unanswered",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Finding(msgspec.Struct, frozen=True, order=True):
    """One violation."""

    kind: Kind
    where: str
    """The lock, or the store."""
    what: str
    """For a person: who, when, with which token; enough to find it in the run's folder."""


class Window(msgspec.Struct, frozen=True, order=True):
    """A stretch of time, seconds on the ledgers' clock."""

    start: float
    end: float


class Windows:
    """Stretches of time that may overlap one another."""

    def __init__(self, windows: Iterable[Window]) -> None:
        self._whole: list[Window] = []
        for each in sorted(windows):
            if self._whole and each.start <= self._whole[-1].end:
                last = self._whole.pop()
                each = Window(last.start, max(last.end, each.end))
            self._whole.append(each)

    @property
    def whole(self) -> Sequence[Window]:
        """The same stretches, none touching another."""
        return self._whole

    def outside_s(self, start: float, end: float) -> float:
        """How much of the time from start to end lies in none of them, seconds."""
        inside = sum(max(0.0, min(end, each.end) - max(start, each.start)) for each in self._whole)
        return max(0.0, end - start - inside)
