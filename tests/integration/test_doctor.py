"""What the broker really does: services refuse to promise more, and the doctor says what to do."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from interlock import provisioning
from interlock.broker import EmbeddedBroker, find_server, free_port
from interlock.bus import Bus, connected
from interlock.discovery import contracts
from interlock.doctor import Examination, examine
from interlock.durability import UNKNOWN
from interlock.endpoint import SYSTEM_USER
from interlock.errors import ConnectFailed, ContractBroken
from interlock.provisioning import bucket_config, stream_config
from interlock.settings import ConnectionSettings
from interlock_schemas.subjects import SERVERS
from interlock_schemas.topology import BUCKETS, DEAD, EVENTS, LETTERS, STREAMS, Stored, Stream
from tests.conftest import PATIENCE_S, Up, clean_env, eventually, run_cli

USER, PASSWORD = "u", "p"

#: Declared, and made by nobody.
NOWHERE = Stream(name="NOWHERE", summary="", subjects=("nowhere.>",), max_age_s=60)

#: An account of its own, which imports the question that servers answer. As in production.
IMPORTING = {
    "system_account": "SYS",
    "accounts": {
        "SYS": {"exports": [{"service": SERVERS, "response_type": "stream"}]},
        "FLEET": {
            "jetstream": "enabled",
            "users": [{"user": USER, "password": PASSWORD}],
            "imports": [{"service": {"account": "SYS", "subject": SERVERS}}],
        },
    },
}
#: What a broker has that nobody configured further.
PLAIN = {"authorization": {"user": USER, "password": PASSWORD}}


class Server:
    """A nats-server with a configuration of the test's own."""

    def __init__(self, folder: Path, port: int, config: dict[str, Any]) -> None:
        self.folder = folder
        self.port = port
        self.config = {"listen": f"127.0.0.1:{port}", "max_payload": 8 * 2**20} | config
        self.config["jetstream"] = {"store_dir": str(folder / "store")} | config.get(
            "jetstream", {"sync_interval": "always"}
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "nats-server.conf"
        path.write_text(json.dumps(self.config))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(find_server().path), "-c", str(path)], stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def settings(self) -> ConnectionSettings:
        return ConnectionSettings(
            nats_url=f"nats://127.0.0.1:{self.port}",
            nats_user=USER,
            nats_password=SecretStr(PASSWORD),
            connect_timeout_s=PATIENCE_S,
        )

    @property
    def env(self) -> dict[str, str]:
        return clean_env() | {
            "INTERLOCK_NATS_URL": f"nats://127.0.0.1:{self.port}",
            "INTERLOCK_NATS_USER": USER,
            "INTERLOCK_NATS_PASSWORD": PASSWORD,
        }


@contextlib.asynccontextmanager
async def serving(servers: Iterable[Server], *, replicas: int | None = None) -> AsyncIterator[Bus]:
    """Run them, provisioned, and a connection to the first."""
    known = list(servers)
    try:
        for server in known:
            server.start()
        # JetStream of a cluster refuses until its servers have found one another.
        async with connected(known[0].settings, name="test") as bus:
            await eventually(lambda: enough(bus, len(known)))
            await provisioning.apply(bus, contracts(), replicas=replicas)
            yield bus
    finally:
        for server in known:
            server.kill()


async def enough(bus: Bus, servers: int) -> bool:
    """Whether a stream on so many servers can be made."""
    probe = {"name": "PROBE", "subjects": ["probe"], "num_replicas": servers}
    try:
        await bus.api("STREAM.CREATE.PROBE", probe)
        await bus.api("STREAM.DELETE.PROBE")
    except Exception:  # noqa: BLE001 - whatever it is, it is asked again
        return False
    return True


