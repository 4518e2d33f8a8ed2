"""Publish one event from an asyncio program."""

import asyncio

import interlock
from interlock_schemas.training import TrainingCompleted


async def main() -> None:
    """Connect, publish, and return once the broker has it on disk."""
    async with interlock.connect() as fleet:
        ack = await fleet.publish(TrainingCompleted(config="hex8_2p", model="v12", final_loss=0.41))
        print(f"stored as {ack.stream} {ack.seq}")


asyncio.run(main())
