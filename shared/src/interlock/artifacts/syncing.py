"""Asks the sync-router for data, and follows the request until all of it is there.

The router may be restarted meanwhile, and the broker be away: the request stands in a bucket, and
asked again under its id it is the same one. What counts as arrived is receipts, as the router says.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.artifacts.errors import ArtifactError
from interlock.errors import BusUnavailable, CommandFailed, NobodyThere
from interlock_schemas import orders
from interlock_schemas.artifacts import Artifact
from interlock_schemas.orders import AskReport, AskSync, Request, SyncReport

if TYPE_CHECKING:
    from interlock.fleet import Fleet

__all__ = ["LONGEST_S", "make_request", "sync"]

#: A request ends after so long at the latest, seconds.
LONGEST_S: Final = 7 * 86_400.0

_ANSWER_S: Final = 5.0
#: A router that is being started again is waited for, seconds.
_PATIENCE_S: Final = 5.0
#: How it goes is asked again after a twentieth of the time that it took so far, and after some
#: times as long as the last answer took, so that a router that is busy is asked less; within these.
_POLL_S: Final = (0.02, 1.0)
_POLL_SHARE: Final = 0.03
_POLL_ANSWERS: Final = 4.0
_TOLD_S: Final = 30.0


def make_request(
    dataset: str | None,
    *,
    config: str | None = None,
    artifacts: Iterable[str | Artifact] = (),
    targets: str | Sequence[str] = ("all",),
    priority: str = "normal",
    by: str = "",
) -> Request:
    """A request under an id of its own. Raises ArtifactError for what makes no sense."""
    if isinstance(artifacts, str):
        artifacts = (artifacts,)
    asked = {
        "id": f"sync-{secrets.token_hex(10)}",
        "dataset": dataset,
        "config": config,
        "artifacts": [each if isinstance(each, str) else each.id for each in artifacts],
        "targets": [targets] if isinstance(targets, str) else list(targets),
        "priority": priority,
        "by": by[:200],
    }
    try:
        return msgspec.convert(asked, Request)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"nobody can be asked for that: {error}") from None


async def sync(
    fleet: "Fleet[Any]",
    request: Request,
    *,
    timeout_s: float,
    on_progress: Callable[[SyncReport], None] | None = None,
) -> SyncReport:
    """Ask, and follow until it is done or the time is over; see `Fleet.sync`."""
    if not 0 < timeout_s <= LONGEST_S:
        raise ArtifactError(f"a timeout is above 0 and at most {LONGEST_S:g} seconds")
    loop = asyncio.get_running_loop()
    began = loop.time()
    deadline = began + timeout_s
    await _be_told(fleet, request, min(timeout_s, _TOLD_S))
    report = await _ask(fleet, request, max(1e-3, deadline - loop.time()))
    # The router counts from when it was asked, and is to be the one that says how it ended.
    deadline = max(deadline, loop.time())
    told: SyncReport | None = None
    answer_s = 0.0
    while True:
        if on_progress is not None and report != told:
            on_progress(report)
            told = report
        if report.done:
            return report
        left_s = deadline - loop.time()
        if left_s <= 0:
            return msgspec.structs.replace(report, timed_out=True)
        await asyncio.sleep(min(_pause_s(loop.time() - began, answer_s), left_s))
        asked = loop.time()
        report = await _look(fleet, request, report, deadline)
        answer_s = loop.time() - asked


def _pause_s(since_s: float, answer_s: float) -> float:
    """How long to wait until it is asked again."""
    shortest_s, longest_s = _POLL_S
    return max(shortest_s, min(longest_s, max(since_s * _POLL_SHARE, answer_s * _POLL_ANSWERS)))


async def _look(
    fleet: "Fleet[Any]", request: Request, last: SyncReport, deadline: float
) -> SyncReport:
    """How far it is; as far as known, where nobody says."""
    left_s = deadline - asyncio.get_running_loop().time()
    try:
        try:
            return await fleet.command(
                orders.REPORT, AskReport(id=request.id), timeout_s=max(0.5, min(_ANSWER_S, left_s))
            )
        except CommandFailed as error:
            if error.code != "404" or left_s <= 0:
                raise
            # What the broker kept of it is gone: it is asked once more, as what it was.
            asked = AskSync(request=request, timeout_s=left_s)
            return await fleet.command(orders.SYNC, asked, timeout_s=_ANSWER_S)
    except BusUnavailable:
        return last
    except CommandFailed as error:
        if left_s > 0 and error.code.startswith("4"):
            raise
        return last


async def _ask(fleet: "Fleet[Any]", request: Request, timeout_s: float) -> SyncReport:
    asked = AskSync(request=request, timeout_s=timeout_s)
    try:
        return await fleet.command(
            orders.SYNC, asked, timeout_s=_ANSWER_S, patience_s=min(_PATIENCE_S, timeout_s)
        )
    except BusUnavailable as error:
        if not isinstance(error.__cause__, NobodyThere):
            raise
        raise NobodyThere(
            "nothing was asked for: no sync-router answers. `interlock up` starts one with "
            "everything else; a fleet's own runs as `python -m interlock_sync_router`"
        ) from error


async def _be_told(fleet: "Fleet[Any]", request: Request, timeout_s: float) -> None:
    """What was sealed here just now belongs to what is asked for: have the fleet know it first."""
    artifacts = fleet.artifacts
    wanted = [
        about.id
        for about in artifacts.untold
        if (about.id in request.artifacts)
        or (
            not request.artifacts
            and request.dataset in (None, about.dataset)
            and request.config in (None, about.config)
        )
    ]
    if wanted and not await artifacts.told(timeout_s, wanted):
        raise ArtifactError(
            f"nothing was asked for: the fleet does not know yet what was sealed here, artifact "
            f"{wanted[0][:12]} for one. Does the agent of {artifacts.node} run, with a store "
            f"(INTERLOCK_AGENT_STORE), in {artifacts.root}? To leave it out, name artifacts"
        )
