"""A private OpenSSH server on the loopback, with keys of its own, for measuring and for tests."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from interlock.errors import InterlockError
from interlock_schemas.nodes import SshAccess

__all__ = ["SSHD", "Sshd", "free_port", "make_key", "private_sshd"]

#: The server's program; None: it is not installed.
SSHD: Final = shutil.which("sshd") or next(
    (path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if Path(path).exists()), None
)


class Sshd:
    """One server, and the two keys by which both sides know one another."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.port = free_port()
        self.user = getpass.getuser()
        self.identity = folder / "identity"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def host_key(self) -> str:
        """Its public key."""
        return (self.folder / "host_key.pub").read_text().strip()

    @property
    def log(self) -> str:
        """What it logged."""
        return (self.folder / "sshd.log").read_text(errors="replace")

    def access(self, *, host: str = "127.0.0.1", jump: tuple[SshAccess, ...] = ()) -> SshAccess:
        """How to reach it."""
        return SshAccess(
            host=host,
            port=self.port,
            user=self.user,
            host_key=self.host_key,
            identity=str(self.identity),
            jump=jump,
        )

    def write(self) -> Path:
        """Make its keys and configuration, once."""
        config = self.folder / "sshd_config"
        if config.exists():
            return config
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("host_key", "identity"):
            make_key(self.folder / name)
        shutil.copy(self.folder / "identity.pub", self.folder / "authorized")
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder / 'host_key'}",
            f"PidFile {self.folder / 'sshd.pid'}",
            f"AuthorizedKeysFile {self.folder / 'authorized'}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "PrintMotd no",
            "MaxStartups 300:30:500",
            # Not the user's own home: what its shell reads at start is none of ours.
            f"SetEnv HOME={self.folder}",
            "LogLevel VERBOSE",
            *self.options,
        ]
        config.write_text("\n".join(lines) + "\n")
        return config

    def start(self) -> None:
        """Start it and wait until it accepts."""
        if SSHD is None:
            raise InterlockError("sshd is not installed: apt-get install openssh-server")
        if os.geteuid() == 0:
            # The folder that it locks itself into before a login.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.process = subprocess.Popen(  # noqa: S603 - its own configuration
            [SSHD, "-D", "-f", str(self.write()), "-E", str(self.folder / "sshd.log")],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            if self.process.poll() is not None or time.monotonic() >= deadline:
                raise InterlockError("sshd does not run: " + self.log)
            time.sleep(0.02)

    def stop(self) -> None:
        """End it, and the processes that serve its connections."""
        if self.process is None:
            return
        for child in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, 9)
        self.process.terminate()
        self.process.wait(timeout=30)
        self.process = None

    def children(self) -> list[int]:
        """The processes that serve its connections."""
        if self.process is None:
            return []
        found = subprocess.run(  # noqa: S603 - a number of ours
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)],  # noqa: S607 - wherever it is
            capture_output=True,
            text=True,
            check=False,
        )
        return [int(pid) for pid in found.stdout.split()]


def make_key(path: Path, kind: str = "ed25519") -> None:
    """A new pair of keys without a passphrase."""
    subprocess.run(  # noqa: S603 - a path of ours
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", path.name, "-f", str(path)],  # noqa: S607 - wherever it is
        check=True,
        stdin=subprocess.DEVNULL,
    )


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def private_sshd(folder: Path, *options: str) -> Iterator[Sshd]:
    """A running server, ended at the end of the block. `options` are lines of its configuration."""
    server = Sshd(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
