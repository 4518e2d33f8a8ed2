"""The service kit: discovered by any NATS tool, checked at start, traced, drained."""

import http.server
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from interlock import provisioning
from interlock.broker import EmbeddedBroker
from interlock.bus import Bus, connected
from interlock.discovery import contracts
from interlock.errors import CommandFailed, ContractBroken
from interlock.fleet import Fleet
from interlock.settings import ConnectionSettings
from interlock_schemas import envelope, letters
from tests.conftest import PATIENCE_S, Up, clean_env, eventually


async def ask_all(bus: Bus, subject: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    async def on_answer(message: Any) -> None:
        found.append(msgspec.json.decode(message.data))

    inbox = bus.inbox()
    subscription = await bus.subscribe(inbox, on_answer)
    await bus.client.publish(subject, reply=inbox)

    async def both() -> bool:
        return len(found) >= 2

    await eventually(both)
    await subscription.unsubscribe()
    return found


async def test_ping_and_info_find_the_services_and_their_commands(bus: Bus) -> None:
    pings = await ask_all(bus, "$SRV.PING")
    assert {ping["name"] for ping in pings} == {
        "dead-letter-queue",
        "event-normalizer",
        "health-monitor",
        "node-agent",
        "sync-mutex",
        "sync-router",
    }
    infos = {info["name"]: info for info in await ask_all(bus, "$SRV.INFO")}
    for contract in contracts():
        subjects = {endpoint["subject"] for endpoint in infos[contract.name]["endpoints"]}
        assert subjects == {command.subject for command in contract.answers}
        assert infos[contract.name]["version"] == contract.version


async def test_a_request_that_fits_no_schema_gets_an_error_that_names_the_field(
    bus: Bus, fleet: Fleet
) -> None:
    reply = await bus.request(letters.LIST.subject, b'{"limit": "many"}', timeout_s=10)
    assert envelope.lookup(reply.headers, "Nats-Service-Error-Code") == "400"
    assert "limit" in (envelope.lookup(reply.headers, "Nats-Service-Error") or "")
    reply = await bus.request(letters.LIST.subject, b"[" * 100_000, timeout_s=10)
    assert envelope.lookup(reply.headers, "Nats-Service-Error-Code") == "400"
    with pytest.raises(CommandFailed, match="no letter"):
        await fleet.command(letters.SHOW, letters.ShowLetter(id="feedfeed"))
    with pytest.raises(CommandFailed, match="one of both"):
        await fleet.command(letters.REPLAY, letters.ReplayLetters())


async def test_a_service_that_lacks_what_its_contract_needs_says_so_and_ends(
    tmp_path: Path,
) -> None:
    broker = EmbeddedBroker(tmp_path)
    await broker.start()
    try:
        env = clean_env() | {
            "INTERLOCK_NATS_URL": broker.url,
            "INTERLOCK_NATS_USER": broker.user,
            "INTERLOCK_NATS_PASSWORD": broker.password,
        }
        command = [sys.executable, "-m", "interlock_event_normalizer"]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 1
        assert "interlock setup" in done.stderr
        assert "LEGACY" in done.stderr
        assert "Traceback" not in done.stderr
        settings = ConnectionSettings(
            nats_url=f"nats://{broker.user}:{broker.password}@127.0.0.1:{broker.port}"
        )
        async with connected(settings) as bus:
            await provisioning.apply(bus, contracts())
            config = (await bus.api("STREAM.INFO.LEGACY"))["config"]
            await bus.api("STREAM.UPDATE.LEGACY", {**config, "max_age": 0})
            with pytest.raises(ContractBroken, match="max_age"):
                await provisioning.apply(bus, contracts())
            assert (await bus.api("STREAM.INFO.LEGACY"))["config"]["max_age"] == 0
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 1
        assert "max_age" in done.stderr
    finally:
        await broker.stop()


class Collector(http.server.ThreadingHTTPServer):
    """An OTLP collector that keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.received: dict[str, list[bytes]] = {}

    def spans(self) -> list[Any]:
        found = []
        for body in self.received.get("/v1/traces", []):
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    found += list(scope.spans)
        return found


class _Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:  # the name that the base class calls
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Collector)
        self.server.received.setdefault(self.path, []).append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def test_traces_and_metrics_are_exported_where_otel_variables_ask(
    up: Up, bus: Bus, collector: Collector
) -> None:
    """A second normalizer shares the first one's work and exports; SIGTERM flushes it."""
    env = up.env | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "interlock_event_normalizer"], env=env, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        while b'"ready"' not in process.stderr.readline():
            assert process.poll() is None
        trace = f"{time.time_ns():032x}"
        body = json.dumps({"event_type": "training_complete", "payload": {"config": "c"}}).encode()

        async def exported() -> bool:
            headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            for _ in range(20):
                await bus.publish("legacy.bus", body, headers)
            seen = any(span.trace_id.hex() == trace for span in collector.spans())
            return seen and "/v1/metrics" in collector.received

        await eventually(exported)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0
        process.stderr.close()
    spans = [span for span in collector.spans() if span.trace_id.hex() == trace]
    taken = next(span for span in spans if span.name == "process event-normalizer")
    assert taken.parent_span_id.hex() == "b7ad6b7169203331"
    assert any(span.parent_span_id == taken.span_id for span in spans)


def test_a_service_is_silent_without_otel_variables_and_never_logs_the_password(up: Up) -> None:
    password = up.env["INTERLOCK_NATS_PASSWORD"]
    for path in [*up.folder.glob("logs/*"), *up.folder.glob("*.log")]:
        assert password not in path.read_text(errors="replace")
    for pid in up.pids().values():
        assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert (up.folder / "credentials.json").stat().st_mode & 0o077 == 0


def test_a_service_that_finds_no_broker_stops_when_it_is_told_to(tmp_path: Path) -> None:
    env = clean_env() | {
        "INTERLOCK_NATS_URL": "nats://127.0.0.1:1",
        "INTERLOCK_STATE": str(tmp_path),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "interlock_event_normalizer"], env=env, stderr=subprocess.PIPE
    )
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert b"Traceback" not in errors


@pytest.mark.parametrize("text", [None, "garbage \xff", "-----BEGIN NATS USER JWT-----\nabc\n"])
def test_credentials_that_are_none_are_named_at_once(tmp_path: Path, text: str | None) -> None:
    creds = tmp_path / "fleet.creds"
    if text is not None:
        creds.write_text(text)
    env = clean_env() | {"INTERLOCK_NATS_CREDS": str(creds)}
    done = subprocess.run(
        [sys.executable, "-m", "interlock_event_normalizer"],
        env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "INTERLOCK_NATS_CREDS" in done.stderr
    assert "Traceback" not in done.stderr
