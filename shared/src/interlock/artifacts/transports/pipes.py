"""Runs a program here and passes on what it prints, for as long as something comes.

One thread feeds its standard input and reads its output at the same time, so that neither waits for
the other. Whatever ends it early ends the program's whole process group.
"""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, Final, cast

import msgspec

from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.transports.threads import Cancel, Stopped

__all__ = ["Ended", "end", "program_env", "run", "start"]

_BUFFER_BYTES: Final = 1024 * 1024
#: Of what it says on its error output, the end is kept.
_SAID_BYTES: Final = 8_192
#: A program that has closed its output has so long to end, seconds.
_LINGER_S: Final = 5.0

#: Its standard input, its output, its error output.
Streams = tuple[IO[bytes], IO[bytes], IO[bytes]]


class Ended(msgspec.Struct, frozen=True):
    """How a program ended."""

    code: int
    """Its exit code, or the signal that ended it, below 0."""
    said: str
    """The end of what it said on its error output."""
    count: int
    """Bytes that it printed."""


def program_env() -> dict[str, str]:
    """The environment for programs: messages in English, no agent that holds keys."""
    left_out = ("SSH_AUTH_SOCK", "SSH_ASKPASS", "DISPLAY")
    return {k: v for k, v in os.environ.items() if k not in left_out} | {"LC_ALL": "C"}


def start(argv: Sequence[str], **streams: Any) -> "subprocess.Popen[bytes]":
    """Start a program in a process group of its own.

    Raises TransferFailed, ``io``, where it cannot be started.
    """
    try:
        return subprocess.Popen(  # noqa: S603 - no shell, and a program found by its name
            list(argv), start_new_session=True, env=program_env(), bufsize=0, **streams
        )
    except OSError as error:
        raise TransferFailed("io", f"{argv[0]} cannot be started: {error.strerror}") from error


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the program and what it started, and wait for it."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    take: Callable[[memoryview], None],
    cancel: Cancel,
    silence_s: float,
) -> Ended:
    """Run a program until it ends, and have `take` called with what it prints, in parts.

    Raises what `take` raises; Stopped once cancelled; TransferFailed, ``timeout``, when for
    `silence_s` seconds nothing came. The time that `take` needs does not count.
    """
    process = start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # Each was asked for.
    streams = cast(Streams, (process.stdin, process.stdout, process.stderr))
    try:
        return _pump(process, streams, stdin, take, cancel, silence_s)
    finally:
        end(process)
        for each in streams:
            with contextlib.suppress(OSError):
                each.close()


def _pump(
    process: "subprocess.Popen[bytes]",
    streams: Streams,
    stdin: bytes,
    take: Callable[[memoryview], None],
    cancel: Cancel,
    silence_s: float,
) -> Ended:
    feed, output, errors = streams
    _widen(output)
    poller = select.poll()
    for each, mask in ((output, select.POLLIN), (errors, select.POLLIN)):
        os.set_blocking(each.fileno(), False)
        poller.register(each.fileno(), mask)
    poller.register(cancel.fd, select.POLLIN)
    to_send = memoryview(stdin)
    if to_send:
        os.set_blocking(feed.fileno(), False)
        poller.register(feed.fileno(), select.POLLOUT)
    else:
        feed.close()
    buffer = bytearray(_BUFFER_BYTES)
    view = memoryview(buffer)
    said = b""
    count = 0
    reading = {output.fileno(), errors.fileno()}
    heard = time.monotonic()
    while output.fileno() in reading:
        left = heard + silence_s - time.monotonic()
        ready = poller.poll(max(0.0, left) * 1000) if left > 0 else []
        if not ready and left <= 0:
            raise TransferFailed(
                "timeout", f"no byte came for {silence_s:g} s: the other side hangs, or the network"
            )
        for fd, _ in ready:
            if fd == cancel.fd:
                raise Stopped
            if fd == output.fileno():
                got = _read_into(output, buffer)
                if got == 0:
                    poller.unregister(fd)
                    reading.discard(fd)
                elif got is not None:
                    count += got
                    take(view[:got])
                    cancel.check()
                    heard = time.monotonic()
            elif fd == errors.fileno():
                try:
                    part = os.read(fd, 65_536)
                except BlockingIOError:
                    continue
                said = (said + part)[-_SAID_BYTES:]
                if not part:
                    poller.unregister(fd)
                    reading.discard(fd)
            else:
                try:
                    to_send = to_send[os.write(fd, to_send[:65_536]) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    to_send = to_send[:0]
                if not to_send:
                    poller.unregister(fd)
                    feed.close()
    deadline = time.monotonic() + _LINGER_S
    # Nothing may hold the error output open after the program has ended but what it left behind.
    while errors.fileno() in reading and process.poll() is None and time.monotonic() < deadline:
        if select.select([errors.fileno(), cancel.fd], [], [], 0.05)[0]:
            cancel.check()
            with contextlib.suppress(BlockingIOError):
                part = os.read(errors.fileno(), 65_536)
                said = (said + part)[-_SAID_BYTES:]
                if not part:
                    break
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=max(0.0, deadline - time.monotonic()))
    with contextlib.suppress(BlockingIOError):
        said = (said + os.read(errors.fileno(), 65_536))[-_SAID_BYTES:]
    code = process.poll()
    return Ended(
        code if code is not None else -signal.SIGKILL, said.decode(errors="replace").strip(), count
    )


def _read_into(output: IO[bytes], buffer: bytearray) -> int | None:
    try:
        return os.readv(output.fileno(), [buffer])
    except BlockingIOError:
        return None


def _widen(output: IO[bytes]) -> None:
    """A pipe as large as the buffer, where the system allows it: fewer turns for the same bytes."""
    size = getattr(fcntl, "F_SETPIPE_SZ", None)
    if size is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(output.fileno(), size, _BUFFER_BYTES)
