"""Order by key, whatever arrives when and whatever becomes of it."""

import random

from hypothesis import given
from hypothesis import strategies as st

from interlock.key_order import KeyOrder


class Item:
    def __init__(self, key: str, seq: int) -> None:
        self.key: object = key
        self.seq = seq

    def __repr__(self) -> str:
        return f"{self.key}{self.seq}"


def test_one_of_a_key_at_a_time_and_others_meanwhile() -> None:
    order: KeyOrder[Item] = KeyOrder()
    first, second, other = Item("a", 1), Item("a", 2), Item("b", 3)
    for item in (first, second, other):
        order.append(item)
    assert [order.popleft(), order.popleft()] == [first, other]
    assert len(order) == 0
    order.done(first)
    assert order.popleft() is second


def test_what_is_tried_again_goes_before_the_others_of_its_key() -> None:
    order: KeyOrder[Item] = KeyOrder()
    first, second = Item("a", 1), Item("a", 2)
    order.append(first)
    order.append(second)
    assert order.popleft() is first
    order.again(first)
    assert order.popleft() is first
    order.done(first)
    assert order.popleft() is second


def test_an_older_one_goes_before_those_that_are_not_begun() -> None:
    order: KeyOrder[Item] = KeyOrder()
    for seq in (5, 6, 3):
        order.append(Item("a", seq))
    taken = []
    while order:
        item = order.popleft()
        taken.append(item.seq)
        order.done(item)
    assert taken == [3, 5, 6]


@given(
    st.lists(st.sampled_from("abc"), max_size=40),
    st.randoms(use_true_random=False),
)
def test_every_key_is_handled_in_stream_order(keys: list[str], rand: random.Random) -> None:
    """Arrivals, endings and retries in any interleaving."""
    order: KeyOrder[Item] = KeyOrder()
    arriving = [Item(key, seq) for seq, key in enumerate(keys)]
    out: list[Item] = []
    resting: list[Item] = []
    done: dict[object, list[int]] = {}
    while arriving or order or out or resting:
        step = rand.randrange(4)
        if step == 0 and arriving:
            order.append(arriving.pop(0))
        elif step == 1 and order:
            item = order.popleft()
            assert item.key not in {other.key for other in (*out, *resting)}
            out.append(item)
        elif step == 2 and out:
            item = out.pop(rand.randrange(len(out)))
            if rand.random() < 0.3:
                resting.append(item)
            else:
                order.done(item)
                done.setdefault(item.key, []).append(item.seq)
        elif step == 3 and resting:
            order.again(resting.pop(rand.randrange(len(resting))))
    assert all(seqs == sorted(seqs) for seqs in done.values())
    assert sum(map(len, done.values())) == len(keys)
