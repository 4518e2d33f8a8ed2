"""Key-value buckets: read, compare-and-set, delete and watch.

Reads go to the stream's leader, not to a replica that may lag: what is read is what stands.
A deleted key keeps a marker, so that a watcher that was away learns of it.
"""

import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Mapping

import msgspec

from interlock.bus import ApiError, Bus
from interlock.reader import Reader
from interlock_schemas.topology import Bucket

__all__ = ["Entry", "Store", "decode_message"]


class Entry(msgspec.Struct, frozen=True):
    """One key as it stands."""

    key: str
    value: bytes | None
    """None: deleted, or expired."""
    revision: int
    """What a compare-and-set must name."""


class Store:
    """One bucket on one connection."""

    def __init__(self, bus: Bus, bucket: Bucket) -> None:
        self._bus = bus
        self.bucket = bucket

    async def get(self, key: str) -> Entry:
        """The key as it stands; revision 0 where it never was."""
        subject = self.bucket.key_subject(key)
        try:
            answer = await self._bus.api(
                f"STREAM.MSG.GET.{self.bucket.stream}", {"last_by_subj": subject}
            )
        except ApiError as error:
            if error.code == 404:
                return Entry(key, None, 0)
            raise
        headers, value = decode_message(answer["message"])
        return Entry(key, None if _is_marker(headers) else value, answer["message"]["seq"])

    async def put(self, key: str, value: bytes, *, revision: int, timeout_s: float = 30.0) -> int:
        """Write if the key still stands at `revision` (0: never was). Returns the new revision.

        Raises WrongRevision when somebody else wrote in between.
        """
        ack = await self._bus.publish(
            self.bucket.key_subject(key), value, expected_revision=revision, timeout_s=timeout_s
        )
        return ack.seq

    async def delete(self, key: str, *, revision: int) -> int:
        """Delete if the key still stands at `revision`. Returns the marker's revision.

        Raises WrongRevision when somebody else wrote in between.
        """
        ack = await self._bus.publish(
            self.bucket.key_subject(key), b"", {"KV-Operation": "DEL"}, expected_revision=revision
        )
        return ack.seq

    def _reader(self) -> Reader:
        policy = {"deliver_policy": "last_per_subject"}
        return Reader(self._bus, self.bucket.stream, (self.bucket.subject,), policy)

    async def entries(self) -> list[Entry]:
        """Every key that has a value, as it stands."""
        prefix = len(self.bucket.key_subject(""))
        async with contextlib.aclosing(self._reader().records(until_end=True)) as records:
            return [
                Entry(record.subject[prefix:], record.body, record.seq)
                async for record in records
                if not _is_marker(record.headers)
            ]

    async def watch(self) -> AsyncIterator[Entry | None]:
        """Every key as it stands, then None once, then every change as it comes."""
        prefix = len(self.bucket.key_subject(""))
        async for record in self._reader().follow():
            if record is None:
                yield None
                continue
            value = None if _is_marker(record.headers) else record.body
            yield Entry(record.subject[prefix:], value, record.seq)


def _is_marker(headers: Mapping[str, str]) -> bool:
    """Whether a message says that its key has no value any more."""
    return "KV-Operation" in headers or "Nats-Marker-Reason" in headers


def decode_message(message: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Headers and body of a ``STREAM.MSG.GET`` answer."""
    try:
        body = base64.b64decode(message.get("data", "") or "")
        raw = base64.b64decode(message.get("hdrs", "") or "")
    except binascii.Error as error:
        raise ValueError("the broker's answer is not base64") from error
    headers: dict[str, str] = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.decode(errors="replace").strip()] = value.decode(errors="replace").strip()
    return headers, body
