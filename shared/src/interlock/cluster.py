"""One or three real nats-servers on this machine, to be measured, killed, frozen and cut off.

For tests, `interlock chaos` and `interlock bench`. What serves a fleet on one machine is
`interlock.broker`; a cluster that serves one spans machines and is configured in deploy/ and k8s/.
"""

import asyncio
import contextlib
import secrets
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from pydantic import SecretStr

from interlock.broker import (
    BrokerError,
    BrokerNotReadyError,
    authorization,
    find_server,
    free_port,
    is_free,
    jetstream,
)
from interlock.endpoint import SYSTEM_USER
from interlock.process import became_ready, log_path, signal_group, spawn
from interlock.settings import ConnectionSettings
from interlock.state import Credentials, ensure_credentials, make_private_folder, write_private

__all__ = ["ClusterServer", "LocalCluster", "Ports"]

_HOST: Final = "127.0.0.1"
_POLL_S: Final = 0.05
_ANSWER_TIMEOUT_S: Final = 2.0
_STOP_GRACE_S: Final = 15.0
_LAST_LOG_LINES: Final = 12

#: Where servers tell one another that they can be reached, when they shall not go past proxies:
#: a port that is reserved for nothing and on which nobody listens.
_NOWHERE: Final = f"{_HOST}:1"

_SERVES: Final = "/healthz?js-enabled-only=true"

_Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class Ports(msgspec.Struct, frozen=True):
    """The ports of one server, the same from run to run."""

    client: _Port
    route: _Port
    """Where the other servers connect to."""
    monitor: _Port
    """Health over HTTP, without a password: it tells nothing that is stored."""


class _Identity(msgspec.Struct, frozen=True):
    """What a cluster's folder keeps from run to run, in ``cluster.json``."""

    name: str
    ports: tuple[Ports, ...]


class _Health(msgspec.Struct):
    status: str = ""
    error: str = ""


class _Peer(msgspec.Struct):
    name: str = ""
    current: bool = False
    offline: bool = False


class _Meta(msgspec.Struct):
    leader: str = ""
    cluster_size: int = 0
    replicas: list[_Peer] = []


class _Jsz(msgspec.Struct):
    meta_cluster: _Meta | None = None


class _Route(msgspec.Struct):
    remote_name: str = ""


class _Routez(msgspec.Struct):
    routes: list[_Route] = []


