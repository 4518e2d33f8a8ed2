"""A private OpenSSH server on the loopback, with keys of its own, for the tests."""

import contextlib
import selectors
import socket
import subprocess
import threading

import pytest

from interlock.bench.sshd import SSHD, Sshd, free_port, make_key, private_sshd

__all__ = ["SSHD", "EveryAddress", "Sshd", "free_port", "make_key", "needs_sshd", "private_sshd"]

needs_sshd = pytest.mark.skipif(
    SSHD is None, reason="sshd is not installed: apt-get install openssh-server"
)


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
