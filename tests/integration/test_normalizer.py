"""The event-normalizer on a real broker."""

import base64
import json
import socket
import time
import uuid
from urllib.parse import urlsplit

import msgspec
import pytest

from interlock.bus import Bus
from interlock.errors import CommandFailed
from interlock.fleet import Fleet
from interlock.reader import Reader, Record
from interlock_schemas import envelope, letters, mappings
from interlock_schemas.letters import Code, DeadLetter, LetterRecord
from tests.conftest import Up, cli_json, eventually


async def events_of(bus: Bus, message_id: str) -> list[Record]:
    """The canonical events of a legacy message."""
    reader = Reader(bus, "EVENTS", ("events.>",), {"deliver_policy": "all"})
    return [
        record
        async for record in reader.records(until_end=True)
        if (record.headers.get(envelope.ID) or "").startswith(f"legacy.{message_id}.")
    ]


async def letter_of(fleet: Fleet, message_id: str) -> LetterRecord:
    """The letter of a message, once it is there."""

    async def look() -> LetterRecord | None:
        page = await fleet.command(letters.LIST, letters.ListLetters(limit=1_000))
        return next((r for r in page.letters if r.message_id == message_id), None)

    found = await eventually(look)
    assert isinstance(found, LetterRecord)
    return found


async def send(bus: Bus, subject: str, body: bytes, **headers: str) -> str:
    """Publish a legacy message and return its id."""
    id = uuid.uuid4().hex
    await bus.publish(subject, body, {envelope.MSG_ID: id, **headers})
    return id


async def test_a_legacy_event_becomes_canonical_with_all_of_its_payload(bus: Bus) -> None:
    body = {
        "event_type": "TRAINING_COMPLETE",
        "payload": {
            "config_key": "hex8_2p",
            "host": "gpu-7",
            "final_loss": 0.25,
            "duration_seconds": 60,
            "own_field": {"deep": [1, None, "x"]},
        },
        "source": "trainer-3",
        "timestamp": 1_764_000_000.5,
    }
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    id = await send(bus, "legacy.bus", json.dumps(body).encode(), traceparent=trace)
    (event,) = await eventually(lambda: events_of(bus, id))
    assert event.subject == "events.training.completed.hex8_2p"
    payload = msgspec.json.decode(event.body)
    assert payload["config"] == "hex8_2p"
    assert payload["node"] == "gpu-7"
    assert payload["final_loss"] == 0.25
    assert payload["duration_s"] == 60
    assert payload["own_field"] == {"deep": [1, None, "x"]}
    assert payload["source"] == "trainer-3"
    assert event.headers[envelope.TYPE] == "training.completed"
    assert event.headers[envelope.SOURCE] == "trainer-3"
    assert event.headers[envelope.TIME] == "2025-11-24T16:00:00.500000Z"
    assert event.headers[envelope.LEGACY_NAME] == "TRAINING_COMPLETE"
    assert event.headers[envelope.LEGACY_SUBJECT] == "legacy.bus"
    assert event.headers[envelope.TRACEPARENT].split("-")[1] == trace.split("-")[1]


async def test_a_legacy_event_that_is_delivered_again_gives_one_canonical_event(bus: Bus) -> None:
    ids = [
        await send(bus, "legacy.selfplay_complete", b'{"config": "hex8_2p", "games": %d}' % n)
        for n in range(20)
    ]
    for id in ids:
        await eventually(lambda id=id: events_of(bus, id))
    await bus.api("CONSUMER.RESET.LEGACY.event-normalizer", {"seq": 1})

    async def done() -> bool:
        info = await bus.api("CONSUMER.INFO.LEGACY.event-normalizer")
        return bool(info["num_pending"] == 0 and info["num_ack_pending"] == 0)

    await eventually(done)
    for id in ids:
        assert len(await events_of(bus, id)) == 1


