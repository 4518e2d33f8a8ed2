"""Runs a handler for the messages of one consumer, and sees each to one end.

Messages come in through `interlock.pull`, are handed to a fixed number of long-lived tasks, one or
a batch at a time, and end as `interlock.endings` has it: handled, retried later, or a dead letter.
The decisions are in `interlock.redelivery`, `interlock.flood` and `interlock.key_order`.
"""

import asyncio
import contextlib
import contextvars
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Literal

from opentelemetry import metrics as otel_metrics
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from interlock import logs, metrics, telemetry
from interlock.bus import ApiError, Bus
from interlock.calling import Caller, Calls
from interlock.decisions import BatchHandler, Decision, Handler, failures
from interlock.delivery import Delivery
from interlock.endings import Endings, Failure, failure_of
from interlock.errors import BusUnavailable
from interlock.flood import FloodPolicy
from interlock.floodgate import FloodGate
from interlock.in_hand import InHand
from interlock.key_order import KeyOrder
from interlock.left_over import LeftOver
from interlock.pull import PullLoop
from interlock.reader import Reader
from interlock.redelivery import Dead, RetryPolicy, after_failure, on_delivery
from interlock_schemas import letters

__all__ = ["BatchHandler", "Consumption", "Decision", "Handler", "key_of_event"]

#: So long may cancelled handlers take to end.
_CANCEL_S: Final = 5.0
#: A caller that never has to wait lets others run after so many messages.
_TURNS: Final = 128
#: Idle workers that are woken at the same time: two, so that they wake all in a few turns.
_WAKING: Final = 2
_ASK_AGAIN_S: Final = 0.5
#: Messages that are looked at to learn their keys; more, and all keys wait.
_LOOKED_AT: Final = 20_000
#: So long after the broker could not be told of a failure is its message tried again.
_AGAIN_S: Final = 1.0

log = logs.get_logger("interlock.consume")


def key_of_event(delivery: Delivery) -> str:
    """The key of an event: the last token of its subject."""
    return delivery.subject.rpartition(".")[2]


def itself(delivery: Delivery) -> Any:
    """What a handler of deliveries is handed."""
    return delivery


