"""The kit that every service is built on.

A service says which commands it answers, which consumers it runs and which buckets it watches;
`Service.run` connects, checks the contract against the broker, starts it all, and on SIGTERM
finishes what is in hand. An unknown error ends the process: its supervisor starts it again.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, overload

import msgspec
import nats.errors
import structlog
from nats.micro import add_service
from nats.micro.request import Request, ServiceError
from nats.micro.service import EndpointConfig, ServiceConfig
from nats.micro.service import Service as MicroService
from opentelemetry.trace import SpanKind

from interlock import doctor, logs, provisioning, telemetry
from interlock.bus import connect
from interlock.consuming import BatchHandler, Consumption, Handler
from interlock.delivery import Delivery
from interlock.errors import CommandFailed, InterlockError, SettingsInvalid
from interlock.fleet import Fleet
from interlock.kv import Entry, Store
from interlock.redelivery import RetryPolicy
from interlock.settings import ServiceSettings
from interlock_schemas.contracts import Command, Contract
from interlock_schemas.topology import Bucket, Consumer

__all__ = ["Service", "run"]

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")

#: Messages make and drop thousands of objects a second and hardly any cycles.
_GC_THRESHOLDS: Final = (50_000, 20, 20)

log = logs.get_logger("interlock.service")


class Service:
    """One running service. Handed to the `setup` function that `run` is given."""

    def __init__(
        self,
        contract: Contract,
        settings: ServiceSettings,
        fleet: Fleet,
        *,
        stop: asyncio.Event | None = None,
        hurried: asyncio.Event | None = None,
    ) -> None:
        self.contract = contract
        self.settings = settings
        self.fleet = fleet
        self.hurried = hurried or asyncio.Event()
        """Set when it is to stop and somebody has asked for that a second time."""
        self._stop = stop or asyncio.Event()
        self._answers: list[tuple[Command[Any, Any], Callable[[Any], Awaitable[Any]], int]] = []
        self._consumptions: list[Consumption] = []
        self._watches: list[tuple[Bucket, Callable[[Entry], None]]] = []
        self._beside: list[tuple[Callable[[], Awaitable[None]], asyncio.Event | None]] = []
        self._at_end: list[Callable[[], Awaitable[None]]] = []
        self._answering: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """End as on SIGTERM: what is in hand is finished first."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether it is ending, or about to."""
        return self._stop.is_set()

    def store(self, bucket: Bucket) -> Store:
        """A bucket of the contract. Raises ValueError for any other."""
        if bucket not in (*self.contract.stores, *self.contract.reads):
            raise ValueError(f"bucket {bucket.name} is not in the contract of {self.contract.name}")
        return Store(self.fleet.bus, bucket)

    def answer(
        self,
        command: "Command[RequestT, ReplyT]",
        handler: Callable[[RequestT], Awaitable[ReplyT]],
        *,
        at_once: int = 1,
    ) -> None:
        """Answer a command of the contract. A CommandFailed becomes the caller's error.

        So many requests `at_once`, the next ones waiting their turn.
        """
        if command not in self.contract.answers:
            raise ValueError(f"{command.subject} is not in the contract of {self.contract.name}")
        self._answers.append((command, handler, at_once))

    def beside(
        self, work: Callable[[], Awaitable[None]], *, ready: asyncio.Event | None = None
    ) -> None:
        """Have something run for as long as the service does.

        Consuming and answering begin once `ready` is set. Where it raises, the service ends.
        """
        self._beside.append((work, ready))

    def at_end(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have something run once nothing is consumed and answered any more."""
        self._at_end.append(work)

    @overload
    def consume(
        self,
        consumer: Consumer,
        handler: Handler,
        *,
        policy: RetryPolicy | None = None,
        order_by: Callable[[Delivery], object] | None = None,
    ) -> None: ...

    @overload
    def consume(
        self,
        consumer: Consumer,
        handler: BatchHandler,
        *,
        batch: int,
        linger_s: float = 0.0,
        policy: RetryPolicy | None = None,
        order_by: Callable[[Delivery], object] | None = None,
    ) -> None: ...

    def consume(
        self,
        consumer: Consumer,
        handler: Callable[[Any], Awaitable[Any]],
        *,
        batch: int | None = None,
        linger_s: float = 0.0,
        policy: RetryPolicy | None = None,
        order_by: Callable[[Delivery], object] | None = None,
    ) -> None:
        """Run a handler for the messages of a consumer of the contract.

        With `batch`, the handler gets a list of up to so many deliveries, whatever is there (after
        waiting `linger_s` for more), and returns None or one decision for each: `Handled`, `Retry`
        or an exception, such as `Reject`. Where it raises, they are tried again one by one.

        With `order_by`, deliveries for which it returns the same are handled one after the other
        in stream order, across retries too, within this process.
        """
        if consumer not in self.contract.consumes:
            raise ValueError(f"{consumer.name} is not in the contract of {self.contract.name}")
        self._consumptions.append(
            Consumption(
                self.fleet.bus,
                service=self.contract.name,
                stream=consumer.stream.name,
                consumer=consumer.name,
                handler=handler,
                places=self.settings.concurrency,
                ack_wait_s=consumer.ack_wait_s,
                policy=policy or RetryPolicy(),
                batch=batch,
                # Others of this service are to find something to do as well.
                max_in_hand=max(1, consumer.max_ack_pending // 2),
                linger_s=linger_s,
                key=order_by,
                flood=self.settings.flood,
            )
        )

    def watch(self, bucket: Bucket, on_entry: Callable[[Entry], None]) -> None:
        """Call back for every key as it stands, before consuming begins, and then for changes."""
        self.store(bucket)
        self._watches.append((bucket, on_entry))

    async def serve(self, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Watch, consume and answer until `stop` is set; then finish what is in hand."""
        async with asyncio.TaskGroup() as group:
            background = [
                await self._start_watch(group, bucket, callback)
                for bucket, callback in self._watches
            ]
            for work, prepared in self._beside:
                background.append(group.create_task(_awaited(work)))
                if prepared is not None:
                    await prepared.wait()
            consuming = [group.create_task(each.run()) for each in self._consumptions]
            micro = await self._start_endpoints()
            ready.set()
            log.info("ready", service=self.contract.name, version=self.contract.version)
            await stop.wait()
            in_hand = sum(each.in_hand for each in self._consumptions)
            log.info("draining", service=self.contract.name, in_hand=in_hand)
            for each in self._consumptions:
                each.stop()
            if consuming:
                _, late = await asyncio.wait(consuming, timeout=self.settings.drain_s)
                for task in late:
                    task.cancel()
            await self._stop_endpoints(micro)
            for finish in self._at_end:
                await finish()
            for task in background:
                task.cancel()

    async def _start_watch(
        self, group: asyncio.TaskGroup, bucket: Bucket, callback: Callable[[Entry], None]
    ) -> asyncio.Task[None]:
        ready = asyncio.Event()

        async def watch() -> None:
            async for entry in self.store(bucket).watch():
                if entry is None:
                    ready.set()
                else:
                    callback(entry)

        task = group.create_task(watch())
        await ready.wait()
        return task

    async def _stop_endpoints(self, micro: MicroService) -> None:
        """Take no more requests, and finish those in hand."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await micro.stop()
        if self._answering:
            await asyncio.wait(self._answering, timeout=self.settings.drain_s)

    async def _start_endpoints(self) -> MicroService:
        # Also where it answers no command: that it runs is asked in the same way.
        micro = await add_service(
            self.fleet.bus.client,
            ServiceConfig(
                name=self.contract.name,
                version=self.contract.version,
                description=self.contract.summary,
                metadata={"pid": str(os.getpid())},
            ),
        )
        for command, handler, at_once in self._answers:
            await micro.add_endpoint(
                EndpointConfig(
                    name=command.verb,
                    subject=command.subject,
                    handler=self._endpoint(command, handler, at_once),
                    metadata={
                        "summary": command.summary,
                        "request": command.request.__name__,
                        "reply": command.reply.__name__,
                    },
                )
            )
        await self.fleet.bus.flush()
        return micro

    def _endpoint(
        self, command: Command[Any, Any], handler: Callable[[Any], Awaitable[Any]], at_once: int
    ) -> Callable[[Request], Awaitable[None]]:
        one = self._one_by_one(command, handler)
        if at_once == 1:
            return one
        places = asyncio.Semaphore(at_once)

        async def alone(request: Request) -> None:
            try:
                await one(request)
            except ServiceError as error:
                await request.respond_error(error.code, error.description)
            finally:
                places.release()

        async def endpoint(request: Request) -> None:
            await places.acquire()
            task = asyncio.get_running_loop().create_task(alone(request))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

        return endpoint

    def _one_by_one(
        self, command: Command[Any, Any], handler: Callable[[Any], Awaitable[Any]]
    ) -> Callable[[Request], Awaitable[None]]:
        decoder = msgspec.json.Decoder(command.request)

        async def endpoint(request: Request) -> None:
            try:
                asked = decoder.decode(request.data or b"{}")
            except (msgspec.DecodeError, RecursionError) as error:
                raise ServiceError(
                    "400", f"this is no {command.request.__name__}: {error}"
                ) from error
            with telemetry.tracer.start_as_current_span(
                f"answer {command.subject}",
                context=telemetry.extract(request.headers or {}),
                kind=SpanKind.SERVER,
            ):
                try:
                    reply = await handler(asked)
                except CommandFailed as error:
                    raise ServiceError(error.code, str(error)) from error
                except InterlockError as error:
                    log.warning("command failed", command=command.subject, why=str(error))
                    raise ServiceError("503", str(error)) from error
                except Exception:
                    log.exception("unknown error", command=command.subject)
                    raise
            await request.respond(msgspec.json.encode(reply))

        return endpoint


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def _run(
    contract: Contract, settings: ServiceSettings, setup: Callable[[Service], Awaitable[None]]
) -> None:
    stop = asyncio.Event()
    ready = asyncio.Event()
    hurried = asyncio.Event()
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set():
            hurried.set()
        stop.set()
        # Nothing is in hand before it is ready, so there is nothing to finish.
        if main is not None and not ready.is_set():
            main.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    bus = await connect(settings, name=contract.name)
    try:
        await provisioning.verify(bus, contract)
        await doctor.admit(bus, settings, contract)
        fleet = Fleet(bus, source=contract.name, node=settings.node)
        service = Service(contract, settings, fleet, stop=stop, hurried=hurried)
        await setup(service)
        await service.serve(stop, ready)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await bus.close()
    log.info("stopped", service=contract.name)


def leaves(error: BaseException | None) -> list[BaseException]:
    """The plain errors in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in leaves(each)]
    return [error] if error is not None else []


def run(
    contract: Contract,
    read_settings: Callable[[], ServiceSettings],
    setup: Callable[[Service], Awaitable[None]],
) -> None:
    """Run a service until SIGTERM. Exits 1, with one line saying why, when it cannot."""
    try:
        settings = read_settings()
    except SettingsInvalid as error:
        sys.stderr.write(f"{contract.name} cannot run: {error}\n")
        sys.exit(1)
    logs.configure(settings.log_level, settings.log_format)
    structlog.contextvars.bind_contextvars(service=contract.name)
    telemetry.configure(contract.name, contract.version)
    # What stands now stands for good: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        asyncio.run(_run(contract, settings, setup))
    except asyncio.CancelledError:
        log.info("stopped before it was ready", service=contract.name)
    except InterlockError as error:
        log.error("cannot run", why=str(error))
        sys.exit(1)
    except BaseExceptionGroup as group:
        known, unknown = group.split(InterlockError)
        if unknown is not None:
            raise
        for each in leaves(known):
            log.error("cannot go on", why=str(each))
        sys.exit(1)
    finally:
        telemetry.shutdown()
