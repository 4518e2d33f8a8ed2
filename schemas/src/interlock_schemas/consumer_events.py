"""Events about consumers: one was paused because its handler fails, and went on afterwards."""

from typing import ClassVar

from interlock_schemas.event import Event, typed

__all__ = ["TYPES", "ConsumerPaused", "ConsumerResumed"]


class ConsumerPaused(Event, frozen=True, kw_only=True):
    """The handler of a consumer failed for so many messages that deliveries are held back until
    one is handled; emitted by the service or worker that consumes, once for each flood."""

    event_type: ClassVar[str] = "consumer.paused"

    service: str
    """Service or worker whose handler fails."""
    consumer: str
    reason: str
    """One sentence: which limit was reached, and the last error."""
    until: str
    """End of the first pause (RFC 3339). Then single messages are tried, with longer pauses."""
    stream: str | None = None
    failed: int | None = None
    """Messages that failed within the window, in the process that noticed."""
    handled: int | None = None
    """Messages handled within the window, in the process that noticed."""
    last_error: str | None = None


class ConsumerResumed(Event, frozen=True, kw_only=True):
    """A paused consumer handled a message again and takes all of them; emitted by the service or
    worker that consumes, once for each flood."""

    event_type: ClassVar[str] = "consumer.resumed"

    service: str
    """Service or worker whose handler works again."""
    consumer: str
    stream: str | None = None
    pauses: int | None = None
    """How many pauses there were in a row."""


TYPES = (typed(ConsumerPaused), typed(ConsumerResumed))
