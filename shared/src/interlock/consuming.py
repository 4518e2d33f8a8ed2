"""Runs a handler for the messages of one consumer, and sees each to one end.

Handled, retried later, or a dead letter: copied and acknowledged first, terminated second. The
decisions are in `interlock.redelivery`; this is the shell around a handler.
"""

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from opentelemetry.trace import SpanKind, Status, StatusCode

from interlock import logs, metrics, telemetry
from interlock.bus import Bus
from interlock.clock import now, rfc3339, rfc3339_ns
from interlock.delivery import Delivery
from interlock.errors import (
    BusUnavailable,
    MessageTooLarge,
    PublishRefused,
    Reject,
)
from interlock.publishing import encode_event
from interlock.pull import PullLoop
from interlock.redelivery import Dead, RetryPolicy, after_failure, on_delivery
from interlock_schemas import envelope, letters, subjects
from interlock_schemas.letter_events import LetterResolved
from interlock_schemas.letters import Code, DeadLetter

__all__ = ["Consumption", "Handler"]

#: What a consumption calls for each message.
Handler = Callable[[Delivery], Awaitable[None]]

_LONGEST_REASON: Final = 2_000
_TRACEBACK_LINES: Final = 12
_REPLAY_HEADERS: Final = (envelope.REPLAY_OF, envelope.REPLAY_FOR, envelope.REPLAY_HOP)

log = logs.get_logger("interlock.consume")


