"""Streams, buckets and consumers, declared once. `interlock setup` applies them.

Services never create them: at start they compare what stands with what their contract needs.
"""

from typing import Literal

import msgspec

from interlock_schemas import subjects

__all__ = [
    "BUCKETS",
    "DEAD",
    "EVENTS",
    "HEALTH",
    "INVENTORY",
    "LARGEST_MESSAGE_BYTES",
    "LEGACY",
    "LEGACY_MAPPINGS",
    "LETTERS",
    "LOCKS",
    "MEMBERS",
    "NODES",
    "ORDERS",
    "STREAMS",
    "Bucket",
    "Consumer",
    "Durability",
    "Stored",
    "Stream",
]

_DAY_S = 86_400

#: The largest message that is taken in. The broker's own limit is a mebibyte higher, so that a
#: dead letter always fits: the original bytes and headers, and why.
LARGEST_MESSAGE_BYTES = 7 * 1024 * 1024


#: ``durable``: what is acknowledged survives a power cut of every server at once. It takes file
#: storage, no ``persist_mode: async``, the declared replicas, and ``sync_interval: always`` on each
#: server that holds one, however many there are. ``fast``: any storage, any sync.
Durability = Literal["durable", "fast"]


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A JetStream stream, limits retention."""

    name: str
    summary: str
    subjects: tuple[str, ...]
    max_age_s: int
    """Messages older than this go. 0: never."""
    duplicate_window_s: int = 120
    """How long the broker remembers message ids."""
    max_message_bytes: int = -1
    replicas: int = 1
    """On so many servers, or on more."""
    durability: Durability = "durable"


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """A key-value bucket: the last value of each key, with per-key time to live allowed."""

    name: str
    summary: str
    replicas: int = 1
    """On so many servers, or on more."""
    durability: Durability = "durable"
    marker_ttl_s: int = 60
    """How long a deleted or expired key leaves a marker."""
    limit_per_key: int = 1
    """How many values of a key the broker keeps. 2: those who write see to it that it is one,
    because what the limit removes, and not a rollup, may come back when a server is killed."""
    rising: bool = False
    """Whether its revisions go on rising when it is deleted and made anew."""

    @property
    def stream(self) -> str:
        """The stream that the broker keeps it in."""
        return f"KV_{self.name}"

    @property
    def subject(self) -> str:
        """The filter for all of its keys."""
        return f"$KV.{self.name}.>"

    def key_subject(self, key: str) -> str:
        """The subject of one key."""
        return f"$KV.{self.name}.{key}"


#: What the broker keeps messages in.
Stored = Stream | Bucket


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """A durable pull consumer with explicit acknowledgement.

    The broker redelivers without limit: how often a handler may fail is decided by whoever runs
    it, because a broker that gives up on a message leaves it lying where nobody looks.
    """

    stream: Stream
    name: str
    filters: tuple[str, ...]
    ack_wait_s: float = 30.0
    """Redelivered when neither acknowledged nor reported in progress for so long."""
    max_ack_pending: int = 1_000
    from_start: bool = True
    """Begin with what the stream holds; False: with what comes next."""


LEGACY = Stream(
    name="LEGACY",
    summary="What old workers publish, as they spell it.",
    subjects=(subjects.LEGACY,),
    max_age_s=14 * _DAY_S,
    max_message_bytes=LARGEST_MESSAGE_BYTES,
)
EVENTS = Stream(
    name="EVENTS",
    summary="Canonical events, one subject per type and key.",
    subjects=(subjects.EVENTS,),
    max_age_s=30 * _DAY_S,
    max_message_bytes=LARGEST_MESSAGE_BYTES,
    duplicate_window_s=600,
)
DEAD = Stream(
    name="DEAD",
    summary="Dead letters: original bytes and headers, and why.",
    # Room for a letter's own headers; and a letter about what claims to be one still fits.
    max_message_bytes=LARGEST_MESSAGE_BYTES + 512 * 1024,
    subjects=(subjects.DEAD,),
    max_age_s=90 * _DAY_S,
    duplicate_window_s=600,
)
STREAMS = (LEGACY, EVENTS, DEAD)

LEGACY_MAPPINGS = Bucket(
    name="legacy_mappings", summary="Legacy names that an operator mapped at run time."
)
LETTERS = Bucket(name="letters", summary="The state and history of each dead letter.")
LOCKS = Bucket(
    name="locks",
    summary="Who holds and who waits for which lock, and what is written under locks.",
    # While a marker stands, its key counts as written: a lock is free at once all the same,
    # because whoever takes it names the marker.
    marker_ttl_s=1,
    limit_per_key=2,
    rising=True,
)
NODES = Bucket(
    name="nodes", summary="How each node is described, and what operators decided about it."
)
MEMBERS = Bucket(
    name="members",
    summary="Which nodes are there: leases of their agents.",
    marker_ttl_s=1,
    limit_per_key=2,
)
HEALTH = Bucket(
    name="health",
    summary="What the health monitor holds of each node and of the fleet, and what is reserved.",
    marker_ttl_s=1,
    limit_per_key=2,
)
INVENTORY = Bucket(
    name="inventory",
    summary="Which artifacts there are, the receipts of their copies, and how each store is.",
    marker_ttl_s=1,
    limit_per_key=2,
)
ORDERS = Bucket(
    name="orders",
    summary="What each node is to do about which artifact, and by which policies and requests.",
    marker_ttl_s=1,
    limit_per_key=2,
)
BUCKETS = (LEGACY_MAPPINGS, LETTERS, LOCKS, NODES, MEMBERS, HEALTH, INVENTORY, ORDERS)
