"""Has the router save what only a leaving node has, and keeps count of what it says.

Whether the node waits for that is decided in `leave`.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from interlock import logs
from interlock.errors import BusUnavailable, CommandFailed
from interlock.fleet import Fleet
from interlock_node_agent.leave import Handover
from interlock_node_agent.store_keeper import StoreKeeper
from interlock_schemas.orders import EVACUATE, AskEvacuation, Evacuation

__all__ = ["Evacuating"]

_EVERY_S: Final = 1.0
_ANSWER_S: Final = 3.0
_NAMED: Final = 20

log = logs.get_logger("interlock.agent.leave")


class Evacuating:
    """What becomes of the artifacts of a node that leaves."""

    def __init__(self, fleet: Fleet, keeper: StoreKeeper) -> None:
        self._fleet = fleet
        self._node = keeper.node
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._asked_at = 0.0
        self._heard_at = 0.0
        self._told: Evacuation | None = None

    @property
    def handover(self) -> Handover:
        """How it stands, for `leave.may_go`."""
        return Handover(
            held=self._keeper.held,
            since=max(self._began, self._keeper.found_at),
            at_risk=self._told.at_risk if self._told is not None else None,
            asked_at=self._asked_at,
            heard_at=self._heard_at,
        )

    async def run(self, left_s: Callable[[], float | None]) -> None:
        """Ask on and on. `left_s`: seconds that there still are, as far as known."""
        silent = False
        while True:
            asked_at = self._loop.time()
            request = AskEvacuation(node=self._node, deadline_s=left_s())
            try:
                told = await self._fleet.command(EVACUATE, request, timeout_s=_ANSWER_S)
            except (BusUnavailable, CommandFailed, msgspec.DecodeError) as error:
                if not silent:
                    log.info("the router does not say what is at risk", why=str(error))
                silent = True
            else:
                silent = False
                self._told, self._asked_at, self._heard_at = told, asked_at, self._loop.time()
                log.info(
                    "handing over",
                    at_risk=told.at_risk,
                    at_risk_bytes=told.at_risk_bytes,
                    saved=len(told.saved),
                )
            await asyncio.sleep(_EVERY_S)

    def conclude(self) -> None:
        """Say what was saved and what was lost."""
        held = self._keeper.held
        told = self._told
        if told is None:
            if held:
                log.warning(
                    "no router said whether others have what is here", node=self._node, held=held
                )
            return
        facts = {
            "node": self._node,
            "saved": len(told.saved),
            "saved_bytes": told.saved_bytes,
            "saved_value": told.saved_value,
            "lost": told.at_risk,
            "lost_bytes": told.at_risk_bytes,
            "lost_steps": told.at_risk_steps,
            "lost_value": told.at_risk_value,
        }
        if told.at_risk:
            log.error("not all was handed over", unsaved=list(told.unsaved[:_NAMED]), **facts)
        else:
            log.info("handed over", **facts)
