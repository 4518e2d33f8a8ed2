"""What a worker asks of the health of the fleet: how it is, whether it may start something, whether
to slow down.

Levels are state in the bucket of health, written by the monitor with an expiry. What is absent or
expired is unknown, and never reads as healthy, idle or allowed.
"""

import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.clock import now
from interlock.errors import BusUnavailable
from interlock.kv import Store
from interlock.nodes.views import is_past
from interlock_schemas import health
from interlock_schemas.health import Admission, Admit, ClusterHealth, Pressure
from interlock_schemas.topology import HEALTH

if TYPE_CHECKING:
    from interlock.bus import Bus
    from interlock.fleet import Fleet

__all__ = ["NO_MONITOR", "admit", "cluster_health", "pressure"]

#: The code of an admission that nobody was there to decide.
NO_MONITOR: Final = "no_monitor"


async def cluster_health(bus: "Bus") -> ClusterHealth:
    """The verdict on the fleet; level ``unknown`` with the reason where none stands.

    Raises BusUnavailable when the broker does not answer.
    """
    entry = await Store(bus, HEALTH).get(health.CLUSTER_KEY)
    if entry.value is None:
        return _unknown("no health monitor has judged the fleet: is it running?")
    try:
        found = msgspec.json.decode(entry.value, type=ClusterHealth)
    except msgspec.DecodeError as error:
        return _unknown(f"the verdict cannot be read: {error}")
    if is_past(found.expires_at, now()):
        return _unknown(f"no health monitor has looked since {found.at or found.expires_at}")
    return found


def _unknown(reason: str) -> ClusterHealth:
    return ClusterHealth(level="unknown", score=None, reason=reason[:500])


async def admit(
    fleet: "Fleet[Any]",
    request: Admit,
    *,
    timeout_s: float,
    patience_s: float,
) -> Admission:
    """Ask the monitor. Where none answers, the answer is no, with the code ``no_monitor``."""
    if request.id is None:
        # So that asking again, when an answer was lost, reserves once.
        request = msgspec.structs.replace(request, id=secrets.token_hex(12))
    try:
        return await fleet.command(
            health.ADMIT, request, timeout_s=timeout_s, patience_s=patience_s
        )
    except BusUnavailable as error:
        return Admission(
            admitted=False,
            code=NO_MONITOR,
            reason=f"nothing is known of the node: {error}"[:500],
            id=request.id or "",
            retry_after_s=10.0,
        )


async def pressure(bus: "Bus", scope: str) -> Pressure | None:
    """The level of pressure on ``fleet`` or ``node.<name>``. None: not known.

    Raises BusUnavailable when the broker does not answer.
    """
    entry = await Store(bus, HEALTH).get(health.pressure_key(scope))
    if entry.value is None:
        return None
    try:
        found = msgspec.json.decode(entry.value, type=Pressure)
    except msgspec.DecodeError:
        return None
    return None if is_past(found.expires_at, now()) else found
