"""Manifests: their canonical form, their digest, and which bytes are still to come. Pure."""

import hashlib
from collections.abc import Mapping

import msgspec

from interlock.artifacts import names
from interlock.artifacts.errors import ArtifactError
from interlock.artifacts.pieces import Piece
from interlock_schemas.artifacts import CHUNK_BYTES, FileEntry, Manifest

__all__ = ["ManifestInvalid", "decode", "encode", "id_of", "pieces", "total_bytes"]

_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Manifest)


class ManifestInvalid(ArtifactError):
    """A manifest cannot be trusted or used."""

    name_refused = False
    """Whether it is right in itself, and one of its names is not taken here."""


def encode(manifest: Manifest) -> bytes:
    """The canonical form: the bytes that the id is the digest of."""
    return _encoder.encode(manifest)


def id_of(data: bytes) -> str:
    """The id of the artifact with this manifest."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, id: str | None = None) -> Manifest:
    """Read a manifest, and check all that it says of itself.

    Raises ManifestInvalid: another digest than `id`, names that are refused, files twice or out of
    order, a file where another has its folder, digests of pieces that do not fit the size.
    """
    if id is not None and id_of(data) != id:
        raise ManifestInvalid(f"the manifest is not that of artifact {id}: its digest is another")
    try:
        manifest = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ManifestInvalid(f"this is no manifest: {error}") from error
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    if not manifest.files:
        raise ManifestInvalid("the manifest names no file")
    folders: set[str] = set()
    last = b""
    for entry in manifest.files:
        why = names.problem(entry.path)
        if why is not None:
            refused = ManifestInvalid(f"the name {entry.path[:200]!r} is refused: {why}")
            refused.name_refused = True
            raise refused
        key = entry.path.encode()
        if key <= last:
            raise ManifestInvalid(f"{entry.path!r} is there twice, or out of order")
        last = key
        _check_chunks(entry)
        parent = entry.path.rpartition("/")[0]
        while parent and parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    for entry in manifest.files:
        if entry.path in folders:
            raise ManifestInvalid(f"{entry.path!r} is a file and a folder")


def _check_chunks(entry: FileEntry) -> None:
    wanted = -(-entry.size // CHUNK_BYTES) if entry.size > CHUNK_BYTES else 0
    if len(entry.chunks) != wanted:
        raise ManifestInvalid(
            f"{entry.path!r} of {entry.size:,} bytes has {len(entry.chunks)} digests of pieces "
            f"instead of {wanted}"
        )


def total_bytes(manifest: Manifest) -> int:
    """Bytes of the content."""
    return sum(entry.size for entry in manifest.files)


def pieces(id: str, manifest: Manifest, have: Mapping[str, int] | None = None) -> list[Piece]:
    """What is still to come, in the manifest's order.

    `have`: how many bytes from the beginning of a file are there and verified.
    """
    there = have or {}
    found = []
    for entry in manifest.files:
        offset = there.get(entry.path, 0)
        if offset < entry.size:
            found.append(Piece(id, entry.path, offset, entry.size - offset, offset == 0))
    return found
