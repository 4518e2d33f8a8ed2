"""Connections to nodes over SSH: shared, bounded in number and in time, and never left behind.

A connection is kept for the next command to the same host; the one to a jump host is shared by all
hosts behind it and stands as long as one of them needs it. Every stage has its limit, and whatever
goes wrong comes out as an `SshFailed` whose outcome says at which host of the way it happened.
`interlock_health_monitor.ssh_trust` says whom to believe; nothing of the user's own SSH
configuration is used.
"""

import asyncio
import contextlib
import heapq
import ipaddress
import logging
import resource
import socket
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import asyncssh
import msgspec

from interlock_health_monitor import ssh_outcome
from interlock_health_monitor.ssh_outcome import Fault, Outcome, SshFailed, Stage
from interlock_health_monitor.ssh_session import Ran, Session
from interlock_health_monitor.ssh_trust import Trust
from interlock_schemas.nodes import SshAccess

__all__ = ["PoolLimits", "SshPool", "way"]

T = TypeVar("T")

#: The hosts on the way to a node, the node last, each without the way to it.
Way = tuple[SshAccess, ...]

#: Nobody's way is longer; it is a loop.
_LONGEST_WAY: Final = 8
#: Names that are looked up at the same time. A resolver that hangs holds up no more than these.
_RESOLVING: Final = 16
#: Nothing of ours listens there, and the answer to it is all that is wanted.
_NOWHERE: Final = ("127.0.0.1", 1)
_WINDOW: Final = 262_144
#: What a command has printed may arrive so long after it has ended, seconds.
_LINGER_S: Final = 0.5


class PoolLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many, and how long."""

    resolve_s: float = 5.0
    """To resolve a name, seconds."""
    connect_s: float = 5.0
    """To reach a host, be it over TCP or through a jump host, seconds."""
    login_s: float = 10.0
    """From there to the end of the login, seconds."""
    open_s: float = 5.0
    """To start a command on a connection that stands, seconds."""
    queue_s: float = 60.0
    """To wait for a turn, seconds."""
    at_once: int = 100
    """Commands at the same time."""
    connecting: int = 24
    """Logins at the same time: each costs us milliseconds of computing, and what we are late with
    must not look like a host that is late."""
    behind_jump: int = 48
    """Commands at the same time through one jump host, so that a slow one holds up its own."""
    idle_s: float = 90.0
    """A connection that nobody used for so long is closed, seconds."""
    connections: int = 4_000
    """Connections that are kept; past it, the idlest makes room."""
    connections_behind_jump: int = 800
    """As above, through one jump host: its server needs a descriptor for each, and by default has
    no more than 1,024."""
    keepalive_s: float = 20.0
    """A connection on which nothing came for so long is asked for a sign of life, seconds."""
    keepalive_misses: int = 3
    """It is given up after so many questions without an answer."""
    jump_retry_s: float = 5.0
    """A jump host that could not be reached is not tried again for so long, seconds."""
    late_s: float = 1.0
    """Where our own loop is later than this, seconds, a host that ran out of time is not blamed."""


class _Link:
    """One connection that stands."""

    def __init__(
        self,
        hosts: Way,
        connection: asyncssh.SSHClientConnection,
        parent: "_Link | None",
        now: float,
    ) -> None:
        self.hosts = hosts
        self.connection = connection
        self.parent = parent
        self.users = 0
        self.used_at = now
        self.heard_at = now
        """When somebody last got an answer through it."""
        self.condemned = False
        """Not to be used any more; closed when nobody does."""
        self.checking: asyncio.Task[bool] | None = None

    @property
    def usable(self) -> bool:
        """Whether a command may be started on it."""
        return not self.condemned and not self.connection.is_closed()

    @property
    def cut_at(self) -> "_Link | None":
        """The first host of the way whose connection is gone."""
        above = self.parent.cut_at if self.parent is not None else None
        if above is not None:
            return above
        return self if self.connection.is_closed() else None


class _Owner(asyncssh.SSHClient):
    """Hears when a connection is gone."""

    def __init__(self, pool: "SshPool") -> None:
        self._pool = pool
        self.link: _Link | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, by whatever reason."""
        del exc
        if self.link is not None:
            self._pool.drop(self.link)


class _Opening:
    """A connection that several wait for. It goes on while one of them does."""

    def __init__(self, task: "asyncio.Task[_Link]") -> None:
        self.task = task
        self.waiters = 0


class _Turns:
    """The queue in front of one jump host."""

    def __init__(self, most: int) -> None:
        self.free = asyncio.Semaphore(most)
        self.users = 0


