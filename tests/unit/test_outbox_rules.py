from hypothesis import given
from hypothesis import strategies as st

from interlock.outbox.rules import (
    Limits,
    Row,
    doubt,
    fits,
    lane,
    prefix,
    subject_filters,
)

S = 1_000_000_000
NOW = 1_000_000 * S
WINDOWS = {"events": 600.0}


def row(
    *,
    seq: int = 1,
    subject: str = "events.training.completed.c",
    own_id: bool = False,
    created: float = 0,
    sent: float | None = None,
    clear: float | None = None,
) -> Row:
    """A row; times are seconds before now."""
    return Row(
        seq=seq,
        subject=subject,
        id=str(seq),
        headers=b"{}",
        body=b"",
        own_id=own_id,
        created_ns=NOW - int(created * S),
        sent_ns=None if sent is None else NOW - int(sent * S),
        clear_ns=None if clear is None else NOW - int(clear * S),
    )


ages = st.one_of(st.none(), st.floats(min_value=-1e5, max_value=1e5))
rows = st.builds(
    row,
    own_id=st.booleans(),
    created=st.floats(min_value=-1e5, max_value=1e5),
    sent=ages,
    clear=ages,
)


def test_a_fresh_event_is_sent_without_asking_however_long_it_waited() -> None:
    assert doubt(row(created=90_000), NOW, WINDOWS) is None


def test_what_was_sent_within_the_window_is_left_to_the_broker() -> None:
    assert doubt(row(sent=500), NOW, WINDOWS) is None


def test_what_was_sent_before_the_window_is_looked_up_from_then_on() -> None:
    found = doubt(row(sent=599), NOW, WINDOWS)
    assert found is not None
    assert found.since_ns < NOW - 599 * S


def test_a_sending_ends_within_the_window() -> None:
    assert doubt(row(sent=570), NOW, WINDOWS) is not None


def test_what_was_sent_is_looked_up_where_the_window_is_not_known() -> None:
    assert doubt(row(sent=1), NOW, {}) is not None


def test_an_event_from_the_future_is_looked_up() -> None:
    assert doubt(row(sent=-1), NOW, WINDOWS) is not None


def test_an_id_of_the_publishers_own_may_have_been_published_a_window_before() -> None:
    assert doubt(row(own_id=True, created=500), NOW, WINDOWS) is None
    found = doubt(row(own_id=True, created=700), NOW, WINDOWS)
    assert found is not None
    assert found.since_ns < NOW - (700 + 600) * S


def test_a_fresh_id_of_the_publishers_own_does_not_ask_for_the_window() -> None:
    assert doubt(row(own_id=True, created=1), NOW, {}) is None


@given(rows, st.floats(min_value=0.1, max_value=1e4))
def test_what_was_just_looked_up_may_be_sent(row: Row, window_s: float) -> None:
    cleared = Row(
        seq=row.seq,
        subject=row.subject,
        id=row.id,
        headers=row.headers,
        body=row.body,
        own_id=row.own_id,
        created_ns=row.created_ns,
        sent_ns=None,
        clear_ns=NOW,
    )
    assert doubt(cleared, NOW, {"events": window_s}) is None


@given(rows, st.floats(min_value=0.1, max_value=1e4))
def test_nothing_that_may_be_stored_is_sent_again_after_the_window(
    row: Row, window_s: float
) -> None:
    found = doubt(row, NOW, {"events": window_s})
    if row.sent_ns is not None and found is None:
        assert 0 <= NOW - row.sent_ns <= window_s * S
    if row.sent_ns is not None and found is not None:
        assert found.since_ns < row.sent_ns


@given(st.lists(rows, max_size=20))
def test_order_holds_before_a_doubtful_row(waiting: list[Row]) -> None:
    ready, doubtful = prefix(waiting, NOW, WINDOWS)
    assert list(ready) == waiting[: len(ready)]
    assert doubtful == (len(ready) < len(waiting))
    assert all(doubt(each, NOW, WINDOWS) is None for each in ready)


@given(st.integers(0, 20), st.integers(0, 200), st.integers(1, 20), st.integers(0, 200))
def test_what_fits_keeps_both_limits(waiting: int, held: int, more: int, more_bytes: int) -> None:
    limits = Limits(messages=10, bytes=100)
    fit = fits(limits, waiting=waiting, bytes=held, more=more, more_bytes=more_bytes)
    assert fit == (waiting + more <= 10 and held + more_bytes <= 100)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=300))
def test_filters_cover_every_subject_and_do_not_overlap(keys: list[int]) -> None:
    subjects = [f"events.a.{key}" for key in keys]
    filters = subject_filters(subjects)
    assert filters == ("events.>",) or set(filters) == set(subjects)
    assert len(filters) == len(set(filters)) <= 64
    assert {lane(each) for each in filters} == {"events"}
