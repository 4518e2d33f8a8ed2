"""Fixtures: a real broker with the real services, started as a person would start them."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from interlock import state
from interlock.bus import Bus, connected
from interlock.fleet import Fleet
from interlock.settings import ConnectionSettings

#: How long a test waits for something that happens in milliseconds on an idle machine.
PATIENCE_S = 60.0


class Up:
    """A running `interlock up` in a state folder of its own."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.own_env = env or {}
        self.folder = folder
        self.arguments = arguments
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until the broker serves and every service answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = (self.folder / "up.log").open("a")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "interlock",
                "up",
                "--state",
                str(self.folder),
                "--json",
                *self.arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=clean_env() | self.own_env,
        )
        log.close()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            if told.get("state") == "up":
                break
        else:
            pytest.fail("`interlock up` ended: " + (self.folder / "up.log").read_text())
        self.await_services()

    def await_services(self) -> None:
        """Wait until every service answers."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            told = run_cli(self, "status", "--json")
            if told.returncode == 0 and not json.loads(told.stdout)["silent"]:
                return
            time.sleep(0.1)
        pytest.fail("the services did not start: " + self.logs())

    def logs(self) -> str:
        """The end of every log."""
        parts = sorted((self.folder / "logs").glob("*.log"))
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-3_000:]}" for p in parts)

    def pids(self) -> dict[str, int]:
        """The processes that the record names."""
        running = state.read_run(self.folder)
        assert running is not None
        return {process.name: process.pid for process in running.processes}

    def kill(self) -> None:
        """SIGKILL to `up` itself."""
        assert self.process is not None
        self.process.kill()
        self._ended()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def _ended(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.stdout.read()
        code = self.process.wait(timeout=PATIENCE_S)
        self.process.stdout.close()
        return code

    @property
    def settings(self) -> ConnectionSettings:
        """How to connect to it."""
        running = state.read_run(self.folder)
        assert running is not None, "it does not run"
        credentials = state.read_credentials(self.folder)
        return ConnectionSettings(
            nats_url=running.url,
            nats_user=credentials.user,
            nats_password=SecretStr(credentials.password),
        )

    @property
    def env(self) -> dict[str, str]:
        """The environment of a worker."""
        settings = self.settings
        assert settings.nats_url is not None
        assert settings.nats_user is not None
        assert settings.nats_password is not None
        return clean_env() | {
            "INTERLOCK_NATS_URL": settings.nats_url,
            "INTERLOCK_NATS_USER": settings.nats_user,
            "INTERLOCK_NATS_PASSWORD": settings.nats_password.get_secret_value(),
        }


def clean_env() -> dict[str, str]:
    """This environment without what would lead to another broker or exporter."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("INTERLOCK_", "OTEL_"))
    }


def run_cli(
    up: Up | None, *arguments: str, stdin: str = "", timeout_s: float = PATIENCE_S * 2
) -> subprocess.CompletedProcess[str]:
    """Run the command line, against that fleet if one is given."""
    env = clean_env()
    if up is not None:
        env["INTERLOCK_STATE"] = str(up.folder)
    return subprocess.run(
        [sys.executable, "-m", "interlock", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        env=env,
        timeout=timeout_s,
        check=False,
    )


def cli_json(up: Up | None, *arguments: str) -> Any:
    """Run the command line, which must succeed, and read its JSON."""
    told = run_cli(up, *arguments, "--json")
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One fleet for all tests that do not break it."""
    fleet = Up(tmp_path_factory.mktemp("up"))
    fleet.start()
    yield fleet
    assert fleet.stop() == 0


@pytest.fixture
def own_up(tmp_path: Path) -> Iterator[Up]:
    """A fleet of the test's own, to break."""
    fleet = Up(tmp_path / "state")
    fleet.start()
    yield fleet
    fleet.stop()


@pytest.fixture
async def bus(up: Up) -> AsyncIterator[Bus]:
    """A connection to the shared fleet."""
    async with connected(up.settings, name="test") as connection:
        yield connection


@pytest.fixture
def fleet(bus: Bus) -> Fleet:
    """A worker on the shared fleet."""
    return Fleet(bus, source="test")


async def eventually(check: Any, patience_s: float = PATIENCE_S) -> Any:
    """Ask until the answer is true; fail with the last answer when patience ends."""
    deadline = asyncio.get_running_loop().time() + patience_s
    while True:
        answer = await check()
        if answer:
            return answer
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"it never came to be: last answer {answer!r}")
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(*work: Any) -> AsyncIterator[None]:
    """Have coroutines run while the block lasts; their errors come out of it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