@pytest.mark.parametrize(
    ("subject", "body", "code"),
    [
        ("legacy.bus", b'{"event_type": "TRANING_COMPLETE", "payload": {}}', "unknown_name"),
        ("legacy.training_complete", b"\xff\xfe{", "undecodable"),
        ("legacy.training_complete", b'{"config": "c", "final_loss": "low"}', "invalid"),
        ("legacy.training_complete", b"[1, 2]", "invalid"),
    ],
)
async def test_what_has_no_canonical_form_becomes_a_letter_with_its_bytes(
    bus: Bus, fleet: Fleet, subject: str, body: bytes, code: str
) -> None:
    id = await send(bus, subject, body, **{"X-Custom": "kept"})
    record = await letter_of(fleet, id)
    assert record.code == code
    detail = await fleet.command(letters.SHOW, letters.ShowLetter(id=record.id))
    assert detail.body == body
    assert detail.headers["X-Custom"] == "kept"
    assert detail.record.reason
    if code == "unknown_name":
        assert any("training" in name.lower() for name in record.suggestions)


async def test_a_mapping_takes_effect_within_a_second_and_letters_replay(
    bus: Bus, fleet: Fleet
) -> None:
    name = f"odd_{uuid.uuid4().hex[:8]}"
    body = json.dumps({"event_type": name, "payload": {"config_key": "hex8_2p"}}).encode()
    early = await send(bus, "legacy.bus", body)
    record = await letter_of(fleet, early)
    await fleet.command(mappings.MAP, mappings.MapName(name=name.upper(), target="model.promoted"))
    begun = time.monotonic()
    late = await send(bus, "legacy.bus", body)
    assert await eventually(lambda: events_of(bus, late))
    assert time.monotonic() - begun < 30
    report = await fleet.command(letters.REPLAY, letters.ReplayLetters(ids=(record.id,)))
    assert report.done == (record.id,)
    (event,) = await eventually(lambda: events_of(bus, early))
    assert event.subject == "events.model.promoted.hex8_2p"

    async def resolved() -> bool:
        detail = await fleet.command(letters.SHOW, letters.ShowLetter(id=record.id))
        return detail.record.status == "resolved"

    await eventually(resolved)


async def test_mappings_to_nowhere_and_loops_are_refused(fleet: Fleet) -> None:
    first, second = (f"loop_{uuid.uuid4().hex[:8]}" for _ in range(2))
    with pytest.raises(CommandFailed, match="no event type") as refused:
        await fleet.command(mappings.MAP, mappings.MapName(name=first, target="model.promotd"))
    assert refused.value.code == "404"
    assert "model.promoted" in str(refused.value)
    await fleet.command(mappings.MAP, mappings.MapName(name=first, target="model.promoted"))
    await fleet.command(mappings.MAP, mappings.MapName(name=second, target=first))
    with pytest.raises(CommandFailed, match="loop"):
        await fleet.command(mappings.MAP, mappings.MapName(name=first, target=second))
    with pytest.raises(CommandFailed, match="loop"):
        await fleet.command(mappings.MAP, mappings.MapName(name=first, target=first))
    for name in (first, second):
        await fleet.command(mappings.UNMAP, mappings.UnmapName(name=name))


def send_raw(up: Up, *commands: bytes) -> None:
    """Speak the protocol by hand: what other clients may send and ours may not."""
    where = urlsplit(up.settings.nats_url)
    password = up.settings.nats_password
    assert password is not None
    hello = {
        "user": up.settings.nats_user,
        "pass": password.get_secret_value(),
        "verbose": False,
        "headers": True,
    }
    with socket.create_connection((str(where.hostname), int(where.port or 0))) as raw:
        raw.recv(65_536)
        raw.sendall(b"CONNECT " + json.dumps(hello).encode() + b"\r\n")
        for command in commands:
            raw.sendall(command)
        raw.sendall(b"PING\r\n")
        while b"PONG" not in raw.recv(65_536):
            pass


def hpub(subject: bytes, head: bytes, body: bytes) -> bytes:
    """A publish with a header block as it stands."""
    sizes = b"%d %d" % (len(head), len(head) + len(body))
    return b"HPUB " + subject + b" " + sizes + b"\r\n" + head + body + b"\r\n"


