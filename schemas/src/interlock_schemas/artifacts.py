"""Artifacts on the wire: what they are, who has a verified copy, what is asked of an agent's store.

An artifact is immutable: a manifest of files, each with its digest. Its id is the digest of the
manifest, so that whoever has the id can check every byte. Where copies are is known from receipts
alone, which the holder of a copy writes once the copy stands under its final name.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from interlock_schemas import subjects
from interlock_schemas.nodes import AGENT, Count, Instance, Name, Seconds, Short, Text

__all__ = [
    "CHUNK_BYTES",
    "LARGEST_MANIFEST_BYTES",
    "LARGEST_READ_BYTES",
    "READ_VERB",
    "Artifact",
    "Copy",
    "CopyState",
    "Dataset",
    "Digest",
    "FileEntry",
    "Kind",
    "Manifest",
    "Part",
    "Read",
    "StoreReport",
    "Transport",
    "artifact_key",
    "artifact_keys",
    "copy_key",
    "copy_keys",
    "read_subject",
    "store_key",
]

#: A file that is larger has a digest for each piece of this size as well.
CHUNK_BYTES: Final = 8 * 1024 * 1024
#: A manifest with more is refused: seal the folder in parts.
LARGEST_MANIFEST_BYTES: Final = 64 * 1024 * 1024
#: The most that one request to read may ask for.
LARGEST_READ_BYTES: Final = 1024 * 1024

#: An agent is asked for bytes of an artifact under this verb.
READ_VERB: Final = "read"

#: SHA-256 in hexadecimal, as ``sha256sum`` prints it.
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]

#: What kind of data: ``games``, ``models``, ``checkpoints``, ``npz``, ``ratings``, …
Dataset = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9_-]{0,63}\Z")]

#: ``sqlite``: a database, sealed by its own online backup. ``segment``: what a growing log gained.
Kind = Literal["file", "folder", "sqlite", "segment"]

#: How bytes travel. ``exec``: out of a command over SSH. ``rsync``, ``sftp``: over SSH as well.
#: ``relay``: in requests through the broker. ``object``: from a store at the broker.
Transport = Literal["exec", "rsync", "sftp", "relay", "object"]

#: ``held``: verified. ``damaged``: it was, and is not what it should be any more. ``dropped``: a
#: tombstone.
CopyState = Literal["held", "damaged", "dropped"]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of an artifact."""

    path: Annotated[str, Meta(min_length=1, max_length=4_096)]
    """Relative, with ``/`` between; see `interlock.artifacts.names` for what is refused."""
    size: Count
    sha256: Digest
    executable: bool = False
    chunks: tuple[Digest, ...] = ()
    """Of each piece of `CHUNK_BYTES`, the last one being shorter. Empty for a file of one piece."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an artifact consists of. Its canonical JSON is what the id is the digest of."""

    format: Literal[1] = 1
    dataset: Dataset
    config: Short = ""
    name: Annotated[str, Meta(min_length=1, max_length=255)]
    kind: Kind
    files: tuple[FileEntry, ...]
    """By path, in byte order. A single file is one entry that is called as it was."""


class Artifact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the fleet knows of an artifact. Written once, by the node that sealed it."""

    id: Digest
    dataset: Dataset
    name: Short
    config: Short = ""
    kind: Kind = "file"
    bytes: Count
    """Of the content of all files."""
    files: Count = 1
    origin: Name
    sealed_at: str
    """RFC 3339. Among artifacts of one dataset and configuration, the later one is the newer."""
    value: Annotated[float, Meta(ge=0, le=1e18)] = 0.0
    """What losing it would cost, in units of the producer's own: games, steps."""
    steps: Count | None = None
    """Steps of training that it holds."""
    games: Count | None = None
    source: Text = ""
    """The path that it was sealed from."""


class Copy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The receipt of a copy: written by the node that has it, after it stands and is verified."""

    id: Digest
    node: Name
    state: CopyState = "held"
    bytes: Count
    at: str
    """When it was committed, RFC 3339."""
    verified_at: str
    """When every digest was last checked against what is on the disk, RFC 3339."""
    seconds: Seconds | None = None
    """From the first byte asked for to the commit. None: sealed there."""
    moved: Count | None = None
    """Bytes that came over the wire for it."""
    source: Name | None = None
    """The node that they came from."""
    transport: Transport | None = None
    token: Count = 0
    """The fencing token that it was committed under; 0 where it was sealed."""
    order: Short = ""
    reason: Text = ""
    """Of what is not held any more."""
    replicas: Count | None = None
    """Of a tombstone: how many verified copies there were elsewhere."""


class StoreReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The store of a node, as its agent sees it."""

    node: Name
    instance: Instance
    root: Text
    """On the node."""
    at: str
    """RFC 3339."""
    total_bytes: Count | None = None
    free_bytes: Count | None = None
    """That may be written, less what is reserved."""
    held: Count = 0
    held_bytes: Count = 0
    quarantined: Count = 0
    fetching: Count = 0
    rates: dict[Name, Annotated[float, Meta(ge=0)]] = {}
    """Bytes per second lately received from each source."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Consecutive bytes of a file of an artifact."""

    id: Digest
    path: str
    offset: Count = 0
    length: Annotated[int, Meta(ge=0, le=LARGEST_READ_BYTES)]


class Read(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bytes of an artifact, asked of the node that has it. The answer's first byte says what it is:
    0, the bytes follow; 1, why not follows as text: a failure code, a colon, and words; 2, the
    bytes follow as a zlib stream (RFC 1950), which only who asked with `deflate` gets."""

    id: Digest
    path: str | None = None
    """A file of it. None: the manifest."""
    offset: Count = 0
    length: Annotated[int, Meta(ge=0, le=LARGEST_READ_BYTES)] = LARGEST_READ_BYTES
    """The answer is shorter only at the end of the file."""
    more: tuple[Part, ...] = ()
    """Whose bytes are to follow in the same answer, up to `LARGEST_READ_BYTES` in all: many small
    files are one question. One that is shorter than asked makes the whole answer a problem."""
    deflate: bool = False
    """Whether the answer may be compressed, if that pays."""


def artifact_key(id: str) -> str:
    """The key of what is known of an artifact."""
    return f"artifact.{id}"


def copy_key(node: str, id: str) -> str:
    """The key of a receipt."""
    return f"copy.{subjects.token(node)}.{id[:2]}.{id}"


def store_key(node: str) -> str:
    """The key of the report on a node's store."""
    return f"store.{subjects.token(node)}"


def artifact_keys() -> str:
    """The filter for the keys of all artifacts."""
    return "artifact.*"


def copy_keys(node: str | None = None, part: str | None = None) -> str:
    """The filter for receipts: of one node; of ids that begin with `part`, two digits."""
    of = subjects.token(node) if node is not None else "*"
    return f"copy.{of}.{part or '*'}.*"


def read_subject(node: str) -> str:
    """Where a node is asked for bytes."""
    return subjects.node_command(AGENT, node, READ_VERB)
