"""Mappings made at run time: followed along chains, never round in circles."""

import re

from hypothesis import given
from hypothesis import strategies as st

from interlock_schemas import catalogue, legacy, mappings
from interlock_schemas.mappings import Mapping

AT = "2026-01-05T10:00:00.000000Z"
TYPES = sorted(catalogue.by_name())

names = st.sampled_from(["alpha", "Alpha-1", "beta.x", "gamma", "…", "training_complete"])
targets = names | st.sampled_from(TYPES) | st.text(max_size=5)
tables = st.lists(st.tuples(names | st.text(max_size=5), targets), max_size=12).map(
    lambda pairs: made(*pairs)
)


def made(*pairs: tuple[str, str]) -> dict[str, Mapping]:
    return {legacy.fold(name): Mapping(name=name, target=to, at=AT) for name, to in pairs}


def type_of(name: str, table: dict[str, Mapping]) -> str | None:
    match = mappings.resolve(name, table)
    return match.type if match else None


@given(names | st.text(max_size=5), tables)
def test_any_mappings_whatsoever_lead_to_a_type_or_to_nothing(
    name: str, table: dict[str, Mapping]
) -> None:
    match = mappings.resolve(name, table)
    assert match is None or catalogue.find(match.type) is not None
    assert match is None or match.name == name


@given(st.text())
def test_without_mappings_the_table_of_legacy_names_counts(name: str) -> None:
    assert mappings.resolve(name, {}) == legacy.resolve(name)


def test_a_chain_is_followed_to_its_end() -> None:
    table = made(("a", "b"), ("b", "c"), ("c", "training.completed"))
    assert type_of("a", table) == "training.completed"


def test_a_chain_may_end_in_a_name_of_the_table_and_takes_its_fields_along() -> None:
    match = mappings.resolve("a", made(("a", "b"), ("b", "GPU_SELFPLAY_COMPLETE")))
    assert match is not None
    assert match.type == "selfplay.completed"
    assert match.sets == {"selfplay_type": "gpu"}
    assert "run time" in match.rule


def test_followers_go_along_when_a_target_is_mapped_anew() -> None:
    before = made(("a", "b"), ("b", "training.completed"))
    after = before | made(("b", "training.failed"))
    assert type_of("a", before) == "training.completed"
    assert type_of("a", after) == "training.failed"


def test_a_loop_means_nothing_and_ends() -> None:
    assert type_of("a", made(("a", "a"))) is None
    assert type_of("a", made(("a", "b"), ("b", "a"))) is None
    long = made(*((f"n{i}", f"n{(i + 1) % 500}") for i in range(500)))
    assert type_of("n0", long) is None


def test_any_spelling_of_a_mapped_name_is_understood() -> None:
    table = made(("Mystery_Model", "model.promoted"))
    for spelling in ("mystery_model", "MYSTERY-MODEL", "mysteryModel", "mystery.model"):
        assert type_of(spelling, table) == "model.promoted"


def test_a_mapping_overrules_the_table_and_says_who_made_it() -> None:
    table = {
        "trainingcomplete": Mapping(
            name="training_complete", target="training.failed", at=AT, by="kim", reason="it lied"
        )
    }
    match = mappings.resolve("training_complete", table)
    assert match is not None
    assert match.type == "training.failed"
    assert match.rule == "mapped at run time by kim: it lied"


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_two_spellings_share_a_bucket_key_when_they_fold_alike(one: str, other: str) -> None:
    same = mappings.bucket_key(one) == mappings.bucket_key(other)
    assert same == (legacy.fold(one) == legacy.fold(other))


@given(st.text(max_size=200).filter(legacy.fold))
def test_a_bucket_key_is_one_legal_token(name: str) -> None:
    assert re.fullmatch(r"[A-Z2-7]+", mappings.bucket_key(name))
