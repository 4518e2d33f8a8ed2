"""Reads a stream in order without acknowledging: key-value watches, `tail`, and ledgers.

An ephemeral push consumer with flow control and a heartbeat. After a reconnection, a silence or a
gap it is made anew behind the last message seen, so nothing is missed and nothing comes twice.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, Literal

import msgspec

from interlock import logs
from interlock.bus import ApiError, Bus, Message
from interlock.delivery import parse_position
from interlock.errors import BusUnavailable, ContractBroken

__all__ = ["Reader", "Record"]

_HEARTBEAT_S: Final = 1.0
_SILENT_AFTER_S: Final = 2.5 * _HEARTBEAT_S
_HELD: Final = 4_096

log = logs.get_logger("interlock.reader")


class Record(msgspec.Struct, frozen=True):
    """One stored message."""

    subject: str
    seq: int
    time_ns: int
    headers: dict[str, str]
    body: bytes
    pending: int
    """How many more the stream held behind this one when it was sent: 0 is the end for now."""


class _Lost(Exception):
    """The consumer has to be made anew."""


class Reader:
    """Reads the subjects `filters` of a stream from where `start` says.

    `start` is a delivery policy of the JetStream API: ``{"deliver_policy": "all"}``,
    ``"last_per_subject"``, ``"new"``, or ``"by_start_time"`` with ``opt_start_time``.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        filters: tuple[str, ...],
        start: Mapping[str, Any],
        *,
        headers_only: bool = False,
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._filters = filters
        self._start = dict(start)
        self._headers_only = headers_only
        self._last_seq = 0
        self._caught_up = False

    async def records(self, *, until_end: bool = False) -> AsyncGenerator[Record, None]:
        """Yield message after message, for ever or until what is there now has been read."""
        async with contextlib.aclosing(self.follow()) as following:
            async for record in following:
                if record is not None:
                    yield record
                elif until_end:
                    return

    async def follow(self) -> AsyncGenerator[Record | None, None]:
        """What is there now, then None once, then what comes, for ever."""
        while True:
            try:
                async with contextlib.aclosing(self._once()) as once:
                    async for record in once:
                        self._last_seq = record.seq if record is not None else self._last_seq
                        yield record
            except _Lost as error:
                log.info("reading anew", stream=self._stream, after=self._last_seq, why=str(error))
            except BusUnavailable:
                await asyncio.sleep(0.2)

    async def snapshots(self) -> AsyncGenerator[Record | Literal["begin"] | None, None]:
        """As `follow`, but from the start again after each gap: "begin", what is there, None, on.

        For whoever must not take for standing what went while nobody looked, and left no trace.
        """
        while True:
            self._last_seq = 0
            self._caught_up = False
            yield "begin"
            try:
                async with contextlib.aclosing(self._once()) as once:
                    async for record in once:
                        yield record
            except _Lost as error:
                log.info("reading anew", stream=self._stream, why=str(error))
            except BusUnavailable:
                await asyncio.sleep(0.2)

    async def _once(self) -> AsyncGenerator[Record | None, None]:
        queue: asyncio.Queue[Record | _Lost | None] = asyncio.Queue(maxsize=_HELD)
        expected = 1
        name = ""

        async def on_message(message: Message) -> None:
            nonlocal expected
            headers = message.headers or {}
            if headers.get("Status") == "100":
                stalled = headers.get("Nats-Consumer-Stalled") or message.reply
                if stalled:
                    await self._bus.signal(stalled)
                elif headers.get("Nats-Last-Consumer", str(expected - 1)) != str(expected - 1):
                    await queue.put(_Lost("messages were missed"))
                else:
                    await queue.put(None)
                return
            at = parse_position(message.reply)
            if at.consumer != name and name:
                return
            if at.consumer_seq != expected:
                await queue.put(_Lost("messages were missed"))
                return
            expected += 1
            await queue.put(
                Record(
                    message.subject, at.stream_seq, at.time_ns, headers, message.data, at.pending
                )
            )

        inbox = self._bus.inbox()
        subscription = await self._bus.subscribe(inbox, on_message)
        loop = asyncio.get_running_loop()
        try:
            start = self._start
            if self._last_seq and await self._begins_anew():
                self._last_seq = 0
            if self._last_seq:
                start = {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last_seq + 1}
            filters: dict[str, Any] = (
                {"filter_subject": self._filters[0]}
                if len(self._filters) == 1
                else {"filter_subjects": list(self._filters)}
            )
            try:
                answer = await self._bus.api(
                    f"CONSUMER.CREATE.{self._stream}",
                    {
                        "stream_name": self._stream,
                        "config": {
                            **start,
                            **filters,
                            "deliver_subject": inbox,
                            "ack_policy": "none",
                            "max_deliver": 1,
                            "mem_storage": True,
                            "num_replicas": 1,
                            "flow_control": True,
                            "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
                            "inactive_threshold": int(30 * 1e9),
                            "headers_only": self._headers_only,
                        },
                    },
                )
            except ApiError as error:
                if error.code == 404:
                    raise ContractBroken(
                        f"stream {self._stream} is missing: run `interlock setup`"
                    ) from error
                if error.code != 503:
                    raise
                raise _Lost(str(error)) from error
            name = answer["name"]
            if int(answer.get("num_pending", 0)) == 0 and not self._caught_up:
                self._caught_up = True
                yield None
            lost: list[str] = []

            def reconnected() -> None:
                lost.append("reconnected")

            with self._bus.on_reconnect(reconnected):
                heard_at = loop.time()
                while True:
                    try:
                        async with asyncio.timeout(_HEARTBEAT_S):
                            item = await queue.get()
                    except TimeoutError:
                        if lost:
                            raise _Lost("the connection was lost") from None
                        if loop.time() - heard_at > _SILENT_AFTER_S and self._bus.connected:
                            raise _Lost("no heartbeat") from None
                        continue
                    heard_at = loop.time()
                    if isinstance(item, _Lost):
                        raise item
                    if item is None:
                        continue
                    yield item
                    if item.pending == 0 and not self._caught_up:
                        self._caught_up = True
                        yield None
        finally:
            await self._bus.unsubscribe(subscription)
            if self._bus.connected and name:
                with contextlib.suppress(ApiError, BusUnavailable):
                    await self._bus.api(f"CONSUMER.DELETE.{self._stream}.{name}", timeout_s=2)

    async def _begins_anew(self) -> bool:
        """Whether the stream was made anew, so that it counts from one again."""
        try:
            info = await self._bus.api(f"STREAM.INFO.{self._stream}")
        except ApiError as error:
            raise _Lost(str(error)) from error
        return bool(info["state"]["last_seq"] < self._last_seq)
