"""A holder is never later than the broker."""

import math

from hypothesis import given
from hypothesis import strategies as st

from interlock.locks.holding import Hold, confirmed, margin_s, renew_after_s
from interlock_schemas.locks import TAKE_UP_S

ttls = st.floats(1, 86_400)
times = st.floats(0, 1e6)


@given(ttls, times, st.floats(0, 100))
def test_it_stops_before_the_broker_can_have_ended_it(
    ttl_s: float, sent: float, on_its_way_s: float
) -> None:
    hold = Hold(ttl_s, sent, sent)
    stored = sent + on_its_way_s
    ends = stored + max(1, math.ceil(ttl_s))
    assert hold.until < ends
    assert hold.until <= sent + ttl_s - 0.1


@given(ttls)
def test_there_is_time_left_to_work_in_and_for_more_than_one_renewal(ttl_s: float) -> None:
    assert 0.15 <= margin_s(ttl_s) <= 1.0
    assert 2 * renew_after_s(ttl_s) < ttl_s - margin_s(ttl_s)


@given(ttls, times, st.floats(0, 2), st.floats(0, 2))
def test_a_renewal_counts_from_its_sending_and_only_if_told_of_in_time(
    ttl_s: float, sent: float, sent_later: float, acked_later: float
) -> None:
    hold = Hold(ttl_s, sent, sent)
    again, acked = sent + sent_later * ttl_s, sent + (sent_later + acked_later) * ttl_s
    renewed = hold.renewed(again, acked)
    if acked >= hold.until:
        assert renewed is None
    else:
        assert renewed is not None
        assert renewed.until == Hold(ttl_s, sent, again).until


@given(ttls, times, st.floats(1, 1_000), st.lists(st.floats(0, 0.5), max_size=5))
def test_no_renewal_makes_it_older_than_it_may_become(
    ttl_s: float, since: float, max_age_s: float, renewals: list[float]
) -> None:
    hold = Hold(ttl_s, since, since, max_age_s)
    at = since
    for step in renewals:
        at += step * ttl_s
        renewed = hold.renewed(at, at)
        if renewed is None:
            break
        hold = renewed
    assert hold.until <= since + max_age_s
    if hold.until < hold.sent + ttl_s - margin_s(ttl_s):
        assert "maximum age" in hold.why
    assert "renewed" in Hold(ttl_s, since, since).why


@given(ttls, times, st.floats(0, 20), st.floats(0, 20))
def test_what_was_handed_over_counts_once_it_was_surely_renewed_in_time(
    ttl_s: float, waiting_at: float, granted_after: float, acked_after: float
) -> None:
    granted = waiting_at + granted_after
    acked = granted + acked_after
    if confirmed(ttl_s, waiting_at, acked):
        assert acked < granted + min(TAKE_UP_S, math.ceil(ttl_s))
    assert not confirmed(ttl_s, -math.inf, acked)
    assert confirmed(ttl_s, math.inf, acked)
