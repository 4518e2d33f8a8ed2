"""What is run on a host without an agent: POSIX shell, coreutils, findutils, tar and flock. Pure.

A script is constant text: what varies goes in as quoted words or over standard input. A host that
lacks one of the tools is refused when its store is prepared, by name: without ``flock`` of
util-linux nothing would keep two movers apart when one of them dies in its turn, or is frozen.

The fence of such a store is the same files as `interlock.locks.fence` keeps, and is locked in the
same manner, so that an agent may take the store over at any time. Content comes in under
``staging/<id>.<attempt>/``. Whatever writes there holds the lock of that folder for as long as it
has a file open; only a folder that nobody writes may be taken over by another attempt. So what a
frozen mover still has on its way can never end up in what another one has verified.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from interlock.artifacts import layout
from interlock.locks import fence_rules

__all__ = [
    "BUSY",
    "CONTENT",
    "DAMAGED_FENCE",
    "GONE",
    "HELD",
    "LAID_ACROSS",
    "LARGEST_TOKEN",
    "NO_STORE",
    "NO_TOOL",
    "OTHER_SIZE",
    "STALE",
    "Found",
    "Look",
    "Stale",
    "Tokens",
    "append",
    "begin",
    "commit",
    "drop",
    "holds",
    "listing",
    "look",
    "parse_found",
    "parse_ids",
    "parse_look",
    "parse_prepared",
    "parse_sizes",
    "parse_stale",
    "prepare",
    "quarantine",
    "remove",
    "show",
    "tidy",
    "unpack",
    "verify_held",
    "verify_staged",
]

#: Exit codes of the scripts. What fails otherwise ends with 1, and says why in words.
STALE: Final = 81
BUSY: Final = 82
DAMAGED_FENCE: Final = 83
GONE: Final = 84
HELD: Final = 85
OTHER_SIZE: Final = 86
NO_TOOL: Final = 87
NO_STORE: Final = 88
LAID_ACROSS: Final = 89

#: Beside the lock, in a folder below ``staging/``; what is in it gets the final name.
CONTENT: Final = "content"

#: What a shell counts up to.
LARGEST_TOKEN: Final = 2**63 - 1

#: How long a writer waits for its turn, seconds.
_TURN_S: Final = 10
#: As `interlock.locks.fence` reads it.
_NOTE_BYTES: Final = 512

_HEAD: Final = "LC_ALL=C; export LC_ALL; umask 022; "
_ENTER: Final = (
    f'cd -- "$1" 2>/dev/null || {{ echo "no store at $1" >&2; exit {NO_STORE}; }}; shift; '
)

# A sign of life while nothing is printed. It holds none of what the host waits for at the end,
# and where nobody listens any more it ends the work.
_ALIVE: Final = (
    "main=$$; (trap '' PIPE; while sleep 5 </dev/null >/dev/null 2>&1; do printf . >&2 "
    '2>/dev/null || { kill "$main"; exit; }; done) 7>&- & alive=$!; '
    "trap 'kill \"$alive\" 2>/dev/null' EXIT; "
)

_DIGITS: Final = "\\([0-9]\\{1,19\\}\\)"

# Resource, file stem, token, record, note. The lock is held by the caller.
_ADMIT: Final = f"""
admit() {{
  seen=0
  if [ -e "$2.json" ]; then
    seen=$(sed -n 's/^{{"format":1,"resource":"[^"]*","token":{_DIGITS},"check":[0-9]*}}$/\\1/p' \\
      "$2.json")
  fi
  known=$(sed -n 's/^{{"token":{_DIGITS}.*/\\1/p' "$2.lock")
  if [ -z "$seen" ] || [ "$seen" -lt "${{known:-0}}" ]; then
    echo "the record $PWD/$2.json of the highest token cannot be trusted" >&2; exit {DAMAGED_FENCE}
  fi
  if [ "$3" -lt "$seen" ]; then echo "stale $1 $3 $seen" >&2; exit {STALE}; fi
  if [ "$3" -gt "$seen" ]; then
    printf %s "$4" >".$2.$$" && sync ".$2.$$" && mv -f -- ".$2.$$" "$2.json" || exit 1
  fi
  sync . || exit 1
  printf '%-{_NOTE_BYTES}s' "$5" 1<>"$2.lock" || exit 1
}}
"""

# Twice: resource, stem, token, record, note. A token 0 is none. Always in this order.
_TAKE: Final = f"""
busy() {{
  echo "no turn to write came within {_TURN_S} s: another holds $1" >&2
  exit {BUSY}
}}
cd {layout.FENCE} || exit 1
if [ "$3" -ne 0 ]; then
  exec 8>>"$2.lock" || exit 1
  flock -w {_TURN_S} 8 || busy "$PWD/$2.lock"
  admit "$@"
