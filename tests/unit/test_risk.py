"""What would be lost with a node."""

from hypothesis import given, settings

from interlock_sync_router.risk import Risk, at_risk, is_safe, risk_of
from interlock_sync_router.world import World
from tests.unit.test_planner import NOW, artifact, node, world, worlds


@settings(max_examples=120, deadline=None)
@given(worlds())
def test_the_sums_are_those_of_what_is_at_risk(given: World) -> None:
    sums = risk_of(given)
    assert set(sums) == set(given.nodes)
    for name in given.nodes:
        found = [given.artifacts[id] for id in at_risk(given, name)]
        assert sums[name] == Risk(
            artifacts=len(found),
            bytes=sum(each.bytes for each in found),
            steps=sum(each.steps or 0 for each in found),
            value=sum(each.value for each in found),
        )


@settings(max_examples=120, deadline=None)
@given(worlds())
def test_what_another_safe_node_has_is_not_at_risk_and_all_else_is(given: World) -> None:
    for name in given.nodes:
        found = set(at_risk(given, name))
        for id, holders in given.copies.items():
            others = any(is_safe(given.nodes[each]) for each in holders - {name})
            assert (id in found) == (name in holders and not others)


def test_the_more_valuable_is_saved_first_then_more_steps_then_the_smaller() -> None:
    given = world(
        [node("n0", leaving_at=NOW + 30), node("n1", ephemeral=True)],
        {
            artifact(1, value=1.0, steps=5): {"n0"},
            artifact(2, value=2.0): {"n0", "n1"},
            artifact(3, value=1.0, steps=9): {"n0"},
            artifact(4, value=1.0, steps=5, bytes=1): {"n0"},
        },
    )
    assert [id[-1] for id in at_risk(given, "n0")] == ["2", "3", "4", "1"]
