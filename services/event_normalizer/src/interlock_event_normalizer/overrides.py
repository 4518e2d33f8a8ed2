"""Whether an operator may map a legacy name at run time, and if not, why not. Pure.

What a mapped name then means is said by `interlock_schemas.mappings`, for everybody alike.
"""

from collections.abc import Mapping as ReadOnly

import msgspec

from interlock_schemas import catalogue, legacy
from interlock_schemas.mappings import Mapping

__all__ = ["Refused", "check"]


class Refused(msgspec.Struct, frozen=True):
    """Why a mapping may not be made."""

    code: str
    """400: it makes no sense; 404: the target is unknown; 409: it collides with what stands."""
    reason: str


def check(name: str, target: str, made: ReadOnly[str, Mapping]) -> Refused | None:
    """Whether `name` may be mapped to `target`; None when it may."""
    folded = legacy.fold(name)
    if not folded:
        return Refused("400", f"{name!r} is no name: it needs a letter or a digit")
    if len(name) > 200:
        return Refused("400", "a legacy name has at most 200 characters")
    own = set(legacy.candidates(name))
    if any(legacy.fold(entry.name) in own for entry in catalogue.all_types()):
        return Refused("409", f"{name} is a canonical type itself; it cannot mean another")
    step, path = target, [name]
    while True:
        path.append(step)
        if legacy.fold(step) == folded:
            return Refused("409", f"that makes a loop: {' → '.join(path)}")
        if catalogue.find(step) is not None:
            return None
        following = made.get(legacy.fold(step))
        if following is None:
            break
        if len(path) > len(made) + 2:
            return Refused("409", f"{target} is part of a loop: {' → '.join(path)}")
        step = following.target
    if legacy.resolve(step) is not None:
        return None
    near = [match.type for n in legacy.suggest(step) if (match := legacy.resolve(n)) is not None]
    hint = f" Nearest: {', '.join(dict.fromkeys(near))}." if near else ""
    return Refused(
        "404", f"there is no event type {step!r}.{hint} `interlock legacy list` shows them all."
    )
