"""How often hosts that have SSH only are looked at."""

import msgspec

__all__ = ["Rhythm"]


class Rhythm(msgspec.Struct, frozen=True, kw_only=True):
    """All in seconds."""

    report_s: float = 30.0
    """Between two reports of how much room there is."""
    compare_s: float = 600.0
    """Between two comparisons of what stands there with the receipts."""
    tidy_s: float = 3_600.0
    retry_s: float = 30.0
    """Until a store that could not be used is tried again."""
    lease_s: float = 15.0
    """How long the store stays with a router that has vanished."""
