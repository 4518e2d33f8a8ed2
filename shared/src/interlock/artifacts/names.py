"""Which names a file of an artifact may have. Pure.

A name comes from another host and becomes a path on this one, so what could lead out of an
artifact's folder, or means something else elsewhere, is refused. Spaces, newlines, other scripts
and leading dashes are fine.
"""

from typing import Final

from interlock.artifacts.errors import ArtifactError

__all__ = ["LONGEST_PART_BYTES", "LONGEST_PATH_BYTES", "NameRefused", "check", "problem"]

LONGEST_PART_BYTES: Final = 255
#: With room for the folders above it within the 4,096 bytes that the system allows.
LONGEST_PATH_BYTES: Final = 3_072


class NameRefused(ArtifactError):
    """A file cannot be called so."""


def problem(path: str) -> str | None:
    """What is wrong with a relative path, with ``/`` between its parts; None: nothing."""
    if not path:
        return "it is empty"
    if "\0" in path:
        return "it has a NUL character"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "it is no UTF-8 text"
    if len(encoded) > LONGEST_PATH_BYTES:
        return f"it has more than {LONGEST_PATH_BYTES:,} bytes"
    if path.startswith("/"):
        return "it is absolute"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return f"it has a part {part!r}"
        if len(part.encode()) > LONGEST_PART_BYTES:
            return f"a part of it has more than {LONGEST_PART_BYTES} bytes"
    return None


def check(path: str) -> None:
    """Raise NameRefused where `path` may not be the name of a file."""
    why = problem(path)
    if why is not None:
        raise NameRefused(f"the name {path[:200]!r} is refused: {why}")
