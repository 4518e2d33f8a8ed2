"""Who holds a lock and who is next, step by step."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock_schemas.locks import (
    LEVEL_S,
    LEVELS,
    TAKE_UP_S,
    WAITING_TTL_S,
    AcquireLock,
    Claim,
    Priority,
    life_s,
)
from interlock_sync_mutex import leases
from interlock_sync_mutex.leases import Ended, Lock, Put, Refusal, Standing, Step

S = 1_000_000_000
PRIORITIES: tuple[Priority, ...] = ("critical", "high", "normal", "low", "background")


def request(
    *, wait: bool = True, slots: int = 1, priority: Priority = "normal", ttl_s: float = 30.0
) -> AcquireLock:
    return AcquireLock(
        name="l", id="x", wait=wait, slots=slots, priority=priority, ttl_s=ttl_s, owner="o"
    )


def standing(
    id: str,
    revision: int,
    *,
    held: bool = False,
    slots: int = 1,
    priority: Priority = "normal",
    at_ns: int | None = None,
    **fields: object,
) -> Standing:
    claim = Claim(
        name="l",
        state="held" if held else "waiting",
        slots=slots,
        priority=priority,
        owner=f"owner-{id}",
    )
    claim = msgspec.structs.replace(claim, **fields)
    return Standing(id, claim, revision, revision * S if at_ns is None else at_ns)


def lock(*standings: Standing) -> Lock:
    return Lock("l", {s.id: s for s in standings})


def committed(before: Lock, step: Step, *, at_ns: int = 0) -> Lock:
    """The lock once a step is stored: what ends goes, what is put gets the next sequences."""
    claims = dict(before.claims)
    sequence = before.revision
    for end in step.ends:
        sequence += 1
        del claims[end.standing.id]
    for put in step.puts:
        sequence += 1
        claims[put.id] = Standing(put.id, put.claim, sequence, max(at_ns, sequence))
    return Lock(before.name, claims)


# Acquire


def test_a_free_lock_is_taken_at_once() -> None:
    step = leases.acquire(lock(), request(ttl_s=2.5), "x")
    assert isinstance(step, Step)
    (put,) = step.puts
    assert (put.id, put.claim.state, put.claim.offered, put.ttl_s) == ("x", "held", False, 3)
    assert step.ends == ()


def test_the_token_is_the_sequence_of_the_grant() -> None:
    assert standing("a", 7, held=True).token == 7
    assert standing("a", 7).token == 0


def test_a_held_lock_is_waited_for() -> None:
    step = leases.acquire(lock(standing("a", 1, held=True)), request(), "x")
    assert isinstance(step, Step)
    (put,) = step.puts
    assert (put.claim.state, put.ttl_s) == ("waiting", WAITING_TTL_S)


def test_who_does_not_wait_is_told_who_holds_it() -> None:
    held = lock(standing("a", 1, held=True, node="n1"), standing("b", 2))
    refusal = leases.acquire(held, request(wait=False), "x")
    assert refusal == Refusal("423", "l is held by owner-a (token 1 on n1), 1 waiting")


def test_nobody_comes_past_a_waiter_although_the_lock_is_free() -> None:
    about_to = lock(standing("b", 2))
    step = leases.acquire(about_to, request(), "x")
    assert isinstance(step, Step)
    assert step.puts[0].claim.state == "waiting"
    assert leases.acquire(about_to, request(wait=False), "x") == Refusal(
        "423", "l is about to be handed to the first of 1 waiting"
    )


def test_the_same_request_twice_is_one_claim() -> None:
    mine = standing("x", 1, held=True)
    assert leases.acquire(lock(mine), request(), "x") is mine


def test_another_number_of_slots_is_refused() -> None:
    refusal = leases.acquire(lock(standing("a", 1, held=True, slots=2)), request(), "x")
    assert isinstance(refusal, Refusal)
    assert refusal.code == "409"


def test_many_holders_are_told_in_short() -> None:
    many = lock(*(standing(f"h{n}", n, held=True, slots=9) for n in range(1, 8)))
    told = leases.held_by(many)
    assert "owner-h5 (token 5)" in told
    assert "owner-h6" not in told
    assert told.endswith("and 2 more")


def test_who_was_cut_off_gets_its_place_back() -> None:
    asked = msgspec.structs.replace(request(), asked_ns=1 * S, asked_seq=1)
    before = lock(standing("h", 5, held=True), standing("b", 6))
    step = leases.acquire(before, asked, "x")
    assert isinstance(step, Step)
    assert [s.id for s in committed(before, step, at_ns=9 * S).queue] == ["x", "b"]


# Give back


def test_what_is_given_back_goes_to_the_next_in_the_same_step() -> None:
    before = lock(standing("a", 1, held=True), standing("b", 2), standing("c", 3))
    step = leases.release(before, "a", 1)
    assert isinstance(step, Step)
    assert [(end.standing.id, end.why) for end in step.ends] == [("a", "released")]
    (put,) = step.puts
    assert (put.id, put.claim.state, put.claim.offered) == ("b", "held", True)
    assert (put.claim.asked_ns, put.claim.asked_seq) == (2 * S, 2)
    assert put.ttl_s == TAKE_UP_S
    after = committed(before, step)
    assert [s.id for s in after.holders] == ["b"]
    assert after.claims["b"].token > 1


def test_an_offer_lives_no_longer_than_the_lease_would() -> None:
    step = leases.settle(lock(standing("b", 2, ttl_s=1.5)))
    assert step is not None
    assert step.puts[0].ttl_s == 2


def test_giving_back_takes_the_token() -> None:
    before = lock(standing("a", 4, held=True), standing("b", 5))
    for id, token, code in (("a", 3, "409"), ("a", 0, "409"), ("b", 5, "409"), ("z", 4, "410")):
        refusal = leases.release(before, id, token)
        assert isinstance(refusal, Refusal)
        assert refusal.code == code


def test_who_stops_waiting_leaves_the_holder_alone() -> None:
    before = lock(standing("a", 1, held=True), standing("b", 2))
    step = leases.release(before, "b", 0)
    assert isinstance(step, Step)
    assert [end.why for end in step.ends] == ["cancelled"]
    assert step.puts == ()
    late = leases.release(before, "b", 0, timed_out=True)
    assert isinstance(late, Step)
    assert late.ends[0].why == "timed_out"


def test_ends_come_in_the_order_of_tokens_and_all_that_is_free_is_handed_on() -> None:
    before = lock(
        standing("b", 9, held=True, slots=2, token=2),
        standing("a", 3, held=True, slots=2),
        standing("w", 4, slots=2),
        standing("v", 5, slots=2),
        standing("u", 6, slots=2),
    )
    step = leases.end(before, ["w", "a", "b", "gone", "a"], "node_lost")
    assert step is not None
    assert [end.standing.id for end in step.ends] == ["b", "a", "w"]
    assert [put.id for put in step.puts] == ["v", "u"]
    assert leases.end(before, ["gone"], "ended") is None


# Offers


def test_an_offer_that_is_not_taken_up_goes_on_to_the_next() -> None:
    before = lock(
        standing("a", 5, held=True, offered=True, asked_ns=1 * S, asked_seq=1), standing("b", 2)
    )
    step = leases.expire_offers(before, ["a"])
    assert step is not None
    assert [(end.standing.id, end.why) for end in step.ends] == [("a", "not_taken_up")]
    assert [put.id for put in step.puts] == ["b"]


def test_what_was_taken_up_is_not_taken_back() -> None:
    offered = standing("a", 5, held=True, offered=True)
    taken = leases.renewing(lock(offered), "a", 5, None)
    assert isinstance(taken, tuple)
    _, put = taken
    assert not put.claim.offered
    after = lock(Standing("a", put.claim, 6, 6 * S))
    assert leases.expire_offers(after, ["a"]) is None
    assert leases.expire_offers(lock(standing("a", 1)), ["a", "z"]) is None


# Renewals


def test_a_renewal_keeps_token_place_and_age() -> None:
    first = standing("a", 7, held=True, asked_ns=3 * S, asked_seq=3)
    renewed = leases.renewing(lock(first), "a", 7, 12.0)
    assert isinstance(renewed, tuple)
    looked_at, put = renewed
    assert looked_at is first
    again = Standing("a", put.claim, 20, 20 * S)
    assert (again.token, again.held_ns, again.asked_ns, again.asked_seq) == (7, 7 * S, 3 * S, 3)
    assert (put.claim.ttl_s, put.ttl_s) == (12.0, 12)
    thrice = Standing("a", leases.renewed(again), 30, 30 * S)
    assert (thrice.token, thrice.held_ns, thrice.turn) == (7, 7 * S, first.turn)


@pytest.mark.parametrize(
    ("id", "token", "code"), [("a", 6, "409"), ("b", 8, "409"), ("z", 7, "410")]
)
def test_who_holds_nothing_renews_nothing(id: str, token: int, code: str) -> None:
    refusal = leases.renewing(lock(standing("a", 7, held=True), standing("b", 8)), id, token, None)
    assert isinstance(refusal, Refusal)
    assert refusal.code == code


def test_a_record_lives_no_longer_than_the_claim_may_become_old() -> None:
    young = standing("a", 10, held=True, ttl_s=30.0, max_age_s=40.0)
    old = standing("a", 45, held=True, ttl_s=30.0, max_age_s=40.0, token=10, held_ns=10 * S)
    ancient = standing("a", 99, held=True, ttl_s=30.0, max_age_s=40.0, token=10, held_ns=10 * S)
    for each, life in ((young, 30), (old, 5), (ancient, 1)):
        renewed = leases.renewing(lock(each), "a", 10, None)
        assert isinstance(renewed, tuple)
        assert renewed[1].ttl_s == life


def test_keeping_keeps_the_place() -> None:
    waiting = standing("b", 3)
    kept = leases.waiting_kept(lock(waiting), "b")
    assert isinstance(kept, tuple)
    _, put = kept
    assert Standing("b", put.claim, 50, 50 * S).turn == waiting.turn
    assert put.ttl_s == WAITING_TTL_S


def test_keeping_what_is_held_by_now_tells_so() -> None:
    held = standing("b", 3, held=True, offered=True)
    assert leases.waiting_kept(lock(held), "b") is held
    gone = leases.waiting_kept(lock(), "b")
    assert isinstance(gone, Refusal)
    assert gone.code == "410"


@given(st.floats(1, 86_400))
def test_the_broker_never_ends_a_lease_before_its_time(ttl_s: float) -> None:
    assert ttl_s <= life_s(ttl_s) <= ttl_s + 1


def test_a_claim_is_shown_with_its_times() -> None:
    held = standing("a", 9, held=True, token=4, held_ns=4 * S, at_ns=9 * S)
    shown = leases.view(held)
    assert (shown.token, shown.since_ms, shown.renewed_ms) == (4, 4_000, 9_000)
    assert leases.view(standing("b", 5)).since_ms == 5_000


# The queue

claims = st.lists(
    st.tuples(st.sampled_from(PRIORITIES), st.integers(0, 400)), min_size=1, max_size=8
)


def queue_of(asked: list[tuple[Priority, int]]) -> Lock:
    return lock(
        *(
            standing(f"w{n}", n + 1, priority=priority, at_ns=at * S)
            for n, (priority, at) in enumerate(sorted(asked, key=lambda each: each[1]))
        )
    )


@given(claims)
def test_priority_is_worth_so_much_waiting_and_no_more(
    asked: list[tuple[Priority, int]],
) -> None:
    waiting = queue_of(asked).queue
    for before, after in pairwise(waiting):
        ahead = LEVELS[before.claim.priority] - LEVELS[after.claim.priority]
        later_s = (before.asked_ns - after.asked_ns) / S
        # Who is overtaken is less urgent, and has not waited long enough to make up for it.
        assert later_s <= ahead * LEVEL_S
        if ahead == 0:
            assert before.asked_seq < after.asked_seq


@given(st.sampled_from(PRIORITIES), st.sampled_from(PRIORITIES), st.integers(0, 400))
def test_nobody_is_overtaken_by_who_comes_much_later(
    mine: Priority, theirs: Priority, later_s: int
) -> None:
    both = lock(
        standing("mine", 1, priority=mine, at_ns=0),
        standing("theirs", 2, priority=theirs, at_ns=later_s * S),
    )
    overtakes = both.queue[0].id == "theirs"
    assert overtakes == (later_s < (LEVELS[theirs] - LEVELS[mine]) * LEVEL_S)
    if later_s >= 4 * LEVEL_S:
        assert not overtakes


# Whatever is asked in whatever order, against what was promised

operations = st.lists(
    st.tuples(
        st.sampled_from(
            ["acquire", "no-wait", "release", "end", "settle", "renew", "keep", "take"]
        ),
        st.integers(0, 5),
        st.sampled_from(PRIORITIES),
    ),
    max_size=40,
)


def check_step(before: Lock, step: Step, slots: int) -> Lock:
    after = committed(before, step)
    ending = {end.standing.id for end in step.ends}
    assert all(isinstance(each, Ended) for each in step.ends)
    assert all(isinstance(each, Put) and each.ttl_s >= 1 for each in step.puts)
    assert len(after.holders) <= slots
    granted = [s for s in after.holders if not (s.id in before.claims and before.claims[s.id].held)]
    tokens = [s.token for s in before.holders]
    assert all(s.token > max(tokens, default=0) for s in granted)
    left = [s.id for s in before.queue if s.id not in ending]
    served = [put.id for put in step.puts if put.id in left]
    assert served == left[: len(served)]
    assert all(put.claim.offered for put in step.puts if put.id in left)
    if step.ends:
        assert len(after.holders) == slots or not after.queue
    assert set(before.claims) - ending <= set(after.claims)
    return after


@settings(deadline=None)
@given(operations, st.integers(1, 3))
def test_whatever_is_asked_the_promises_hold(
    asked: list[tuple[str, int, Priority]], slots: int
) -> None:
    now = lock()
    for number, (what, who, priority) in enumerate(asked):
        id = f"c{who}"
        known = now.claims.get(id)
        result: object
        if what in ("acquire", "no-wait"):
            wanted = request(wait=what == "acquire", slots=slots, priority=priority)
            result = leases.acquire(now, wanted, id)
            assert (result is known) == (known is not None)
        elif what == "release":
            result = leases.release(now, id, known.token if known else 0)
            assert isinstance(result, Step) == (known is not None)
        elif what == "end":
            result = leases.end(now, [id, f"c{(who + 1) % 6}"], "ended")
        elif what == "settle":
            result = leases.settle(now)
        elif what == "renew":
            result = leases.renewing(now, id, known.token if known else 1, None)
        elif what == "keep":
            result = leases.waiting_kept(now, id)
        else:
            result = leases.expire_offers(now, [id])
        if isinstance(result, Step):
            now = check_step(now, result, slots)
        elif isinstance(result, tuple):
            looked_at, put = result
            again = Standing(put.id, put.claim, now.revision + 1, now.revision + 1)
            assert (again.held, again.token) == (looked_at.held, looked_at.token)
            assert again.turn == looked_at.turn
            now = Lock("l", {**now.claims, put.id: again})
        if number % 7 == 0 and now.holders:
            # A lease runs out.
            oldest = now.holders[0].id
            now = Lock("l", {id: s for id, s in now.claims.items() if id != oldest})
            free = leases.settle(now)
            assert (free is not None) == bool(now.queue)
