"""Handing over is one message, and what is left of the one before holds nothing."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from interlock_schemas.locks import AcquireLock, Claim, claim_key
from interlock_sync_mutex import leases
from interlock_sync_mutex.leases import Ended, Put, Refusal, Standing, Step
from interlock_sync_mutex.registry import Registry, Told
from interlock_sync_mutex.service import handed_over, with_leftovers, writes

NAME = "export:hex8_2p"
TOKEN = "export%3Ahex8_2p"
LAST = "Nats-Expected-Last-Subject-Sequence"


def _put(registry: Registry, put: Put, revision: int) -> None:
    body = msgspec.json.encode(put.claim)
    registry.apply(Told(claim_key(NAME, put.id), revision, revision * 1_000_000, body), 0.0)


def _gone(registry: Registry, id: str, revision: int) -> None:
    told = Told(claim_key(NAME, id), revision, revision * 1_000_000, None, "released")
    registry.apply(told, 0.0)


def _ask(registry: Registry, id: str, revision: int) -> None:
    step = leases.acquire(registry.lock(TOKEN, NAME), AcquireLock(name=NAME, wait=True), id)
    assert isinstance(step, Step)
    _put(registry, step.puts[0], revision)


def _handing(registry: Registry, id: str) -> Put:
    lock = registry.lock(TOKEN)
    step = leases.release(lock, id, lock.claims[id].token)
    assert isinstance(step, Step)
    put = handed_over(step)
    assert put is not None
    return put


def _with_waiters(*ids: str) -> Registry:
    registry = Registry()
    for revision, id in enumerate(ids, 1):
        _ask(registry, id, revision)
    return registry


def test_who_was_handed_over_from_holds_no_more_while_its_record_stands() -> None:
    registry = _with_waiters("a", "b", "c")
    put = _handing(registry, "a")
    assert put.claim.after == "a"
    _put(registry, put, 4)
    lock = registry.lock(TOKEN)
    assert [s.id for s in lock.holders] == ["b"]
    assert [s.id for s in lock.queue] == ["c"]
    assert lock.holders[0].token == 4
    assert [s.id for s in registry.leftovers(TOKEN)] == ["a"]
    assert registry.last(TOKEN, 0.0) == 4
    assert isinstance(leases.renewing(lock, "a", 1, None), Refusal)
    _gone(registry, "a", 5)
    assert not registry.leftovers(TOKEN)
    assert registry.last(TOKEN, 0.0) == 5


def test_what_is_left_goes_with_whoever_came_after_it() -> None:
    registry = _with_waiters("a", "b", "c")
    _put(registry, _handing(registry, "a"), 4)
    lock = registry.lock(TOKEN)
    step = leases.release(lock, "b", 4)
    assert isinstance(step, Step)
    whole = with_leftovers(step, registry.leftovers(TOKEN))
    assert [end.standing.id for end in whole.ends] == ["b", "a"]
    assert handed_over(whole) is None
    assert handed_over(step) is not None


def test_a_renewal_keeps_the_one_before_out() -> None:
    registry = _with_waiters("a", "b")
    _put(registry, _handing(registry, "a"), 3)
    renewal = leases.renewing(registry.lock(TOKEN), "b", 3, None)
    assert not isinstance(renewal, Refusal)
    _put(registry, renewal[1], 4)
    assert [s.id for s in registry.lock(TOKEN).holders] == ["b"]


@given(st.lists(st.sampled_from(["released", "ended", "node_lost", "not_taken_up"]), max_size=3),
       st.integers(0, 2))  # fmt: skip
def test_every_step_is_stored_on_the_condition_that_the_group_stands(
    whys: list[leases.Why], grants: int
) -> None:
    claim = Claim(name=NAME, state="held")
    ends = tuple(
        Ended(Standing(f"e{place}", claim, 10 + place, 0), why) for place, why in enumerate(whys)
    )
    puts = tuple(Put(f"p{place}", claim, 5) for place in range(grants))
    if not ends and not puts:
        return
    found = writes(NAME, Step(ends, puts), 42)
    assert len(found) == len(ends) + len(puts)
    group = [each for each in found if f"{LAST}-Subject" in each.headers]
    own = [each for each in found if each.headers.get(LAST) and each not in group]
    assert all(each.headers[LAST] == "42" for each in group)
    assert len(own) == whys.count("not_taken_up")
    # Where all that happens is that offers end, their own records are condition enough.
    assert len(group) == (0 if own and len(own) == len(found) else 1)
    before = found[: found.index(group[0])] if group else []
    assert all(each in own for each in before)


def test_a_batch_says_why_and_by_whom() -> None:
    claim = Claim(name=NAME, state="held")
    end = Ended(Standing("a", claim, 7, 0), "ended")
    (write,) = writes(NAME, Step(ends=(end,)), 7, by="ops: stuck\r\nX: y")
    assert write.headers["interlock-ended"] == "ended"
    assert "\n" not in write.headers["interlock-by"]
    assert write.headers["KV-Operation"] == "PURGE"
    assert write.headers["Nats-TTL"] == "1s"
