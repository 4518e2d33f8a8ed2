"""Levels of pressure: thresholds up and down, expiry, and what is not known."""

import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_health_monitor import instants
from interlock_health_monitor.pressure import (
    FLEET,
    Gauge,
    PressurePolicy,
    at_least,
    due,
    fleet_gauge,
    gauge,
    rank,
    record,
    told,
)
from interlock_health_monitor.symptoms import Limits
from interlock_schemas.health import PRESSURE_LEVELS, PressureLevel
from interlock_schemas.nodes import Beat, Disk, Gpu
from interlock_schemas.resource import BackpressureActivated, BackpressureReleased

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
HUNDRED = Limits(memory_used_percent=100.0, disk_used_percent=100.0, load_per_core=10.0)


def beat(**measured: object) -> Beat:
    return msgspec.structs.replace(Beat(node="a", instance="i", seq=1), **measured)


def look(before: Gauge | None, memory: float | None, at_s: float = 0.0) -> Gauge:
    now = NOW + datetime.timedelta(seconds=at_s)
    return gauge(before, "a", beat(memory_used_percent=memory), now, limits=HUNDRED)


@pytest.mark.parametrize(
    ("used", "level"),
    [(0, "none"), (79, "none"), (80, "low"), (88, "medium"), (95, "high"), (100, "critical")],
)
def test_a_level_has_a_threshold(used: float, level: PressureLevel) -> None:
    found = look(None, used)
    assert found.level == level
    assert bool(found.reason) == (level != "none")


def test_a_level_is_left_only_some_way_below() -> None:
    up = look(None, 88)
    still = look(up, 85, 10)
    assert (still.level, still.since) == ("medium", NOW)
    down = look(still, 84, 20)
    assert (down.level, down.since) == ("low", NOW + datetime.timedelta(seconds=20))


def test_the_shortest_resource_counts() -> None:
    found = gauge(
        None,
        "a",
        beat(
            memory_used_percent=10.0,
            load_per_core=1.0,
            disks=(
                Disk(path="/", used_percent=20.0),
                Disk(path="/data", used_percent=50.0, inodes_used_percent=96.0),
            ),
            gpus=(Gpu(index=0, memory_used_bytes=99, memory_total_bytes=100), Gpu(index=1)),
        ),
        NOW,
        limits=HUNDRED,
    )
    assert (found.level, found.resource, found.reason) == ("high", "disk", "96 % of /data used")
    assert found.levels == {
        "memory": "none", "disk": "high", "cpu": "none", "gpu_memory": "medium"
    }  # fmt: skip


def test_what_is_not_measured_has_no_level_and_is_not_stored() -> None:
    for found in (look(None, None), gauge(None, "a", None, NOW), fleet_gauge(None, [], NOW)):
        assert found.level is None
        assert record(found, NOW) is None
        assert not due(None, found, NOW)
        assert not at_least(found.level, "none")


def test_a_record_expires_and_is_refreshed_before() -> None:
    high = look(None, 95)
    stored = record(high, NOW)
    assert stored is not None
    assert (stored.scope, stored.level) == ("node.a", "high")
    assert stored.expires_at == instants.text(NOW + datetime.timedelta(seconds=60))
    assert due(None, high, NOW)
    assert not due(stored, high, NOW + datetime.timedelta(seconds=29))
    assert due(stored, high, NOW + datetime.timedelta(seconds=31))
    assert due(stored, look(high, 100), NOW)


def test_events_tell_of_medium_and_above_and_of_relief() -> None:
    calm, medium = look(None, 0), look(None, 90)
    began = told(calm, medium, NOW)
    assert isinstance(began, BackpressureActivated)
    assert (began.node, began.level, began.resource_type) == ("a", "medium", "memory")
    assert told(None, calm, NOW) is None
    assert told(medium, look(medium, 90, 5), NOW) is None
    worse = told(medium, look(medium, 96, 5), NOW)
    assert isinstance(worse, BackpressureActivated)
    over = told(medium, look(medium, 10, 30), NOW + datetime.timedelta(seconds=30))
    assert isinstance(over, BackpressureReleased)
    assert (over.previous_level, over.duration_s) == ("medium", 30.0)


def test_what_is_not_known_any_more_is_no_relief_and_relief_is_told_later() -> None:
    medium = look(None, 90)
    dark = look(medium, None, 10)
    assert told(medium, dark, NOW) is None
    same = look(dark, 90, 20)
    assert told(dark, same, NOW) is None
    over = told(dark, look(dark, 0, 20), NOW + datetime.timedelta(seconds=20))
    assert isinstance(over, BackpressureReleased)
    assert over.duration_s == 20.0


def test_the_fleet_is_where_half_of_its_nodes_are() -> None:
    few = fleet_gauge(None, ["critical", "none", "none", None], NOW)
    assert (few.level, few.scope) == ("none", FLEET)
    half = fleet_gauge(few, ["critical", "high", "none", "none"], NOW)
    assert (half.level, half.reason) == ("high", "2 of 4 nodes are at high or above")
    high: list[PressureLevel | None] = ["high"] * 4
    calm: list[PressureLevel | None] = ["none"] * 5
    assert fleet_gauge(half, high + calm, NOW).level == "high"
    assert fleet_gauge(None, high + calm, NOW).level == "none"
    assert fleet_gauge(half, high[:2] + calm, NOW).level == "none"


percents = st.floats(0, 120)
levels = st.sampled_from(PRESSURE_LEVELS)


@given(percents, percents)
def test_more_used_is_never_a_lower_level(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert rank(look(None, less).level or "none") <= rank(look(None, more).level or "none")
    before = look(None, 90)
    assert rank(look(before, less).level or "none") <= rank(look(before, more).level or "none")


@given(st.lists(st.floats(0.865, 0.875), min_size=2, max_size=40))
def test_a_value_that_wavers_about_a_threshold_changes_nothing_more(shares: list[float]) -> None:
    now = look(None, 88.0)
    for share in shares:
        following = look(now, share * 100)
        assert following.level == now.level
        now = following


@given(st.lists(st.none() | levels, max_size=20), st.none() | levels)
def test_the_fleet_is_between_its_nodes(
    nodes: list[PressureLevel | None], was: PressureLevel | None
) -> None:
    before = Gauge(scope=FLEET, level=was, since=NOW) if was is not None else None
    found = fleet_gauge(before, nodes, NOW)
    known = [rank(each) for each in nodes if each is not None]
    if not known:
        assert found.level is None
        return
    assert found.level is not None
    assert rank(found.level) <= max(known)
    assert rank(found.level) >= min(known)


def test_levels_are_ordered() -> None:
    assert [rank(level) for level in PRESSURE_LEVELS] == [0, 1, 2, 3, 4]
    assert at_least("high", "medium")
    assert not at_least("low", "medium")
    assert PressurePolicy().tell == "medium"
