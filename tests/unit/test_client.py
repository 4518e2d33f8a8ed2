"""The way in: whole messages out of any pieces that the connection brings."""

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.errors import ProtocolError

from interlock.client import Client, Heard

token = st.from_regex(rb"[A-Za-z0-9$_.-]{1,12}", fullmatch=True)
messages = st.lists(
    st.tuples(token, st.one_of(st.just(b""), token), st.binary(max_size=60), st.booleans()),
    max_size=6,
)


def wire(message: tuple[bytes, bytes, bytes, bool], sid: int) -> tuple[bytes, Heard]:
    subject, reply, body, with_headers = message
    headers = b"NATS/1.0\r\nA: b\r\n\r\n" if with_headers else b""
    words = [b"HMSG" if headers else b"MSG", subject, b"%d" % sid]
    words += [reply] if reply else []
    words += [b"%d" % len(headers)] if headers else []
    words += [b"%d" % (len(headers) + len(body))]
    return b" ".join(words) + b"\r\n" + headers + body + b"\r\n", (subject, reply, headers, body)


async def parse(chunks: list[bytes]) -> list[Heard]:
    client = Client()
    heard: list[Heard] = []
    client.listeners[7] = lambda *message: heard.append(message)
    parser: Any = client._ps
    for chunk in chunks:
        await parser.parse(chunk)
    return heard


@given(messages, st.lists(st.integers(0, 600), max_size=12))
@settings(max_examples=300)
def test_messages_come_out_whole_however_they_are_cut(
    sent: list[tuple[bytes, bytes, bytes, bool]], cuts: list[int]
) -> None:
    frames = [wire(message, 7) for message in sent]
    data = b"PING\r\n".join(frame for frame, _ in frames)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(edges)]

    async def run() -> list[Heard]:
        client = Client()
        heard: list[Heard] = []
        pings = 0

        async def on_ping() -> None:
            nonlocal pings
            pings += 1

        client._process_ping = on_ping  # type: ignore[method-assign]
        client.listeners[7] = lambda *message: heard.append(message)
        parser: Any = client._ps
        for chunk in chunks:
            await parser.parse(chunk)
        assert pings == max(0, len(frames) - 1)
        return heard

    assert asyncio.run(run()) == [heard for _, heard in frames]


async def test_every_single_cut_of_a_message_is_survived() -> None:
    frame, heard = wire((b"a.b", b"r.1", b"body\r\nMSG x 7 1\r\n", True), 7)
    for cut in range(len(frame) + 1):
        assert await parse([frame[:cut], frame[cut:], frame]) == [heard, heard]


async def test_a_listener_that_fails_does_not_deafen_the_others() -> None:
    client = Client()
    heard: list[bytes] = []

    def listener(_: bytes, __: bytes, ___: bytes, body: bytes) -> None:
        if body == b"1":
            raise ValueError("no")
        heard.append(body)

    client.listeners[7] = listener
    parser: Any = client._ps
    await parser.parse(b"".join(wire((b"a", b"", body, False), 7)[0] for body in (b"1", b"2")))
    assert heard == [b"2"]


@pytest.mark.parametrize("line", [b"MSG a 7 x\r\n", b"HMSG\r\n", b"NONSENSE\r\n", b"MSG a\r\n"])
async def test_what_is_no_protocol_ends_the_connection(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        await parse([line])
