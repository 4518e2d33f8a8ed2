"""Export a configuration's games under a lock, into a file that no stale holder can replace."""

import asyncio
import os
import tempfile
from pathlib import Path

import interlock
from interlock.errors import LockTimeout, StaleToken
from interlock.locks.fence import FileFence

CONFIG = "hex8_2p"
#: On a local disk of the host that keeps the exports. All who write there share its fence.
FOLDER = Path(os.environ.get("EXPORTS", "exports"))


def export(token: int) -> None:
    """In a thread, which nothing can interrupt: the fence decides whether its result counts."""
    target = FOLDER / f"{CONFIG}.txt"
    fence = FileFence(FOLDER / ".fence")
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        done = Path(scratch) / "games.txt"
        done.write_text("games\n")  # what takes long
        fence.replace(target.name, token, done, target)


async def main() -> None:
    """Take the lock, do the work, and show the token to whoever stores the result."""
    async with interlock.connect() as fleet:
        try:
            async with fleet.lock(f"export:{CONFIG}", ttl=30, wait=60, note="nightly") as lease:
                await asyncio.to_thread(export, lease.token)
                print(f"exported under token {lease.token}")
        except LockTimeout as error:
            print(f"somebody else exports: {error}")
        except StaleToken as error:
            print(f"the lock was lost, and somebody else has exported since: {error}")


FOLDER.mkdir(parents=True, exist_ok=True)
asyncio.run(main())
