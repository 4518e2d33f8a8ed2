"""Pauses a consumer whose handler fails for everything, and resumes it when it works again.

The shell around `interlock.flood`: it pauses at the broker, says so in one event, waits, lets one
message through, and then either resumes or pauses for longer. Processes that share the consumer
learn of a pause from the broker's advisory, or at the latest when they reach a limit of their own.
"""

import asyncio
import contextlib
import datetime
import hashlib
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import msgspec

from interlock import flood, logs, metrics
from interlock.bus import ApiError, Bus
from interlock.errors import BusUnavailable, InterlockError
from interlock.flood import FloodPolicy, Mark, Standing
from interlock.publishing import encode_event
from interlock_schemas.consumer_events import ConsumerPaused, ConsumerResumed
from interlock_schemas.event import Event

__all__ = ["FloodGate", "State"]

State = Literal["closed", "open", "half_open"]

#: A pause is looked at so often, should somebody end it early and no advisory reach us.
_LOOK_EVERY_S: Final = 2.0
_TRY_AGAIN_S: Final = 1.0
#: So long may the broker take to store an event.
_SAY_S: Final = 10.0
#: The broker ends a pause by its own clock: ask a moment later.
_AFTER_S: Final = 0.05

log = logs.get_logger("interlock.flood")


class FloodGate:
    """The breaker of one consumer in one process.

    `changed` is called when the state changes; `stopped` is awaited once the consumer is paused
    at the broker, and hands back what is in hand.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        service: str,
        stream: str,
        consumer: str,
        policy: FloodPolicy,
        changed: Callable[[], None],
        stopped: Callable[[], Awaitable[None]],
        nudge: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._service = service
        self._stream = stream
        self._consumer = consumer
        self._policy = policy
        self._changed = changed
        self._stopped = stopped
        self._nudge = nudge
        self._outcomes = flood.Outcomes(policy)
        self.state: State = "closed"
        self.mark: Mark | None = None
        """The last flood, as far as this process knows."""
        self._until = 0.0
        self._tripped: str | None = None
        self._probing = False
        self._recovered = False
        self._alone = False
        self._news = False
        self._last_error = ""
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def flood_s(self) -> float | None:
        """Seconds for which what fails now had better not come back; None without a flood."""
        if self.state == "closed":
            return None
        if self.state == "half_open":
            return flood.pause_s(self._policy, self._level() + 1) + 1.0
        return max(0.0, self._until - self._loop.time()) + 1.0

    def slack(self, attempts: int, stored_ns: int) -> int:
        """Deliveries that are not held against a message."""
        return flood.slack(self.mark, attempts, stored_ns / 1e9)

    def handled(self, count: int) -> None:
        """So many messages were handled since the last call."""
        if self.state == "closed":
            self._outcomes.handled(count, self._loop.time())
        elif self.state == "half_open" and count:
            self._recovered = True
            self._close()
            self._wake.set()

    def failed(self, message: bytes, reason: str) -> None:
        """The handler failed for that message."""
        self._last_error = reason
        if self.state == "closed":
            why = self._outcomes.failed(message, self._loop.time())
            if why is not None:
                self._trip(why, probing=False)
        elif self.state == "half_open":
            self._trip("the message that was tried failed", probing=True)

    def begin(self, info: dict[str, Any]) -> None:
        """Take over a flood that this process finds when it starts."""
        standing = _standing(info)
        self.mark = standing.mark
        decision = flood.on_start(self._policy, standing, _broker_time(info))
        if isinstance(decision, flood.Follow):
            log.warning("consumer is paused", consumer=self._consumer)
            self._follow(decision.mark, _remaining_s(info))

    async def run(self) -> None:
        """Watch until cancelled."""
        advisories = await self._bus.listen(
            f"$JS.EVENT.ADVISORY.CONSUMER.PAUSE.{self._stream}.{self._consumer}", self._heard
        )
        try:
            while True:
                await self._step()
        finally:
            await self._bus.unsubscribe(advisories)

    def _level(self) -> int:
        return self.mark.level if self.mark is not None and not self.mark.over else 0

    def _close(self) -> None:
        self.state = "closed"
        self._outcomes.forget()
        self._changed()

    def _trip(self, why: str, *, probing: bool) -> None:
        """Stop here at once; the broker is told next."""
        level = self._level() + 1 if probing else 1
        self.state = "open"
        self._until = self._loop.time() + flood.pause_s(self._policy, level)
        self._tripped = why
        self._probing = probing
        self._recovered = False
        self._changed()
        self._wake.set()

    def _follow(self, mark: Mark, remaining_s: float) -> None:
        self.mark = mark
        self.state = "open"
        self._until = self._loop.time() + remaining_s + _AFTER_S
        self._changed()
        self._wake.set()

    def _heard(self, _subject: bytes, _reply: bytes, _block: bytes, _body: bytes) -> None:
        self._news = True
        self._wake.set()

    async def _step(self) -> None:
        self._wake.clear()
        news, self._news = self._news, False
        if self._tripped is not None:
            if not await self._open(self._tripped):
                await asyncio.sleep(_TRY_AGAIN_S)
            return
        if self._recovered:
            self._recovered = not await self._say_over()
            return
        if news and not self._alone:
            await self._look()
            return
        now = self._loop.time()
        pause: float | None = None
        if self.state == "open":
            if now >= self._until:
                self._half_open()
            else:
                pause = min(self._until - now, _LOOK_EVERY_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()
        if self.state == "open" and not self._wake.is_set() and not self._alone:
            await self._look()

    def _half_open(self) -> None:
        log.info("trying one message", consumer=self._consumer)
        self.state = "half_open"
        self._alone = False
        self._changed()

    async def _look(self) -> None:
        """Ask how the pause stands."""
        try:
            info = await self._bus.api(self._verb("INFO"), timeout_s=_LOOK_EVERY_S)
        except (ApiError, BusUnavailable):
            return
        await self._on_standing(_standing(info), _remaining_s(info))

    async def _on_standing(self, standing: Standing, remaining_s: float) -> None:
        if self._tripped is not None:
            return
        mark = standing.mark
        if standing.paused and mark is not None:
            entered = self.state != "open"
            self._follow(mark, remaining_s)
            if entered:
                log.warning("consumer is paused", consumer=self._consumer, until=mark.write())
                await self._stopped()
        elif self.state == "open" and mark is not None and not mark.over:
            self._half_open()
        elif self.state != "closed":
            # Somebody has seen it work, or has ended the pause by hand.
            if mark is not None:
                self.mark = mark
                self._close()
            elif self.state == "open":
                self._half_open()
        elif mark is not None:
            self.mark = mark
        self._nudge()

    async def _open(self, why: str) -> bool:
        """Pause at the broker, or see that it is paused. False when the broker cannot be asked."""
        said = False
        try:
            info = await self._bus.api(self._verb("INFO"))
            decision = flood.on_trip(
                self._policy, _standing(info), _broker_time(info), probing=self._probing
            )
            if isinstance(decision, flood.Closed):
                self.mark = _standing(info).mark
                self._tripped = None
                self._close()
                return True
            remaining_s = _remaining_s(info)
            if isinstance(decision, flood.Open):
                if decision.first:
                    await self._say_paused(why, decision.mark, info)
                    said = True
                told = await self._bus.api(
                    self._verb("PAUSE"), {"pause_until": decision.mark.write()}
                )
                remaining_s = told.get("pause_remaining", 0) / 1e9
                metrics.PAUSES.add(1, {"consumer": self._consumer})
                log.warning(
                    "consumer paused: its handler fails",
                    consumer=self._consumer,
                    why=why,
                    last_error=self._last_error[:200],
                    pause_s=round(remaining_s, 1),
                    level=decision.mark.level,
                )
        except (ApiError, BusUnavailable) as error:
            if not self._bus.connected:
                log.warning("cannot pause yet", consumer=self._consumer, why=str(error))
                return False
            # Not allowed, or the consumer is gone: this process holds back by itself.
            log.error("cannot pause the consumer", consumer=self._consumer, why=str(error))
            level = self._level() + 1 if self._probing else 1
            pause_s = flood.pause_s(self._policy, level)
            mark = Mark(math.ceil(time.time() + pause_s), level)
            if level == 1 and not said:
                with contextlib.suppress(BusUnavailable):
                    await self._say_paused(why, mark, {"config": {}, "created": "unknown"})
            self._tripped = None
            self._alone = True
            self._outcomes.forget()
            self._follow(mark, pause_s)
            await self._stopped()
            return True
        self._tripped = None
        self._outcomes.forget()
        self._follow(decision.mark, remaining_s)
        await self._stopped()
        return True

    async def _say_paused(self, why: str, mark: Mark, info: dict[str, Any]) -> None:
        handled, failed = self._outcomes.counts(self._loop.time())
        event = ConsumerPaused(
            service=self._service,
            consumer=self._consumer,
            reason=f"{why}; the last error: {self._last_error[:500]}",
            until=mark.write(),
            stream=self._stream,
            failed=failed,
            handled=handled,
            last_error=self._last_error[:2_000],
        )
        # All who notice this flood see the same pause before it, and so say it under one id.
        before = info["config"].get("pause_until", "")
        await self._say(event, f"paused.{info['created']}.{before}")

    async def _say_over(self) -> bool:
        """Write at the broker that the flood is over, and say so. False: to be tried again."""
        try:
            info = await self._bus.api(self._verb("INFO"))
            standing = _standing(info)
            mark = standing.mark
            if mark is None or mark.over or not mark.level:
                self.mark = mark or self.mark
                return True
            before = info["config"].get("pause_until", "")
            event = ConsumerResumed(
                service=self._service,
                consumer=self._consumer,
                stream=self._stream,
                pauses=mark.level,
            )
            await self._say(event, f"resumed.{info['created']}.{before}")
            over = Mark(int(_broker_time(info)) - 1, mark.level, over=True)
            self.mark = msgspec.structs.replace(over, until_s=over.until_s + 1)
            await self._bus.api(self._verb("PAUSE"), {"pause_until": over.write()})
        except (ApiError, BusUnavailable) as error:
            if not self._bus.connected:
                log.warning("cannot resume yet", consumer=self._consumer, why=str(error))
                await asyncio.sleep(_TRY_AGAIN_S)
                return False
            log.error("cannot say that the flood is over", consumer=self._consumer, why=str(error))
            self.mark = Mark(math.ceil(time.time()), max(1, self._level()), over=True)
        log.info("consumer resumed: a message was handled", consumer=self._consumer)
        self._nudge()
        return True

    async def _say(self, event: Event, opening: str) -> None:
        digest = hashlib.sha256(opening.encode()).hexdigest()[:16]
        subject, body, headers = encode_event(
            event,
            source=self._service,
            key=self._consumer,
            id=f"flood.{self._stream}.{self._consumer}.{digest}",
        )
        try:
            await self._bus.publish(subject, body, headers, timeout_s=_SAY_S)
        except InterlockError as error:
            if isinstance(error, BusUnavailable) and not self._bus.connected:
                raise
            # Not allowed, say. It is paused or resumed all the same.
            log.error("cannot say so in an event", consumer=self._consumer, why=str(error))

    def _verb(self, verb: str) -> str:
        return f"CONSUMER.{verb}.{self._stream}.{self._consumer}"


def _standing(info: dict[str, Any]) -> Standing:
    return Standing(Mark.read(info["config"].get("pause_until")), bool(info.get("paused")))


def _remaining_s(info: dict[str, Any]) -> float:
    return float(info.get("pause_remaining") or 0) / 1e9


def _broker_time(info: dict[str, Any]) -> float:
    """The broker's clock, seconds since the epoch: by it, pauses end."""
    told = str(info.get("ts", ""))
    try:
        whole, _, fraction = told.rstrip("Z").partition(".")
        at = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.UTC)
        return at.timestamp() + float(f"0.{fraction or 0}")
    except ValueError:
        return time.time()
