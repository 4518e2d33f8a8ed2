"""The OpenSSH client: one connection for each host, shared by all commands to it.

A connection is a client in the background that lends itself over a control socket. It ends by
itself when nobody used it for some minutes, also when this process is killed. Its configuration is
written here, in a private folder, and is the only one that it reads.
"""

import asyncio
import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Final

from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports import pipes, threads
from interlock.artifacts.transports.ssh_options import SshOptions, ciphers
from interlock_schemas.nodes import SshAccess

__all__ = ["SSH", "OpenSsh", "Session", "connection_failed"]

#: The client's program; None: it is not installed.
SSH: Final = shutil.which("ssh")

#: A socket's path has 104 bytes at most on some systems, and the client adds 17 while it makes it.
_LONGEST_FOLDER: Final = 60
_PLAIN: Final = re.compile(r"\A[A-Za-z0-9_./-]+\Z")
#: How often a host that is silent is asked for a sign of life, and how often in vain, seconds.
_ALIVE_S: Final = 5
_ALIVE_MISSES: Final = 3
_END_S: Final = 5.0


class _Link:
    """One connection in the background."""

    def __init__(self, config: Path, socket: Path) -> None:
        self.config = config
        self.socket = socket
        self.users = 0
        self.condemned = False

    def argv(self, *options: str) -> list[str]:
        return [
            SSH or "ssh",
            "-F",
            str(self.config),
            "-o",
            f"ControlPath={self.socket}",
            *options,
            "node",
        ]


class Session:
    """A connection, lent for a while."""

    def __init__(self, link: _Link, *, fresh: bool) -> None:
        self._link = link
        self.fresh = fresh
        """Whether it was made for this one."""

    def argv(self, *command: str) -> list[str]:
        """How to run a command on the host. One text: it is read by the user's shell there."""
        return [*self._link.argv("-o", "ControlMaster=no", "-T"), *command]

    @property
    def program(self) -> str:
        """The client and its options without the host, for rsync's ``-e``; the host is ``node``."""
        return " ".join(self._link.argv("-o", "ControlMaster=no")[:-1])

    def condemn(self) -> None:
        """It is no good: the next one gets another."""
        self._link.condemned = True


