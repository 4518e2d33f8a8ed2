"""What a replica knows of the locks, told in order, twice, late or with gaps."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock_schemas import subjects
from interlock_schemas.locks import Claim, claim_key
from interlock_sync_mutex.registry import MARKER_S, Change, Registry, Told

TOKEN = subjects.token("l")


def told(
    id: str, revision: int, state: str = "", *, name: str = "l", why: str = "", **fields: object
) -> Told:
    body = None
    if state:
        claim = msgspec.convert({"name": name, "state": state, **fields}, Claim)
        body = msgspec.json.encode(claim)
    return Told(claim_key(name, id), revision, revision * 1_000, body, why)


def after(*each: Told, now: float = 0.0) -> Registry:
    registry = Registry()
    for one in each:
        registry.apply(one, now)
    return registry


def claims(registry: Registry) -> dict[str, int]:
    return {id: standing.revision for id, standing in registry.lock(TOKEN).claims.items()}


def kinds(*each: Told) -> list[str | None]:
    registry = Registry()
    changes = [registry.apply(one, 0.0) for one in each]
    return [change.kind if change is not None else None for change in changes]


def test_a_claim_from_the_queue_to_its_end() -> None:
    assert kinds(
        told("a", 1, "waiting"),
        told("a", 2, "waiting", asked_ns=1_000, asked_seq=1),
        told("a", 3, "held", offered=True),
        told("a", 4, "held", token=3, held_ns=3_000),
        told("a", 5),
    ) == ["queued", "kept", "acquired", "renewed", "ended"]


def test_the_end_tells_what_ended_and_why() -> None:
    registry = after(told("a", 3, "held", owner="o"))
    change = registry.apply(Told(claim_key("l", "a"), 9, 9, None, "released", "me"), 0.0)
    assert isinstance(change, Change)
    assert (change.name, change.standing.token, change.standing.claim.owner) == ("l", 3, "o")
    assert (change.revision, change.why, change.by) == (9, "released", "me")
    assert registry.locks == {}


def test_a_new_grant_under_an_old_id_is_no_renewal() -> None:
    assert kinds(told("a", 1, "held"), told("a", 5, "held")) == ["acquired", "acquired"]


def test_an_end_nobody_knew_the_beginning_of_changes_nothing_but_the_last_sequence() -> None:
    registry = Registry()
    assert registry.apply(told("a", 5), 0.0) is None
    assert registry.last(TOKEN, 0.0) == 5


def test_other_keys_move_the_revision_alone() -> None:
    registry = Registry()
    for key in ("state.k", "claim.x", "claim.x.y.z", "other"):
        assert registry.apply(Told(key, registry.revision + 1, 1, b"{}"), 0.0) is None
    assert registry.revision == 4
    assert registry.locks == {}


def test_what_was_told_before_changes_nothing() -> None:
    registry = after(told("a", 1, "held"), told("a", 2))
    assert registry.apply(told("a", 1, "held"), 0.0) is None
    assert registry.apply(told("a", 2), 0.0) is None
    assert claims(registry) == {}


def test_a_marker_counts_for_a_second() -> None:
    registry = after(told("w", 3, "waiting"), told("a", 7), now=10.0)
    assert registry.last(TOKEN, 10.0 + MARKER_S * 0.9) == 7
    assert registry.last(TOKEN, 10.0 + MARKER_S) == 3


def test_markers_may_be_missing_and_claims_may_not() -> None:
    registry = after(told("a", 2), told("w", 3, "waiting"), told("b", 5), told("c", 7))
    assert [last for last in range(9) if registry.is_last(TOKEN, last)] == [3, 5, 7]
    registry.apply(told("w", 8), 0.0)
    assert [last for last in range(9) if registry.is_last(TOKEN, last)] == [0, 2, 5, 7, 8]


def test_a_claim_takes_the_place_of_its_marker() -> None:
    registry = after(told("a", 2), told("a", 3, "held"))
    assert claims(registry) == {"a": 3}
    assert [last for last in range(5) if registry.is_last(TOKEN, last)] == [3]


def test_a_forgotten_claim_is_gone_without_a_marker() -> None:
    registry = after(told("a", 2, "held"), told("b", 3, "waiting"))
    registry.forget(TOKEN, "a")
    registry.forget(TOKEN, "nobody")
    assert claims(registry) == {"b": 3}
    assert registry.last(TOKEN, 0.0) == 3


def test_old_markers_and_names_are_swept() -> None:
    registry = after(told("a", 1, "held"), told("a", 2), told("k", 3, "held", name="m"))
    registry.sweep(MARKER_S)
    assert registry.is_last(TOKEN, 2)
    registry.sweep(11 * MARKER_S)
    assert not registry.is_last(TOKEN, 2)
    assert registry.is_last(TOKEN, 0)
    assert (registry._names, registry._markers) == ({subjects.token("m"): "m"}, {})


def test_a_forgotten_lock_leaves_nothing_behind() -> None:
    registry = after(told("a", 1, "held"))
    registry.forget(TOKEN, "a")
    registry.sweep(11 * MARKER_S)
    assert (registry._names, registry._markers, registry._groups, registry._seen) == (
        {},
        {},
        {},
        {},
    )


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"{}", b'{"name":"l","state":"odd"}', b"[" * 5_000]
)
def test_what_cannot_be_read_holds_the_lock(body: bytes) -> None:
    registry = after(told("w", 1, "waiting", slots=2))
    registry.apply(Told(claim_key("l", "a"), 2, 2, body), 0.0)
    lock = registry.lock(TOKEN)
    assert [s.id for s in lock.holders] == ["a"]
    assert lock.slots == 2
    assert [each.revision for each in registry.broken] == [2]
    registry.apply(told("a", 3), 0.0)
    assert registry.lock(TOKEN).holders == []


def test_an_unreadable_record_of_an_unknown_lock_has_its_name() -> None:
    registry = after(Told(claim_key("export:hex8/2p", "a"), 2, 2, b"?"))
    assert list(registry.locks) == ["export:hex8/2p"]


def test_seen_is_when_the_record_came() -> None:
    registry = Registry()
    registry.apply(told("a", 1, "waiting"), 5.0)
    registry.apply(told("a", 2, "waiting"), 8.0)
    assert registry.seen(TOKEN, "a") == 8.0
    assert registry.seen(TOKEN, "b") == 0.0
    assert [(token, s.id) for token, s in registry.standings()] == [(TOKEN, "a")]


# A bucket keeps the last record of each key: what is told is some of its history

histories = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["waiting", "held", ""])), max_size=25
)


def history_of(writes: list[tuple[str, str]]) -> list[Told]:
    return [told(id, number, state) for number, (id, state) in enumerate(writes, 1)]


def standing_of(history: list[Told]) -> dict[str, int]:
    last = {one.key: one for one in history}
    return {one.key.rpartition(".")[2]: one.revision for one in last.values() if one.body}


@settings(deadline=None)
@given(histories, st.randoms(use_true_random=False))
def test_told_in_order_twice_or_of_the_last_records_alone_it_knows_the_same(
    writes: list[tuple[str, str]], random: object
) -> None:
    history = history_of(writes)
    expected = standing_of(history)
    assert claims(after(*history)) == expected
    assert claims(after(*(one for one in history for _ in range(2)))) == expected
    snapshot = [
        one for one in history if not any(later.key == one.key for later in history[one.revision :])
    ]
    assert claims(after(*snapshot)) == expected
    shuffled = list(history)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    registry = after(*shuffled)
    assert claims(registry) == expected
    assert registry.revision == len(history)


@settings(deadline=None)
@given(histories, st.integers(0, 25), st.sets(st.integers(1, 25)))
def test_where_the_last_sequence_is_right_no_claim_is_missing(
    writes: list[tuple[str, str]], seen: int, vanished: set[int]
) -> None:
    """What every commit rests on: a replica may know claims that are gone, never the reverse."""
    history = history_of(writes)
    stands = {one.key: one for one in history}
    markers = {one.revision for one in stands.values() if one.body is None} - vanished
    last = max([*markers, *standing_of(history).values()], default=0)
    registry = after(*history[:seen])
    if registry.is_last(TOKEN, last):
        known = claims(registry)
        assert all(known.get(id) == revision for id, revision in standing_of(history).items())
    up_to_date = after(*history)
    assert up_to_date.is_last(TOKEN, last)
