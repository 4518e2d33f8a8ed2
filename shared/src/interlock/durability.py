"""Whether the broker keeps what it acknowledges, as declared: facts and declarations in, findings
out. Pure; `interlock.doctor` gathers the facts, and a service asks it at start.

What ``durable`` takes is written at `interlock_schemas.topology.Durability`. Several replicas do
not make up for a late sync: one power cut may take all of them, and under Jepsen's a replicated
stream lost acknowledged messages (nats-server 2.12.1 with its default sync).
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from interlock.diagnosis import Finding, Standing
from interlock_schemas.contracts import Contract
from interlock_schemas.subjects import SERVERS
from interlock_schemas.topology import STREAMS, Bucket, Stored, Stream

__all__ = [
    "LARGEST_BYTES",
    "UNKNOWN",
    "Account",
    "Facts",
    "Policy",
    "Server",
    "findings",
    "of_contract",
    "refused",
]

Policy = Literal["enforce", "degrade", "strict"]

#: The check of a finding that says: this cannot be told.
UNKNOWN: Final = "sync_unknown"

_MIB: Final = 1024 * 1024

#: What a client adds to a message on the way, at most: `Bus` leaves so much room.
_FRAMING_BYTES: Final = 64

#: The largest message that is stored: a dead letter.
LARGEST_BYTES: Final = max(stream.max_message_bytes for stream in STREAMS)

#: From here on a limit is nearly reached, as a share of it.
_NEARLY: Final = 0.9

_LOST: Final = (
    "A power cut takes what was acknowledged and is not on disk yet, on all replicas at once when "
    "they share the power."
)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What one server says of itself."""

    name: str
    version: str = ""
    max_payload_bytes: int
    sync_always: bool
    """Whether each message is synced to disk before it is acknowledged."""
    sync_interval_s: float = 0.0
    """Otherwise: how often."""
    stored_bytes: int = 0
    storable_bytes: int = 0
    """0 or less: not limited."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What our account uses and may use. A limit below zero: none."""

    tier: str = ""
    """For which number of replicas (``R3``) the limits hold; empty: for all."""
    stored_bytes: int = 0
    storable_bytes: int = -1
    streams: int = 0
    max_streams: int = -1
    consumers: int = 0
    max_consumers: int = -1


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about a broker."""

    connected: str = "broker"
    """The server that we are connected to."""
    max_payload_bytes: int
    """As it told us."""
    servers: Mapping[str, Server] = {}
    """Those that said how they store, by name."""
    silent: str = "no server answered"
    """Why the others did not."""
    standing: Mapping[str, Standing] = {}
    """Streams by the broker's name. What is missing here is missing there."""
    accounts: tuple[Account, ...] = ()
    """Empty: unknown."""


def of_contract(contract: Contract) -> list[Stored]:
    """What a service depends on: the streams it consumes and publishes to, and its buckets."""
    streams = {consumer.stream.name: consumer.stream for consumer in contract.consumes}
    for published in contract.publishes:
        for stream in STREAMS:
            if any(_overlap(taken, published.subject) for taken in stream.subjects):
                streams.setdefault(stream.name, stream)
    buckets = {bucket.name: bucket for bucket in (*contract.stores, *contract.reads)}
    return [*streams.values(), *buckets.values()]


