"""What workers report becomes one account of their node."""

import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock_node_agent.progress import FORGET_S, LATELY_S, WINDOW_S, Ledger
from interlock_schemas.nodes import Progress, Report


def report(worker: str = "w", **counters: float) -> Report:
    return Report(worker=worker, counters=counters)


def told(ledger: Ledger, now: float) -> Progress:
    progress = ledger.progress(now)
    assert progress is not None
    return progress


def test_nobody_reported_is_not_known_and_not_zero() -> None:
    assert Ledger().progress(5.0) is None
    assert Ledger().checkpoint(5.0) is None
    assert Ledger().working(5.0) == 0


def test_the_sum_is_over_workers() -> None:
    ledger = Ledger()
    ledger.take(report("a", games=10), 0.0)
    ledger.take(report("b", games=5, steps=0.5), 1.0)
    ledger.take(report("a", games=12), 2.0)
    assert told(ledger, 3.0).counters == {"games": 17, "steps": 0.5}
    assert told(ledger, 3.0).workers == 2


def test_a_worker_that_begins_anew_takes_nothing_away() -> None:
    ledger = Ledger()
    ledger.take(report(games=100), 0.0)
    ledger.take(report(games=3), 50.0)
    assert told(ledger, 60.0).counters == {"games": 103}
    assert told(ledger, 60.0).age_s == 10.0


def test_the_age_is_since_a_counter_rose_and_not_since_a_report() -> None:
    ledger = Ledger()
    ledger.take(report(games=1), 0.0)
    for second in range(1, 100):
        ledger.take(report(games=1), float(second))
    assert told(ledger, 100.0).age_s == 100.0


def test_failed_work_is_no_progress_and_work_that_succeeds_is() -> None:
    ledger = Ledger()
    ledger.take(Report(worker="w", failures=1), 0.0)
    ledger.take(Report(worker="w", failures=2), 10.0)
    assert told(ledger, 20.0).age_s == 20.0
    ledger.take(Report(worker="w", failures=2, successes=1), 30.0)
    assert told(ledger, 31.0).age_s == 1.0


def test_where_all_are_done_nothing_is_expected() -> None:
    ledger = Ledger()
    ledger.take(report(games=4), 0.0)
    ledger.take(Report(worker="w", counters={"games": 5}, done=True), 1.0)
    progress = told(ledger, 5_000.0)
    assert (progress.workers, progress.age_s, progress.counters) == (0, None, {"games": 5})
    # The clock starts again with the next one, and not where the last one left it.
    ledger.take(report("next"), 9_000.0)
    assert told(ledger, 9_001.0).age_s == 1.0


def test_a_worker_that_vanished_is_missed_for_an_hour() -> None:
    ledger = Ledger()
    ledger.take(report(games=1), 0.0)
    assert ledger.working(LATELY_S) == 1
    assert ledger.working(LATELY_S + 1) == 0
    assert (told(ledger, FORGET_S).workers, told(ledger, FORGET_S).age_s) == (1, FORGET_S)
    gone = told(ledger, FORGET_S + 1)
    assert (gone.workers, gone.age_s) == (0, None)
    assert told(ledger, FORGET_S + 1).counters == {"games": 1}


def test_outcomes_count_for_ten_minutes() -> None:
    ledger = Ledger()
    ledger.take(Report(worker="w", failures=3, successes=1), 0.0)
    ledger.take(Report(worker="w", failures=4, successes=9), 300.0)
    assert (told(ledger, 400.0).failures, told(ledger, 400.0).successes) == (4, 9)
    assert (told(ledger, WINDOW_S + 1).failures, told(ledger, WINDOW_S + 1).successes) == (1, 8)
    assert told(ledger, 2_000.0).failures == 0


def test_the_last_checkpoint_counts() -> None:
    ledger = Ledger()
    ledger.take(Report(worker="a", checkpoint="one.pt"), 10.0)
    ledger.take(Report(worker="b", checkpoint="two.pt", done=True), 20.0)
    found = ledger.checkpoint(25.0)
    assert found is not None
    assert (found.artifact, found.age_s) == ("two.pt", 5.0)


def test_numbers_that_are_none_are_passed_over() -> None:
    ledger = Ledger()
    ledger.take(report(games=1, a=math.nan, b=math.inf, c=-5, d=1e300), 0.0)
    assert told(ledger, 1.0).counters == {"games": 1}


def test_there_is_an_end_to_names_and_workers() -> None:
    ledger = Ledger()
    for number in range(3_000):
        ledger.take(report(f"w{number}", **{f"c{number}": 1.0}), float(number) / 1_000)
    progress = told(ledger, 3.0)
    assert len(progress.counters) == 64
    assert progress.workers == 2_000


reports = st.builds(
    Report,
    worker=st.sampled_from("abc"),
    counters=st.dictionaries(
        st.sampled_from(("games", "steps")),
        st.floats(allow_nan=True, allow_infinity=True),
        max_size=2,
    ),
    failures=st.integers(0, 50),
    successes=st.integers(0, 50),
    checkpoint=st.none() | st.just("x"),
    done=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(st.tuples(reports, st.floats(0, 5_000)), max_size=40))
def test_sums_never_fall_and_the_account_always_fits_its_schema(
    steps: list[tuple[Report, float]],
) -> None:
    ledger = Ledger()
    now = 0.0
    before: dict[str, float] = {}
    for report, pause in steps:
        now += pause
        ledger.take(report, now)
        progress = told(ledger, now)
        assert all(progress.counters[name] >= total for name, total in before.items())
        before = progress.counters
        assert progress.age_s is None or 0 <= progress.age_s <= now + 0.001
        assert progress.workers <= 3
        again = msgspec.json.decode(msgspec.json.encode(progress), type=Progress)
        assert again == progress
