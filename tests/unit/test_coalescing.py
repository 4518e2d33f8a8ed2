from hypothesis import given
from hypothesis import strategies as st

from interlock.bulk import Outgoing
from interlock.coalescing import BATCH_MESSAGES, Facts, Wait, decide, storable_as_one

facts = st.builds(
    Facts,
    atomic=st.sampled_from([None, True, False]),
    replicas=st.sampled_from([1, 3, 5]),
    batch_messages=st.integers(2, BATCH_MESSAGES),
)


@given(facts, st.integers(1, 5_000), st.integers(0, 600), st.booleans())
def test_what_goes_out_is_bounded_and_never_more_than_waits(
    known: Facts, waiting: int, singles: int, careful: bool
) -> None:
    form = decide(known, waiting=waiting, singles=singles, careful=careful)
    if isinstance(form, Wait):
        assert singles > 0, "with nothing under way, something has to go"
        return
    kind, count = form
    assert 1 <= count <= waiting
    if kind == "batch":
        assert known.atomic
        assert singles == 0, "a batch could overtake singles that have to be sent again"
        assert 2 <= count <= known.batch_messages
    elif careful or known.atomic is None or (known.replicas > 1 and known.atomic):
        assert singles + count == 1, "one unit at a time, so that no failure leaves a gap"


@given(st.integers(1, 7))
def test_few_go_at_once_as_singles_to_one_replica(waiting: int) -> None:
    form = decide(Facts(atomic=True), waiting=waiting, singles=0, careful=False)
    assert form == ("singles", waiting)


@given(st.integers(8, 5_000))
def test_many_go_as_one_batch(waiting: int) -> None:
    for replicas in (1, 3):
        known = Facts(atomic=True, replicas=replicas)
        form = decide(known, waiting=waiting, singles=0, careful=False)
        assert form == ("batch", min(waiting, BATCH_MESSAGES))


def test_two_are_a_batch_where_replicas_agree_on_it_together() -> None:
    assert decide(Facts(atomic=True, replicas=3), waiting=2, singles=0, careful=False) == (
        "batch",
        2,
    )


def test_what_would_make_a_batch_waits_for_the_singles_under_way() -> None:
    assert isinstance(decide(Facts(atomic=True), waiting=5, singles=4, careful=False), Wait)
    assert decide(Facts(atomic=True), waiting=2, singles=4, careful=False) == ("singles", 2)


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 2_500))
def test_groups_hold_everything_in_order_and_fit(large: list[int], small: int) -> None:
    messages = [Outgoing("t", b"x" * (size * 1024 * 1024)) for size in large]
    messages += [Outgoing("t", b"")] * small
    groups = list(storable_as_one(messages))
    assert [each for group in groups for each in group] == messages
    for group in groups:
        assert 1 <= len(group) <= BATCH_MESSAGES
        assert len(group) == 1 or sum(len(each.body) for each in group) <= 16 * 1024 * 1024