def _overlap(one: str, other: str) -> bool:
    """Whether some subject fits both filters."""
    ours, theirs = one.split("."), other.split(".")
    for a, b in zip(ours, theirs, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(ours) == len(theirs)


def findings(declared: Iterable[Stored], facts: Facts) -> list[Finding]:
    """Everything that falls short of what is declared, or cannot be told; worst first.

    Nothing is said here of what does not stand at all.
    """
    stored = [each for each in declared if _name(each) in facts.standing]
    found = _payload(facts)
    for each in stored:
        found += _keeping(each, facts.standing[_name(each)])
    found += _sync(stored, facts)
    found += _room(facts)
    return sorted(found, key=lambda each: (each.severity != "error", each.check, each.subject))


def refused(found: Iterable[Finding], policy: Policy) -> list[Finding]:
    """The findings with which a service does not start.

    What cannot be told refuses only under ``strict``: a broker that does not let itself be looked
    into is no proof that it forgets, and must not stop a fleet.
    """
    if policy == "degrade":
        return []
    return [
        each
        for each in found
        if each.severity == "error" or (policy == "strict" and each.check == UNKNOWN)
    ]


def _name(stored: Stored) -> str:
    return stored.stream if isinstance(stored, Bucket) else stored.name


def _payload(facts: Facts) -> list[Finding]:
    need = LARGEST_BYTES + _FRAMING_BYTES
    limits = {facts.connected: facts.max_payload_bytes} | {
        server.name: server.max_payload_bytes for server in facts.servers.values()
    }
    return [
        Finding(
            check="max_payload",
            subject=name,
            severity="error",
            found=f"max_payload is {limit:,} bytes, the largest message needs {need:,}",
            why="Large events are refused, and a large message that fails cannot become a dead "
            "letter.",
            remedy=f"in its configuration: max_payload: {-(-need // _MIB)}MB, "
            "then nats-server --signal reload",
        )
        for name, limit in sorted(limits.items())
        if limit < need
    ]


def _keeping(declared: Stored, standing: Standing) -> list[Finding]:
    """One stream's own settings."""
    name, config = declared.name, standing.config
    anew = (
        "it cannot be changed in place: copy its messages away (nats stream backup "
        f"{_name(declared)} DIR), nats stream rm {_name(declared)}, interlock setup, and publish "
        "them again"
    )
    found = []
    if declared.durability == "durable":
        storage = str(config.get("storage", "file"))
        if storage != "file":
            found.append(
                _short(name, "storage", f"storage is {storage}, declared durable", _LOST, anew)
            )
        if config.get("persist_mode") == "async":
            found.append(
                _short(
                    name,
                    "persist_mode",
                    "persist_mode is async, declared durable",
                    "The server acknowledges before it writes: a killed server loses what it "
                    "acknowledged.",
                    anew,
                )
            )
    replicas = int(config.get("num_replicas", 1))
    if replicas < declared.replicas:
        found.append(
            _short(
                name,
                "replicas",
                f"{replicas} of {declared.replicas} declared replicas",
                "It stands still, or is lost, with fewer servers than was promised.",
                f"interlock setup, on a cluster of at least {declared.replicas} servers",
            )
        )
    return found + (_limits(declared, standing) if isinstance(declared, Stream) else [])


def _limits(declared: Stream, standing: Standing) -> list[Finding]:
    found = []
    window_s = int(standing.config.get("duplicate_window", 0)) / 1e9
    if window_s < declared.duplicate_window_s:
        found.append(
            _short(
                declared.name,
                "duplicate_window",
                f"duplicate_window is {window_s:g} s, declared {declared.duplicate_window_s} s",
                "A publish that is repeated later than that under one id is stored twice.",
                "interlock setup",
            )
        )
    size = int(standing.config.get("max_msg_size", -1))
    need = declared.max_message_bytes
    if size >= 0 and (need < 0 or size < need):
        found.append(
            _short(
                declared.name,
                "max_msg_size",
                f"max_msg_size is {size:,}, declared {need:,}" if need >= 0 else
                f"max_msg_size is {size:,}, declared without limit",
                "Messages between both sizes are refused.",
                "interlock setup",
            )
        )  # fmt: skip
    return found


def _short(subject: str, check: str, found: str, why: str, remedy: str) -> Finding:
    return Finding(
        check=check, subject=subject, severity="error", found=found, why=why, remedy=remedy
    )


def _sync(declared: Iterable[Stored], facts: Facts) -> list[Finding]:
    """Each server that holds something durable in files, and syncs late or does not say."""
    held: dict[str, list[str]] = {}
    unled: list[str] = []
    for each in declared:
        standing = facts.standing[_name(each)]
        if each.durability != "durable" or standing.config.get("storage", "file") != "file":
            continue
        for holder in standing.servers:
            held.setdefault(holder, []).append(each.name)
        if not standing.servers:
            unled.append(each.name)
    found = []
    for name, streams in sorted(held.items()):
        server = facts.servers.get(name)
        if server is not None and not server.sync_always:
            found.append(
                _short(
                    name,
                    "sync",
                    f"sync_interval is {_interval(server.sync_interval_s)}, and it stores "
                    f"{', '.join(sorted(streams))}, declared durable",
                    _LOST,
                    "in its configuration: jetstream { sync_interval: always }, then restart it "
                    "(in a cluster one after the other)",
                )
            )
    unread = sorted(held.keys() - facts.servers.keys())
    if unread or unled:
        found.append(
            Finding(
                check=UNKNOWN,
                subject=", ".join(unread or sorted(unled)),
                severity="warning",
                found="cannot tell whether what is acknowledged is on disk "
                f"(sync_interval): {facts.silent}",
                why=_LOST,
                remedy=f"in the broker's configuration, let the system account export the service "
                f"{SERVERS} with response_type: stream, and our account import it; or set "
                "INTERLOCK_NATS_SYSTEM_USER and INTERLOCK_NATS_SYSTEM_PASSWORD to a user of the "
                "system account",
            )
        )
    return found


def _interval(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}m" if minutes and not rest else f"{seconds:g}s"


def _room(facts: Facts) -> list[Finding]:
    """Limits that are reached, or nearly."""
    found = []
    for server in facts.servers.values():
        if server.storable_bytes > 0:
            found += _full(
                "disk",
                server.name,
                "bytes of JetStream storage",
                server.stored_bytes,
                server.storable_bytes,
                LARGEST_BYTES,
                "give it a larger disk or a larger jetstream { max_file_store }, or let streams "
                "keep less",
            )
    for account in facts.accounts:
        subject = f"account, {account.tier}" if account.tier else "account"
        remedy = "raise the account's limit, or delete what nobody needs"
        for what, used, limit, one in (
            ("bytes of storage", account.stored_bytes, account.storable_bytes, LARGEST_BYTES),
            ("streams", account.streams, account.max_streams, 0),
            ("consumers", account.consumers, account.max_consumers, 0),
        ):
            if limit >= 0:
                found += _full("limits", subject, what, used, limit, one, remedy)
    return found


def _full(
    check: str, subject: str, what: str, used: int, limit: int, one: int, remedy: str
) -> list[Finding]:
    """`one` is what the next thing may take."""
    if used < limit * _NEARLY and used + one <= limit:
        return []
    full = used + one > limit
    return [
        Finding(
            check=check,
            subject=subject,
            severity="error" if full else "warning",
            found=f"{used:,} of {limit:,} {what} used",
            why="The broker refuses what goes beyond it."
            if full
            else "When it is reached, the broker refuses what goes beyond it.",
            remedy=remedy,
        )
    ]
