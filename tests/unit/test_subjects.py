"""Subjects: any text as one token, and events found again by their subject."""

import re
from urllib.parse import quote, unquote

from hypothesis import assume, given
from hypothesis import strategies as st

from interlock_schemas import catalogue, subjects

TYPES = sorted(catalogue.by_name())

any_text = st.text(max_size=200)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
short_texts = texts.filter(lambda text: len(quote(text)) <= 90)


@given(any_text)
def test_any_text_is_one_legal_token(text: str) -> None:
    token = subjects.token(text)
    assert re.fullmatch(r"[A-Za-z0-9_=%-]{1,96}", token)


@given(short_texts)
def test_a_token_can_be_read_back(text: str) -> None:
    assert unquote(subjects.token(text)) == text


@given(short_texts, short_texts)
def test_different_texts_have_different_tokens(one: str, other: str) -> None:
    assume(one != other)
    assert subjects.token(one) != subjects.token(other)


@given(st.text(min_size=97, max_size=150), any_text)
def test_long_texts_that_begin_alike_stay_different(one: str, tail: str) -> None:
    assume(tail)
    assert subjects.token(one) != subjects.token(one + tail)


def test_no_key_is_not_mistaken_for_a_key() -> None:
    assert subjects.token("") == subjects.NO_KEY
    assert subjects.token(subjects.NO_KEY) != subjects.NO_KEY


@given(st.sampled_from(TYPES), any_text | st.none())
def test_an_event_subject_names_its_type(type_name: str, key: str | None) -> None:
    subject = subjects.event(type_name, key)
    assert subject.count(".") == 3
    assert subjects.parse_event(subject) == type_name
    assert subject.startswith(subjects.event_filter(type_name).removesuffix(">"))
    assert subject.startswith(subjects.event_filter(type_name.partition(".")[0]).removesuffix(">"))


@given(any_text)
def test_what_is_no_event_subject_names_no_type(text: str) -> None:
    assume(not text.startswith("events.") or text.count(".") != 3)
    assert subjects.parse_event(text) is None


def test_an_event_without_a_key_says_so() -> None:
    assert subjects.event("training.completed", None) == "events.training.completed._"
    assert subjects.event("training.completed", "") == "events.training.completed._"


def test_a_usual_key_stays_readable() -> None:
    assert subjects.event("training.completed", "hex8_2p") == "events.training.completed.hex8_2p"


def test_a_dotted_legacy_name_is_one_token() -> None:
    assert subjects.legacy("StageEvent.X") == "legacy.StageEvent%2EX"
    assert subjects.event_filter() == "events.>"
    assert subjects.command("sync-mutex", "take") == "cmd.sync-mutex.take"
    assert subjects.dead("sync-mutex", "invalid") == "dead.sync-mutex.invalid"
