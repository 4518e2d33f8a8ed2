"""How long to wait before trying again: restarts, publish retries, redelivery.

Pure decisions. The caller keeps the count of failures and the time; the source of randomness is a
parameter, so that a test can name every outcome.
"""

from collections.abc import Callable
from typing import Literal

import msgspec

__all__ = ["Jitter", "RestartPolicy", "delay_s"]

#: ``full`` spreads a crowd best, over zero to the bound; ``equal`` keeps half of the bound as a
#: floor, for what must not be tried again at once. The names are those of "Exponential Backoff And
#: Jitter" (AWS Architecture Blog, 2015).
Jitter = Literal["full", "equal"]

# A doubling past this changes nothing under any sensible cap, and 2.0**1024 overflows.
_MAX_DOUBLINGS = 1000


def delay_s(
    attempt: int,
    *,
    base_s: float,
    cap_s: float,
    rand: Callable[[], float],
    jitter: Jitter = "full",
) -> float:
    """Seconds to wait after the failure numbered ``attempt``.

    ``attempt`` counts failures so far, from 1 (which is also how the broker counts deliveries).
    The bound is ``base_s`` after the first failure, doubles with each further one, and stops at
    ``cap_s``. ``rand`` returns a number in [0, 1).

    Raises ValueError when ``attempt`` is below 1.
    """
    if attempt < 1:
        raise ValueError(f"attempt counts failures from 1, got {attempt}")
    bound = min(cap_s, base_s * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
    if jitter == "equal":
        return bound / 2 + rand() * bound / 2
    return rand() * bound


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a process that died is started again. It is never given up."""

    base_s: float = 0.2
    """Longest wait after the first failure, seconds. The shortest is half of it."""
    cap_s: float = 30.0
    """Longest wait after any number of failures, seconds."""
    healthy_after_s: float = 10.0
    """A process that ran at least this long, seconds, was well: its failures count from 1 again."""

    def failures(self, before: int, ran_s: float) -> int:
        """The count of failures in a row, now that a process that ran ``ran_s`` seconds ended."""
        return 1 if ran_s >= self.healthy_after_s else before + 1

    def delay_s(self, failures: int, rand: Callable[[], float]) -> float:
        """Seconds to wait before the next start.

        Jitter is equal, not full: a process that dies at start must never spin.
        """
        return delay_s(failures, base_s=self.base_s, cap_s=self.cap_s, rand=rand, jitter="equal")
