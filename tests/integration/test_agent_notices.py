"""Notices: a command, and the metadata of providers, asked over HTTP as they answer."""

import asyncio
import contextlib
import datetime
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from interlock_node_agent.notices import (
    AwsSpot,
    Command,
    File,
    GcpPreemption,
    Notice,
    SourceFailed,
    sources,
    watch,
)
from interlock_node_agent.settings import Settings


class Metadata:
    """A metadata service on this machine; the answers are set by the test."""

    def __init__(self) -> None:
        self.preempted = "FALSE"
        self.action: str | None = None
        self.tokens: list[str] = []
        self.hold = threading.Event()
        self.hold.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
                outer.tokens.append(f"token-{len(outer.tokens)}")
                self.say(200, outer.tokens[-1])

            def do_GET(self) -> None:
                outer.hold.wait(30)
                if self.path == "/latest/meta-data/spot/instance-action":
                    if self.headers["X-aws-ec2-metadata-token"] != outer.tokens[-1]:
                        self.say(401, "")
                    elif outer.action is None:
                        self.say(404, "")
                    else:
                        self.say(200, outer.action)
                elif self.headers["Metadata-Flavor"] == "Google":
                    self.say(200, outer.preempted)
                else:
                    self.say(403, "")

            def say(self, status: int, text: str) -> None:
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    # A proxy does not know this machine's metadata, and is not asked.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    found = Metadata()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.hold.set()
    found.server.shutdown()
    found.server.server_close()
    thread.join()


async def test_a_spot_instance_that_is_interrupted(metadata: Metadata) -> None:
    source = AwsSpot(metadata.url)
    assert await source.check() is None
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    metadata.action = json.dumps({"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")})
    notice = await source.check()
    assert notice is not None
    assert notice.reason == "preempted"
    assert notice.deadline_s is not None
    assert 60 < notice.deadline_s <= 90
    assert metadata.tokens == ["token-0"]


async def test_a_token_that_ran_out_is_made_anew(metadata: Metadata) -> None:
    source = AwsSpot(metadata.url)
    await source.check()
    metadata.tokens.append("token-of-another-time")
    assert await source.check() is None
    assert len(metadata.tokens) == 3


@pytest.mark.parametrize("time", ["1999-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "", "soon"])
async def test_a_time_by_a_clock_that_is_off_leaves_what_the_provider_promises(
    metadata: Metadata, time: str
) -> None:
    metadata.action = json.dumps({"action": "stop", "time": time})
    assert await AwsSpot(metadata.url).check() == Notice("preempted", 120.0)


async def test_metadata_that_makes_no_sense_is_no_notice(metadata: Metadata) -> None:
    metadata.action = "<html>"
    with pytest.raises(SourceFailed, match="no sense"):
        await AwsSpot(metadata.url).check()


async def test_a_machine_that_is_preempted(metadata: Metadata) -> None:
    source = GcpPreemption(metadata.url)
    assert await source.check() is None
    metadata.preempted = "TRUE"
    assert await source.check() == Notice("preempted", 30.0)


async def test_a_source_that_cannot_be_asked_is_asked_on(metadata: Metadata) -> None:
    with pytest.raises(SourceFailed):
        await GcpPreemption("http://127.0.0.1:9").check()
    source = GcpPreemption(metadata.url)
    metadata.hold.clear()
    watching = asyncio.create_task(watch(source, 0.01))
    metadata.preempted = "TRUE"
    metadata.hold.set()
    assert await watching == Notice("preempted", 30.0)


async def test_a_command_that_exits_with_0(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    command = Command(f"test -e '{flag}'")
    assert await command.check() is None
    flag.touch()
    assert await command.check() == Notice("command")


async def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = Command(f"sleep 300 & echo $! > '{pid}'; wait", timeout_s=0.5)
    with pytest.raises(SourceFailed, match="not ended"):
        await command.check()
    assert not _runs(int(pid.read_text()))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_file_that_appears(tmp_path: Path) -> None:
    source = File(tmp_path / "going")
    assert await source.check() is None
    (tmp_path / "going").touch()
    assert await source.check() == Notice("file")


def test_the_settings_name_the_sources(tmp_path: Path) -> None:
    assert sources(Settings()) == []
    named = Settings(
        agent_notice_file=tmp_path / "x",
        agent_notice_command="false",
        agent_notice_provider="aws",
    )
    assert [source.name for source in sources(named)] == [
        f"file {tmp_path / 'x'}",
        "command 'false'",
        "aws",
    ]
