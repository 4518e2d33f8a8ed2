"""Looks at nodes over SSH for the monitor: suspects before they count as lost, and nodes without an
agent regularly. What a look brings goes into the roster."""

import contextlib
from collections.abc import Callable
from typing import Final

from interlock import logs
from interlock.breakers import Breakers
from interlock_health_monitor.attention import Attention
from interlock_health_monitor.roster import Node
from interlock_health_monitor.settings import Settings
from interlock_health_monitor.ssh_outcome import Outcome
from interlock_health_monitor.ssh_pool import PoolLimits, SshPool
from interlock_health_monitor.ssh_probe import Prober, ProbeResult
from interlock_health_monitor.suspicion import SshFound
from interlock_schemas.event import Event

__all__ = ["Looker", "found_of"]

#: A suspect is decided upon within seconds: what hangs longer has no say.
_LIMITS: Final = PoolLimits(resolve_s=3.0, connect_s=3.0, login_s=4.0, open_s=3.0)

log = logs.get_logger("interlock.health")


def found_of(outcome: Outcome) -> SshFound:
    """What an outcome says of the node itself."""
    if outcome.proves_up:
        return "alive"
    if outcome.speaks_for_down == "strong" or outcome.kind == "hanging":
        return "unreachable" if outcome.speaks_for_down != "none" else "unclear"
    return "unclear"


def _skew_s(result: ProbeResult) -> float | None:
    """By how much the node's clock is off; it was read at some moment of the look."""
    clock = result.report.clock_s if result.report is not None else None
    if clock is None:
        return None
    return min(0.0, clock - (result.at - result.took_s)) + max(0.0, clock - result.at)


class Looker:
    """Looks, and keeps the connections and breakers that it takes."""

    def __init__(
        self, settings: Settings, attention: Attention, tell: Callable[[Event], None]
    ) -> None:
        self._attention = attention
        self._interval_s = settings.health_ssh_interval_s
        self._policy = settings.policy
        limits = PoolLimits(
            resolve_s=_LIMITS.resolve_s,
            connect_s=_LIMITS.connect_s,
            login_s=_LIMITS.login_s,
            open_s=_LIMITS.open_s,
            at_once=settings.health_ssh_at_once,
            idle_s=max(90.0, 2.5 * self._interval_s),
        )
        self._pool = SshPool(
            known_hosts=settings.health_ssh_known_hosts,
            identity=settings.health_ssh_identity,
            limits=limits,
        )
        self.breakers = Breakers(tell=tell)
        self.prober = Prober(self._pool, self.breakers)

    async def look(self, node: Node) -> None:
        """Look at a node once, and note what it brought."""
        record = node.record
        if record is None or record.ssh is None:
            return
        result = await self.prober.probe(record)
        if result.outcome.kind in ("held_back", "monitor_busy"):
            return
        self._note(node, result)

    def _note(self, node: Node, result: ProbeResult) -> None:
        at = self._attention.now_s
        facts = node.facts
        found = found_of(result.outcome)
        log.debug("looked", node=facts.name, found=found, outcome=result.outcome.kind,
                  took_s=round(result.took_s, 3))  # fmt: skip
        facts.looked(found, at)
        node.ssh_outcome = result.outcome.kind
        if not facts.agent and result.report is not None:
            beat = result.report.beat(facts.name, seq=node.seq + 1, interval_s=self._interval_s)
            node.seq = beat.seq
            node.beat = beat
            node.beat_at = result.at
            node.skew_s = _skew_s(result)
            node.look(at, self._policy)

    async def __aenter__(self) -> "Looker":
        """Begin."""
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close every connection."""
        with contextlib.suppress(OSError):
            await self._pool.__aexit__(None, None, None)
