"""Run a command as one guarded write, for shell scripts. What it writes is its own business."""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from interlock.errors import InterlockError
from interlock.locks.fence import TIMEOUT_S, FileFence

__all__ = ["run_guarded"]


def run_guarded(
    folder: Path | str,
    resource: str,
    token: int,
    argv: Sequence[str],
    *,
    timeout_s: float = TIMEOUT_S,
) -> int:
    """Run ``argv`` inside `FileFence.guard`, and return its exit code; 128 + n for signal n.

    The command has our standard streams. Other writers wait until it has ended, also where we are
    killed meanwhile. What it leaves running in the background is not guarded once it has ended.
    Called in the main thread, SIGTERM is passed on to the command, and Ctrl-C is left to it.

    Raises what `FileFence` and `FileFence.guard` raise, ValueError for no command, and
    InterlockError for one that cannot be run; then nothing was run.
    """
    if not argv:
        raise ValueError("there is no command to run: give one after --")
    with (
        FileFence(folder).guard(resource, token, timeout_s=timeout_s) as guard,
        _signals() as signals,
    ):
        try:
            child = subprocess.Popen(list(argv), pass_fds=(guard.descriptor,))  # noqa: S603  (asked)
        except OSError as error:
            raise InterlockError(f"cannot run {argv[0]}: {error.strerror}") from error
        # Whatever comes out of here, the command has ended: the guard must not be the first.
        with child:
            signals.go_to(child)
            code = child.wait()
    return code if code >= 0 else 128 - code


class _Signals:
    """Signals end the command, and us only after it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []

    def go_to(self, child: subprocess.Popen[bytes]) -> None:
        """Here is the command; it gets what came before."""
        self._child = child
        while self._early:
            child.send_signal(self._early.pop())

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """The handler."""
        if self._child is None:
            self._early.append(number)
        # A terminal has sent its Ctrl-C to the command as well.
        elif number != signal.SIGINT:
            self._child.send_signal(number)


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    former = {
        number: signal.signal(number, signals.receive) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield signals
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
