from hypothesis import given
from hypothesis import strategies as st

from interlock.left_over import LeftOver


class Item:
    def __init__(self, key: str, seq: int) -> None:
        self.key: object = key
        self.seq = seq

    def __repr__(self) -> str:
        return f"{self.key}{self.seq}"


def test_nothing_owed_holds_nothing() -> None:
    left: LeftOver[Item] = LeftOver()
    item = Item("a", 1)
    assert left.arrived(item) == [item]


def test_those_keys_wait_until_all_has_come_and_others_go() -> None:
    left: LeftOver[Item] = LeftOver()
    assert left.expect(2, 10, {"a"}) == []
    newer, other, old, older = Item("a", 11), Item("b", 12), Item("a", 5), Item("a", 4)
    assert left.arrived(newer) == []
    assert left.arrived(other) == [other]
    assert left.arrived(old) == []
    assert left.arrived(older) == [older, old, newer]
    assert left.owed == 0


def test_what_is_in_hand_and_waits_is_not_what_is_left_over() -> None:
    left: LeftOver[Item] = LeftOver()
    left.expect(1, 10, {"a"})
    newer, old = Item("a", 11), Item("a", 5)
    assert left.arrived(newer) == []
    # The connection is lost again before the one from before has come.
    assert left.expect(1, 11, {"a"}, held={11}) == []
    assert left.arrived(old) == [old, newer]


def test_what_came_before_it_was_known_is_sorted_out_then() -> None:
    left: LeftOver[Item] = LeftOver()
    left.unknown = True
    newer, other, old = Item("a", 11), Item("b", 12), Item("a", 5)
    assert [left.arrived(each) for each in (newer, other, old)] == [[], [], []]
    assert left.expect(2, 10, {"a"}) == [other]
    assert left.give_up() == [old, newer]


keys = "abc"


@given(
    st.lists(st.sampled_from(keys), min_size=1, max_size=30),
    st.data(),
)
def test_each_key_goes_in_order_whatever_was_lost_on_the_way(
    stream: list[str], data: st.DataObject
) -> None:
    """Some of a stream was delivered: a part is in hand, a part is done, a part was lost."""
    floor = data.draw(st.integers(0, len(stream)))
    delivered = range(1, floor + 1)
    lost = set(data.draw(st.lists(st.sampled_from(delivered), unique=True))) if floor else set()
    items = {seq: Item(key, seq) for seq, key in enumerate(stream, 1)}
    left: LeftOver[Item] = LeftOver()
    # The lost ones come again at any time among what is new, themselves in any order.
    coming = [*data.draw(st.permutations(sorted(lost)))]
    for seq in range(floor + 1, len(stream) + 1):
        coming.insert(data.draw(st.integers(0, len(coming))), seq)
    new = iter(sorted(seq for seq in coming if seq > floor))
    coming = [seq if seq <= floor else next(new) for seq in coming]
    known_after = data.draw(st.integers(0, len(coming)))
    went: list[Item] = []
    left.unknown = True
    for number, seq in enumerate(coming):
        if number == known_after:
            went += left.expect(len(lost), floor, {stream[each - 1] for each in lost})
        went += left.arrived(items[seq])
    if known_after == len(coming):
        went += left.expect(len(lost), floor, {stream[each - 1] for each in lost})
    assert left.owed == 0
    assert sorted(item.seq for item in went) == sorted(coming)
    for key in keys:
        order = [item.seq for item in went if item.key == key]
        assert order == sorted(order)
