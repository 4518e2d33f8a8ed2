"""The shell of the dead-letter-queue: letters in, records kept, commands answered."""

import asyncio
from collections.abc import Callable

import msgspec

from interlock import logs
from interlock.bus import ApiError
from interlock.clock import now, rfc3339
from interlock.delivery import Delivery
from interlock.errors import (
    CommandFailed,
    InterlockError,
    Reject,
    WrongRevision,
)
from interlock.kv import Entry, decode_message
from interlock.publishing import encode_event
from interlock.service import Service
from interlock_dead_letter_queue import letters as life
from interlock_dead_letter_queue.contract import DIED, RESOLVED
from interlock_dead_letter_queue.settings import Settings
from interlock_schemas import envelope, letters
from interlock_schemas.event import Event
from interlock_schemas.letter_events import LetterDiscarded, LetterReplayed, LetterResolved
from interlock_schemas.letters import (
    Code,
    CountLetters,
    DeadLetter,
    DiscardLetters,
    LetterCounts,
    LetterDetail,
    LetterPage,
    LetterRecord,
    LettersReport,
    ListLetters,
    ReplayLetters,
    ShowLetter,
)
from interlock_schemas.topology import DEAD, LETTERS

__all__ = ["DeadLetterQueue", "setup"]

log = logs.get_logger("interlock.letters")

#: Compare-and-set attempts before a change is given up.
_TRIES = 50


