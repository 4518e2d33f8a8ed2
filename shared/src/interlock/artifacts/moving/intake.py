"""The sink of a trip of several artifacts: hands each byte to the one that it belongs to."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from interlock.artifacts.destination import Incoming
from interlock.artifacts.errors import TransferFailed

__all__ = ["Intake"]


class Intake:
    """Takes the bytes of all pieces of `incoming`, in their order. `count` is told of each part."""

    def __init__(self, incoming: Sequence[Incoming], count: Callable[[int], None]) -> None:
        self._left = [
            (each, sum(piece.length for piece in each.missing)) for each in reversed(incoming)
        ]
        self._skip_empty()
        self._count = count
        self._turn = threading.Lock()
        self._closed = False
        self.received: Counter[str] = Counter()
        """Bytes by artifact."""
        self.refused: TransferFailed | None = None
        """What the artifact under way raised."""

    @property
    def current(self) -> str | None:
        """The artifact whose bytes are next."""
        return self._left[-1][0].id if self._left else None

    @property
    def expected(self) -> set[str]:
        """The artifacts of which bytes are still to come, or are being written."""
        return {each.id for each, _ in tuple(self._left)}

    def __call__(self, data: memoryview) -> None:
        """The next bytes, in a thread."""
        with self._turn:
            while len(data):
                if self._closed or not self._left:
                    raise TransferFailed("io", "more bytes came than were asked for")
                incoming, left = self._left.pop()
                part = data[:left]
                self._left.append((incoming, left - len(part)))
                try:
                    incoming.write(part)
                except TransferFailed as error:
                    self.refused = error
                    raise
                self._count(len(part))
                self.received[incoming.id] += len(part)
                data = data[len(part) :]
                self._skip_empty()

    def close(self) -> None:
        """Take no more. Returns when nobody writes."""
        with self._turn:
            self._closed = True

    def _skip_empty(self) -> None:
        while self._left and not self._left[-1][1]:
            self._left.pop()
