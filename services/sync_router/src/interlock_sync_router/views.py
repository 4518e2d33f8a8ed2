"""What operators see of the router: the plan and its reasons, and how the data is. Pure."""

from collections.abc import Mapping

import msgspec

from interlock_schemas.orders import (
    AskPlan,
    DatasetStatus,
    Epoch,
    LeftOut,
    NodeStatus,
    Pair,
    PlannedMove,
    PlanView,
    SyncStatus,
)
from interlock_sync_router.facts import at_of, stands
from interlock_sync_router.places import Places
from interlock_sync_router.planner import explain, plan
from interlock_sync_router.risk import Risk, risk_of
from interlock_sync_router.roster import Roster
from interlock_sync_router.world import Limits, Move, World

__all__ = ["plan_view", "status_of"]

_UNMET = 100
_NONE = Risk()


def plan_view(world: World, asked: AskPlan, limits: Limits) -> PlanView:
    """What would be done, and why."""
    request = asked.request
    if request is not None:
        # What stands for a request that was really asked does not count twice.
        others = tuple(each for each in world.requests if each.id != request.id)
        world = msgspec.structs.replace(world, requests=(*others, request))
    left_out: tuple[LeftOut, ...]
    datasets: tuple[DatasetStatus, ...] = ()
    unmet: tuple[Pair, ...] = ()
    if asked.artifact is not None:
        moves, left_out = explain(world, asked.artifact, limits)
    else:
        found = plan(world, limits)
        moves, left_out = found.moves, found.left_out
        datasets, unmet = found.datasets, found.unmet
    rows = [_row(move, world, under_way=False) for move in moves] + [
        _standing(node, artifact, world) for node, artifact in sorted(world.orders)
    ]
    wanted = [
        row
        for row in rows
        if row is not None
        and (asked.dataset is None or row.dataset == asked.dataset)
        and (asked.artifact is None or row.artifact == asked.artifact)
        and (asked.node is None or row.node == asked.node)
    ]
    return PlanView(
        moves=tuple(wanted[: asked.limit]),
        more=max(0, len(wanted) - asked.limit),
        left_out=tuple(each for each in left_out if asked.node in (None, each.node)),
        datasets=tuple(each for each in datasets if asked.dataset in (None, each.dataset)),
        unmet=tuple(
            each
            for each in unmet
            if asked.node in (None, each.node)
            and (
                asked.dataset is None
                or (about := world.artifacts.get(each.artifact)) is None
                or about.dataset == asked.dataset
            )
        )[:_UNMET],
    )


def _row(move: Move, world: World, *, under_way: bool) -> PlannedMove | None:
    about = world.artifacts.get(move.artifact)
    if about is None:
        return None
    return PlannedMove(
        action=move.action,
        artifact=move.artifact,
        dataset=about.dataset,
        name=about.name,
        bytes=about.bytes,
        node=move.node,
        sources=move.sources,
        priority=move.priority,
        reasons=move.reasons,
        under_way=under_way,
    )


def _standing(node: str, artifact: str, world: World) -> PlannedMove | None:
    order = world.orders[node, artifact]
    move = Move(
        node=node,
        artifact=artifact,
        action=order.action,
        priority=order.priority,
        rank=0.0,
        sources=order.sources,
        reasons=("it is ordered already",),
    )
    return _row(move, world, under_way=True)


def status_of(
    roster: Roster,
    world: World,
    limits: Limits,
    *,
    at: str,
    epoch: Epoch | None,
    datasets: tuple[DatasetStatus, ...],
) -> SyncStatus:
    """How the fleet's data is."""
    holdings = roster.holdings
    places = Places(world, limits)
    risks: Mapping[str, Risk] = risk_of(world)
    nodes = []
    for number, name in enumerate(places.names):
        facts = places.facts[number]
        reasons = places.refusals[number]
        risk = risks.get(name, _NONE)
        nodes.append(
            NodeStatus(
                node=name,
                usable=not reasons,
                why_not=reasons,
                ephemeral=facts.ephemeral,
                store=holdings.stores.get(name),
                held=holdings.held[name],
                held_bytes=holdings.held_bytes[name],
                pending=roster.by_node[name],
                pending_bytes=roster.pending_bytes[name],
                at_risk=risk.artifacts,
                at_risk_bytes=risk.bytes,
                at_risk_steps=risk.steps,
                at_risk_value=risk.value,
            )
        )
    return SyncStatus(
        at=at,
        planner=epoch.router if epoch is not None else None,
        token=epoch.token if epoch is not None else 0,
        artifacts=len(holdings.artifacts),
        bytes=sum(each.bytes for each in holdings.artifacts.values()),
        datasets=datasets,
        nodes=tuple(nodes),
        pauses={
            scope: pause
            for scope, pause in sorted(roster.pauses.items())
            if stands(pause.until, world.now)
        },
        requests=tuple(
            asked.request
            for _, asked in sorted(roster.asked.items())
            if (at_of(asked.request.until) or world.now + 1) > world.now
        ),
    )
