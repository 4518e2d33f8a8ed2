"""A consumer that takes events only under the newest token of their lock."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from interlock.bus import ApiError, Bus
from interlock.fleet import Fleet, Received
from interlock.locks.fence import FileFence
from interlock_schemas.letters import COUNT, CountLetters
from interlock_schemas.topology import EVENTS
from interlock_schemas.training import TrainingCompleted
from tests.conftest import eventually


def _event(model: str) -> TrainingCompleted:
    return TrainingCompleted(config="hex8_2p", model=model)


async def _stands(bus: Bus) -> bool:
    try:
        await bus.api(f"CONSUMER.INFO.{EVENTS.name}.fenced")
    except ApiError:
        return False
    return True


async def test_what_comes_late_from_a_former_holder_is_a_dead_letter(
    fleet: Fleet, tmp_path: Path
) -> None:
    fence = FileFence(tmp_path / "fence")
    handled: list[str] = []
    stop = asyncio.Event()

    async def handler(received: Received[Any]) -> None:
        handled.append(received.event.model)

    before = (await fleet.command(COUNT, CountLetters())).open_by_code
    # Others have published the same type under no lock.
    consuming = asyncio.create_task(
        fleet.consume(
            "fenced",
            handler,
            TrainingCompleted,
            fence=fence,
            stop=stop,
            concurrency=1,
            from_start=False,
        )
    )
    await eventually(lambda: _stands(fleet.bus))
    async with fleet.lock("publish:hex8_2p") as first:
        stale = first.headers()
        await fleet.publish(_event("v1"), headers=stale)
    async with fleet.lock("publish:hex8_2p") as second:
        await fleet.publish(_event("v2"), headers=second.headers())
        await fleet.publish(_event("v3"), headers=second.headers())
    await fleet.publish(_event("late"), headers=stale)
    await fleet.publish(_event("bare"))
    await fleet.publish(_event("odd"), headers={**stale, "interlock-lock-token": "-7"})

    async def rejected() -> bool:
        now = (await fleet.command(COUNT, CountLetters())).open_by_code
        return (
            now.get("stale_token", 0) - before.get("stale_token", 0) == 1
            and now.get("unfenced", 0) - before.get("unfenced", 0) == 2
        )

    await eventually(rejected)
    stop.set()
    await consuming
    assert handled == ["v1", "v2", "v3"]
    assert fence.highest("publish:hex8_2p") == second.token


async def test_a_fence_and_batches_do_not_go_together(fleet: Fleet, tmp_path: Path) -> None:
    async def handler(_: list[Received[Any]]) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match="one by one"):
        await fleet.consume("batches", handler, batch=10, fence=FileFence(tmp_path / "fence"))  # type: ignore[call-overload]