fi
shift 5
if [ "$3" -ne 0 ]; then
  exec 9>>"$2.lock" || exit 1
  flock -w {_TURN_S} 9 || busy "$PWD/$2.lock"
  admit "$@"
fi
shift 5
cd .. || exit 1
"""
_RELEASE: Final = "exec 8>&- 9>&-\n"

_FOLDERS: Final = " ".join(
    (layout.ARTIFACTS, layout.STAGING, layout.QUARANTINE, layout.TRASH, layout.FENCE)
)
_READY: Final = "interlock:ready"
_PREPARE: Final = (
    _HEAD
    + f"""
for tool in flock tar find xargs sha256sum stat sync sed df truncate; do
  command -v "$tool" >/dev/null || {{ echo "$tool is not installed there" >&2; exit {NO_TOOL}; }}
done
mkdir -p -- "$1" && cd -- "$1" || exit 1
[ -d {layout.FENCE} ] || mkdir -m 700 {layout.FENCE} || exit 1
mkdir -p {_FOLDERS} || exit 1
for each in {_FOLDERS}; do
  if [ -h "$each" ] || [ "$(stat -c %d "$each")" != "$(stat -c %d .)" ]; then
    echo "$each is not on the disk of $1: a rename would be none" >&2; exit {LAID_ACROSS}
  fi
done
sync . || exit 1
printf '{_READY} %s\\n' "$(df --output=fstype . 2>/dev/null | tail -n 1)"
"""
)

_SHOW: Final = _HEAD + _ENTER + _ADMIT + _TAKE

# Id, attempt.
_BEGIN: Final = (
    _HEAD
    + _ENTER
    + _ADMIT
    + _TAKE
    + f"""
mine={layout.STAGING}/$1.$2
mkdir -p "$mine" || exit 1
for other in {layout.STAGING}/"$1".*; do
  [ "$other" != "$mine" ] && [ -d "$other" ] || continue
  (
    exec 7>>"$other/lock" && flock -w 2 7 || exit 0
    [ -e "$mine/{CONTENT}" ] || mv -T -- "$other/{CONTENT}" "$mine/{CONTENT}" 2>/dev/null
    mv -T -- "$other" "{layout.TRASH}/${{other##*/}}" 2>/dev/null
  )
done
"""
    + _RELEASE
    + f"""
rm -rf -- {layout.TRASH}/"$1".*
mkdir -p "$mine/{CONTENT}/{layout.FILES}" || exit 1
cd "$mine/{CONTENT}" || exit 1
find . ! -type f ! -type d -exec rm -f {{}} +
find {layout.FILES} -type f -print0 | xargs -0 -r stat --printf '%s %n\\0'
"""
)

# Id, attempt. Nothing else is begun there while this writes.
_INTO: Final = (
    _HEAD
    + _ENTER
    + f"""
gone() {{ echo "another attempt took over" >&2; exit {GONE}; }}
cd -- {layout.STAGING}/"$1.$2" 2>/dev/null || gone
exec 7>>lock || exit 1
flock -n 7 || {{ echo "another attempt writes there" >&2; exit {HELD}; }}
cd {CONTENT} 2>/dev/null || gone
shift 2
"""
)
_UNPACK: Final = _INTO + "exec tar -xomf -"
# Path, offset, mode.
_APPEND: Final = (
    _INTO
    + f"""
