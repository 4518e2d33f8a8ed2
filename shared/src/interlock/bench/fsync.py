"""Watches a real broker through ``strace`` while messages are published to it."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Final

import msgspec
from pydantic import SecretStr

from interlock.bench.trace import SyncOrder, sync_order
from interlock.broker import EmbeddedBroker
from interlock.bus import Outgoing, connected
from interlock.errors import InterlockError
from interlock.process import became_ready, signal_group, spawn
from interlock.settings import ConnectionSettings

__all__ = ["SyncReport", "trace_sync"]

_STREAM: Final = "TRACED"
_SINGLES: Final = 10
_BATCHES: Final = 5
_BATCH: Final = 100


class SyncReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was published and what the system calls show."""

    sync: str
    """``always`` or ``default``: how the broker was set."""
    singles: int
    """Messages published one by one."""
    batches: int
    """Batches published one by one."""
    batch_messages: int
    """Messages in each."""
    trace: SyncOrder

    @property
    def ok(self) -> bool:
        """Whether every acknowledgement came after the sync of what it acknowledges."""
        return (
            self.trace.acknowledgements >= self.singles + self.batches
            and self.trace.syncs >= self.singles + self.batches
            and self.trace.too_early == 0
        )


async def trace_sync(*, sync_always: bool = True, folder: Path | None = None) -> SyncReport:
    """Publish singles and batches, one at a time, and read what the broker did on their account.

    Raises InterlockError where ``strace`` is missing or may not trace.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise InterlockError("strace is not installed: `apt-get install strace`, then try again")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        state = Path(name)
        trace = state / "trace"
        broker = EmbeddedBroker(state, sync_always=sync_always)
        broker.prepare()
        calls = "write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync"
        command = [strace, "-f", "-y", "-s", "256", "-e", f"trace={calls}", "-o", str(trace)]
        process = await spawn([*command, *broker.command()], env={}, log=broker.log_path)
        try:
            if not await became_ready(process, lambda: broker.ready(30)):
                raise InterlockError(
                    "the broker did not run under strace: tracing may be forbidden here. "
                    + broker.log_path.read_text(errors="replace")[-500:]
                )
            settings = ConnectionSettings(
                nats_url=broker.url,
                nats_user=broker.user,
                nats_password=SecretStr(broker.password),
            )
            await _publish(settings)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await process.wait()
            if process.returncode is None:
                signal_group(process, signal.SIGKILL)
                await process.wait()
        with trace.open(errors="replace") as lines:
            order = sync_order(lines, _STREAM)
    return SyncReport(
        sync="always" if sync_always else "default",
        singles=_SINGLES,
        batches=_BATCHES,
        batch_messages=_BATCH,
        trace=order,
    )


async def _publish(settings: ConnectionSettings) -> None:
    async with connected(settings) as bus:
        config = {
            "name": _STREAM,
            "subjects": ["traced.>"],
            "storage": "file",
            "allow_atomic": True,
        }
        await bus.api(f"STREAM.CREATE.{_STREAM}", config)
        for number in range(_SINGLES):
            await bus.publish("traced.single", b"%d" % number)
        for _ in range(_BATCHES):
            await bus.publish_many([Outgoing("traced.batch", b"x" * 64)] * _BATCH)
