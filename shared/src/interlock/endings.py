"""How a message that was taken in hand ends: handled, retried later, or a dead letter.

A letter is acknowledged by the broker first, and only then is its message terminated: killed in
between, both are there, and the letter's id makes the second one the same. The decisions are in
`interlock.redelivery`.
"""

import traceback
from typing import Final

import msgspec

from interlock import logs, metrics
from interlock.bus import Bus
from interlock.clock import now, rfc3339, rfc3339_ns
from interlock.delivery import Delivery
from interlock.errors import BusUnavailable, MessageTooLarge, PublishRefused, Reject
from interlock.publishing import encode_event
from interlock_schemas import envelope, letters, subjects
from interlock_schemas.letter_events import LetterResolved
from interlock_schemas.letters import Code, DeadLetter

__all__ = ["Endings", "Failure", "failure_of", "sentence"]

_LONGEST_REASON: Final = 2_000
_TRACEBACK_LINES: Final = 12
_REPLAY_HEADERS: Final = (envelope.REPLAY_OF, envelope.REPLAY_FOR, envelope.REPLAY_HOP)

log = logs.get_logger("interlock.consume")


class Failure:
    """Why one attempt did not handle a message."""

    __slots__ = ("code", "delay_s", "error", "reason")

    def __init__(
        self,
        code: Code,
        reason: str,
        error: BaseException | None = None,
        delay_s: float | None = None,
    ) -> None:
        self.code = code
        self.reason = reason
        self.error = error
        self.delay_s = delay_s
        """The handler's wish for when to try again."""

    @property
    def bus_failed(self) -> bool:
        """The bus failed inside the handler, which says nothing about handler or message."""
        return isinstance(self.error, BusUnavailable)

    @property
    def of_handler(self) -> bool:
        """The handler is to blame, and not the message or the bus."""
        return self.code in (Code.HANDLER_FAILED, Code.TIMED_OUT) and not self.bus_failed


def failure_of(error: BaseException) -> Failure:
    """The failure that an exception means."""
    if isinstance(error, Reject):
        return Failure(error.code, error.reason, error)
    return Failure(Code.HANDLER_FAILED, sentence(error), error)


def sentence(error: BaseException) -> str:
    """One line about an exception, also where it cannot say what it is."""
    name = type(error).__name__
    try:
        text = str(error).strip()
    except Exception:  # noqa: BLE001  # whatever a handler's exception does when it is asked
        text = "(its text cannot be read: its __str__ failed)"
    return f"{name}: {text}" if text else name


class Endings:
    """Writes the letters and resolutions of one consumer."""

    def __init__(self, bus: Bus, *, service: str, consumer: str) -> None:
        self._bus = bus
        self._service = service
        self._consumer = consumer

    async def resolve(self, replay: letters.Replay) -> None:
        """Say that a replayed letter has been handled this time."""
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

    async def bury(self, delivery: Delivery, code: Code, failure: Failure) -> None:
        """Make a message a dead letter, and terminate it once the letter is stored."""
        letter = self._letter(delivery, code, failure)
        await self._publish_letter(letter)
        metrics.DEAD_LETTERED.add(1, {"consumer": self._consumer, "code": letter.code.value})
        log.info("dead letter", letter=letter.id, code=letter.code.value, why=letter.reason[:200])
        delivery.terminate(f"{letter.code.value}: letter {letter.id}")

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

    def _letter(self, delivery: Delivery, code: Code, failure: Failure) -> DeadLetter:
        at = delivery.position
        replay = delivery.replay
        rejection = failure.error if isinstance(failure.error, Reject) else None
        name = rejection.name if rejection else ""
        return DeadLetter(
            id=letters.letter_id(self._consumer, delivery.id, delivery.body),
            code=code,
            reason=failure.reason[:_LONGEST_REASON],
            service=self._service,
            consumer=self._consumer,
            message_id=delivery.id,
            subject=delivery.subject,
            stream=at.stream,
            stream_seq=at.stream_seq,
            attempts=delivery.attempt,
            first_at=rfc3339_ns(at.time_ns),
            last_at=rfc3339(now()),
            hop=replay.hop if replay is not None else 0,
            name=(name or subjects.parse_event(delivery.subject) or "")[:200],
            error="" if rejection or failure.error is None else _trimmed(failure.error),
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


def _trimmed(error: BaseException) -> str:
    try:
        lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    except Exception:  # noqa: BLE001  # as in `sentence`
        lines = [sentence(error)]
    if len(lines) > _TRACEBACK_LINES:
        lines = ["…", *lines[-_TRACEBACK_LINES:]]
    return "\n".join(lines)[-4_000:]
