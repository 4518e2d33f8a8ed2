"""What a request comes to, and how far it is. Pure.

The nodes and artifacts of a request are fixed when it is asked. What cannot be given to a node is
said as a node left out, or as a pair that failed; what merely has not happened yet is pending.
"""

from collections.abc import Iterable, Mapping

from interlock_schemas.artifacts import Artifact
from interlock_schemas.orders import Asked, LeftOut, Pair, Request, SyncReport
from interlock_sync_router.exclusions import Exclusions
from interlock_sync_router.places import stamp
from interlock_sync_router.selectors import any_matches
from interlock_sync_router.world import NodeFacts

__all__ = ["already", "cannot", "for_plan", "report", "targets_of"]

#: The most text of one failure.
_TEXT = 500


def cannot(node: NodeFacts | None, dataset: str | None = None) -> tuple[tuple[str, str], ...]:
    """Why a node is given nothing, as a code and in words, for longer than a moment. Empty: it may
    be given something, now or soon."""
    if node is None:
        return (("unknown", "nothing is known of it any more"),)
    found = []
    if node.retired:
        found.append(("retired", "it is retired"))
    if node.cordoned:
        found.append(("cordoned", "it is cordoned"))
    if node.draining:
        found.append(("draining", "it is being drained"))
    if node.leaving_at is not None:
        found.append(("leaving", f"it leaves at {stamp(node.leaving_at)}"))
    if node.standing == "lost":
        found.append(("lost", "it is lost"))
    elif not node.reachable:
        found.append(
            ("unreachable", "nobody can write there: it has no agent that is a member, and no SSH")
        )
    if not node.receives:
        found.append(("receives_nothing", "its description says that it is given nothing"))
    if dataset is not None and node.datasets is not None and dataset not in node.datasets:
        found.append(("dataset", f"its description says that it does not take {dataset}"))
    return tuple(found)


def targets_of(
    request: Request, nodes: Mapping[str, NodeFacts]
) -> tuple[tuple[str, ...], tuple[LeftOut, ...]]:
    """Nodes that a request names: those that may be given something, and the others with why."""
    taking, out = [], []
    for name in sorted(nodes):
        node = nodes[name]
        if not any_matches(request.targets, node):
            continue
        reasons = cannot(node, request.dataset)
        if reasons:
            out.append(LeftOut(node=name, reasons=tuple(text for _, text in reasons)))
        else:
            taking.append(name)
    missing = sorted(
        {each[5:] for each in request.targets if each.startswith("node:")} - set(nodes)
    )
    out += [
        LeftOut(node=name, reasons=("no node is called so: `interlock nodes` lists them",))
        for name in missing
    ]
    return tuple(taking), tuple(out)


def for_plan(asked: Asked, ids: Iterable[str]) -> Request | None:
    """A request as a plan sees it: exact nodes and artifacts. None: there is nothing to plan."""
    request = asked.request
    artifacts = tuple(ids)
    if not artifacts or not asked.nodes:
        return None
    return Request(
        id=request.id,
        dataset=request.dataset,
        config=request.config,
        artifacts=artifacts,
        targets=tuple(f"node:{name}" for name in asked.nodes),
        priority=request.priority,
        by=request.by,
        at=request.at,
        until=request.until,
    )


def already(
    nodes: Iterable[str],
    ids: Iterable[str],
    artifacts: Mapping[str, Artifact],
    copies: Mapping[str, frozenset[str]],
) -> tuple[int, int]:
    """Pairs that have a receipt, and their bytes."""
    wanted = frozenset(nodes)
    count = size = 0
    for id in ids:
        there = len(wanted & copies.get(id, _NOBODY))
        count += there
        size += there * artifacts[id].bytes
    return count, size


def report(
    asked: Asked,
    ids: Iterable[str],
    *,
    artifacts: Mapping[str, Artifact],
    copies: Mapping[str, frozenset[str]],
    nodes: Mapping[str, NodeFacts],
    exclusions: Exclusions,
    over: bool = False,
    failures: int = 100,
) -> SyncReport:
    """How far a request is. `over`: its time is up, and what is not there by now has failed.

    At most so many `failures` are listed.
    """
    wanted = frozenset(asked.nodes)
    against = {name: cannot(nodes.get(name), asked.request.dataset) for name in wanted}
    count = total = verified = verified_bytes = failed = pending = pending_bytes = 0
    listed: list[Pair] = []
    for id in ids:
        count += 1
        size = artifacts[id].bytes
        total += size
        there = wanted & copies.get(id, _NOBODY)
        verified += len(there)
        verified_bytes += len(there) * size
        if len(there) == len(wanted):
            continue
        for name in sorted(wanted - there):
            lost = not copies.get(id)
            why = _why(name, artifacts[id], against[name], nodes, exclusions, over=over, lost=lost)
            if why is None:
                pending += 1
                pending_bytes += size
                continue
            failed += 1
            if len(listed) < failures:
                listed.append(Pair(artifact=id, node=name, code=why[0], text=why[1][:_TEXT]))
    return SyncReport(
        id=asked.request.id,
        done=pending == 0,
        targets=asked.nodes,
        left_out=asked.left_out,
        artifacts=count,
        asked=count * len(wanted),
        asked_bytes=total * len(wanted),
        already_there=asked.already_there,
        moved=max(0, verified - asked.already_there),
        moved_bytes=max(0, verified_bytes - asked.already_bytes),
        verified=verified,
        pending=pending,
        pending_bytes=pending_bytes,
        failed=failed,
        failures=tuple(listed),
        timed_out=over and failed > 0,
    )


def _why(
    name: str,
    about: Artifact,
    against: tuple[tuple[str, str], ...],
    nodes: Mapping[str, NodeFacts],
    exclusions: Exclusions,
    *,
    over: bool,
    lost: bool,
) -> tuple[str, str] | None:
    """Why a pair failed; None: it is pending. `lost`: nobody holds it any more."""
    if against:
        return against[0][0], "; ".join(text for _, text in against)
    node = nodes[name]
    if node.datasets is not None and about.dataset not in node.datasets:
        return "dataset", f"its description says that it does not take {about.dataset}"
    lately = exclusions.of(name, about.id)
    if lately is not None and (lately.given_up or over or lost):
        return lately.failure.code, lately.failure.text
    if node.free_bytes is not None and about.bytes > node.free_bytes:
        return "no_space", f"it has {node.free_bytes:,} bytes free, and {about.bytes:,} are needed"
    if over:
        return "timeout", "it was not there when the time was up"
    return None


_NOBODY: frozenset[str] = frozenset()
