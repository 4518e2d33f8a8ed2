"""What the broker counts as delivered and nobody has in hand. Pure.

An earlier process had it, or it died with a connection on its way to us; the broker delivers it
again when its lease ends. Where order is kept, what is newer of the same keys waits until then.
"""

from collections.abc import Collection
from typing import Generic

from interlock.key_order import T

__all__ = ["LeftOver"]


class LeftOver(Generic[T]):
    """Holds back the keys of what is still to come again, until all of it has come."""

    def __init__(self) -> None:
        self._floor = 0
        self._owed = 0
        self._keys: Collection[object] | None = None
        self._held: Collection[int] = ()
        self._parked: list[T] = []
        self.unknown = False
        """How much is left over has to be asked first: hold back everything."""

    @property
    def owed(self) -> int:
        """Deliveries that are still to come again."""
        return self._owed

    def expect(
        self,
        owed: int,
        floor: int,
        keys: Collection[object] | None,
        held: Collection[int] = (),
    ) -> list[T]:
        """`owed` messages up to `floor` in the stream come again, of some of `keys` (None: any).

        `held`: numbers of those that are in hand, which do not come again. Returns what was held
        back and may go, in stream order.
        """
        self.unknown = False
        self._owed, self._floor, self._keys, self._held = max(0, owed), floor, keys, held
        parked, self._parked = self._parked, []
        went = [item for each in parked for item in self.arrived(each)]
        return sorted(went, key=lambda item: item.seq)

    def arrived(self, item: T) -> list[T]:
        """A message arrived. Returns what may go now, in stream order; nothing: it is held back."""
        if not self._owed and not self.unknown:
            return [item]
        if self.unknown or self._keys is None or item.key in self._keys:
            self._parked.append(item)
            went = []
        else:
            went = [item]
        if not self.unknown and item.seq <= self._floor and item.seq not in self._held:
            self._owed -= 1
            if not self._owed:
                went += self.give_up()
        return went

    def give_up(self) -> list[T]:
        """Expect no more. Returns what was held back, in stream order."""
        self.unknown = False
        self._owed = 0
        parked, self._parked = self._parked, []
        return sorted(parked, key=lambda item: item.seq)
