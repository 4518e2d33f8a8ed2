"""A delivered message: where it stands, what it says, how it is answered, what is in hand."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock import fleet
from interlock.decisions import failures
from interlock.delivery import Delivery, Position, parse_position
from interlock.errors import Reject
from interlock.headers import parse
from interlock.in_hand import InHand
from interlock.redelivery import Handled, Retry
from interlock_schemas import envelope
from interlock_schemas.letters import Code

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


class Client:
    """Keeps what is posted."""

    def __init__(self) -> None:
        self.posted: list[bytes] = []

    def post(self, data: bytes) -> None:
        self.posted.append(data)


class Bus:
    def __init__(self) -> None:
        self.client = Client()


def delivery(reply: bytes = b"$JS.ACK.S.c.2.7.9.1700000000000000000.3", block: bytes = b"",
             subject: bytes = b"events.training.completed.hex8",
             body: bytes = b"{}") -> tuple[Delivery, Client]:  # fmt: skip
    bus: Any = Bus()
    return Delivery(bus, subject, reply, block, body), bus.client


@given(positions)
def test_a_delivery_reads_its_place_as_its_position_says(at: Position) -> None:
    got, _ = delivery(f"$JS.ACK.{tokens(at)}".encode())
    assert (got.attempt, got.seq, got.stored_ns) == (at.deliveries, at.stream_seq, at.time_ns)
    assert got.position == at


def test_only_the_first_answer_is_given_and_it_goes_where_the_newest_delivery_says() -> None:
    got, client = delivery()
    again, _ = delivery(b"$JS.ACK.S.c.3.7.12.1700000000000000000.0")
    got.delivered_again(again)
    got.ack()
    got.retry(1.0)
    got.terminate("too late")
    said = b"".join(client.posted)
    assert said == b"PUB $JS.ACK.S.c.3.7.12.1700000000000000000.0 4\r\n+ACK\r\n"
    assert got.position.deliveries == got.attempt == 2


def test_a_retry_says_its_delay_and_none_is_at_once() -> None:
    got, client = delivery()
    got.retry(1.5)
    other, at_once = delivery()
    other.retry(0.0)
    assert client.posted[0].endswith(b'-NAK {"delay": 1500000000}\r\n')
    assert at_once.posted[0].endswith(b" 4\r\n-NAK\r\n")


def test_what_is_in_hand_is_taken_once_and_leases_are_renewed_after_a_round() -> None:
    hand = InHand(30.0)
    first, client = delivery(f"$JS.ACK.S.c.1.7.9.{time.time_ns()}.3".encode())
    assert hand.add(first)
    twice, _ = delivery(first.reply)
    assert not hand.add(twice)
    assert (len(hand), hand.bytes) == (1, 2)
    hand.renew()
    assert client.posted == []
    hand.renew()
    assert client.posted == [b"PUB %b 4\r\n+WPI\r\n" % first.reply]
    hand.suspend()
    first.ack()
    assert len(b"".join(client.posted).splitlines()) == 2, (
        "its consumer was made anew: no answer until it comes again"
    )
    hand.add(twice)
    first.ack()
    hand.drop(first)
    assert (len(hand), hand.bytes) == (0, 0)
    assert client.posted[-1].endswith(b"+ACK\r\n")


def test_what_was_stored_long_ago_is_reported_unless_it_ended_at_once() -> None:
    hand = InHand(30.0)
    quick, of_quick = delivery(b"$JS.ACK.S.c.1.7.9.1700000000000000000.3")
    slow, of_slow = delivery(b"$JS.ACK.S.c.1.8.10.1700000000000000000.2")
    for each in (quick, slow):
        hand.add(each)
    quick.ack()
    hand.drop(quick)
    assert hand.old
    hand.report_old()
    assert [data[-6:] for data in of_quick.posted] == [b"+ACK\r\n"]
    assert [data[-6:] for data in of_slow.posted] == [b"+WPI\r\n"]
    assert not hand.old


NAMES = st.sampled_from(["ce-type", "Ce-Type", " ce-type ", "x-ce-type", "CE-TYPE", "ce-id", "a"])
VALUES = st.sampled_from(["training.completed", "x", "", " ", "\xa0", "ce-type: y", "é"])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), st.sampled_from([": ", ":", " : "]))
def test_the_type_that_is_searched_for_is_the_one_that_reading_finds(
    lines: list[tuple[str, str]], colon: str
) -> None:
    block = "".join(["NATS/1.0\r\n", *(f"{n}{colon}{v}\r\n" for n, v in lines), "\r\n"]).encode()
    got, _ = delivery(block=block)
    read = envelope.lookup(parse(block), envelope.TYPE)
    assert fleet._type_of(got) == (read or "training.completed")


@pytest.mark.parametrize(
    ("answer", "codes"),
    [
        (None, [None, None]),
        ([None, Handled()], [None, None]),
        ([Handled, Retry()], [None, Code.HANDLER_FAILED]),
        ((Reject("no"), RuntimeError("x")), [Code.REJECTED, Code.HANDLER_FAILED]),
    ],
)
def test_decisions_are_read_one_for_each_message(answer: Any, codes: list[Code | None]) -> None:
    assert [each.code if each else None for each in failures(answer, 2)] == codes


@pytest.mark.parametrize("answer", [[], [None], "ab", {}, [1, 2], True, [None, "handled"]])
def test_what_is_no_list_of_decisions_is_refused(answer: Any) -> None:
    with pytest.raises(TypeError, match="decision"):
        failures(answer, 2)