class _Through:
    """Opens the way through a jump host, for asyncssh to log in over."""

    def __init__(self, pool: "SshPool", jump: _Link, timeout: asyncio.Timeout) -> None:
        self._pool = pool
        self._jump = jump
        self._timeout = timeout
        self.stage: Stage = "through"
        self.began = pool.now()
        """When the stage began."""

    async def create_connection(self, session_factory: Any, host: str, port: int) -> Any:
        """As asyncssh asks for it."""
        opening = self._pool.spawn(
            self._jump.connection.create_connection(session_factory, host, port)
        )
        try:
            opened = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # An open that is given up would stay open on the jump host once it answers.
            opening.add_done_callback(_close_opened)
            raise
        self._jump.heard_at = self.began = self._pool.now()
        self.stage = "login"
        self._timeout.reschedule(self.began + self._pool.limits.login_s)
        return opened

    def close(self) -> None:
        """The jump host's connection is not ours to close."""

    async def wait_closed(self) -> None:
        """As above."""


class SshPool:
    """Runs commands on hosts. To be entered; when it is left, every connection is closed.

    `known_hosts` and `identity` are for hosts whose description names none.
    """

    def __init__(
        self,
        *,
        known_hosts: Path | None = None,
        identity: Path | None = None,
        limits: PoolLimits | None = None,
    ) -> None:
        self.limits = limits or PoolLimits()
        # Each needs a descriptor, and so do others in this process.
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if allowed == resource.RLIM_INFINITY:
            allowed = 2 * self.limits.connections
        self._most = max(16, min(self.limits.connections, allowed // 2))
        self._trust = Trust(known_hosts=known_hosts, identity=identity)
        self._links: dict[Way, _Link] = {}
        #: Those that are not for new commands, until their last command ends.
        self._leaving: set[_Link] = set()
        self._opening: dict[Way, _Opening] = {}
        self._jump_failed: dict[Way, tuple[float, Outcome]] = {}
        self._turns: dict[SshAccess, _Turns] = {}
        self._at_once = asyncio.Semaphore(self.limits.at_once)
        self._connecting = asyncio.Semaphore(self.limits.connecting)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._resolver = ThreadPoolExecutor(_RESOLVING, thread_name_prefix="resolve")
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        """Begin to look after idle connections."""
        self._loop = asyncio.get_running_loop()
        # Of each connection it tells a story, which is told by outcomes here.
        asyncssh.set_log_level(logging.WARNING)
        self._schedule_sweep()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection and wait for all that goes on."""
        del kind, error, trace
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for opening in list(self._opening.values()):
            opening.task.cancel()
        links = [*self._links.values(), *self._leaving]
        for link in links:
            link.condemned = True
            link.connection.close()
        self._resolver.shutdown(wait=False, cancel_futures=True)
        for link in links:
            await link.connection.wait_closed()
        while self._tasks:
            # With their connections gone they end by themselves.
            await asyncio.wait(self._tasks)
        self._links.clear()
        self._leaving.clear()

    @property
    def connections(self) -> int:
        """Connections that stand, those to jump hosts included."""
        return len(self._links) + len(self._leaving)

    def now(self) -> float:
        """The loop's clock, seconds."""
        return self._loop.time()

    async def run(
        self,
        access: SshAccess,
        command: str,
        *,
        timeout_s: float,
        stdin: bytes = b"",
        max_output_bytes: int = 1_048_576,
        fresh: bool = False,
    ) -> Ran:
        """Run a command on a host and wait for its end, ``timeout_s`` seconds at most.

        A connection that stood from before may turn out to be broken; then the command is started
        once more on a new one. With `fresh` it is started on a new one in the first place, and
        never twice: for what must not be done twice.

        A command that runs out of time is given up, and `Ran.timed_out` says so. The server is told
        to end it; OpenSSH does so for every user but root.

        Raises SshFailed when the command could not be run or its connection broke.
        """
        hosts = way(access)
        async with self._turn(hosts):
            link, reused = await self._lease(hosts, fresh=fresh)
            try:
                return await self._on(link, command, stdin, timeout_s, max_output_bytes)
            except SshFailed as failed:
                if not reused or failed.outcome.kind not in ("protocol", "hanging"):
                    raise
            link, _ = await self._lease(hosts, fresh=True)
            return await self._on(link, command, stdin, timeout_s, max_output_bytes)

    async def _on(
        self, link: _Link, command: str, stdin: bytes, timeout_s: float, most_bytes: int
    ) -> Ran:
        """Run a command on a connection that was leased, and give that back.

        A server may keep a channel, and a place for a session, as long as the command lives that it
        was opened for. So a connection on which one was given up is not used any more.
        """
        ended = False
        try:
            ran = await self._command(link, command, stdin, timeout_s, most_bytes)
            ended = ran.exit_status is not None or ran.signal is not None
            return ran
        finally:
            if not ended:
                self._condemn(link)
            self._release(link)

    @contextlib.asynccontextmanager
    async def _turn(self, hosts: Way) -> AsyncIterator[None]:
        """Wait for a turn: behind the jump host first, so that its queue is nobody else's."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self.limits.queue_s):
                    if len(hosts) > 1:
                        await stack.enter_async_context(self._jump_turn(hosts[0]))
                    await self._at_once.acquire()
            except TimeoutError:
                raise SshFailed(
                    ssh_outcome.busy(
                        "queue", f"it was not its turn within {self.limits.queue_s:g} s"
                    )
                ) from None
            stack.callback(self._at_once.release)
            yield

    @contextlib.asynccontextmanager
    async def _jump_turn(self, jump: SshAccess) -> AsyncIterator[None]:
        turns = self._turns.setdefault(jump, _Turns(self.limits.behind_jump))
        turns.users += 1
        try:
            async with turns.free:
                yield
        finally:
            turns.users -= 1
            if not turns.users:
                self._turns.pop(jump, None)

    async def _command(
        self, link: _Link, command: str, stdin: bytes, timeout_s: float, most_bytes: int
    ) -> Ran:
        began = self.now()
        session = Session(most_bytes)
        channel = await self._start(link, session, command)
        link.heard_at = self.now()
        timed_out = False
        try:
            with contextlib.suppress(OSError):
                # It may have ended without reading any of it.
                channel.write(stdin)
                channel.write_eof()
            deadline = self.now() + timeout_s
            try:
                async with asyncio.timeout_at(deadline):
                    await session.exited.wait()
            except TimeoutError:
                timed_out = True
                self._blame_ourselves(deadline)
            else:
                with contextlib.suppress(TimeoutError):
                    # What it left running may hold its output open for ever.
                    async with asyncio.timeout(_LINGER_S):
                        await session.ended.wait()
        finally:
            if not channel.is_closing():
                if not session.told:
                    # Servers heed this for some users and not for others.
                    with contextlib.suppress(OSError):
                        channel.kill()
                channel.abort()
        link.heard_at = self.now()
        if session.told or timed_out or session.flooded:
            return session.ran(self.now() - began, timed_out=timed_out)
        error = session.error or asyncssh.ConnectionLost("the command's channel was closed")
        raise self._failed(error, "command", link)

    async def _start(
        self, link: _Link, session: Session, command: str
    ) -> "asyncssh.SSHClientChannel[bytes]":
        """Start a command. Given up, its channel is closed as soon as the server opens it."""
        opening = self.spawn(
            link.connection.create_session(
                lambda: session,
                command,
                encoding=None,
                request_pty=False,
                window=_WINDOW,
            )
        )
        deadline = self.now() + self.limits.open_s
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                channel, _ = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise
        except Exception as error:  # noqa: BLE001 - the library may stumble over what it is sent
            opening.add_done_callback(_close_opened)
            if timeout.expired():
                self._blame_ourselves(deadline)
                cut = await self._cut_above(link)
                raise _at(
                    ssh_outcome.hanging(
                        "open", f"no command could be started within {self.limits.open_s:g} s"
                    ),
                    cut,
                ) from None
            raise self._failed(error, "open", link) from None
        return channel

    async def _cut_above(self, link: _Link) -> SshAccess | None:
        """The jump host that is to blame for a silence, if one is."""
        jump = link.parent
        if jump is None or await self._alive(jump):
            return None
        return jump.hosts[-1]

    def _failed(self, error: Exception, stage: Stage, link: _Link) -> SshFailed:
        """What came of it, at the host whose connection is gone first."""
        outcome = ssh_outcome.classify(_fault(error, stage))
        cut = link.cut_at
        return _at(outcome, cut.hosts[-1] if cut is not None and cut is not link else None)

    def _blame_ourselves(self, deadline: float) -> None:
        """Raise SshFailed if it was our loop that was late."""
        late = self.now() - deadline
        if late > self.limits.late_s:
            raise SshFailed(
                ssh_outcome.busy("late", f"the monitor itself was {late:.1f} s late")
            ) from None

    async def _lease(self, hosts: Way, *, fresh: bool = False) -> tuple[_Link, bool]:
        """A connection to use, to be given back by `_release`, and whether it stood before."""
        link = self._links.get(hosts)
        if link is not None and link.usable and not fresh:
            link.users += 1
            return link, True
        if self._closed:
            raise SshFailed(ssh_outcome.busy("closed", "the pool is closed"))
        opening = self._opening.get(hosts)
        if opening is None:
            opening = self._opening[hosts] = _Opening(self.spawn(self._open(hosts)))
        opening.waiters += 1
        try:
            link = await asyncio.shield(opening.task)
        except SshFailed as failed:
            # Several may have waited: each gets an error of its own.
            raise SshFailed(failed.outcome) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if opening.task.cancelled() and task is not None and not task.cancelling():
                raise SshFailed(ssh_outcome.busy("closed", "the pool is closed")) from None
            raise
        finally:
            opening.waiters -= 1
            if not opening.waiters and not opening.task.done():
                opening.task.cancel()
                if self._opening.get(hosts) is opening:
                    del self._opening[hosts]
        link.users += 1
        return link, False

    def _release(self, link: _Link) -> None:
        link.users -= 1
        link.used_at = self.now()
        if link.condemned and not link.users:
            link.connection.close()

    def _condemn(self, link: _Link) -> None:
        """Let nobody begin anything on it."""
        link.condemned = True
        if self._links.get(link.hosts) is link:
            del self._links[link.hosts]
            if not link.connection.is_closed():
                self._leaving.add(link)
        if not link.users:
            link.connection.close()

    def drop(self, link: _Link) -> None:
        """Its connection is gone."""
        link.condemned = True
        if self._links.get(link.hosts) is link:
            del self._links[link.hosts]
        self._leaving.discard(link)
        if link.parent is not None:
            self._release(link.parent)

    async def _open(self, hosts: Way) -> _Link:
        """Connect and log in. The new connection takes the place of one that stood."""
        try:
            self._make_room(hosts)
            jump: _Link | None = None
            reused = False
            if len(hosts) > 1:
                jump, reused = await self._lease_jump(hosts[:-1], fresh=False)
            try:
                return await self._log_in(hosts, jump)
            except SshFailed as failed:
                if jump is None or not reused or failed.outcome.against == "node":
                    raise
                # The connection to the jump host stood from before, and was broken.
                self._condemn(jump)
            jump, _ = await self._lease_jump(hosts[:-1], fresh=True)
            return await self._log_in(hosts, jump)
        finally:
            if (mine := self._opening.get(hosts)) and mine.task is asyncio.current_task():
                del self._opening[hosts]

    async def _lease_jump(self, hosts: Way, *, fresh: bool) -> tuple[_Link, bool]:
        failed = self._jump_failed.get(hosts)
        if failed is not None:
            if self.now() < failed[0]:
                raise SshFailed(failed[1])
            del self._jump_failed[hosts]
        try:
            return await self._lease(hosts, fresh=fresh)
        except SshFailed as error:
            outcome = error.outcome
            if outcome.against == "node":
                outcome = msgspec.structs.replace(outcome, against="jump", host=hosts[-1].host)
            if outcome.kind != "monitor_busy":
                self._jump_failed[hosts] = (self.now() + self.limits.jump_retry_s, outcome)
            raise SshFailed(outcome) from None

    async def _log_in(self, hosts: Way, jump: _Link | None) -> _Link:
        """Connect to the last of those hosts. The hold on the jump host goes over to the link."""
        try:
            async with self._connecting:
                owner = _Owner(self)
                if jump is None:
                    connection = await self._directly(hosts[-1], owner)
                else:
                    connection = await self._behind(hosts[-1], owner, jump)
        except BaseException:
            if jump is not None:
                self._release(jump)
            raise
        if connection.is_closed():
            # Between the login and now.
            if jump is not None:
                self._release(jump)
            raise SshFailed(
                ssh_outcome.classify(_fault(asyncssh.ConnectionLost("closed at once"), "login"))
            )
        link = _Link(hosts, connection, jump, self.now())
        owner.link = link
        before = self._links.pop(hosts, None)
        if self._closed:
            connection.close()
            return link
        self._links[hosts] = link
        if before is not None:
            before.condemned = True
            self._leaving.add(before)
            if not before.users:
                before.connection.close()
        return link

    async def _directly(self, access: SshAccess, owner: _Owner) -> asyncssh.SSHClientConnection:
        connected, address = await self._tcp(access)
        deadline = self.now() + self.limits.login_s
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                options = await self._trust.options(access, address)
                return await self._connect(access, owner, options, sock=connected)
        except SshFailed:
            connected.close()
            raise
        except Exception as error:  # noqa: BLE001 - the library may stumble over what it is sent
            connected.close()
            if timeout.expired():
                self._blame_ourselves(deadline)
                raise SshFailed(
                    ssh_outcome.hanging(
                        "login", f"no login within {self.limits.login_s:g} s of the connection"
                    )
                ) from None
            raise SshFailed(ssh_outcome.classify(_fault(error, "login"))) from None
        except BaseException:
            connected.close()
            raise

    async def _behind(
        self, access: SshAccess, owner: _Owner, jump: _Link
    ) -> asyncssh.SSHClientConnection:
        options = await self._trust.options(access, "")
        timeout = asyncio.timeout(self.limits.connect_s)
        through = _Through(self, jump, timeout)
        try:
            async with timeout:
                return await self._connect(access, owner, options, tunnel=through)
        except Exception as error:  # noqa: BLE001 - the library may stumble over what it is sent
            stage = through.stage
            if not timeout.expired():
                raise self._behind_failed(error, stage, jump) from None
            self._blame_ourselves(timeout.when() or through.began)
            if jump.heard_at <= through.began and not await self._alive(jump):
                raise _at(
                    ssh_outcome.hanging("open", "it does not answer any more"), jump.hosts[-1]
                ) from None
            if stage == "login":
                outcome = ssh_outcome.hanging(
                    "login", f"no login within {self.limits.login_s:g} s of the connection"
                )
            else:
                outcome = ssh_outcome.unanswered_behind_jump(
                    f"{jump.hosts[-1].host} did not get through to it within "
                    f"{self.limits.connect_s:g} s"
                )
            raise SshFailed(outcome) from None

    def _behind_failed(self, error: Exception, stage: Stage, jump: _Link) -> SshFailed:
        cut = jump.cut_at
        if cut is not None:
            return _at(ssh_outcome.classify(_fault(error, "login")), cut.hosts[-1])
        jump.heard_at = self.now()
        outcome = ssh_outcome.classify(_fault(error, stage))
        # That it will not let us through, or cannot, is the jump host's doing.
        own = stage == "through" and outcome.kind != "unreachable"
        return _at(outcome, jump.hosts[-1] if own else None)

    async def _connect(
        self, access: SshAccess, owner: _Owner, options: dict[str, Any], **over: Any
    ) -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(
            access.host,
            access.port,
            username=access.user,
            client_factory=lambda: owner,
            config=None,
            agent_path=None,
            x509_trusted_certs=None,
            preferred_auth="publickey",
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_kex=False,
            gss_auth=False,
            pkcs11_provider=None,
            connect_timeout=None,
            login_timeout=0,
            keepalive_interval=self.limits.keepalive_s,
            keepalive_count_max=self.limits.keepalive_misses,
            compression_algs=None,
            **options,
            **over,
        )

    async def _alive(self, jump: _Link) -> bool:
        """Whether a jump host still answers: any answer will do, a refusal included."""
        if jump.connection.is_closed():
            return False
        if jump.checking is None:
            jump.checking = self.spawn(self._check(jump))
        return await asyncio.shield(jump.checking)

    async def _check(self, jump: _Link) -> bool:
        try:
            opening = self.spawn(jump.connection.create_connection(_Ignored, *_NOWHERE))
            opening.add_done_callback(_close_opened)
            done, _ = await asyncio.wait([opening], timeout=self.limits.open_s)
            if not done or jump.connection.is_closed():
                self._condemn(jump)
                return False
            jump.heard_at = self.now()
            return True
        finally:
            jump.checking = None

    async def _tcp(self, access: SshAccess) -> tuple[socket.socket, str]:
        """A connected socket, and the address of its other end."""
        addresses = await self._resolve(access)
        last = SshFailed(Outcome(kind="name_not_resolved", cause="no_such_name"))
        share = self.limits.connect_s / max(1, len(addresses))
        for family, address in addresses:
            deadline = self.now() + share
            try:
                connecting = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                raise SshFailed(ssh_outcome.classify(_fault(error, "connect"))) from None
            connecting.setblocking(False)
            try:
                async with asyncio.timeout_at(deadline) as timeout:
                    await self._loop.sock_connect(connecting, address)
                connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                connecting.close()
                if timeout.expired():
                    self._blame_ourselves(deadline)
                    last = SshFailed(
                        ssh_outcome.hanging("connect", f"no connection within {share:g} s")
                    )
                else:
                    last = SshFailed(ssh_outcome.classify(_fault(error, "connect")))
            except BaseException:
                connecting.close()
                raise
            else:
                return connecting, str(address[0])
        raise last

    async def _resolve(self, access: SshAccess) -> list[tuple[int, tuple[Any, ...]]]:
        """Addresses of a host, a few at most."""
        with contextlib.suppress(ValueError):
            literal = ipaddress.ip_address(access.host)
            family = socket.AF_INET if literal.version == 4 else socket.AF_INET6
            return [(family, (access.host, access.port))]
        deadline = self.now() + self.limits.resolve_s
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                found = await self._loop.run_in_executor(
                    self._resolver, _look_up, access.host, access.port
                )
        except (OSError, ValueError) as error:
            if timeout.expired():
                self._blame_ourselves(deadline)
                raise SshFailed(
                    ssh_outcome.hanging("resolve", f"no address within {self.limits.resolve_s:g} s")
                ) from None
            raise SshFailed(ssh_outcome.classify(_fault(error, "resolve"))) from None
        return found[:3]

    def _make_room(self, hosts: Way) -> None:
        """Close what is idle for longest where one more would be too many."""
        total = len(self._links) + len(self._opening)
        if total > self._most:
            self._close_idlest(list(self._links.values()), total - self._most)
        most = self.limits.connections_behind_jump
        if len(hosts) > 1 and total > most:
            above = hosts[:-1]
            beside = [link for link in self._links.values() if link.hosts[:-1] == above]
            opening = sum(each[:-1] == above for each in self._opening)
            self._close_idlest(beside, len(beside) + opening - most)

    def _close_idlest(self, links: list[_Link], count: int) -> None:
        if count > 0:
            idle = [link for link in links if not link.users]
            for link in heapq.nsmallest(count, idle, key=lambda link: link.used_at):
                self._condemn(link)

    def _schedule_sweep(self) -> None:
        self._sweep = self._loop.call_later(min(5.0, self.limits.idle_s / 2), self._close_idle)

    def _close_idle(self) -> None:
        now = self.now()
        for link in list(self._links.values()):
            if not link.users and now - link.used_at >= self.limits.idle_s:
                self._condemn(link)
        for hosts in [hosts for hosts, (until, _) in self._jump_failed.items() if until <= now]:
            del self._jump_failed[hosts]
        self._schedule_sweep()

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task that the pool waits for when it is closed."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever waits for it sees it; where nobody does any more, it is of no interest.
            task.exception()


class _Ignored(asyncssh.SSHTCPSession[bytes]):
    """A way through that nobody wants."""


def way(access: SshAccess) -> Way:
    """The hosts on the way to one, that one last.

    Raises SshFailed for a way that is too long: a jump host that is reached through itself.
    """
    hosts = tuple(_flat(access, _LONGEST_WAY))
    if len(hosts) > _LONGEST_WAY:
        raise SshFailed(
            ssh_outcome.misconfigured(
                "jump", f"the way to {access.host} has more than {_LONGEST_WAY} hosts"
            )
        )
    return hosts


def _flat(access: SshAccess, deep: int) -> list[SshAccess]:
    above = [] if not deep else [host for jump in access.jump for host in _flat(jump, deep - 1)]
    return [*above, msgspec.structs.replace(access, jump=())]


def _look_up(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Addresses of a name; runs in a thread."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _fault(error: Exception, stage: Stage) -> Fault:
    return Fault(
        stage=stage,
        types=ssh_outcome.mro(error),
        errno=error.errno if isinstance(error, OSError) else None,
        code=error.code if isinstance(error, asyncssh.ChannelOpenError) else None,
        detail=str(error) or type(error).__name__,
    )


def _at(outcome: Outcome, jump: SshAccess | None) -> SshFailed:
    """The failure, at that jump host if one is named."""
    if jump is None:
        return SshFailed(outcome)
    return SshFailed(msgspec.structs.replace(outcome, against="jump", host=jump.host))


def _close_opened(opening: "asyncio.Task[Any]") -> None:
    """Close a channel that nobody waits for any more."""
    if opening.cancelled() or opening.exception() is not None:
        return
    channel, session = opening.result()
    if isinstance(session, asyncssh.SSHClientConnection):
        session.abort()
    channel.abort()
