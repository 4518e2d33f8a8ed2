"""Dead letters: what one says, how it travels, how its life is recorded, and the commands on it.

On the wire a letter's body is the original body, byte for byte. What is known about it rides in
``letter-…`` headers, and the original headers stand beside them under ``original-…``: any NATS
tool can read a letter, and nothing of the original is lost or acted upon by the broker.
"""

import base64
import enum
import hashlib
import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from interlock_schemas import envelope
from interlock_schemas.contracts import Command

__all__ = [
    "COUNT",
    "DISCARD",
    "LIST",
    "REPLAY",
    "SERVICE",
    "SHOW",
    "Code",
    "CountLetters",
    "DeadLetter",
    "DiscardLetters",
    "FailureClass",
    "LetterCounts",
    "LetterDetail",
    "LetterFilter",
    "LetterPage",
    "LetterRecord",
    "LettersReport",
    "ListLetters",
    "Replay",
    "ReplayLetters",
    "ShowLetter",
    "Status",
    "Step",
    "letter_id",
    "read_letter",
    "replay_of",
    "write_letter",
]

SERVICE = "dead-letter-queue"

FailureClass = Literal["permanent", "exhausted", "poison"]
Status = Literal["open", "replayed", "resolved", "discarded"]

_META = "letter-"
_ORIGINAL = "original-"


class Code(enum.StrEnum):
    """Why a message became a letter. A closed set."""

    UNKNOWN_NAME = "unknown_name"
    """No canonical type goes by that legacy name: add a mapping, then replay."""
    UNDECODABLE = "undecodable"
    """The body is not JSON (or not what its content type says)."""
    INVALID = "invalid"
    """The payload does not fit the schema of its type."""
    TOO_LARGE = "too_large"
    """The message cannot be passed on within the broker's size limit."""
    REJECTED = "rejected"
    """The handler said that no retry will help."""
    HANDLER_FAILED = "handler_failed"
    """The handler raised on every attempt."""
    TIMED_OUT = "timed_out"
    """The handler was still running at its time limit on the last attempt."""
    UNFENCED = "unfenced"
    """It was written under no lock, and its consumer takes nothing else."""
    STALE_TOKEN = "stale_token"  # noqa: S105
    """It was written under a lock that somebody else has been granted since."""
    POISON = "poison"
    """Delivered again and again and never finished: it seems to kill whoever takes it."""

    @property
    def failure_class(self) -> FailureClass:
        """Whether a retry could ever have helped, was tried in vain, or is dangerous."""
        if self in (Code.HANDLER_FAILED, Code.TIMED_OUT):
            return "exhausted"
        return "poison" if self is Code.POISON else "permanent"


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that could not be handled, with its original bytes and headers, and why."""

    id: str
    code: Code
    reason: str
    """One sentence for the person who reads it."""
    service: str
    consumer: str
    message_id: str
    """Identity of the original, unchanged by redelivery and replay."""
    subject: str
    stream: str
    stream_seq: int
    attempts: int
    """Deliveries to this consumer, this one included."""
    first_at: str
    """When the original was stored (RFC 3339)."""
    last_at: str
    """When the last attempt failed (RFC 3339)."""
    hop: int = 0
    """How often it was replayed before."""
    name: str = ""
    """The event type or the legacy name, where one could be read."""
    error: str = ""
    """The exception and the end of its traceback, where there was one."""
    suggestions: tuple[str, ...] = ()
    traceparent: str = ""
    headers: dict[str, str] = {}
    """The original headers; of a name that repeats, the first."""
    raw_headers: bytes = b""
    """The original header block, where `headers` does not tell all of it."""
    body: bytes = b""
    """The original body."""


_META_FIELDS = tuple(
    field
    for field in msgspec.structs.fields(DeadLetter)
    if field.name not in ("headers", "raw_headers", "body", "suggestions")
)


def letter_id(consumer: str, message_id: str, body: bytes) -> str:
    """The id of the letter that a consumer writes for a message: the same for each attempt."""
    digest = hashlib.sha256(f"{consumer}\0{message_id}\0".encode(errors="surrogatepass") + body)
    return digest.hexdigest()[:16]


class Replay(msgspec.Struct, frozen=True):
    """What a replayed message says of itself."""

    letter: str
    consumer: str
    """The one that it is for."""
    hop: int


def replay_of(headers: Mapping[str, str], message_id: str, body: bytes) -> Replay | None:
    """The replay that a message is, or None where it is none.

    The letter's id is made from the message, so headers that a stranger wrote, or that came along
    with a message they do not belong to, do not count.
    """
    letter = envelope.lookup(headers, envelope.REPLAY_OF)
    consumer = envelope.lookup(headers, envelope.REPLAY_FOR)
    hop = envelope.lookup(headers, envelope.REPLAY_HOP)
    if letter is None or consumer is None or hop is None or not re.fullmatch("[0-9]{1,3}", hop):
        return None
    if letter != letter_id(consumer, message_id, body):
        return None
    return Replay(letter, consumer, int(hop))


def write_letter(letter: DeadLetter) -> tuple[dict[str, str], bytes]:
    """The headers and the body that carry a letter."""
    headers = {
        _header(field.name): envelope.escape(str(value))
        for field in _META_FIELDS
        if (value := getattr(letter, field.name)) != "" or field.required
    }
    if letter.suggestions:
        headers[_header("suggestions")] = envelope.escape(
            msgspec.json.encode(letter.suggestions).decode()
        )
    headers |= {
        f"{_ORIGINAL}{envelope.escape_name(name)}": value for name, value in letter.headers.items()
    }
    if letter.raw_headers:
        headers[_header("raw_headers")] = base64.b64encode(letter.raw_headers).decode()
    if letter.traceparent:
        headers[envelope.TRACEPARENT] = envelope.escape(letter.traceparent)
    headers[envelope.MSG_ID] = envelope.escape(f"{letter.id}.{letter.hop}")
    return headers, letter.body


def read_letter(headers: Mapping[str, str] | None, body: bytes) -> DeadLetter:
    """The letter that a message carries.

    Raises msgspec.DecodeError when the headers are not those of a letter.
    """
    known = {name.lower(): value for name, value in (headers or {}).items()}
    fields: dict[str, object] = {}
    for field in _META_FIELDS:
        value = known.get(_header(field.name))
        if value is not None:
            fields[field.name] = envelope.unescape(value)
    suggestions = known.get(_header("suggestions"))
    if suggestions is not None:
        fields["suggestions"] = msgspec.json.decode(
            envelope.unescape(suggestions), type=tuple[str, ...]
        )
    fields["headers"] = {
        envelope.unescape(name[len(_ORIGINAL) :]): value
        for name, value in (headers or {}).items()
        if name.lower().startswith(_ORIGINAL)
    }
    fields["raw_headers"] = known.get(_header("raw_headers"), "")
    letter = msgspec.convert(fields, DeadLetter, strict=False)
    return msgspec.structs.replace(letter, body=body)


def _header(field: str) -> str:
    return f"{_META}{field.replace('_', '-')}"


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry in the history of a letter."""

    at: str
    did: Literal["died", "replayed", "resolved", "discarded"]
    hop: int
    by: str = ""
    reason: str = ""


class LetterRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The life of one letter, as the bucket keeps it. Bytes and headers stay in the stream."""

    id: str
    status: Status
    code: Code
    reason: str
    service: str
    consumer: str
    message_id: str
    subject: str
    stream: str
    stream_seq: int
    letter_seq: int
    """Where the letter stands in the stream of letters."""
    attempts: int
    first_at: str
    last_at: str
    body_bytes: int
    hop: int = 0
    name: str = ""
    error: str = ""
    traceparent: str = ""
    suggestions: tuple[str, ...] = ()
    history: tuple[Step, ...] = ()


class LetterFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which letters. What is left out does not filter."""

    status: Status | None = None
    code: Code | None = None
    service: str | None = None
    consumer: str | None = None
    name: str | None = None
    """Event type or legacy name, any spelling of case."""
    subject: str | None = None
    """A subject or the beginning of one."""
    since: str | None = None
    """Died at or after this time (RFC 3339)."""


class ListLetters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for one page of letters, newest first."""

    filter: LetterFilter = LetterFilter()
    limit: int = 50
    after: str | None = None
    """Go on behind this cursor, taken from the page before."""


class LetterPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of letters."""

    letters: tuple[LetterRecord, ...]
    total: int
    """How many letters fit the filter in all."""
    next: str | None = None


class ShowLetter(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for one letter; the beginning of its id is enough where it is unique."""

    id: str


class LetterDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One letter with everything."""

    record: LetterRecord
    headers: dict[str, str]
    body: bytes
    """The original body; base64 in JSON."""
    text: str | None
    """The body as text, where it is UTF-8."""
    raw_headers: bytes = b""
    """The original header block, where `headers` does not tell all of it; base64 in JSON."""


class ReplayLetters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Send letters back to where they came from. With ids or with a filter, not with both."""

    ids: tuple[str, ...] = ()
    filter: LetterFilter | None = None
    limit: int = 200
    """At most so many in this request; ask again while `remaining` is not 0."""
    by: str = ""
    reason: str = ""


class DiscardLetters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Close letters for good. With ids or with a filter, not with both."""

    reason: str
    ids: tuple[str, ...] = ()
    filter: LetterFilter | None = None
    limit: int = 200
    by: str = ""


class LettersReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of each letter that a command was asked to act on."""

    done: tuple[str, ...]
    unchanged: tuple[str, ...]
    """Already as asked."""
    refused: dict[str, str]
    """Id to reason."""
    remaining: int
    """Letters that fit the filter and were not reached."""


class CountLetters(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for the figures."""


class LetterCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many letters there are, by status, code and service."""

    by_status: dict[str, int]
    open_by_code: dict[str, int]
    open_by_service: dict[str, int]


LIST = Command(
    service=SERVICE, verb="list", summary="Page through letters.",
    request=ListLetters, reply=LetterPage,
)  # fmt: skip
SHOW = Command(
    service=SERVICE, verb="show", summary="One letter with its bytes, headers and history.",
    request=ShowLetter, reply=LetterDetail,
)  # fmt: skip
REPLAY = Command(
    service=SERVICE, verb="replay", summary="Send letters back to where they came from.",
    request=ReplayLetters, reply=LettersReport,
)  # fmt: skip
DISCARD = Command(
    service=SERVICE, verb="discard", summary="Close letters for good, with a reason.",
    request=DiscardLetters, reply=LettersReport,
)  # fmt: skip
COUNT = Command(
    service=SERVICE, verb="count", summary="How many letters, by status, code and service.",
    request=CountLetters, reply=LetterCounts,
)  # fmt: skip
