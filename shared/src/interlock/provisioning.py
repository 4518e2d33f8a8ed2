"""Streams, buckets and consumers on a broker: what is declared against what stands.

`plan` compares, purely. `apply` carries a plan out, for `interlock setup`; it only ever adds or
widens, and refuses what would shrink or recreate something that may hold data. `verify` is the
start-up check of a service: it changes nothing, and leaves it to `interlock.durability` to judge
how safely things are kept.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from interlock import rising
from interlock.broker import MIN_VERSION
from interlock.bus import ApiError, Bus
from interlock.clock import now
from interlock.diagnosis import GUARANTEES
from interlock.errors import ContractBroken
from interlock_schemas.contracts import Contract
from interlock_schemas.topology import (
    BUCKETS,
    STREAMS,
    Bucket,
    Consumer,
    Durability,
    Stored,
    Stream,
)

__all__ = [
    "Change",
    "Difference",
    "apply",
    "bucket_config",
    "changes",
    "consumer_config",
    "first_revision",
    "plan",
    "require_version",
    "stream_config",
    "verify",
]

#: Settings that an existing stream may only have at least as large as declared, or unlimited.
_LIMITS: Final = ("max_age", "max_bytes", "max_msgs", "max_msg_size", "max_msgs_per_subject")
#: Who made a consumer, in its description; and what makes it the same one.
_WORKERS: Final = "consumer of workers"
_IDENTITY: Final = ("description", "filter_subjects")
#: What stays as it stands: where it began, and whether it is paused.
_KEPT: Final = ("deliver_policy", "opt_start_seq", "opt_start_time", "pause_until")
#: The mode in which a message is written before it is acknowledged. The broker does not spell it
#: out for what stands.
_PERSISTED_FIRST: Final = "default"
#: What the broker says, by code, when it has not as many servers as replicas.
_TOO_FEW_SERVERS: Final = (10005, 10074)
#: More than this the broker refuses.
_MOST_REPLICAS: Final = 5
#: Settings that cannot be changed without making the thing anew.
_FIXED: Final = ("storage", "persist_mode", "retention", "ack_policy", "deliver_policy")


class Difference(msgspec.Struct, frozen=True):
    """One setting that stands otherwise than declared."""

    setting: str
    declared: Any
    standing: Any
    safe: bool
    """Whether it can be mended without touching data."""


#: What is wrong with a bucket that came out of a backup: it is made anew, not updated.
_RESTORED: Final = Difference("revisions", "rising", "restored from a backup", safe=True)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What has to happen to one stream, bucket or consumer."""

    kind: Literal["stream", "bucket", "consumer"]
    name: str
    action: Literal["create", "update", "none", "refuse"]
    differences: tuple[Difference, ...] = ()

    def describe(self) -> str:
        """One line for a person."""
        what = f"{self.kind} {self.name}"
        if self.action == "create":
            return f"{what}: missing"
        details = "; ".join(
            f"{d.setting} is {d.standing!r}, declared {d.declared!r}" for d in self.differences
        )
        return f"{what}: {details or 'as declared'}"


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)


def stream_config(stream: Stream) -> dict[str, Any]:
    """The JetStream configuration of a declared stream."""
    return {
        "name": stream.name,
        "description": stream.summary,
        "subjects": sorted(stream.subjects),
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_age": _ns(stream.max_age_s),
        "max_msg_size": stream.max_message_bytes,
        "max_bytes": -1,
        "max_msgs": -1,
        "duplicate_window": _ns(stream.duplicate_window_s),
        "num_replicas": stream.replicas,
        "allow_direct": True,
        "allow_atomic": True,
        # Fast ingest, for the bulk lane.
        "allow_batched": True,
        "allow_msg_ttl": True,
        **_persistence(stream.durability),
    }


def bucket_config(bucket: Bucket) -> dict[str, Any]:
    """The JetStream configuration of a declared bucket."""
    return {
        "name": bucket.stream,
        "description": bucket.summary,
        "subjects": [bucket.subject],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": bucket.limit_per_key,
        "max_age": 0,
        "max_bytes": -1,
        "max_msgs": -1,
        "duplicate_window": _ns(120),
        "num_replicas": bucket.replicas,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_atomic": True,
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": _ns(bucket.marker_ttl_s),
        **_persistence(bucket.durability),
    }


def first_revision(at: datetime) -> int:
    """Where a bucket begins to count that is made at this time.

    A million a second: more than one that was made earlier can have counted since, so what is
    made anew goes on above it. Below 2**53, which every JSON reader can take, until the year 2242.
    """
    return int(at.timestamp()) << 20


def _persistence(durability: Durability) -> dict[str, str]:
    return {"persist_mode": _PERSISTED_FIRST} if durability == "durable" else {}


def consumer_config(consumer: Consumer) -> dict[str, Any]:
    """The JetStream configuration of a declared consumer."""
    return {
        "durable_name": consumer.name,
        "ack_policy": "explicit",
        "deliver_policy": "all" if consumer.from_start else "new",
        "ack_wait": _ns(consumer.ack_wait_s),
        "max_deliver": -1,
        "max_ack_pending": consumer.max_ack_pending,
        "filter_subjects": sorted(consumer.filters),
        # As many as the stream has.
        "num_replicas": 0,
    }


