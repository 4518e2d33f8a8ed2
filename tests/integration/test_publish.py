"""Publishing: acknowledged means stored, once, and everything else is a clear error."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from interlock.bus import Bus, connect, connected
from interlock.errors import (
    ConnectFailed,
    MessageTooLarge,
    NotAcknowledged,
    PublishRefused,
    WrongRevision,
)
from interlock.fleet import Fleet
from interlock.settings import ConnectionSettings
from interlock_schemas import envelope
from interlock_schemas.event import OpenEvent
from interlock_schemas.training import TrainingCompleted
from tests.conftest import PATIENCE_S, Up


async def test_an_acknowledged_event_is_stored_with_its_headers(fleet: Fleet, bus: Bus) -> None:
    ack = await fleet.publish(TrainingCompleted(config="hex8_2p", model="v1", final_loss=0.4))
    stored = (await bus.api(f"STREAM.MSG.GET.{ack.stream}", {"seq": ack.seq}))["message"]
    assert stored["subject"] == "events.training.completed.hex8_2p"
    message = await bus.client.jetstream().get_msg(ack.stream, ack.seq)
    assert message.data == b'{"config":"hex8_2p","model":"v1","final_loss":0.4}'
    assert message.headers is not None
    assert message.headers[envelope.TYPE] == "training.completed"
    assert message.headers[envelope.SPEC_VERSION] == "1.0"
    assert message.headers[envelope.ID] == message.headers[envelope.MSG_ID]
    assert message.headers[envelope.SOURCE] == "test"


async def test_the_same_id_is_stored_once(fleet: Fleet) -> None:
    id = uuid.uuid4().hex
    first = await fleet.publish(TrainingCompleted(config="c"), id=id)
    second = await fleet.publish(TrainingCompleted(config="c"), id=id)
    assert not first.duplicate
    assert second.duplicate
    assert second.seq == first.seq


async def test_order_holds(fleet: Fleet) -> None:
    acks = await fleet.publish_many(TrainingCompleted(config="c") for _ in range(500))
    assert [ack.seq for ack in acks] == sorted(ack.seq for ack in acks)


async def test_an_open_event_needs_a_type_of_the_catalogue(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="no event type"):
        await fleet.publish(OpenEvent("training.levitated", {}))


async def test_a_compare_and_set_that_lost_says_so(bus: Bus) -> None:
    subject = f"events.training.completed.{uuid.uuid4().hex}"
    await bus.publish(subject, b"{}", expected_revision=0)
    with pytest.raises(WrongRevision):
        await bus.publish(subject, b"{}", expected_revision=0)


async def test_what_no_stream_takes_ends_in_an_error_that_says_what_to_do(bus: Bus) -> None:
    with pytest.raises(NotAcknowledged, match="interlock setup"):
        await bus.publish("nowhere.at.all", b"{}", timeout_s=0.5)


async def test_what_is_too_large_is_refused(bus: Bus) -> None:
    with pytest.raises(MessageTooLarge):
        await bus.publish("legacy.huge", b"x" * (9 * 1024 * 1024))
    with pytest.raises(MessageTooLarge):
        await bus.publish("legacy.huge", b"x" * (7 * 1024 * 1024 + 512 * 1024))


async def test_a_bad_subject_is_refused(bus: Bus) -> None:
    with pytest.raises(PublishRefused, match="not a subject"):
        await bus.publish("events.a b", b"{}")


async def test_a_publish_rides_out_a_killed_broker(own_up: Up) -> None:
    async with connected(own_up.settings, name="test") as bus:
        fleet = Fleet(bus, source="test")
        os.kill(own_up.pids()["broker"], signal.SIGKILL)
        acks = await fleet.publish_many(
            (TrainingCompleted(config="c", model=str(n)) for n in range(300)), timeout_s=60
        )
        assert len({ack.seq for ack in acks}) == 300


async def test_a_publish_to_a_frozen_broker_ends_at_its_deadline(own_up: Up) -> None:
    async with connected(own_up.settings, name="test") as bus:
        fleet = Fleet(bus, source="test")
        pid = own_up.pids()["broker"]
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(NotAcknowledged, match="same id is safe"):
                await fleet.publish(TrainingCompleted(config="c"), id="frozen", timeout_s=1.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        again = await fleet.publish(TrainingCompleted(config="c"), id="frozen")
        info = await bus.api("STREAM.INFO.EVENTS", {"subjects_filter": "events.training.>"})
        assert info["state"]["subjects"]["events.training.completed.c"] == 1
        assert again.seq > 0


async def test_no_broker_is_an_error_that_says_what_to_do() -> None:
    settings = ConnectionSettings(nats_url="nats://127.0.0.1:1", connect_timeout_s=0.5)
    with pytest.raises(ConnectFailed, match="interlock up"):
        await connect(settings)


async def test_a_wrong_password_is_named(up: Up) -> None:
    settings = ConnectionSettings(
        nats_url=up.settings.nats_url, nats_user="interlock", connect_timeout_s=1.0
    )
    with pytest.raises(ConnectFailed, match=r"(?i)authorization"):
        await connect(settings)


def test_a_plain_script_that_publishes_and_exits_loses_nothing(up: Up, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    marker = uuid.uuid4().hex
    script.write_text(
        "import interlock\n"
        "from interlock_schemas.training import TrainingCompleted\n"
        "with interlock.connect_blocking() as fleet:\n"
        "    for n in range(50):\n"
        f"        fleet.publish(TrainingCompleted(config='{marker}', model=str(n)))\n"
        f"    fleet.publish_legacy('training_complete', {{'config_key': '{marker}'}})\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env=up.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

    async def count() -> int:
        async with connected(up.settings) as bus:
            info = await bus.api(
                "STREAM.INFO.EVENTS", {"subjects_filter": f"events.training.completed.{marker}"}
            )
            return sum((info["state"].get("subjects") or {}).values())

    deadline = time.monotonic() + PATIENCE_S
    while (seen := asyncio.run(count())) < 51 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert seen == 51
