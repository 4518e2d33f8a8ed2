"""What the dead-letter-queue is to the fleet. The only place that names its subjects."""

from interlock_schemas import letters, subjects
from interlock_schemas.contracts import Contract, Publishes
from interlock_schemas.letter_events import LetterDiscarded, LetterReplayed, LetterResolved
from interlock_schemas.topology import DEAD, EVENTS, LETTERS, Consumer

__all__ = ["CONTRACT", "DIED", "RESOLVED"]

DIED = Consumer(stream=DEAD, name=letters.SERVICE, filters=(subjects.DEAD,), ack_wait_s=10.0)
RESOLVED = Consumer(
    stream=EVENTS,
    name=f"{letters.SERVICE}-resolved",
    filters=(subjects.event_filter(LetterResolved.event_type),),
    ack_wait_s=10.0,
)

CONTRACT = Contract(
    name=letters.SERVICE,
    version="0.1.0",
    summary="Keeps, lists, shows, replays and discards dead letters.",
    module="interlock_dead_letter_queue",
    consumes=(DIED, RESOLVED),
    publishes=(
        Publishes(subject=subjects.LEGACY, summary="Replayed legacy messages."),
        Publishes(subject=subjects.EVENTS, summary="Replayed events."),
        Publishes(
            subject=subjects.event_filter(LetterReplayed.event_type),
            summary="A letter was sent back to where it came from.",
        ),
        Publishes(
            subject=subjects.event_filter(LetterDiscarded.event_type),
            summary="A letter was closed for good.",
        ),
        Publishes(
            subject=subjects.dead(letters.SERVICE, "*"),
            summary="What claimed to be a letter and is none.",
        ),
    ),
    answers=(letters.LIST, letters.SHOW, letters.REPLAY, letters.DISCARD, letters.COUNT),
    stores=(LETTERS,),
)
