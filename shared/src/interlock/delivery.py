"""A message in hand: what was delivered, where it stands, and the four answers to the broker.

Bytes stay bytes and headers stay unread until somebody asks for them: most messages are handled
without it. Answers are posted, not awaited: what is lost, the broker makes up for by delivering
again.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

import msgspec
from opentelemetry import context
from opentelemetry.context import Context

from interlock.bus import Bus
from interlock.headers import Headers, parse
from interlock_schemas import envelope, letters

__all__ = ["Delivery", "Position", "parse_position"]

_ACK: Final = b" 4\r\n+ACK\r\n"
_PROGRESS: Final = b" 4\r\n+WPI\r\n"
_RETURN: Final = b" 4\r\n-NAK\r\n"


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

    __slots__ = (
        "_bus",
        "_headers",
        "_position",
        "_reply",
        "_stream",
        "_subject",
        "attempt",
        "block",
        "body",
        "handled",
        "key",
        "replay",
        "seen_at",
        "seq",
        "settled",
        "stored_ns",
        "token",
        "trace",
    )

    def __init__(
        self,
        bus: Bus,
        subject: bytes,
        reply: bytes,
        block: bytes,
        body: bytes,
    ) -> None:
        """Read from the acknowledgement subject what is always needed.

        Raises ValueError where `reply` is none.
        """
        self._bus = bus
        self._subject = subject
        self._reply = reply
        self._headers: Headers | None = None
        self._position: Position | None = None
        self.body = body
        self.block = block
        """The header block as it came; empty where there is none."""
        parts = reply.split(b".")
        count = len(parts)
        if count == 9:
            _, _, stream, _, deliveries, seq, _, stored, _ = parts
        elif count >= 11:
            stream, _, deliveries, seq, _, stored = parts[4:10]
        else:
            raise ValueError(f"not an acknowledgement subject: {reply!r}")
        self._stream = stream
        self.attempt = int(deliveries)
        """Which attempt this is, counted from 1. The broker counts deliveries."""
        self.seq = int(seq)
        """Its number in the stream."""
        self.stored_ns = int(stored)
        """When it was stored, nanoseconds since the epoch."""
        self.token = seq + b"." + stored
        """Which message it is: the same for each delivery, another one in a stream made anew."""
        self.key: object = None
        """What its order is kept by, where order is kept."""
        self.seen_at = 0
        """The round of lease renewals in which it came."""
        self.handled = False
        """It has been seen through, and is not to be begun again."""
        self.settled = False
        """It has been answered, or may not be: its consumer was made anew."""
        self.replay: letters.Replay | None = None
        """The replay of a letter that it is, once it has been looked at."""
        self.trace: Context | None = None
        """The trace context of handling it, where there is one."""

    @property
    def subject(self) -> str:
        """Where it was published."""
        return self._subject.decode("utf-8", "backslashreplace")

    @property
    def headers(self) -> dict[str, str]:
        """Its headers; of a name that repeats, the first."""
        if self._headers is None:
            self._headers = parse(self.block) if self.block else Headers(b"")
        return self._headers

    @property
    def reply(self) -> bytes:
        """Where the broker wants its answer."""
        return self._reply

    @property
    def raw_headers(self) -> bytes:
        """The header block, where `headers` does not tell all of it."""
        headers = self.headers
        return b"" if isinstance(headers, Headers) and headers.complete else self.block

    @property
    def position(self) -> Position:
        """Where it stands. As of the delivery that began this handling."""
        if self._position is None:
            self._position = parse_position(self._reply.decode("utf-8", "backslashreplace"))
        return self._position

    @property
    def id(self) -> str:
        """The identity of the message, unchanged by redelivery and replay."""
        stream = self._stream.decode("utf-8", "backslashreplace")
        return envelope.message_id(self.headers, stream, self.seq, self.stored_ns)

    @contextlib.contextmanager
    def in_trace(self) -> Iterator[None]:
        """Have this message's trace context be the current one.

        In a handler of single messages it is already; a batch handler says which message it acts
        for: ``with delivery.in_trace(): await publish(...)``.
        """
        if self.trace is None:
            yield
            return
        token = context.attach(self.trace)
        try:
            yield
        finally:
            context.detach(token)

    def delivered_again(self, other: "Delivery") -> None:
        """The broker gave it to us once more: answers go where the newest delivery says."""
        if self._position is None:
            self._position = parse_position(self._reply.decode("utf-8", "backslashreplace"))
        self._reply = other.reply
        self.settled = False

    def ack(self) -> None:
        """Handled."""
        self._bus.client.post(self.acknowledged())

    def acknowledged(self) -> bytes:
        """Settle it as handled, and leave it to the caller to send what tells the broker so."""
        if self.settled:
            return b""
        self.settled = self.handled = True
        return b"PUB " + self._reply + _ACK

    def retry(self, delay_s: float) -> None:
        """Deliver it again after so many seconds."""
        if delay_s <= 0:
            self.hand_back()
        elif not self.settled:
            self.settled = True
            self._post(b'-NAK {"delay": %d}' % int(delay_s * 1e9))

    def hand_back(self) -> None:
        """Deliver it again at once, to whoever asks."""
        if not self.settled:
            self.settled = True
            self._bus.client.post(b"PUB " + self._reply + _RETURN)

    def terminate(self, reason: str) -> None:
        """Never again; the reason travels in the broker's advisory."""
        if not self.settled:
            self.settled = self.handled = True
            line = " ".join(reason.split())[:200]
            self._post(b"+TERM " + line.encode(errors="replace"))

    def in_progress(self) -> None:
        """Still at it: the lease on this message begins anew."""
        if not self.settled:
            self._bus.client.post(b"PUB " + self._reply + _PROGRESS)

    async def confirm_progress(self, timeout_s: float) -> None:
        """As `in_progress`, and return once the broker has taken note of it.

        Raises BusUnavailable when it does not say so in time.
        """
        await self._bus.request(self._reply.decode(), b"+WPI", timeout_s=timeout_s)

    def _post(self, body: bytes) -> None:
        self._bus.client.post(b"PUB %b %d\r\n%b\r\n" % (self._reply, len(body), body))
