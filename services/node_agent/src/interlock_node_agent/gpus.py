"""Asks a child process about the GPUs, so that a library that hangs or crashes hurts nobody.

There is never more than one such child: one that cannot be killed, because it waits in the driver,
is waited for. After a failure the next try waits longer, up to some minutes.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Final

import msgspec

from interlock import logs
from interlock.backoff import delay_s
from interlock.process import die_with
from interlock_node_agent import pci
from interlock_node_agent.in_thread import in_thread
from interlock_schemas.nodes import Gpu

__all__ = ["HANGS", "Gpus", "View"]

HANGS: Final = "the GPU library hangs"

_RETRY_BASE_S: Final = 10.0
_RETRY_CAP_S: Final = 300.0
_LONGEST_LINE_BYTES: Final = 1024 * 1024
_END_S: Final = 1.0

log = logs.get_logger("interlock.agent.gpus")


class View(msgspec.Struct, frozen=True):
    """What is known about the GPUs."""

    gpus: tuple[Gpu, ...] | None = None
    """None: not known."""
    fault: str | None = None


class _Said(msgspec.Struct, frozen=True):
    asking: int | None = None
    gpus: tuple[Gpu, ...] | None = None
    none: str | None = None
    failed: str | None = None


class _Broken(Exception):
    """The child is of no more use."""


class Gpus:
    """Keeps the newest view of the GPUs while `run` runs."""

    def __init__(
        self,
        *,
        every_s: float = 2.0,
        deadline_s: float = 10.0,
        retry_base_s: float = _RETRY_BASE_S,
        look: Callable[[], pci.Hardware] = pci.look,
    ) -> None:
        self._every_s = every_s
        self._deadline_s = deadline_s
        self._retry_base_s = retry_base_s
        self._look = look
        self._view = View()
        self._seen_at = -float("inf")
        self.measured = asyncio.Event()
        """Set once something is known, or that nothing can be."""
        self.pid: int | None = None
        """Of the child, while there is one."""

    @property
    def view(self) -> View:
        """The newest view; what is too old is not known any more."""
        old_s = asyncio.get_running_loop().time() - self._seen_at
        if self._view.gpus and old_s > 3 * self._every_s + self._deadline_s:
            return View(None, HANGS)
        return self._view

    async def run(self) -> None:
        """Measure until cancelled."""
        failures = 0
        while True:
            try:
                await self._measure_on()
                failures = 0
                pause = _RETRY_CAP_S
            except _Broken as error:
                self._show(View(None, str(error)))
                failures += 1
                log.warning("GPUs cannot be measured", why=str(error), failures=failures)
                pause = delay_s(
                    failures,
                    base_s=self._retry_base_s,
                    cap_s=_RETRY_CAP_S,
                    rand=random.random,
                    jitter="equal",
                )
            await asyncio.sleep(pause)

    async def _measure_on(self) -> None:
        """Start a child and ask it again and again; returns where there is nothing to measure."""
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "interlock_node_agent.gpu_child",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LONGEST_LINE_BYTES,
                # SIGKILL: what hangs in a library does not come to read another.
                preexec_fn=die_with(os.getpid(), signal.SIGKILL),
            )
        except OSError as error:
            raise _Broken(f"the process that measures GPUs cannot be started: {error}") from error
        self.pid = child.pid
        try:
            while True:
                said = await self._ask(child)
                if said.none is not None:
                    self._show(await self._nothing(said.none))
                    return
                if said.failed is not None:
                    raise _Broken(f"the GPU library fails: {said.failed}")
                self._show(View(said.gpus, None))
                await asyncio.sleep(self._every_s)
        except _Broken as error:
            # Said at once: the child may take long to end.
            self._show(View(None, str(error)))
            await self._end(child, for_ever=True)
            raise
        finally:
            ending = asyncio.ensure_future(self._end(child, for_ever=False))
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                # It does not take long, and the child must not be left behind.
                await ending
                raise

    async def _end(self, child: asyncio.subprocess.Process, *, for_ever: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        if child.stdin is not None:
            child.stdin.close()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(None if for_ever else _END_S):
                await child.wait()
                self.pid = None
                if child.stdout is not None:
                    while await child.stdout.read(65_536):
                        pass
                if child.stdin is not None:
                    await child.stdin.wait_closed()

    async def _ask(self, child: asyncio.subprocess.Process) -> _Said:
        assert child.stdin is not None  # noqa: S101 - it is a pipe
        assert child.stdout is not None  # noqa: S101
        at: int | None = None
        try:
            async with asyncio.timeout(self._deadline_s):
                child.stdin.write(b"\n")
                while True:
                    line = await child.stdout.readline()
                    if not line:
                        await child.wait()
                        raise _Broken(_ended(child.returncode, at))
                    said = msgspec.json.decode(line, type=_Said)
                    if said.asking is None:
                        return said
                    at = said.asking
        except TimeoutError:
            raise _Broken(HANGS if at is None else f"{HANGS}, at GPU {at}") from None
        except (msgspec.DecodeError, ValueError, ConnectionError) as error:
            raise _Broken(f"the process that measures GPUs makes no sense: {error}") from error

    async def _nothing(self, why: str) -> View:
        """What it means that there is no library or driver."""
        hardware = await in_thread(self._look)
        if hardware == "none":
            return View((), None)
        if hardware == "nvidia":
            return View(
                None,
                f"there is an NVIDIA GPU, and no way to measure it ({why}): install its driver, "
                "or hand it to this container",
            )
        return View(None, None)

    def _show(self, view: View) -> None:
        self._view = view
        self._seen_at = asyncio.get_running_loop().time()
        self.measured.set()


def _ended(code: int | None, at: int | None) -> str:
    where = "" if at is None else f", at GPU {at}"
    if code is not None and code < 0:
        try:
            how = signal.Signals(-code).name
        except ValueError:
            how = f"signal {-code}"
        return f"the GPU library crashed ({how}{where})"
    return f"the process that measures GPUs ended with {code}{where}"
