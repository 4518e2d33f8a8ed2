"""Times as they stand on the wire: RFC 3339, in UTC."""

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
    return rfc3339(datetime.fromtimestamp(time_ns // 1_000 / 1_000_000, UTC))
