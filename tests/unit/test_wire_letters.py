"""A dead letter on the wire: what is written is what is read, whatever the original was."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_schemas import envelope
from interlock_schemas.letters import Code, DeadLetter, letter_id, read_letter, write_letter

texts = st.text(st.characters(exclude_categories=["Cs"]))
header_names = st.from_regex(r"[!#-9;-~]{1,20}", fullmatch=True)
headers = st.dictionaries(
    header_names | st.sampled_from(["letter-id", "original-a", "Nats-Msg-Id", "traceparent"]), texts
)
numbers = st.integers(min_value=0, max_value=2**63 - 1)
letters = st.builds(
    DeadLetter,
    id=texts,
    code=st.sampled_from(Code),
    reason=texts | st.sampled_from(["", " ", "null", "1", "a\r\nb: c", "50%41"]),
    service=texts,
    consumer=texts,
    message_id=texts,
    subject=texts,
    stream=texts,
    stream_seq=numbers,
    attempts=numbers,
    first_at=texts,
    last_at=texts,
    hop=numbers,
    name=texts,
    error=texts,
    suggestions=st.lists(texts, max_size=3).map(tuple),
    traceparent=texts,
    headers=headers,
    body=st.binary(),
)
LETTER = DeadLetter(
    id="abc",
    code=Code.INVALID,
    reason="it does not fit",
    service="s",
    consumer="c",
    message_id="m",
    subject="legacy.x",
    stream="LEGACY",
    stream_seq=1,
    attempts=1,
    first_at="2026-01-05T10:00:00.000000Z",
    last_at="2026-01-05T10:00:01.000000Z",
)


@given(letters)
def test_what_is_written_is_what_is_read(letter: DeadLetter) -> None:
    assert read_letter(*write_letter(letter)) == letter


@given(letters)
def test_the_body_is_the_original_one(letter: DeadLetter) -> None:
    assert write_letter(letter)[1] == letter.body


@given(letters)
def test_what_is_said_of_a_letter_fits_into_header_lines(letter: DeadLetter) -> None:
    for name, value in write_letter(letter)[0].items():
        if not name.startswith("original-"):
            assert re.fullmatch(r"[A-Za-z-]+", name)
            assert re.fullmatch(r"[ -~]*", value)
            assert value == value.strip()


@given(letters)
def test_no_original_header_acts_on_the_letter(letter: DeadLetter) -> None:
    written, _ = write_letter(letter)
    originals = {name: value for name, value in written.items() if name.startswith("original-")}
    assert originals == {
        f"original-{envelope.escape_name(name)}": value for name, value in letter.headers.items()
    }
    assert written.keys() - originals.keys() <= {
        envelope.MSG_ID,
        envelope.TRACEPARENT,
        *(name for name in written if name.startswith("letter-")),
    }


@given(letters)
def test_the_case_of_a_letters_headers_does_not_matter(letter: DeadLetter) -> None:
    written, body = write_letter(letter)
    shouted = {
        name.upper() if name.startswith("letter-") else name: value
        for name, value in written.items()
    }
    assert read_letter(shouted, body) == letter


def test_a_letter_written_twice_has_one_message_id_and_each_replay_another() -> None:
    again = msgspec.structs.replace(LETTER, reason="worded otherwise", attempts=2)
    replayed = msgspec.structs.replace(LETTER, hop=1)
    ids = [write_letter(each)[0][envelope.MSG_ID] for each in (LETTER, again, replayed)]
    assert ids[0] == ids[1] != ids[2]


def test_what_was_not_told_is_not_written() -> None:
    written, _ = write_letter(LETTER)
    assert not {"letter-error", "letter-name", "letter-suggestions"} & written.keys()


@given(headers)
def test_other_headers_are_no_letter(headers: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        read_letter(headers, b"")


def test_no_headers_are_no_letter() -> None:
    with pytest.raises(msgspec.ValidationError):
        read_letter(None, b"")


@pytest.mark.parametrize("field", ["id", "code", "reason", "subject", "stream-seq", "attempts"])
def test_a_letter_lacking_a_fact_is_none(field: str) -> None:
    written, body = write_letter(LETTER)
    del written[f"letter-{field}"]
    with pytest.raises(msgspec.ValidationError, match=field.replace("-", "_")):
        read_letter(written, body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("code", "bad mood"),
        ("stream-seq", "seven"),
        ("hop", "1.5"),
        ("suggestions", "{}"),
        ("suggestions", "[1]"),
        ("suggestions", "not json"),
    ],
)
def test_a_letter_that_is_garbled_is_none(field: str, value: str) -> None:
    written, body = write_letter(LETTER)
    with pytest.raises(msgspec.DecodeError):
        read_letter({**written, f"letter-{field}": value}, body)


@given(texts, texts, st.binary())
def test_each_attempt_at_a_message_writes_the_same_letter(
    consumer: str, message: str, body: bytes
) -> None:
    assert letter_id(consumer, message, body) == letter_id(consumer, message, body)
    assert re.fullmatch(r"[0-9a-f]{16}", letter_id(consumer, message, body))


def test_other_consumers_messages_and_bodies_have_letters_of_their_own() -> None:
    ids = {
        letter_id("a", "m", b"x"),
        letter_id("b", "m", b"x"),
        letter_id("a", "n", b"x"),
        letter_id("a", "m", b"y"),
        letter_id("am", "", b"x"),
    }
    assert len(ids) == 5


@given(st.text())
def test_an_id_that_is_no_unicode_still_has_a_letter(text: str) -> None:
    assert letter_id("consumer", text, b"")


@pytest.mark.parametrize("code", Code)
def test_only_failures_of_the_handler_are_worth_a_retry(code: Code) -> None:
    retried = code in (Code.HANDLER_FAILED, Code.TIMED_OUT)
    assert (code.failure_class == "exhausted") == retried
