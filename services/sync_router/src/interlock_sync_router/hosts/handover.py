"""Hands one artifact on to a host: what is missing there, what the host says of it, the commit.

What arrived before a connection broke stays there, and the next attempt goes on with it, unless
somebody may still be writing it. Nothing stands there before the host itself has computed every
digest from its own disk.
"""

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from interlock import logs
from interlock.artifacts import layout
from interlock.artifacts.errors import TransferFailed
from interlock.artifacts.pacing import Pacer
from interlock_schemas.artifacts import FileEntry, Manifest
from interlock_sync_router.hosts import pushing, scripts
from interlock_sync_router.hosts.archive import Member, archive, content
from interlock_sync_router.hosts.remote import Ran, RemoteHost

__all__ = ["SOME_FAILED", "Handover", "found"]

#: Said by xargs where a command of it failed: a file that cannot be read is as good as missing.
SOME_FAILED: Final = 123

#: A broken connection is made again so often; what arrived is kept.
_ATTEMPTS: Final = 3
#: What did not arrive as it was sent is sent again, once.
_ROUNDS: Final = 2

log = logs.get_logger("interlock.router.hosts")


class Handover:
    """Sends artifacts to one host, one after the other. `pacer` bounds what is sent."""

    def __init__(self, host: RemoteHost, executor: Executor, pacer: Pacer) -> None:
        self._host = host
        self._executor = executor
        self._pacer = pacer
        self._turn = asyncio.Lock()

    async def hand_on(
        self, id: str, manifest: Manifest, folder: Path, tokens: scripts.Tokens
    ) -> None:
        """Have an artifact stand there that is in `folder` here, as a store lays it out; nothing
        is sent where it does.

        Raises TransferFailed: ``damaged`` where the host's digests do not agree, twice in a row;
        ``stale_token``, ``no_space``, ``denied``, ``unreachable``, ``timeout``, ``io``.
        """
        async with self._turn:
            for last in (*[False] * (_ATTEMPTS - 1), True):
                try:
                    await self._attempt(id, manifest, folder, tokens)
                except TransferFailed as error:
                    if error.code != "unreachable" or last:
                        raise
                    log.info("the connection broke, going on", node=self._host.node, artifact=id)
                else:
                    return

    async def _attempt(
        self, id: str, manifest: Manifest, folder: Path, tokens: scripts.Tokens
    ) -> None:
        root = self._host.root
        ran = await self._host.run(scripts.holds(root, id))
        attempt = secrets.token_hex(6)
        if ran.out.strip() != b"yes":
            await self._send(id, manifest, folder, tokens, attempt)
        await self._host.run(scripts.commit(root, tokens, id, attempt))

    async def _send(
        self, id: str, manifest: Manifest, folder: Path, tokens: scripts.Tokens, attempt: str
    ) -> None:
        """Have all of it in the staging there, and checked."""
        root = self._host.root
        ran = await self._host.run(scripts.begin(root, tokens, id, attempt))
        sizes = scripts.parse_sizes(ran.out)
        wrong: dict[bytes, str] = {}
        for _ in range(_ROUNDS):
            todo = pushing.outstanding(manifest, sizes, pushing.contents(wrong))
            stream = archive(_members(folder, todo.together), int(time.time()))
            await self._host.run(scripts.unpack(root, id, attempt), self._paced(stream))
            for rest in todo.alone:
                await self._append(id, folder, attempt, rest)
            ran = await self._host.run(
                scripts.verify_staged(root, id, attempt), fine=(0, SOME_FAILED)
            )
            wrong = pushing.judge(manifest, id, found(ran, self._host.node))
            if not wrong:
                return
            log.warning("not as it was sent", node=self._host.node, artifact=id, files=len(wrong))
            sizes = {file.path.encode(): file.size for file in manifest.files}
            await self._host.run(*scripts.remove(root, id, attempt, wrong))
        path, why = next(iter(wrong.items()))
        raise TransferFailed(
            "damaged",
            f"{self._host.node}: {path.decode(errors='replace')!r} {why}; {len(wrong):,} in all",
        )

    async def _append(self, id: str, folder: Path, attempt: str, rest: pushing.Append) -> None:
        file = rest.file
        command = scripts.append(
            self._host.root, id, attempt, file.path, rest.offset, executable=file.executable
        )
        parts = content(folder / layout.FILES / file.path, rest.offset, file.size)
        await self._host.run(command, self._paced(parts))

    async def _paced(self, parts: Iterator[bytes]) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        cancelled = threading.Event()

        def next_part() -> bytes | None:
            part = next(parts, None)
            if part is not None:
                self._pacer.take(len(part), cancelled)
            return part

        try:
            while (part := await loop.run_in_executor(self._executor, next_part)) is not None:
                yield part
        finally:
            cancelled.set()


def found(ran: Ran, node: str) -> scripts.Found:
    """The digests that a host computed. Raises TransferFailed where they are not whole."""
    try:
        return scripts.parse_found(ran.out)
    except ValueError as error:
        raise TransferFailed("io", f"{node}: {error}: {ran.said[-200:]}") from error


def _members(folder: Path, together: tuple[FileEntry, ...]) -> Iterator[Member]:
    for name in (layout.MANIFEST, layout.ABOUT):
        path = folder / name
        yield Member(name=name, path=path, size=path.stat().st_size)
    for file in together:
        yield Member(
            name=f"{layout.FILES}/{file.path}",
            path=folder / layout.FILES / file.path,
            size=file.size,
            executable=file.executable,
        )
