"""Times as they stand on the wire: RFC 3339, in UTC."""

import functools
from datetime import UTC, datetime

__all__ = ["now", "parse_ns", "rfc3339", "rfc3339_ns"]


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


def rfc3339(at: datetime) -> str:
    """Microsecond RFC 3339, always as long, so that text order is time order."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def rfc3339_ns(time_ns: int) -> str:
    """The same from nanoseconds since the epoch."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{nanoseconds // 1_000:06d}Z"


def parse_ns(text: str) -> int:
    """Nanoseconds since the epoch from RFC 3339 in UTC, with up to nine digits of a second.

    Raises ValueError for anything else.
    """
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 1_000_000_000 + int(f"{fraction:0<9}"[:9])


@functools.lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
