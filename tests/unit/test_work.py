"""Failed work counts against a node that beats happily, for a while."""

from hypothesis import given
from hypothesis import strategies as st

from interlock_health_monitor.work import WorkLedger


def ledger(outcomes: str, at: float = 0.0) -> WorkLedger:
    """`x` failed, `.` succeeded, a second apart."""
    found = WorkLedger()
    for place, outcome in enumerate(outcomes):
        found.note(outcome == ".", at + place)
    return found


def test_many_failures_and_hardly_a_success_are_a_symptom() -> None:
    found = ledger("xxxxxxxx.x").symptom(10.0)
    assert found is not None
    assert found.kind == "work_fails"
    assert found.detail.startswith("9 of 10 ")


def test_a_few_failures_are_none() -> None:
    assert ledger("xxxx").symptom(10.0) is None


def test_one_bad_task_among_good_work_is_none() -> None:
    assert ledger("xxxxx...").symptom(10.0) is None


def test_no_work_says_nothing() -> None:
    assert WorkLedger().symptom(0.0) is None


def test_it_is_forgotten() -> None:
    found = ledger("xxxxxx")
    assert found.symptom(500.0) is not None
    assert found.symptom(610.0) is None
    assert found.counts(610.0) == (0, 0)


@given(st.text("x.", max_size=500))
def test_it_keeps_the_newest_and_not_without_bound(outcomes: str) -> None:
    failures, successes = ledger(outcomes).counts(len(outcomes))
    kept = outcomes[-200:]
    assert (failures, successes) == (kept.count("x"), kept.count("."))
