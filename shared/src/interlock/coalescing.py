"""How waiting publishes go out: one by one, or as an atomic batch. Pure.

On a stream with one replica a batch is one fsync, but costs about 3 ms to stage, so it pays from
about eight messages on. With three replicas a batch is staged in memory and costs little more
than a single publish. A batch is also what keeps the order of a publisher when things break: it
is stored whole or not at all, so one unit after the other never leaves a gap. Singles that are
under way together keep their order only on a connection that holds, to a stream with one replica.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, Protocol, TypeVar

import msgspec

__all__ = ["BATCH_MESSAGES", "WINDOW", "Facts", "Wait", "decide", "storable_as_one"]

#: The broker's default limit (ADR-50).
BATCH_MESSAGES: Final = 1_000

#: What one group holds, bytes.
_GROUP_BYTES: Final = 16 * 1024 * 1024

#: Fewer than so many go as singles to a stream with one replica.
_WORTH_A_BATCH: Final = 8

#: Singles under way at once to a stream that takes no batches.
WINDOW: Final = 512


class _Sized(Protocol):
    """What has a body and headers."""

    @property
    def body(self) -> bytes:
        """The body."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers."""


SizedT = TypeVar("SizedT", bound=_Sized)


def storable_as_one(messages: Iterable[SizedT]) -> Iterator[list[SizedT]]:
    """Cut a run of messages into groups that the broker can store all or not at all."""
    group: list[SizedT] = []
    size = 0
    for message in messages:
        more = len(message.body) + sum(len(k) + len(v) for k, v in message.headers.items())
        if group and (len(group) == BATCH_MESSAGES or size + more > _GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(message)
        size += more
    if group:
        yield group


class Facts(msgspec.Struct, frozen=True):
    """What is known of the stream behind a lane."""

    atomic: bool | None = None
    """Whether it takes atomic batches; None: not known yet."""
    replicas: int = 1
    batch_messages: int = BATCH_MESSAGES
    """The longest batch that it took so far, or the broker's default."""
    largest_bytes: int = -1
    """The largest message that it takes, headers included; below 1: no limit of its own."""


class Wait(msgspec.Struct, frozen=True):
    """Nothing goes out now."""


def decide(
    facts: Facts, *, waiting: int, singles: int, careful: bool
) -> tuple[Literal["batch", "singles"], int] | Wait:
    """What to send now, and how many.

    `waiting`: publishes that may go, at least 1. `singles`: singles under way. `careful`: after a
    failure or a new connection, until something was acknowledged: one unit at a time.
    """
    atomic = facts.atomic is True
    if facts.atomic is False:
        limit = WINDOW
    elif facts.replicas > 1 or careful or facts.atomic is None:
        limit = 1
    else:
        limit = _WORTH_A_BATCH - 1
    if careful:
        limit = 1
    if atomic and not singles:
        least = 2 if facts.replicas > 1 or careful else _WORTH_A_BATCH
        if waiting >= least:
            return "batch", min(waiting, facts.batch_messages)
    if atomic and singles and singles + waiting > limit:
        # What waits now goes together once those are acknowledged.
        return Wait()
    free = min(waiting, limit - singles)
    return ("singles", free) if free > 0 else Wait()
