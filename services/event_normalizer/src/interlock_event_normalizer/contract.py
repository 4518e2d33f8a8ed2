"""What the event-normalizer is to the fleet. The only place that names its subjects."""

from interlock_schemas import mappings, subjects
from interlock_schemas.contracts import Contract, Publishes
from interlock_schemas.legacy_events import LegacyNameMapped, LegacyNameUnmapped
from interlock_schemas.topology import LEGACY, LEGACY_MAPPINGS, Consumer

__all__ = ["CONTRACT", "INBOX"]

INBOX = Consumer(
    stream=LEGACY,
    name=mappings.SERVICE,
    filters=(subjects.LEGACY,),
    ack_wait_s=10.0,
    max_ack_pending=2_000,
)

CONTRACT = Contract(
    name=mappings.SERVICE,
    version="0.1.0",
    summary="Turns legacy event names and payloads into canonical events, once each.",
    module="interlock_event_normalizer",
    consumes=(INBOX,),
    publishes=(
        Publishes(subject=subjects.EVENTS, summary="The canonical event of each legacy one."),
        Publishes(
            subject=subjects.event_filter(LegacyNameMapped.event_type),
            summary="An operator mapped a legacy name.",
        ),
        Publishes(
            subject=subjects.event_filter(LegacyNameUnmapped.event_type),
            summary="An operator took a mapping back.",
        ),
        Publishes(
            subject=subjects.dead(mappings.SERVICE, "*"),
            summary="What has no canonical meaning, with its original bytes and why.",
        ),
    ),
    answers=(mappings.MAP, mappings.UNMAP, mappings.LIST),
    stores=(LEGACY_MAPPINGS,),
)
