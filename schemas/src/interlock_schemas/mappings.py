"""Mappings of legacy names that an operator adds at run time, and the commands on them.

A mapping's target is a canonical type or another name that is known. Chains are followed at
look-up, so a target that is mapped anew takes its followers along. A loop is refused when it would
be made, and is harmless should two operators make one at the same moment: the name is unknown.
"""

import base64
from collections.abc import Mapping as ReadOnly

import msgspec

from interlock_schemas import catalogue, legacy
from interlock_schemas.contracts import Command
from interlock_schemas.legacy import fold

__all__ = [
    "LIST",
    "MAP",
    "SERVICE",
    "UNMAP",
    "ListMappings",
    "MapName",
    "Mapping",
    "MappingChange",
    "MappingList",
    "UnmapName",
    "bucket_key",
    "resolve",
]

SERVICE = "event-normalizer"


class Mapping(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A legacy name and what it means: a canonical type, or another name that is known."""

    name: str
    target: str
    at: str
    """When it was made (RFC 3339)."""
    by: str = ""
    reason: str = ""


class MapName(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask that a legacy name be understood from now on."""

    name: str
    target: str
    by: str = ""
    reason: str = ""


class UnmapName(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask that a mapping made at run time be forgotten."""

    name: str
    by: str = ""


class ListMappings(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for the mappings made at run time."""


class MappingChange(msgspec.Struct, frozen=True, kw_only=True):
    """What the bucket holds after the command."""

    mapping: Mapping | None
    canonical_type: str | None
    """What the name resolves to now, or None where nobody knows it any more."""
    changed: bool
    """False: it was so already."""


class MappingList(msgspec.Struct, frozen=True, kw_only=True):
    """The mappings made at run time, sorted by name."""

    mappings: tuple[Mapping, ...]


def bucket_key(name: str) -> str:
    """The bucket's key for a legacy name: one key for all its spellings."""
    return base64.b32encode(fold(name).encode(errors="surrogatepass")).decode().rstrip("=")


def _made(name: str, made: ReadOnly[str, Mapping]) -> Mapping | None:
    if not made:
        return None
    return next((made[known] for known in legacy.candidates(name) if known in made), None)


def resolve(name: str, made: ReadOnly[str, Mapping]) -> legacy.Match | None:
    """What a legacy name means now: by the mappings made at run time, else by the table.

    `made` is keyed by folded name.
    """
    step = name
    seen: set[str] = set()
    while (mapping := _made(step, made)) is not None:
        if fold(mapping.name) in seen:
            return None
        seen.add(fold(mapping.name))
        if catalogue.find(mapping.target) is not None:
            who = f" by {mapping.by}" if mapping.by else ""
            why = f": {mapping.reason}" if mapping.reason else ""
            return legacy.Match(
                name=name, type=mapping.target, rule=f"mapped at run time{who}{why}"
            )
        step = mapping.target
    found = legacy.resolve(step)
    if found is None or not seen:
        return found
    return msgspec.structs.replace(found, name=name, rule=f"mapped at run time to {step}")


MAP = Command(
    service=SERVICE, verb="map", summary="Map a legacy name to a canonical type.",
    request=MapName, reply=MappingChange,
)  # fmt: skip
UNMAP = Command(
    service=SERVICE, verb="unmap", summary="Forget a mapping made at run time.",
    request=UnmapName, reply=MappingChange,
)  # fmt: skip
LIST = Command(
    service=SERVICE, verb="mappings", summary="The mappings made at run time.",
    request=ListMappings, reply=MappingList,
)  # fmt: skip
