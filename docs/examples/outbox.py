"""Publish from a host whose link comes and goes."""

import asyncio

import interlock
from interlock_schemas.training import TrainingCompleted


async def main() -> None:
    """Each publish returns once this host has it on disk, whether the broker is there or not."""
    async with interlock.connect(outbox="outbox.db") as fleet:
        stored = await fleet.publish(TrainingCompleted(config="hex8_2p", model="v12"))
        print(f"{stored.id} is on this disk, {stored.waiting} wait")


asyncio.run(main())
