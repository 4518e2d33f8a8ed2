"""Sizes and rates as people write and read them. Pure.

Bytes, and decimal multiples of bytes. A rate is bytes per second, or a text in MB/s: bits have no
spelling here, so that the two are never taken for one another.
"""

import math
import re
from typing import Final

__all__ = ["parse_rate", "parse_size", "rate", "size"]

_UNITS: Final = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_NUMBER: Final = r"(\d{1,15}(?:\.\d{1,15})?)"


def parse_rate(text: str) -> float:
    """``20 MB/s``, or a number of bytes per second. Raises ValueError for anything else."""
    found = re.fullmatch(rf"{_NUMBER}\s*(MB/s)?", text.strip())
    if found is None or not float(found[1]):
        raise ValueError(
            'has to be a number above 0, in bytes per second, or such as "20 MB/s": there is no '
            "other unit"
        )
    return float(found[1]) * (10**6 if found[2] else 1)


def parse_size(text: str) -> int:
    """``500 MB``, ``1.5GB``, or a number of bytes. Raises ValueError for anything else."""
    found = re.fullmatch(rf"{_NUMBER}\s*({'|'.join(_UNITS)})?", text.strip())
    if found is None:
        raise ValueError(f"has to be a number of bytes, or one with {', '.join(_UNITS)} behind it")
    return math.floor(float(found[1]) * _UNITS[found[2] or "B"])


def size(count: float) -> str:
    """So many bytes, in three figures or so: ``1.23 GB``."""
    if count < 1_000:
        return f"{count:.0f} B"
    unit, factor = "kB", 10**3
    for name, each in _UNITS.items():
        # What would be rounded up to a thousand is one of the next.
        if count >= each * 0.9995:
            unit, factor = name, each
    number = count / factor
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {unit}"


def rate(bytes_per_s: float) -> str:
    """A rate: ``20.0 MB/s``."""
    return f"{size(bytes_per_s)}/s"
