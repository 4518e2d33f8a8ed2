"""Mappings that an operator makes at run time, on top of the table of legacy names. Pure.

A mapping's target is a canonical type or another name that is known. Chains are followed at
look-up, so a target that is mapped anew takes its followers along; a loop is refused when it would
be made, and is harmless should two operators make one at the same moment.
"""

from collections.abc import Mapping as ReadOnly

import msgspec

from interlock_schemas import catalogue, legacy
from interlock_schemas.mappings import Mapping

__all__ = ["Refused", "check", "resolve"]

#: Folded name to mapping.
Overrides = ReadOnly[str, Mapping]


class Refused(msgspec.Struct, frozen=True):
    """Why a mapping may not be made."""

    code: str
    """400: it makes no sense; 404: the target is unknown; 409: it collides with what stands."""
    reason: str


def resolve(name: str, overrides: Overrides) -> legacy.Match | None:
    """What a legacy name means now: by a run-time mapping, else by the table."""
    step = name
    seen: set[str] = set()
    while (mapping := overrides.get(legacy.fold(step))) is not None:
        folded = legacy.fold(step)
        if folded in seen:
            return None
        seen.add(folded)
        if catalogue.find(mapping.target) is not None:
            return _mapped(name, mapping.target, mapping)
        step = mapping.target
    found = legacy.resolve(step)
    if found is None or not seen:
        return found
    return msgspec.structs.replace(found, name=name, rule=f"mapped at run time to {step}")


def _mapped(name: str, type_name: str, mapping: Mapping) -> legacy.Match:
    who = f" by {mapping.by}" if mapping.by else ""
    why = f": {mapping.reason}" if mapping.reason else ""
    return legacy.Match(name=name, type=type_name, rule=f"mapped at run time{who}{why}")


def check(name: str, target: str, overrides: Overrides) -> Refused | None:
    """Whether `name` may be mapped to `target`; None when it may."""
    folded = legacy.fold(name)
    if not folded:
        return Refused("400", f"{name!r} is no name: it needs a letter or a digit")
    if len(name) > 200:
        return Refused("400", "a legacy name has at most 200 characters")
    if any(legacy.fold(entry.name) == folded for entry in catalogue.all_types()):
        return Refused("409", f"{name} is a canonical type itself; it cannot mean another")
    step, path = target, [name]
    while True:
        path.append(step)
        if legacy.fold(step) == folded:
            return Refused("409", f"that makes a loop: {' → '.join(path)}")
        if catalogue.find(step) is not None:
            return None
        following = overrides.get(legacy.fold(step))
        if following is None:
            break
        if len(path) > len(overrides) + 2:
            return Refused("409", f"{target} is part of a loop: {' → '.join(path)}")
        step = following.target
    if legacy.resolve(step) is not None:
        return None
    near = [match.type for n in legacy.suggest(step) if (match := legacy.resolve(n)) is not None]
    hint = f" Nearest: {', '.join(dict.fromkeys(near))}." if near else ""
    return Refused(
        "404", f"there is no event type {step!r}.{hint} `interlock legacy list` shows them all."
    )
