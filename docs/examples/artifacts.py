"""Seal what was made, and have it at every trainer before going on."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import interlock


async def main(folder: Path) -> None:
    """A worker that has played some games."""
    games = folder / "games.jsonl"
    games.write_text('{"winner": 1}\n' * 1_000)
    async with interlock.connect() as fleet:
        about = await fleet.artifacts.add(
            games, dataset="games", config="hex8_2p", games=1_000, value=1_000
        )
        print(f"sealed {about.bytes:,} bytes as {about.id[:12]}")
        report = await fleet.sync("games", config="hex8_2p", targets=[f"node:{fleet.node}"])
        print("it is there" if interlock.succeeded(report) else f"not yet: {report.failures}")
        print(f"read it in {fleet.artifacts.path(about)}")


with TemporaryDirectory() as temporary:
    asyncio.run(main(Path(temporary)))
