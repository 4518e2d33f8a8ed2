"""What a node's store holds, as far as its agent knows, and what follows from it. Pure.

Times are RFC 3339 in UTC, whose order as text is their order in time.
"""

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from interlock_schemas.artifacts import Copy, StoreReport

__all__ = ["Differences", "Holdings", "differences", "is_news"]

#: A change of free space below this share of the disk is not told at once.
_NOTICED: Final = 0.01


class Holdings:
    """The copies that are held, by artifact."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, Copy]] = {}
        self._count = 0
        self.bytes = 0
        """Of all of them."""

    def __len__(self) -> int:
        """How many."""
        return self._count

    def __contains__(self, id: str) -> bool:
        """Whether an artifact is held."""
        return id in self._parts.get(id[:2], ())

    def note(self, copy: Copy) -> None:
        """A receipt was written, or read."""
        self.forget(copy.id)
        if copy.state == "held":
            self._parts.setdefault(copy.id[:2], {})[copy.id] = copy
            self._count += 1
            self.bytes += copy.bytes

    def forget(self, id: str) -> None:
        """It is not held any more."""
        gone = self._parts.get(id[:2], {}).pop(id, None)
        if gone is not None:
            self._count -= 1
            self.bytes -= gone.bytes

    def of_part(self, part: str) -> dict[str, Copy]:
        """Those whose id begins with these two digits."""
        return dict(self._parts.get(part, {}))

    def longest_unverified(self, before: str, *, but: Collection[str] = ()) -> Copy | None:
        """The one whose last check is the longest ago, if that was before `before`."""
        due = (
            copy
            for held in self._parts.values()
            for id, copy in held.items()
            if copy.verified_at < before and id not in but
        )
        return min(due, key=lambda copy: (copy.verified_at, copy.id), default=None)


class Differences(msgspec.Struct, frozen=True, kw_only=True):
    """In what the disk and the receipts differ."""

    untold: tuple[str, ...]
    """On the disk, and without a receipt."""
    missing: tuple[str, ...]
    """With a receipt, and not on the disk."""


def differences(
    on_disk: Collection[str], receipts: Mapping[str, Copy], busy: Collection[str]
) -> Differences:
    """Compare what is on the disk with receipts; what is `busy` changes at this moment anyway."""
    here = set(on_disk)
    told = {id for id, copy in receipts.items() if copy.state == "held"}
    return Differences(
        untold=tuple(sorted(here - told - set(busy))),
        missing=tuple(sorted(told - here - set(busy))),
    )


def is_news(report: StoreReport, told: StoreReport | None) -> bool:
    """Whether a report says enough that is new to be told before its time."""
    if told is None:
        return True
    plain = ("root", "held", "held_bytes", "quarantined", "fetching", "total_bytes")
    if any(getattr(report, name) != getattr(told, name) for name in plain):
        return True
    if report.free_bytes is None or told.free_bytes is None:
        return report.free_bytes != told.free_bytes
    return abs(report.free_bytes - told.free_bytes) > _NOTICED * (report.total_bytes or 1)
