"""Writes down every message of the lock bucket while a run lasts: a process of its own.

The bucket keeps the last message of each key, so whoever reads it later, or lags behind for a
moment, misses what was written over; a stream that sources it lost a fifth in trials. Instead the
run has the broker republish each message as it is stored, and this process listens at each server
past all proxies. It also reads the stream, for what was stored just before its connection stood
again. What neither caught is known to be missing by its sequence.
"""

import argparse
import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Final

import msgspec
import nats
from nats.aio.msg import Msg

from interlock import logs
from interlock.bus import connect
from interlock.chaos.locks.records import Record, decode
from interlock.clock import parse_ns
from interlock.reader import Reader
from interlock.settings import ConnectionSettings
from interlock_schemas.topology import LOCKS

__all__ = ["REPUBLISH", "Seen", "read_records"]

_SUBJECT: Final = "chaos.history"
#: What the bucket's stream is given for the run.
REPUBLISH: Final = {"src": LOCKS.subject, "dest": f"{_SUBJECT}.>"}

_RECONNECT_S: Final = 0.02
_PENDING: Final = 1_000_000
#: Which headers say something of the message.
_KEPT: Final = ("KV-Operation", "Nats-Marker-Reason", "Nats-TTL")

log = logs.get_logger("interlock.chaos")


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """One message as it is written down."""

    subject: str
    seq: int
    time_ns: int
    headers: dict[str, str]
    body: str


class _Book:
    """Where it is written down, each message once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._encoder = msgspec.json.Encoder()
        self._seen: set[int] = set()
        self._lines: list[bytes] = []

    def take(
        self, subject: str, seq: int, time_ns: int, headers: dict[str, str], body: bytes
    ) -> None:
        if seq in self._seen:
            return
        self._seen.add(seq)
        kept: dict[str, str] = {name: headers[name] for name in _KEPT if name in headers}
        # What a run writes is text.
        seen = Seen(subject, seq, time_ns, kept, body.decode())
        self._lines.append(self._encoder.encode(seen))

    async def write_on(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.flush()

    def flush(self) -> None:
        if self._lines:
            os.write(self._file, b"\n".join((*self._lines, b"")))
            self._lines.clear()


async def _listen(url: str, settings: ConnectionSettings, book: _Book) -> None:
    async def on_message(message: Msg) -> None:
        headers = dict(message.headers or {})
        book.take(
            headers["Nats-Subject"],
            int(headers["Nats-Sequence"]),
            parse_ns(headers["Nats-Time-Stamp"]),
            headers,
            message.data,
        )

    async def on_error(error: Exception) -> None:
        log.info("listening at a server", url=url, why=str(error))

    connection = await nats.connect(
        url,
        user=settings.nats_user,
        password=settings.nats_password.get_secret_value() if settings.nats_password else None,
        max_reconnect_attempts=-1,
        reconnect_time_wait=_RECONNECT_S,
        ping_interval=1,
        max_outstanding_pings=2,
        error_cb=on_error,
    )
    try:
        await connection.subscribe(
            f"{_SUBJECT}.>",
            cb=on_message,
            pending_msgs_limit=_PENDING,
            pending_bytes_limit=1 << 30,
        )
        await connection.flush()
        await asyncio.Event().wait()
    finally:
        await connection.close()


async def _read(settings: ConnectionSettings, book: _Book) -> None:
    bus = await connect(settings, name="chaos-observer")
    try:
        reader = Reader(bus, LOCKS.stream, (LOCKS.subject,), {"deliver_policy": "all"})
        async with contextlib.aclosing(reader.records()) as records:
            async for record in records:
                book.take(record.subject, record.seq, record.time_ns, record.headers, record.body)
    finally:
        await bus.close()


async def _main(path: Path) -> None:
    settings = ConnectionSettings()
    assert settings.nats_url is not None  # noqa: S101 - the run sets it
    book = _Book(path)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as group:
        listening = [_listen(url, settings, book) for url in settings.nats_url.split(",")]
        work = [book.write_on(), _read(settings, book), *listening]
        tasks = [group.create_task(each) for each in work]
        await stop.wait()
        for task in tasks:
            task.cancel()
    book.flush()


def read_records(path: Path, *, behind_ns: int) -> list[Record]:
    """What was written down. ``behind_ns``: broker's clock less the ledgers' clock."""
    decoder = msgspec.json.Decoder(Seen)
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            seen = decoder.decode(line)
        except msgspec.DecodeError:
            continue  # the last one, if it was killed
        found.append(
            decode(
                seen.subject,
                seen.seq,
                seen.time_ns,
                seen.headers,
                seen.body.encode(),
                behind_ns=behind_ns,
            )
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, required=True)
    given = parser.parse_args()
    logs.configure("info", "console")
    asyncio.run(_main(given.path))
