"""Where too many go quiet at once, the fault is probably not theirs."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock_health_monitor.disruption import (
    EVERYWHERE,
    DisruptionPolicy,
    Disruptions,
    crowd,
)

POLICY = DisruptionPolicy()
FLEET = {"a": 40, "b": 30, "c": 30}


class Fleet:
    """Assessed each second."""

    def __init__(self, members: Mapping[str, int] = FLEET) -> None:
        self.members = members
        self.at = 0.0
        self.now = Disruptions()
        self.told: list[tuple[str, str]] = []

    def seconds(self, lasts: float, settling: bool = False, **quiet: int) -> "Fleet":
        until = self.at + lasts
        while self.at < until:
            self.now = self.now.assess(quiet, self.members, self.at, POLICY, settling=settling)
            self.told += [("began", each.zone) for each in self.now.began]
            self.told += [("ended", each.zone) for each in self.now.ended]
            self.at += 1.0
        return self


def test_a_few_quiet_nodes_are_no_disruption() -> None:
    assert Fleet().seconds(60, a=5, b=3).told == []


def test_half_a_zone_is_one_and_is_told_once() -> None:
    fleet = Fleet().seconds(60, a=20)
    assert fleet.told == [("began", "a")]
    assert fleet.now.zones == {"a"}


def test_a_zone_with_much_of_the_fleet_is_one_disruption_and_not_two() -> None:
    fleet = Fleet().seconds(1, a=5).seconds(60, a=40)
    assert fleet.told == [("began", "a")]


def test_a_broken_zone_does_not_slow_down_the_others() -> None:
    fleet = Fleet().seconds(60, a=40, b=2)
    assert EVERYWHERE not in fleet.now.zones
    assert "b" not in fleet.now.zones


def test_two_broken_zones_are_the_fleets() -> None:
    fleet = Fleet().seconds(60, a=40).seconds(60, a=40, b=20)
    assert EVERYWHERE in fleet.now.zones


def test_quiet_nodes_all_over_the_fleet_are_its_disruption() -> None:
    assert Fleet().seconds(60, a=10, b=9, c=9).told == [("began", EVERYWHERE)]


def test_while_the_fleet_has_one_its_zones_are_not_told_of() -> None:
    fleet = Fleet().seconds(10, a=12, b=9, c=9).seconds(60, a=40, b=30, c=30)
    assert fleet.told == [("began", EVERYWHERE)]


def test_two_nodes_are_never_a_disruption_however_small_the_zone() -> None:
    assert Fleet({"a": 2, "b": 50}).seconds(60, a=2).told == []
    assert Fleet({"c": 3}).seconds(60, c=2).told == []


def test_none_begins_while_the_monitor_settles_but_one_that_stands_goes_on() -> None:
    assert Fleet().seconds(10, settling=True, a=40, b=30, c=30).told == []
    fleet = Fleet().seconds(10, a=40).seconds(10, settling=True, a=40)
    assert fleet.now.zones == {"a"}


def test_it_ends_some_time_after_most_are_back() -> None:
    fleet = Fleet().seconds(60, a=40).seconds(19, a=5)
    assert fleet.now.zones == {"a"}
    fleet.seconds(5, a=5)
    assert fleet.told == [("began", "a"), ("ended", "a")]


def test_one_that_flickers_is_told_once() -> None:
    fleet = Fleet()
    for _ in range(20):
        fleet.seconds(10, a=30).seconds(10, a=0)
    assert fleet.told == [("began", "a")]


def test_the_last_to_come_back_are_spared_for_a_while_yet() -> None:
    fleet = Fleet().seconds(60, a=40).seconds(30, a=5)
    assert fleet.now.zones == frozenset()
    assert fleet.now.sparing == {"a"}
    fleet.seconds(POLICY.spare_s, a=5)
    assert fleet.now.sparing == frozenset()


def test_it_does_not_stand_for_ever_and_those_still_quiet_count_as_dead() -> None:
    fleet = Fleet().seconds(POLICY.longest_s + 10, a=40)
    assert fleet.told == [("began", "a"), ("ended", "a")]
    assert fleet.now.sparing == frozenset()
    # The same nodes do not begin it anew.
    assert fleet.seconds(600, a=40).told == [("began", "a"), ("ended", "a")]


def test_nor_does_the_fleets_and_its_zones_do_not_begin_where_it_ended() -> None:
    fleet = Fleet().seconds(5, a=10, b=9, c=9).seconds(POLICY.longest_s + 600, a=40, b=30, c=30)
    assert fleet.told == [("began", EVERYWHERE), ("ended", EVERYWHERE)]


def test_one_that_counts_as_dead_does_not_hide_the_next() -> None:
    fleet = Fleet().seconds(POLICY.longest_s + 10, a=40)
    fleet.seconds(10, a=40, b=20)
    assert fleet.now.zones == {"b"}


def test_a_zone_that_has_no_nodes_any_more_has_no_disruption() -> None:
    fleet = Fleet().seconds(60, a=40)
    fleet.members = {"b": 30, "c": 30}
    assert fleet.seconds(2).told == [("began", "a"), ("ended", "a")]


QUIET = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 40), max_size=3)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0.1, 2_000), QUIET, st.booleans()), max_size=25))
def test_each_is_told_once_when_it_begins_and_once_when_it_ends(
    course: list[tuple[float, dict[str, int], bool]],
) -> None:
    now, at = Disruptions(), 0.0
    standing: dict[str, float] = {}
    for lasts, quiet, settling in course:
        at += lasts
        quiet = {zone: min(n, FLEET[zone]) for zone, n in quiet.items()}
        now = now.assess(quiet, FLEET, at, POLICY, settling=settling)
        for each in now.ended:
            assert standing.pop(each.zone) == each.since_s
        for each in now.began:
            assert each.zone not in standing
            assert not settling
            standing[each.zone] = each.since_s
        assert set(standing) == now.zones
        assert now.zones <= now.sparing
    # With all of them back, it is over.
    for _ in range(3):
        at += POLICY.spare_s + POLICY.clear_s
        now = now.assess({}, FLEET, at, POLICY)
    assert now.sparing == frozenset()


def test_a_crowd_is_several_that_went_quiet_within_a_moment() -> None:
    assert not crowd([], 100, POLICY)
    assert not crowd([10.0, 10.1, 10.2, 10.3], 100, POLICY)
    assert crowd([10.0, 10.1, 10.2, 10.3, 10.4], 100, POLICY)
    assert not crowd([10.0 * each for each in range(50)], 100, POLICY)


def test_in_a_small_fleet_two_are_no_crowd() -> None:
    assert not crowd([1.0, 1.0], 5, POLICY)
    assert crowd([1.0, 1.0, 1.0], 5, POLICY)


@given(st.floats(0, 1e6), st.floats(0, 0.999))
def test_a_moment_may_fall_anywhere(at: float, within: float) -> None:
    spread = [at + each * within * POLICY.crowd_s / 9 for each in range(10)]
    assert crowd(spread, 100, POLICY)
