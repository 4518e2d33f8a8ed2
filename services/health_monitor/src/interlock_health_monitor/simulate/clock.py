"""The monitor's own attention through the day, by the real `Attention` on echoes that come back.

Everything that the monitor does happens on one grid: an echo is sent and nodes are judged each
`STEP_S`, as the service does.
"""

from array import array
from bisect import bisect_left
from collections import deque
from typing import Final

from interlock_health_monitor.attention import Attention
from interlock_health_monitor.simulate.world import Away

__all__ = ["DRAIN_S", "RATE", "STEP_S", "Clock", "step_of"]

#: Seconds between two echoes, and between two looks at who is quiet.
STEP_S: Final = 0.15
RATE: Final = 1.0 / STEP_S
#: What piled up while the monitor was stopped is read within so long, in order.
DRAIN_S: Final = 0.6
#: An echo's way when nothing is wrong.
_ROUND_TRIP_S: Final = 0.004
#: Deaf for so long, the monitor judges nobody, as the service does.
_DEAF_S: Final = 0.8


def step_of(at_s: float) -> int:
    """The step that a moment falls into."""
    return int(at_s * RATE)


class Clock:
    """Attentive time and what else holds, by step."""

    __slots__ = ("acting", "score", "settling", "stamps", "steps")

    def __init__(self, away: tuple[Away, ...], duration_s: float) -> None:
        self.steps = step_of(duration_s) + 1
        stamps = array("d", bytes(8 * self.steps))
        self.score = bytearray(self.steps)
        self.settling = bytearray(self.steps)
        self.acting = bytearray(self.steps)
        attention = Attention(0.0)
        flying: deque[tuple[float, float]] = deque()
        windows = deque(away)
        now = windows.popleft() if windows else None
        drained = 0.0
        for step in range(self.steps):
            at = step * STEP_S
            while now is not None and at >= now.end_s:
                if now.kind == "stopped":
                    drained = now.end_s + DRAIN_S
                    flying = deque((sent, drained) for sent, _ in flying)
                elif now.kind == "broker":
                    attention.cut_off()
                now = windows.popleft() if windows else None
            within = now.kind if now is not None and at >= now.start_s else None
            if within == "broker":
                flying.clear()
            elif within != "stopped":
                while flying and flying[0][1] <= at:
                    attention.echoed(*flying.popleft())
                late = now.late_s if within == "slow" and now is not None else 0.0
                back = max(at + _ROUND_TRIP_S + late, drained)
                flying.append((at, max(back, flying[-1][1]) if flying else back))
            stamps[step] = attention.now_s
            self.score[step] = attention.score
            self.settling[step] = attention.settling
            self.acting[step] = within != "stopped" and attention.deaf_s(at) <= _DEAF_S
        #: A list is quicker to read than an array.
        self.stamps = stamps.tolist()

    def when(self, attentive_s: float, start: int) -> int:
        """The first step from `start` on that is so late on the attentive clock."""
        return bisect_left(self.stamps, attentive_s, start)
