"""The monitor suspects itself first: its clock stands while it could not have heard anybody."""

from hypothesis import given
from hypothesis import strategies as st

from interlock_health_monitor.attention import Attention

ECHO_S = 0.15


def attentive(
    attention: Attention, start_s: float, lasts_s: float, *, late_s: float = 0.004
) -> float:
    """Echoes that come back, one after the other; when it ended."""
    at = start_s
    while at < start_s + lasts_s:
        attention.echoed(at, at + late_s)
        at += ECHO_S
    return at


def test_the_clock_goes_with_what_came_back() -> None:
    attention = Attention(0.0)
    attentive(attention, 0.0, 30.0)
    assert 29.5 < attention.now_s <= 30.0
    assert attention.score == 0


def test_it_stands_while_nothing_comes_back() -> None:
    attention = Attention(0.0)
    attentive(attention, 0.0, 5.0)
    before = attention.now_s
    assert attention.deaf_s(65.0) > 59
    assert attention.now_s == before


@given(st.floats(1.0, 1e7), st.floats(0.001, 1e6))
def test_a_stop_of_any_length_is_hardly_a_moment(stop_s: float, piled_up_s: float) -> None:
    """Whatever comes back first when it goes on: the echo from before, or the one after."""
    attention = Attention(0.0)
    end = attentive(attention, 0.0, 5.0)
    before = attention.now_s
    back = end + stop_s
    attention.echoed(end, back + piled_up_s)
    attention.echoed(back, back + 0.004)
    assert attention.now_s - before <= 1.21
    assert attention.settling or stop_s < 2.0


@given(st.lists(st.tuples(st.floats(-5, 100), st.floats(-5, 100)), max_size=50))
def test_time_never_goes_back_nor_faster_than_the_real(echoes: list[tuple[float, float]]) -> None:
    attention = Attention(0.0)
    last = 0.0
    for sent, back in echoes:
        attention.echoed(sent, back)
        assert attention.now_s >= last
        last = attention.now_s
        assert attention.now_s <= max(0.0, *(each for each, _ in echoes)) + 1e-9
        assert 0 <= attention.score <= 8


def test_being_slow_makes_it_patient_and_being_in_time_mends_it() -> None:
    attention = Attention(0.0)
    end = attentive(attention, 0.0, 2.0)
    end = attentive(attention, end, 2.0, late_s=0.5)
    assert attention.score == 8
    attentive(attention, end, 8 * 4 * ECHO_S + 1.0)
    assert attention.score == 0


def test_far_from_the_broker_is_not_slow() -> None:
    attention = Attention(0.0)
    attentive(attention, 0.0, 60.0, late_s=0.4)
    assert attention.score == 0
    assert attention.now_s > 59


def test_one_that_begins_or_was_cut_off_settles_first() -> None:
    attention = Attention(0.0, settle_s=10.0)
    settling = [attention.settling]
    end = attentive(attention, 0.0, 10.5)
    settling.append(attention.settling)
    attention.cut_off()
    settling.append(attention.settling)
    attentive(attention, end, 10.5)
    settling.append(attention.settling)
    assert settling == [True, False, True, False]


def test_what_comes_back_far_too_late_proves_nothing() -> None:
    attention = Attention(0.0)
    end = attentive(attention, 0.0, 12.0)
    before = attention.now_s
    attention.echoed(end, end + 3.0)
    assert attention.now_s == before
    assert attention.settling
