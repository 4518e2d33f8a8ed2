"""The shell of the event-normalizer: legacy subject in, decision, canonical subject out."""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from interlock import logs
from interlock.bus import Ack
from interlock.clock import now, rfc3339, rfc3339_ns
from interlock.consuming import Decision
from interlock.delivery import Delivery
from interlock.errors import (
    BusUnavailable,
    CommandFailed,
    MessageTooLarge,
    PublishRefused,
    Reject,
    WrongRevision,
)
from interlock.kv import Entry
from interlock.publishing import event_headers, key_of
from interlock.service import Service
from interlock_event_normalizer.contract import INBOX
from interlock_event_normalizer.mapping import Canonical, normalize
from interlock_event_normalizer.overrides import check
from interlock_event_normalizer.published import Published
from interlock_schemas import envelope, legacy, mappings, subjects
from interlock_schemas.legacy_events import LegacyNameMapped, LegacyNameUnmapped
from interlock_schemas.letters import Code
from interlock_schemas.mappings import (
    ListMappings,
    MapName,
    Mapping,
    MappingChange,
    MappingList,
    UnmapName,
)
from interlock_schemas.topology import LEGACY_MAPPINGS

__all__ = ["Normalizer", "setup"]

#: Messages that are normalized and published together, at most.
BATCH: Final = 256

log = logs.get_logger("interlock.normalizer")


#: Legacy name and acknowledgement-to-be of a canonical event that is under way.
_Sent = tuple[str, "asyncio.Future[Ack]"]


