"""Times as they stand in records (RFC 3339, UTC) and as decisions need them."""

from datetime import UTC, datetime

__all__ = ["parse", "seconds_until", "stands", "text"]


def text(at: datetime) -> str:
    """RFC 3339 with microseconds, in UTC."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def parse(rfc: str | None) -> datetime | None:
    """The time that a text names; None where it names none."""
    if not rfc:
        return None
    try:
        at = datetime.fromisoformat(rfc)
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def seconds_until(rfc: str | None, now: datetime) -> float | None:
    """Seconds from `now` until then, negative where it is past. None where no time is named."""
    at = parse(rfc)
    return None if at is None else (at - now).total_seconds()


def stands(until: str | None, now: datetime) -> bool:
    """Whether what holds until then still holds: without an end, or before it."""
    left = seconds_until(until, now)
    return left is None or left > 0