f=./{layout.FILES}/$1
mkdir -p -- "${{f%/*}}" || exit 1
if [ -h "$f" ]; then rm -f -- "$f"; fi
[ "$2" -ne 0 ] || : >"$f" || exit 1
size=$(stat -c %s -- "$f" 2>/dev/null)
if [ "${{size:-0}}" -lt "$2" ]; then
  echo "there are only ${{size:-0}} bytes" >&2; exit {OTHER_SIZE}
fi
truncate -s "$2" -- "$f" && chmod "$3" -- "$f" && exec cat >>"$f"
"""
)
_REMOVE: Final = _INTO + "exec xargs -0 -r rm -rf --"

# What is no plain file; an empty name; the digest and name of each file.
_DIGESTS: Final = (
    _ALIVE
    + f"""
[ -d {layout.FILES} ] || {{ echo "there is nothing" >&2; exit {GONE}; }}
find . ! -type f ! -type d -print0 || exit 1
printf '\\0'
find {layout.FILES} {layout.MANIFEST} -type f -print0 | xargs -0 -r sha256sum -z --
"""
)
_VERIFY: Final = (
    _HEAD
    + _ENTER
    + f"""cd -- "$1" 2>/dev/null || {{ echo "it is not there" >&2; exit {GONE}; }}
"""
    + _DIGESTS
)

# First id and attempt, for what takes long and comes before the turn; at the end again.
_COMMIT: Final = (
    _HEAD
    + _ENTER
    + _ALIVE
    + f"""
mine={layout.STAGING}/$1.$2
final={layout.ARTIFACTS}/$3/$1
part={layout.ARTIFACTS}/$3
shift 3
if [ ! -d "$final" ]; then
  [ -d "$mine/{CONTENT}" ] || {{ echo "another attempt took over" >&2; exit {GONE}; }}
  sync -f "$mine/{CONTENT}" || sync || exit 1
fi
"""
    + _ADMIT
    + _TAKE
    + f"""
if [ ! -d "$final" ]; then
  mkdir -p "$part" && mv -T -- "$mine/{CONTENT}" "$final" || exit 1
fi
sync "$part" {layout.ARTIFACTS} || exit 1
"""
    + _RELEASE
    + 'rm -rf -- "$mine"\n'
)

# Id, its first two digits, attempt.
_DROP: Final = (
    _HEAD
    + _ENTER
    + _ADMIT
    + _TAKE
    + f"""
if [ -d {layout.ARTIFACTS}/"$2/$1" ]; then
  mv -T -- {layout.ARTIFACTS}/"$2/$1" {layout.TRASH}/"$1.$3" || exit 1
  sync {layout.ARTIFACTS}/"$2" || exit 1
fi
"""
    + _RELEASE
    + f'rm -rf -- {layout.TRASH}/"$1".*\n'
)

# Id, its first two digits, a suffix that is new, why.
_QUARANTINE: Final = (
    _HEAD
    + _ENTER
    + f"""
[ -d {layout.ARTIFACTS}/"$2/$1" ] || exit 0
to={layout.QUARANTINE}/$1.$3
[ ! -e "$to" ] || {{ echo "$to is there already" >&2; exit 1; }}
mv -T -- {layout.ARTIFACTS}/"$2/$1" "$to" || exit 1
printf '%s\\n' "$4" >"$to.why"
sync {layout.ARTIFACTS}/"$2" {layout.QUARANTINE}
"""
)

_HOLDS: Final = (
    _HEAD + _ENTER + f'if [ -d {layout.ARTIFACTS}/"$2/$1" ]; then echo yes; else echo no; fi'
)
_LISTING: Final = (
    _HEAD
    + _ENTER
    + f"""
