"""A private OpenSSH server on the loopback, with keys of its own, for the tests."""

import contextlib
import getpass
import os
import selectors
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock_schemas.nodes import SshAccess

SSHD = shutil.which("sshd") or next(
    (path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if Path(path).exists()), None
)

needs_sshd = pytest.mark.skipif(
    SSHD is None, reason="sshd is not installed: apt-get install openssh-server"
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
        assert SSHD is not None
        if os.geteuid() == 0:
            # The folder that it locks itself into before a login.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.process = subprocess.Popen(
            [SSHD, "-D", "-f", str(self.write()), "-E", str(self.folder / "sshd.log")],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self.process.poll() is None, "sshd ended: " + self.log
            assert time.monotonic() < deadline, "sshd does not listen: " + self.log
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
        assert self.process is not None
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        return [int(pid) for pid in found.stdout.split()]


class EveryAddress:
    """Serves the same sshd on many loopback addresses: one process for each connection."""

    def __init__(self, sshd: Sshd, addresses: list[str]) -> None:
        assert SSHD is not None
        self._command = [SSHD, "-i", "-f", str(sshd.write()), "-E", str(sshd.folder / "many.log")]
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        self._children: list[subprocess.Popen[bytes]] = []
        for address in addresses:
            listener = socket.create_server((address, sshd.port), backlog=16)
            listener.setblocking(False)
            self._listeners.append(listener)
            self._selector.register(listener, selectors.EVENT_READ)
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                with contextlib.suppress(OSError):
                    accepted, _ = key.fileobj.accept()  # type: ignore[union-attr]
                    with accepted:
                        accepted.setblocking(True)
                        self._children.append(
                            subprocess.Popen(
                                self._command,
                                stdin=accepted,
                                stdout=accepted,
                                stderr=subprocess.DEVNULL,
                            )
                        )

    def close(self) -> None:
        """End it and whatever it serves."""
        self._wake.send(b"x")
        self._thread.join()
        for child in self._children:
            child.kill()
            child.wait()
        self._selector.close()
        for each in (*self._listeners, self._wake, self._woken):
            each.close()


def make_key(path: Path, kind: str = "ed25519") -> None:
    """A new pair of keys without a passphrase."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", path.name, "-f", str(path)],
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
