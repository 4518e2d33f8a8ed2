"""Answers to those who read through the broker: compressed where that pays, whole in any case."""

import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports.read_server import answer_of
from interlock.artifacts.transports.relay import _content

TEXT = b"".join(b"move %d, a stone at %d\n" % (n, n * 7 % 361) for n in range(20_000))


def test_text_gets_smaller_and_noise_is_left_as_it_is() -> None:
    noise = os.urandom(len(TEXT))
    assert len(answer_of((TEXT,), deflate=True)) < len(TEXT) / 2
    assert answer_of((noise,), deflate=True) == b"\0" + noise


def test_nobody_gets_what_was_not_asked_for() -> None:
    assert answer_of((TEXT,), deflate=False) == b"\0" + TEXT


def test_a_sample_that_says_too_much_costs_nothing() -> None:
    noise = os.urandom(200_000)
    lucky = noise + bytes(16 * 1024) + noise
    assert len(answer_of((lucky,), deflate=True)) <= len(lucky) + 1


@given(
    parts=st.lists(
        st.tuples(st.binary(max_size=64), st.integers(0, 5_000)).map(lambda t: t[0] * t[1]),
        max_size=6,
    ),
    deflate=st.booleans(),
)
def test_what_comes_out_is_what_went_in(parts: list[bytes], deflate: bool) -> None:
    assert _content(answer_of(parts, deflate=deflate), "n") == b"".join(parts)


@pytest.mark.parametrize(
    "data",
    [
        b"\2no stream",
        b"\2" + zlib.compress(TEXT)[:-5],
        # Twelve kilobytes that claim to be twelve megabytes.
        b"\2" + zlib.compress(bytes(12 * 1024 * 1024)),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(TransferFailed):
        _content(data, "n")
