"""Searches the larger models of the locks: ``python -m tests.model [part of a name]``."""

import sys
import time

from tests.model.bounds import LARGE, SMALL
from tests.model.explore import explore
from tests.model.lock_model import LockModel

MOST = 8_000_000


def main(part: str = "") -> int:
    failed = 0
    for name, bounds in {**SMALL, **LARGE}.items():
        if part not in name:
            continue
        print(f"{name} …", file=sys.stderr)
        began = time.monotonic()
        explored = explore(LockModel(bounds), MOST)
        print(
            f"{name}: {explored.states:,} states, {explored.steps:,} steps, "
            f"depth {explored.depth}, {time.monotonic() - began:.0f} s: "
            f"{explored.broken or 'no rule is broken'}"
        )
        failed += explored.broken is not None
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
