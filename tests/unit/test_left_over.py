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


def test_what_is_newer_of_those_keys_waits_and_others_go() -> None:
    left: LeftOver[Item] = LeftOver()
    assert left.expect(1, 10, {"a"}) == []
    newer, other, old = Item("a", 11), Item("b", 12), Item("a", 5)
    assert left.arrived(newer) == []
    assert left.arrived(other) == [other]
    assert left.arrived(old) == [old, newer]
    assert left.owed == 0


def test_what_came_before_it_was_known_is_sorted_out_then() -> None:
    left: LeftOver[Item] = LeftOver()
    left.unknown = True
    newer, other, old = Item("a", 11), Item("b", 12), Item("a", 5)
    assert [left.arrived(each) for each in (newer, other, old)] == [[], [], []]
    assert left.expect(2, 10, {"a"}) == [other, old]
    assert left.parked == [newer]
    assert left.give_up() == [newer]


items = st.lists(
    st.builds(Item, st.sampled_from("abc"), st.integers(1, 40)), max_size=30, unique_by=id
)


@given(
    items,
    st.integers(0, 10),
    st.integers(0, 30),
    st.none() | st.sets(st.sampled_from("abc")),
    st.integers(0, 30),
)
def test_everything_goes_once_and_nothing_held_back_overtakes(
    arriving: list[Item], owed: int, floor: int, keys: set[str] | None, known_after: int
) -> None:
    left: LeftOver[Item] = LeftOver()
    left.unknown = True
    went: list[Item] = []
    due = owed
    for number, item in enumerate(arriving):
        if number == known_after:
            went += left.expect(owed, floor, keys)
        went += left.arrived(item)
        if not left.unknown and left.owed:
            assert not any(each.seq > floor and (keys is None or each.key in keys) for each in went)
    if left.unknown:
        went += left.expect(owed, floor, keys)
    assert left.owed <= due
    went += left.give_up()
    assert sorted(map(id, went)) == sorted(map(id, arriving))
