"""Circles of waits: found when there is one, never seen where there is none, and broken by the same
hand everywhere."""

from collections.abc import Iterator, Mapping
from itertools import chain, combinations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock_schemas.locks import Claim
from interlock_sync_mutex.deadlock import Wait, describe, stuck, victim
from interlock_sync_mutex.leases import Lock, Standing


def lock(name: str, holders: str = "", waiters: str = "", slots: int = 1, first: int = 1) -> Lock:
    """A lock by the owners of its claims, one letter each; ``-`` goes unnamed."""
    claims = {}
    for place, owner in enumerate(holders + waiters):
        held = place < len(holders)
        claim = Claim(
            name=name,
            state="held" if held else "waiting",
            owner="" if owner == "-" else owner,
            slots=slots,
        )
        id = f"{name}{place}"
        claims[id] = Standing(id, claim, first + place, first + place)
    return Lock(name, claims)


def locks(*each: Lock) -> dict[str, Lock]:
    return {one.name: one for one in each}


def test_two_that_wait_for_one_another_are_stuck() -> None:
    entangled = locks(lock("l", "a", "b"), lock("m", "b", "a"))
    assert stuck(entangled) == [("a", "m"), ("b", "l")]


def test_who_asks_for_what_it_holds_is_stuck() -> None:
    assert stuck(locks(lock("l", "a")), ("a", "l")) == [("a", "l")]


def test_who_asks_is_refused_before_it_waits_and_after() -> None:
    before = locks(lock("l", "a", "b"), lock("m", "b"))
    after = locks(lock("l", "a", "b"), lock("m", "b", "a"))
    assert stuck(before) is None
    assert stuck(before, ("a", "m")) == stuck(after, ("a", "m")) == [("a", "m"), ("b", "l")]


def test_a_chain_is_no_circle() -> None:
    assert stuck(locks(lock("l", "a", "b"), lock("m", "b", "c"), lock("n", "c", "d"))) is None


def test_one_slot_that_will_be_free_is_enough() -> None:
    half = locks(lock("l", "ac", "b", slots=2), lock("m", "b", "a"))
    assert stuck(half) is None
    assert stuck(half, ("c", "m")) is not None


def test_what_is_free_and_not_handed_over_yet_keeps_nobody_waiting() -> None:
    # One of two slots has just run out: b is about to have it.
    assert stuck(locks(lock("l", "a", "b", slots=2), lock("m", "b", "a"))) is None
    # It goes to x, which is stuck with a: so b is stuck too.
    handed = locks(lock("l", "a", "xb", slots=2), lock("m", "b", "a"), lock("n", "a", "x"))
    assert stuck(handed) is not None
    # And b is refused nothing that it is about to be given.
    assert stuck(locks(lock("l", "", "b"), lock("m", "b", "a")), ("b", "l")) is None


def test_a_wait_that_goes_on_is_no_part_of_a_circle() -> None:
    # p and q are stuck, and o with them. That o waits for m too is not what keeps it: y goes on.
    entangled = locks(
        lock("k", "q", "p"),
        lock("l", "p", "qo"),
        lock("m", "ry", "o", slots=2),
        lock("n", "o", "r"),
    )
    assert stuck(entangled) == [("p", "k"), ("q", "l")]
    assert stuck(entangled, ("o", "m")) is None


def test_an_older_circle_is_no_reason_to_refuse_another_wait() -> None:
    entangled = locks(lock("k", "q", "p"), lock("l", "p", "q"), lock("m", "x"))
    assert stuck(entangled, ("p", "m")) is None
    assert stuck(entangled, ("z", "k")) is None


def test_the_unnamed_are_taken_to_go_on() -> None:
    assert stuck(locks(lock("l", "-", "-"), lock("m", "-", "-"))) is None
    assert stuck(locks(lock("l", "-", "a"), lock("m", "a", "-"))) is None


def test_a_lock_that_nobody_knows_goes_on() -> None:
    assert stuck({}, ("a", "l")) is None
    assert stuck({"l": Lock("l", {})}, ("a", "l")) is None


def test_the_youngest_wait_of_the_circle_is_refused() -> None:
    entangled = locks(
        lock("l", "a", "b", first=1), lock("m", "b", "c", first=11), lock("n", "c", "a", first=5)
    )
    circle = stuck(entangled)
    assert circle == [("a", "n"), ("c", "m"), ("b", "l")]
    chosen = victim(entangled, circle)
    assert chosen is not None
    assert (chosen[0], chosen[1].id) == ("m", "m1")
    assert describe(circle) == (
        "this would be a deadlock: a waits for n, held by c; c waits for m, held by b; "
        "b waits for l, held by a"
    )


def test_a_circle_that_has_gone_meanwhile_has_no_victim() -> None:
    assert victim({}, [("a", "l"), ("b", "m")]) is None


OWNERS = "abcd"
NAMES = "lmno"


