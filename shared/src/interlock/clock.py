"""Times as they stand on the wire: RFC 3339, in UTC."""

import functools
from datetime import UTC, datetime

__all__ = ["now", "rfc3339", "rfc3339_ns"]


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


@functools.lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
