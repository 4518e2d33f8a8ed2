"""Ten thousand messages that nobody meant: each ends as a canonical event or a dead letter."""

import asyncio
import json
import random
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.bus import connected
from interlock.errors import PublishRefused
from interlock.fleet import Fleet
from interlock_schemas import legacy, letters
from tests.conftest import PATIENCE_S, Up, eventually

COUNT = 10_000
SEED = 20_251_226


class Fuzz:
    """Makes messages: subject and body."""

    def __init__(self, seed: int) -> None:
        self.rand = random.Random(seed)
        self.names = [name for name, _ in legacy.known_names()]

    def text(self, longest: int = 12) -> str:
        alphabet = string.ascii_letters + string.digits + ' _.-\\"\0\n\x1béß漢🙂\ud800'
        return "".join(self.rand.choices(alphabet, k=self.rand.randrange(longest)))

    def value(self, depth: int = 0) -> Any:
        kind = self.rand.randrange(8 if depth < 4 else 5)
        if kind == 0:
            return None
        if kind == 1:
            return self.rand.choice((True, False, 0, -1, 2**63, 2**70, -(2**80)))
        if kind == 2:
            return self.rand.choice((0.5, -0.0, 1e308, 5e-324, self.rand.random()))
        if kind in (3, 4):
            return self.text()
        if kind == 5:
            return [self.value(depth + 1) for _ in range(self.rand.randrange(4))]
        return {self.text(): self.value(depth + 1) for _ in range(self.rand.randrange(4))}

    def name(self) -> Any:
        return self.rand.choice(
            (self.rand.choice(self.names), self.rand.choice(self.names), self.text(), self.value())
        )

    def envelope(self) -> dict[str, Any]:
        fields = ("config", "config_key", "node_id", "host", "final_loss", "games", "model_id",
                  "duration_seconds", "epochs", "timestamp", "board_type", "num_players",
                  "elo", "success", "error", self.text())  # fmt: skip
        payload = {
            field: self.rand.choice((self.value(), "hex8_2p", 3, 0.5))
            for field in self.rand.sample(fields, self.rand.randrange(6))
        }
        key = self.rand.choice(("event_type", "type", "event", "name", "kind"))
        where = self.rand.choice(("payload", "data", None))
        content: dict[str, Any] = {key: self.name()}
        if where is None:
            return content | payload
        content[where] = self.rand.choice((payload, payload, payload, self.value()))
        return content

    def message(self) -> tuple[str, bytes]:
        subject = (
            self.rand.choice(
                ("legacy.bus", "legacy.a.b.c", f"legacy.{self.rand.choice(self.names)}")
            )
            .replace("(", "")
            .replace(")", "")
        )
        kind = self.rand.randrange(100)
        if kind < 15:
            return subject, self.rand.randbytes(self.rand.randrange(300))
        if kind < 25:
            return subject, json.dumps(self.value()).encode("utf-8", "surrogatepass")
        if kind < 27:
            depth = self.rand.choice((50, 900, 1_100, 20_000))
            opening, closing = self.rand.choice(((b"[", b"]"), (b'{"a":', b"}")))
            return subject, opening * depth + b"1" + closing * depth
        if kind < 28:
            huge = "x" * self.rand.choice((100_000, 900_000, 3_000_000))
            where = self.rand.choice(("event_type", "config", "own"))
            return subject, json.dumps({"type": "training_complete", where: huge}).encode()
        if kind < 33:
            body = json.dumps(self.envelope()).encode()
            cut = self.rand.randrange(len(body))
            return subject, body[:cut] + self.rand.choice((b"", b"\xff\xfe", b"\xed\xa0\x80"))
        return subject, json.dumps(self.envelope()).encode()


@pytest.fixture
def own_up(tmp_path: Path) -> Iterator[Up]:
    """The two services that it is about, so that every event is theirs."""
    names = ("event-normalizer", "dead-letter-queue")
    fleet = Up(tmp_path / "state", *(word for name in names for word in ("--only", name)))
    fleet.await_services = lambda: None  # type: ignore[method-assign]
    fleet.start()
    deadline = time.monotonic() + PATIENCE_S
    while not set(names) <= set(fleet.pids()) and time.monotonic() < deadline:
        time.sleep(0.1)
    yield fleet
    fleet.stop()


async def test_ten_thousand_fuzzed_messages_each_have_one_end(own_up: Up) -> None:
    before = own_up.pids()
    fuzz = Fuzz(SEED)
    stored = 0
    async with connected(own_up.settings, name="fuzz") as bus:
        places = asyncio.Semaphore(64)

        async def send(subject: str, body: bytes) -> None:
            nonlocal stored
            async with places:
                try:
                    await bus.publish(subject, body, timeout_s=60)
                except PublishRefused:
                    return
                stored += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(COUNT):
                group.create_task(send(*fuzz.message()))
        assert stored == COUNT
        assert (await bus.api("STREAM.INFO.LEGACY"))["state"]["messages"] == COUNT

        async def ended() -> bool:
            for stream, name in (("LEGACY", "event-normalizer"), ("DEAD", "dead-letter-queue")):
                info = await bus.api(f"CONSUMER.INFO.{stream}.{name}")
                if info["num_pending"] or info["num_ack_pending"]:
                    return False
            return True

        await eventually(ended, patience_s=110)
        canonical = (await bus.api("STREAM.INFO.EVENTS"))["state"]["messages"]
        counts = await Fleet(bus, source="fuzz").command(letters.COUNT, letters.CountLetters())
        dead = sum(counts.by_status.values())
    assert canonical + dead == COUNT
    assert canonical > 1_000
    assert dead > 1_000
    assert set(counts.open_by_code) >= {"unknown_name", "undecodable", "invalid"}
    assert own_up.pids() == before