class Normalizer:
    """Holds the mappings as they stand, and answers with them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._store = service.store(LEGACY_MAPPINGS)
        self._published = Published(service.fleet.bus)
        self._overrides: dict[str, Mapping] = {}
        self._names: dict[str, str] = {}
        self._revisions: dict[str, int] = {}

    async def prepare(self) -> None:
        """What has to be known before the first message."""
        await self._published.learn_horizon()

    def on_mapping(self, entry: Entry) -> None:
        """Take over one key of the bucket of mappings."""
        if entry.revision <= self._revisions.get(entry.key, 0):
            return
        self._revisions[entry.key] = entry.revision
        known = self._names.pop(entry.key, None)
        if known is not None:
            self._overrides.pop(known, None)
        if entry.value is not None:
            try:
                mapping = msgspec.json.decode(entry.value, type=Mapping)
            except msgspec.DecodeError as error:
                # Nobody but a normalizer writes this bucket; ending would not mend it.
                log.error("not a mapping", key=entry.key, why=str(error))
                return
            folded = legacy.fold(mapping.name)
            self._names[entry.key] = folded
            self._overrides[folded] = mapping

    def _resolve(self, name: str) -> legacy.Match | None:
        return mappings.resolve(name, self._overrides)

    async def on_legacy(self, deliveries: Sequence[Delivery]) -> list[Decision]:
        """Publish the canonical events of legacy messages, each under an id that never changes.

        They go out together, in the order of the messages; each ends by itself.
        """
        decisions: list[Decision] = []
        sent: list[tuple[int, _Sent]] = []
        for number, delivery in enumerate(deliveries):
            decisions.append(None)
            try:
                if delivery.trace is None:
                    published = await self._publish(delivery)
                else:
                    with delivery.in_trace():
                        published = await self._publish(delivery)
            except (Reject, BusUnavailable) as error:
                decisions[number] = error
            else:
                if published is not None:
                    sent.append((number, published))
        for number, (name, future) in sent:
            try:
                await future
            except (MessageTooLarge, PublishRefused) as error:
                decisions[number] = _refused(error, name)
            except BusUnavailable as error:
                decisions[number] = error
            else:
                self._published.handled(deliveries[number].seq)
        return decisions

    async def _publish(self, delivery: Delivery) -> "_Sent | None":
        """Begin to publish the canonical event of a message; None when that was done before.

        Raises Reject for a message that has no canonical meaning.
        """
        outcome = normalize(delivery.subject, delivery.headers, delivery.body, self._resolve)
        if not isinstance(outcome, Canonical):
            suggestions: tuple[str, ...] = ()
            if outcome.code is Code.UNKNOWN_NAME and outcome.name:
                extra = tuple(mapping.name for mapping in self._overrides.values())
                suggestions = tuple(legacy.suggest(outcome.name, extra))
            hint = f"; nearest known: {', '.join(suggestions)}" if suggestions else ""
            raise Reject(
                outcome.reason + hint,
                code=outcome.code,
                name=outcome.name,
                suggestions=suggestions,
            )
        event_id = envelope.canonical_id(delivery.id, delivery.body)
        if (
            self._published.old(delivery.stored_ns)
            and self._published.doubtful(delivery.position)
            and await self._published.holds(event_id, delivery.position)
        ):
            return None
        headers = envelope.forwarded(delivery.headers)
        headers |= event_headers(
            outcome.type,
            id=event_id,
            source=outcome.origin,
            time=outcome.time or rfc3339_ns(delivery.stored_ns),
        )
        headers[envelope.LEGACY_NAME] = envelope.escape(outcome.name)
        headers[envelope.LEGACY_SUBJECT] = envelope.escape(delivery.subject)
        headers[envelope.LEGACY_ORIGIN] = envelope.escape(outcome.origin)
        subject = subjects.event(outcome.type, key_of(outcome.payload))
        try:
            future = await self._service.fleet.bus.publish_soon(subject, outcome.body, headers)
        except (MessageTooLarge, PublishRefused) as error:
            raise _refused(error, outcome.name) from error
        return outcome.name, future

    async def map(self, request: MapName) -> MappingChange:
        """Make a mapping; answered once it is stored. Doing it again changes nothing."""
        refused = check(request.name, request.target, self._overrides)
        if refused is not None:
            raise CommandFailed(refused.reason, code=refused.code)
        key = mappings.bucket_key(request.name)
        entry = await self._store.get(key)
        if entry.value is not None:
            standing = msgspec.json.decode(entry.value, type=Mapping)
            if standing.target == request.target:
                return self._changed(standing, changed=False)
        mapping = Mapping(
            name=request.name,
            target=request.target,
            at=rfc3339(now()),
            by=request.by,
            reason=request.reason,
        )
        try:
            value = msgspec.json.encode(mapping)
            revision = await self._store.put(key, value, revision=entry.revision)
        except WrongRevision as error:
            raise CommandFailed(
                f"{request.name} was mapped by somebody else at this moment: look, then try again",
                code="409",
            ) from error
        self.on_mapping(Entry(key, value, revision))
        await self._service.fleet.publish(
            LegacyNameMapped(
                name=request.name,
                type=request.target,
                by=request.by or None,
                reason=request.reason or None,
            )
        )
        return self._changed(mapping, changed=True)

    async def unmap(self, request: UnmapName) -> MappingChange:
        """Forget a mapping. Names of the table cannot be forgotten."""
        key = mappings.bucket_key(request.name)
        entry = await self._store.get(key)
        if entry.value is None:
            if legacy.resolve(request.name) is not None:
                raise CommandFailed(
                    f"{request.name} is in the table of legacy names, not mapped at run time",
                    code="409",
                )
            return MappingChange(mapping=None, canonical_type=None, changed=False)
        try:
            revision = await self._store.delete(key, revision=entry.revision)
        except WrongRevision as error:
            raise CommandFailed(
                f"{request.name} was changed by somebody else at this moment: try again",
                code="409",
            ) from error
        self.on_mapping(Entry(key, None, revision))
        await self._service.fleet.publish(
            LegacyNameUnmapped(name=request.name, by=request.by or None)
        )
        now_is = self._resolve(request.name)
        return MappingChange(
            mapping=None, canonical_type=now_is.type if now_is else None, changed=True
        )

    async def list(self, _: ListMappings) -> MappingList:
        """The mappings as they stand."""
        found = sorted(self._overrides.values(), key=lambda mapping: mapping.name)
        return MappingList(mappings=tuple(found))

    def _changed(self, mapping: Mapping, *, changed: bool) -> MappingChange:
        overrides = {**self._overrides, legacy.fold(mapping.name): mapping}
        match = mappings.resolve(mapping.name, overrides)
        return MappingChange(
            mapping=mapping, canonical_type=match.type if match else None, changed=changed
        )


def _refused(error: MessageTooLarge | PublishRefused, name: str) -> Reject:
    """The letter's reason, where the broker does not take a canonical event."""
    # But for its size, its headers are the one part that the broker has not seen in this form.
    reason = f"the broker refuses the canonical event: {error}"
    return Reject(reason, code=Code.TOO_LARGE, name=name)


async def setup(service: Service) -> None:
    """Wire the normalizer to its contract."""
    normalizer = Normalizer(service)
    await normalizer.prepare()
    service.watch(LEGACY_MAPPINGS, normalizer.on_mapping)
    service.consume(INBOX, normalizer.on_legacy, batch=BATCH)
    service.answer(mappings.MAP, normalizer.map)
    service.answer(mappings.UNMAP, normalizer.unmap)
    service.answer(mappings.LIST, normalizer.list)
