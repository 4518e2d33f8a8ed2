"""The ledger: what was acknowledged, what became of it, and whether the two agree. Pure.

It is made from what stands on the broker when all is quiet: the streams, read from the first
message to the last, and the records of the letters. Nothing in it is a counter that somebody kept.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from interlock.demo.script import Item
from interlock_schemas.letters import LetterRecord

__all__ = ["Found", "Ledger", "balance"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What was read from the broker."""

    acknowledged: frozenset[str]
    """Ids of the messages whose publish was acknowledged."""
    events: Mapping[str, list[str]]
    """Event id to the type of each event stored under it."""
    effects: Mapping[str, int]
    """Event id to how often the handler's effect is stored."""
    letters: Mapping[str, LetterRecord]
    """Message id to its letter."""


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """The account of one run."""

    published: int
    acknowledged: int
    normalized: int
    """Legacy messages that have a canonical event."""
    delivered: int
    """Messages whose effect happened."""
    duplicates: int
    """Effects, and canonical events, that are there more than once."""
    dead_lettered: int
    """Messages that were a dead letter at some time."""
    replayed: int
    resolved: int
    """Letters whose replay was handled."""
    still_dead: int
    """Messages that are dead letters now."""
    lost: int
    """Acknowledged, and neither handled nor a dead letter."""
    two_ends: int
    """Handled, and a dead letter still."""
    mistaken: int
    """Came to another end, type or code than the script says, or are no message of the script."""
    seconds: float
    kills: int
    unbalanced: tuple[str, ...] = ()
    """Some of the ids that are wrong, for a look."""

    @property
    def balanced(self) -> bool:
        """Whether every acknowledged message has its one end, and no effect happened twice."""
        return (
            self.lost == 0
            and self.duplicates == 0
            and self.two_ends == 0
            and self.mistaken == 0
            and self.acknowledged > 0
            and self.acknowledged == self.delivered + self.still_dead
        )

    def summary(self) -> dict[str, object]:
        """As JSON shows it."""
        told: dict[str, object] = msgspec.to_builtins(self)
        told["balanced"] = self.balanced
        return told


_DEAD = ("open", "replayed", "discarded")
_SHOWN = 20


def balance(items: Iterable[Item], found: Found, *, seconds: float, kills: int) -> Ledger:
    """Follow each acknowledged message to its end."""
    count: Counter[str] = Counter()
    wrong: list[str] = []
    strays = set(found.effects)
    for item in items:
        count["published"] += 1
        strays.discard(item.event_id)
        if item.id not in found.acknowledged:
            continue
        count["acknowledged"] += 1
        types = found.events.get(item.event_id, [])
        effects = found.effects.get(item.event_id, 0)
        # The letter of a failed normalization stands under the message's own id, that of a failed
        # handler under the event's.
        ids = dict.fromkeys((item.id, item.event_id))
        letters = [found.letters[id] for id in ids if id in found.letters]
        dead = any(letter.status in _DEAD for letter in letters)
        twice = max(0, effects - 1) + max(0, len(types) - 1)
        count["normalized"] += item.kind != "canonical" and bool(types)
        count["duplicates"] += twice
        count["delivered"] += effects > 0
        count["still_dead"] += dead and not effects
        lost = not effects and not dead
        both = effects > 0 and dead
        count["lost"] += lost
        count["two_ends"] += both
        count["dead_lettered"] += bool(letters)
        count["replayed"] += any(step.did == "replayed" for one in letters for step in one.history)
        count["resolved"] += any(letter.status == "resolved" for letter in letters)
        mistaken = not lost and _mistaken(item, types, effects, letters)
        count["mistaken"] += mistaken
        if lost or twice or both or mistaken:
            wrong.append(item.id)
    count["mistaken"] += len(strays)
    wrong += sorted(strays)
    return Ledger(
        **{
            field: count[field]
            for field in (
                "published", "acknowledged", "normalized", "delivered", "duplicates",
                "dead_lettered", "replayed", "resolved", "still_dead", "lost", "two_ends",
                "mistaken",
            )
        },
        seconds=round(seconds, 1),
        kills=kills,
        unbalanced=tuple(wrong[:_SHOWN]),
    )  # fmt: skip


def _mistaken(item: Item, types: list[str], effects: int, letters: list[LetterRecord]) -> bool:
    """Whether a message came to another end than the script says."""
    if any(found != item.type for found in types) or (effects and not types):
        return True
    if item.code is None:
        return bool(letters)
    if [letter.code for letter in letters] != [item.code]:
        # A failing handler's message may be handled without ever dying: the fix came first.
        return bool(letters) or item.failing != "until_fixed"
    repaired = item.failing == "until_fixed" or (item.failing == "never" and item.type is not None)
    return repaired != (effects > 0)
