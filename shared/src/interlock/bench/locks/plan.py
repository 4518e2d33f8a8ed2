"""How much is measured: rounds, counts and times, and how long it all takes. Pure."""

from typing import Final

import msgspec

__all__ = ["CLIENTS", "Plan", "next_count", "share"]

#: Clients at the same time, for throughput.
CLIENTS: Final = (1, 16, 64)

_START_S: Final = 3.0
_CONTENDER_START_S: Final = 1.5
_OVERHEAD_S: Final = 0.3


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the benchmark does. Counts are bounded by times, for slow disks."""

    rounds: int
    """Rounds of uncontended locks and raw writes; in each, all contenders take turns."""
    operations: int
    """Operations of each kind in a round, at most."""
    round_s: float
    """A contender's time in a round, at most."""
    handover_rounds: int
    handovers: int
    """Hand-overs of a contender in a round, at most."""
    handover_s: float
    """Roughly a contender's time in a round of hand-overs, at most."""
    runs: int
    """Runs of each throughput."""
    run_s: float

    @classmethod
    def of(cls, *, quick: bool) -> "Plan":
        """Under three minutes; `quick`, under one."""
        if quick:
            return cls(
                rounds=4,
                operations=30,
                round_s=0.6,
                handover_rounds=2,
                handovers=60,
                handover_s=0.8,
                runs=1,
                run_s=0.4,
            )
        return cls(
            rounds=12,
            operations=80,
            round_s=1.0,
            handover_rounds=6,
            handovers=80,
            handover_s=1.5,
            runs=3,
            run_s=0.8,
        )

    def estimate_s(self, contenders: int) -> float:
        """Roughly how long it takes, seconds; on a fast disk less."""
        cells = 2 * len(CLIENTS) - 1
        each = (
            _CONTENDER_START_S
            + self.rounds * self.round_s
            + self.handover_rounds * self.handover_s
            + self.runs * cells * (self.run_s + _OVERHEAD_S)
        )
        return _START_S + contenders * each


def next_count(count: int, taken_s: float, *, budget_s: float, most: int) -> int:
    """How many hand-overs fill a time, when `count` took `taken_s` seconds; even, 2 to `most`."""
    if count < 1 or taken_s <= 0:
        raise ValueError("nothing was measured to go by")
    fitting = int(min(most, budget_s * count / taken_s))
    return max(2, fitting - fitting % 2)


def share(clients: int) -> tuple[int, int]:
    """How many of the clients each of the two processes has."""
    return clients - clients // 2, clients // 2
