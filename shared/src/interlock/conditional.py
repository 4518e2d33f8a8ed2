"""Writes that are stored only if what they rest on still stands, several of them as one.

One write is a plain publish, several are an atomic batch; either way one round trip. The condition
is in the headers of the first: the last sequence of a subject, or of all subjects that fit a
filter. What gets no answer is sent again under the same ids until the deadline.
"""

import asyncio
import itertools
import random
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from interlock.acks import BATCH_INCOMPLETE, DUPLICATE_IN_BATCH, Ack, error_of, parse_ack
from interlock.backoff import delay_s
from interlock.errors import InterlockError, NotAcknowledged, PublishRefused, WrongRevision
from interlock.frames import head_of, hpub, subject_bytes
from interlock.headers import parse as parse_headers
from interlock.replies import Answer, Replies
from interlock_schemas import envelope

__all__ = ["ALONE", "PURGE", "Conditional", "Write", "expecting", "living"]

#: Removes what stood on the subject before, so that it stays removed. What merely falls out of a
#: subject's limit leaves no trace on the server's disk: when the server is killed after its
#: successor has gone by its time to live, it is there again.
ALONE: Final[Mapping[str, str]] = {"Nats-Rollup": "sub"}

#: What deletes a key and leaves a marker that goes by itself.
PURGE: Final[Mapping[str, str]] = {"KV-Operation": "PURGE", **ALONE}

#: The broker's word, with several servers, for a condition that it cannot judge at this moment,
#: because another write under the same condition is under way.
_BUSY: Final = 10164
_BUSY_TRIES: Final = 40

_TRY_S: Final = 1.0
_LONGEST_TRY_S: Final = 4.0
_RETRY_BASE_S: Final = 0.002
_RETRY_CAP_S: Final = 0.25


def expecting(last: int, subject: str | None = None) -> dict[str, str]:
    """The headers of a condition: `last` is the last sequence of `subject`, which may have
    wildcards; of the message's own subject where it is None. 0: there is none."""
    headers = {"Nats-Expected-Last-Subject-Sequence": str(last)}
    if subject is not None:
        headers["Nats-Expected-Last-Subject-Sequence-Subject"] = subject
    return headers


def living(ttl_s: int) -> dict[str, str]:
    """The headers of a record that takes the place of the one before and lives so long."""
    return {"Nats-TTL": f"{ttl_s}s", **ALONE}


class Write(msgspec.Struct, frozen=True):
    """One message to be stored."""

    subject: str
    body: bytes
    headers: Mapping[str, str] = {}


class Conditional:
    """The conditional writes of one connection."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._loop = asyncio.get_running_loop()
        self._prefix = secrets.token_hex(8)
        self._ids = itertools.count(1)

    async def commit(self, writes: Sequence[Write], *, timeout_s: float) -> Ack:
        """Store all of it or nothing; the acknowledgement of the last one.

        Its sequence is 0 where the broker says that it had stored them before.

        Raises WrongRevision when a condition does not hold, which after a silence may be because
        an earlier attempt did succeed; PublishRefused; NotAcknowledged at the deadline, when
        nothing is known.
        """
        encoded = [
            (
                subject_bytes(write.subject),
                head_of({**write.headers, envelope.MSG_ID: f"{self._prefix}.{next(self._ids)}"}),
                write.body,
            )
            for write in writes
        ]
        deadline = self._loop.time() + timeout_s
        why = "the broker did not answer"
        busy = 0
        silent = 0
        while (left := deadline - self._loop.time()) > 0:
            patience = min(_LONGEST_TRY_S, _TRY_S * 2**silent, left)
            answer = await self._try(encoded, patience)
            if answer is None:
                if self._replies.closed:
                    why = "the connection is closed; it was not answered"
                    break
                silent += 1
                continue
            result = self._read(writes[0].subject, answer)
            if isinstance(result, Ack):
                return result
            why = str(result)
            if isinstance(result, PublishRefused) and result.code == _BUSY:
                busy += 1
                if busy >= _BUSY_TRIES:
                    raise result
            elif isinstance(result, InterlockError):
                if isinstance(result, WrongRevision):
                    result.unsure = silent > 0
                raise result
            pause = delay_s(busy + 1, base_s=_RETRY_BASE_S, cap_s=_RETRY_CAP_S, rand=random.random)
            await asyncio.sleep(min(pause, max(0.0, deadline - self._loop.time())))
        raise NotAcknowledged(
            f"{writes[0].subject}: {why} within {timeout_s:g} s; it may be stored or not"
        )

    async def _try(
        self, encoded: Sequence[tuple[bytes, bytes, bytes]], patience_s: float
    ) -> Answer | None:
        """Send it once and wait for the answer; None where none came."""
        token, reply = self._replies.question()
        if len(encoded) == 1:
            ((subject, head, body),) = encoded
            frames = hpub(subject, reply, head, b"", body)
        else:
            line = b"Nats-Batch-Id: %b-%d\r\nNats-Batch-Sequence: " % (
                self._prefix.encode(),
                token,
            )
            *before, (subject, head, body) = encoded
            frames = b"".join(
                hpub(each[0], b"", each[1], b"%b%d\r\n" % (line, number), each[2])
                for number, each in enumerate(before, 1)
            ) + hpub(
                subject,
                reply,
                head,
                b"%b%d\r\nNats-Batch-Commit: 1\r\n" % (line, len(encoded)),
                body,
            )
        return await self._replies.ask(token, frames, patience_s)

    def _read(self, subject: str, answer: Answer) -> Ack | InterlockError | str:
        """What an answer says; a string is why it is worth another try."""
        headers, body = answer
        if headers and not body and parse_headers(headers).get("Status") == "503":
            return "no stream takes it at this moment; has `interlock setup` been run?"
        reply = parse_ack(body)
        if reply.error is None:
            return Ack(reply.stream, reply.seq, reply.duplicate)
        if reply.error.err_code == DUPLICATE_IN_BATCH:
            return Ack("", 0, duplicate=True)
        if reply.error.err_code == BATCH_INCOMPLETE:
            return reply.error.description
        return error_of(subject, reply.error) or reply.error.description