def plan(
    kind: Literal["stream", "bucket", "consumer"],
    name: str,
    declared: Mapping[str, Any],
    standing: Mapping[str, Any] | None,
) -> Change:
    """Compare one declared configuration with what stands (None: nothing). Pure.

    The number of replicas is a minimum: more of them are as declared.
    """
    if standing is None:
        return Change(kind=kind, name=name, action="create")
    standing = dict(standing)
    if "filter_subject" in standing and "filter_subjects" not in standing:
        standing["filter_subjects"] = [standing["filter_subject"]]
    differences = []
    for setting, want in declared.items():
        have = standing.get(setting)
        if setting == "persist_mode":
            have = have or _PERSISTED_FIRST
        if isinstance(want, list):
            have = sorted(have or [])
        if have is None:
            have = type(want)()
        if setting == "num_replicas" and have > want > 0:
            continue
        if have != want:
            differences.append(Difference(setting, want, have, _safe(setting, want, have)))
    if not differences:
        return Change(kind=kind, name=name, action="none")
    safe = all(difference.safe for difference in differences)
    return Change(
        kind=kind,
        name=name,
        action="update" if safe else "refuse",
        differences=tuple(differences),
    )


def _unlimited(value: Any) -> bool:
    return isinstance(value, int) and value <= 0


def _safe(setting: str, want: Any, have: Any) -> bool:
    if setting in _FIXED:
        return False
    if setting in _LIMITS:
        return _unlimited(want) or (not _unlimited(have) and want > have)
    if setting == "subjects":
        return set(have) <= set(want)
    return True


def require_version(bus: Bus) -> None:
    """Raise ContractBroken for a broker too old for what is declared."""
    version = str(bus.server.get("version", "0"))
    numbers = tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdigit())
    if numbers < MIN_VERSION:
        raise ContractBroken(
            f"the broker at {bus.url} is nats-server {version}: "
            f"{'.'.join(map(str, MIN_VERSION))} or newer is needed"
        )


async def _standing(bus: Bus, verb: str) -> dict[str, Any] | None:
    try:
        answer = await bus.api(verb)
    except ApiError as error:
        if error.code == 404:
            return None
        raise
    config: dict[str, Any] = answer["config"]
    return config


def _merged(declared: Mapping[str, Any], standing: Mapping[str, Any] | None) -> dict[str, Any]:
    """What an update asks for: as declared, and all else as it stands, replicas included."""
    standing = standing or {}
    replicas = max(declared["num_replicas"], standing.get("num_replicas", 0))
    return {**standing, **declared, "num_replicas": replicas}


