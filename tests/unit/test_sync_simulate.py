"""The simulated day of the sync-router: quick fleets, and that its judge is no rubber stamp."""

import msgspec
import pytest

from interlock_schemas.orders import Action
from interlock_sync_router.simulate.day import Day, play
from interlock_sync_router.world import Move


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_day_ends_as_the_policies_ask(seed: int) -> None:
    found = play(40, 1_000, 24, seed, lambda _: None)
    assert found.violated == []
    assert found.settled_s is not None
    assert found.short == 0
    assert found.complete + found.no_room + found.lost + found.drops >= found.artifacts
    assert found.moves > 1_000
    assert found.preempted > 10
    assert found.egress_max <= 2.5


def test_the_same_seed_is_the_same_day() -> None:
    timed = {"plan_p50_s": 0.0, "plan_max_s": 0.0, "took_s": 0.0}
    runs = [play(12, 100, 6, 5, lambda _: None) for _ in range(2)]
    first, second = (msgspec.structs.replace(each, **timed) for each in runs)
    assert first == second


def test_a_bad_decision_is_noticed() -> None:
    day = Day(8, 1, 1, 1)
    day._seal()
    id = next(iter(day.artifacts))
    holder = next(iter(day.copies[id]))
    names = [name for name in day.nodes if name != holder]
    day.nodes[names[0]] = msgspec.structs.replace(day.nodes[names[0]], standing="lost")
    day.nodes[names[1]] = msgspec.structs.replace(day.nodes[names[1]], free_bytes=0)

    def move(node: str, action: Action, source: str) -> Move:
        return Move(
            node=node, artifact=id, action=action, priority="normal", rank=0.0,
            sources=(source,), reasons=(), replicas=2,
        )  # fmt: skip

    day._order(move(names[0], "fetch", holder))
    day._order(move(names[1], "fetch", holder))
    day._order(move(names[2], "fetch", names[3]))
    day._order(move(holder, "drop", holder))
    assert day.report.violations == 4
