"""The durable lane: whatever waits goes out together and is acknowledged together.

A `Lane` holds the publishes to the subjects of one root, which is to say to one stream, in the
order in which they were asked for, and keeps that order: one unit is under way at a time, an atomic
batch, or a few singles on a connection that holds. What got no answer is sent again, first and
under the same ids. Each publish ends in its acknowledgement, its own refusal, or at its deadline;
`interlock.coalescing` decides the form.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from interlock import logs
from interlock.acks import (
    BATCH_DISABLED,
    BATCH_INCOMPLETE,
    BATCH_TOO_LONG,
    DUPLICATE_IN_BATCH,
    Ack,
    PubReply,
    Refusal,
    error_of,
    parse_ack,
)
from interlock.backoff import delay_s
from interlock.client import Client
from interlock.coalescing import WINDOW, Facts, Wait, decide
from interlock.errors import InterlockError, MessageTooLarge, NotAcknowledged
from interlock.frames import hpub
from interlock.headers import parse as parse_headers

__all__ = ["HELD_BYTES", "HELD_MESSAGES", "Answers", "Entry", "Lane", "Unit"]

#: What a lane holds before whoever publishes has to wait: the memory bound of a publisher is this
#: and one message for each caller that waits.
HELD_BYTES: Final = 16 * 1024 * 1024
HELD_MESSAGES: Final = 16_384

#: Whoever publishes without waiting lets others run after so many messages.
_TURN: Final = 256

#: One batch, bytes. A message larger than this goes alone.
_BATCH_BYTES: Final = 4 * 1024 * 1024

#: A unit without an answer is sent again after so long, doubling. What was stored meanwhile is
#: recognised by its ids.
_TRY_S: Final = 2.0
_LONGEST_TRY_S: Final = 8.0
_RETRY_BASE_S: Final = 0.02
_RETRY_CAP_S: Final = 1.0

#: A batch that was refused as incomplete so often is resolved one by one.
_BATCH_TRIES: Final = 3

#: While the connection has not taken so much from us, nothing is sent twice.
_CLOGGED_BYTES: Final = 64 * 1024

_SILENT: Final = "the broker did not answer"

log = logs.get_logger("interlock.publish")


class Entry(msgspec.Struct, gc=False):
    """One publish: encoded, waiting or under way.

    Thousands of these live at a time, and nothing refers back to them, so the garbage collector
    need not know them.
    """

    subject: bytes
    head: bytes
    body: bytes
    size: int
    timeout_s: float
    deadline: float
    future: "asyncio.Future[Ack]"
    alone: bool = False
    """Whether it must not be part of a batch (any more)."""
    held: bool = False
    """Whether a lane counts it among what it holds."""


class Unit:
    """What goes out and is answered as one: a single, or an atomic batch."""

    __slots__ = (
        "ambiguous", "deadline", "due", "entries", "group", "refused", "tokens", "tries",
    )  # fmt: skip

    def __init__(
        self, entries: list[Entry], group: "asyncio.Future[list[Ack]] | None" = None
    ) -> None:
        self.entries = entries
        self.group = group
        """The future of entries that are stored all or not at all."""
        self.tokens: list[int] = []
        """Under which answers to its tries come, the last one last."""
        self.tries = 0
        self.refused = 0
        """How often the broker refused it as incomplete."""
        self.ambiguous = False
        """Whether it was sent and not answered: it may be stored."""
        self.due = 0.0
        """When it is sent again for want of an answer."""
        self.deadline = 0.0

    @property
    def single(self) -> bool:
        """Whether it goes out as a plain publish."""
        return self.group is None and len(self.entries) == 1

    @property
    def settled(self) -> bool:
        """Whether nobody waits for it any more."""
        if self.group is not None:
            return self.group.done()
        return all(entry.future.done() for entry in self.entries)


class Answers(Protocol):
    """What the lanes of a connection share: it brings each answer to its lane's `answered`."""

    client: Client
    batch_prefix: bytes
    """Begins the name of a batch, which no other publisher uses."""

    def token(self, lane: "Lane", unit: Unit) -> int:
        """A number for one try of a unit, under which its answer comes."""

    def forget(self, unit: Unit) -> None:
        """No answer to this unit matters any more."""

    def reply_subject(self, token: int) -> bytes:
        """Where the answer to that try is to go."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in the background, until the connection is closed."""

    def gather(self, entries: list[Entry], group: "asyncio.Future[list[Ack]]") -> None:
        """Resolve `group` from its entries, which now go one by one."""


