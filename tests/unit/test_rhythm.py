"""A node's own rhythm, and how unlikely a silence is by it."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_health_monitor.rhythm import Rhythm, phi_of, z_of


def beating(gaps: list[float], interval_s: float = 1.0) -> Rhythm:
    rhythm = Rhythm(interval_s)
    for gap in gaps:
        rhythm.heard(gap)
    return rhythm


def test_phi_is_minus_the_logarithm_of_the_chance_that_the_beat_is_only_late() -> None:
    assert phi_of(1.0, 1.0, 0.1) == pytest.approx(-math.log10(0.5))
    for phi in (1.0, 4.0, 8.0, 12.0):
        assert phi_of(z_of(phi), 0.0, 1.0) == pytest.approx(phi, rel=1e-3)


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0.01, 100), st.floats(0.001, 100))
def test_a_longer_silence_is_never_likelier(
    one: float, other: float, mean: float, deviation: float
) -> None:
    shorter, longer = sorted((one, other))
    assert 0.0 <= phi_of(shorter, mean, deviation) <= phi_of(longer, mean, deviation) <= 300.0


def test_it_follows_the_node() -> None:
    rhythm = beating([5.0] * 300)
    assert rhythm.mean_s == pytest.approx(5.0, rel=0.01)
    assert rhythm.known


def test_an_even_rhythm_is_not_thought_to_be_perfect() -> None:
    rhythm = beating([1.0] * 1_000)
    assert rhythm.deviation_s == pytest.approx(0.1)
    assert rhythm.phi(1.2) < 3


def test_an_uneven_rhythm_is_given_more_time() -> None:
    rng = random.Random(1)
    even, uneven = beating([1.0] * 500), beating([rng.uniform(0.5, 1.5) for _ in range(500)])
    assert uneven.late_after_s(z_of(4)) > even.late_after_s(z_of(4))


def test_an_outage_teaches_little_about_the_rhythm() -> None:
    rhythm = beating([1.0] * 100)
    rhythm.heard(86_400.0)
    assert rhythm.mean_s < 1.1
    assert rhythm.deviation_s < 0.5


def test_what_comes_in_a_bunch_teaches_nothing() -> None:
    """A monitor that was stopped reads all that piled up at once."""
    rhythm = beating([1.0] * 100)
    before = rhythm.mean_s, rhythm.deviation_s
    for _ in range(1_000):
        rhythm.heard(0.0)
    assert (rhythm.mean_s, rhythm.deviation_s) == before


def test_lost_beats_do_not_make_it_slow_but_slow_beats_do() -> None:
    assert beating(([1.0] * 20 + [2.0]) * 50).pace_s == 1.0
    assert beating([6.0] * 300).pace_s == pytest.approx(4.0, rel=0.01)


@given(st.lists(st.floats(0, 1e6), max_size=200), st.floats(0.05, 3_600))
def test_whatever_it_hears_it_stays_a_rhythm(gaps: list[float], interval_s: float) -> None:
    rhythm = beating(gaps, interval_s)
    assert 0 < rhythm.mean_s < math.inf
    assert 0 < rhythm.deviation_s < math.inf
    assert rhythm.pace_s >= interval_s
    assert 0 <= rhythm.phi(1.0) <= 300
