"""Pulls messages of a durable consumer: never more than there are free places for them.

Pulls overlap, so that a busy handler pool does not wait for a round trip, and each carries a
heartbeat (ADR-37), so that a broker that forgot about us is noticed. What to do with a message is
the caller's matter.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from interlock import logs
from interlock.bus import ApiError, Bus, Message
from interlock.delivery import Delivery
from interlock.errors import BusUnavailable, ContractBroken

__all__ = ["PullLoop"]

_EXPIRES_S: Final = 20.0
_HEARTBEAT_S: Final = 2.0
_SILENT_AFTER_S: Final = 2.5 * _HEARTBEAT_S
_NO_ANSWER_PAUSE_S: Final = 0.5
#: What one pull may bring, and what may be in hand when another is sent, bytes. Without it, a
#: backlog of large messages overruns the broker's buffer for us, and it cuts us off.
_PULL_BYTES: Final = 32 * 1024 * 1024
#: Ends of a pull with a byte limit that are as they should be: the next one may follow at once.
_ENDS_WELL: Final = ("Batch Completed", "Message Size Exceeds MaxBytes")
#: So long may the consumer go without an answer before we ask whether it still exists.
_MISSING_AFTER_S: Final = 10.0

log = logs.get_logger("interlock.pull")


class PullLoop:
    """Keeps up to `places` messages of one consumer in hand.

    `handle` is started for each message in a task of its own, and the place is free again when it
    returns. An exception out of `handle` ends the loop: handlers that may fail catch it themselves.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        consumer: str,
        *,
        places: int,
        handle: Callable[[Delivery], Awaitable[None]],
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._consumer = consumer
        self._places = places
        self._handle = handle
        self._in_hand: set[asyncio.Task[None]] = set()
        self._bytes_in_hand = 0
        self._requested = 0
        self._generation = 0
        self._heard_at = 0.0
        self._unanswered_since: float | None = None
        self._not_before = 0.0
        self._wake = asyncio.Event()
        self._stopping = False

    @property
    def in_hand(self) -> int:
        """Messages being handled at this moment."""
        return len(self._in_hand)

    def stop(self) -> None:
        """Take no more; `run` returns once everything in hand has been handled."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Pull until `stop` is called."""
        loop = asyncio.get_running_loop()
        inbox = self._bus.inbox()

        def reset() -> None:
            self._generation += 1
            self._requested = 0
            self._heard_at = loop.time()
            self._wake.set()

        async with asyncio.TaskGroup() as group:

            async def on_message(message: Message) -> None:
                self._heard_at = loop.time()
                if not message.reply.startswith("$JS.ACK."):
                    self._on_status(message)
                    return
                self._unanswered_since = None
                self._requested = max(0, self._requested - 1)
                task = group.create_task(self._run_one(Delivery(self._bus, message)))
                self._in_hand.add(task)
                task.add_done_callback(self._free)

            subscription = await self._bus.subscribe(f"{inbox}.*", on_message)
            try:
                with self._bus.on_reconnect(reset):
                    self._heard_at = loop.time()
                    while not self._stopping:
                        await self._step(inbox)
            finally:
                await self._bus.unsubscribe(subscription)

    async def _run_one(self, delivery: Delivery) -> None:
        size = len(delivery.body)
        self._bytes_in_hand += size
        try:
            await self._handle(delivery)
        finally:
            self._bytes_in_hand -= size

    def _free(self, task: asyncio.Task[None]) -> None:
        self._in_hand.discard(task)
        self._wake.set()

    async def _step(self, inbox: str) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._requested and now - self._heard_at > _SILENT_AFTER_S and self._bus.connected:
            log.warning("pull went silent, asking again", consumer=self._consumer)
            self._generation += 1
            self._requested = 0
        free = self._places - len(self._in_hand) - self._requested
        if (
            free >= max(1, self._places // 4)
            and self._bytes_in_hand < _PULL_BYTES
            and self._bus.connected
            and now >= self._not_before
        ):
            if (
                self._unanswered_since is not None
                and now - self._unanswered_since > _MISSING_AFTER_S
            ):
                await self._check_exists()
                self._unanswered_since = None
            self._requested += free
            self._heard_at = loop.time()
            request = {
                "batch": free,
                "max_bytes": _PULL_BYTES,
                "expires": int(_EXPIRES_S * 1e9),
                "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
            }
            await self._bus.client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}",
                msgspec.json.encode(request),
                reply=f"{inbox}.{self._generation}",
            )
        self._wake.clear()
        pause = max(0.01, self._not_before - now) if now < self._not_before else _HEARTBEAT_S
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _on_status(self, message: Message) -> None:
        """A heartbeat, or the end of a pull."""
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status == "100" or message.subject.rpartition(".")[2] != str(self._generation):
            return
        if status == "503":
            loop = asyncio.get_running_loop()
            self._requested = 0
            self._generation += 1
            self._not_before = loop.time() + _NO_ANSWER_PAUSE_S
            if self._unanswered_since is None:
                self._unanswered_since = loop.time()
        else:
            left = headers.get("Nats-Pending-Messages", "")
            self._requested = max(0, self._requested - int(left)) if left.isdigit() else 0
            why = headers.get("Description", "")
            if status == "409" and not why.startswith(_ENDS_WELL):
                log.info("pull ended", consumer=self._consumer, why=why)
                self._not_before = asyncio.get_running_loop().time() + _NO_ANSWER_PAUSE_S
        self._wake.set()

    async def _check_exists(self) -> None:
        try:
            await self._bus.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
        except ApiError as error:
            if error.code == 404:
                raise ContractBroken(
                    f"consumer {self._consumer} of stream {self._stream} is gone: run "
                    "`interlock setup`, then start again (a worker makes its own when it starts)"
                ) from error
            raise
        except BusUnavailable:
            return