class ClusterServer:
    """One nats-server of a `LocalCluster`. Its store and its ports stay when it ends."""

    def __init__(self, state: Path, name: str, ports: Ports, program: Path) -> None:
        self.name = name
        self.ports = ports
        self._state = state
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self._paused = False

    @property
    def port(self) -> int:
        """Where clients connect to, on the loopback interface alone."""
        return self.ports.client

    @property
    def url(self) -> str:
        """Its own client address, without credentials."""
        return f"nats://{_HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process, while it lives."""
        if self._process is None or self._process.returncode is not None:
            return None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives; also while it is paused."""
        return self.pid is not None

    @property
    def paused(self) -> bool:
        """Whether it is stopped by `pause`."""
        return self.running and self._paused

    @property
    def config_path(self) -> Path:
        """Its configuration, written before the first start."""
        return self._state / self.name / "nats-server.conf"

    @property
    def store_path(self) -> Path:
        """Where it stores."""
        return self._state / self.name / "store"

    @property
    def log_path(self) -> Path:
        """Its log."""
        return log_path(self._state, self.name)

    async def start(self, *, timeout_s: float = 60.0) -> None:
        """Run it and return when it accepts clients; at once if it runs.

        Whether it has caught up with the others is told by `healthy`. Raises BrokerError when it
        ends at the start, BrokerNotReadyError when it does not serve in time.
        """
        if self.running:
            return
        self._paused = False
        # Nobody supervises a paused server that outlives us: nothing less than SIGKILL ends it.
        process = self._process = await spawn(
            [str(self._program), "--config", str(self.config_path)],
            env={},
            log=self.log_path,
            orphan_signal=signal.SIGKILL,
        )
        try:
            if await became_ready(process, lambda: self._serves(timeout_s)):
                return
        except BaseException:
            await self.kill()
            raise
        raise BrokerError(
            f"nats-server {self.name} ended at start with code {process.returncode}. "
            f"The end of {self.log_path}:\n{self._last_lines()}"
        )

    async def stop(self, *, grace_s: float = _STOP_GRACE_S) -> None:
        """Ask it to end (SIGTERM), kill it after ``grace_s`` seconds. Resumes a paused one."""
        if self._process is None or not self.running:
            return
        self.resume()
        signal_group(self._process, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """Kill it (SIGKILL), paused or not, and return when it is gone."""
        if self._process is not None and self.running:
            signal_group(self._process, signal.SIGKILL)
            await self._process.wait()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its connections stand, and nothing answers."""
        if self._process is not None and self.running:
            signal_group(self._process, signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        if self._process is not None and self.running:
            signal_group(self._process, signal.SIGCONT)
            self._paused = False

    async def healthy(self) -> bool:
        """Whether it serves and has caught up: with the meta leader, and in all that it stores."""
        return await self._health("/healthz") == ""

    async def meta(self) -> tuple[str, int, int]:
        """Meta leader (empty: none known), size of the cluster, and peers that are current.

        Only the leader itself knows the peers; the others answer 0. Raises OSError.
        """
        found = msgspec.json.decode(await self._get("/jsz"), type=_Jsz).meta_cluster
        if found is None:
            return "", 0, 0
        current = sum(peer.current and not peer.offline for peer in found.replicas)
        return found.leader, found.cluster_size, current

    async def neighbours(self) -> set[str]:
        """Names of the servers that it is connected to. Raises OSError."""
        found = msgspec.json.decode(await self._get("/routez"), type=_Routez)
        return {route.remote_name for route in found.routes}

    async def _serves(self, timeout_s: float) -> None:
        why = "no answer"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while why := await self._health(_SERVES):  # noqa: ASYNC110 - no event to wait for
                    await asyncio.sleep(_POLL_S)
                return
        raise BrokerNotReadyError(
            f"{self.name} at {self.url} did not serve within {timeout_s:g} s ({why}): "
            f"see {self.log_path}"
        )

    async def _health(self, path: str) -> str:
        """What is wrong with it; empty when nothing is."""
        try:
            health = msgspec.json.decode(await self._get(path), type=_Health)
        except (OSError, EOFError, msgspec.DecodeError) as error:
            return str(error) or type(error).__name__
        return "" if health.status == "ok" else health.error or health.status or "no status"

    async def _get(self, path: str) -> bytes:
        """One HTTP request to the monitoring port; the body of the answer, whatever its status."""
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(_HOST, self.ports.monitor)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {_HOST}\r\n\r\n".encode())
                answer = await reader.read()
            finally:
                writer.close()
        head, blank, body = answer.partition(b"\r\n\r\n")
        if not head or not blank:
            raise EOFError("the server closed the connection")
        return body

    def _last_lines(self) -> str:
        text = self.log_path.read_text(errors="replace")
        return "\n".join(text.splitlines()[-_LAST_LOG_LINES:])


class LocalCluster:
    """One nats-server, or three that form a JetStream cluster, on the loopback interface.

    Whoever runs it owns the folder. The servers end with this process: on `stop`, and on Linux
    also when it is killed.
    """

    def __init__(self, state: Path, *, size: int = 3, sync_always: bool = True) -> None:
        """``size``: 1 or 3. ``sync_always=False``: acknowledge before a message is on disk."""
        if size not in (1, 3):
            raise ValueError(f"a cluster of {size}: one server or three")
        self.size = size
        self.client_urls: tuple[str, ...] | None = None
        """Where clients shall connect to instead of the servers: proxies before them."""
        self._state = state.absolute()
        self._sync_always = sync_always
        self._servers: tuple[ClusterServer, ...] = ()
        self._credentials: Credentials | None = None

    def prepare(self, routes: Mapping[tuple[int, int], int] | None = None) -> None:
        """Settle ports and password and write the configurations. `start` does it.

        ``routes``: the port under which server i (from 0) reaches server j, by (i, j): that of a
        proxy. Servers then never connect to one another past it: none tells others where a third
        can be found, and what it says of itself leads nowhere. For that, prepare once to learn the
        ports, and again to name the proxies. Raises BrokerError, also while a server runs.
        """
        if any(server.running for server in self._servers):
            raise BrokerError("the cluster runs: stop it before it is prepared anew")
        make_private_folder(self._state)
        self._credentials = ensure_credentials(self._state)
        program = find_server().path
        identity = self._settle_identity()
        servers = tuple(
            ClusterServer(self._state, f"server-{number}", ports, program)
            for number, ports in enumerate(identity.ports, start=1)
        )
        for number, server in enumerate(servers):
            make_private_folder(server.config_path.parent)
            config = self._config(identity, number, server, routes)
            write_private(server.config_path, msgspec.json.format(config, indent=2))
        self._servers = servers

    async def start(self, *, timeout_s: float = 60.0) -> None:
        """Run all servers; return when a meta leader is elected and JetStream answers.

        Raises BrokerError when one cannot start, and leaves none running then.
        """
        if not self._servers:
            self.prepare()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(
                    *(server.start(timeout_s=timeout_s) for server in self.servers)
                )
                await self.ready(timeout_s=timeout_s)
        except TimeoutError as error:
            await self.kill()
            raise BrokerNotReadyError(
                f"the cluster in {self._state} did not serve within {timeout_s:g} s: see its logs"
            ) from error
        except BaseException:
            await self.kill()
            raise

    async def ready(self, *, timeout_s: float = 60.0) -> None:
        """Return when every server is healthy and a leader sees all of them.

        It polls: a server that is away sends no event. Raises BrokerNotReadyError.
        """
        why = "no answer"
        try:
            async with asyncio.timeout(timeout_s):
                while why := await self._unready():  # noqa: ASYNC110 - no event to wait for
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise BrokerNotReadyError(
                f"the cluster in {self._state} was not whole within {timeout_s:g} s ({why}): "
                "see its logs"
            ) from error

    async def stop(self) -> None:
        """Ask all servers to end, kill those that do not, and return when they are gone."""
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(server.stop())

    async def kill(self) -> None:
        """Kill all servers (SIGKILL) and return when they are gone."""
        for server in self._servers:
            await server.kill()

    @contextlib.asynccontextmanager
    async def running(self, *, timeout_s: float = 60.0) -> AsyncIterator["LocalCluster"]:
        """`start`, and `stop` at the end of the block."""
        await self.start(timeout_s=timeout_s)
        try:
            yield self
        finally:
            await self.stop()

    @property
    def servers(self) -> tuple[ClusterServer, ...]:
        """The servers; known once it is prepared or started."""
        if not self._servers:
            raise BrokerError("the cluster has no ports yet: call prepare() or start() first")
        return self._servers

    @property
    def url(self) -> str:
        """Where clients connect to, several with commas between, without credentials."""
        return ",".join(self.client_urls or (server.url for server in self.servers))

    @property
    def user(self) -> str:
        """The user that may do everything."""
        return self._known.user

    @property
    def password(self) -> str:
        """The password of that user. For connecting; never to be logged or put on a command."""
        return self._known.password

    def settings(self) -> ConnectionSettings:
        """How to connect to it."""
        return ConnectionSettings(
            nats_url=self.url,
            nats_user=self.user,
            nats_password=SecretStr(self.password),
            nats_system_user=SYSTEM_USER,
            nats_system_password=SecretStr(self.password),
        )

    @property
    def _known(self) -> Credentials:
        if self._credentials is None:
            raise BrokerError("the cluster has no password yet: call prepare() or start() first")
        return self._credentials

    async def _unready(self) -> str:
        """What keeps it from being whole; empty when nothing does."""
        for server in self.servers:
            if not await server.healthy():
                return f"{server.name} is not healthy"
        if self.size == 1:
            return ""
        by_name = {server.name: server for server in self.servers}
        try:
            # Health lags behind: a server that was cut off for a second does not know it yet.
            for server in self.servers:
                if missing := by_name.keys() - await server.neighbours() - {server.name}:
                    return f"{server.name} is not connected to {', '.join(sorted(missing))}"
            leader, _, _ = await self.servers[0].meta()
            if leader not in by_name:
                return "no meta leader"
            _, size, current = await by_name[leader].meta()
        except (OSError, EOFError, msgspec.DecodeError) as error:
            return str(error) or type(error).__name__
        if size < self.size or current < self.size - 1:
            return f"the leader {leader} sees {current + 1} of {self.size}"
        return ""

    def _config(
        self,
        identity: _Identity,
        number: int,
        server: ClusterServer,
        routes: Mapping[tuple[int, int], int] | None,
    ) -> bytes:
        """The configuration. The server's format takes JSON, which quotes any path rightly."""
        config: dict[str, Any] = {
            "listen": f"{_HOST}:{server.ports.client}",
            "server_name": server.name,
            "log_file": str(server.log_path),
            "http": f"{_HOST}:{server.ports.monitor}",
            "max_payload": 8 * 1024 * 1024,
            "max_pending": 256 * 1024 * 1024,
            "write_deadline": "10s",
            "jetstream": jetstream(server.store_path, sync_always=self._sync_always),
            **authorization(self._known),
        }
        if self.size > 1:
            others = [index for index in range(self.size) if index != number]
            config["cluster"] = {
                "name": identity.name,
                "listen": f"{_HOST}:{server.ports.route}",
                # A client is told all addresses by whoever starts it, and no other.
                "no_advertise": True,
                "routes": [
                    f"nats-route://{_HOST}:"
                    f"{routes[number, other] if routes else identity.ports[other].route}"
                    for other in others
                ],
            }
            if routes:
                config["cluster"]["advertise"] = _NOWHERE
        return msgspec.json.encode(config)

    def _settle_identity(self) -> _Identity:
        path = self._state / "cluster.json"
        known: _Identity | None = None
        # Lost or spoilt, it costs no more than new ports.
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            known = msgspec.json.decode(path.read_bytes(), type=_Identity)
        if known is not None and len(known.ports) != self.size:
            raise BrokerError(
                f"{self._state} holds a cluster of {len(known.ports)}: name another folder"
            )
        if known is not None and all(map(is_free, _all(known.ports))):
            return known
        chosen: set[int] = set()
        while len(chosen) < 3 * self.size:
            chosen.add(free_port())
        numbers = iter(chosen)
        identity = _Identity(
            known.name if known is not None else f"interlock-{secrets.token_hex(4)}",
            tuple(Ports(next(numbers), next(numbers), next(numbers)) for _ in range(self.size)),
        )
        write_private(path, msgspec.json.encode(identity))
        return identity


def _all(ports: tuple[Ports, ...]) -> list[int]:
    return [port for each in ports for port in (each.client, each.route, each.monitor)]
