"""What the fleet is told of locks: notices to clients, events, metrics, letters.

Events are collected for a moment and go out together, under ids made of the record's sequence, so
that what several replicas tell is stored once.
"""

import asyncio
from typing import Final

import msgspec

from interlock import logs, metrics
from interlock.clock import rfc3339_ns
from interlock.errors import BusUnavailable, InterlockError
from interlock.publishing import encode_event
from interlock.service import Service
from interlock_schemas import letters, locks, subjects
from interlock_schemas.event import Event
from interlock_schemas.letters import Code, DeadLetter
from interlock_schemas.lock import (
    LockAcquired,
    LockExpired,
    LockLost,
    LockRefused,
    LockReleased,
    LockWaitTimedOut,
)
from interlock_schemas.locks import LockNotice
from interlock_schemas.topology import LOCKS
from interlock_sync_mutex.leases import Standing
from interlock_sync_mutex.registry import Change, Told

__all__ = ["Teller", "event_of", "notice_of"]

#: Events that wait for the broker; past it, the oldest are dropped, and the log says so.
_MOST_WAITING: Final = 50_000

log = logs.get_logger("interlock.locks")


def notice_of(change: Change) -> LockNotice | None:
    """What the client of a claim is told, where it has not caused it itself."""
    standing = change.standing
    if change.kind == "acquired" and standing.claim.offered:
        return _granted(standing)
    if change.kind == "ended" and change.why not in ("released", "timed_out", "cancelled"):
        return LockNotice(
            name=change.name,
            id=standing.id,
            what="ended" if standing.held else "refused",
            token=standing.token,
            revision=change.revision,
            reason=f"{change.why}: {change.by}" if change.by else change.why,
            deadlock=change.why == "deadlock",
        )
    return None


def _granted(standing: Standing) -> LockNotice:
    return LockNotice(
        name=standing.claim.name,
        id=standing.id,
        what="granted",
        token=standing.token,
        revision=standing.revision,
        ttl_s=float(min(locks.TAKE_UP_S, standing.claim.ttl_s)),
        asked_ns=standing.asked_ns,
        asked_seq=standing.asked_seq,
        held_ns=standing.held_ns,
        after=standing.claim.after,
    )


def event_of(change: Change) -> Event | None:
    """The event that a change is, or None."""
    standing = change.standing
    claim = standing.claim
    holder = claim.owner or standing.id
    node = claim.node or None
    if change.kind == "acquired":
        return LockAcquired(
            lock=change.name,
            holder=holder,
            node=node,
            token=standing.token,
            waited_s=_seconds(standing.asked_ns, standing.held_ns) if claim.asked_ns else 0.0,
        )
    if change.kind != "ended":
        return None
    if not standing.held:
        if change.why == "deadlock":
            return LockRefused(lock=change.name, holder=holder, node=node, reason=change.by)
        if change.why == "timed_out":
            return LockWaitTimedOut(
                lock=change.name,
                node=node,
                operation=claim.note or None,
                wait_s=_seconds(standing.asked_ns, change.at_ns),
            )
        return None
    held_s = _seconds(standing.held_ns, change.at_ns)
    token = standing.token
    if change.why == "released":
        return LockReleased(lock=change.name, holder=holder, node=node, token=token, held_s=held_s)
    if change.why == "expired":
        return LockExpired(lock=change.name, holder=holder, node=node, token=token, held_s=held_s)
    return LockLost(
        lock=change.name,
        holder=holder,
        node=node,
        token=token,
        held_s=held_s,
        reason=change.why,
        by=change.by or None,
    )


def _seconds(since_ns: int, until_ns: int) -> float:
    return max(0.0, round((until_ns - since_ns) / 1e9, 6))


