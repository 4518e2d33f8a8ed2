"""Dead letters after their capture: replayed, resolved or discarded.

A letter itself is a message of the dead-letter stream, not an event. The counting events at the end
are the predecessor's, whose queue reported totals instead of letters.
"""

from typing import ClassVar

from interlock_schemas.event import Event, open_type, typed

__all__ = ["TYPES", "LetterDiscarded", "LetterReplayed", "LetterResolved"]


class LetterReplayed(Event, frozen=True, kw_only=True):
    """A dead letter was sent again to the consumer that failed it; emitted by the dead-letter
    queue."""

    event_type: ClassVar[str] = "letter.replayed"

    letter: str
    """Identifier of the dead letter."""
    service: str
    """Service whose consumer failed the message."""
    consumer: str
    hop: int
    """Which replay of this letter it is, counted from 1."""
    by: str | None = None
    """Operator who ordered it; None for an automatic replay."""
    reason: str | None = None


class LetterResolved(Event, frozen=True, kw_only=True):
    """A replayed dead letter was handled this time; emitted by the consumer that handled it."""

    event_type: ClassVar[str] = "letter.resolved"

    letter: str
    """Identifier of the dead letter."""
    service: str
    """Service whose consumer handled the message."""
    consumer: str
    hop: int
    """Which replay of this letter succeeded, counted from 1."""


class LetterDiscarded(Event, frozen=True, kw_only=True):
    """A dead letter was given up on purpose and will not be replayed; emitted by the dead-letter
    queue."""

    event_type: ClassVar[str] = "letter.discarded"

    letter: str
    """Identifier of the dead letter."""
    service: str
    """Service whose consumer failed the message."""
    consumer: str
    reason: str
    by: str | None = None
    """Operator who ordered it; None where a retention rule did."""


TYPES = (
    typed(LetterReplayed),
    typed(LetterResolved),
    typed(LetterDiscarded),
    open_type(
        "letter.staleness_detected",
        "Dead letters have waited longer than the limit for somebody to act; emitted by whoever "
        "watches the age of the dead-letter queue.",
    ),
    open_type(
        "letter.batch_replayed",
        "A round of replays ended, with the number of letters recovered; emitted by a dead-letter "
        "queue that reports rounds instead of letters.",
    ),
    open_type(
        "letter.batch_purged",
        "Finished or expired letters were removed in one go; emitted by a dead-letter queue that "
        "reports rounds instead of letters.",
    ),
)
