"""How many questions may be open at once. Pure: what was measured in, a number out.

It grows while answers come as fast as they ever did, stays where they begin to queue up, and
shrinks when one does not come at all. The time to wait for an answer follows what answers take.
"""

from typing import Final

import msgspec

__all__ = ["Window"]

_LEAST: Final = 2
_LONGEST_S: Final = 16.0
#: Answers that take so much longer than the quickest one wait in a queue: a factor, and seconds.
_QUEUES: Final = (3.0, 0.05)
#: What such an answer takes off the window: an eighth with each time round.
_YIELDS: Final = 0.125


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the way there and back."""

    size: float = 8.0
    most: int = 64
    quickest_s: float | None = None
    usual_s: float | None = None
    shortest_s: float = 2.0
    """The least that is waited for an answer, seconds."""
    patience_s: float = 2.0

    @property
    def open(self) -> int:
        """Questions that may be open at once."""
        return int(self.size)

    def answered(self, took_s: float) -> "Window":
        """An answer came."""
        quickest_s = took_s if self.quickest_s is None else min(self.quickest_s, took_s)
        usual_s = took_s if self.usual_s is None else self.usual_s * 0.875 + took_s * 0.125
        factor, more_s = _QUEUES
        size = self.size
        if usual_s <= factor * quickest_s + more_s:
            size = min(float(self.most), size + 1.0)
        else:
            size = max(float(_LEAST), size - _YIELDS)
        return msgspec.structs.replace(
            self,
            size=size,
            quickest_s=quickest_s,
            usual_s=usual_s,
            patience_s=min(_LONGEST_S, max(self.shortest_s, 4.0 * usual_s)),
        )

    def unanswered(self) -> "Window":
        """None came in time."""
        return msgspec.structs.replace(
            self,
            size=max(float(_LEAST), self.size / 2),
            patience_s=min(_LONGEST_S, self.patience_s * 2),
        )
