"""Which mappings an operator may make."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_event_normalizer.overrides import Refused, check
from interlock_schemas import catalogue, legacy, mappings
from interlock_schemas.mappings import Mapping

AT = "2026-01-05T10:00:00.000000Z"
TYPES = sorted(catalogue.by_name())

names = st.sampled_from(["alpha", "ALPHA", "beta", "gamma.x", "delta", "training_complete"])
targets = names | st.sampled_from([*TYPES[:5], "Training.Completed", "GPU_SELFPLAY_COMPLETE"])
wishes = st.lists(st.tuples(names | st.text(max_size=4), targets | st.text(max_size=4)))
tables = st.lists(st.tuples(names, targets | st.text(max_size=4)), max_size=8).map(
    lambda pairs: made(*pairs)
)


def made(*pairs: tuple[str, str]) -> dict[str, Mapping]:
    return {legacy.fold(name): Mapping(name=name, target=to, at=AT) for name, to in pairs}


def refusal(name: str, target: str, *standing: tuple[str, str]) -> Refused:
    refused = check(name, target, made(*standing))
    assert refused is not None
    return refused


@given(wishes)
def test_whatever_was_permitted_stays_understood(wishes: list[tuple[str, str]]) -> None:
    table: dict[str, Mapping] = {}
    for name, target in wishes:
        if check(name, target, table) is None:
            table |= made((name, target))
        for mapping in table.values():
            assert mappings.resolve(mapping.name, table) is not None


@given(names | st.text(max_size=4), targets | st.text(max_size=4), tables)
def test_a_mapping_is_permitted_only_if_it_will_mean_something(
    name: str, target: str, table: dict[str, Mapping]
) -> None:
    refused = check(name, target, table)
    if refused is None:
        assert mappings.resolve(name, table | made((name, target))) is not None
    else:
        assert refused.code in {"400", "404", "409"}
        assert refused.reason


@pytest.mark.parametrize("target", ["training.completed", "Training-Complete", "StageEvent.x"])
def test_a_name_may_mean_a_type_or_any_name_that_is_known(target: str) -> None:
    assert check("cooked", target, made(("stageevent.x", "model.promoted"))) is None


def test_a_name_of_the_table_may_be_mapped_otherwise() -> None:
    assert check("TRAINING_COMPLETE", "training.failed", {}) is None


@pytest.mark.parametrize("target", ["cooked", "Cooked", "COOKED!"])
def test_a_name_cannot_mean_itself(target: str) -> None:
    assert refusal("cooked", target).code == "409"


def test_two_names_cannot_mean_each_other() -> None:
    refused = refusal("a", "b", ("b", "a"))
    assert refused.code == "409"
    assert "a → b → a" in refused.reason


def test_a_long_way_round_is_a_loop_too() -> None:
    chain = [(f"n{i}", f"n{i + 1}") for i in range(50)]
    refused = refusal("n50", "n0", *chain)
    assert refused.code == "409"
    assert "loop" in refused.reason


def test_a_name_cannot_join_a_loop_that_stands() -> None:
    assert refusal("c", "a", ("a", "b"), ("b", "a")).code == "409"


def test_an_unknown_target_is_refused_with_what_is_near() -> None:
    refused = refusal("cooked", "training.compelted")
    assert refused.code == "404"
    assert "training.completed" in refused.reason


def test_a_chain_into_nowhere_is_refused_naming_where_it_ends() -> None:
    refused = refusal("a", "b", ("b", "nowhere"))
    assert refused.code == "404"
    assert "'nowhere'" in refused.reason


@pytest.mark.parametrize("name", ["training.completed", "TRAINING_COMPLETED", "TrainingCompleted"])
def test_a_canonical_name_cannot_be_made_to_mean_another(name: str) -> None:
    assert refusal(name, "training.failed").code == "409"


@pytest.mark.parametrize("name", ["", "  ", "…", "x" * 201])
def test_what_is_no_name_cannot_be_mapped(name: str) -> None:
    assert refusal(name, "training.failed").code == "400"
