"""What a service is to the rest of the fleet, as data.

From the contracts come the broker's permissions, the start-up check, the list of processes that
`interlock up` runs, and the documents. A service names its subjects nowhere else.
"""

from typing import Generic, TypeVar

import msgspec

from interlock_schemas import subjects
from interlock_schemas.topology import Bucket, Consumer

__all__ = ["Command", "Contract", "Publishes"]

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class Command(msgspec.Struct, Generic[RequestT, ReplyT], frozen=True, kw_only=True):
    """A request that a service answers, found by any NATS tool (ADR-32)."""

    service: str
    verb: str
    summary: str
    request: type[RequestT]
    reply: type[ReplyT]

    @property
    def subject(self) -> str:
        """Where the request is sent."""
        return subjects.command(self.service, self.verb)


class Publishes(msgspec.Struct, frozen=True, kw_only=True):
    """Subjects that a service publishes to, and when."""

    subject: str
    summary: str


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a service consumes, publishes, answers and stores."""

    name: str
    """As it stands in subjects and metrics, for example ``event-normalizer``."""
    version: str
    summary: str
    module: str
    """The module that ``python -m`` runs."""
    consumes: tuple[Consumer, ...] = ()
    publishes: tuple[Publishes, ...] = ()
    answers: tuple[Command, ...] = ()  # type: ignore[type-arg]  # commands of any request and reply
    stores: tuple[Bucket, ...] = ()
    """Buckets that this service writes."""
    reads: tuple[Bucket, ...] = ()
    """Buckets that it only watches or reads."""
