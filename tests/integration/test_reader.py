"""Reading a stream in order, across everything that happens to the broker and the stream."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator

from interlock.bus import connected
from interlock.kv import Entry, Store
from interlock.provisioning import bucket_config
from interlock.reader import Reader
from interlock_schemas.topology import Bucket
from tests.conftest import Up, eventually, running


async def test_a_watch_tells_what_stands_then_its_end_then_what_changes(own_up: Up) -> None:
    bucket = Bucket(name=f"t_{uuid.uuid4().hex[:8]}", summary="A test's.")
    async with connected(own_up.settings) as bus:
        await bus.api(f"STREAM.CREATE.{bucket.stream}", bucket_config(bucket))
        store = Store(bus, bucket)
        seen: list[Entry | None] = []

        async def watch() -> None:
            async for entry in store.watch():
                seen.append(entry)

        async def told(count: int) -> bool:
            return len(seen) >= count

        async with running(watch()):
            await eventually(lambda: told(1))
            assert seen == [None]
            revision = await store.put("a", b"1", revision=0)
            await eventually(lambda: told(2))
            os.kill(own_up.pids()["broker"], signal.SIGKILL)
            revision = await store.put("a", b"2", revision=revision)
            await eventually(lambda: told(3))
            await store.delete("a", revision=revision)
            await eventually(lambda: told(4))
        values = [entry.value for entry in seen if entry is not None]
        assert values == [b"1", b"2", None]
        assert seen.count(None) == 1
        again = await store.get("a")
        assert again.value is None
        await store.put("b", b"3", revision=0)
        first = [entry async for entry in _until_told(store)]
        assert [(entry.key, entry.value) for entry in first] == [("a", None), ("b", b"3")]


async def _until_told(store: Store) -> AsyncIterator[Entry]:
    async for entry in store.watch():
        if entry is None:
            return
        yield entry


async def test_a_reader_notices_that_a_stream_was_made_anew(own_up: Up) -> None:
    async with connected(own_up.settings) as bus:
        config = {"name": "TMP", "subjects": ["tmp.>"], "storage": "file"}
        await bus.api("STREAM.CREATE.TMP", config)
        for number in range(5):
            await bus.publish("tmp.x", str(number).encode())
        seen: list[bytes] = []

        async def read() -> None:
            async for record in Reader(bus, "TMP", ("tmp.>",), {"deliver_policy": "all"}).records():
                seen.append(record.body)

        async def saw(body: bytes) -> bool:
            return body in seen

        async with running(read()):
            await eventually(lambda: saw(b"4"))
            await bus.api("STREAM.DELETE.TMP")
            await bus.api("STREAM.CREATE.TMP", config)
            await bus.publish("tmp.x", b"anew")
            await eventually(lambda: saw(b"anew"))
        assert seen == [b"0", b"1", b"2", b"3", b"4", b"anew"]


async def test_reading_to_the_end_of_nothing_ends(own_up: Up) -> None:
    async with connected(own_up.settings) as bus, asyncio.timeout(30):
        reader = Reader(bus, "DEAD", ("dead.>",), {"deliver_policy": "all"})
        assert [record async for record in reader.records(until_end=True)] == []
