"""On what kind of file system a path is, as far as the kernel tells."""

import os
import re
from pathlib import Path

__all__ = ["file_system", "is_shared"]

_TABLE = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(rb"\\([0-7]{3})")

#: File systems that several hosts write to. Each takes a lock away from a client that it has not
#: heard of for a while, or knows no locks between hosts at all.
_SHARED = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs"),
        *("ceph", "lustre", "beegfs", "gpfs", "glusterfs", "gfs2", "ocfs2", "orangefs", "pvfs2"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.moosefs"),
        *("fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.juicefs", "fuse.mount-s3"),
        *("fuse.goofys", "fuse.geesefs", "fuse.blobfuse", "fuse.blobfuse2", "fuse.davfs"),
    }
)


def is_shared(kind: str) -> bool:
    """Whether a file system of this kind is known to be shared between hosts."""
    return kind in _SHARED


def kind_at(table: bytes, path: Path) -> str | None:
    """The kind that the mount table (of Linux, mountinfo) gives an absolute path without links.

    None where the table covers the path by nothing.
    """
    found: tuple[int, str] | None = None
    for line in table.splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        if len(fields) < 5 or not after:
            continue
        point = Path(os.fsdecode(_ESCAPE.sub(lambda m: bytes([int(m[1], 8)]), fields[4])))
        depth = len(point.parts)
        # A later mount on the same point covers the one before.
        if path.is_relative_to(point) and (found is None or depth >= found[0]):
            found = depth, os.fsdecode(after.split(b" ")[0])
    return found[1] if found else None


def file_system(path: Path) -> str | None:
    """The kind of file system of a path that exists: "ext4", "nfs4". None where nothing tells."""
    try:
        table = _TABLE.read_bytes()
    except OSError:
        return None
    return kind_at(table, path.resolve())
