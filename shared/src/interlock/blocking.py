"""The blocking twin of `Fleet`, for scripts without asyncio.

A thread of its own runs the event loop, so the connection lives on while the script computes.
Each call returns when the work is done: a script that publishes and exits loses nothing.
"""

import asyncio
import concurrent.futures
import contextlib
import itertools
import secrets
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from interlock.artifacts.sdk import Artifacts, Shown
from interlock.errors import BusUnavailable
from interlock.fleet import Fleet, ReceiptT, Received, connect
from interlock.locks.lease import Lease
from interlock.outbox import Status, Stored
from interlock.redelivery import RetryPolicy
from interlock.settings import ConnectionSettings
from interlock_schemas.artifacts import Artifact
from interlock_schemas.event import Event, OpenEvent, Payload
from interlock_schemas.health import Admission, ClusterHealth, Pressure
from interlock_schemas.locks import Priority
from interlock_schemas.orders import Priority as SyncPriority
from interlock_schemas.orders import SyncReport

__all__ = ["BlockingArtifacts", "BlockingFleet", "BlockingLease", "connect_blocking"]

T = TypeVar("T")


def _wait(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """Have the loop's thread do something, and wait until it is done."""
    try:
        future = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:
        work.close()
        raise BusUnavailable("the connection is closed: connect again") from None
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class BlockingLease:
    """`Lease`, for code that blocks. Made by `BlockingFleet.lock`; used from any thread."""

    def __init__(self, lease: Lease, loop: asyncio.AbstractEventLoop) -> None:
        self._lease = lease
        self._loop = loop
        self.lost = threading.Event()
        """Set when the lease is lost. Not when it is given back."""
        lease.when_lost(self.lost.set)
        if lease.lost.is_set():
            self.lost.set()

    @property
    def name(self) -> str:
        """The lock."""
        return self._lease.name

    @property
    def token(self) -> int:
        """The fencing token: it rises with each grant of this lock, for ever."""
        return self._lease.token

    @property
    def held(self) -> bool:
        """Whether it may be rested on at this moment."""
        return self._lease.held

    @property
    def remaining_s(self) -> float:
        """How long it may be rested on without another renewal, seconds."""
        return self._lease.remaining_s

    @property
    def lost_reason(self) -> str:
        """Why it was lost; empty while it was not."""
        return self._lease.lost_reason

    def check(self) -> None:
        """Raise LeaseLost unless it may be rested on at this moment. Costs no round trip.

        Call it between the steps of the work: nothing else can interrupt them.
        """
        lease = self._lease
        if lease.held:
            return
        if not (lease.released or lease.lost.is_set()):
            # Out of time: for the thread that renews it to note.
            _wait(self._check(), self._loop)
        lease.check()

    def headers(self) -> dict[str, str]:
        """What a message written under this lock says of it. Raises LeaseLost."""
        return _wait(self._headers(), self._loop)

    def put(self, key: str, value: bytes, *, timeout_s: float = 10.0) -> int:
        """As `Lease.put`: write Interlock's own state, stored only if this lease stands then."""
        return _wait(self._lease.put(key, value, timeout_s=timeout_s), self._loop)

    async def _check(self) -> None:
        self._lease.check()

    async def _headers(self) -> dict[str, str]:
        return self._lease.headers()


class BlockingArtifacts:
    """`Artifacts`, call by call, from any thread: ``fleet.artifacts``."""

    def __init__(self, artifacts: Artifacts, loop: asyncio.AbstractEventLoop) -> None:
        self._artifacts = artifacts
        self._loop = loop

    def add(
        self,
        path: str | Path,
        *,
        dataset: str,
        config: str = "",
        name: str | None = None,
        value: float = 0.0,
        steps: int | None = None,
        games: int | None = None,
        move: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Artifact:
        """As `Artifacts.add`: seal a file, a folder or a SQLite database."""
        return _wait(
            self._artifacts.add(
                path,
                dataset=dataset,
                config=config,
                name=name,
                value=value,
                steps=steps,
                games=games,
                move=move,
                progress=progress,
            ),
            self._loop,
        )

    def add_log(
        self,
        path: str | Path,
        *,
        dataset: str,
        config: str = "",
        name: str | None = None,
        value: float = 0.0,
        steps: int | None = None,
        games: int | None = None,
    ) -> Artifact | None:
        """As `Artifacts.add_log`: seal what a growing log gained. None: nothing."""
        return _wait(
            self._artifacts.add_log(
                path,
                dataset=dataset,
                config=config,
                name=name,
                value=value,
                steps=steps,
                games=games,
            ),
            self._loop,
        )

    def path(self, artifact: str | Artifact) -> Path:
        """As `Artifacts.path`: where an artifact is on this host."""
        return self._artifacts.path(artifact)

    def told(self, timeout_s: float = 30.0) -> bool:
        """As `Artifacts.told`: wait until the fleet knows of what was sealed through this."""
        return _wait(self._artifacts.told(timeout_s), self._loop)

    def list(
        self, dataset: str | None = None, config: str | None = None, *, node: str | None = None
    ) -> tuple[Artifact, ...]:
        """As `Artifacts.list`: what the fleet knows of."""
        return _wait(self._artifacts.list(dataset, config, node=node), self._loop)

    def show(self, artifact: str | Artifact) -> Shown:
        """As `Artifacts.show`: an artifact and its receipts."""
        return _wait(self._artifacts.show(artifact), self._loop)


class BlockingFleet(Generic[ReceiptT]):
    """`Fleet`, call by call, from any thread. Make one with `connect_blocking`."""

    def __init__(self, fleet: Fleet[ReceiptT], loop: asyncio.AbstractEventLoop) -> None:
        self._fleet = fleet
        self._loop = loop
        self._threads = threading.local()
        self._numbers = itertools.count(1)
        self._id = secrets.token_hex(8)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return _wait(work, self._loop)

    def publish(
        self,
        event: Event | OpenEvent,
        *,
        key: str | None = None,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> ReceiptT:
        """As `Fleet.publish`: returns once the broker has it on disk, or this host's outbox."""
        return self._wait(
            self._fleet.publish(event, key=key, id=id, headers=headers, timeout_s=timeout_s)
        )

    def publish_many(
        self, events: Iterable[Event | OpenEvent], *, timeout_s: float = 60.0
    ) -> list[ReceiptT]:
        """As `Fleet.publish_many`."""
        return self._wait(self._fleet.publish_many(events, timeout_s=timeout_s))

    def publish_legacy(
        self, name: str, payload: Payload, *, id: str | None = None, timeout_s: float = 30.0
    ) -> ReceiptT:
        """As `Fleet.publish_legacy`."""
        return self._wait(self._fleet.publish_legacy(name, payload, id=id, timeout_s=timeout_s))

    def publish_raw(
        self,
        subject: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> ReceiptT:
        """Publish bytes as they are, acknowledged, as a worker in any language would."""
        return self._wait(self._fleet.publish_raw(subject, body, headers, timeout_s=timeout_s))

    def progress(self, *, failures: int = 0, successes: int = 0, **counters: float) -> None:
        """As `Fleet.progress`: tell the agent of this node what was got done."""
        self._wait(self._fleet.progress(failures=failures, successes=successes, **counters))

    def checkpointed(self, artifact: str | Path) -> None:
        """As `Fleet.checkpointed`: an artifact has just been made durable."""
        self._wait(self._fleet.checkpointed(artifact))

    def outbox_status(self) -> Status:
        """As ``await fleet.outbox.status()``: how the outbox stands."""
        return self._wait(self._fleet.outbox.status())

    @contextlib.contextmanager
    def lock(
        self,
        name: str,
        *,
        ttl: float = 30.0,
        wait: float = 60.0,
        priority: Priority = "normal",
        slots: int = 1,
        max_age: float | None = None,
        note: str = "",
        owner: str | None = None,
    ) -> Iterator[BlockingLease]:
        """Hold a lock for a block, as `Fleet.lock`: ``with fleet.lock("export:hex8_2p") as lease``.

        It is renewed in the background and given back at the end. `owner`: who asks, in deadlocks;
        this thread, if left out.

        Nothing can interrupt the block when the lease is lost: call ``lease.check()`` between its
        steps, and show ``lease.token`` to whatever stores. A block that comes to its end without an
        error after the lease was lost raises LeaseLost. Raises what `Fleet.lock` raises.
        """
        who = self._owner() if owner is None else owner
        granted: concurrent.futures.Future[BlockingLease] = concurrent.futures.Future()
        done = asyncio.Event()

        async def hold() -> None:
            try:
                async with self._fleet.lock(
                    name,
                    ttl=ttl,
                    wait=wait,
                    priority=priority,
                    slots=slots,
                    max_age=max_age,
                    note=note,
                    owner=who,
                    on_lost="signal",
                ) as lease:
                    granted.set_result(BlockingLease(lease, self._loop))
                    await done.wait()
            except asyncio.CancelledError:
                if granted.done():
                    raise
                granted.set_exception(BusUnavailable(f"{name}: the connection was closed"))
            except BaseException as error:
                if granted.done():
                    raise
                granted.set_exception(error)

        holding = asyncio.run_coroutine_threadsafe(hold(), self._loop)
        try:
            lease = granted.result()
        except BaseException:
            # Also for Ctrl-C: whoever waits leaves the queue, what was granted just now goes back.
            holding.cancel()
            raise
        try:
            yield lease
            lease.check()
        finally:
            # Where the connection is closed by now, that has given it back.
            with contextlib.suppress(RuntimeError, concurrent.futures.CancelledError):
                self._loop.call_soon_threadsafe(done.set)
                holding.result()

    def _owner(self) -> str:
        owner: str | None = getattr(self._threads, "owner", None)
        if owner is None:
            number = next(self._numbers)
            owner = self._threads.owner = f"{self._fleet.source[:150]}/{self._id}#{number}"
        return owner

    @property
    def artifacts(self) -> BlockingArtifacts:
        """As `Fleet.artifacts`: data that is kept and moved."""
        return BlockingArtifacts(self._fleet.artifacts, self._loop)

    def sync(
        self,
        dataset: str | None = None,
        *,
        config: str | None = None,
        artifacts: Iterable[str | Artifact] = (),
        targets: str | Sequence[str] = ("all",),
        priority: SyncPriority = "normal",
        timeout: float = 3_600.0,
        on_progress: Callable[[SyncReport], None] | None = None,
    ) -> SyncReport:
        """As `Fleet.sync`: have data at some nodes, and wait until each has said that it has it.

        `on_progress` is called in the thread of the connection: it should be brief.
        """
        return self._wait(
            self._fleet.sync(
                dataset,
                config=config,
                artifacts=artifacts,
                targets=targets,
                priority=priority,
                timeout=timeout,
                on_progress=on_progress,
            )
        )

    def health(self) -> ClusterHealth:
        """As `Fleet.health`: how the fleet as a whole is doing."""
        return self._wait(self._fleet.health())

    def admit(
        self,
        node: str | None = None,
        *,
        cores: float = 0.0,
        memory_bytes: int = 0,
        disk_bytes: int = 0,
        path: str | None = None,
        gpus: int = 0,
        gpu_memory_bytes: int = 0,
        role: str | None = None,
        purpose: str = "",
        id: str | None = None,
        reserve_s: float = 30.0,
        timeout_s: float = 5.0,
        patience_s: float = 5.0,
    ) -> Admission:
        """As `Fleet.admit`: may something heavy be started on a node (default: this one)?"""
        return self._wait(
            self._fleet.admit(
                node,
                cores=cores,
                memory_bytes=memory_bytes,
                disk_bytes=disk_bytes,
                path=path,
                gpus=gpus,
                gpu_memory_bytes=gpu_memory_bytes,
                role=role,
                purpose=purpose,
                id=id,
                reserve_s=reserve_s,
                timeout_s=timeout_s,
                patience_s=patience_s,
            )
        )

    def pressure(self, scope: str = "fleet") -> Pressure | None:
        """As `Fleet.pressure`: how overloaded the fleet or one node is. None: not known."""
        return self._wait(self._fleet.pressure(scope))

    def fenced_state(self, key: str) -> bytes | None:
        """As `Fleet.fenced_state`: what `BlockingLease.put` has stored; None where nothing is."""
        return self._wait(self._fleet.fenced_state(key))

    def consume(
        self,
        name: str,
        handler: Callable[[Received[Any]], None],
        *types: type[Event] | str,
        concurrency: int = 4,
        ack_wait_s: float = 30.0,
        from_start: bool = True,
        retry: RetryPolicy | None = None,
    ) -> None:
        """As `Fleet.consume`, with an ordinary function as handler, called in worker threads.

        Blocks until Ctrl-C, after which what is in hand is finished.
        """
        stop = asyncio.Event()

        async def handle(received: Received[Any]) -> None:
            await asyncio.to_thread(handler, received)

        future = asyncio.run_coroutine_threadsafe(
            self._fleet.consume(
                name,
                handle,
                *types,
                concurrency=concurrency,
                ack_wait_s=ack_wait_s,
                from_start=from_start,
                retry=retry,
                stop=stop,
            ),
            self._loop,
        )
        try:
            future.result()
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(stop.set)
            future.result()
            raise


@overload
def connect_blocking(
    settings: ConnectionSettings | None = None, *, source: str | None = None, outbox: None = None
) -> AbstractContextManager[BlockingFleet]: ...


@overload
def connect_blocking(
    settings: ConnectionSettings | None = None, *, source: str | None = None, outbox: str | Path
) -> AbstractContextManager[BlockingFleet[Stored]]: ...


def connect_blocking(
    settings: ConnectionSettings | None = None,
    *,
    source: str | None = None,
    outbox: str | Path | None = None,
) -> AbstractContextManager[BlockingFleet] | AbstractContextManager[BlockingFleet[Stored]]:
    """Connect to the fleet from a plain script: ``with interlock.connect_blocking() as fleet``.

    With `outbox`, publishes return once this host has them on disk: see `interlock.connect`.
    """
    if outbox is None:
        return _blocking(connect(settings, source=source))
    return _blocking(connect(settings, source=source, outbox=outbox))


@contextlib.contextmanager
def _blocking(
    connection: AbstractAsyncContextManager[Fleet[ReceiptT]],
) -> Iterator[BlockingFleet[ReceiptT]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="interlock", daemon=True)
    thread.start()
    try:
        fleet = asyncio.run_coroutine_threadsafe(connection.__aenter__(), loop).result()
        try:
            yield BlockingFleet(fleet, loop)
        finally:
            asyncio.run_coroutine_threadsafe(connection.__aexit__(None, None, None), loop).result()
            asyncio.run_coroutine_threadsafe(_end_others(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end_others() -> None:
    """End what other threads still wait for: nobody would ever answer them."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
