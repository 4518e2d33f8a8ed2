"""All interleavings of small models of the locks: what never happens, and that the search would see
it if it did."""

import pytest

from interlock_sync_mutex import leases
from tests.model.bounds import SMALL
from tests.model.explore import Broken, TooLarge, explore
from tests.model.lock_model import Bounds, Flaw, LockModel

MOST = 400_000


def search(bounds: Bounds) -> Broken | None:
    return explore(LockModel(bounds), MOST).broken


@pytest.mark.parametrize("name", SMALL)
def test_no_interleaving_breaks_a_rule(name: str) -> None:
    explored = explore(LockModel(SMALL[name]), MOST)
    assert explored.broken is None, str(explored.broken)
    # A model in which nothing happens proves nothing.
    assert explored.states > 2_000
    told = " ".join(explored.told)
    for step in ("grants A1", "queues A1", "releases A1", "is offered it", "takes it up", "back"):
        assert step in told
    if SMALL[name].direct:
        assert "A takes it directly" in explored.told
        assert "A gives it back directly" in explored.told


BROKEN: list[tuple[tuple[Flaw, ...], Bounds, str]] = [
    (
        ("renewal_unconditional",),
        Bounds(),
        "A1 was granted with a token that did not rise",
    ),
    (("acquire_unconditional",), Bounds(), "more than 1 hold it"),
    (
        ("settle_unconditional",),
        Bounds(renewals=0),
        "the token of B1 changed while it held",
    ),
    (
        ("two_step_hand_over",),
        Bounds(),
        "it was given back, and is free although somebody waits",
    ),
    (
        ("two_step_hand_over", "rules_on_idle_locks_off"),
        Bounds(asks=2),
        "A2 came past B1, which waits",
    ),
    (("late_ack_counts",), Bounds(), "A believes that it holds, and does not"),
    (
        ("hold_counted_from_a_later_sending",),
        Bounds(repeats=1),
        "A believes that it holds, and does not",
    ),
    (("expiry_before_the_deadline",), Bounds(), "A believes that it holds, and does not"),
    (("alone_for_ever",), Bounds(), "it was given back, and is free although somebody waits"),
    (
        ("alone_for_ever", "rules_on_idle_locks_off"),
        Bounds(asks=2),
        "A2 came past B1, which waits",
    ),
    (
        ("any_marker_will_do",),
        Bounds(priorities=("normal",) * 3, renewals=0),
        "C1 came past B1, which waits",
    ),
    (
        ("unsure_is_sure",),
        Bounds(late_markers="one"),
        "A believes that it holds, and does not",
    ),
    (
        ("second_is_always_sure",),
        Bounds(late_markers="one"),
        "A believes that it holds, and does not",
    ),
    ((), Bounds(late_markers="any"), "A believes that it holds, and does not"),
    (
        ("forget_unchecked",),
        Bounds(lossy=True, priorities=("normal",) * 3, renewals=0),
        "more than 1 hold it",
    ),
]


@pytest.mark.parametrize(
    ("flaws", "bounds", "rule"), BROKEN, ids=["+".join(each[0]) or "crossing" for each in BROKEN]
)
def test_a_machine_broken_on_purpose_is_found_out(
    flaws: tuple[Flaw, ...], bounds: Bounds, rule: str
) -> None:
    fields = {name: getattr(bounds, name) for name in bounds.__dataclass_fields__}
    found = search(Bounds(**{**fields, "flaws": frozenset(flaws)}))
    assert found is not None, "the search sees nothing"
    assert found.rule == rule, str(found)
    assert found.trace


def test_serving_the_oldest_first_whatever_its_priority_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases.Standing, "turn", property(lambda s: (0, s.asked_seq)))
    found = search(
        Bounds(priorities=("normal", "low", "high"), renewals=0, expiries=0, direct=False)
    )
    assert found is not None
    assert found.rule in (
        "it is given back by A1, and C1 waits for ever",
        "C1 was served before B1",
    )


def test_a_hand_over_that_forgets_the_next_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_grants", lambda *_: ())
    found = search(Bounds(renewals=0, expiries=0))
    assert found is not None
    assert "waits for ever" in found.rule


def test_a_search_that_would_take_too_long_proves_nothing() -> None:
    with pytest.raises(TooLarge):
        explore(LockModel(Bounds()), 1_000)


class Counter:
    """0 to 9; 7 is forbidden; by ones or by threes."""

    def initial(self) -> int:
        return 0

    def steps(self, state: int) -> list[tuple[str, int, str | None]]:
        return [
            (f"+{n}", state + n, "overflow" if state + n == 9 else None)
            for n in (1, 3)
            if state + n <= 9
        ]

    def broken(self, state: int) -> str | None:
        return "seven" if state == 7 else None


def test_a_counterexample_is_the_shortest_way() -> None:
    explored = explore(Counter(), 100)
    assert explored.broken == Broken("seven", ("+1", "+3", "+3"))
    assert str(explored.broken) == "seven, after\n  1. +1\n  2. +3\n  3. +3"
