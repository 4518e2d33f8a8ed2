"""Headers: what any text looks like in one, and which travel on."""

import re

from hypothesis import given
from hypothesis import strategies as st

from interlock_schemas import envelope

any_text = st.text()
texts = st.text(st.characters(exclude_categories=["Cs"]))
names = st.from_regex(r"[A-Za-z0-9-]{1,12}", fullmatch=True)
headers = st.dictionaries(
    names | st.sampled_from(["ce-id", "CE-Type", "Nats-Msg-Id", "nats-ttl", "traceparent"]), texts
)


@given(texts)
def test_any_text_comes_back_from_a_header(text: str) -> None:
    assert envelope.unescape(envelope.escape(text)) == text


@given(any_text)
def test_an_escaped_text_is_one_line_of_printable_ascii_that_no_client_strips(text: str) -> None:
    escaped = envelope.escape(text)
    assert re.fullmatch(r"[ -~]*", escaped)
    assert escaped == escaped.strip()


@given(any_text)
def test_a_text_that_is_no_unicode_is_still_told_as_far_as_it_can_be(text: str) -> None:
    envelope.unescape(envelope.escape(text)).encode()


@given(any_text)
def test_any_header_can_be_unescaped(value: str) -> None:
    envelope.unescape(value)


def test_a_sentence_stays_readable() -> None:
    sentence = "nobody knows an event 'x'; nearest: training.completed (2)"
    assert envelope.escape(sentence) == sentence


def test_a_percent_sign_is_not_taken_for_an_escape() -> None:
    assert envelope.escape("100%20") == "100%2520"


@given(headers)
def test_a_header_is_found_in_any_case(headers: dict[str, str]) -> None:
    for name, value in headers.items():
        alone = {name: value}
        for spelling in (name, name.lower(), name.upper()):
            assert envelope.lookup(alone, spelling) == (value or None)


def test_the_exact_spelling_of_a_header_comes_first() -> None:
    assert envelope.lookup({"CE-ID": "a", "ce-id": "b"}, "ce-id") == "b"


def test_without_headers_there_is_nothing_to_find() -> None:
    assert envelope.lookup(None, "ce-id") is None
    assert envelope.forwarded(None) == {}


@given(headers)
def test_what_is_neither_ours_nor_the_brokers_travels_on_unchanged(headers: dict[str, str]) -> None:
    forwarded = envelope.forwarded(headers)
    assert forwarded.items() <= headers.items()
    for name in headers.keys() - forwarded.keys():
        assert name.lower().startswith(("ce-", "nats-", "interlock-")) or name.lower() in {
            "content-type",
            "traceparent",
            "tracestate",
        }


visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@given(visible)
def test_any_header_name_can_be_sent_and_comes_back(name: str) -> None:
    escaped = envelope.escape_name(name)
    assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", escaped)
    assert envelope.unescape(escaped) == name


@given(st.dictionaries(visible, texts))
def test_headers_made_sendable_can_be_sent_and_are_made_so_once(headers: dict[str, str]) -> None:
    sendable = envelope.sendable(headers)
    assert all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) for name in sendable)
    assert envelope.sendable(sendable) == sendable


def test_a_header_that_can_be_sent_keeps_its_name() -> None:
    headers = {"X-Tenant": "a", "rate%20": "b", "x_y.z": "c"}
    assert envelope.sendable(headers) == headers
    assert envelope.sendable({"X(1)": "d"}) == {"X%281%29": "d"}


def test_a_replay_mark_never_travels_on() -> None:
    marks = {envelope.REPLAY_OF: "x", envelope.REPLAY_FOR.upper(): "y", envelope.REPLAY_HOP: "1"}
    assert envelope.forwarded({**marks, "tenant": "a"}) == {"tenant": "a"}


def test_the_producers_id_is_the_identity_of_a_message() -> None:
    told = {"Nats-Msg-Id": "m", "ce-id": "c"}
    assert envelope.message_id(told, "LEGACY", 7, 255) == "c"
    assert envelope.message_id({"Nats-Msg-Id": "m"}, "LEGACY", 7, 255) == "m"


def test_an_id_that_was_escaped_on_the_way_is_the_one_that_the_producer_gave() -> None:
    assert envelope.message_id({"ce-id": envelope.escape("über 7%")}, "S", 1, 1) == "über 7%"


def test_without_one_it_is_the_place_in_the_stream_and_the_time() -> None:
    assert envelope.message_id({}, "LEGACY", 7, 255) == "legacy-7-ff"
    assert envelope.message_id(None, "LEGACY", 7, 254) != envelope.message_id(None, "LEGACY", 7, 1)


@given(texts, texts)
def test_canonical_ids_differ_where_the_messages_do(one: str, other: str) -> None:
    ids = envelope.canonical_id(one, b"{}"), envelope.canonical_id(other, b"{}")
    assert (ids[0] == ids[1]) == (one == other)


def test_two_messages_under_one_id_have_two_canonical_ids() -> None:
    assert envelope.canonical_id("a", b"1") != envelope.canonical_id("a", b"2")
    assert envelope.canonical_id("a", b"1") == envelope.canonical_id("a", b"1")


def test_an_id_that_is_too_long_is_replaced_by_its_digest() -> None:
    told = envelope.message_id({"Nats-Msg-Id": "é" * 15_000}, "S", 1, 1)
    assert len(told) == 64
    assert told == envelope.message_id({"Nats-Msg-Id": "é" * 15_000}, "S", 2, 2)
    assert told == envelope.message_id({"ce-id": told}, "S", 3, 3)
