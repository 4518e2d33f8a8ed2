"""A local cluster of real servers, and the network between them that can be broken."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from interlock.broker import BrokerError, BrokerNotReadyError
from interlock.bus import Bus, connected
from interlock.chaos.network import Network
from interlock.chaos.proxy import Proxy, Slow
from interlock.cluster import ClusterServer, LocalCluster
from interlock.settings import ConnectionSettings
from tests.conftest import eventually

HOST = "127.0.0.1"


async def make_stream(bus: Bus, replicas: int) -> None:
    await bus.api("STREAM.CREATE.X", {"name": "X", "subjects": ["x.>"], "num_replicas": replicas})


async def is_cut_off(server: ClusterServer) -> bool:
    """It serves, and knows no leader: the other two do not reach it."""
    return not await server.healthy() and (await server.meta())[0] == ""


@pytest.mark.parametrize("size", [1, 3])
async def test_what_was_acknowledged_stands_after_every_server_was_killed(
    tmp_path: Path, size: int
) -> None:
    cluster = LocalCluster(tmp_path, size=size)
    async with cluster.running():
        ports = [server.port for server in cluster.servers]
        async with connected(cluster.settings()) as bus:
            await make_stream(bus, size)
            acks = [await bus.publish("x.1", b"1") for _ in range(5)]
        await cluster.kill()
        assert not any(server.running for server in cluster.servers)
        await cluster.start()
        assert [server.port for server in cluster.servers] == ports
        async with connected(cluster.settings()) as bus:
            info = await bus.api("STREAM.INFO.X")
            assert info["state"]["last_seq"] == acks[-1].seq
            assert info["config"]["num_replicas"] == size


async def test_three_servers_go_on_without_one_and_it_catches_up(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path).running() as cluster, connected(cluster.settings()) as bus:
        await make_stream(bus, 3)
        for server in cluster.servers:
            await server.kill()
            assert server.pid is None
            await bus.publish("x.1", b"without one", timeout_s=60)
            await server.start()
            await cluster.ready()
        assert (await bus.api("STREAM.INFO.X"))["state"]["messages"] == 3


async def test_a_paused_server_lives_and_does_not_answer(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, size=1).running() as cluster:
        server = cluster.servers[0]
        server.pause()
        assert server.running
        assert server.paused
        assert not await server.healthy()
        server.resume()
        await cluster.ready()
        server.pause()
    assert not server.running


@pytest.mark.slow
async def test_an_isolated_leader_is_really_alone_and_comes_back(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    network = Network(cluster)
    async with network.running(), cluster.running(), connected(cluster.settings()) as bus:
        await make_stream(bus, 3)
        leader, _, _ = await cluster.servers[0].meta()
        alone = [server.name for server in cluster.servers].index(leader)
        network.cut(alone)
        await eventually(lambda: is_cut_off(cluster.servers[alone]))
        await bus.publish("x.1", b"two of three go on", timeout_s=60)
        # The two others speak to each other, and neither tells the third's address on.
        assert await is_cut_off(cluster.servers[alone])
        await network.heal(alone)
        await cluster.ready()

        async def caught_up() -> bool:
            # The one that was alone may still answer from what it knew.
            return bool((await bus.api("STREAM.INFO.X"))["state"]["messages"] == 1)

        await eventually(caught_up)


@pytest.mark.slow
async def test_a_server_that_one_peer_reaches_is_not_shown_the_way_to_the_other(
    tmp_path: Path,
) -> None:
    cluster = LocalCluster(tmp_path)
    network = Network(cluster)
    async with network.running(), cluster.running():
        network.cut(0)
        await eventually(lambda: is_cut_off(cluster.servers[0]))
        # Healed towards the second server alone: gossip would now lead the third to the first.
        for pair in ((0, 1), (1, 0)):
            await network.routes[pair].heal()
        await eventually(cluster.servers[0].healthy)
        assert all(network.routes[pair].connections == 0 for pair in ((0, 2), (2, 0)))
        text = cluster.servers[2].log_path.read_text()
        assert f":{cluster.servers[0].ports.route} " not in text


async def test_a_silent_partition_is_noticed_and_heals(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    network = Network(cluster)
    async with network.running(), cluster.running(), connected(cluster.settings()) as bus:
        await make_stream(bus, 3)
        network.hold(2)
        await bus.publish("x.1", b"two of three go on", timeout_s=60)
        await network.heal(2, deliver=False)
        await cluster.ready()


async def test_servers_end_with_the_process_that_runs_them_even_when_paused(
    tmp_path: Path,
) -> None:
    if sys.platform != "linux":
        pytest.skip("other systems have no signal for it")
    code = (
        "import asyncio, pathlib, sys\n"
        "from interlock.cluster import LocalCluster\n"
        "async def main():\n"
        "    cluster = LocalCluster(pathlib.Path(sys.argv[1]), size=1)\n"
        "    await cluster.start()\n"
        "    cluster.servers[0].pause()\n"
        "    print(cluster.servers[0].pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()

    async def gone() -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"

    await eventually(gone)


def test_a_cluster_has_one_server_or_three(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one server or three"):
        LocalCluster(tmp_path, size=2)


async def test_a_folder_keeps_its_size(tmp_path: Path) -> None:
    LocalCluster(tmp_path, size=1).prepare()
    with pytest.raises(BrokerError, match="name another folder"):
        LocalCluster(tmp_path, size=3).prepare()


class Echo:
    """A server that sends back what it hears, behind a proxy."""

    def __init__(self) -> None:
        self.heard = bytearray()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65_536):
            self.heard += chunk
            writer.write(chunk)
        writer.close()


async def echo_proxy() -> tuple[Echo, asyncio.Server, Proxy]:
    from interlock.broker import free_port

    echo = Echo()
    server = await asyncio.start_server(echo.serve, HOST, 0)
    return echo, server, Proxy(free_port(), server.sockets[0].getsockname()[1])


async def test_a_proxy_carries_every_byte_in_order() -> None:
    _, server, proxy = await echo_proxy()
    async with server, proxy.running():
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        sent = os.urandom(3_000_000)
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        writer.close()
        await writer.wait_closed()


async def test_a_cut_resets_and_refuses_until_it_is_healed() -> None:
    _, server, proxy = await echo_proxy()
    async with server, proxy.running():
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(b"1")
        assert await reader.readexactly(1) == b"1"
        proxy.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, proxy.port)
        await proxy.heal()
        reader, again = await asyncio.open_connection(HOST, proxy.port)
        again.write(b"2")
        assert await reader.readexactly(1) == b"2"
        for each in (writer, again):
            each.close()


@pytest.mark.parametrize("deliver", [True, False])
async def test_what_is_held_back_arrives_whole_or_the_connection_is_reset(deliver: bool) -> None:
    echo, server, proxy = await echo_proxy()
    async with server, proxy.running():
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writer.write(b"1")
        assert await reader.readexactly(1) == b"1"
        proxy.hold()
        writer.write(b"23")
        _, late = await asyncio.open_connection(HOST, proxy.port)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.readexactly(1)
        assert echo.heard == b"1"
        await proxy.heal(deliver=deliver)
        if deliver:
            assert await reader.readexactly(2) == b"23"
        else:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            assert echo.heard == b"1"
        for each in (writer, late):
            each.close()


async def test_a_slow_proxy_keeps_to_its_limit() -> None:
    _, server, proxy = await echo_proxy()
    async with server, proxy.running():
        proxy.slow(Slow(bytes_per_s=100_000, latency_s=0.05))
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        writer.write(b"x" * 40_000)
        await reader.readexactly(40_000)
        # Lower bounds only: the machine may be slower than the limit, never faster.
        assert loop.time() - begun > 0.4
        writer.close()


def test_the_settings_lead_through_the_proxies(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    direct = cluster_url(cluster)
    network = Network(cluster)
    settings: ConnectionSettings = cluster.settings()
    assert settings.nats_url is not None
    assert settings.nats_url != direct
    assert [int(url.rpartition(":")[2]) for url in settings.nats_url.split(",")] == [
        proxy.port for proxy in network.clients
    ]


def cluster_url(cluster: LocalCluster) -> str:
    cluster.prepare()
    return cluster.url


async def test_a_cluster_is_not_ready_while_two_servers_are_not_connected(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    network = Network(cluster)
    async with network.running(), cluster.running():
        for pair in ((0, 1), (1, 0)):
            network.routes[pair].cut()
        with pytest.raises(BrokerNotReadyError, match="not connected"):
            await cluster.ready(timeout_s=1)
        for pair in ((0, 1), (1, 0)):
            await network.routes[pair].heal()
        await cluster.ready()
