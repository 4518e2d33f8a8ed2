"""What `interlock status` finds out."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from interlock import state
from interlock.bus import ApiError, Bus, Message, connected
from interlock.cli import base
from interlock.discovery import contracts
from interlock.endpoint import resolve
from interlock.errors import BusUnavailable, CommandFailed
from interlock.fleet import Fleet
from interlock.health_sdk import cluster_health
from interlock.settings import ConnectionSettings
from interlock_schemas import letters
from interlock_schemas.health import ClusterHealth
from interlock_schemas.topology import BUCKETS, STREAMS

__all__ = ["services", "status"]

_GATHER_S = 0.4


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


def _health_lines(found: ClusterHealth) -> list[str]:
    """How the fleet is, in a few lines."""
    figure = "" if found.score is None else f" {found.score:.0f} of 100"
    lines = [f"health {found.level}{figure}{_because(found.reason)}"]
    if found.nodes:
        lines.append("nodes  " + ", ".join(f"{n} {state}" for state, n in found.nodes.items()))
    if found.paused:
        since = f" since {found.paused_since}" if found.paused_since else ""
        lines.append(f"paused{since}: new work should wait")
    if found.disruption is not None:
        lines.append(f"disruption: nobody is evicted{_because(found.disruption)}")
    if found.level != "unknown":
        lines.append(f"evictions {found.evictions}, recovery {found.recovery}")
    return [base.plain(line) for line in lines]


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


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
        fleet_health = await cluster_health(bus)
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
                "health": fleet_health,
            }
        )
        return
    console = Console()
    console.print(
        f"broker {broker['url']}  nats-server {broker['version']}  ({broker['origin']})",
        soft_wrap=True,
    )
    for line in _health_lines(fleet_health):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
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
