"""The schedule of a chaos run: repeatable, bounded, and never against a majority."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from interlock.chaos.schedule import BROKER_KINDS, CLIENT_KINDS, KINDS, draw

SEEDS = st.integers(min_value=0, max_value=1 << 32)
SECONDS = st.floats(min_value=1, max_value=120)
BROKERS = st.sampled_from((1, 3))


@given(seed=SEEDS, seconds=SECONDS, brokers=BROKERS)
def test_the_same_seed_draws_the_same_faults(seed: int, seconds: float, brokers: int) -> None:
    once = draw(seed, seconds=seconds, brokers=brokers)
    assert once == draw(seed, seconds=seconds, brokers=brokers)


@given(seed=SEEDS, seconds=SECONDS, brokers=BROKERS)
def test_every_fault_has_a_length_and_ends_within_the_time(
    seed: int, seconds: float, brokers: int
) -> None:
    for fault in draw(seed, seconds=seconds, brokers=brokers):
        assert 0 <= fault.start_s <= fault.end_s <= seconds


@given(seed=SEEDS, seconds=SECONDS, brokers=BROKERS)
def test_faults_of_the_broker_never_overlap(seed: int, seconds: float, brokers: int) -> None:
    faults = draw(seed, seconds=seconds, brokers=brokers)
    for lane in ("broker", "client"):
        mine = [fault for fault in faults if fault.lane == lane]
        assert all(before.end_s < after.start_s for before, after in pairwise(mine))


@given(seed=SEEDS, brokers=BROKERS, publishers=st.integers(1, 5), consumers=st.integers(1, 5))
def test_every_fault_has_something_to_hit(
    seed: int, brokers: int, publishers: int, consumers: int
) -> None:
    faults = draw(seed, seconds=60, brokers=brokers, publishers=publishers, consumers=consumers)
    for fault in faults:
        name = fault.kind.partition("_")[0]
        targets = {"publisher": publishers, "consumer": consumers}.get(name, brokers)
        assert 0 <= fault.target < targets
        if brokers == 1:
            assert fault.scope == "all"
        if fault.kind == "slow":
            assert fault.latency_s > 0


@given(seed=SEEDS)
def test_what_is_drawn_for_a_longer_time_begins_like_the_shorter(seed: int) -> None:
    for lane in ("broker", "client"):
        short, long = (
            [fault for fault in draw(seed, seconds=s, brokers=3) if fault.lane == lane]
            for s in (20, 60)
        )
        # All but the last, which the shorter time may have cut.
        assert short[:-1] == long[: len(short) - 1]


def test_a_long_run_draws_every_kind() -> None:
    for seed in range(20):
        drawn = {fault.kind for fault in draw(seed, seconds=120, brokers=3)}
        assert drawn == set(KINDS)


def test_short_runs_draw_every_kind_over_the_seeds() -> None:
    for brokers in (1, 3):
        drawn = {
            fault.kind for seed in range(20) for fault in draw(seed, seconds=10, brokers=brokers)
        }
        assert drawn == {*BROKER_KINDS, *CLIENT_KINDS}


def test_every_scope_is_drawn_for_three_servers() -> None:
    scopes = {fault.scope for seed in range(20) for fault in draw(seed, seconds=60, brokers=3)}
    assert scopes == {"all", "clients", "routes"}


def test_a_fault_says_what_it_is() -> None:
    for fault in draw(1, seconds=200, brokers=3):
        assert str(fault.target + 1) in fault.describe()
