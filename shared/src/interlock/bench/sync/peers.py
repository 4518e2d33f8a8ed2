"""What people use otherwise, over the same sshd: plain rsync, and SFTP file by file."""

import asyncio
import os
import shlex
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from interlock.bench.sshd import Sshd
from interlock.errors import InterlockError

__all__ = ["have_rsync", "rsync", "sftp"]


def have_rsync() -> bool:
    """Whether rsync and an SSH client are installed."""
    return shutil.which("rsync") is not None and shutil.which("ssh") is not None


def ssh_command(sshd: Sshd, ciphers: str | None) -> str:
    """The SSH client that rsync is to use."""
    known = sshd.folder / "known_hosts"
    kind, key = sshd.host_key.split()[:2]
    known.write_text(f"[127.0.0.1]:{sshd.port} {kind} {key}\n")
    words = [
        "ssh", "-F", "none", "-p", str(sshd.port), "-i", str(sshd.identity),
        "-o", f"UserKnownHostsFile={known}", "-o", "GlobalKnownHostsFile=none",
        "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
    ]  # fmt: skip
    if ciphers:
        words += ["-c", ciphers]
    return shlex.join(words)


async def rsync(sshd: Sshd, source: Path, target: Path, *, ciphers: str | None = None) -> float:
    """Have rsync fetch a file or the content of a folder, all of it; seconds."""
    name = await asyncio.to_thread(_prepare, source, target)
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        "rsync", "-a", "-W", "-e", ssh_command(sshd, ciphers),
        f"{sshd.user}@127.0.0.1:{name}", f"{target}/",
        stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, told = await process.communicate()
    if process.returncode:
        raise InterlockError(f"rsync failed: {told.decode(errors='replace')[-300:]}")
    return time.perf_counter() - begin


@asynccontextmanager
async def _client(sshd: Sshd) -> AsyncIterator[Any]:
    import asyncssh

    async with (
        asyncssh.connect(
            "127.0.0.1",
            sshd.port,
            username=sshd.user,
            client_keys=[str(sshd.identity)],
            known_hosts=([asyncssh.import_public_key(sshd.host_key)], [], []),
            config=None,
            agent_path=None,
        ) as connection,
        connection.start_sftp_client() as client,
    ):
        yield client


async def sftp(sshd: Sshd, source: Path, target: Path, names: Sequence[str]) -> float:
    """Fetch files one after the other over SFTP; seconds, with the login."""
    await asyncio.to_thread(_prepare, source, target)
    begin = time.perf_counter()
    async with _client(sshd) as client:
        for name in names:
            await client.get(os.fspath(source / name), os.fspath(target / name))
    return time.perf_counter() - begin


def _prepare(source: Path, target: Path) -> str:
    """Make the folder to fetch into; how rsync is told what to fetch."""
    target.mkdir(parents=True, exist_ok=True)
    return f"{source}/" if source.is_dir() else str(source)