def _as_may_be(
    stored: Stored, config: dict[str, Any], standing: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What is fast is made in files, and may as well stand in memory."""
    if standing is not None and stored.durability == "fast":
        return config | {"storage": standing["storage"]}
    return config


async def changes(
    bus: Bus,
    streams: Iterable[Stream],
    buckets: Iterable[Bucket],
    consumers: Iterable[Consumer],
    *,
    replicas: int | None = None,
) -> list[tuple[Change, str, dict[str, Any]]]:
    """Each change with the API verb and the payload that would carry it out."""
    found: list[tuple[Change, str, dict[str, Any]]] = []
    copies = {} if replicas is None else {"num_replicas": replicas}
    for stream in streams:
        standing = await _standing(bus, f"STREAM.INFO.{stream.name}")
        config = _as_may_be(stream, stream_config(stream) | copies, standing)
        change = plan("stream", stream.name, config, standing)
        found.append((change, stream.name, _merged(config, standing)))
    for bucket in buckets:
        standing = await _standing(bus, f"STREAM.INFO.{bucket.stream}")
        config = _as_may_be(bucket, bucket_config(bucket) | copies, standing)
        change = plan("bucket", bucket.name, config, standing)
        payload = _merged(config, standing)
        if bucket.rising and standing is None:
            payload["first_seq"] = first_revision(now())
        elif bucket.rising and await rising.standing(bus, bucket) == "restored":
            change = Change(
                kind="bucket",
                name=bucket.name,
                action="refuse" if change.action == "refuse" else "update",
                differences=(*change.differences, _RESTORED),
            )
            payload["first_seq"] = first_revision(now())
        found.append((change, bucket.stream, payload))
    for consumer in consumers:
        config = consumer_config(consumer)
        verb = f"CONSUMER.INFO.{consumer.stream.name}.{consumer.name}"
        standing = await _standing(bus, verb)
        change = plan("consumer", consumer.name, config, standing)
        payload = {**(standing or {}), **config}
        payload.pop("filter_subject", None)
        found.append((change, consumer.stream.name, payload))
    return found


async def apply(
    bus: Bus,
    contracts: Iterable[Contract],
    *,
    dry_run: bool = False,
    replicas: int | None = None,
) -> list[Change]:
    """Make the broker hold what is declared. Running it again changes nothing.

    `replicas` (1 to 5) stands in for the declared number of every stream and bucket; consumers
    follow their stream. What already has more keeps them.

    Raises ValueError for another number of replicas; ContractBroken, before anything is changed,
    when a declared setting would shrink or recreate what stands; and ContractBroken when there are
    fewer servers than replicas.
    """
    if replicas is not None and not 1 <= replicas <= _MOST_REPLICAS:
        raise ValueError(f"replicas is 1 to {_MOST_REPLICAS}, not {replicas}")
    require_version(bus)
    consumers = [consumer for contract in contracts for consumer in contract.consumes]
    work = await changes(bus, STREAMS, BUCKETS, (), replicas=replicas)
    missing_streams = {c.name for c, _, _ in work if c.kind == "stream" and c.action == "create"}
    refused = [change for change, _, _ in work if change.action == "refuse"]
    existing = [c for c in consumers if c.stream.name not in missing_streams]
    consumer_work = await changes(bus, (), (), existing)
    refused += [change for change, _, _ in consumer_work if change.action == "refuse"]
    if refused:
        raise ContractBroken(
            "refusing to shrink or recreate what may hold data: "
            + " · ".join(change.describe() for change in refused)
            + ". Move the data away or change the declaration, then run `interlock setup` again."
        )
    planned = [change for change, _, _ in work]
    if not dry_run:
        for change, target, payload in work:
            if change.action in ("create", "update") and _RESTORED not in change.differences:
                await _put_stream(bus, f"STREAM.{change.action.upper()}.{target}", payload)
        for bucket in BUCKETS:
            if bucket.rising:
                payload = next(payload for _, name, payload in work if name == bucket.stream)
                await rising.ensure(bus, bucket, payload)
        consumer_work = await changes(bus, (), (), consumers)
    else:
        planned += [
            Change(kind="consumer", name=c.name, action="create")
            for c in consumers
            if c.stream.name in missing_streams
        ]
    for change, stream, payload in consumer_work:
        planned.append(change)
        if not dry_run and change.action in ("create", "update"):
            await create_consumer(bus, stream, payload)
    return planned


async def _put_stream(bus: Bus, verb: str, payload: Mapping[str, Any]) -> None:
    try:
        await bus.api(verb, payload)
    except ApiError as error:
        if error.err_code not in _TOO_FEW_SERVERS:
            raise
        replicas = payload["num_replicas"]
        raise ContractBroken(
            f"{error}: {replicas} replicas take a cluster of at least {replicas} servers with "
            "room for them. Add servers, or ask for fewer with `interlock setup --replicas`"
        ) from error


async def ensure_worker_consumer(
    bus: Bus, consumer: Consumer, *, begin_at: int | None = None
) -> None:
    """Have a worker's durable consumer stand, making it where it is missing.

    One that is made begins at the stream sequence `begin_at`, or else as declared.

    Raises ContractBroken when the name is a service's, or stands for other events: whoever
    consumes under one name shares the work, so it must mean the same to all of them.
    """
    standing = await _standing(bus, f"CONSUMER.INFO.{consumer.stream.name}.{consumer.name}")
    config = {**consumer_config(consumer), "description": _WORKERS}
    if standing is not None:
        change = plan("consumer", consumer.name, {k: config[k] for k in _IDENTITY}, standing)
        if change.action != "none":
            raise ContractBroken(
                f"{change.describe()}. The name is in use for something else: choose another"
            )
        config |= {setting: standing[setting] for setting in _KEPT if setting in standing}
    elif begin_at is not None:
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": begin_at}
    await create_consumer(bus, consumer.stream.name, config)


async def create_consumer(bus: Bus, stream: str, config: Mapping[str, Any]) -> None:
    """Create a durable consumer, or bring an existing one to this configuration.

    Raises ContractBroken when the stream is missing or the consumer cannot be changed so.
    """
    try:
        await bus.api(
            f"CONSUMER.CREATE.{stream}.{config['durable_name']}",
            {"stream_name": stream, "config": dict(config)},
        )
    except ApiError as error:
        if error.code == 404:
            raise ContractBroken(f"stream {stream} is missing: run `interlock setup`") from error
        raise ContractBroken(
            f"consumer {config['durable_name']} stands otherwise: {error}. Choose another name, "
            "or delete it and start again"
        ) from error


def _lacking(change: Change) -> bool:
    """Whether a service could not work on it; how safely it keeps is another question."""
    return change.action == "create" or any(
        difference.setting not in GUARANTEES for difference in change.differences
    )


async def verify(bus: Bus, contract: Contract) -> None:
    """The start-up check: raise ContractBroken when the broker lacks what a service needs."""
    require_version(bus)
    streams = {consumer.stream.name: consumer.stream for consumer in contract.consumes}
    buckets = {bucket.name: bucket for bucket in (*contract.stores, *contract.reads)}
    work = await changes(bus, streams.values(), buckets.values(), contract.consumes)
    wrong = [change.describe() for change, _, _ in work if _lacking(change)]
    if wrong:
        raise ContractBroken(
            f"the broker does not hold what {contract.name} needs ({' · '.join(wrong)}): "
            "run `interlock setup`, then start again"
        )
    for bucket in contract.stores:
        if bucket.rising:
            await rising.verify(bus, bucket)
