"""What the outbox decides: what fits, and what may be sent without asking first.

The broker drops a second message of one id for as long as its duplicate window lasts. Whatever may
have been stored longer ago than that is looked up in the stream before it is sent again. Pure.
"""

from collections.abc import Mapping, Sequence

import msgspec

__all__ = [
    "Doubt",
    "Limits",
    "Message",
    "Row",
    "doubt",
    "fits",
    "lane",
    "prefix",
    "subject_filters",
]

#: Longest time that one sending goes on under one id, seconds: see `forwarder`.
SENDING_S = 30.0

#: A row counts as outside the window so much earlier, because a sending may go on for a while; but
#: not in more than half of the window.
_MARGIN_NS = int((SENDING_S + 10.0) * 1e9)

#: This host's clock and the broker's may differ by so much.
_SKEW_NS = 300 * 1_000_000_000

#: More subjects than this are asked for as a whole.
_MOST_FILTERS = 64


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be published, with everything fixed that must not change later."""

    subject: str
    id: str
    headers: bytes
    """A JSON object of names and values."""
    body: bytes
    own_id: bool
    """The publisher chose the id, so the same may have been published before."""

    @property
    def bytes(self) -> int:
        """What it counts against the limit."""
        return len(self.subject) + len(self.headers) + len(self.body)


class Row(Message, frozen=True, kw_only=True):
    """A message that waits."""

    seq: int
    created_ns: int
    """When it was published, by this host's clock, nanoseconds since the epoch."""
    sent_ns: int | None = None
    """When it was first sent without its acknowledgement having been seen."""
    clear_ns: int | None = None
    """When the stream was last known not to hold it."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much may wait."""

    messages: int = 1_000_000
    bytes: int = 1024 * 1024 * 1024
    """Subjects, headers and bodies; the file is somewhat larger."""


class Doubt(msgspec.Struct, frozen=True):
    """A row that may be stored already, beyond what the broker remembers."""

    row: Row
    since_ns: int
    """It cannot have been stored before, by this host's clock."""


def lane(subject: str) -> str:
    """The first token of a subject. One stream takes all of a lane, so ids are unique in it."""
    return subject.partition(".")[0]


def fits(limits: Limits, *, waiting: int, bytes: int, more: int, more_bytes: int) -> bool:
    """Whether so many messages more, of so many bytes, may wait too."""
    return waiting + more <= limits.messages and bytes + more_bytes <= limits.bytes


def doubt(row: Row, now_ns: int, windows_s: Mapping[str, float]) -> Doubt | None:
    """What to look up before this row is sent, or None where the broker would notice a second one.

    `windows_s` are the duplicate windows by lane; where one is not known, the answer is cautious.
    A clock that went backwards is no proof of youth.
    """
    window_s = windows_s.get(lane(row.subject))
    if row.sent_ns is not None:
        base_ns, reach_ns = row.sent_ns, 0
    elif not row.own_id:
        return None
    elif row.clear_ns is not None:
        base_ns, reach_ns = row.clear_ns, 0
    else:
        # Published before under this id, perhaps, as long before as the broker would have noticed.
        base_ns, reach_ns = row.created_ns, int((window_s or 0.0) * 1e9)
    if window_s is not None:
        horizon_ns = max(int(window_s * 1e9) - _MARGIN_NS, int(window_s * 5e8))
    else:
        horizon_ns = 0 if row.sent_ns is not None else _MARGIN_NS
    if 0 <= now_ns - base_ns <= horizon_ns:
        return None
    return Doubt(row, base_ns - reach_ns - _SKEW_NS)


def prefix(
    rows: Sequence[Row], now_ns: int, windows_s: Mapping[str, float]
) -> tuple[Sequence[Row], bool]:
    """The rows that may be sent now, in order, and whether a doubtful one follows."""
    for place, row in enumerate(rows):
        if doubt(row, now_ns, windows_s) is not None:
            return rows[:place], True
    return rows, False


def subject_filters(subjects: Sequence[str]) -> tuple[str, ...]:
    """Filters that cover these subjects of one lane and do not overlap."""
    distinct = tuple(dict.fromkeys(subjects))
    if len(distinct) <= _MOST_FILTERS:
        return distinct
    return (f"{lane(distinct[0])}.>",)
