"""nats-py's client, with a hardened and faster way in and a way out that never waits.

The broker passes any bytes on. nats-py decodes subjects and headers strictly inside its read loop,
which then ends for good and leaves a connection that looks alive and hears nothing. And it hands
each message through a queue and a task; `Client.listen` calls back from the read loop instead,
which is what the publish and consume paths need. Everything else is nats-py's own.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from interlock import logs
from interlock.headers import parse as parse_headers

__all__ = ["Client", "Heard", "Listener"]

#: Called with subject, reply subject, header block and body. Must not raise and must not block.
Listener = Callable[[bytes, bytes, bytes, bytes], None]

#: The shape of what a `Listener` is called with.
Heard = tuple[bytes, bytes, bytes, bytes]

_LONGEST_CONTROL_LINE: Final = 64 * 1024

#: What `Client.post` keeps while the connection is away, bytes. Acknowledgements and signals:
#: what is dropped past it, the broker makes up for by delivering again.
_POSTED_BYTES: Final = 8 * 1024 * 1024

log = logs.get_logger("interlock.client")


class _Parser(Parser):
    """Reads whole messages out of whole chunks; anything rare is left to nats-py's own parser."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._needed = 0
        super().__init__(client)

    def reset(self) -> None:
        """Forget what is half read: the connection is a new one."""
        super().reset()
        self._held = []
        self._held_bytes = 0
        self._needed = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take the next bytes of the connection."""
        if self._held:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes < self._needed:
                return
            data = b"".join(self._held)
            self._held = []
        try:
            rest = await self._messages(data)
        except (ValueError, IndexError) as error:
            raise ProtocolError from error
        if rest:
            self._held = [rest]
            self._held_bytes = len(rest)

    async def _messages(self, data: bytes) -> bytes:
        """Handle every whole message; what is left is the beginning of the next."""
        client = self._client
        listeners = client.listeners
        at = 0
        size = len(data)
        self._needed = 0
        while at < size:
            eol = data.find(b"\r\n", at)
            if eol < 0:
                if size - at > _LONGEST_CONTROL_LINE:
                    await super().parse(data[at:])
                break
            words = data[at:eol].split(b" ")
            kind = words[0]
            if kind == b"HMSG":
                total = int(words[-1])
                head = int(words[-2])
            elif kind == b"MSG":
                total = int(words[-1])
                head = 0
            else:
                await super().parse(data[at : eol + 2])
                at = eol + 2
                continue
            begin = eol + 2
            end = begin + total
            if end + 2 > size:
                self._needed = end + 2 - at
                break
            sid = int(words[2])
            reply = words[3] if len(words) == (6 if head else 5) else b""
            at = end + 2
            listener = listeners.get(sid)
            headers = data[begin : begin + head] if head else b""
            if listener is None:
                await client._process_msg(  # noqa: SLF001 - our own base class
                    sid, words[1], reply, data[begin + head : end], headers
                )
                continue
            try:
                listener(words[1], reply, headers, data[begin + head : end])
            except Exception:
                # Raised into nats-py's read loop, it would leave the whole process deaf. The
                # message is not acknowledged, so the broker delivers it again.
                log.exception("a listener failed", subject=words[1].decode(errors="replace"))
        return data[at:]


class Client(NatsClient):
    """A connection to the broker."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: dict[int, Listener] = {}
        """Called from the read loop, by subscription id."""
        self._ps = _Parser(self)
        self._posted: list[bytes] = []
        self._posted_bytes = 0
        self._flush_due = False
        self.epoch = 0
        """Rises when the connection is lost: what was written in an earlier epoch may be gone."""

    async def listen(self, subject: str, listener: Listener, queue: str = "") -> Subscription:
        """Subscribe, and have `listener` called for each message, in order, from the read loop."""
        subscription = await self.subscribe(
            subject, queue=queue, cb=_never, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        self.listeners[subscription._id] = listener  # noqa: SLF001
        return subscription

    async def unlisten(self, subscription: Subscription) -> None:
        """End what `listen` began, also while the connection is away."""
        self.listeners.pop(subscription._id, None)  # noqa: SLF001
        if not self.is_closed:
            await subscription.unsubscribe()

    def write(self, data: bytes) -> bool:
        """Hand whole protocol messages to the connection at once; False when there is none.

        What was written to a connection that then breaks is gone: it is never sent again by
        itself, and nothing written later overtakes it.
        """
        transport: Any = self._transport
        if not self.is_connected or transport is None:
            return False
        self._send_posted()
        try:
            self._send_pending(transport)
            transport.write(data)
        except (OSError, RuntimeError):
            return False
        return True

    def _send_pending(self, transport: Any) -> None:
        """What nats-py has written and not sent yet, a subscription for one, comes first."""
        if self._pending:
            transport.writelines(self._pending)
            self._pending = []
            self._pending_data_size = 0

    def unsent_bytes(self) -> int:
        """Bytes that the connection has not taken from us yet."""
        writer: Any = getattr(self._transport, "_io_writer", None)
        return writer.transport.get_write_buffer_size() if writer is not None else 0

    def post(self, data: bytes) -> None:
        """Send whole protocol messages soon, with whatever else is posted in this turn of the loop.

        While the connection is away they wait, up to a limit; past it they are dropped.
        """
        if self._posted_bytes + len(data) > _POSTED_BYTES and not self.is_connected:
            return
        self._posted.append(data)
        self._posted_bytes += len(data)
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush_posted)

    def send_posted(self) -> None:
        """Send what was posted now: the connection is back, or about to close."""
        if self.is_connected:
            self._send_posted()

    def _flush_posted(self) -> None:
        self._flush_due = False
        if self.is_connected:
            self._send_posted()

    def _send_posted(self) -> None:
        if not self._posted:
            return
        data = b"".join(self._posted)
        self._posted.clear()
        self._posted_bytes = 0
        transport: Any = self._transport
        with contextlib.suppress(OSError, RuntimeError):
            self._send_pending(transport)
            transport.write(data)

    async def _attempt_reconnect(self) -> None:
        self.epoch += 1
        await super()._attempt_reconnect()

    async def _connect_to_server(self, s: Any) -> None:
        transport: Any = self._transport
        if transport:
            # An attempt that failed half-way has left its socket open.
            transport.close()
        await super()._connect_to_server(s)

    async def leave(self) -> None:
        """Close, also when the connection is lost and something still waits to be sent on it."""
        if not self.is_connected:
            self._pending = []
            self._pending_data_size = 0
        with contextlib.suppress(OSError):
            await self.close()

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        return parse_headers(bytes(headers)) if headers else None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        return Msg(
            _client=self,
            subject=bytes(subject).decode("utf-8", "backslashreplace"),
            reply=bytes(reply).decode("utf-8", "backslashreplace"),
            data=data,
            headers=headers,
            _sid=sid,
        )


async def _never(_: Msg) -> None:
    """The callback of a subscription whose messages go to its listener."""