class DeadLetterQueue:
    """Holds every record in memory, as the bucket has it, and changes them by compare-and-set."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._store = service.store(LETTERS)
        self._records: dict[str, LetterRecord] = {}
        self._revisions: dict[str, int] = {}

    def on_record(self, entry: Entry) -> None:
        """Take over one key of the bucket of records."""
        if entry.revision <= self._revisions.get(entry.key, 0):
            return
        self._revisions[entry.key] = entry.revision
        self._records.pop(entry.key, None)
        if entry.value is not None:
            try:
                self._records[entry.key] = msgspec.json.decode(entry.value, type=LetterRecord)
            except msgspec.DecodeError as error:
                # Nobody but this service writes this bucket; ending would not mend it.
                log.error("not a record of a letter", key=entry.key, why=str(error))

    async def _change(
        self, id: str, decide: Callable[[LetterRecord | None], LetterRecord | None]
    ) -> LetterRecord | None:
        """Write what `decide` makes of the record; decide anew where another was faster."""
        for _ in range(_TRIES):
            record = decide(self._records.get(id))
            if record is None:
                return None
            value = msgspec.json.encode(record)
            try:
                revision = await self._store.put(id, value, revision=self._revisions.get(id, 0))
            except WrongRevision:
                # What stands counts, also where it is older than what was known: a restored bucket.
                self._revisions.pop(id, None)
                self._records.pop(id, None)
                self.on_record(await self._store.get(id))
                continue
            self.on_record(Entry(id, value, revision))
            return record
        raise CommandFailed(f"letter {id} is being changed by others all the time", code="409")

    async def on_died(self, delivery: Delivery) -> None:
        """Record a letter."""
        try:
            letter = letters.read_letter(delivery.headers, delivery.body)
        except (msgspec.MsgspecError, ValueError) as error:
            raise Reject(f"this is no dead letter: {error}", code=Code.INVALID) from error
        seq = delivery.position.stream_seq
        await self._change(letter.id, lambda record: life.captured(record, letter, seq))

    async def on_resolved(self, delivery: Delivery) -> None:
        """Close a letter whose replay was handled."""
        try:
            event = msgspec.json.decode(delivery.body, type=LetterResolved)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Reject(f"not a letter.resolved: {error}", code=Code.INVALID) from error
        at = rfc3339(now())

        def decide(record: LetterRecord | None) -> LetterRecord | None:
            return life.resolved(record, hop=event.hop, at=at) if record is not None else None

        await self._change(event.letter, decide)

    async def _letter(self, record: LetterRecord) -> DeadLetter:
        """The letter itself, from the stream."""
        try:
            answer = await self._service.fleet.bus.api(
                f"STREAM.MSG.GET.{DEAD.name}", {"seq": record.letter_seq}
            )
        except ApiError as error:
            if error.code == 404:
                raise CommandFailed(
                    f"letter {record.id}: its bytes are past their retention", code="404"
                ) from error
            raise
        return letters.read_letter(*decode_message(answer["message"]))

    def _find(self, id: str) -> LetterRecord:
        """The letter of that id, or of that beginning of one."""
        if id in self._records:
            return self._records[id]
        found = [record for key, record in self._records.items() if id and key.startswith(id)]
        if len(found) == 1:
            return found[0]
        if found:
            raise CommandFailed(f"{id} is the beginning of {len(found)} letters", code="409")
        raise CommandFailed(f"there is no letter {id}", code="404")

    def _select(
        self, request: ReplayLetters | DiscardLetters
    ) -> tuple[list[LetterRecord], dict[str, str], int]:
        """The letters that a command means, those it cannot find, and how many are left over.

        A filter that names no status means the open ones.
        """
        ids, wanted = list(dict.fromkeys(request.ids)), request.filter
        if wanted is not None and wanted.status is None:
            wanted = msgspec.structs.replace(wanted, status="open")
        if bool(ids) == (wanted is not None):
            raise CommandFailed("name letters by their ids or by a filter, one of both", code="400")
        limit = max(1, min(request.limit, self._settings.batch_limit))
        missing: dict[str, str] = {}
        found: list[LetterRecord] = []
        if wanted is not None:
            fitting = [r for r in self._records.values() if life.matches(wanted, r)]
            fitting.sort(key=lambda record: (record.first_at, record.letter_seq))
            return fitting[:limit], missing, max(0, len(fitting) - limit)
        for id in ids[:limit]:
            try:
                found.append(self._find(id))
            except CommandFailed as error:
                missing[id] = str(error)
        return found, missing, max(0, len(ids) - limit)

    async def list(self, request: ListLetters) -> LetterPage:
        """One page."""
        limit = max(1, min(request.limit, self._settings.page_limit))
        if request.after is not None and "~" not in request.after:
            raise CommandFailed(f"{request.after!r} is no cursor of a page", code="400")
        return life.page(self._records.values(), request.filter, limit=limit, after=request.after)

    async def show(self, request: ShowLetter) -> LetterDetail:
        """One letter with everything."""
        record = self._find(request.id)
        letter = await self._letter(record)
        try:
            text: str | None = letter.body.decode()
        except UnicodeDecodeError:
            text = None
        return LetterDetail(
            record=record,
            headers=letter.headers,
            body=letter.body,
            text=text,
            raw_headers=letter.raw_headers,
        )

    async def count(self, _: CountLetters) -> LetterCounts:
        """The figures."""
        return life.count(self._records.values())

    async def replay(self, request: ReplayLetters) -> LettersReport:
        """Send letters back to where they came from, for the consumer that failed them alone."""
        found, refused, remaining = self._select(request)
        done: list[str] = []
        unchanged: list[str] = []
        # Sixteen at a time: the broker fsyncs each, and their order does not matter.
        places = asyncio.Semaphore(16)

        async def one(record: LetterRecord) -> None:
            async with places:
                if record.status in ("replayed", "resolved"):
                    unchanged.append(record.id)
                    return
                why = life.refuse_replay(record)
                if why is None:
                    try:
                        why = await self._replay_one(record, by=request.by, reason=request.reason)
                    except InterlockError as error:
                        why = str(error)
                if why is None:
                    done.append(record.id)
                else:
                    refused[record.id] = why

        async with asyncio.TaskGroup() as group:
            for record in found:
                group.create_task(one(record))
        return LettersReport(
            done=tuple(sorted(done)),
            unchanged=tuple(sorted(unchanged)),
            refused=refused,
            remaining=remaining,
        )

    async def _replay_one(self, record: LetterRecord, *, by: str, reason: str) -> str | None:
        """Publish, then record it: told twice, the broker drops the second by its id."""
        try:
            await self._service.fleet.bus.api(f"CONSUMER.INFO.{record.stream}.{record.consumer}")
        except ApiError as error:
            if error.code != 404:
                raise
            return f"its consumer {record.consumer} is gone: nobody would take the message"
        letter = await self._letter(record)
        hop = record.hop + 1
        headers = envelope.sendable(letter.headers)
        # What the sender told the broker was meant for that one publish.
        for name in [name for name in headers if name.lower().startswith("nats-")]:
            del headers[name]
        if envelope.lookup(headers, envelope.ID) is None:
            headers[envelope.ID] = envelope.escape(record.message_id)
        headers |= {
            envelope.MSG_ID: envelope.escape(f"{record.message_id}.{record.id}.{hop}"),
            envelope.REPLAY_OF: record.id,
            envelope.REPLAY_FOR: record.consumer,
            envelope.REPLAY_HOP: str(hop),
        }
        await self._service.fleet.bus.publish(record.subject, letter.body, headers)
        await self._change(
            record.id,
            lambda current: life.replayed(
                current or record, hop=hop, at=rfc3339(now()), by=by, reason=reason
            ),
        )
        await self._tell(
            LetterReplayed(
                letter=record.id,
                service=record.service,
                consumer=record.consumer,
                hop=hop,
                by=by or None,
                reason=reason or None,
            ),
            id=f"replayed.{record.id}.{hop}",
        )
        return None

    async def discard(self, request: DiscardLetters) -> LettersReport:
        """Close letters for good."""
        if not request.reason.strip():
            raise CommandFailed("a reason is needed: somebody will ask why", code="400")
        found, refused, remaining = self._select(request)
        done: list[str] = []
        unchanged: list[str] = []
        for record in found:
            why = life.refuse_discard(record)
            if why is not None:
                refused[record.id] = why
            elif record.status == "discarded" or not await self._discard_one(
                record, by=request.by, reason=request.reason
            ):
                unchanged.append(record.id)
            else:
                await self._tell(
                    LetterDiscarded(
                        letter=record.id,
                        service=record.service,
                        consumer=record.consumer,
                        reason=request.reason,
                        by=request.by or None,
                    ),
                    id=f"discarded.{record.id}",
                )
                done.append(record.id)
        return LettersReport(
            done=tuple(done), unchanged=tuple(unchanged), refused=refused, remaining=remaining
        )

    async def _discard_one(self, record: LetterRecord, *, by: str, reason: str) -> bool:
        """Whether it is closed now by our doing: it may have been resolved meanwhile."""
        at = rfc3339(now())
        changed = await self._change(
            record.id,
            lambda current: life.discarded(current or record, at=at, by=by, reason=reason),
        )
        return changed is not None

    async def _tell(self, event: Event, *, id: str) -> None:
        subject, body, headers = encode_event(event, source=letters.SERVICE, id=id)
        await self._service.fleet.bus.publish(subject, body, headers)


async def setup(service: Service) -> None:
    """Wire the queue to its contract."""
    settings = service.settings if isinstance(service.settings, Settings) else Settings()
    queue = DeadLetterQueue(service, settings)
    service.watch(LETTERS, queue.on_record)
    service.consume(DIED, queue.on_died)
    service.consume(RESOLVED, queue.on_resolved)
    service.answer(letters.LIST, queue.list)
    service.answer(letters.SHOW, queue.show)
    service.answer(letters.REPLAY, queue.replay)
    service.answer(letters.DISCARD, queue.discard)
    service.answer(letters.COUNT, queue.count)
