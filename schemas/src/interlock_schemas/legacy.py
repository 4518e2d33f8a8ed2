"""Legacy event names: how any spelling of the predecessor's names finds its canonical type.

The names themselves, with the reason for each decision, are the table in
`interlock_schemas.legacy_names`. This module folds a spelling, looks it up and proposes
neighbours for a name that nobody knows. It is pure and needs no broker.
"""

import difflib
import functools
import heapq

import msgspec

from interlock_schemas import catalogue
from interlock_schemas.legacy_names import RULES, Rule

__all__ = ["QUALIFIERS", "Match", "candidates", "fold", "known_names", "resolve", "suggest"]

#: What the predecessor put before a name, as in ``StageEvent.SYNC_COMPLETE``. The module name
#: ``training`` is not among them, because it is a domain too: ``training.error`` is not ``error``.
QUALIFIERS = frozenset(
    {
        "dataeventtype",
        "stageevent",
        "ringrifteventtype",
        "eventtype",
        "evaluationeventtype",
        "promotioneventtype",
        "hashgraph",
        "normalizeronly",
    }
)

#: A name is looked up without so many of its leading qualifiers: none has more than two, and each
#: costs a pass over the whole name, which whoever sends it may make as long as a message.
_MOST_QUALIFIERS = 4
#: Longer names are not compared for suggestions: nobody's event name is that long.
_LONGEST_COMPARED = 80
_CANDIDATES = 24
_NEAR_ENOUGH = 0.6

#: Fleets use few names, again and again; a longer one is no name and not worth its memory.
_LONGEST_REMEMBERED = 200


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """What a legacy name resolves to, and why."""

    name: str
    """The name as given."""
    type: str
    """The canonical type."""
    rule: str
    """The reason, in one sentence."""
    sets: dict[str, str] = {}
    """Payload fields that the name itself implies, set where the payload does not have them."""


def fold(name: str) -> str:
    """Fold away what differs between spellings: case and every separator.

    ``TRAINING_COMPLETE``, ``training.complete``, ``training-complete`` and ``TrainingComplete``
    fold to one string.
    """
    return "".join(character for character in name.casefold() if character.isalnum())


@functools.cache
def _table() -> dict[str, tuple[Rule, str]]:
    table: dict[str, tuple[Rule, str]] = {}
    for entry in catalogue.all_types():
        own = Rule(type=entry.name, names=(entry.name,), reason="the canonical name itself")
        table[fold(entry.name)] = (own, entry.name)
    for rule in RULES:
        for name in rule.names:
            folded = fold(name)
            known = table.get(folded)
            if known is not None and (known[0].type, known[0].sets) != (rule.type, rule.sets):
                raise ValueError(
                    f"legacy name {name!r} has two targets: {known[0].type} and {rule.type}"
                )
            table[folded] = (rule, name)
    return table


def candidates(name: str) -> tuple[str, ...]:
    """What a name may stand under, folded: all of it first, then without leading qualifiers."""
    return (_remembered if len(name) <= _LONGEST_REMEMBERED else _candidates)(name)


def _candidates(name: str) -> tuple[str, ...]:
    parts = name.strip().split(".", _MOST_QUALIFIERS)
    found = [fold(name)]
    while len(parts) > 1 and fold(parts[0]) in QUALIFIERS:
        parts = parts[1:]
        found.append(fold(".".join(parts)))
    return tuple(found)


_remembered = functools.lru_cache(maxsize=4_096)(_candidates)


def resolve(name: str) -> Match | None:
    """Find the canonical type of a legacy name in any spelling, or None if nobody knows it."""
    return (_resolved if len(name) <= _LONGEST_REMEMBERED else _resolve)(name)


def _resolve(name: str) -> Match | None:
    table = _table()
    for candidate in candidates(name):
        if candidate in table:
            rule, spelling = table[candidate]
            return Match(
                name=name,
                type=rule.type,
                rule=rule.reason or f"{spelling} is {rule.type} by the table of legacy names",
                sets=rule.sets,
            )
    return None


_resolved = functools.lru_cache(maxsize=4_096)(_resolve)


def known_names() -> list[tuple[str, Rule]]:
    """Every name of the table with its rule, in the table's order."""
    return [(name, rule) for rule in RULES for name in rule.names]


def _pieces(folded: str) -> set[str]:
    padded = f"^{folded}$"
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


@functools.cache
def _pieces_of_known() -> list[tuple[set[str], str, str]]:
    return [(_pieces(folded), folded, spelling) for folded, (_, spelling) in _table().items()]


def suggest(name: str, extra: tuple[str, ...] = (), limit: int = 3) -> list[str]:
    """The known names nearest to an unknown one, nearest first.

    `extra` adds names known only at run time. Compares folded spellings, so that the separators
    of the unknown name do not count against it. Shared letter triples choose a few candidates,
    so that a flood of unknown names stays cheap; the ratio of matching letters ranks them.
    """
    folded = fold(name)
    if not folded or len(folded) > _LONGEST_COMPARED:
        return []
    pieces = _pieces(folded)
    known = _pieces_of_known() + [(_pieces(fold(n)), fold(n), n) for n in extra]
    shared = (
        (len(pieces & theirs), theirs_folded, spelling) for theirs, theirs_folded, spelling in known
    )
    candidates = heapq.nlargest(_CANDIDATES, (c for c in shared if c[0]))
    ranked = [
        (difflib.SequenceMatcher(None, folded, candidate).ratio(), spelling)
        for _, candidate, spelling in candidates
    ]
    near = sorted((r for r in ranked if r[0] >= _NEAR_ENOUGH), key=lambda r: (-r[0], r[1]))
    return [spelling for _, spelling in near[:limit]]