cd {layout.ARTIFACTS} || exit 1
if [ -n "$1" ]; then [ -d "$1" ] || exit 0; exec find "$1" -mindepth 1 -maxdepth 1 -type d; fi
exec find . -mindepth 2 -maxdepth 2 -type d
"""
)
_LOOK: Final = (
    _HEAD
    + _ENTER
    + f"""
df -Pk . | tail -n 1
find {layout.QUARANTINE} -mindepth 1 -maxdepth 1 -type d | wc -l
find {layout.ARTIFACTS} -mindepth 2 -maxdepth 2 -type d | wc -l
"""
)
_TIDY: Final = (
    _HEAD
    + _ENTER
    + _ALIVE
    + f"""
find {layout.TRASH} -mindepth 1 -maxdepth 1 -mmin +60 -exec rm -rf {{}} +
find {layout.STAGING} -mindepth 1 -maxdepth 1 -name '*.*' -mtime +7 | while read -r old; do
  ( exec 7>>"$old/lock" && flock -n 7 && rm -rf -- "$old" )
done
"""
)

_DF: Final = re.compile(rb"\s(\d+)\s+(\d+)\s+(\d+)\s+(?:\d+%|-)\s")
_ID: Final = re.compile(r"\A[0-9a-f]{64}\Z")
_STALE: Final = re.compile(r"^stale (\w+) (\d+) (\d+)$", re.MULTILINE)


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown to the fence. None: of that kind there is none yet."""

    order: int | None = None
    store: int | None = None


class Stale(msgspec.Struct, frozen=True):
    """A token that was refused."""

    resource: str
    shown: int
    seen: int


class Found(msgspec.Struct, frozen=True):
    """What is in a folder of an artifact."""

    digests: dict[bytes, str]
    """By path as it is on the disk, relative to the folder of the artifact."""
    strange: tuple[bytes, ...]
    """Links, sockets, and whatever else is neither file nor folder."""


class Look(msgspec.Struct, frozen=True):
    """How a store is."""

    free_bytes: int | None
    total_bytes: int | None
    quarantined: int
    held: int


def prepare(root: str) -> str:
    """Have the folders of a store there. Prints what `parse_prepared` reads."""
    return _command(_PREPARE, root)


def show(root: str, tokens: Tokens) -> str:
    """Have lower tokens refused from now on."""
    return _command(_SHOW, root, *_shown(tokens))


def begin(root: str, tokens: Tokens, id: str, attempt: str) -> str:
    """Begin to take in an artifact, with what other attempts left. Prints sizes of files."""
    return _command(_BEGIN, root, *_shown(tokens), id, attempt)


def unpack(root: str, id: str, attempt: str) -> str:
    """Take in files as a tar archive on standard input."""
    return _command(_UNPACK, root, id, attempt)


def append(root: str, id: str, attempt: str, path: str, offset: int, *, executable: bool) -> str:
    """Take in one file on standard input, from `offset` on; what is there beyond goes."""
    mode = "755" if executable else "644"
    return _command(_APPEND, root, id, attempt, path, str(offset), mode)


def remove(root: str, id: str, attempt: str, paths: Iterable[bytes]) -> tuple[str, bytes]:
    """Delete some of what was taken in: the command, and its standard input."""
    names = b"".join(b"./" + path + b"\0" for path in paths)
    return _command(_REMOVE, root, id, attempt), names


def verify_staged(root: str, id: str, attempt: str) -> str:
    """Print the digests of what was taken in."""
    return _command(_VERIFY, root, f"{layout.STAGING}/{id}.{attempt}/{CONTENT}")


def verify_held(root: str, id: str) -> str:
    """Print the digests of what stands."""
    return _command(_VERIFY, root, layout.artifact_dir(id))


def commit(root: str, tokens: Tokens, id: str, attempt: str) -> str:
    """Have what was taken in stand under its final name; nothing is done where it does."""
    return _command(_COMMIT, root, id, attempt, id[:2], *_shown(tokens))


def drop(root: str, tokens: Tokens, id: str, attempt: str) -> str:
    """Delete what stands."""
    return _command(_DROP, root, *_shown(tokens), id, id[:2], attempt)