@st.composite
def tangles(draw: st.DrawFn) -> dict[str, Lock]:
    found = {}
    for number, name in enumerate(NAMES[: draw(st.integers(1, 4))]):
        slots = draw(st.integers(1, 2))
        holders = draw(st.text(OWNERS + "-", max_size=slots))
        waiters = draw(st.text(OWNERS + "-", max_size=3))
        if holders or waiters:
            found[name] = lock(name, holders, waiters, slots, 1 + 10 * number)
    return found


# The definition, told once more, by trying every set of owners.


def ahead_of(one: Lock) -> list[str]:
    """Who has the slots once all that are free are handed over, oldest waiter first."""
    claims = sorted(one.claims.values(), key=lambda s: (not s.held, s.revision))
    return [s.claim.owner for s in claims][: one.slots]


def waits_of(tangle: Mapping[str, Lock]) -> set[Wait]:
    return {
        (s.claim.owner, name)
        for name, one in tangle.items()
        for s in sorted(one.claims.values(), key=lambda s: (not s.held, s.revision))[one.slots :]
        if s.claim.owner
    }


def hopeless(tangle: Mapping[str, Lock], waits: set[Wait]) -> set[Wait]:
    """Waits of owners who wait only for one another, whatever anybody else does."""
    owners = sorted({owner for owner, _ in waits})
    blocked: set[str] = set()
    for some in chain.from_iterable(combinations(owners, n) for n in range(1, len(owners) + 1)):
        if all(
            any(
                who == owner
                and (ahead := ahead_of(tangle[name]) if name in tangle else [])
                and len(ahead) >= tangle[name].slots
                and set(ahead) <= set(some)
                for who, name in waits
            )
            for owner in some
        ):
            blocked |= set(some)
    return {
        (owner, name)
        for owner, name in waits
        if owner in blocked
        and name in tangle
        and len(ahead_of(tangle[name])) >= tangle[name].slots
        and set(ahead_of(tangle[name])) <= blocked
    }


def circles(tangle: Mapping[str, Lock], waits: set[Wait], first: Wait) -> Iterator[list[Wait]]:
    def on(way: list[Wait]) -> Iterator[list[Wait]]:
        _, name = way[-1]
        for holder in set(ahead_of(tangle[name])):
            if holder == way[0][0]:
                yield way
            elif holder not in {who for who, _ in way}:
                for wait in waits:
                    if wait[0] == holder:
                        yield from on([*way, wait])

    if first in waits:
        yield from on([first])


def check(tangle: Mapping[str, Lock], circle: list[Wait], bad: set[Wait]) -> None:
    assert set(circle) <= bad
    owners = [owner for owner, _ in circle]
    assert len(set(owners)) == len(owners)
    for (_, name), (holder, _) in zip(circle, [*circle[1:], circle[0]], strict=True):
        assert holder in ahead_of(tangle[name])


@settings(max_examples=400, deadline=None)
@given(tangles())
@example(locks(lock("l", "a", "b", slots=2), lock("m", "b", "a")))
def test_a_circle_is_found_exactly_where_owners_wait_only_for_one_another(
    tangle: dict[str, Lock],
) -> None:
    bad = hopeless(tangle, waits_of(tangle))
    circle = stuck(tangle)
    assert (circle is not None) == bool(bad)
    if circle is not None:
        check(tangle, circle, bad)
        assert stuck(dict(reversed(tangle.items()))) == circle
        chosen = victim(tangle, circle)
        assert chosen is not None
        name, standing = chosen
        assert (standing.claim.owner, name) in circle
        for owner, other in circle:
            waiting = [s for s in tangle[other].queue if s.claim.owner == owner]
            assert all(s.asked_seq <= standing.asked_seq for s in waiting)


@settings(max_examples=400, deadline=None)
@given(tangles(), st.sampled_from(OWNERS), st.sampled_from(NAMES))
def test_who_asks_is_refused_exactly_where_it_would_close_a_circle(
    tangle: dict[str, Lock], owner: str, name: str
) -> None:
    circle = stuck(tangle, (owner, name))
    about_to_have_it = name in tangle and any(
        not s.held and s.claim.owner == owner
        for s in sorted(tangle[name].claims.values(), key=lambda s: (not s.held, s.revision))[
            : tangle[name].slots
        ]
    )
    if about_to_have_it:
        assert circle is None
        return
    bad = hopeless(tangle, waits_of(tangle) | {(owner, name)})
    every = list(circles(tangle, bad, (owner, name)))
    assert (circle is not None) == bool(every)
    if circle is not None:
        assert circle[0] == (owner, name)
        check(tangle, circle, bad)
        assert len(circle) == min(len(each) for each in every)


@settings(max_examples=200, deadline=None)
@given(tangles())
def test_refusing_one_victim_after_another_ends_every_circle(tangle: dict[str, Lock]) -> None:
    for _ in range(20):
        circle = stuck(tangle)
        if circle is None:
            return
        chosen = victim(tangle, circle)
        assert chosen is not None
        name, standing = chosen
        claims = {id: s for id, s in tangle[name].claims.items() if id != standing.id}
        tangle = {**tangle, name: Lock(name, claims)}
    raise AssertionError("it never ends")
