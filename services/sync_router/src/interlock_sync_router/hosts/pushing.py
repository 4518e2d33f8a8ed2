"""What is still to be sent to a host, and whether what is there is what it should be. Pure.

That a file has its size says nothing but that it need not be sent again yet: what counts are the
digests that the host itself computes when everything is there.
"""

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from interlock.artifacts import layout
from interlock_schemas.artifacts import FileEntry, Manifest
from interlock_sync_router.hosts.scripts import Found

__all__ = ["LARGE_BYTES", "Append", "Outstanding", "contents", "judge", "outstanding"]

#: A file with more is sent by itself, and goes on where it broke off.
LARGE_BYTES: Final = 32 * 1024 * 1024

_FILES: Final = layout.FILES.encode() + b"/"


class Append(msgspec.Struct, frozen=True):
    """A file of which the rest is to be sent."""

    file: FileEntry
    offset: int


class Outstanding(msgspec.Struct, frozen=True):
    """What is to be sent."""

    together: tuple[FileEntry, ...]
    alone: tuple[Append, ...]


def outstanding(
    manifest: Manifest, sizes: Mapping[bytes, int], wrong: Collection[bytes] = ()
) -> Outstanding:
    """What is missing where files have these sizes; all of those that are `wrong`.

    A small file that can be executed is always sent: its mode is the last that it gets.
    """
    together = []
    alone = []
    for file in manifest.files:
        path = file.path.encode()
        there = None if path in wrong else sizes.get(path)
        if file.size > LARGE_BYTES:
            if there != file.size:
                offset = there if there is not None and there < file.size else 0
                alone.append(Append(file, offset))
        elif there != file.size or file.executable:
            together.append(file)
    return Outstanding(tuple(together), tuple(alone))


def judge(manifest: Manifest, id: str, found: Found) -> dict[bytes, str]:
    """What is wrong with what was found, by path relative to the folder of the artifact."""
    wanted = {_FILES + file.path.encode(): file.sha256 for file in manifest.files}
    wanted[layout.MANIFEST.encode()] = id
    wrong = dict.fromkeys(found.strange, "is neither a file nor a folder")
    for path, digest in found.digests.items():
        if path not in wanted:
            wrong[path] = "does not belong there"
        elif digest != wanted[path]:
            wrong[path] = f"has digest {digest}, and should have {wanted[path]}"
    for path in wanted:
        if path not in found.digests and path not in wrong:
            wrong[path] = "is missing"
    return wrong


def contents(wrong: Collection[bytes]) -> set[bytes]:
    """Of paths as `judge` has them, those of content, as a manifest has them."""
    return {path.removeprefix(_FILES) for path in wrong if path.startswith(_FILES)}
