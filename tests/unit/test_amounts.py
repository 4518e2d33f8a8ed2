"""Sizes and rates: what people may write, and how they are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.amounts import parse_rate, parse_size, rate, size


@pytest.mark.parametrize(
    ("text", "bytes_per_s"), [("20 MB/s", 20e6), ("0.5MB/s", 5e5), ("1500", 1500), (" 7 ", 7)]
)
def test_a_rate_is_in_bytes_or_megabytes_per_second(text: str, bytes_per_s: float) -> None:
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize(
    "text",
    ["", "0", "0 MB/s", "-1", "20 MB", "20 Mbit/s", "20 mb/s", "20 MiB/s", "1 GB/s", "inf", "1e3"],
)
def test_there_is_no_other_unit_of_rates(text: str) -> None:
    with pytest.raises(ValueError, match="no other unit"):
        parse_rate(text)


def test_sizes_are_decimal() -> None:
    assert [parse_size(t) for t in ("0", "5 GB", "1.5kB", "2TB", "12 B")] == [
        0, 5 * 10**9, 1_500, 2 * 10**12, 12,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="number of bytes"):
        parse_size("5 GiB")


def test_sizes_are_shown_in_three_figures() -> None:
    shown = [size(n) for n in (0, 999, 1_000, 1_234_567, 99_949, 99_951, 999_600, 999_400)]
    assert shown == [
        "0 B", "999 B", "1.00 kB", "1.23 MB", "99.9 kB", "100 kB", "1.00 MB", "999 kB",
    ]  # fmt: skip
    assert rate(20e6) == "20.0 MB/s"


@given(st.integers(0, 10**15))
def test_what_is_shown_is_nearly_what_it_is(count: int) -> None:
    assert abs(parse_size(size(count)) - count) <= max(1, count * 0.006)
