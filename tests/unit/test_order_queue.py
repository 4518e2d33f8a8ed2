"""Which orders a node carries out next, and what comes after an attempt failed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.artifacts.queue import (
    LOOKS,
    ROUNDS,
    URGENCY,
    History,
    Standing,
    Tried,
    Trip,
    TripLimits,
    after,
    next_trips,
    urgency,
    wake_at,
)
from interlock_schemas.artifacts import Artifact
from interlock_schemas.orders import Failure, FailureCode, Order, Source

MIB = 1024**2


def id_of(number: int) -> str:
    return f"{number:064x}"


def order(number: int, *, size: int = 1_000, files: int = 1, **given: Any) -> Standing:
    sources = given.pop("sources", ("a",))
    about = Artifact(
        id=id_of(number),
        dataset="games",
        name="x",
        bytes=size,
        files=files,
        origin="a",
        sealed_at="2026-01-01T00:00:00Z",
    )
    return Standing(
        Order(
            id=f"o{number}",
            node="n",
            artifact=id_of(number),
            about=about,
            token=given.pop("token", 5),
            issued_at=given.pop("issued_at", "2026-01-01T00:00:00Z"),
            sources=tuple(Source(node=name, transports=("relay",)) for name in sources),
            **given,
        ),
        number + 1,
    )


def trips(*standing: Standing, **given: Any) -> list[Trip]:
    return next_trips(standing, **{"epoch": 5, "now": 0.0, "slots": 4, **given})


def ids(found: list[Trip]) -> list[list[int]]:
    return [[int(id, 16) for id in trip.ids] for trip in found]


def tried(code: FailureCode, source: str | None = "a") -> Tried:
    return Tried(code=code, text=f"{code} it was", source=source, transport="relay")


BIG = 100 * MIB


def test_the_most_urgent_is_first_then_the_higher_rank() -> None:
    given = (
        order(1, size=BIG, priority="low"),
        order(2, size=BIG, priority="critical", rank=1),
        order(3, size=BIG, priority="critical", rank=2),
        order(4, size=BIG),
    )
    assert ids(trips(*given)) == [[3], [2], [4], [1]]
    assert ids(trips(*given, slots=2)) == [[3], [2]]


def test_small_ones_from_one_source_go_together() -> None:
    given = (
        order(1),
        order(2),
        order(3, sources=("b", "a")),
        order(4, size=BIG),
        order(5, priority="high"),
    )
    assert ids(trips(*given)) == [[5], [1, 2], [3], [4]]


def test_a_trip_is_bounded_in_bytes_artifacts_and_files() -> None:
    many = [order(number, size=MIB, files=10) for number in range(10)]
    limits = TripLimits(bytes=4 * MIB, artifacts=100, files=1_000)
    assert [len(trip.ids) for trip in trips(*many, limits=limits)] == [4, 4, 2]
    limits = TripLimits(artifacts=3)
    assert [len(trip.ids) for trip in trips(*many, limits=limits)] == [3, 3, 3, 1]
    limits = TripLimits(files=25)
    assert [len(trip.ids) for trip in trips(*many, limits=limits)] == [2, 2, 2, 2]


def test_an_older_router_is_not_heeded() -> None:
    assert ids(trips(order(1, token=4), order(2, token=5), order(3, token=6))) == [[2, 3]]


def test_what_failed_waits_for_the_router() -> None:
    failure = Failure(code="no_space", text="", at="2026-01-01T00:00:00Z")
    assert trips(order(1, failure=failure)) == []


def test_what_is_paused_or_under_way_is_not_begun() -> None:
    first = order(1)
    assert ids(trips(first, order(2), under_way=[Trip(orders=(first,))])) == [[2]]
    assert trips(first, paused=lambda _: True) == []


def test_drops_and_checks_have_a_place_of_their_own() -> None:
    given = (order(1, size=BIG), order(2, action="drop"), order(3, action="verify"))
    assert ids(trips(*given, slots=1)) == [[1], [2]]
    assert ids(trips(*given, slots=0)) == [[2]]


def test_a_source_that_failed_is_left_out_until_all_have() -> None:
    standing = order(1, sources=("a", "b"))
    history = after(standing.order, History(), tried("unreachable"), 0.0)
    assert isinstance(history, History)
    (trip,) = trips(standing, histories={id_of(1): history})
    assert trip.source is not None
    assert trip.source.node == "b"
    history = after(standing.order, history, tried("unreachable", "b"), 0.0)
    assert isinstance(history, History)
    assert history.rounds == 1
    assert trips(standing, histories={id_of(1): history}) == []
    assert wake_at([standing], {id_of(1): history}, 0.0) == history.not_before
    (trip,) = trips(standing, histories={id_of(1): history}, now=history.not_before)
    assert trip.source is not None
    assert trip.source.node == "a"


def test_what_another_source_does_not_mend_is_given_up_at_once() -> None:
    standing = order(1, sources=("a", "b"))
    for code in ("no_space", "denied", "refused_name"):
        result = after(standing.order, History(), tried(code, None), 0.0)
        assert isinstance(result, Tried)
        assert result.code == code


def test_damaged_bytes_are_asked_of_another_source_and_twice_of_one() -> None:
    standing = order(1, sources=("a", "b"))
    history = after(standing.order, History(), tried("damaged"), 0.0)
    assert isinstance(history, History)
    assert [
        trip.source and trip.source.node for trip in trips(standing, histories={id_of(1): history})
    ] == ["b"]
    alone = order(2)
    history = after(alone.order, History(), tried("damaged"), 0.0)
    assert isinstance(history, History)
    assert history.not_before > 0
    given_up = after(alone.order, history, tried("damaged"), 10.0)
    assert isinstance(given_up, Tried)
    assert given_up.code == "source_damaged"
    assert given_up.source == "a"


def test_a_damaged_one_goes_alone() -> None:
    history = History(tried=(tried("damaged"),))
    assert ids(trips(order(1), order(2), order(3), histories={id_of(1): history})) == [[1], [2, 3]]


def test_without_a_source_it_goes_alone_to_be_told_so() -> None:
    (trip,) = trips(order(1, sources=()))
    assert trip.source is None
    result = after(trip.orders[0].order, History(), tried("source_gone", None), 0.0)
    assert isinstance(result, Tried)
    assert result.code == "source_gone"


def test_it_says_what_went_wrong_at_each_source() -> None:
    standing = order(1, sources=("a", "b"))
    history = after(standing.order, History(), tried("source_gone"), 0.0)
    assert isinstance(history, History)
    result = after(standing.order, history, tried("denied", "b"), 0.0)
    assert isinstance(result, Tried)
    assert result.code == "denied"
    assert "a (relay)" in result.text
    assert "b (relay)" in result.text


def test_a_drop_waits_for_others_to_be_checked_and_not_for_ever() -> None:
    standing = order(1, action="drop", sources=())
    waits = Tried(code="too_few_copies", text="not checked since", waits=True)
    history, now = History(), 0.0
    for _ in range(LOOKS - 1):
        result = after(standing.order, history, waits, now)
        assert isinstance(result, History)
        assert result.not_before > now
        history, now = result, result.not_before
    assert 60 < now < 240
    assert after(standing.order, history, waits, now) == waits
    never = Tried(code="too_few_copies", text="nobody else holds one")
    assert isinstance(after(standing.order, History(), never, 0.0), Tried)


CODES: list[FailureCode] = [
    "damaged",
    "denied",
    "io",
    "no_space",
    "source_gone",
    "timeout",
    "unreachable",
]


@given(
    names=st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True),
    codes=st.lists(st.tuples(st.sampled_from(CODES), st.booleans()), min_size=60, max_size=60),
)
def test_an_order_is_given_up_in_the_end_and_until_then_has_a_source(
    names: list[str], codes: list[tuple[FailureCode, bool]]
) -> None:
    standing = order(1, sources=tuple(names))
    history, now = History(), 0.0
    for attempt, (code, here) in enumerate(codes):
        found = trips(standing, histories={id_of(1): history}, now=now)
        assert len(found) == 1
        source = found[0].source
        assert source is not None
        result = after(
            standing.order, history, tried(code, None if here else source.node), now, jitter=0.9
        )
        if isinstance(result, Tried):
            assert len(result.text) <= 500
            return
        assert result.rounds < ROUNDS
        assert attempt < ROUNDS * len(names)
        history, now = result, max(now, result.not_before)
    pytest.fail("it was never given up")


STANDING = st.lists(
    st.builds(
        order,
        st.integers(0, 10**6),
        size=st.integers(0, 80 * MIB),
        files=st.integers(1, 30_000),
        priority=st.sampled_from(sorted(URGENCY)),
        rank=st.floats(0, 10),
        token=st.integers(3, 7),
        action=st.sampled_from(["fetch", "fetch", "fetch", "drop", "verify"]),
        sources=st.lists(st.sampled_from("abc"), max_size=3, unique=True).map(tuple),
    ),
    max_size=30,
    unique_by=lambda each: each.order.artifact,
)


@given(standing=STANDING, slots=st.integers(0, 6))
def test_what_is_begun_is_within_the_limits_and_nothing_more_urgent_waits(
    standing: list[Standing], slots: int
) -> None:
    limits = TripLimits(bytes=64 * MIB, artifacts=4, files=20_000)
    found = trips(*standing, slots=slots, limits=limits)
    begun = [id for trip in found for id in trip.ids]
    assert len(begun) == len(set(begun))
    fetches = [trip for trip in found if trip.orders[0].order.action == "fetch"]
    assert len(fetches) <= slots
    assert len(found) - len(fetches) <= 1
    for trip in found:
        orders = [each.order for each in trip.orders]
        assert all(each.token >= 5 for each in orders)
        if len(orders) > 1:
            assert len({(each.action, each.priority) for each in orders}) == 1
            assert len({each.sources[0].node for each in orders}) == 1
            assert len(orders) <= limits.artifacts
            assert sum(each.about.bytes for each in orders) <= limits.bytes
            assert sum(each.about.files for each in orders) <= limits.files
    left = [
        each.order
        for each in standing
        if each.order.artifact not in begun
        and each.order.token >= 5
        and each.order.action == "fetch"
    ]
    if left:
        assert len(fetches) == slots
        best = min(urgency(each) for each in left)
        assert all(urgency(trip.orders[0].order) < best for trip in fetches)


@given(standing=STANDING)
def test_in_the_end_everything_is_begun(standing: list[Standing]) -> None:
    waiting = [each for each in standing if each.order.token >= 5]
    while waiting:
        found = trips(*waiting, slots=1)
        assert found
        begun = {id for trip in found for id in trip.ids}
        waiting = [each for each in waiting if each.order.artifact not in begun]
