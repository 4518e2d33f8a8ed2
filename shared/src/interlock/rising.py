"""Buckets whose revisions rise for ever, whatever becomes of their stream.

A fencing token is a revision. Made anew, such a bucket begins to count at the clock, above all that
came before. Brought back from a backup it would count on from where it stood then, and hand tokens
out a second time: the broker tells such a stream from the one that was made by its creation time,
which the bucket keeps a record of. `ensure`, which `interlock setup` calls, then makes it anew and
carries over what is not bound to a lease; until then no service works on it.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, Literal

import msgspec

from interlock import logs
from interlock.bus import ApiError, Bus
from interlock.conditional import ALONE, Write, expecting
from interlock.errors import ContractBroken, WrongRevision
from interlock.kv import Store
from interlock.reader import Reader, Record
from interlock_schemas.topology import Bucket

__all__ = ["Standing", "ensure", "standing", "verify"]

#: ``new``: nothing was noted about it yet. ``restored``: it is not the stream that was made.
Standing = Literal["missing", "new", "as_made", "restored"]

_ABOUT: Final = "about"
_DONE: Final = "done"
#: What is carried over; the rest of it are claims, and nobody who held one then holds it now.
_KEPT: Final = "state.>"
_TIMEOUT_S: Final = 30.0

log = logs.get_logger("interlock.setup")


class _About(msgspec.Struct):
    """What a bucket notes about itself, under the key ``about``."""

    created: str
    """The creation time of its stream, as the broker writes it."""


async def _created(bus: Bus, stream: str) -> str | None:
    try:
        return str((await bus.api(f"STREAM.INFO.{stream}"))["created"])
    except ApiError as error:
        if error.code == 404:
            return None
        raise


async def standing(bus: Bus, bucket: Bucket) -> Standing:
    """Whether a bucket's stream is the one that was made."""
    created = await _created(bus, bucket.stream)
    if created is None:
        return "missing"
    entry = await Store(bus, bucket).get(_ABOUT)
    if entry.value is None:
        return "new"
    try:
        about = msgspec.json.decode(entry.value, type=_About)
    except msgspec.DecodeError:
        return "restored"
    return "as_made" if about.created == created else "restored"


async def verify(bus: Bus, bucket: Bucket) -> None:
    """Raise ContractBroken unless the bucket's revisions are sure to rise."""
    found = await standing(bus, bucket)
    if found == "restored":
        raise ContractBroken(
            f"bucket {bucket.name} was restored from a backup, so it would hand out fencing tokens "
            "a second time: run `interlock setup`, which makes it anew and carries its state over"
        )
    if found != "as_made":
        raise ContractBroken(f"bucket {bucket.name} was not set up: run `interlock setup`")


async def ensure(bus: Bus, bucket: Bucket, config: Mapping[str, Any]) -> bool:
    """Have the bucket's revisions rise; whether it was made anew. Idempotent, also when killed.

    `config`: what its stream is made with, ``first_seq`` included. What is carried over waits in a
    stream of its own until the new bucket has all of it.
    """
    found = await standing(bus, bucket)
    if found == "as_made":
        await _delete(bus, _carrier(bucket))
        return False
    if found == "restored":
        log.warning("restored from a backup, made anew", bucket=bucket.name)
        await _carry_out(bus, bucket, config)
        await _delete(bus, bucket.stream)
        await bus.api(f"STREAM.CREATE.{bucket.stream}", dict(config))
    await _carry_in(bus, bucket)
    created = await _created(bus, bucket.stream)
    about = Write(
        bucket.key_subject(_ABOUT), msgspec.json.encode(_About(created=created or "")), ALONE
    )
    await bus.commit([about], timeout_s=_TIMEOUT_S)
    await _delete(bus, _carrier(bucket))
    return found == "restored"


def _carrier(bucket: Bucket) -> str:
    return f"{bucket.stream}_carried"


def _carried(bucket: Bucket, key: str) -> str:
    return f"carried.{bucket.name}.{key}"


async def _carry_out(bus: Bus, bucket: Bucket, config: Mapping[str, Any]) -> None:
    carrier = _carrier(bucket)
    if await _is_complete(bus, bucket):
        return
    await _delete(bus, carrier)
    await bus.api(
        f"STREAM.CREATE.{carrier}",
        {
            "name": carrier,
            "subjects": [_carried(bucket, ">")],
            "storage": "file",
            "max_msgs_per_subject": 1,
            "num_replicas": config.get("num_replicas", 1),
        },
    )
    prefix = len(bucket.key_subject(""))
    async for record in _last(bus, bucket.stream, bucket.key_subject(_KEPT)):
        key = record.subject[prefix:]
        await bus.commit(
            [Write(_carried(bucket, key), record.body, _own(record))], timeout_s=_TIMEOUT_S
        )
    await bus.commit([Write(_carried(bucket, _DONE), b"", {})], timeout_s=_TIMEOUT_S)


async def _is_complete(bus: Bus, bucket: Bucket) -> bool:
    try:
        await bus.api(
            f"STREAM.MSG.GET.{_carrier(bucket)}", {"last_by_subj": _carried(bucket, _DONE)}
        )
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return True


async def _carry_in(bus: Bus, bucket: Bucket) -> None:
    if not await _is_complete(bus, bucket):
        return
    prefix = len(_carried(bucket, ""))
    async for record in _last(bus, _carrier(bucket), _carried(bucket, _KEPT)):
        subject = bucket.key_subject(record.subject[prefix:])
        write = Write(subject, record.body, {**_own(record), **ALONE, **expecting(0)})
        try:
            await bus.commit([write], timeout_s=_TIMEOUT_S)
        except WrongRevision:
            log.info("carried over already", key=subject)


async def _last(bus: Bus, stream: str, subject: str) -> AsyncGenerator[Record, None]:
    reader = Reader(bus, stream, (subject,), {"deliver_policy": "last_per_subject"})
    async for record in reader.records(until_end=True):
        yield record


def _own(record: Record) -> dict[str, str]:
    """The headers that are not the broker's business."""
    return {name: value for name, value in record.headers.items() if not name.startswith("Nats-")}


async def _delete(bus: Bus, stream: str) -> None:
    try:
        await bus.api(f"STREAM.DELETE.{stream}")
    except ApiError as error:
        if error.code != 404:
            raise
