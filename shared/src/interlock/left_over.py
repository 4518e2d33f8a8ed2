"""What the broker counts as delivered and nobody has in hand. Pure.

An earlier process had it, or it died with a connection on its way to us; the broker delivers it
again when its lease ends. Where order is kept, what is newer of the same keys waits until then.
"""

from collections.abc import Collection
from typing import Generic

from interlock.key_order import T

__all__ = ["LeftOver"]


class LeftOver(Generic[T]):
    """Holds back what must not overtake what is still to come again."""

    def __init__(self) -> None:
        self._floor = 0
        self._owed = 0
        self._keys: Collection[object] | None = None
        self._parked: list[T] = []
        self.unknown = False
        """How much is left over has to be asked first: hold back everything."""

    @property
    def owed(self) -> int:
        """Deliveries that are still to come again."""
        return self._owed

    @property
    def parked(self) -> list[T]:
        """What is held back."""
        return self._parked

    def expect(self, owed: int, floor: int, keys: Collection[object] | None) -> list[T]:
        """`owed` messages up to `floor` in the stream come again, of one of `keys` (None: any).

        Returns what was held back and may go.
        """
        self.unknown = False
        self._owed, self._floor, self._keys = max(0, owed), floor, keys
        parked, self._parked = self._parked, []
        return [item for each in parked for item in self.arrived(each)]

    def arrived(self, item: T) -> list[T]:
        """A message arrived. Returns what may go now, itself or more; nothing: it is held back."""
        if self.unknown:
            self._parked.append(item)
            return []
        if not self._owed:
            return [item]
        if item.seq > self._floor:
            if self._keys is None or item.key in self._keys:
                self._parked.append(item)
                return []
            return [item]
        self._owed -= 1
        return [item] if self._owed else [item, *self.give_up()]

    def give_up(self) -> list[T]:
        """Expect no more. Returns what was held back."""
        self.unknown = False
        self._owed = 0
        parked, self._parked = self._parked, []
        return parked
