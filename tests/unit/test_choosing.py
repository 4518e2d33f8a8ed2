"""Which way is tried first, from what was measured, what failed, and what is not known."""

from typing import get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from interlock.artifacts.choosing import Measured, Setback, Tracks, Way, order_of
from interlock_schemas.artifacts import Transport
from interlock_schemas.orders import Source

GB = 10**9
NOW = 10_000.0

TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
WAYS = st.lists(
    st.builds(
        Way,
        source=st.sampled_from(["a", "b", "c"]),
        transport=st.sampled_from(TRANSPORTS),
        preferred=st.none() | st.integers(0, 3),
        place=st.integers(0, 3),
        offered=st.integers(0, 4),
        measured=st.none()
        | st.builds(Measured, bytes_per_s=st.floats(0, 1e11), at=st.floats(0, 2 * NOW)),
        setback=st.none()
        | st.builds(Setback, failures=st.integers(1, 50), until=st.floats(0, 2 * NOW)),
        explored_at=st.none() | st.floats(0, 2 * NOW),
    ),
    max_size=10,
    unique_by=lambda way: (way.source, way.transport),
)


def way(transport: Transport = "exec", source: str = "a", **facts: object) -> Way:
    return msgspec.structs.replace(Way(source=source, transport=transport), **facts)


def measured(bytes_per_s: float, at: float = NOW) -> Measured:
    return Measured(bytes_per_s=bytes_per_s, at=at)


@given(ways=WAYS, size=st.integers(0, 10**13), files=st.integers(0, 10**6))
def test_every_way_is_in_the_order_once_and_those_that_failed_lately_come_last(
    ways: list[Way], size: int, files: int
) -> None:
    order = order_of(ways, size, files, NOW)
    assert sorted(order, key=repr) == sorted(ways, key=repr)
    held_back = [each.setback is not None and each.setback.until > NOW for each in order]
    assert held_back == sorted(held_back)


@given(ways=WAYS, size=st.integers(0, 10**13), at=st.permutations(range(10)))
def test_the_order_does_not_depend_on_the_order_of_the_question(
    ways: list[Way], size: int, at: list[int]
) -> None:
    shuffled = [ways[place] for place in at if place < len(ways)]
    order = order_of(ways, size, 1, NOW)
    assert order_of(shuffled, size, 1, NOW) == order


@given(ways=WAYS, size=st.integers(0, 10**13))
def test_no_failure_counts_for_ever(ways: list[Way], size: int) -> None:
    later = NOW + 10 * NOW
    without = [msgspec.structs.replace(each, setback=None) for each in ways]
    order = [(each.source, each.transport) for each in order_of(ways, size, 1, later)]
    assert order == [(each.source, each.transport) for each in order_of(without, size, 1, later)]


def test_what_was_measured_to_be_faster_goes_first() -> None:
    slow = way("exec", measured=measured(1e6))
    fast = way("sftp", measured=measured(90e6))
    assert order_of([slow, fast], GB, 1, NOW) == [fast, slow]


def test_what_was_measured_long_ago_counts_little() -> None:
    long_ago = way("exec", measured=measured(1e3, NOW - 9_000))
    lately = way("sftp", measured=measured(30e6))
    assert order_of([long_ago, lately], GB, 1, NOW)[0] == long_ago


def test_what_the_policy_would_rather_have_goes_first_unless_it_failed() -> None:
    fast = way("exec", measured=measured(500e6))
    wanted = way("sftp", preferred=0, measured=measured(1e6))
    assert order_of([fast, wanted], GB, 1, NOW) == [wanted, fast]
    failed = msgspec.structs.replace(wanted, setback=Setback(failures=1, until=NOW + 1))
    assert order_of([fast, failed], GB, 1, NOW) == [fast, failed]


def test_large_amounts_do_not_burden_the_broker_while_anything_else_leads_there() -> None:
    ways = [way("relay"), way("object"), way("exec"), way("rsync"), way("sftp")]
    assert order_of(ways, 10 * GB, 1, NOW)[0].transport == "exec"
    assert {each.transport for each in order_of(ways, 10 * GB, 1, NOW)[3:]} == {"relay", "object"}
    assert order_of(ways, 10_000, 1, NOW)[0].transport == "relay"


def test_an_unknown_way_is_tried_now_and_then() -> None:
    known = way("exec", measured=measured(200e6))
    unknown = way("sftp")
    assert order_of([known, unknown], 10**6, 1, NOW) == [unknown, known]
    tried = msgspec.structs.replace(unknown, explored_at=NOW - 10)
    assert order_of([known, tried], 10**6, 1, NOW) == [known, tried]
    again = msgspec.structs.replace(unknown, explored_at=NOW - 3_600)
    assert order_of([known, again], 10**6, 1, NOW) == [again, known]
    assert order_of([known, unknown], GB, 1, NOW) == [known, unknown]


def test_the_better_source_goes_first_where_nothing_is_known() -> None:
    ways = [way(source="b", place=1), way(source="a", place=0)]
    assert [each.source for each in order_of(ways, GB, 1, NOW)] == ["a", "b"]


SOURCES = (
    Source(node="a", transports=("exec", "relay")),
    Source(node="b", transports=("exec",)),
)


def test_failures_in_a_row_hold_a_way_back_for_longer_up_to_a_limit() -> None:
    tracks = Tracks()
    pauses = [tracks.failed("a", "exec", "unreachable", NOW).until - NOW for _ in range(40)]
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[1] < pauses[-1] <= 600
    held = order_of(tracks.ways(SOURCES), GB, 1, NOW)
    assert (held[-1].source, held[-1].transport) == ("a", "exec")
    tracks.went("a", "exec", GB, 10.0, NOW)
    assert tracks.failed("a", "exec", "unreachable", NOW).failures == 1


@given(st.lists(st.tuples(st.integers(0, 10**12), st.floats(0, 1e5)), max_size=30))
def test_what_is_remembered_lies_within_what_was_measured(runs: list[tuple[int, float]]) -> None:
    tracks = Tracks()
    speeds = [100e6]
    for count, seconds in runs:
        tracks.went("a", "exec", count, seconds, NOW)
        if count > 0 and seconds > 0:
            speeds.append(count / seconds)
    rate = tracks.rates().get("a")
    if rate is not None:
        assert min(speeds) * (1 - 1e-9) <= rate <= max(speeds) * (1 + 1e-9)


def test_a_tiny_transfer_says_little_about_speed() -> None:
    tracks = Tracks()
    tracks.went("a", "exec", GB, 5.0, NOW)
    tracks.went("a", "exec", 1_000, 1.0, NOW)
    assert tracks.rates()["a"] > 190e6


def test_preferences_and_places_come_from_the_order() -> None:
    tracks = Tracks()
    tracks.begun(tracks.ways(SOURCES)[1], NOW)
    ways = tracks.ways(SOURCES, ("relay",))
    assert [(each.source, each.transport, each.preferred, each.place) for each in ways] == [
        ("a", "exec", None, 0),
        ("a", "relay", 0, 0),
        ("b", "exec", None, 1),
    ]
    assert [each.explored_at for each in ways] == [NOW, NOW, None]
