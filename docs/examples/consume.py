"""Handle finished trainings: each one once, tried again when it fails, a dead letter at last."""

import asyncio

import interlock
from interlock_schemas.training import TrainingCompleted


async def handle(received: interlock.Received[TrainingCompleted]) -> None:
    """Returning means handled; raising means again later; Reject means never."""
    event = received.event
    if event.model is None:
        raise interlock.Reject("a training without a model cannot be evaluated")
    # The broker may deliver an event twice: record effects under received.id.
    print(f"{event.config}: evaluate {event.model} ({received.id}, attempt {received.attempt})")


async def main() -> None:
    """Everybody who consumes as "evaluator" shares the work."""
    async with interlock.connect() as fleet:
        await fleet.consume("evaluator", handle, TrainingCompleted, concurrency=8)


asyncio.run(main())
