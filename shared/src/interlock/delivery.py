"""A message in hand: what was delivered, where it stands, and the four answers to the broker."""

import msgspec
from nats.aio.msg import Msg

from interlock.bus import Bus
from interlock.headers import Headers
from interlock_schemas import envelope

__all__ = ["Delivery", "Position", "parse_position"]


class Position(msgspec.Struct, frozen=True):
    """Where a delivered message stands, read from its acknowledgement subject."""

    stream: str
    consumer: str
    deliveries: int
    """How often it was delivered to this consumer, this time included."""
    stream_seq: int
    consumer_seq: int
    """Number of this delivery among all of this consumer's."""
    time_ns: int
    """When it was stored, nanoseconds since the epoch."""
    pending: int
    """Messages behind it for this consumer."""


def parse_position(reply: str) -> Position:
    """Read ``$JS.ACK.…`` in both of its forms (ADR-15). Raises ValueError for anything else."""
    parts = reply.split(".")
    if parts[:2] != ["$JS", "ACK"]:
        raise ValueError(f"not an acknowledgement subject: {reply}")
    if len(parts) == 9:
        fields = parts[2:]
    elif len(parts) >= 11:
        fields = parts[4:]
    else:
        raise ValueError(f"not an acknowledgement subject: {reply}")
    stream, consumer, *numbers = fields[:7]
    return Position(stream, consumer, *(int(number) for number in numbers))


class Delivery:
    """One message in hand, as the broker gave it."""

    __slots__ = ("_bus", "_reply", "body", "headers", "position", "raw_headers", "subject")

    def __init__(self, bus: Bus, message: Msg) -> None:
        self._bus = bus
        self._reply = message.reply
        self.subject = message.subject
        self.body = message.data
        self.headers: dict[str, str] = message.headers or {}
        self.raw_headers: bytes = (
            b""
            if not isinstance(message.headers, Headers) or message.headers.complete
            else message.headers.raw
        )
        """The header block, where `headers` does not tell all of it."""
        self.position = parse_position(message.reply)

    @property
    def id(self) -> str:
        """The identity of the message, unchanged by redelivery and replay."""
        at = self.position
        return envelope.message_id(self.headers, at.stream, at.stream_seq, at.time_ns)

    async def ack(self) -> None:
        """Handled."""
        await self._bus.signal(self._reply, b"+ACK")

    async def retry(self, delay_s: float) -> None:
        """Deliver it again after so many seconds."""
        await self._bus.signal(self._reply, b'-NAK {"delay": %d}' % int(delay_s * 1e9))

    async def in_progress(self) -> None:
        """Still at it: the lease on this message begins anew."""
        await self._bus.signal(self._reply, b"+WPI")

    async def terminate(self, reason: str) -> None:
        """Never again; the reason travels in the broker's advisory."""
        line = " ".join(reason.split())[:200]
        await self._bus.signal(self._reply, b"+TERM " + line.encode(errors="replace"))
