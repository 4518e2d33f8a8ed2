"""Wall clocks that jump, for processes of a run: libfaketime, where it is installed.

Only the clock of the day is changed; the monotonic one, by which the processes of a machine can be
compared, goes on. The broker is linked statically, so its clock cannot be changed so.
"""

import contextlib
import os
import select
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, SupportsIndex

__all__ = ["MISSING", "clear_away", "env_for", "find_library", "settle_in"]

#: What a report says where it is not installed.
MISSING: Final = "not available: install libfaketime"

#: Where Debian and Fedora have it.
_PLACES: Final = (
    "/usr/lib/*/faketime/libfaketimeMT.so.1",
    "/usr/lib*/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the library's own choice


def find_library() -> Path | None:
    """Where the library is, None where it is not installed."""
    root = Path("/")
    return next((path for place in _PLACES for path in root.glob(place[1:])), None)


def env_for(library: Path, clock: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is set by the file `clock`."""
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Looks into the file at most so often, seconds.
        "FAKETIME_CACHE_DURATION": "1",
    }


def settle_in(env: Mapping[str, str] = os.environ) -> None:
    """Make a process fit to run under the library, if it does.

    The library takes clock_nanosleep for a sleep by the wall clock and spoils it, so `time.sleep`
    waits in select instead, which it leaves alone.
    """
    if "FAKETIME_TIMESTAMP_FILE" in env:

        def sleep(seconds: float | SupportsIndex, /) -> None:
            until = time.monotonic() + float(seconds)
            while (left := until - time.monotonic()) > 0:
                select.select((), (), (), left)

        time.sleep = sleep


def clear_away(pids: Iterable[int]) -> None:
    """Remove what the library leaves in shared memory when its process is killed."""
    for pid in pids:
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            with contextlib.suppress(OSError):
                (_SHARED_MEMORY / name).unlink()
