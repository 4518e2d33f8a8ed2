"""What a fence decides: whether a token is admitted, and what its record on disk says.

Reading, writing and locking the files is left to `interlock.locks.fence`. Pure.
"""

import hashlib
import re
import zlib
from typing import Literal

import msgspec

__all__ = ["MAX_TOKEN", "Admission", "admit", "check_token", "decode", "encode", "file_stem"]

#: Tokens are sequences of a stream, which are unsigned and have 64 bits.
MAX_TOKEN = 2**64 - 1

Admission = Literal["stale", "known", "higher"]

_UNREADABLE = re.compile(r"[^a-z0-9]+")
_READABLE_CHARACTERS = 40


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    format: Literal[1]
    resource: str
    token: int
    check: int


def check_token(token: object) -> int:
    """The token, if it is one: 1 to 2^64 - 1.

    Raises TypeError for anything but an int (True is none), ValueError outside of the range.
    """
    if not isinstance(token, int) or isinstance(token, bool):
        raise TypeError(
            f"a fencing token is an int, such as lease.token, not {type(token).__name__} {token!r}"
        )
    if not 1 <= token <= MAX_TOKEN:
        raise ValueError(f"a fencing token lies between 1 and 2^64 - 1: {token} was never given")
    return token


def admit(highest: int, shown: int) -> Admission:
    """Whether a writer that shows this token may write, where ``highest`` was seen before.

    "known": the holder that wrote last writes again. "higher": it has to be recorded first.
    """
    if shown < highest:
        return "stale"
    return "known" if shown == highest else "higher"


def file_stem(resource: str) -> str:
    """The name of a resource's files: its hash, after as much of it as a person can use.

    Letters, digits and dashes in lower case, 105 at most, so it means the same on every file system
    and leads out of no folder. Names are told apart by their characters: ``a/b`` and ``a//b`` are
    two resources.

    Raises TypeError for what is no text, ValueError for an empty name and for text that is not
    valid Unicode.
    """
    if not isinstance(resource, str):
        raise TypeError(f"a resource is named by text, not by {type(resource).__name__}")
    if not resource:
        raise ValueError("the resource has no name: is a variable unset?")
    try:
        whole = hashlib.sha256(resource.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the resource's name {resource!r} is not valid Unicode: use one that is"
        ) from error
    readable = _UNREADABLE.sub("-", resource.lower())[:_READABLE_CHARACTERS].strip("-")
    return f"{readable}-{whole}" if readable else whole


def encode(resource: str, token: int) -> bytes:
    """The record that this is the highest token seen."""
    return msgspec.json.encode(_Record(1, resource, token, _checksum(resource, token)))


def decode(data: bytes, resource: str) -> int:
    """The highest token seen. Raises ValueError, which says why, for any but a whole record."""
    try:
        record = msgspec.json.decode(data, type=_Record)
    except msgspec.DecodeError as error:
        raise ValueError(f"it is no whole record ({error})") from error
    if record.check != _checksum(record.resource, record.token):
        raise ValueError("its checksum is wrong")
    if record.resource != resource:
        raise ValueError(f"it is the record of {record.resource!r}")
    try:
        return check_token(record.token)
    except ValueError as error:
        raise ValueError(f"its token is none ({error})") from error


def _checksum(resource: str, token: int) -> int:
    return zlib.crc32(f"{token} {resource}".encode())
