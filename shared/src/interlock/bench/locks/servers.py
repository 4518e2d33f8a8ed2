"""The servers of the benchmark, each a child of this process, on the loopback interface alone.

Ours is a broker with the lock service beside it, as in production. Redis and etcd are started from
what is installed, with an empty store; a system's own servers are never touched.
"""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock import process, provisioning
from interlock.bench.locks import raw
from interlock.bench.workers import BenchFailed, environment
from interlock.broker import free_port
from interlock.bus import ApiError, Bus, connected
from interlock.cluster import LocalCluster
from interlock.discovery import contracts
from interlock.errors import BusUnavailable
from interlock.state import make_private_folder
from interlock_schemas.contracts import Contract
from interlock_schemas.locks import SERVICE
from interlock_schemas.topology import EVENTS, LOCKS

__all__ = ["NOT_HERE", "Server", "absent", "etcd", "installed", "ours", "redis"]

_HOST: Final = "127.0.0.1"
_START_S: Final = 30.0
_STOP_S: Final = 10.0
_POLL_S: Final = 0.05
_SETTLED_S: Final = 5.0
_STILL_S: Final = 0.1
_LAST_LINES: Final = 6

#: What to say where the lock service is not installed.
NOT_HERE: Final = f"the lock service is not installed: pip install interlock-{SERVICE}"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A contender that runs."""

    where: str
    """``host:port`` for its clients; empty where the environment tells them."""
    environment: dict[str, str]
    """Of its clients."""
    server: str
    """Name and version."""
    client: str
    """Name and version."""
    replicas: int
    sync: str
    """When it syncs to disk, in its own words."""
    settled: Callable[[], Awaitable[None]]
    """Returns when nothing goes on any more that its clients do not wait for."""


def installed() -> Contract | None:
    """The contract of the lock service, None where it is not installed."""
    return next((each for each in contracts() if each.name == SERVICE), None)


def absent() -> dict[str, str]:
    """The peers that cannot be measured here, each with what to install."""
    found = {}
    if shutil.which("redis-server") is None:
        found["redis"] = "no redis-server on the PATH: apt-get install redis-server"
    elif importlib.util.find_spec("redis") is None:
        found["redis"] = "no redis-py: pip install redis"
    if shutil.which("etcd") is None:
        found["etcd"] = "no etcd on the PATH: apt-get install etcd-server"
    return found


@contextlib.asynccontextmanager
async def ours(folder: Path, contract: Contract, *, replicas: int) -> AsyncIterator[Server]:
    """A broker that syncs always, of one server or of three, with the lock service beside it."""
    make_private_folder(folder)
    cluster = LocalCluster(folder, size=replicas, sync_always=True)
    async with cluster.running():
        settings = cluster.settings()
        async with connected(settings, name="interlock-bench") as bus:
            await provisioning.apply(bus, contracts(), replicas=replicas)
            await _make_raw(bus)
            environ = environment(settings)
            async with _child(
                [sys.executable, "-m", contract.module],
                folder / "sync-mutex.log",
                lambda: _answers(bus),
                environ=environ,
            ):
                yield Server(
                    where="",
                    environment=environ,
                    server=f"nats-server {bus.server.get('version', '')}, {SERVICE}",
                    client=f"interlock {importlib.metadata.version('interlock')}",
                    replicas=replicas,
                    sync="always",
                    settled=lambda: _settled(bus),
                )


async def _make_raw(bus: Bus) -> None:
    """A bucket like that of the locks, and return when both are led and followed."""
    standing = await bus.api(f"STREAM.INFO.{LOCKS.stream}")
    config = standing["config"] | {
        "name": raw.BUCKET.stream,
        "description": raw.BUCKET.summary,
        "subjects": [raw.BUCKET.subject],
    }
    await bus.api(f"STREAM.CREATE.{raw.BUCKET.stream}", config)
    try:
        async with asyncio.timeout(_START_S):
            for stream in (LOCKS.stream, raw.BUCKET.stream):
                while not await _whole(bus, stream):  # noqa: ASYNC110 - an election tells nobody
                    await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise BenchFailed(f"the buckets had no leader within {_START_S:g} s") from error


async def _whole(bus: Bus, stream: str) -> bool:
    try:
        info = await bus.api(f"STREAM.INFO.{stream}")
    except ApiError as error:
        if error.code == 503:
            return False
        raise
    followers = (info.get("cluster") or {}).get("replicas") or []
    return all(follower.get("current") for follower in followers)


async def _settled(bus: Bus) -> None:
    """Return when the lock service publishes no more events, or after a while.

    It tells of locks after they changed hands. Whoever is measured next is not to pay for that.
    """
    deadline = time.monotonic() + _SETTLED_S
    before = -1
    while time.monotonic() < deadline:
        state = (await bus.api(f"STREAM.INFO.{EVENTS.name}"))["state"]
        if state["last_seq"] == before:
            return
        before = state["last_seq"]
        await asyncio.sleep(_STILL_S)


async def _at_once() -> None:
    return


async def _answers(bus: Bus) -> None:
    """Return once the lock service answers its ping."""
    while True:
        try:
            await bus.request(f"$SRV.PING.{SERVICE}", b"", timeout_s=1.0)
        except BusUnavailable:
            await asyncio.sleep(_POLL_S)
        else:
            return


@contextlib.asynccontextmanager
async def redis(folder: Path, *, fsync: str) -> AsyncIterator[Server]:
    """A redis-server with an append-only file; `fsync` is ``always`` or ``everysec``."""
    make_private_folder(folder)
    program = _found("redis-server")
    port = free_port()
    command = [
        program, "--bind", _HOST, "--port", str(port), "--dir", str(folder), "--daemonize", "no",
        # No snapshots beside the file: they would only slow it down.
        "--save", "", "--appendonly", "yes", "--appendfsync", fsync,
    ]  # fmt: skip
    async with _child(command, folder / "redis.log", lambda: _redis_answers(port)):
        version = importlib.metadata.version("redis")
        yield Server(
            where=f"{_HOST}:{port}",
            environment=dict(os.environ),
            server=f"redis-server {await _version(program, 'v=')}",
            client=f"redis-py {version}",
            replicas=1,
            sync=f"appendfsync {fsync}",
            settled=_at_once,
        )


@contextlib.asynccontextmanager
async def etcd(folder: Path, *, replicas: int) -> AsyncIterator[Server]:
    """An etcd of one member or of three, as it comes: it syncs before it answers."""
    make_private_folder(folder)
    program = _found("etcd")
    ports: set[int] = set()
    while len(ports) < 2 * replicas:
        ports.add(free_port())
    numbers = list(ports)
    clients, routes = numbers[:replicas], numbers[replicas:]
    together = ",".join(f"member-{n}=http://{_HOST}:{port}" for n, port in enumerate(routes))
    async with contextlib.AsyncExitStack() as stack:
        members = []
        for number, (client, route) in enumerate(zip(clients, routes, strict=True)):
            own, own_peer = f"http://{_HOST}:{client}", f"http://{_HOST}:{route}"
            command = [
                program, "--name", f"member-{number}", "--data-dir", str(folder / str(number)),
                "--listen-client-urls", own, "--advertise-client-urls", own,
                "--listen-peer-urls", own_peer, "--initial-advertise-peer-urls", own_peer,
                "--initial-cluster", together, "--initial-cluster-state", "new",
                "--logger", "zap", "--log-level", "error",
            ]  # fmt: skip
            log = folder / f"etcd-{number}.log"
            # They become ready together, so none is waited for before the last is started.
            member = _child(command, log, None)
            members.append((await stack.enter_async_context(member), client, log))
        for started, client, log in members:
            await _ready(started, lambda port=client: _etcd_answers(port), log)  # type: ignore[misc]
        yield Server(
            where=f"{_HOST}:{clients[0]}",
            environment=dict(os.environ),
            server=f"etcd {await _version(program, 'Version:')}",
            client="HTTP to its JSON gateway",
            replicas=replicas,
            sync="before it answers",
            settled=_at_once,
        )


@contextlib.asynccontextmanager
async def _child(
    command: Sequence[str],
    log: Path,
    ready: Callable[[], Coroutine[Any, Any, None]] | None,
    *,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A server that ends with the block, whatever happens. Raises BenchFailed."""
    started = await process.spawn(
        list(command), env=environ or {}, log=log, orphan_signal=signal.SIGKILL
    )
    try:
        if ready is not None:
            await _ready(started, ready, log)
        yield started
    finally:
        await _stop(started)


