"""Where a delivered message stands, read from its acknowledgement subject."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.delivery import Position, parse_position

names = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
numbers = st.integers(0, 2**63 - 1)
positions = st.builds(Position, names, names, numbers, numbers, numbers, numbers, numbers)


def tokens(at: Position) -> str:
    numbers = (at.deliveries, at.stream_seq, at.consumer_seq, at.time_ns, at.pending)
    return ".".join((at.stream, at.consumer, *map(str, numbers)))


@given(positions)
def test_the_short_form_is_read(at: Position) -> None:
    assert parse_position(f"$JS.ACK.{tokens(at)}") == at


@given(positions, names, st.lists(names, max_size=3))
def test_the_form_with_domain_and_account_is_read_whatever_follows(
    at: Position, account: str, more: list[str]
) -> None:
    assert parse_position(".".join(("$JS.ACK", "_", account, tokens(at), *more))) == at


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "_INBOX.abc",
        "$JS.ACK",
        "$JS.ACK.EVENTS.c.1.2.3.4",
        "$JS.ACK.EVENTS.c.1.2.3.4.5.6",
        "$JS.ACK.EVENTS.c.one.2.3.4.5",
        "$JS.API.EVENTS.c.1.2.3.4.5",
    ],
)
def test_anything_else_is_refused(reply: str) -> None:
    with pytest.raises(ValueError, match=r"acknowledgement|invalid literal"):
        parse_position(reply)


@given(st.text())
def test_any_text_is_read_or_refused(reply: str) -> None:
    with pytest.raises(ValueError, match="not an acknowledgement subject"):
        parse_position(reply)
