"""Reads a trace of the broker's system calls: was it on disk before it was acknowledged? Pure.

Lines as ``strace -f -y`` writes them. What counts is a stream's own blocks: a batch's staging
files may be synced as well, which says nothing of the stream.
"""

import re
from collections.abc import Iterable

import msgspec

__all__ = ["SyncOrder", "sync_order"]

_CALL = re.compile(r"^(?P<thread>\d+)\s+(?:[\d:.]+\s+)?(?P<rest>.*)$")
_WRITE = re.compile(r"^(?:pwrite64|write|writev|pwritev)\(\d+<(?P<path>[^>]*)>")
_SYNC = re.compile(r"^(?:fsync|fdatasync)\(\d+<(?P<path>[^>]*)>")
_RESUMED = re.compile(r"^<\.\.\. (?:fsync|fdatasync) resumed>")
_SOCKET = re.compile(r"^(?:write|writev|sendto|sendmsg)\(\d+<(?:socket|TCP)")


class SyncOrder(msgspec.Struct, frozen=True):
    """What the trace shows."""

    acknowledgements: int
    """Acknowledgements of the stream that went out."""
    writes: int
    """Writes to the stream's blocks."""
    syncs: int
    """Completed syncs of the stream's blocks."""
    too_early: int
    """Acknowledgements that went out while something written was not synced yet."""


def sync_order(lines: Iterable[str], stream: str) -> SyncOrder:
    """Follow writes, syncs and acknowledgements of one stream through a trace.

    The publisher must wait for each acknowledgement before it publishes again, so that what is
    not synced belongs to what is being acknowledged.
    """
    blocks = re.compile(rf"/streams/{re.escape(stream)}/msgs/[^>]*\.blk$")
    told = f'\\"stream\\":\\"{stream}\\"'
    acknowledgements = writes = syncs = too_early = 0
    dirty = False
    syncing: set[str] = set()
    for line in lines:
        found = _CALL.match(line)
        if found is None:
            continue
        thread, rest = found["thread"], found["rest"]
        if _SOCKET.match(rest):
            if told in rest:
                acknowledgements += 1
                too_early += dirty
            continue
        if (sync := _SYNC.match(rest)) and blocks.search(sync["path"]):
            if rest.endswith("<unfinished ...>"):
                syncing.add(thread)
                continue
            syncs += 1
            dirty = False
        elif _RESUMED.match(rest) and thread in syncing:
            syncing.discard(thread)
            syncs += 1
            dirty = False
        elif (write := _WRITE.match(rest)) and blocks.search(write["path"]):
            writes += 1
            dirty = True
    return SyncOrder(acknowledgements, writes, syncs, too_early)