class Lane:
    """The publishes to one stream, in order. Made by `interlock.publisher`.

    An unordered lane is for compare-and-set: each stands or falls by itself, so they neither wait
    for one another nor share a batch, which one failed expectation would refuse whole.
    """

    def __init__(
        self,
        answers: Answers,
        root: str,
        learn: Callable[[str], Awaitable[Facts]],
        *,
        ordered: bool,
    ) -> None:
        self._answers = answers
        self._client = answers.client
        self._root = root
        self._learn = learn
        self._loop = asyncio.get_running_loop()
        self._ordered = ordered
        self.facts = Facts() if ordered else Facts(atomic=False)
        self._stream = ""
        self._learned_in = -1
        self._waiting: deque[Entry | Unit] = deque()
        self._singles: dict[int, Unit] = {}
        self._batch: Unit | None = None
        self._held_bytes = 0
        self._held = 0
        self._room: deque[asyncio.Future[None]] = deque()
        self._epoch = self._client.epoch
        self._careful = ordered
        self._failures = 0
        self._not_before = 0.0
        self._pump_due = False
        self._alarm: asyncio.TimerHandle | None = None
        self._why = _SILENT

    # Taking in

    def add(self, entry: Entry) -> None:
        """Take a publish in; it goes out in the order of the calls."""
        self._waiting.append(entry)
        self._hold(entry)
        self._soon(entry.deadline)

    def add_group(self, entries: list[Entry], group: "asyncio.Future[list[Ack]]") -> None:
        """Take in publishes that are stored all or not at all."""
        unit = Unit(entries, group)
        unit.deadline = min(entry.deadline for entry in entries)
        self._waiting.append(unit)
        for entry in entries:
            self._hold(entry)
        self._soon(unit.deadline)

    def _hold(self, entry: Entry) -> None:
        entry.held = True
        self._held += 1
        self._held_bytes += entry.size

    def _let_go(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.held:
                entry.held = False
                self._held -= 1
                self._held_bytes -= entry.size
        if self._room and self._held_bytes <= HELD_BYTES // 2 and self._held <= HELD_MESSAGES // 2:
            while self._room:
                waiter = self._room.popleft()
                if not waiter.done():
                    waiter.set_result(None)

    def check_size(self, entry: Entry) -> None:
        """Raise MessageTooLarge for what the stream is known not to take."""
        size = len(entry.head) + 2 + len(entry.body)
        if 0 < self.facts.largest_bytes < size:
            raise MessageTooLarge(
                f"{entry.subject.decode()}: the message has {size:,} bytes and stream "
                f"{self._stream} takes {self.facts.largest_bytes:,}"
            )

    @property
    def due(self) -> bool:
        """Whether whoever publishes in a loop should let the loop turn."""
        return not len(self._waiting) % _TURN

    @property
    def full(self) -> bool:
        """Whether whoever publishes has to wait."""
        return self._held_bytes > HELD_BYTES or self._held > HELD_MESSAGES

    @property
    def held_bytes(self) -> int:
        """Memory of what is waiting or under way."""
        return self._held_bytes

    async def room(self, until: "asyncio.Future[Any]") -> None:
        """Wait until the lane has room again, or `until` is done."""
        while self.full and not until.done():
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._room.append(waiter)
            try:
                await asyncio.wait((waiter, until), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiter.cancel()

    # Sending

    def _soon(self, deadline: float) -> None:
        self._wake_at(deadline)
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self.pump)

    def _wake_at(self, when: float) -> None:
        if self._alarm is not None:
            if self._alarm.when() <= when:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(when, self._on_alarm)

    def _on_alarm(self) -> None:
        """A deadline has passed, a pause is over, or an answer is overdue."""
        self._alarm = None
        now = self._loop.time()
        self._expire(now)
        self._send_again(now)
        self.pump()
        self._set_alarm()

    def _set_alarm(self) -> None:
        soonest = min(
            (
                *(
                    entry.deadline
                    for item in (*self._waiting, *self._under_way())
                    for entry in ((item,) if isinstance(item, Entry) else item.entries)
                    if not entry.future.done()
                ),
                *(unit.due for unit in self._under_way()),
                *((self._not_before,) if self._waiting and self._not_before else ()),
            ),
            default=None,
        )
        if soonest is not None:
            self._wake_at(max(soonest, self._loop.time() + 0.001))

    def _under_way(self) -> list[Unit]:
        units = list(self._singles.values())
        if self._batch is not None:
            units.append(self._batch)
        return units

    def pump(self) -> None:
        """Send what may go now."""
        self._pump_due = False
        if not self._client.is_connected:
            return
        if self._epoch != self._client.epoch:
            self._epoch = self._client.epoch
            self._not_before = 0.0
            self._take_back()
        now = self._loop.time()
        if now < self._not_before:
            self._wake_at(self._not_before)
            return
        self._not_before = 0.0
        while self._waiting:
            head = self._waiting[0]
            if self._is_done(head):
                self._waiting.popleft()
                self._drop(head)
            elif head.single if isinstance(head, Unit) else head.alone:
                if self._batch is not None or len(self._singles) >= self._alone_window():
                    return
                self._waiting.popleft()
                self._write(self._single_frame(head if isinstance(head, Unit) else Unit([head])))
            elif isinstance(head, Unit):
                if self._singles or self._batch is not None:
                    return
                self._send_batch(self._pop_unit(head))
            elif not self._send_entries():
                return

    def _drop(self, item: Entry | Unit) -> None:
        """Nobody waits for it any more."""
        if isinstance(item, Entry):
            self._let_go([item])
        else:
            self._answers.forget(item)
            self._let_go(item.entries)

    def _alone_window(self) -> int:
        if self.facts.atomic is False and not self._careful:
            return WINDOW
        return 1 if self._careful or self.facts.replicas > 1 else 64

    def _send_entries(self) -> bool:
        """Send from the plain entries at the head of the line. False when they have to wait."""
        if self._batch is not None:
            return False
        form = decide(
            self.facts,
            waiting=len(self._waiting),
            singles=len(self._singles),
            careful=self._careful,
        )
        if isinstance(form, Wait):
            return False
        kind, count = form
        if kind == "batch":
            self._send_batch(self._pop_entries(count))
            return True
        entries = self._pop_entries(count).entries
        if not entries:
            return bool(self._waiting)
        frames = [self._single_frame(Unit([entry])) for entry in entries]
        self._write(b"".join(frames))
        return True

    def _pop_unit(self, unit: Unit) -> Unit:
        """What is left of the unit at the head of the line."""
        self._waiting.popleft()
        left = [entry for entry in unit.entries if not entry.future.done()]
        if unit.group is not None or len(left) == len(unit.entries):
            return unit
        # Another batch; an answer to what was sent before still tells of all that was in it.
        self._let_go([entry for entry in unit.entries if entry.future.done()])
        fewer = Unit(left)
        fewer.tokens = list(unit.tokens)
        fewer.tries, fewer.refused, fewer.ambiguous = unit.tries, unit.refused, unit.ambiguous
        return fewer

    def _pop_entries(self, count: int) -> Unit:
        """The next plain entries: at most `count`, and not more bytes than one batch takes."""
        entries: list[Entry] = []
        size = 0
        waiting = self._waiting
        while waiting and len(entries) < count:
            head = waiting[0]
            if not isinstance(head, Entry) or head.alone:
                break
            if head.future.done():
                waiting.popleft()
                self._let_go([head])
                continue
            size += head.size
            if entries and size > _BATCH_BYTES:
                break
            entries.append(head)
            waiting.popleft()
        return Unit(entries)

    def _send_batch(self, unit: Unit) -> None:
        if unit.single:
            self._write(self._single_frame(unit))
        elif unit.entries:
            self._write(self._frames(unit))
            self._batch = unit
            self._sent(unit)

    def _frames(self, unit: Unit) -> bytes:
        """The bytes of a batch; its last message commits it."""
        token = self._answers.token(self, unit)
        line = b"Nats-Batch-Id: %b%d\r\nNats-Batch-Sequence: " % (
            self._answers.batch_prefix,
            token,
        )
        *before, last = unit.entries
        frames = [
            hpub(entry.subject, b"", entry.head, b"%b%d\r\n" % (line, number), entry.body)
            for number, entry in enumerate(before, 1)
        ]
        added = b"%b%d\r\nNats-Batch-Commit: 1\r\n" % (line, len(unit.entries))
        reply = self._answers.reply_subject(token)
        frames.append(hpub(last.subject, reply, last.head, added, last.body))
        return b"".join(frames)

    def _single_frame(self, unit: Unit) -> bytes:
        token = self._answers.token(self, unit)
        self._singles[token] = unit
        self._sent(unit)
        (entry,) = unit.entries
        return hpub(entry.subject, self._answers.reply_subject(token), entry.head, b"", entry.body)

    def _sent(self, unit: Unit) -> None:
        unit.tries += 1
        unit.due = self._loop.time() + min(_LONGEST_TRY_S, _TRY_S * 2 ** (unit.tries - 1))
        self._wake_at(unit.due)

    def _write(self, data: bytes) -> None:
        # A connection that breaks now loses it; its end of life brings everything back.
        self._client.write(data)

    # Answers

    def answered(self, unit: Unit, token: int, headers: bytes, body: bytes) -> None:
        """The broker's answer to a unit."""
        if headers and not body and parse_headers(headers).get("Status") == "503":
            why = f"no stream takes {self._root}.>: has `interlock setup` been run on this broker?"
            answer = PubReply(error=Refusal(code=503, description=why))
        else:
            answer = parse_ack(body)
        if answer.error is None and answer.count not in (0, len(unit.entries)):
            answer = PubReply(error=Refusal(code=400, description="the batch was cut short"))
        if answer.error is not None:
            # What an earlier try was told no longer matters.
            if token == unit.tokens[-1]:
                self._refused(unit, answer.error)
            return
        self._release(unit)
        self._careful = False
        self._failures = 0
        self._why = _SILENT
        if self._ordered and (
            answer.stream != self._stream or self._learned_in != self._client.epoch
        ):
            self._learn_soon(answer.stream)
        if len(self._waiting) >= self.facts.batch_messages // 2:
            # Keep the broker busy while those who waited are told.
            self.pump()
        first = answer.seq - len(unit.entries) + 1
        acks = [Ack(answer.stream, seq, answer.duplicate) for seq in range(first, answer.seq + 1)]
        self._resolve(unit, acks)
        self._next()

    def _resolve(self, unit: Unit, acks: Sequence[Ack]) -> None:
        for entry, ack in zip(unit.entries, acks, strict=True):
            future = entry.future
            if not future.done():
                future.set_result(ack)
        if unit.group is not None and not unit.group.done():
            unit.group.set_result(list(acks))
        self._let_go(unit.entries)

    def _release(self, unit: Unit) -> None:
        """It is under way no more."""
        for token in unit.tokens:
            self._singles.pop(token, None)
        self._answers.forget(unit)
        if self._batch is unit:
            self._batch = None

    def _next(self) -> None:
        """Go on once a unit has been settled."""
        if self._waiting:
            # After this turn of the loop: those who were just answered may publish again.
            self._pump_soon()

    def _refused(self, unit: Unit, refusal: Refusal) -> None:
        error = error_of(unit.entries[0].subject.decode(), refusal)
        self._release(unit)
        self._why = refusal.description
        if unit.single and error is not None:
            self._fail(unit, error)
            self._next()
            return
        self._careful = self._ordered
        if unit.single or error is None:
            self._again([unit])
            self._pause()
        else:
            self._batch_refused(unit, refusal, error)
        self._next()

    def _batch_refused(self, unit: Unit, refusal: Refusal, error: InterlockError) -> None:
        """Nothing was stored by this try, and the broker says that it is not for want of time."""
        if refusal.err_code == BATCH_TOO_LONG and self.facts.batch_messages > 2:
            self.facts = msgspec.structs.replace(
                self.facts, batch_messages=self.facts.batch_messages // 2
            )
        elif refusal.err_code == BATCH_DISABLED:
            self.facts = msgspec.structs.replace(self.facts, atomic=False)
        elif refusal.err_code == BATCH_INCOMPLETE:
            # Abandoned in between, lost with a leader, too many at once, or of several streams.
            unit.refused += 1
            if unit.refused < _BATCH_TRIES:
                self._again([unit])
                self._pause()
                return
        if unit.group is None or refusal.err_code == DUPLICATE_IN_BATCH:
            self._one_by_one(unit, refusal)
        elif unit.ambiguous:
            # An earlier try may have stored all of it: its own deadline ends it.
            self._again([unit])
            self._pause()
        else:
            self._fail(unit, self._too_large(unit) or error)

    def _too_large(self, unit: Unit) -> MessageTooLarge | None:
        """Which message was too much: of a batch, the broker does not say."""
        for entry in unit.entries:
            try:
                self.check_size(entry)
            except MessageTooLarge as error:
                return error
        return None

    def _one_by_one(self, unit: Unit, refusal: Refusal) -> None:
        """See to each publish of a refused batch by itself, under its own id."""
        if unit.group is not None:
            self._answers.gather(unit.entries, unit.group)
        log.debug(
            "batch refused, publishing one by one",
            messages=len(unit.entries),
            why=refusal.description,
        )
        for entry in reversed(unit.entries):
            entry.alone = True
            self._waiting.appendleft(entry)

    def _fail(self, unit: Unit, error: InterlockError) -> None:
        for entry in unit.entries:
            if unit.group is not None:
                entry.future.cancel()
            elif not entry.future.done():
                entry.future.set_exception(error)
        if unit.group is not None and not unit.group.done():
            unit.group.set_exception(error)
        self._let_go(unit.entries)

    # When things break

    def _again(self, units: Iterable[Unit]) -> None:
        """Put units back to the head of the line, in their order."""
        for unit in reversed(list(units)):
            self._waiting.appendleft(unit)

    def _take_back(self) -> None:
        """Put all that is under way back to the head of the line: it may be stored or not."""
        units = self._under_way()
        self._careful = self._ordered
        self._singles.clear()
        self._batch = None
        for unit in units:
            unit.ambiguous = True
        self._again(units)

    def _pause(self) -> None:
        """Wait a little before the next try, longer with each failure."""
        self._failures += 1
        pause = delay_s(
            self._failures, base_s=_RETRY_BASE_S, cap_s=_RETRY_CAP_S, rand=random.random,
            jitter="equal",
        )  # fmt: skip
        self._not_before = self._loop.time() + pause
        self._wake_at(self._not_before)

    def _send_again(self, now: float) -> None:
        """Send what got no answer once more, unless the connection has not even taken it."""
        overdue = [unit for unit in self._under_way() if unit.due <= now]
        if not overdue:
            return
        if not self._client.is_connected or self._client.unsent_bytes() > _CLOGGED_BYTES:
            for unit in overdue:
                unit.due = now + _TRY_S
            return
        self._why = _SILENT
        # With everything behind it, so that the order holds.
        self._take_back()

    def reconnected(self) -> None:
        """The connection is back."""
        self._not_before = 0.0
        self._failures = 0
        self.pump()
        self._set_alarm()

    def _expire(self, now: float) -> None:
        """End what has reached its deadline."""
        late = False
        for item in (*self._waiting, *self._under_way()):
            if isinstance(item, Unit) and item.group is not None:
                if item.deadline <= now and not item.group.done():
                    item.group.set_exception(self._not_acknowledged(item.entries[0]))
                    late = True
                continue
            for entry in (item,) if isinstance(item, Entry) else item.entries:
                if entry.deadline <= now and not entry.future.done():
                    entry.future.set_exception(self._not_acknowledged(entry))
                    late = True
        if late:
            # What nobody waits for any more gives its room back, also while the broker is away.
            done = [item for item in self._waiting if self._is_done(item)]
            self._waiting = deque(item for item in self._waiting if not self._is_done(item))
            for item in done:
                self._drop(item)

    @staticmethod
    def _is_done(item: Entry | Unit) -> bool:
        return item.future.done() if isinstance(item, Entry) else item.settled

    def _not_acknowledged(self, entry: Entry) -> NotAcknowledged:
        why = self._why if self._client.is_connected else "the broker is away"
        return NotAcknowledged(
            f"{entry.subject.decode()} was not acknowledged within {entry.timeout_s:g} s ({why}). "
            "It may be stored or not; publishing it again under the same id is safe."
        )

    def close(self, error: InterlockError) -> None:
        """End every publish that is not acknowledged yet."""
        for unit in self._under_way():
            self._fail(unit, error)
        for item in self._waiting:
            self._fail(Unit([item]) if isinstance(item, Entry) else item, error)
        self._waiting.clear()
        self._singles.clear()
        self._batch = None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    # What stream it is

    def _learn_soon(self, stream: str) -> None:
        if stream != self._stream and self._stream and self._learned_in == self._client.epoch:
            # One root, several streams: a batch must not mix them.
            self.facts = Facts(atomic=False)
            return
        self._stream = stream
        self._learned_in = self._client.epoch
        self._answers.spawn(self._learn_facts(stream))

    async def _learn_facts(self, stream: str) -> None:
        facts = await self._learn(stream)
        if facts.atomic is not None and self.facts.atomic is not False:
            self.facts = facts
        self.pump()