def quarantine(root: str, id: str, suffix: str, why: str) -> str:
    """Put aside what stands."""
    return _command(_QUARANTINE, root, id, id[:2], suffix, why.replace("\0", " "))


def holds(root: str, id: str) -> str:
    """Print yes or no: whether it stands."""
    return _command(_HOLDS, root, id, id[:2])


def listing(root: str, part: str = "") -> str:
    """Print what stands; of ids that begin with `part`, two digits."""
    return _command(_LISTING, root, part)


def look(root: str) -> str:
    """Print how much room there is, and counts."""
    return _command(_LOOK, root)


def tidy(root: str) -> str:
    """Delete what nobody will want any more."""
    return _command(_TIDY, root)


def parse_prepared(data: bytes) -> str | None:
    """The kind of file system that `prepare` prints, empty where it is not known. None: something
    else was printed as well, so that nothing that the host prints can be relied on."""
    ready, _, kind = data.decode(errors="replace").rstrip("\n").partition(" ")
    return kind.strip() if ready == _READY and "\n" not in kind else None


def parse_sizes(data: bytes) -> dict[bytes, int]:
    """Sizes by path below ``files/``, as `begin` prints them."""
    found = {}
    for record in data.split(b"\0"):
        size, space, path = record.partition(b" ")
        if space and size.isdigit():
            found[path.removeprefix(layout.FILES.encode() + b"/")] = int(size)
    return found


def parse_found(data: bytes) -> Found:
    """What `verify_staged` and `verify_held` print. Raises ValueError for what is not whole."""
    records = data.split(b"\0")
    if records.pop() or b"" not in records:
        raise ValueError("the digests break off")
    middle = records.index(b"")
    digests = {}
    for record in records[middle + 1 :]:
        digest, path = record[:64].decode("ascii", "replace"), record[66:]
        if not _ID.match(digest) or record[64:66] not in (b"  ", b" *") or not path:
            raise ValueError(f"not a digest: {record[:100]!r}")
        digests[path] = digest
    return Found(digests, tuple(path.removeprefix(b"./") for path in records[:middle]))


def parse_ids(data: bytes) -> list[str]:
    """The artifacts that `listing` prints."""
    names = (line.rsplit("/", 2)[-2:] for line in data.decode("ascii", "replace").splitlines())
    return sorted(
        name[1]
        for name in names
        if len(name) == 2 and _ID.match(name[1]) and name[0] == name[1][:2]
    )


def parse_look(data: bytes) -> Look:
    """What `look` prints. Raises ValueError."""
    lines = data.splitlines()
    if len(lines) != 3:
        raise ValueError(f"not what was asked: {data[:200]!r}")
    room = _DF.search(lines[0])
    total = int(room[1]) * 1024 if room else None
    free = int(room[3]) * 1024 if room else None
    return Look(free, total, int(lines[1]), int(lines[2]))


def parse_stale(said: str) -> Stale | None:
    """Which token was refused, of what a script said that ended with `STALE`."""
    found = _STALE.search(said)
    return Stale(found[1], int(found[2]), int(found[3])) if found else None


def _shown(tokens: Tokens) -> list[str]:
    words = []
    for resource, token in (("orders", tokens.order), ("store", tokens.store)):
        if token is None:
            words += [resource, "", "0", "", ""]
            continue
        if fence_rules.check_token(token) > LARGEST_TOKEN:
            raise ValueError(f"{resource}: token {token} is higher than a shell counts")
        record = fence_rules.encode(resource, token).decode()
        note = msgspec.json.encode({"token": token, "pid": 0, "host": ""}).decode()
        words += [resource, fence_rules.file_stem(resource), str(token), record, note]
    return words


def _command(script: str, *words: str) -> str:
    every: Sequence[str] = ("exec", "sh", "-c", script, "sh", *words)
    if any("\0" in word for word in every):
        raise ValueError("no word on a command line has a byte 0")
    return " ".join(shlex.quote(word) for word in every)
