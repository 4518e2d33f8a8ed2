"""The simulated network: how long a message takes, whether it arrives, and who answers."""

from random import Random
from typing import Final

from interlock_health_monitor.simulate.options import Options
from interlock_health_monitor.simulate.world import Host, Trouble
from interlock_health_monitor.suspicion import Probed

__all__ = ["WAY_S", "answer_to"]

#: The shortest way between a node and the broker, seconds.
WAY_S: Final = 0.02
#: The broker's own "nobody is there".
_NOBODY_S: Final = 0.005
#: The broker holds a connection for alive for so long after its host is gone.
_STALE_S: Final = 120.0


def answer_to(
    host: Host, asked_s: float, timeout_s: float, options: Options, rng: Random
) -> tuple[Probed, float]:
    """What asking a host's agent brings, and when that is known."""
    # Always as many numbers, so that what happens to a host does not depend on the outcome.
    there, back, lost_there, lost_back = rng.random(), rng.random(), rng.random(), rng.random()
    trouble = host.at(asked_s)
    silent: tuple[Probed, float] = ("silent", asked_s + timeout_s)
    if asked_s < host.born_s or (trouble is not None and _known_gone(trouble, asked_s)):
        return "gone", asked_s + _NOBODY_S
    if trouble is not None and trouble.kind == "dark":
        return silent
    if lost_there < options.loss or lost_back < options.loss:
        return silent
    jitter = options.jitter_ms / 1_000
    at = asked_s + WAY_S + there * jitter
    trouble = host.at(at)
    if trouble is not None:
        if trouble.kind == "pause":
            at = trouble.end_s
        elif trouble.kind == "slow":
            at += lag_s(trouble, at) * rng.random()
        else:
            return silent
    at += WAY_S + back * jitter
    return ("answered", at) if at - asked_s <= timeout_s else silent


def lag_s(slow: Trouble, at_s: float) -> float:
    """How late a host that dies slowly is with all that it does: up to 5 s."""
    share = (at_s - slow.start_s) / max(1.0, slow.end_s - slow.start_s)
    return 5.0 * min(1.0, max(0.0, share))


def _known_gone(trouble: Trouble, at_s: float) -> bool:
    if trouble.kind in ("cut", "dead"):
        return True
    return trouble.kind == "dark" and at_s - trouble.start_s > _STALE_S
