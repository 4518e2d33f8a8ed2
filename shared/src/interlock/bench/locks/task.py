"""What a client process is told to do, and what it reports: one line of JSON each."""

from typing import Literal

import msgspec

__all__ = ["LOCK", "Outcome", "Task", "Way"]

#: The kind of operation that is one lock acquired and released.
LOCK = "acquire_release"

#: ``uncontended``: locks that nobody else wants, raw writes and round trips, in turns.
#: ``hold``: take a lock and keep it. ``hand_over``: give a lock to the other process and get it
#: back. ``connect``: have so many clients connected. ``throughput``: acquire and release with all.
Way = Literal["uncontended", "hold", "hand_over", "connect", "throughput"]


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one client process."""

    way: Way
    name: str = ""
    """Of the lock. For a throughput, empty: each client has a lock of its own."""
    count: int = 0
    """Operations of each kind, or hand-overs of this process."""
    seconds: float = 0.0
    """Stop after so long, whatever the count."""
    clients: int = 1
    """So many of them work, each with a connection of its own."""
    start_ns: int = 0
    """When a throughput begins, on the monotonic clock, which all processes of a machine share."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a client process reports of a step."""

    error: str | None = None
    taken: dict[str, list[int]] = {}
    """Nanoseconds of each operation, by kind."""
    holds: list[tuple[int, int]] = []
    """For each time that it held the lock: when it got it, and when it called for its release."""
    cycles: int = 0
    """Acquired and released within the time."""
    served: int = 0
    """Clients that did so at least once."""