async def test_a_subject_that_is_not_text_neither_deafens_nor_loses(up: Up, bus: Bus) -> None:
    send_raw(up, b"PUB legacy.\xff\xfe\x80 2\r\n{}\r\n")

    async def captured() -> bool:
        info = await bus.api("STREAM.INFO.DEAD")
        seq = info["state"]["last_seq"]
        message = (await bus.api("STREAM.MSG.GET.DEAD", {"seq": seq}))["message"]
        return b"xff" in base64.b64decode(message.get("hdrs", ""))

    await eventually(captured)
    id = await send(bus, "legacy.bus", b'{"event_type": "model_promoted", "payload": {}}')
    assert await eventually(lambda: events_of(bus, id))


async def ends(bus: Bus) -> tuple[int, int]:
    """How many canonical events and letters there are, once nothing moves."""

    async def still() -> bool:
        for stream, name in (("LEGACY", "event-normalizer"), ("DEAD", "dead-letter-queue")):
            info = await bus.api(f"CONSUMER.INFO.{stream}.{name}")
            if info["num_pending"] or info["num_ack_pending"]:
                return False
        return True

    await eventually(still)
    figures = [(await bus.api(f"STREAM.INFO.{s}"))["state"]["messages"] for s in ("EVENTS", "DEAD")]
    return figures[0], figures[1]


