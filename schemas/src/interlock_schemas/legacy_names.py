"""The table of legacy names: every spelling of the predecessor and the type it means today."""

import msgspec

__all__ = ["RULES", "Rule"]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Legacy names that mean one canonical type."""

    type: str
    """The canonical type."""
    names: tuple[str, ...]
    """Spellings; case and separators do not matter, so one of each is enough."""
    reason: str = ""
    """Why, where it was a decision. Empty: the name and the type say the same thing."""
    sets: dict[str, str] = {}
    """Payload fields that the name itself implies, set where the payload does not have them."""


RULES: tuple[Rule, ...] = ()
