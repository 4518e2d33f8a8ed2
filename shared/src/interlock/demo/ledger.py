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
    """Came to another end, type or code than the script says."""
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


def balance(items: Iterable[Item], found: Found, *, seconds: float, kills: int) -> Ledger:
    """Follow each acknowledged message to its end."""
    count: Counter[str] = Counter()
    wrong: list[str] = []
    for item in items:
        count["published"] += 1
        if item.id not in found.acknowledged:
            continue
        count["acknowledged"] += 1
        types = found.events.get(item.event_id, [])
        effects = found.effects.get(item.event_id, 0)
        # The letter of a failed normalization stands under the message's own id, that of a failed
        # handler under the event's.
        letter = found.letters.get(item.id) or found.letters.get(item.event_id)
        dead = letter is not None and letter.status in _DEAD
        twice = max(0, effects - 1)
        if item.kind != "canonical":
            count["normalized"] += bool(types)
            twice += max(0, len(types) - 1)
        count["duplicates"] += twice
        count["delivered"] += effects > 0
        count["still_dead"] += dead and not effects
        lost = not effects and letter is None
        both = effects > 0 and dead
        count["lost"] += lost
        count["two_ends"] += both
        if letter is not None:
            count["dead_lettered"] += 1
            count["replayed"] += any(step.did == "replayed" for step in letter.history)
            count["resolved"] += letter.status == "resolved"
        mistaken = not lost and _mistaken(item, types, effects, letter)
        count["mistaken"] += mistaken
        if (lost or twice or both or mistaken) and len(wrong) < 20:
            wrong.append(item.id)
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
        unbalanced=tuple(wrong),
    )  # fmt: skip


def _mistaken(item: Item, types: list[str], effects: int, letter: LetterRecord | None) -> bool:
    """Whether a message came to another end than the script says."""
    if any(found != item.type for found in types):
        return True
    if item.code is None:
        return letter is not None or effects == 0
    if letter is None or letter.code is not item.code:
        # A failing handler's message may be handled without ever dying: the fix came first.
        return not (letter is None and item.failing == "until_fixed" and effects > 0)
    repaired = item.failing == "until_fixed" or (item.failing == "never" and item.type is not None)
    return repaired != (effects > 0)
