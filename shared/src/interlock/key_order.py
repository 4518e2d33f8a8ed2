"""Keeps messages of one key in order, whatever happens to each of them. Pure.

A lane is a key and the messages of it that are in hand, in stream order. Only the first of a lane
may be handled; it stays first, while it waits for another attempt too, until it is done.
"""

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

__all__ = ["KeyOrder", "Ordered"]


class Ordered(Protocol):
    """What can stand in a lane."""

    key: object
    """Which lane."""
    seq: int
    """The place in the stream."""


T = TypeVar("T", bound=Ordered)


class KeyOrder(Generic[T]):
    """Messages in hand by key: a queue of those that may be handled now."""

    def __init__(self) -> None:
        self._lanes: dict[object, deque[T]] = {}
        self._ready: deque[T] = deque()
        self._out: dict[object, T] = {}

    def __len__(self) -> int:
        """How many may be handled now."""
        return len(self._ready)

    def __iter__(self) -> Iterator[T]:
        """Those that may be handled now."""
        return iter(self._ready)

    def append(self, item: T) -> None:
        """A message arrived. One that was stored before others of its lane goes before them.

        It cannot go before one that is out: that one has been begun.
        """
        lane = self._lanes.get(item.key)
        if lane is None:
            self._lanes[item.key] = deque((item,))
            self._ready.append(item)
            return
        at = len(lane)
        least = 1 if item.key in self._out else 0
        while at > least and lane[at - 1].seq > item.seq:
            at -= 1
        lane.insert(at, item)
        if at == 0:
            self._ready.remove(lane[1])
            self._ready.append(item)

    def popleft(self) -> T:
        """The next that may be handled: nothing of its key is, until it is `done` or `again`.

        Raises IndexError where there is none.
        """
        item = self._ready.popleft()
        self._out[item.key] = item
        return item

    def again(self, item: T) -> None:
        """It is to be handled once more, before all others of its lane."""
        del self._out[item.key]
        self._ready.append(item)

    def done(self, item: T) -> None:
        """It has come to an end: the next of its lane may go."""
        del self._out[item.key]
        lane = self._lanes[item.key]
        lane.popleft()
        if lane:
            self._ready.append(lane[0])
        else:
            del self._lanes[item.key]
