"""Looking a legacy name up, and proposing one: for any text, and quickly."""

import time

from hypothesis import given
from hypothesis import strategies as st

from interlock_schemas import catalogue, legacy

NAMES = [name for name, _ in legacy.known_names()]
texts = st.text()


@given(texts)
def test_folding_twice_is_folding_once(text: str) -> None:
    assert legacy.fold(legacy.fold(text)) == legacy.fold(text)


@given(texts | st.sampled_from(NAMES))
def test_any_text_resolves_to_a_canonical_type_or_to_nothing(text: str) -> None:
    match = legacy.resolve(text)
    if match is not None:
        assert match.name == text
        assert catalogue.find(match.type) is not None
        assert match.rule


@given(texts | st.sampled_from(NAMES).map(lambda name: name[:-2]), st.integers(0, 5))
def test_suggestions_are_known_names_and_no_more_than_asked_for(text: str, limit: int) -> None:
    found = legacy.suggest(text, limit=limit)
    assert len(found) <= limit
    assert len(set(found)) == len(found)
    assert all(legacy.resolve(name) is not None for name in found)
    assert found == legacy.suggest(text, limit=limit)


@given(st.sampled_from(NAMES))
def test_the_nearest_name_to_a_known_one_is_itself(name: str) -> None:
    nearest = legacy.suggest(name)[0]
    assert legacy.fold(nearest) == legacy.fold(name)


def test_a_slip_of_the_pen_is_understood() -> None:
    match = legacy.resolve(legacy.suggest("TRAINNG_COMPLETD")[0])
    assert match is not None
    assert match.type == "training.completed"


def test_names_known_at_run_time_are_proposed_too() -> None:
    assert "weights_levitated" in legacy.suggest("weights_levitate", ("weights_levitated", "", "…"))


def test_what_resembles_nothing_has_no_suggestions() -> None:
    assert legacy.suggest("") == []
    assert legacy.suggest("…") == []
    assert legacy.suggest("x" * 10_000) == []


def test_a_name_as_long_as_a_message_is_looked_up_in_no_time() -> None:
    started = time.process_time()
    assert legacy.resolve("EventType." * 100_000) is None
    assert legacy.resolve("." * 1_000_000) is None
    assert time.process_time() - started < 5