class Consumption:
    """One consumer, one handler.

    `batch` is None for a handler that is handed one message at a time, else the most that it is
    handed at once. `decode` makes of a delivery what the handler is handed, and may raise Reject.
    `key` says what order is kept by, None where none is.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        service: str,
        stream: str,
        consumer: str,
        handler: Callable[[Any], Awaitable[Any]],
        places: int,
        ack_wait_s: float,
        policy: RetryPolicy,
        batch: int | None = None,
        max_in_hand: int = 10_000,
        linger_s: float = 0.0,
        decode: Callable[[Delivery], Any] = itself,
        key: Callable[[Delivery], object] | None = None,
        flood: FloodPolicy | None = None,
        remake: Callable[[int | None], Awaitable[None]] | None = None,
        rand: Callable[[], float] = random.random,
    ) -> None:
        if places < 1 or (batch is not None and batch < 1):
            raise ValueError("concurrency and batch are at least 1")
        self._bus = bus
        self._stream = stream
        self._consumer = consumer
        self._handler = handler
        self._places = places
        self._batch = batch
        self._linger_s = linger_s
        self._decode = decode
        self._key = key
        self._ack_wait_s = ack_wait_s
        self._policy = policy
        self._flood_policy = flood
        self._service = service
        self._rand = rand
        self._remake = remake
        self._labels = {"consumer": consumer}
        self._endings = Endings(bus, service=service, consumer=consumer)
        self._in_hand = InHand(ack_wait_s)
        wanted = places * (batch or 1)
        if key is not None:
            # Messages of one key wait for one another: others are to get past them.
            wanted *= 4
        self._most = max(1, min(wanted, max_in_hand))
        self._order: KeyOrder[Delivery] | None = KeyOrder() if key is not None else None
        self._queue: deque[Delivery] = deque()
        self._ready: deque[Delivery] | KeyOrder[Delivery] = (
            self._order if self._order is not None else self._queue
        )
        self._left_over: LeftOver[Delivery] = LeftOver()
        self._resumptions = 0
        self._most_pending = self._most
        self._waiting: dict[Delivery, asyncio.TimerHandle] = {}
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asides: set[asyncio.Task[None]] = set()
        self._waking = 0
        self._running = 0
        self._limit = places
        self._highest = 0
        self._unsettled: set[int] = set()
        self._delivered = 0
        self._handled = 0
        self._told = 0
        self._probing = False
        self._careful = False
        self._draining = False
        self._stop_asked = False
        self._quiet = asyncio.Event()
        self._over: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._context = contextvars.copy_context()
        self._pull = PullLoop(
            bus,
            stream,
            consumer,
            places=self._most,
            in_hand=self._in_hand,
            arrived=self._arrived,
            remake=self._make_again if remake is not None else None,
            resumed=self._resumed if key is not None else None,
        )
        self._gate: FloodGate | None = None

    @property
    def in_hand(self) -> int:
        """Messages that were delivered and not yet answered."""
        return len(self._in_hand)

    @property
    def flood(self) -> str:
        """How the flood breaker stands: closed, open or half_open."""
        return self._gate.state if self._gate is not None else "closed"

    def stop(self) -> None:
        """Take no more: `run` finishes what was begun, hands back the rest, and returns."""
        self._stop_asked = True
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def run(self) -> None:
        """Consume until `stop`. Acknowledgements have reached the broker when it returns."""
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        self._context = contextvars.copy_context()
        self._careful = telemetry.recording()
        measured = isinstance(otel_metrics.get_meter_provider(), MeterProvider)
        self._calls = Calls(
            self._handler,
            timeout_s=self._policy.timeout_s,
            measure=self._measure if measured else None,
        )
        try:
            info = await self._info()
            if info is None:
                return
            pull = self._pull
            pull.created = info.get("created", "")
            if self._flood_policy is not None:
                self._gate = FloodGate(
                    self._bus,
                    service=self._service,
                    stream=self._stream,
                    consumer=self._consumer,
                    policy=self._flood_policy,
                    changed=self._flood_changed,
                    stopped=self._hand_back_waiting,
                    nudge=pull.nudge,
                )
                self._gate.begin(info)
                self._start(self._gate.run())
            for _ in range(self._places):
                self._start_worker()
            self._start(self._care())
            pulling = self._start(pull.run())
            await self._over
            if self._error is None:
                await self._drain(pull, pulling)
            if self._error is not None:
                raise self._error
        finally:
            await self._close()

    async def _info(self) -> dict[str, Any] | None:
        """How the consumer stands; empty where it does not. None when told to stop before."""
        while not self._stop_asked:
            try:
                return await self._bus.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
            except ApiError as error:
                if error.code == 404:
                    return {"config": {}}
                raise
            except BusUnavailable as error:
                log.info("waiting for the broker", consumer=self._consumer, why=str(error))
                await asyncio.sleep(_ASK_AGAIN_S)
        return None

    def _start(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self._loop.create_task(work, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside the workers; `run` does not return before it is done."""
        task = self._loop.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)
        task.add_done_callback(self._ended)

    def _start_worker(self) -> None:
        self._start(self._work())

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._end_with(error)

    def _end_with(self, error: BaseException) -> None:
        """Have `run` raise what nobody here can do anything about."""
        self._error = self._error or error
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def _drain(self, pull: PullLoop, pulling: "asyncio.Task[None]") -> None:
        self._draining = True
        pull.stop()
        await asyncio.wait((pulling,))
        if self._order is None:
            await self._hand_back_waiting()
        # Where order is kept, all goes back at the end, in stream order.
        while self._running or self._asides:
            self._quiet.clear()
            if self._asides:
                await asyncio.wait(set(self._asides))
            elif self._error is None:
                await self._quiet.wait()
            else:
                return
        self._hand_back(self._in_hand.everything())
        self._bus.client.send_posted()
        await self._bus.flush()

    async def _close(self) -> None:
        self._draining = True
        self._calls.closing = True
        for timer in self._waiting.values():
            timer.cancel()
        tasks = self._tasks | self._asides
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=_CANCEL_S)
            if left:
                log.error("handlers do not end", consumer=self._consumer, count=len(left))
        # What was cancelled was not handled: whoever is there takes it at once.
        self._hand_back(self._in_hand.everything())
        self._count()

    # What arrives, and what may be begun

    async def _resumed(self) -> None:
        """Where order is kept: what the broker still counts as delivered comes first.

        Called before the first pull of each connection. Raises ApiError and BusUnavailable.
        """
        info = await self._bus.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}", timeout_s=2)
        held = {each.seq for each in self._in_hand.everything() if not each.settled}
        owed = int(info.get("num_ack_pending", 0)) - len(held)
        floor = int(info["delivered"]["stream_seq"])
        self._most_pending = max(self._most, int(info["config"].get("max_ack_pending", 0)))
        keys: set[object] | None = set()
        if owed > 0:
            log.info("waiting for what was under way", consumer=self._consumer, count=owed)
            keys = await self._keys_between(int(info["ack_floor"]["stream_seq"]), floor, held)
        self._resumptions += 1
        if owed > 0:
            self._start(self._stop_expecting(self._resumptions))
        self._go(self._left_over.expect(owed, floor, keys, held))
        self._make_room()

    async def _keys_between(self, after: int, last: int, held: set[int]) -> set[object] | None:
        """The keys of what the stream holds there and we do not; None: too many to look at."""
        if self._key is None or last - after > _LOOKED_AT:
            return None
        keys: set[object] = set()
        start = {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        reader = Reader(self._bus, self._stream, (">",), start)
        async with contextlib.aclosing(reader.records(until_end=True)) as records:
            async for record in records:
                if record.seq > last:
                    break
                if record.seq not in held:
                    reply = f"$JS.ACK.{self._stream}.{self._consumer}.1.{record.seq}.0.0.0"
                    subject = record.subject.encode()
                    keys.add(
                        self._key(Delivery(self._bus, subject, reply.encode(), b"", record.body))
                    )
        return keys

    async def _stop_expecting(self, resumption: int) -> None:
        """By then the broker has delivered again what nobody holds; where it has not, go on."""
        await asyncio.sleep(self._ack_wait_s + 2.0)
        if self._resumptions == resumption and self._pull.current:
            self._go(self._left_over.give_up())
            self._make_room()

    def _make_room(self) -> None:
        """What is held back must not take the places of what it waits for.

        The broker gives out nothing new beyond its own limit, and what comes again even then.
        """
        if self._gate is None or self._gate.state == "closed":
            owed = self._left_over.owed
            self._pull.places = self._most_pending + owed if owed else self._most
        self._pull.poke()

    def _go(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self._ready.append(delivery)
            self._wake_one()

    def _arrived(self, delivery: Delivery) -> None:
        """Called from the read loop."""
        self._delivered += 1
        if delivery.seq > self._highest:
            self._highest = delivery.seq
        if self._key is not None:
            try:
                delivery.key = self._key(delivery)
            except Exception as error:  # noqa: BLE001  # it ends the consumption, as any defect
                self._end_with(error)
                return
            left_over = self._left_over
            if left_over.owed or left_over.unknown or not self._pull.current:
                left_over.unknown = left_over.unknown or not self._pull.current
                self._go(left_over.arrived(delivery))
                if not left_over.owed:
                    self._make_room()
                return
        self._ready.append(delivery)
        if self._idle and self._running < self._limit:
            self._wake_one()

    def _wake_one(self) -> None:
        """Have an idle worker look, unless some are about to: each that finds work wakes more."""
        while self._idle and self._waking < _WAKING:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                self._waking += 1
                return

    def _flood_changed(self) -> None:
        state = self.flood
        self._limit = {"closed": self._places, "half_open": 1, "open": 0}[state]
        self._pull.places = {"closed": self._most, "half_open": 1, "open": 0}[state]
        self._probing = state != "closed"
        self._told = self._handled
        self._pull.poke()
        self._wake_one()

    async def _hand_back_waiting(self) -> None:
        """Hand back what was not begun: the consumer is paused, or we are to end."""
        gate = self._gate
        flood_s: float | None = None
        if not self._draining:
            await self._pull.renew_inbox()
            if self._order is not None or gate is None or gate.state != "open":
                # Where order is kept, they wait in hand.
                return
            flood_s = gate.flood_s()
        waiting = list(self._queue)
        self._queue.clear()
        self._hand_back(waiting, flood_s or 0.0)

    def _hand_back(self, deliveries: Iterable[Delivery], delay_s: float = 0.0) -> None:
        for delivery in sorted(deliveries, key=lambda each: each.seq):
            delivery.retry(delay_s)
            self._in_hand.drop(delivery)
            self._unsettled.add(delivery.seq)

    async def _make_again(self) -> None:
        """Make the consumer again, to begin where it was."""
        if self._remake is None:
            return
        held = [delivery.seq for delivery in self._in_hand.everything()]
        known = [*held, *self._unsettled, self._highest + 1] if self._highest else []
        await self._remake(min(known) if known else None)
        self._unsettled.clear()

    # The callers

    async def _work(self) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        caller = Caller(task)
        self._calls.callers.add(caller)
        turns = 0
        base = contextvars.copy_context()
        while not self._draining:
            if not self._ready or self._running >= self._limit:
                waiter: asyncio.Future[None] = self._loop.create_future()
                self._idle.append(waiter)
                try:
                    await waiter
                finally:
                    if waiter.done() and not waiter.cancelled():
                        self._waking -= 1
                turns = 0
                continue
            self._running += 1
            try:
                if self._batch is None:
                    await self._single(caller, self._ready.popleft())
                else:
                    await self._many(caller, await self._gather())
            finally:
                self._running -= 1
                if not self._running:
                    self._quiet.set()
            if contextvars.copy_context() != base:
                # The handler left something in its context: the next message gets a clean one.
                break
            turns += 1
            if turns >= _TURNS:
                turns = 0
                await asyncio.sleep(0)
        self._calls.callers.discard(caller)
        if not self._draining:
            self._start_worker()

    async def _gather(self) -> list[Delivery]:
        """What is there, up to a batch; during a flood, one."""
        most = 1 if self._probing else self._batch or 1
        if self._linger_s and len(self._ready) < most:
            await asyncio.sleep(self._linger_s)
        ready = self._ready
        if isinstance(ready, deque) and len(ready) <= most:
            batch = list(ready)
            ready.clear()
            return batch
        return [ready.popleft() for _ in range(min(most, len(ready)))]

    def _release(self, delivery: Delivery) -> None:
        """It has been answered: its place is free."""
        self._in_hand.drop(delivery)
        if self._order is not None:
            self._order.done(delivery)
        if self._ready and self._idle:
            self._wake_one()
        self._pull.poke()

    def _leave(self, delivery: Delivery, why: BusUnavailable) -> None:
        """The broker is away, so it cannot be told: it delivers the message again by itself."""
        log.warning("left for redelivery", consumer=self._consumer, why=str(why))
        if self._order is not None:
            # What is stored after it under its key waits for it: it is tried again from here.
            self._waiting[delivery] = self._loop.call_later(_AGAIN_S, self._try_again, delivery)
            return
        delivery.settled = True
        self._unsettled.add(delivery.seq)
        self._release(delivery)

    async def _single(self, caller: Caller, delivery: Delivery) -> None:
        if self._ready and self._idle:
            self._wake_one()
        caller.items = (delivery,)
        if delivery.attempt > 1 or self._careful or not _plain(delivery.block):
            await self._with_care(caller, delivery)
            return
        failure: Failure | None
        try:
            argument = self._decode(delivery)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this message's failure
            failure = failure_of(error)
        else:
            failure, _ = await self._calls.call(caller, argument)
        if caller.was_answered_for():
            return
        if failure is None:
            self._succeeded(delivery)
        else:
            await self._end(delivery, failure)

    async def _with_care(self, caller: Caller, delivery: Delivery) -> None:
        """The same for a message that is a replay, carries a trace, or came before."""
        refused = self._admit(delivery)
        if refused is False:
            return
        span = self._begin_trace(delivery)
        try:
            with delivery.in_trace():
                failure: Failure | None = refused
                if failure is None:
                    try:
                        argument = self._decode(delivery)
                    except Exception as error:  # noqa: BLE001  # as in `_single`
                        failure = failure_of(error)
                    else:
                        failure, _ = await self._calls.call(caller, argument)
                if not caller.was_answered_for():
                    _mark(span, failure)
                    await self._end(delivery, failure)
        finally:
            if span is not None:
                span.end()

    def _admit(self, delivery: Delivery) -> Failure | Literal[False] | None:
        """None: it may be handled. A failure: it may not. False: it is none of ours."""
        if not _plain(delivery.block):
            delivery.replay = letters.replay_of(delivery.headers, delivery.id, delivery.body)
            if delivery.replay is not None and delivery.replay.consumer != self._consumer:
                delivery.ack()
                self._release(delivery)
                return False
        poison = on_delivery(self._policy, delivery.attempt, slack=self._slack(delivery))
        if poison is None:
            return None
        return Failure(poison.code, f"taken {delivery.attempt - 1} times and never finished")

    def _begin_trace(self, delivery: Delivery) -> Span | None:
        context = telemetry.extract(delivery.headers)
        if not self._careful:
            # Nothing is recorded here; the trace goes on with what the handler publishes.
            delivery.trace = context if context else None
            return None
        span = telemetry.tracer.start_span(
            f"process {self._consumer}",
            context=context,
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "nats",
                "messaging.destination.name": delivery.subject,
                "messaging.consumer.group.name": self._consumer,
                "messaging.message.id": delivery.id,
            },
        )
        delivery.trace = trace.set_span_in_context(span, context)
        return span

    async def _many(self, caller: Caller, batch: Sequence[Delivery]) -> None:
        """Hand over a batch; one by one, where it fails as a whole."""
        if not batch:
            return
        if self._ready and self._idle:
            self._wake_one()
        spans: list[Span] = []
        deliveries: list[Delivery] = []
        arguments: list[Any] = []
        ends: list[tuple[Delivery, Failure | None]] = []
        try:
            for delivery in batch:
                if delivery.attempt > 1 or self._careful or not _plain(delivery.block):
                    refused = self._admit(delivery)
                    if isinstance(refused, Failure):
                        ends.append((delivery, refused))
                    if refused is not None:
                        continue
                    span = self._begin_trace(delivery)
                    if span is not None:
                        spans.append(span)
                try:
                    arguments.append(self._decode(delivery))
                except Exception as error:  # noqa: BLE001  # as in `_single`
                    ends.append((delivery, failure_of(error)))
                else:
                    deliveries.append(delivery)
            if deliveries:
                await self._call_batch(caller, deliveries, arguments, ends)
            await self._end_all(ends)
        finally:
            for span in spans:
                span.end()

    async def _call_batch(
        self,
        caller: Caller,
        deliveries: list[Delivery],
        arguments: list[Any],
        ends: list[tuple[Delivery, Failure | None]],
    ) -> None:
        caller.items = deliveries
        failure, answer = await self._calls.call(caller, arguments)
        if caller.was_answered_for():
            return
        if failure is None:
            if answer is None and self._order is None and not self._probing:
                self._all_succeeded(deliveries, ends)
                return
            try:
                judged = failures(answer, len(deliveries))
            except TypeError as error:
                failure = failure_of(error)
            else:
                ends += zip(deliveries, judged, strict=True)
                return
        if len(deliveries) == 1 or failure.bus_failed:
            ends += [(delivery, failure) for delivery in deliveries]
            return
        await self._end_all(ends)
        ends.clear()
        log.info(
            "batch failed, trying one by one",
            consumer=self._consumer,
            count=len(deliveries),
            why=failure.reason,
        )
        for place, (delivery, argument) in enumerate(zip(deliveries, arguments, strict=True)):
            if self._draining or self._limit == 0:
                # Not begun by itself yet, so no attempt of it has failed.
                self._return(deliveries[place:])
                return
            alone: list[tuple[Delivery, Failure | None]] = []
            caller.items = (delivery,)
            with delivery.in_trace():
                await self._call_batch(caller, [delivery], [argument], alone)
            await self._end_all(alone)

    def _return(self, deliveries: Iterable[Delivery]) -> None:
        """They were handed over and not tried by themselves: later, as if they had not been."""
        flood_s = self._gate.flood_s() if self._gate is not None and not self._draining else None
        for delivery in deliveries:
            if self._order is not None:
                self._order.again(delivery)
                continue
            delivery.retry(flood_s or 0.0)
            self._unsettled.add(delivery.seq)
            self._release(delivery)

    # How messages end

    async def _end_all(self, ends: Sequence[tuple[Delivery, Failure | None]]) -> None:
        slow: list[tuple[Delivery, Failure | None]] = []
        for delivery, failure in ends:
            if failure is None and delivery.replay is None:
                self._succeeded(delivery)
            else:
                slow.append((delivery, failure))
        if not slow:
            return
        done = await asyncio.gather(*(self._end(*each) for each in slow), return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _end(self, delivery: Delivery, failure: Failure | None) -> None:
        try:
            if failure is not None:
                await self._failed(delivery, failure)
                return
            if delivery.replay is not None:
                await self._endings.resolve(delivery.replay)
        except BusUnavailable as error:
            self._leave(delivery, error)
        else:
            self._succeeded(delivery)

    def _all_succeeded(
        self, deliveries: Sequence[Delivery], ends: list[tuple[Delivery, Failure | None]]
    ) -> None:
        """What `_succeeded` does for one; replays are left to be resolved."""
        replays = [delivery for delivery in deliveries if delivery.replay is not None]
        if replays:
            ends += [(delivery, None) for delivery in replays]
            deliveries = [delivery for delivery in deliveries if delivery.replay is None]
        self._bus.client.post(b"".join([delivery.acknowledged() for delivery in deliveries]))
        self._handled += len(deliveries)
        if self._unsettled:
            self._unsettled.difference_update([delivery.seq for delivery in deliveries])
        for delivery in deliveries:
            self._in_hand.drop(delivery)
        self._pull.poke()

    def _succeeded(self, delivery: Delivery) -> None:
        delivery.ack()
        self._handled += 1
        if self._probing and self._gate is not None:
            self._gate.handled(1)
            self._told = self._handled
        if self._unsettled:
            self._unsettled.discard(delivery.seq)
        self._release(delivery)

    async def _failed(self, delivery: Delivery, failure: Failure) -> None:
        flood_s: float | None = None
        if self._gate is not None:
            if failure.of_handler:
                self._tell_gate()
                self._gate.failed(delivery.token, failure.reason)
            flood_s = self._gate.flood_s()
        decision = after_failure(
            self._policy,
            delivery.attempt,
            failure.code,
            bus_failed=failure.bus_failed,
            flood_s=flood_s,
            slack=self._slack(delivery),
            delay_s=failure.delay_s,
            rand=self._rand,
        )
        if isinstance(decision, Dead):
            await self._endings.bury(delivery, decision.code, failure)
            self._unsettled.discard(delivery.seq)
            self._release(delivery)
            return
        metrics.RETRIED.add(1, self._labels)
        log.info(
            "will retry",
            consumer=self._consumer,
            id=delivery.id,
            attempt=delivery.attempt,
            delay_s=round(decision.delay_s, 2),
            why=failure.reason,
        )
        if self._order is not None:
            # What is stored after it under its key waits for it, in hand.
            delivery.attempt += 1
            self._waiting[delivery] = self._loop.call_later(
                decision.delay_s, self._try_again, delivery
            )
            return
        delivery.retry(decision.delay_s)
        self._unsettled.add(delivery.seq)
        self._release(delivery)

    def _try_again(self, delivery: Delivery) -> None:
        del self._waiting[delivery]
        if self._order is not None:
            self._order.again(delivery)
        self._wake_one()

    def _slack(self, delivery: Delivery) -> int:
        if self._gate is None:
            return 0
        return self._gate.slack(self._policy.attempts, delivery.stored_ns)

    def _tell_gate(self) -> None:
        if self._gate is not None and self._handled > self._told:
            self._gate.handled(self._handled - self._told)
            self._told = self._handled

    # Time limits, leases and figures

    async def _care(self) -> None:
        """End handlers past their limit, renew leases, and add up what is counted."""
        third = self._ack_wait_s / 3
        tick = min(1.0, max(0.01, self._policy.timeout_s / 10), third)
        renew_at = self._loop.time() + third
        while True:
            await asyncio.sleep(tick)
            now = self._loop.time()
            for items, failure in self._calls.sweep(now):
                log.error("a handler does not end at its time limit", consumer=self._consumer)
                self._aside(self._end_all([(delivery, failure) for delivery in items]))
            if now >= renew_at:
                self._in_hand.renew()
                renew_at = now + third
            if not self._probing:
                self._tell_gate()
            self._count()

    def _measure(self, seconds: float) -> None:
        metrics.HANDLE_SECONDS.record(seconds, self._labels)

    def _count(self) -> None:
        delivered, self._delivered = self._delivered, 0
        if delivered:
            metrics.DELIVERED.add(delivered, self._labels)
        handled = self._handled
        if handled:
            metrics.HANDLED.add(handled, self._labels)
            self._handled = 0
            self._told -= handled


def _plain(block: bytes) -> bool:
    """Whether a header block can be left unread: neither a replay nor part of a trace."""
    if not block:
        return True
    block = block.lower()
    return b"interlock-replay" not in block and b"traceparent" not in block


def _mark(span: Span | None, failure: Failure | None) -> None:
    if span is not None and failure is not None:
        span.set_status(Status(StatusCode.ERROR, failure.reason))
