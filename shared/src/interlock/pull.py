"""Pulls messages of a durable consumer: never more than there are free places for them.

Pulls overlap, so that a busy handler pool does not wait for a round trip, and each carries a
heartbeat (ADR-37), so that a broker that forgot about us is noticed. What to do with a message is
the caller's matter.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import nats.errors
from nats.aio.subscription import Subscription

from interlock import logs
from interlock.bus import ApiError, Bus
from interlock.delivery import Delivery
from interlock.errors import BusUnavailable, ContractBroken
from interlock.headers import parse
from interlock.in_hand import InHand

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
#: So long may a consumer that nobody makes again be missing before that is taken for a fact.
_MISSING_AFTER_S: Final = 10.0
#: So long is tried to make one again whose stream is missing, too.
_GIVEN_UP_AFTER_S: Final = 60.0
#: How often is asked whether a consumer that does not answer still exists.
_CHECK_EVERY_S: Final = 0.5

log = logs.get_logger("interlock.pull")


class PullLoop:
    """Keeps up to `places` messages of one consumer in hand.

    `arrived` is called for each message from the read loop, and neither blocks nor raises.
    `remake` makes the consumer again where it is gone; without it, that is a ContractBroken.
    `resumed` is awaited before the first pull of each connection, and of each leader.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        consumer: str,
        *,
        places: int,
        in_hand: InHand,
        arrived: Callable[[Delivery], None],
        remake: Callable[[], Awaitable[None]] | None = None,
        resumed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._consumer = consumer
        self.places = places
        """How many may be in hand. 0 stops pulling; changed at any time, followed by `poke`."""
        self._in_hand = in_hand
        self._arrived = arrived
        self._remake = remake
        self._resumed = resumed
        self.created = ""
        """When the consumer was made, as the broker spells it. Another time is another consumer."""
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._requested = 0
        self._generation = 0
        self._heard_at = 0.0
        self._not_before = 0.0
        self._missing_since: float | None = None
        self._checked_at = 0.0
        #: The connection to whose broker we have reported what is in hand; None: report it first.
        self._epoch: int | None = None
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._wake = asyncio.Event()
        self._poked = False
        self._stopping = False
        self._time: Callable[[], float] = lambda: 0.0

    @property
    def current(self) -> bool:
        """Whether what arrives was asked for on this connection, after `resumed`."""
        return self._epoch is not None and self._epoch == self._bus.client.epoch

    def stop(self) -> None:
        """Ask for no more; `run` returns."""
        self._stopping = True
        self._wake.set()

    def poke(self) -> None:
        """Places came free: ask for more at the end of this turn of the loop."""
        if not self._poked and self._inbox:
            self._poked = True
            asyncio.get_running_loop().call_soon(self._poke)

    def _poke(self) -> None:
        self._poked = False
        if self._in_hand.old:
            self._in_hand.report_old()
        self._ask()

    async def run(self) -> None:
        """Pull until `stop` is called; what arrives until the very end still reaches `arrived`."""
        self._time = asyncio.get_running_loop().time
        await self._subscribe()
        try:
            with self._bus.on_reconnect(self._wake.set):
                self._heard_at = self._time()
                while not self._stopping:
                    await self._step()
        except BaseException:
            if self._subscription is not None:
                await self._bus.unsubscribe(self._subscription)
            raise
        await self._unsubscribe()

    async def renew_inbox(self) -> None:
        """Take back all pulls that the broker still holds."""
        await self._unsubscribe()
        await self._subscribe()
        self._wake.set()

    async def _subscribe(self) -> None:
        self._inbox = self._bus.inbox()
        self._generation += 1
        self._requested = 0
        self._subscription = await self._bus.listen(f"{self._inbox}.*", self._heard)

    async def _unsubscribe(self) -> None:
        """End the subscription, and still hear what the broker sent before it learnt of it."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        self._inbox = ""
        try:
            if self._bus.connected:
                await subscription.unsubscribe()
                await self._bus.flush()
        finally:
            with contextlib.suppress(nats.errors.BadSubscriptionError):
                await self._bus.unsubscribe(subscription)

    def _heard(self, subject: bytes, reply: bytes, block: bytes, body: bytes) -> None:
        self._heard_at = self._time()
        if not reply.startswith(b"$JS.ACK."):
            self._on_status(subject, block)
            return
        if self._requested:
            self._requested -= 1
        self._missing_since = None
        delivery = Delivery(self._bus, subject, reply, block, body)
        if self._in_hand.add(delivery):
            self._arrived(delivery)
        if self._in_hand.old:
            self.poke()

    def _on_status(self, subject: bytes, block: bytes) -> None:
        """A heartbeat, or the end of a pull."""
        headers = parse(block)
        status = headers.get("Status", "")
        if status == "100" or subject.rpartition(b".")[2] != b"%d" % self._generation:
            return
        now = self._time()
        left = headers.get("Nats-Pending-Messages", "")
        why = headers.get("Description", "")
        if status == "503" or why.startswith(("Consumer Deleted", "No Responders")):
            self._lost(now)
            if self._missing_since is None:
                self._missing_since = now
        elif status == "409" and not why.startswith(_ENDS_WELL):
            log.info("pull ended", consumer=self._consumer, why=why)
            # It may be another leader who answers next.
            self._lost(now)
        else:
            self._requested = max(0, self._requested - int(left)) if left.isdigit() else 0
        self._wake.set()

    def _lost(self, now: float) -> None:
        """The pulls that were sent are no more."""
        self._generation += 1
        self._requested = 0
        self._epoch = None
        self._not_before = now + _NO_ANSWER_PAUSE_S

    def _ask(self) -> None:
        """Send a pull for what is free: at half of the places, or when none is on its way."""
        free = self.places - len(self._in_hand) - self._requested
        if (
            free < 1
            or (self._requested and free < self.places // 2)
            or self._epoch != self._bus.client.epoch
            or self._in_hand.bytes >= _PULL_BYTES
            or self._stopping
            or not self._inbox
            or not self._bus.connected
            or self._time() < self._not_before
        ):
            return
        self._pull(free, expires_s=_EXPIRES_S)
        self._requested += free
        self._heard_at = self._time()

    def _pull(self, count: int, *, expires_s: float) -> None:
        request = {
            "batch": count,
            "max_bytes": _PULL_BYTES,
            "expires": int(expires_s * 1e9),
            "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
        }
        self._bus.post(
            self._next, msgspec.json.encode(request), reply=f"{self._inbox}.{self._generation}"
        )

    def nudge(self) -> None:
        """Send a pull whatever is under way.

        After a pause that was ended early, pulls that wait at the broker stay there until another
        one comes, or a heartbeat is due.
        """
        if self._inbox and self.places and self._bus.connected:
            self._bus.post(self._next, b'{"batch":1,"no_wait":true}', reply=f"{self._inbox}.nudge")

    async def _step(self) -> None:
        now = self._time()
        connected = self._bus.connected
        if self._requested and now - self._heard_at > _SILENT_AFTER_S and connected:
            log.warning("pull went silent, asking again", consumer=self._consumer)
            self._lost(now)
            self._not_before = now
        if self._epoch is None or self._epoch != self._bus.client.epoch:
            await self._begin_connection()
        if self._missing_since is not None and now - self._checked_at > _CHECK_EVERY_S:
            self._checked_at = now
            await self._check_exists(now - self._missing_since)
        self._ask()
        self._wake.clear()
        if self._stopping:
            return
        pause = _HEARTBEAT_S
        if self._not_before > now:
            pause = max(0.01, self._not_before - now)
        elif self._epoch is None:
            pause = _NO_ANSWER_PAUSE_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()

    async def _begin_connection(self) -> None:
        """Report what is in hand before the first pull that a broker gets from us."""
        epoch = self._bus.client.epoch
        if not self._bus.connected:
            return
        if self._epoch is not None:
            self._generation += 1
            self._requested = 0
        if not await self._in_hand.renew_all() and self._missing_since is None:
            return
        if self._resumed is not None and self._missing_since is None:
            try:
                await self._resumed()
            except (ApiError, BusUnavailable, ContractBroken) as error:
                log.info("consumer does not tell", consumer=self._consumer, why=str(error))
                return
        self._epoch = epoch

    async def _check_exists(self, missing_s: float) -> None:
        try:
            answer = await self._bus.api(
                f"CONSUMER.INFO.{self._stream}.{self._consumer}", timeout_s=2
            )
        except ApiError as error:
            if error.code != 404:
                return
            if self._remake is None:
                if missing_s < _MISSING_AFTER_S:
                    return
                raise ContractBroken(
                    f"consumer {self._consumer} of stream {self._stream} is gone: run "
                    "`interlock setup`, then start again"
                ) from error
            await self._make_again(self._remake, missing_s)
        except BusUnavailable:
            return
        else:
            if self.created and answer["created"] != self.created:
                self._in_hand.suspend()
            self.created = answer["created"]
            self._missing_since = None

    async def _make_again(self, remake: Callable[[], Awaitable[None]], missing_s: float) -> None:
        try:
            await remake()
        except ContractBroken:
            if missing_s > _GIVEN_UP_AFTER_S:
                raise
        except (ApiError, BusUnavailable):
            return
        else:
            log.warning("consumer was gone and has been made again", consumer=self._consumer)
            self._in_hand.suspend()
            self.created = ""
            self._missing_since = None
            self._not_before = 0.0
