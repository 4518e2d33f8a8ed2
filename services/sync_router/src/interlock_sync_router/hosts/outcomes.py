"""What it means for a transfer that a script on a host failed. Pure."""

from typing import Final

from interlock.artifacts.errors import TransferFailed
from interlock_schemas.orders import FailureCode
from interlock_sync_router.hosts import scripts

__all__ = ["failure", "is_final"]

_CANNOT_RUN: Final = (126, 127)
#: As the C library says it in the locale C, and what it means. The first that is found counts.
_WORDS: Final[tuple[tuple[str, FailureCode], ...]] = (
    ("No space left on device", "no_space"),
    # As tar says it of the file that was the first to find no room.
    (": Wrote only ", "no_space"),
    ("Disk quota exceeded", "no_space"),
    ("File too large", "no_space"),
    ("File name too long", "refused_name"),
    ("Permission denied", "denied"),
    ("Operation not permitted", "denied"),
    ("Read-only file system", "denied"),
)
_LONGEST: Final = 300


def failure(code: int, said: str, node: str) -> TransferFailed:
    """Of a script that ended with `code`, not 0, and what it said."""
    words = said.strip().strip(".")[-_LONGEST:]
    match code:
        case scripts.STALE:
            stale = scripts.parse_stale(said)
            text = (
                f"token {stale.shown} for {stale.resource} is stale, {stale.seen} has been seen "
                "since: nothing was written"
                if stale is not None
                else words
            )
            return TransferFailed("stale_token", f"{node}: {text}")
        case scripts.DAMAGED_FENCE:
            return TransferFailed(
                "io", f"{node}: {words}. Nothing was written: repair it there with FileFence.repair"
            )
        case scripts.NO_TOOL:
            return TransferFailed("denied", f"{node}: {words}: install it")
        case scripts.NO_STORE:
            return TransferFailed("io", f"{node}: {words}: is its disk mounted?")
        case scripts.LAID_ACROSS:
            return TransferFailed("denied", f"{node}: {words}")
        case scripts.GONE | scripts.HELD | scripts.OTHER_SIZE | scripts.BUSY:
            return TransferFailed("io", f"{node}: {words}")
    if code in _CANNOT_RUN:
        return TransferFailed("denied", f"{node} cannot run what is needed there: {words}")
    return TransferFailed(_code(said), f"{node}: {words or f'exit code {code}'}")


def is_final(said: str) -> bool:
    """Whether what was said so far has it make no sense to go on sending."""
    return any(text in said for text, _ in _WORDS)


def _code(said: str) -> FailureCode:
    return next((code for text, code in _WORDS if text in said), "io")