class OpenSsh:
    """Connections by the client's program."""

    def __init__(self, options: SshOptions) -> None:
        self._options = options
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._links: dict[SshAccess, _Link] = {}
        self._opening: dict[SshAccess, asyncio.Lock] = {}
        self._made = 0

    @contextlib.asynccontextmanager
    async def session(self, access: SshAccess) -> AsyncIterator[Session]:
        """A connection to the host, for one command or several.

        Raises TransferFailed: ``denied`` (its key is not the one that is known, or it does not know
        ours), ``unreachable``.
        """
        lock = self._opening.setdefault(access, asyncio.Lock())
        async with lock:
            link = self._links.get(access)
            fresh = link is None or link.condemned or not link.socket.exists()
            if link is None or fresh:
                if link is not None:
                    await self._let_go(link)
                folder = self._room()
                self._made += 1
                made = self._made
                link = self._links[access] = await threads.in_thread(
                    lambda cancel: self._open(access, folder, made, cancel)
                )
            link.users += 1
        try:
            yield Session(link, fresh=fresh)
        finally:
            link.users -= 1
            if link.condemned:
                if self._links.get(access) is link:
                    del self._links[access]
                await self._let_go(link)

    async def close(self) -> None:
        """End every connection."""
        links = list(self._links.values())
        self._links.clear()
        for link in links:
            link.users = 0
            await self._let_go(link)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    async def _let_go(self, link: _Link) -> None:
        """End a connection, unless somebody still uses it."""
        link.condemned = True
        if link.users == 0:
            await threads.in_thread(lambda _: _exit(link))

    def _room(self) -> Path:
        """The private folder of configurations and sockets."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="il-", dir=_base())
        return Path(self._folder.name)

    def _open(self, access: SshAccess, folder: Path, made: int, cancel: threads.Cancel) -> _Link:
        config = folder / f"c{made}"
        config.write_text(self._config(access, folder, made))
        link = _Link(config, folder / f"s{made}")
        patience_s = self._options.connect_s * (len(access.jump) + 1) + 2.0
        argv = link.argv(
            "-o", "ControlMaster=yes", "-o", f"ControlPersist={max(1, int(self._options.keep_s))}",
            "-f", "-N",
        )  # fmt: skip
        with (folder / f"e{made}").open("w+b") as said:
            try:
                code = _wait(argv, said, patience_s, cancel)
            except threads.Stopped:
                # It may have gone to the background just before.
                _exit(link)
                raise
            if code is None:
                raise TransferFailed(
                    "unreachable", f"{access.host}: no login within {patience_s:g} s"
                )
            if code != 0 or not link.socket.exists():
                said.seek(0)
                raise connection_failed(access, said.read().decode(errors="replace"))
        return link

    def _config(self, access: SshAccess, folder: Path, made: int) -> str:
        lines: list[str] = []
        before = ""
        hosts = (*access.jump, access)
        for at, host in enumerate(hosts):
            name = "node" if host is access else f"jump{at}"
            known = folder / f"k{made}.{at}"
            identity = folder / f"i{made}.{at}"
            key = host.identity or str(self._options.identity)
            _link(key, identity, "the key to show", host)
            if Path(f"{key}-cert.pub").exists():
                _link(f"{key}-cert.pub", folder / f"{identity.name}-cert.pub", "its", host)
            lines += [
                f"Host {name}",
                f"  HostName {host.host.replace('%', '%%')}",
                f"  Port {host.port}",
                f"  User {host.user}",
                f"  IdentityFile {identity}",
                f"  UserKnownHostsFile {known}",
            ]
            if host.host_key is not None:
                known.write_text(f"{name} {host.host_key}\n")
                lines.append(f"  HostKeyAlias {name}")
            else:
                _link(str(self._options.known_hosts), known, "the known hosts", host)
            if before:
                lines.append(f"  ProxyJump {before}")
            before = name
        lines += [
            "Host *",
            "  BatchMode yes",
            "  StrictHostKeyChecking yes",
            "  UpdateHostKeys no",
            "  GlobalKnownHostsFile /dev/null",
            "  IdentitiesOnly yes",
            "  IdentityAgent none",
            "  PreferredAuthentications publickey",
            "  ForwardAgent no",
            "  ForwardX11 no",
            "  PermitLocalCommand no",
            "  Compression no",
            "  EscapeChar none",
            "  LogLevel ERROR",
            f"  Ciphers {','.join(ciphers())}",
            f"  ConnectTimeout {max(1, int(self._options.connect_s))}",
            f"  ServerAliveInterval {_ALIVE_S}",
            f"  ServerAliveCountMax {_ALIVE_MISSES}",
        ]
        return "\n".join(lines) + "\n"


def connection_failed(access: SshAccess, said: str) -> TransferFailed:
    """What the client's own words, when it gave up, mean."""
    text = " ".join(said.split())[-300:] or "the connection broke"
    where = f"{access.host}, port {access.port}"
    if "Host key verification failed" in said or "host key" in said.lower():
        return TransferFailed(
            "denied",
            f"{where} shows another host key than the one that is known, and is not talked to: "
            "check it, then correct host_key in its description",
            said=text,
        )
    if "Permission denied" in said:
        return TransferFailed(
            "denied", f"{where} does not let us in with the key that is set: {text}"
        )
    return TransferFailed("unreachable", f"{where}: {text}")


def _base() -> str:
    """Where sockets can be: a short path without anything that a configuration would expand."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= _LONGEST_FOLDER and _PLAIN.match(usual) else "/tmp"  # noqa: S108


def _link(target: str, at: Path, what: str, host: SshAccess) -> None:
    """Have a file under a name that needs no quoting."""
    path = Path(target).absolute()
    if not path.is_file():
        raise TransferFailed("denied", f"{what} for {host.host} is not there: {path}")
    at.symlink_to(path)


def _wait(
    argv: list[str], said: IO[bytes], patience_s: float, cancel: threads.Cancel
) -> int | None:
    """Run a short command; None where it took too long."""
    # What goes to the background keeps the error output: it has to be a file.
    process = pipes.start(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
    deadline = time.monotonic() + patience_s
    try:
        while True:
            code = process.poll()
            if code is not None or time.monotonic() >= deadline:
                return code
            if cancel.event.wait(0.005):
                raise threads.Stopped
    finally:
        pipes.end(process)


def _exit(link: _Link) -> None:
    if not link.socket.exists():
        return
    quiet = subprocess.DEVNULL
    process = pipes.start(link.argv("-O", "exit"), stdin=quiet, stdout=quiet, stderr=quiet)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_END_S)
    pipes.end(process)
