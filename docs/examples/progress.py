"""Tell the agent of this node what gets done: games, failures, and the last checkpoint."""

import asyncio

import interlock


async def main() -> None:
    """A worker that plays three batches, and fails once."""
    async with interlock.connect() as fleet:
        for batch in range(3):
            # Play here. Totals go out at most twice a second; nothing is stored.
            await fleet.progress(games=10, successes=10)
            await fleet.checkpointed(f"games/{batch}.npz")
        await fleet.progress(failures=1)
    print("told the agent of this node")


asyncio.run(main())