def block(*lines: str) -> bytes:
    return ("NATS/1.0\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()


HOSTILE = {
    "no line end": b"NATS/1.0",
    "nonsense": b"X",
    "a status": b"NATS/1.0 503\r\n\r\n",
    "names that our client may not send": block("foo(bar): 1", "a/b: 2", "ü: 3"),
    "no utf-8": b"NATS/1.0\r\nX: \xff\xfe\r\n\xff: 1\r\n: nameless\r\nno colon\r\n\r\n",
    "a hop that is a digit and no number": block("interlock-replay-hop: ²"),
    "a hop with five thousand digits": block("interlock-replay-hop: " + "9" * 5_000),
    "a replay for somebody else": block(
        "interlock-replay-of: zzz", "interlock-replay-for: zzz", "interlock-replay-hop: 1"
    ),
    "a letter that is no letter": block(
        "interlock-replay-of: a b.*>", "interlock-replay-for: x", "interlock-replay-hop: 1"
    ),
    "one header of sixty-four thousand bytes": block("X: " + "x" * 65_300),
    "six thousand headers": block(*(f"h{n}: 1" for n in range(6_000))),
    "an id that grows when it is escaped": block("Nats-Msg-Id: " + "é" * 15_000),
    "an expectation": block("Nats-Expected-Stream: LEGACY"),
}


@pytest.mark.parametrize("head", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("name", ["model_promoted", "nobody_knows_it"])
async def test_whatever_stands_in_the_headers_each_message_has_one_end(
    up: Up, bus: Bus, head: bytes, name: str
) -> None:
    pids = up.pids()
    before = await ends(bus)
    stored = (await bus.api("STREAM.INFO.LEGACY"))["state"]["messages"]
    mark = uuid.uuid4().hex
    for number in range(2):
        body = json.dumps({"event_type": name, "payload": {"mark": mark, "n": number}}).encode()
        send_raw(up, hpub(b"legacy.raw", head, body))
    # The broker itself drops a second message under one Nats-Msg-Id.
    wanted = (0, 1) if b"Nats-Msg-Id" in head else (2,)

    async def balanced() -> bool:
        events, dead = await ends(bus)
        arrived = (await bus.api("STREAM.INFO.LEGACY"))["state"]["messages"] - stored
        return arrived in wanted and events - before[0] + dead - before[1] == arrived

    await eventually(balanced)
    assert up.pids() == pids


async def test_a_letter_keeps_the_header_block_that_the_sender_wrote(up: Up, fleet: Fleet) -> None:
    id = uuid.uuid4().hex
    head = block(f"Nats-Msg-Id: {id}", "Y/2: first", "Y/2: second", "X(1)[ü]: a")
    send_raw(up, hpub(b"legacy.raw", head, b'{"event_type": "nobody"}'))
    record = await letter_of(fleet, id)
    detail = await fleet.command(letters.SHOW, letters.ShowLetter(id=record.id))
    assert detail.raw_headers == head
    assert detail.headers["Y/2"] == "first"
    assert detail.headers["X(1)[ü]"] == "a"
    report = await fleet.command(letters.REPLAY, letters.ReplayLetters(ids=(record.id,)))
    assert report.done == (record.id,)


async def test_two_messages_under_one_cloudevents_id_are_two_events(bus: Bus) -> None:
    id = uuid.uuid4().hex
    for loss in (b"0.1", b"0.2"):
        body = b'{"event_type": "model_promoted", "payload": {"loss": ' + loss + b"}}"
        await bus.publish("legacy.bus", body, {envelope.ID: id})

    async def both() -> bool:
        return len(await events_of(bus, id)) == 2

    await eventually(both)


async def test_a_replay_leaves_behind_what_the_sender_told_the_broker(
    bus: Bus, fleet: Fleet
) -> None:
    id = await send(
        bus, "legacy.bus", b'{"event_type": "nobody_at_all"}', **{"Nats-Expected-Stream": "LEGACY"}
    )
    record = await letter_of(fleet, id)
    report = await fleet.command(letters.REPLAY, letters.ReplayLetters(ids=(record.id,)))
    assert report.done == (record.id,)


async def test_mappings_survive_a_restart(own_up: Up) -> None:
    cli_json(own_up, "legacy", "map", "night_shift_over", "training.completed")
    assert own_up.stop() == 0
    own_up.start()
    told = cli_json(own_up, "legacy", "explain", "NIGHT-SHIFT-OVER")
    assert told["canonical_type"] == "training.completed"
    assert "run time" in told["rule"]


@pytest.mark.parametrize(
    "subject",
    ["$JS.API.STREAM.PURGE.EVENTS", "cmd.dead-letter-queue.count", "$KV.letters.x", "events.>"],
)
async def test_a_forged_letter_is_never_sent_where_letters_do_not_come_from(
    bus: Bus, fleet: Fleet, subject: str
) -> None:
    forged = DeadLetter(
        id=uuid.uuid4().hex[:16], code=Code.HANDLER_FAILED, reason="forged", service="x",
        consumer="event-normalizer", message_id="m", subject=subject, stream="LEGACY",
        stream_seq=1, attempts=1, first_at="2026-01-01T00:00:00Z", last_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    headers, _ = letters.write_letter(forged)
    await bus.publish("dead.x.handler_failed", b"", headers)

    async def recorded() -> bool:
        page = await fleet.command(letters.LIST, letters.ListLetters(limit=1_000))
        return any(record.id == forged.id for record in page.letters)

    await eventually(recorded)
    before = (await bus.api("STREAM.INFO.EVENTS"))["state"]["messages"]
    report = await fleet.command(letters.REPLAY, letters.ReplayLetters(ids=(forged.id,)))
    assert "no place that letters are sent back to" in report.refused[forged.id]
    assert (await bus.api("STREAM.INFO.EVENTS"))["state"]["messages"] >= before
    await fleet.command(letters.DISCARD, letters.DiscardLetters(ids=(forged.id,), reason="forged"))


async def test_a_letter_whose_consumer_is_gone_is_not_replayed_into_the_void(
    bus: Bus, fleet: Fleet
) -> None:
    orphan = DeadLetter(
        id=uuid.uuid4().hex[:16], code=Code.HANDLER_FAILED, reason="r", service="gone",
        consumer="gone", message_id=uuid.uuid4().hex, subject="legacy.x", stream="LEGACY",
        stream_seq=1, attempts=1, first_at="2026-01-01T00:00:00Z", last_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    headers, body = letters.write_letter(orphan)
    await bus.publish("dead.gone.handler_failed", body, headers)
    record = await letter_of(fleet, orphan.message_id)
    report = await fleet.command(letters.REPLAY, letters.ReplayLetters(ids=(record.id,)))
    assert "gone" in report.refused[record.id]


async def test_what_is_no_letter_and_as_large_as_can_be_ends_no_service(up: Up, bus: Bus) -> None:
    pids = up.pids()
    before = await ends(bus)
    await bus.publish("dead.x.big", b"x" * (7 * 1024 * 1024 + 500 * 1024))
    after = await ends(bus)
    assert after[1] == before[1] + 2
    assert up.pids() == pids