class Consumption:
    """One consumer, one handler."""

    def __init__(
        self,
        bus: Bus,
        *,
        service: str,
        stream: str,
        consumer: str,
        handler: Handler,
        places: int,
        ack_wait_s: float,
        policy: RetryPolicy,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._bus = bus
        self._service = service
        self._consumer = consumer
        self._handler = handler
        self._ack_wait_s = ack_wait_s
        self._policy = policy
        self._rand = rand
        self._labels = {"consumer": consumer}
        self._leases: set[Delivery] = set()
        self._loop = PullLoop(bus, stream, consumer, places=places, handle=self._one)

    @property
    def in_hand(self) -> int:
        """Messages being handled at this moment."""
        return self._loop.in_hand

    def stop(self) -> None:
        """Take no more; `run` returns once what is in hand has ended."""
        self._loop.stop()

    async def run(self) -> None:
        """Consume until `stop`."""
        async with asyncio.TaskGroup() as group:
            renewal = group.create_task(self._renew())
            await self._loop.run()
            renewal.cancel()

    async def _renew(self) -> None:
        """Tell the broker at a third of the ack wait that what is in hand is being worked on.

        Bounded by the handler's own time limit, after which a message is no longer in hand.
        """
        while True:
            await asyncio.sleep(self._ack_wait_s / 3)
            for delivery in list(self._leases):
                await delivery.in_progress()

    async def _one(self, delivery: Delivery) -> None:
        metrics.DELIVERED.add(1, self._labels)
        replay = letters.replay_of(delivery.headers, delivery.id, delivery.body)
        if replay is not None and replay.consumer != self._consumer:
            await delivery.ack()
            return
        if time.time_ns() - delivery.position.time_ns > self._ack_wait_s * 1e9 / 2:
            # After a restart the broker counts the ack wait from when the message was stored.
            await delivery.in_progress()
        self._leases.add(delivery)
        try:
            with telemetry.tracer.start_as_current_span(
                f"process {self._consumer}",
                context=telemetry.extract(delivery.headers),
                kind=SpanKind.CONSUMER,
                attributes={
                    "messaging.system": "nats",
                    "messaging.destination.name": delivery.subject,
                    "messaging.consumer.group.name": self._consumer,
                    "messaging.message.id": delivery.id,
                },
            ) as span:
                failure = await self._attempt(delivery)
                if failure is None:
                    await self._succeeded(delivery, replay)
                    return
                code, reason, error = failure
                span.set_status(Status(StatusCode.ERROR, reason))
                await self._failed(delivery, replay, code, reason, error)
        except BusUnavailable as error:
            # The broker is away, so it cannot be told; it delivers the message again by itself.
            log.warning("left for redelivery", consumer=self._consumer, why=str(error))
        finally:
            self._leases.discard(delivery)

    async def _attempt(self, delivery: Delivery) -> tuple[Code, str, BaseException | None] | None:
        """Run the handler once. None when it succeeded."""
        poison = on_delivery(self._policy, delivery.position.deliveries)
        if poison is not None:
            count = delivery.position.deliveries - 1
            return poison.code, f"taken {count} times and never finished", None
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._policy.timeout_s) as limit:
                await self._handler(delivery)
        except Reject as rejection:
            return rejection.code, rejection.reason, rejection
        except TimeoutError as error:
            if limit.expired():
                return Code.TIMED_OUT, f"still running after {self._policy.timeout_s:g} s", error
            return Code.HANDLER_FAILED, _sentence(error), error
        except Exception as error:  # noqa: BLE001  # a handler may raise anything; none is dropped
            return Code.HANDLER_FAILED, _sentence(error), error
        metrics.HANDLE_SECONDS.record(time.perf_counter() - started, self._labels)
        return None

    async def _succeeded(self, delivery: Delivery, replay: letters.Replay | None) -> None:
        if replay is not None:
            event = LetterResolved(
                letter=replay.letter,
                service=self._service,
                consumer=self._consumer,
                hop=replay.hop,
            )
            subject, body, headers = encode_event(
                event, source=self._service, id=f"resolved.{replay.letter}.{replay.hop}"
            )
            await self._bus.publish(subject, body, headers)
        await delivery.ack()
        metrics.HANDLED.add(1, self._labels)

    async def _failed(
        self,
        delivery: Delivery,
        replay: letters.Replay | None,
        code: Code,
        reason: str,
        error: BaseException | None,
    ) -> None:
        decision = after_failure(
            self._policy,
            delivery.position.deliveries,
            code,
            bus_failed=isinstance(error, BusUnavailable),
            rand=self._rand,
        )
        if not isinstance(decision, Dead):
            metrics.RETRIED.add(1, self._labels)
            log.info(
                "will retry",
                consumer=self._consumer,
                id=delivery.id,
                attempt=delivery.position.deliveries,
                delay_s=round(decision.delay_s, 2),
                why=reason,
            )
            await delivery.retry(decision.delay_s)
            return
        letter = self._letter(delivery, replay, decision.code, reason, error)
        await self._publish_letter(letter)
        metrics.DEAD_LETTERED.add(1, {**self._labels, "code": letter.code.value})
        log.info("dead letter", letter=letter.id, code=letter.code.value, why=letter.reason[:200])
        await delivery.terminate(f"{letter.code.value}: letter {letter.id}")

    async def _publish_letter(self, letter: DeadLetter) -> None:
        headers, body = letters.write_letter(letter)
        subject = subjects.dead(self._service, letter.code.value)
        try:
            await self._bus.publish(subject, body, headers)
        except (MessageTooLarge, PublishRefused) as error:
            # Only the headers can be to blame: the body came through the same broker with room
            # to spare, and headers have a limit of their own. They stay where the original stands.
            note = f"its headers do not fit into a letter ({error}): see message "
            note += f"{letter.stream_seq} of stream {letter.stream}"
            slim = msgspec.structs.replace(
                letter,
                reason=f"{letter.reason[:200]} ({note[:300]})",
                error="",
                traceparent="",
                suggestions=(),
                headers={},
                raw_headers=b"",
            )
            headers, body = letters.write_letter(slim)
            await self._bus.publish(subject, body, headers)

    def _letter(
        self,
        delivery: Delivery,
        replay: letters.Replay | None,
        code: Code,
        reason: str,
        error: BaseException | None,
    ) -> DeadLetter:
        at = delivery.position
        rejection = error if isinstance(error, Reject) else None
        name = rejection.name if rejection else ""
        return DeadLetter(
            id=letters.letter_id(self._consumer, delivery.id, delivery.body),
            code=code,
            reason=reason[:_LONGEST_REASON],
            service=self._service,
            consumer=self._consumer,
            message_id=delivery.id,
            subject=delivery.subject,
            stream=at.stream,
            stream_seq=at.stream_seq,
            attempts=at.deliveries,
            first_at=rfc3339_ns(at.time_ns),
            last_at=rfc3339(now()),
            hop=replay.hop if replay is not None else 0,
            name=(name or subjects.parse_event(delivery.subject) or "")[:200],
            error="" if rejection or error is None else _trimmed(error),
            suggestions=rejection.suggestions if rejection else (),
            traceparent=envelope.lookup(delivery.headers, envelope.TRACEPARENT) or "",
            headers={
                name: value
                for name, value in delivery.headers.items()
                if replay is None or name not in _REPLAY_HEADERS
            },
            raw_headers=b"" if replay is not None else delivery.raw_headers,
            body=delivery.body,
        )


def _sentence(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _trimmed(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    if len(lines) > _TRACEBACK_LINES:
        lines = ["…", *lines[-_TRACEBACK_LINES:]]
    return "\n".join(lines)[-4_000:]