def cluster(folder: Path, **changes: dict[str, Any]) -> list[Server]:
    """Three servers, n1 to n3; `changes` replace parts of one's configuration."""
    routes = [free_port() for _ in range(3)]
    return [
        Server(
            folder / f"n{number}",
            free_port(),
            IMPORTING
            | {
                "server_name": f"n{number}",
                "cluster": {
                    "name": "test",
                    "listen": f"127.0.0.1:{routes[number - 1]}",
                    "routes": [f"nats://127.0.0.1:{route}" for route in routes],
                },
            }
            | changes.get(f"n{number}", {}),
        )
        for number in (1, 2, 3)
    ]


def told(examination: Examination, *, but: Iterable[str] = ("service",)) -> set[tuple[str, str]]:
    """Check and subject of each finding, without the services, of which none runs here."""
    return {(f.check, f.subject) for f in examination.findings if f.check not in but}


async def normalizer(env: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "interlock_event_normalizer",
        env=env | {"INTERLOCK_LOG_FORMAT": "json"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def refusal(env: dict[str, str]) -> str:
    """What the normalizer says that does not start."""
    process = await normalizer(env)
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 1, said
    return said.decode()


async def start(env: dict[str, str]) -> tuple[list[dict[str, Any]], str]:
    """The log of a normalizer until it was ready, and what it said while it ended."""
    process = await normalizer(env)
    lines: list[dict[str, Any]] = []
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while not any(line["event"] == "ready" for line in lines):
                line = await process.stdout.readline()
                if not line.startswith(b"{"):
                    pytest.fail((line + await process.stdout.read()).decode())
                lines.append(json.loads(line))
            process.terminate()
            rest, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 0
    return lines, rest.decode()


def json_objects(text: str, key: str) -> list[dict[str, Any]]:
    """The objects in a text that also holds other lines, by one of their keys."""
    found = []
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        value, end = decoder.raw_decode(text, at)
        if key in value:
            found.append(value)
        at = text.find("{", end)
    return found


def gauge(metrics: dict[str, Any], name: str) -> float:
    """The last value of a metric that has one."""
    (point,) = [
        point
        for resource in metrics["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
        if metric["name"] == name
        for point in metric["data"]["data_points"]
    ]
    value: float = point["value"]
    return value


# A fleet on one machine


def test_on_a_fleet_of_one_machine_all_is_well(own_up: Up) -> None:
    done = run_cli(own_up, "doctor", "--json")
    assert done.returncode == 0, done.stdout
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["ok"], said["findings"]) == (True, [])
    assert said["checked"] > len(STREAMS) + len(BUCKETS) + len(contracts())
    assert "all is well" in run_cli(own_up, "doctor").stdout
    assert "degraded" not in own_up.logs()


def test_without_a_broker_that_is_the_finding(tmp_path: Path) -> None:
    env = clean_env() | {"INTERLOCK_STATE": str(tmp_path), "INTERLOCK_NATS_URL": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-m", "interlock", "doctor", "--json"],
        env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    said = json.loads(done.stdout.splitlines()[-1])
    assert not said["ok"]
    (finding,) = said["findings"]
    assert finding["check"] == "broker"
    assert finding["found"].startswith("no broker")
    assert "interlock up" in finding["remedy"]
    assert set(finding) == {"check", "subject", "severity", "found", "why", "remedy"}


async def test_a_wrong_password_is_told_from_a_missing_broker(up: Up) -> None:
    wrong = up.settings.model_copy(
        update={"nats_password": SecretStr("wrong"), "connect_timeout_s": 1.0}
    )
    assert told(await examine(wrong, [])) == {("credentials", "broker")}


async def test_the_store_of_a_broker_without_a_system_user_is_served_on(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    broker.prepare()
    store = tmp_path / "broker" / "store"
    before = Server(
        tmp_path / "before",
        free_port(),
        PLAIN | {"jetstream": {"store_dir": str(store), "sync_interval": "always"}},
    )
    async with serving([before]) as bus:
        await bus.publish("events.a.b._", b"{}")
    await broker.start()
    try:
        settings = ConnectionSettings(
            nats_url=broker.url, nats_user=broker.user, nats_password=SecretStr(broker.password),
            nats_system_user=SYSTEM_USER, nats_system_password=SecretStr(broker.password),
        )  # fmt: skip
        async with connected(settings, name="test") as bus:
            assert (await bus.api("STREAM.INFO.EVENTS"))["state"]["messages"] == 1
        assert told(await examine(settings, contracts())) == set()
    finally:
        await broker.kill()


async def test_the_system_user_may_ask_how_the_servers_store_and_nothing_else(up: Up) -> None:
    settings = up.settings.model_copy(update={"nats_user": SYSTEM_USER})
    async with connected(settings, name="test") as bus:
        answer = json.loads((await bus.request(SERVERS, b"", timeout_s=5)).data)
        assert answer["data"]["jetstream"]["config"]["sync_always"]
        for subject in ("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.PING.JSZ", "events.a.b._"):
            await bus.client.publish(subject, b"", reply=bus.inbox())
        refused: list[str] = []

        async def all_refused() -> bool:
            if bus.client.last_error is not None:
                refused.append(str(bus.client.last_error))
            return any("events.a.b._" in each for each in refused)

        await eventually(all_refused)
        assert "permissions violation" in refused[-1].lower()


# A broker that syncs late


async def test_where_the_broker_syncs_late_a_service_refuses_unless_it_may_degrade(
    tmp_path: Path,
) -> None:
    late = Server(tmp_path, free_port(), IMPORTING | {"server_name": "late", "jetstream": {}})
    async with serving([late]):
        said = await refusal(late.env)
        assert "sync_interval is 2m" in said
        assert "jetstream { sync_interval: always }" in said
        assert "INTERLOCK_DURABILITY=degrade" in said

        exported = {"OTEL_METRICS_EXPORTER": "console"}
        degrade = {"INTERLOCK_DURABILITY": "degrade"}
        lines, rest = await start(late.env | degrade | exported)
        (degraded,) = [line for line in lines if line["event"] == "degraded"]
        assert (degraded["level"], degraded["check"]) == ("error", "sync")
        assert "sync_interval" in degraded["found"]
        (metrics,) = json_objects(rest, "resource_metrics")
        assert gauge(metrics, "interlock.degraded") == 1

        found = await examine(late.settings, contracts())
        assert told(found) == {("sync", "late")}
        assert not found.ok


async def test_a_broker_that_cannot_be_looked_into_stops_only_who_is_strict(
    tmp_path: Path,
) -> None:
    closed = Server(tmp_path, free_port(), PLAIN | {"server_name": "closed"})
    async with serving([closed]):
        lines, _ = await start(closed.env)
        (unknown,) = [line for line in lines if line["event"] == "degraded"]
        assert (unknown["level"], unknown["check"]) == ("error", UNKNOWN)

        said = await refusal(closed.env | {"INTERLOCK_DURABILITY": "strict"})
        assert "cannot tell whether" in said
        assert SERVERS in said

        found = await examine(closed.settings, [])
        assert told(found) == {(UNKNOWN, "closed")}
        assert found.ok


async def test_a_system_user_who_is_not_let_in_leaves_it_unknown(tmp_path: Path) -> None:
    server = Server(tmp_path, free_port(), IMPORTING | {"server_name": "n1"})
    async with serving([server]):
        settings = server.settings.model_copy(
            update={"nats_system_user": "nobody", "connect_timeout_s": 1.0}
        )
        found = await examine(settings, [])
    assert told(found) == {(UNKNOWN, "n1")}
    assert "INTERLOCK_NATS_SYSTEM_USER is not let in" in found.findings[0].found


# Streams that keep less than is declared


@contextlib.asynccontextmanager
async def standing(folder: Path, **changes: dict[str, Any]) -> AsyncIterator[Server]:
    """A broker whose streams differ from what is declared, by the broker's name for them."""
    server = Server(folder, free_port(), IMPORTING | {"server_name": "n1"})
    async with serving([server]) as bus:
        configs = [stream_config(each) for each in STREAMS]
        configs += [bucket_config(each) for each in BUCKETS]
        for config in configs:
            if (name := config["name"]) in changes:
                await bus.api(f"STREAM.DELETE.{name}")
                await bus.api(f"STREAM.CREATE.{name}", config | changes[name])
        yield server


async def test_a_stream_in_memory_is_refused_and_told(tmp_path: Path) -> None:
    async with standing(tmp_path, EVENTS={"storage": "memory"}) as server:
        said = await refusal(server.env)
        assert "EVENTS: storage is memory, declared durable" in said
        assert "nats stream rm EVENTS" in said
        await start(server.env | {"INTERLOCK_DURABILITY": "degrade"})
        found = await examine(server.settings, [])
        assert told(found) == {("storage", "EVENTS")}
        fast: list[Stored] = [msgspec.structs.replace(EVENTS, durability="fast")]
        assert told(await examine(server.settings, [], declared=fast)) == set()
        async with connected(server.settings, name="test") as bus:
            with pytest.raises(ContractBroken, match="storage is 'memory', declared 'file'"):
                await provisioning.apply(bus, contracts())


async def test_a_bucket_in_memory_is_told(tmp_path: Path) -> None:
    async with standing(tmp_path, KV_letters={"storage": "memory"}) as server:
        assert ("storage", LETTERS.name) in told(await examine(server.settings, []))


async def test_a_stream_that_is_written_after_it_is_acknowledged_is_told(tmp_path: Path) -> None:
    changes = {"persist_mode": "async", "allow_atomic": False, "allow_batched": False}
    async with standing(tmp_path, EVENTS=changes) as server:
        found = await examine(server.settings, [])
        assert told(found) == {("persist_mode", "EVENTS"), ("stream", "EVENTS")}
        async with connected(server.settings, name="test") as bus:
            with pytest.raises(ContractBroken, match="persist_mode is 'async'"):
                await provisioning.apply(bus, contracts())
        done = subprocess.run(
            [sys.executable, "-m", "interlock", "doctor"],
            env=server.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "acknowledges before it writes" in done.stdout


async def test_fewer_replicas_than_declared_are_told(tmp_path: Path) -> None:
    async with standing(tmp_path) as server:
        three: list[Stored] = [msgspec.structs.replace(EVENTS, replicas=3)]
        found = await examine(server.settings, [], declared=three)
    assert told(found) == {("replicas", "EVENTS")}
    assert "1 of 3 declared replicas" in next(
        f.found for f in found.findings if f.check == "replicas"
    )


async def test_what_is_missing_waits_or_is_paused_is_told(tmp_path: Path) -> None:
    server = Server(tmp_path, free_port(), IMPORTING | {"server_name": "n1"})
    async with serving([server]) as bus:
        await bus.publish("legacy.training", b"{}")
        await bus.api("CONSUMER.PAUSE.EVENTS.dead-letter-queue-resolved",
                      {"pause_until": "2099-01-01T00:00:00Z"})  # fmt: skip
        await bus.api("STREAM.DELETE.KV_letters")
        found = await examine(server.settings, contracts())
    assert told(found, but=()) == {
        ("service", "event-normalizer"),
        ("service", "dead-letter-queue"),
        ("service", "sync-mutex"),
        ("service", "health-monitor"),
        ("service", "node-agent"),
        ("service", "sync-router"),
        ("bucket", "letters"),
        ("backlog", "LEGACY/event-normalizer"),
        ("backlog", "EVENTS/dead-letter-queue-resolved"),
    }


async def test_a_broker_that_takes_only_small_messages_is_told(tmp_path: Path) -> None:
    server = Server(tmp_path, free_port(), IMPORTING | {"server_name": "n1", "max_payload": 2**20})
    async with serving([server]):
        found = await examine(server.settings, [])
        assert told(found) == {("max_payload", "n1")}
        assert "max_payload: 8MB" in found.findings[0].remedy
        assert "max_payload" in await refusal(server.env)


async def test_a_broker_without_jetstream_is_told(tmp_path: Path) -> None:
    server = Server(tmp_path, free_port(), PLAIN)
    del server.config["jetstream"]
    server.start()
    try:

        async def listens() -> bool:
            try:
                async with connected(server.settings, name="test"):
                    return False
            except ConnectFailed:
                return False
            except ContractBroken:
                return True

        await eventually(listens)
        assert told(await examine(server.settings, [])) == {("jetstream", "broker")}
    finally:
        server.kill()


async def test_an_account_without_jetstream_is_told(tmp_path: Path) -> None:
    accounts = {"FLEET": {"users": [{"user": USER, "password": PASSWORD}]}}
    server = Server(tmp_path, free_port(), {"accounts": accounts})
    server.start()
    try:
        found = await examine(server.settings, [])
        assert told(found) == {("jetstream", "broker")}
        assert "jetstream: enabled" in found.findings[0].remedy
    finally:
        server.kill()


async def test_more_replicas_than_servers_are_refused_with_what_it_takes(tmp_path: Path) -> None:
    server = Server(tmp_path, free_port(), IMPORTING)
    async with serving([server]) as bus:
        with pytest.raises(ContractBroken, match="3 replicas take a cluster of at least 3 servers"):
            await provisioning.apply(bus, contracts(), replicas=3)
        done = subprocess.run(
            [sys.executable, "-m", "interlock", "setup", "--replicas", "3", "--json"],
            env=server.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "at least 3 servers" in json.loads(done.stdout)["error"]


# A cluster


async def test_on_a_cluster_everything_is_on_three_servers_and_each_of_them_syncs(
    tmp_path: Path,
) -> None:
    servers = cluster(tmp_path)
    async with serving(servers) as bus:
        changes = await provisioning.apply(bus, contracts(), replicas=3)
        assert {c.action for c in changes if c.kind != "consumer"} == {"update"}
        for change in await provisioning.apply(bus, contracts()):
            assert change.action == "none", change.describe()
        dated = stream_config(DEAD) | {"num_replicas": 3, "description": "old words"}
        await bus.api("STREAM.UPDATE.DEAD", dated)
        (mended,) = [c for c in await provisioning.apply(bus, contracts()) if c.action != "none"]
        assert (mended.name, mended.action) == ("DEAD", "update")
        assert (await bus.api("STREAM.INFO.DEAD"))["config"]["num_replicas"] == 3

        async def consumers_follow() -> bool:
            info = await bus.api("CONSUMER.INFO.LEGACY.event-normalizer")
            return len(info.get("cluster", {}).get("replicas", ())) == 2

        await eventually(consumers_follow)

        async def well() -> bool:
            return not told(await examine(servers[0].settings, contracts()))

        await eventually(well)
        await start(servers[0].env | {"INTERLOCK_DURABILITY": "strict"})

        servers[2].kill()

        async def missed() -> bool:
            found = told(await examine(servers[0].settings, []))
            return found >= {(UNKNOWN, "n3"), ("replicas", "EVENTS")}

        await eventually(missed)


async def test_a_stream_whose_only_server_is_gone_is_named_and_the_others_are_looked_at(
    tmp_path: Path,
) -> None:
    servers = cluster(tmp_path)
    async with serving(servers) as bus:
        held = (await bus.api("STREAM.INFO.EVENTS"))["cluster"]["leader"]
        (gone,) = [each for each in servers if each.config["server_name"] == held]
        settings = next(each for each in servers if each is not gone).settings
        gone.kill()

        async def named() -> bool:
            found = await examine(settings, contracts(), declared=[EVENTS, NOWHERE])
            return told(found) >= {("replicas", "EVENTS"), ("stream", NOWHERE.name)}

        await eventually(named)


async def test_one_server_of_three_that_syncs_late_is_named(tmp_path: Path) -> None:
    servers = cluster(tmp_path, n2={"jetstream": {"sync_interval": "10s"}})
    async with serving(servers, replicas=3):

        async def named() -> bool:
            return told(await examine(servers[0].settings, [])) == {("sync", "n2")}

        await eventually(named)
        assert "n2: sync_interval is 10s" in await refusal(servers[0].env)
