"""Protocol bytes of what is published. Pure.

A publish is encoded once, when it is asked for; what a batch adds to its headers is put in when it
is sent. Names and values that would break the protocol are refused or made harmless here.
"""

import functools
import re
from collections.abc import Mapping

from interlock.errors import PublishRefused

__all__ = ["head_of", "hpub", "subject_bytes"]

#: RFC 9110 field names, as nats-py has them.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN_IN_SUBJECT = re.compile(r"[ \t\r\n]")
_NO_NEWLINES = str.maketrans({"\r": " ", "\n": " "})


@functools.lru_cache(maxsize=8192)
def subject_bytes(subject: str) -> bytes:
    """A subject to publish to. Raises PublishRefused where it is none."""
    if not subject or _FORBIDDEN_IN_SUBJECT.search(subject):
        raise PublishRefused(f"{subject!r} is not a subject", code=400)
    try:
        return subject.encode()
    except UnicodeEncodeError as error:
        raise PublishRefused(f"{subject!r} is not a subject: {error}", code=400) from error


@functools.lru_cache(maxsize=2048)
def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def head_of(headers: Mapping[str, str]) -> bytes:
    """A header block without its closing empty line, so that lines can still be added.

    Line breaks inside a value become spaces. Raises PublishRefused for a name that no client may
    send, and for text that is not Unicode.
    """
    lines = ["NATS/1.0"]
    for name, value in headers.items():
        if not _is_name(name):
            raise PublishRefused(f"{name!r} is not a header name", code=400)
        lines.append(f"{name}: {value}")
    text = "\r\n".join(lines)
    if text.count("\n") >= len(lines) or text.count("\r") >= len(lines):
        text = "\r\n".join(line.translate(_NO_NEWLINES) for line in lines)
    try:
        return text.encode() + b"\r\n"
    except UnicodeEncodeError as error:
        raise PublishRefused(f"a header is not Unicode text: {error}", code=400) from error


def hpub(subject: bytes, reply: bytes, head: bytes, added: bytes, body: bytes) -> bytes:
    """One publish with headers. `added`: further header lines, each with its line end."""
    size = len(head) + len(added) + 2
    return b"HPUB %b %b%b%d %d\r\n%b%b\r\n%b\r\n" % (
        subject,
        reply,
        b" " if reply else b"",
        size,
        size + len(body),
        head,
        added,
        body,
    )
