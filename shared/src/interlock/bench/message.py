"""The message that every client sends: the same subject, body and headers for all. Pure."""

from typing import Final

import msgspec

from interlock_schemas import envelope, subjects
from interlock_schemas.contracts import Command
from interlock_schemas.training import TrainingProgressed

__all__ = ["AT_NS", "ECHO", "KEY", "SUBJECT", "body", "headers"]

#: The key of its subject, a training configuration.
KEY: Final = "hex8_2p"
SUBJECT: Final = subjects.event(TrainingProgressed.event_type, KEY)
#: The field that says when a message was meant to be sent, nanoseconds of the monotonic clock.
AT_NS: Final = "at_ns"

#: The command that is asked and answered.
ECHO: Final = Command(
    service="bench",
    verb="echo",
    summary="Answers with what was asked.",
    request=TrainingProgressed,
    reply=TrainingProgressed,
)

_PAYLOAD: Final = {"config": KEY, "epoch": 12, "train_loss": 0.4183, "val_loss": 0.4406}
_SMALLEST: Final = 128


def body(size: int, *, at_ns: int = 0) -> bytes:
    """A training event in JSON of exactly `size` bytes, at least 128. Raises ValueError below."""
    if size < _SMALLEST:
        raise ValueError(f"the smallest body has {_SMALLEST} bytes, not {size}")
    content: dict[str, object] = {**_PAYLOAD, AT_NS: at_ns, "note": ""}
    missing = size - len(msgspec.json.encode(content))
    content["note"] = "x" * missing
    return msgspec.json.encode(content)


def headers(mark: str, number: int) -> dict[str, str]:
    """An id for message `number` of a run: everybody pays for the broker's deduplication."""
    return {envelope.MSG_ID: f"{mark}-{number}"}