class Teller:
    """Tells what one replica sees."""

    def __init__(self, service: Service) -> None:
        self._bus = service.fleet.bus
        self._events: list[tuple[Event, str]] = []
        self._flushing: asyncio.Task[None] | None = None

    def tell(self, change: Change) -> None:
        """Notice, event and figures of a change."""
        notice = notice_of(change)
        if notice is not None:
            self._notify(change.standing.claim.client, notice)
        event = event_of(change)
        if event is not None:
            self.emit(event, f"lock-{change.revision}")
        self._count(change)

    def granted(self, standing: Standing) -> None:
        """Tell a client once more that it was granted a lock."""
        self._notify(standing.claim.client, _granted(standing))

    def _notify(self, client: str, notice: LockNotice) -> None:
        if client:
            self._bus.post(subjects.lock_notice(client), msgspec.json.encode(notice))

    def _count(self, change: Change) -> None:
        standing = change.standing
        if change.kind == "acquired":
            waited = _seconds(standing.asked_ns, standing.held_ns) if standing.claim.asked_ns else 0
            metrics.LOCK_WAIT_SECONDS.record(waited)
            metrics.LOCK_GRANTS.add(1)
        elif change.kind == "queued":
            metrics.LOCK_WAITING.add(1)
        elif change.kind == "ended" and standing.held:
            metrics.LOCK_HOLD_SECONDS.record(_seconds(standing.held_ns, change.at_ns))
            metrics.LOCK_ENDS.add(1, {"why": change.why})
        left_queue = (change.kind == "acquired" and standing.claim.offered) or (
            change.kind == "ended" and not standing.held
        )
        if left_queue:
            metrics.LOCK_WAITING.add(-1)

    def emit(self, event: Event, id: str) -> None:
        """Publish an event soon, once under this id."""
        self._events.append((event, id))
        if len(self._events) > _MOST_WAITING:
            dropped = len(self._events) // 10
            del self._events[:dropped]
            log.error("events dropped: the broker does not take them", events=dropped)

    def flush(self) -> None:
        """Publish what has come together, in the background; one group at a time."""
        if self._events and (self._flushing is None or self._flushing.done()):
            self._flushing = asyncio.get_running_loop().create_task(self._publish())

    async def _publish(self) -> None:
        events, self._events = self._events, []
        published = []
        for event, id in events:
            subject, body, headers = encode_event(event, source=locks.SERVICE, id=id)
            published.append(await self._bus.publish_soon(subject, body, headers))
        outcomes = await asyncio.gather(*published, return_exceptions=True)
        again = [
            each
            for each, outcome in zip(events, outcomes, strict=True)
            if isinstance(outcome, BusUnavailable)
        ]
        self._events[:0] = again
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, BusUnavailable):
                log.error("an event was refused", why=str(outcome))

    async def bury(self, broken: Told) -> None:
        """Make a record that is no claim a dead letter."""
        subject = LOCKS.key_subject(broken.key)
        message_id = f"{LOCKS.stream}.{broken.revision}"
        at = rfc3339_ns(broken.at_ns)
        letter = DeadLetter(
            id=letters.letter_id(locks.SERVICE, message_id, broken.body or b""),
            code=Code.UNDECODABLE,
            reason="this record of the bucket of locks is no claim: nobody but the lock service "
            "and the SDK writes there. The lock counts as held until it runs out or is ended",
            service=locks.SERVICE,
            consumer=locks.SERVICE,
            message_id=message_id,
            subject=subject,
            stream=LOCKS.stream,
            stream_seq=broken.revision,
            attempts=1,
            first_at=at,
            last_at=at,
            body=broken.body or b"",
        )
        headers, body = letters.write_letter(letter)
        await self._bus.publish(subjects.dead(locks.SERVICE, letter.code.value), body, headers)

    async def close(self) -> None:
        """Publish what is left."""
        if self._flushing is not None:
            await self._flushing
        if self._events:
            try:
                await self._publish()
            except InterlockError as error:
                log.warning("events not told", events=len(self._events), why=str(error))
