"""Where word comes from that a machine is about to go: a file, a command, its provider.

A source is asked again and again, and answers with a `Notice` once there is one. To add a provider
is to add a class with a `check`.
"""

import asyncio
import contextlib
import datetime
import math
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Final, Protocol

import msgspec

from interlock import logs
from interlock_node_agent.in_thread import in_thread
from interlock_node_agent.settings import Settings

__all__ = [
    "AwsSpot",
    "Command",
    "File",
    "GcpPreemption",
    "Notice",
    "Source",
    "SourceFailed",
    "sources",
    "watch",
]

_HTTP_S: Final = 2.0
_LARGEST_ANSWER: Final = 65_536
_COMMAND_S: Final = 10.0

log = logs.get_logger("interlock.agent.notices")


class Notice(msgspec.Struct, frozen=True):
    """The machine is about to go."""

    reason: str
    deadline_s: float | None = None
    """Seconds left, as far as known."""


class SourceFailed(Exception):
    """A source could not be asked, which says nothing about the machine."""


class Source(Protocol):
    """Where word may come from."""

    @property
    def name(self) -> str:
        """As it is named in logs."""

    async def check(self) -> Notice | None:
        """The notice, if there is one. Raises SourceFailed where that cannot be told."""


class File:
    """A file that appears."""

    def __init__(self, path: Path) -> None:
        self.name = f"file {path}"
        self._path = path

    async def check(self) -> Notice | None:
        """A notice once the file is there."""
        return Notice("file") if await in_thread(self._path.exists) else None


class Command:
    """A command that exits with 0."""

    def __init__(self, command: str, *, timeout_s: float = _COMMAND_S) -> None:
        self.name = f"command {command!r}"
        self._command = command
        self._timeout_s = timeout_s

    async def check(self) -> Notice | None:
        """A notice once the command exits with 0. What takes too long is ended."""
        process = await asyncio.create_subprocess_shell(
            self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                code = await process.wait()
        except TimeoutError:
            raise SourceFailed(f"it had not ended after {self._timeout_s:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return Notice("command") if code == 0 else None


class AwsSpot:
    """The instance metadata service of Amazon EC2, version 2: interruption of spot instances."""

    #: What EC2 gives a spot instance between notice and end.
    longest_s: Final = 120.0

    def __init__(self, url: str | None = None) -> None:
        self.name = "aws"
        self._url = (url or "http://169.254.169.254").rstrip("/")
        self._token: str | None = None

    async def check(self) -> Notice | None:
        """A notice once the instance is to be stopped or ended."""
        status, body = await self._get()
        if status == 401:
            # The token has run out.
            self._token = None
            status, body = await self._get()
        if status == 404:
            return None
        if status != 200:
            raise SourceFailed(f"the metadata service answered {status}")
        try:
            action = msgspec.json.decode(body, type=_InstanceAction)
        except msgspec.DecodeError as error:
            raise SourceFailed(f"the metadata service makes no sense: {error}") from error
        if action.action == "hibernate":
            return Notice("preempted")
        return Notice("preempted", _left_s(action.time, self.longest_s))

    async def _get(self) -> tuple[int, bytes]:
        if self._token is None:
            status, body = await _ask(
                f"{self._url}/latest/api/token",
                {"X-aws-ec2-metadata-token-ttl-seconds": "21600"},
                method="PUT",
            )
            if status != 200:
                raise SourceFailed(f"the metadata service gave no token: {status}")
            self._token = body.decode("ascii", "replace").strip()
        return await _ask(
            f"{self._url}/latest/meta-data/spot/instance-action",
            {"X-aws-ec2-metadata-token": self._token},
        )


class GcpPreemption:
    """The metadata server of Google Compute Engine: preemption of spot machines."""

    #: What Compute Engine gives a machine between notice and end.
    left_s: Final = 30.0

    def __init__(self, url: str | None = None) -> None:
        self.name = "gcp"
        self._url = (url or "http://metadata.google.internal").rstrip("/")

    async def check(self) -> Notice | None:
        """A notice once the machine was told to stop."""
        status, body = await _ask(
            f"{self._url}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}
        )
        if status != 200:
            raise SourceFailed(f"the metadata server answered {status}")
        return Notice("preempted", self.left_s) if body.strip().upper() == b"TRUE" else None


class _InstanceAction(msgspec.Struct):
    action: str
    time: str = ""


def sources(settings: Settings) -> list[Source]:
    """The sources that the settings name."""
    found: list[Source] = []
    if settings.agent_notice_file is not None:
        found.append(File(settings.agent_notice_file))
    if settings.agent_notice_command:
        found.append(Command(settings.agent_notice_command))
    if settings.agent_notice_provider == "aws":
        found.append(AwsSpot(settings.agent_notice_url))
    elif settings.agent_notice_provider == "gcp":
        found.append(GcpPreemption(settings.agent_notice_url))
    return found


async def watch(source: Source, every_s: float) -> Notice:
    """Ask a source until it has word. One that fails is asked on, and said once to fail."""
    failing = False
    while True:
        try:
            notice = await source.check()
        except (SourceFailed, OSError) as error:
            if not failing:
                log.warning("a source of notices fails", source=source.name, why=str(error))
            failing = True
        else:
            failing = False
            if notice is not None:
                return notice
        await asyncio.sleep(every_s)


def _left_s(at: str, most_s: float) -> float:
    """Seconds until a time that the provider names, within bounds: our clock may be off."""
    try:
        end = datetime.datetime.fromisoformat(at)
    except ValueError:
        return most_s
    left = (end - datetime.datetime.now(datetime.UTC)).total_seconds() if end.tzinfo else math.nan
    return left if 0 <= left <= most_s else most_s


async def _ask(url: str, headers: Mapping[str, str], *, method: str = "GET") -> tuple[int, bytes]:
    """Status and body. Raises SourceFailed where there is no answer."""
    # Metadata is this machine's own: no proxy knows it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask() -> tuple[int, bytes]:
        request = urllib.request.Request(url, headers=dict(headers), method=method)  # noqa: S310
        try:
            with opener.open(request, timeout=_HTTP_S) as answer:
                return answer.status, answer.read(_LARGEST_ANSWER)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, b""

    try:
        async with asyncio.timeout(2 * _HTTP_S):
            return await in_thread(ask)
    except (TimeoutError, OSError, HTTPException, ValueError) as error:
        raise SourceFailed(f"the metadata service does not answer: {error}") from error
