"""Asks the sync-router for the command line."""

from typing import TYPE_CHECKING, Any, Final

from interlock.cli import base
from interlock.errors import BusUnavailable, NobodyThere

if TYPE_CHECKING:
    from interlock.fleet import Fleet
    from interlock.settings import ConnectionSettings

__all__ = ["ask", "ask_on"]

_ANSWER_S: Final = 30.0


async def ask(settings: "ConnectionSettings", command: Any, request: Any) -> Any:
    """Ask one thing. Raises NobodyThere where there is no router, saying how to start one."""
    from interlock.fleet import connect

    async with connect(settings, source=f"cli/{base.who()}") as fleet:
        return await ask_on(fleet, command, request)


async def ask_on(fleet: "Fleet", command: Any, request: Any) -> Any:
    """As `ask`, on a connection."""
    try:
        return await fleet.command(command, request, timeout_s=_ANSWER_S)
    except BusUnavailable as error:
        if isinstance(error.__cause__, NobodyThere):
            raise NobodyThere(
                "no sync-router answers. `interlock up` starts one with everything else; a fleet's "
                "own runs as `python -m interlock_sync_router`"
            ) from error
        raise
