"""What the broker says of a publish, and which error that is. Pure."""

import re
from typing import Final

import msgspec

from interlock.errors import InterlockError, MessageTooLarge, PublishRefused, WrongRevision

__all__ = [
    "BATCH_DISABLED",
    "BATCH_INCOMPLETE",
    "BATCH_TOO_LONG",
    "DUPLICATE_IN_BATCH",
    "Ack",
    "PubReply",
    "Refusal",
    "error_of",
    "parse_ack",
]

_WRONG_LAST_SEQUENCE: Final = 10071
_TOO_LARGE: Final = 10054
_DUPLICATE_IN_FLIGHT: Final = 10158

#: Error codes of atomic batches (ADR-50).
BATCH_DISABLED: Final = 10174
BATCH_INCOMPLETE: Final = 10176
BATCH_TOO_LONG: Final = 10199
DUPLICATE_IN_BATCH: Final = 10201


class Ack(msgspec.Struct, frozen=True, gc=False):
    """The broker's acknowledgement: the message is stored, and where."""

    stream: str
    seq: int
    duplicate: bool = False
    """The broker had stored a message of that id before."""


class Refusal(msgspec.Struct, frozen=True):
    """The broker's no."""

    code: int = 0
    """HTTP-like status."""
    err_code: int = 0
    """JetStream's own code."""
    description: str = ""


class PubReply(msgspec.Struct, gc=False):
    """The answer to a publish or to the commit of a batch, as it stands on the wire."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    count: int = 0
    """Messages in the batch; 0: no batch."""
    error: Refusal | None = None


_NOT_A_STREAM: Final = Refusal(
    code=400, err_code=400, description="something else than a stream answered"
)

_decode = msgspec.json.Decoder(PubReply).decode


def parse_ack(body: bytes) -> PubReply:
    """Read an answer. What no stream said becomes a refusal."""
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return PubReply(error=_NOT_A_STREAM)
    if answer.error is None and (not answer.stream or answer.seq < 1):
        return PubReply(error=_NOT_A_STREAM)
    return answer


def error_of(subject: str, refusal: Refusal) -> InterlockError | None:
    """The error to raise, or None where the same publish may succeed in a moment."""
    if refusal.err_code == _WRONG_LAST_SEQUENCE:
        last = re.search(r"(\d+)\s*$", refusal.description)
        return WrongRevision(
            f"{subject}: {refusal.description}",
            code=refusal.err_code,
            last=int(last[1]) if last else None,
        )
    if refusal.err_code == _TOO_LARGE:
        return MessageTooLarge(f"{subject}: {refusal.description}")
    if refusal.code == 503 or refusal.err_code == _DUPLICATE_IN_FLIGHT:
        return None
    return PublishRefused(f"{subject}: {refusal.description}", code=refusal.err_code)