async def _ready(
    started: asyncio.subprocess.Process,
    ready: Callable[[], Coroutine[Any, Any, None]],
    log: Path,
) -> None:
    try:
        async with asyncio.timeout(_START_S):
            if await process.became_ready(started, ready):
                return
        why = f"ended with {started.returncode}"
    except TimeoutError:
        why = f"did not answer within {_START_S:g} s"
    raise BenchFailed(f"{log.stem} {why}: {_end_of(log) or 'it wrote nothing'}")


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])


async def _stop(started: asyncio.subprocess.Process) -> None:
    if started.returncode is not None:
        return
    process.signal_group(started, signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            await started.wait()
    except TimeoutError:
        process.signal_group(started, signal.SIGKILL)
        await started.wait()


async def _redis_answers(port: int) -> None:
    """Return once it answers a ping."""
    while await _asked(port, b"PING\r\n", 5) != b"+PONG":  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(_POLL_S)


async def _etcd_answers(port: int) -> None:
    """Return once the member is healthy: it has a leader, and a proposal goes through."""
    request = f"GET /health HTTP/1.0\r\nHost: {_HOST}\r\n\r\n".encode()
    while b'"health":"true"' not in await _asked(port, request, -1):  # noqa: ASYNC110 - nor it
        await asyncio.sleep(_POLL_S)


async def _asked(port: int, request: bytes, count: int) -> bytes:
    """What comes back first, or up to the end where `count` is -1; empty while nobody listens."""
    try:
        reader, writer = await asyncio.open_connection(_HOST, port)
    except OSError:
        return b""
    try:
        writer.write(request)
        return await reader.read(count)
    except OSError:
        return b""
    finally:
        writer.close()


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise BenchFailed(f"{program} is not on the PATH")
    return path


async def _version(program: str, before: str) -> str:
    """The word behind `before` in what the program says of its version."""
    asked = await asyncio.create_subprocess_exec(
        program, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    told, _ = await asked.communicate()
    words = told.decode(errors="replace").partition(before)[2].split()
    return words[0] if words else ""
