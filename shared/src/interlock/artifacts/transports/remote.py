"""What is run on the other host to have it send bytes: POSIX shell and coreutils, nothing else.

Names never appear in a command line: they go in over standard input, each ended by a NUL, so that
no shell ever reads one. Pure.
"""

import shlex
from collections.abc import Iterator, Sequence

import msgspec

from interlock.artifacts import layout
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports.base import Piece
from interlock.artifacts.transports.packed import PLAIN, TAR

__all__ = ["Trip", "failure", "manifest_trip", "sizes_trip", "trips"]

_GONE = "interlock:gone"
_DENIED = "interlock:denied"

# `xargs` stops at the first command that exits with 255.
_CHECK = (
    f'if [ -f "$f" ] && [ -r "$f" ]; then :; elif [ -e "$f" ]; then echo "{_DENIED} $f" >&2; '
    f'exit 255; else echo "{_GONE} $f" >&2; exit 255; fi'
)
# What is missing is found out by whoever looks at the bytes: to look first at each of ten thousand
# files costs half of what reading them does.
_WHOLE = 'cat -- "$@" || exit 255'
_CHECKED = f'for f do {_CHECK}; done; exec cat -- "$@"'
# Path, first byte counted from 1, number of bytes, last byte.
_PART = (
    f'f=$1; {_CHECK}; s=$(wc -c <"$f"); s=$((s)); '
    f'if [ "$s" -lt "$4" ]; then echo "{_GONE} $f" >&2; exit 255; fi; '
    'if [ "$s" -eq "$4" ]; then exec tail -c "+$2" -- "$f"; fi; '
    'tail -c "+$2" -- "$f" | head -c "$3"'
)
_SIZES = f'for f do {_CHECK}; done; exec stat -L -c %s -- "$@"'
_THERE = f'cd -- "$1" || {{ echo "{_GONE} $1" >&2; exit 66; }}; shift; '
_AROUND = _THERE + 's=$1; shift; exec xargs -0 "$@" sh -c "$s" sh'
# Records of 64 KiB. A file with two names is sent twice, and a name is taken as it is written.
_TAR = "tar -c -b 128 --format=gnu --no-recursion --hard-dereference --null --no-unquote -T - -f -"
_PACKED = (
    f"{_THERE}if tar --version 2>/dev/null | grep -q GNU; then echo {TAR.decode().strip()}; "
    f"exec {_TAR}; fi; echo {PLAIN.decode().strip()}; exec xargs -0 sh -c '{_WHOLE}' sh"
)

#: Files that are smaller than this on average are sent packed, bytes.
_SMALL_BYTES = 256 * 1024


class Trip(msgspec.Struct, frozen=True):
    """One command on the other host, and what comes back."""

    command: str
    stdin: bytes
    length: int
    """Bytes that it prints; 0: not known."""
    pieces: tuple[Piece, ...] = ()
    packed: bool = False
    """What it prints is for an `Unpacker`, and `length` is that of the content."""


def trips(root: str, pieces: Sequence[Piece]) -> Iterator[Trip]:
    """The commands that have the bytes of all pieces sent, in their order."""
    run: list[Piece] = []
    for piece in pieces:
        if run and run[0].whole != piece.whole:
            yield _trip(root, run)
            run = []
        run.append(piece)
    if run:
        yield _trip(root, run)


def manifest_trip(root: str, id: str) -> Trip:
    """The command that has a manifest sent."""
    name = _name(f"{id[:2]}/{id}/{layout.MANIFEST}")
    return Trip(_command(root, _CHECKED), name, 0)


def sizes_trip(root: str, pieces: Sequence[Piece]) -> Trip:
    """The command that prints the size of each piece's file, a line for each; it stops at one that
    is missing, or cannot be read, and says so."""
    names = b"".join(_name(_path(piece)) for piece in pieces)
    return Trip(_command(root, _SIZES), names, 0, tuple(pieces))


def failure(code: int, said: str, where: str) -> TransferFailed | None:
    """What the command's exit code and its words mean; None: nothing that we know."""
    for line in said.splitlines():
        if line.startswith(_GONE):
            return TransferFailed(
                "source_gone", f"{where} does not have {line[len(_GONE) + 1 :][:200]}"
            )
        if line.startswith(_DENIED):
            return TransferFailed(
                "denied", f"{where} may not read {line[len(_DENIED) + 1 :][:200]}"
            )
    if code in (126, 127):
        return TransferFailed(
            "denied", f"{where} cannot run what is needed there (sh, xargs, cat): {said[-200:]}"
        )
    return None


def _trip(root: str, run: Sequence[Piece]) -> Trip:
    length = sum(piece.length for piece in run)
    if run[0].whole:
        names = b"".join(_name(_path(piece)) for piece in run)
        if len(run) > 1 and length < len(run) * _SMALL_BYTES:
            command = _quoted("exec", "sh", "-c", _PACKED, "sh", _artifacts(root))
            return Trip(command, names, length, tuple(run), packed=True)
        return Trip(_command(root, _WHOLE), names, length, tuple(run))
    words: list[bytes] = []
    for piece in run:
        words.append(_name(_path(piece)))
        numbers = (piece.offset + 1, piece.length, piece.offset + piece.length)
        words.extend(b"%d\0" % number for number in numbers)
    return Trip(_command(root, _PART, "-n", "4"), b"".join(words), length, tuple(run))


def _command(root: str, script: str, *options: str) -> str:
    return _quoted("exec", "sh", "-c", _AROUND, "sh", _artifacts(root), script, *options)


def _quoted(*words: str) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _artifacts(root: str) -> str:
    return f"{root}/{layout.ARTIFACTS}"


def _path(piece: Piece) -> str:
    # It begins with digits, whatever the file is called.
    return layout.file_path(piece.id, piece.path).removeprefix(f"{layout.ARTIFACTS}/")


def _name(path: str) -> bytes:
    return path.encode() + b"\0"
