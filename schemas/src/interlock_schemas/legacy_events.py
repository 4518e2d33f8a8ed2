"""Events about legacy names: an operator mapped one, or took a mapping back.

How a name is resolved is the business of `interlock_schemas.legacy`; these events let every
event normalizer, and whoever audits the migration, learn of a change at run time.
"""

from typing import ClassVar

from interlock_schemas.event import Event, typed

__all__ = ["TYPES", "LegacyNameMapped", "LegacyNameUnmapped"]


class LegacyNameMapped(Event, frozen=True, kw_only=True):
    """An operator gave a legacy name its canonical type at run time; emitted by the event
    normalizer."""

    event_type: ClassVar[str] = "legacy.name_mapped"

    name: str
    """The legacy name, as the operator spelled it."""
    type: str
    """The canonical type that it now means."""
    by: str | None = None
    """Operator who mapped it."""
    reason: str | None = None


class LegacyNameUnmapped(Event, frozen=True, kw_only=True):
    """An operator withdrew a mapping made at run time; emitted by the event normalizer."""

    event_type: ClassVar[str] = "legacy.name_unmapped"

    name: str
    """The legacy name, as it was mapped."""
    by: str | None = None
    """Operator who withdrew the mapping."""


TYPES = (typed(LegacyNameMapped), typed(LegacyNameUnmapped))
