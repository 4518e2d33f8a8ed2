"""The demo's consumer: ``python -m interlock.demo.consumer``.

Its effect is one stored message for each event. The broker may deliver an event again; the effect
is a compare-and-set on a subject named by the event's id, so it happens once.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec

import interlock
from interlock import logs
from interlock.demo.script import CONSUMER
from interlock.errors import WrongRevision
from interlock_schemas import subjects

__all__ = ["EFFECTS", "EFFECTS_STREAM", "FIXED_FILE", "effect_subject"]

EFFECTS_STREAM = "DEMO_EFFECTS"
EFFECTS = "demo.effects.>"
#: Once this file is there, the handler's defect is fixed.
FIXED_FILE = "handler-fixed"


def effect_subject(event_id: str) -> str:
    """Where the effect of an event is stored."""
    return f"demo.effects.{subjects.token(event_id)}"


class DefectError(Exception):
    """The handler's defect."""


async def main() -> None:
    """Consume until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    fixed = Path(os.environ["INTERLOCK_STATE"]) / FIXED_FILE

    async with interlock.connect(source=f"demo/consumer-{os.getpid()}") as fleet:

        async def handle(received: interlock.Received[Any]) -> None:
            failing = received.payload.get("demo")
            if failing is None:
                return
            if (
                failing == "always"
                or (failing == "once" and received.attempt == 1)
                or (failing == "until_fixed" and not fixed.exists())
            ):
                raise DefectError(f"the handler cannot cope with {received.id}")
            body = msgspec.json.encode({"id": received.id, "type": received.event.type_name})
            try:
                await fleet.bus.publish(
                    effect_subject(received.id), body, expected_revision=0, timeout_s=20.0
                )
            except WrongRevision:
                return

        await fleet.consume(
            CONSUMER,
            handle,
            concurrency=64,
            ack_wait_s=5.0,
            retry=interlock.RetryPolicy(attempts=3, base_s=0.2, cap_s=2.0),
            stop=stop,
        )


if __name__ == "__main__":
    logs.configure("error", "json")
    asyncio.run(main())
