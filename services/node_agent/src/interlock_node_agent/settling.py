"""Decides when what was put into the inbox is whole: once nothing of it has changed for long
enough. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

__all__ = ["Item", "Seen", "is_ignored", "look"]

#: How a name ends that somebody still writes to.
_UNFINISHED = (".part", ".tmp")


class Item(msgspec.Struct, frozen=True):
    """Something in the inbox."""

    dataset: str
    config: str
    name: str


class Seen(msgspec.Struct, frozen=True):
    """How an item looked, and since when it has looked so."""

    signature: tuple[int, ...]
    since: float


def is_ignored(name: str) -> bool:
    """Whether a name says that it is not to be taken yet, or never."""
    return name.startswith(".") or name.endswith(_UNFINISHED)


def look(
    before: Mapping[Item, Seen],
    found: Iterable[tuple[Item, tuple[int, ...]]],
    now: float,
    *,
    settle_s: float,
) -> tuple[dict[Item, Seen], list[Item]]:
    """What is to be remembered of this look, and which items have settled.

    `found`: each item, with a signature that changes whenever it does.
    """
    seen: dict[Item, Seen] = {}
    settled = []
    for item, signature in found:
        known = before.get(item)
        if known is None or known.signature != signature:
            known = Seen(signature, now)
        seen[item] = known
        if now - known.since >= settle_s:
            settled.append(item)
    return seen, settled
