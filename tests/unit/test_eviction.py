"""Which lost nodes are taken out of service, and when: on a budget, and never in a disruption."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock_health_monitor.disruption import EVERYWHERE
from interlock_health_monitor.eviction import Evicted, EvictionPolicy, Lost, budget_of, rule

POLICY = EvictionPolicy()
NOBODY: frozenset[str] = frozenset()


def lost(name: str, zone: str = "a", lost_s: float = 100.0, evictable: bool = True) -> Lost:
    return Lost(name=name, zone=zone, lost_s=lost_s, evictable=evictable)


def test_one_that_is_lost_for_a_while_is_evicted() -> None:
    ruling = rule([lost("n1")], {"a": 10}, [], NOBODY, 0.0, POLICY)
    assert [each.name for each in ruling.evict] == ["n1"]
    assert ruling.withheld == {}


def test_one_that_was_just_lost_is_not_and_nothing_is_said_about_it() -> None:
    ruling = rule([lost("n1", lost_s=59.9)], {"a": 10}, [], NOBODY, 0.0, POLICY)
    assert ruling.evict == ()
    assert ruling.withheld == {}


def test_who_has_been_lost_longest_goes_first_while_the_budget_lasts() -> None:
    names = [lost(f"n{each}", lost_s=100.0 + each) for each in range(5)]
    ruling = rule(names, {"a": 20, "b": 30}, [], NOBODY, 0.0, POLICY)
    assert [each.name for each in ruling.evict] == ["n4", "n3"]
    assert ruling.withheld == {f"n{each}": "the budget of zone a is spent" for each in range(3)}
    assert ruling.budget.left("a") == 0


def test_the_fleet_has_a_budget_beside_its_zones() -> None:
    members = {f"z{each}": 10 for each in range(6)}
    names = [lost(f"n{each}", f"z{each}") for each in range(6)]
    ruling = rule(names, members, [], NOBODY, 0.0, POLICY)
    assert len(ruling.evict) == 3
    assert set(ruling.withheld.values()) == {"the budget of the fleet is spent"}


def test_a_budget_refills_when_its_window_has_passed() -> None:
    before = [Evicted(name="n0", zone="a", at_s=0.0)]
    names = [lost("n1")]
    assert rule(names, {"a": 10}, before, NOBODY, 599.0, POLICY).evict == ()
    assert rule(names, {"a": 10}, before, NOBODY, 600.0, POLICY).evict != ()


def test_a_small_zone_may_lose_one() -> None:
    assert rule([lost("n1")], {"a": 1}, [], NOBODY, 0.0, POLICY).evict != ()
    assert budget_of({"a": 0}, [], 0.0, POLICY).left("a") == 0


def test_nobody_is_evicted_where_a_large_part_is_quiet() -> None:
    names = [lost("n1", "a"), lost("n2", "b")]
    members = {"a": 100, "b": 100}
    ruling = rule(names, members, [], frozenset({"a"}), 0.0, POLICY)
    assert [each.name for each in ruling.evict] == ["n2"]
    assert "zone a" in ruling.withheld["n1"]
    assert rule(names, members, [], frozenset({EVERYWHERE}), 0.0, POLICY).evict == ()


def test_whom_its_description_spares_is_spared_and_costs_nothing() -> None:
    names = [lost("n1", lost_s=900, evictable=False), lost("n2")]
    ruling = rule(names, {"a": 10}, [], NOBODY, 0.0, POLICY)
    assert [each.name for each in ruling.evict] == ["n2"]
    assert "never evicted" in ruling.withheld["n1"]


ZONES = st.sampled_from(["", "a", "b", "c"])
STEPS = st.lists(
    st.tuples(
        st.floats(0, 400),
        st.lists(st.tuples(ZONES, st.floats(0, 1_000)), max_size=30),
        st.frozensets(st.sampled_from(["", "a", "b", EVERYWHERE]), max_size=2),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(
    STEPS,
    st.dictionaries(ZONES, st.integers(0, 200), min_size=1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_sequence_spends_more_than_the_budget(
    steps: list[tuple[float, list[tuple[str, float]], frozenset[str]]],
    members: dict[str, int],
    zone_share: float,
    fleet_share: float,
) -> None:
    policy = EvictionPolicy(zone_share=zone_share, fleet_share=fleet_share)
    evicted: list[Evicted] = []
    now = 0.0
    for pause, names, disrupted in steps:
        now += pause
        candidates = [
            lost(f"n{len(evicted)}-{number}", zone, lost_s)
            for number, (zone, lost_s) in enumerate(names)
        ]
        ruling = rule(candidates, members, evicted, disrupted, now, policy)
        for each in ruling.evict:
            assert each.lost_s >= policy.after_s
            assert each.zone not in disrupted
            assert EVERYWHERE not in disrupted
            evicted.append(Evicted(name=each.name, zone=each.zone, at_s=now))
        told = {each.name for each in ruling.evict} | set(ruling.withheld)
        assert told == {each.name for each in candidates if each.lost_s >= policy.after_s}
    for start in [each.at_s for each in evicted]:
        window = [e for e in evicted if start <= e.at_s < start + policy.window_s]
        assert len(window) <= max(1, int(sum(members.values()) * fleet_share))
        for zone, count in Counter(each.zone for each in window).items():
            assert count <= max(1, int(members[zone] * zone_share))
