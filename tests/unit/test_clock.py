"""Times on the wire."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from interlock.clock import now, rfc3339, rfc3339_ns

zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=zones)  # noqa: DTZ001 - bounds
this_century_ns = st.integers(946_684_800 * 10**9, 4_102_444_800 * 10**9)


@given(times)
def test_a_time_can_be_read_back(at: datetime) -> None:
    assert datetime.fromisoformat(rfc3339(at)) == at


@given(times, times)
def test_text_order_is_time_order(one: datetime, other: datetime) -> None:
    assert (rfc3339(one) < rfc3339(other)) == (one < other)
    assert len(rfc3339(one)) == 27


@given(this_century_ns)
def test_nanoseconds_are_told_to_the_microsecond(time_ns: int) -> None:
    at = datetime.fromisoformat(rfc3339_ns(time_ns))
    assert (at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1) == time_ns // 1_000


def test_now_is_in_utc() -> None:
    assert now().tzinfo is UTC
