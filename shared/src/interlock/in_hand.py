"""What one consumer has in hand, and the leases on it.

The broker delivers a message again when it has heard nothing of it for the ack wait. Everything in
hand is therefore reported in progress at a third of that. After a restart of the broker, and after
a change of the consumer's leader, it counts from when a message was *stored*, and would deliver
what is in hand again to the next pull: so progress is reported, and confirmed, before that pull.
What comes again nevertheless is recognised by its place in the stream.
"""

import time

from interlock.delivery import Delivery
from interlock.errors import BusUnavailable

__all__ = ["InHand"]

#: Messages that were seen through, so many of the last: they are not begun again.
_REMEMBERED = 8_192

#: So long is waited for the broker to note what we hold, before it is asked for more.
_CONFIRM_S = 1.0


class InHand:
    """The messages that were delivered and not yet answered."""

    def __init__(self, ack_wait_s: float) -> None:
        self._held: dict[bytes, Delivery] = {}
        self.old: list[Delivery] = []
        """Came with an old time of storing, and not reported since; see `report_old`."""
        self._handled: dict[bytes, None] = {}
        self._doubtful_ns = int(ack_wait_s * 1e9 / 2)
        self._round = 0
        self.bytes = 0
        """Their bodies, together."""

    def __len__(self) -> int:
        """How many."""
        return len(self._held)

    def add(self, delivery: Delivery) -> bool:
        """Take a message in hand. False where it is in hand already: it is not to be begun."""
        token = delivery.token
        if token in self._handled:
            # It was on its way while a handler kept us from renewing its lease.
            delivery.ack()
            return False
        mine = self._held.get(token)
        if mine is not None:
            mine.delivered_again(delivery)
            return False
        self._held[token] = delivery
        self.bytes += len(delivery.body)
        delivery.seen_at = self._round
        if time.time_ns() - delivery.stored_ns > self._doubtful_ns:
            self.old.append(delivery)
        return True

    def drop(self, delivery: Delivery) -> None:
        """It has been answered."""
        token = delivery.token
        if self._held.pop(token, None) is not None:
            self.bytes -= len(delivery.body)
            if delivery.handled:
                self._handled[token] = None
                if len(self._handled) > _REMEMBERED:
                    del self._handled[next(iter(self._handled))]

    def report_old(self) -> None:
        """Report progress of what came with an old time of storing and is still in hand.

        Called a moment after it came: what was handled at once needs no lease.
        """
        old, self.old = self.old, []
        for delivery in old:
            delivery.in_progress()

    def renew(self) -> None:
        """Report progress of all that has been in hand since the last call, a third of the wait."""
        for delivery in self._held.values():
            if delivery.seen_at < self._round:
                delivery.in_progress()
        self._round += 1

    async def renew_all(self) -> bool:
        """Report progress of everything; True once the broker has taken note."""
        last = None
        for delivery in self._held.values():
            if not delivery.settled:
                delivery.in_progress()
                last = delivery
        if last is None:
            return True
        try:
            await last.confirm_progress(_CONFIRM_S)
        except BusUnavailable:
            return False
        return True

    def suspend(self) -> None:
        """Answer none of it until it comes again: its consumer has been made anew.

        If its stream has been too, an answer would hit another message.
        """
        for delivery in self._held.values():
            delivery.settled = True

    def everything(self) -> list[Delivery]:
        """All of it, in stream order."""
        return sorted(self._held.values(), key=lambda delivery: delivery.seq)
