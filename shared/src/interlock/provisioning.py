"""Streams, buckets and consumers on a broker: what is declared against what stands.

`plan` compares, purely. `apply` carries a plan out, for `interlock setup`; it only ever adds or
widens, and refuses what would shrink or recreate something that may hold data. `verify` is the
start-up check of a service: it changes nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from interlock.broker import MIN_VERSION
from interlock.bus import ApiError, Bus
from interlock.errors import ContractBroken
from interlock_schemas.contracts import Contract
from interlock_schemas.topology import BUCKETS, STREAMS, Bucket, Consumer, Stream

__all__ = [
    "Change",
    "Difference",
    "apply",
    "bucket_config",
    "consumer_config",
    "plan",
    "stream_config",
    "verify",
]

#: A bucket's deletion markers stay for so long, seconds.
_MARKER_TTL_S: Final = 60

#: Settings that an existing stream may only have at least as large as declared, or unlimited.
_LIMITS: Final = ("max_age", "max_bytes", "max_msgs", "max_msg_size", "max_msgs_per_subject")
#: Who made a consumer, in its description; and what makes it the same one.
_WORKERS: Final = "consumer of workers"
_IDENTITY: Final = ("description", "filter_subjects")
#: Settings that cannot be changed without making the thing anew.
_FIXED: Final = ("storage", "retention", "ack_policy", "deliver_policy")


class Difference(msgspec.Struct, frozen=True):
    """One setting that stands otherwise than declared."""

    setting: str
    declared: Any
    standing: Any
    safe: bool
    """Whether it can be mended without touching data."""


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
        "allow_msg_ttl": True,
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
        "max_msgs_per_subject": 1,
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
        "subject_delete_marker_ttl": _ns(_MARKER_TTL_S),
    }


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
    }


def plan(
    kind: Literal["stream", "bucket", "consumer"],
    name: str,
    declared: Mapping[str, Any],
    standing: Mapping[str, Any] | None,
) -> Change:
    """Compare one declared configuration with what stands (None: nothing). Pure."""
    if standing is None:
        return Change(kind=kind, name=name, action="create")
    standing = dict(standing)
    if "filter_subject" in standing and "filter_subjects" not in standing:
        standing["filter_subjects"] = [standing["filter_subject"]]
    differences = []
    for setting, want in declared.items():
        have = standing.get(setting)
        if isinstance(want, list):
            have = sorted(have or [])
        if have is None:
            have = type(want)()
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
    if setting == "num_replicas":
        return bool(want > have)
    return True


def _require_version(bus: Bus) -> None:
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


async def _changes(
    bus: Bus,
    streams: Iterable[Stream],
    buckets: Iterable[Bucket],
    consumers: Iterable[Consumer],
) -> list[tuple[Change, str, dict[str, Any]]]:
    """Each change with the API verb and the payload that would carry it out."""
    found: list[tuple[Change, str, dict[str, Any]]] = []
    for stream in streams:
        config = stream_config(stream)
        standing = await _standing(bus, f"STREAM.INFO.{stream.name}")
        change = plan("stream", stream.name, config, standing)
        found.append((change, stream.name, {**(standing or {}), **config}))
    for bucket in buckets:
        config = bucket_config(bucket)
        standing = await _standing(bus, f"STREAM.INFO.{bucket.stream}")
        change = plan("bucket", bucket.name, config, standing)
        found.append((change, bucket.stream, {**(standing or {}), **config}))
    for consumer in consumers:
        config = consumer_config(consumer)
        verb = f"CONSUMER.INFO.{consumer.stream.name}.{consumer.name}"
        standing = await _standing(bus, verb)
        change = plan("consumer", consumer.name, config, standing)
        payload = {**(standing or {}), **config}
        payload.pop("filter_subject", None)
        found.append((change, consumer.stream.name, payload))
    return found


async def apply(bus: Bus, contracts: Iterable[Contract], *, dry_run: bool = False) -> list[Change]:
    """Make the broker hold what is declared. Running it again changes nothing.

    Raises ContractBroken, before anything is changed, when a declared setting would shrink or
    recreate what stands.
    """
    _require_version(bus)
    consumers = [consumer for contract in contracts for consumer in contract.consumes]
    work = await _changes(bus, STREAMS, BUCKETS, ())
    missing_streams = {c.name for c, _, _ in work if c.kind == "stream" and c.action == "create"}
    refused = [change for change, _, _ in work if change.action == "refuse"]
    existing = [c for c in consumers if c.stream.name not in missing_streams]
    consumer_work = await _changes(bus, (), (), existing)
    refused += [change for change, _, _ in consumer_work if change.action == "refuse"]
    if refused:
        raise ContractBroken(
            "refusing to shrink or recreate what may hold data: "
            + " · ".join(change.describe() for change in refused)
            + ". Move the data away or change the declaration, then run `interlock setup` again."
        )
    changes = [change for change, _, _ in work]
    if not dry_run:
        for change, target, payload in work:
            if change.action in ("create", "update"):
                await bus.api(f"STREAM.{change.action.upper()}.{target}", payload)
        consumer_work = await _changes(bus, (), (), consumers)
    else:
        changes += [
            Change(kind="consumer", name=c.name, action="create")
            for c in consumers
            if c.stream.name in missing_streams
        ]
    for change, stream, payload in consumer_work:
        changes.append(change)
        if not dry_run and change.action in ("create", "update"):
            await create_consumer(bus, stream, payload)
    return changes


async def ensure_worker_consumer(bus: Bus, consumer: Consumer) -> None:
    """Have a worker's durable consumer stand, making it where it is missing.

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
        config["deliver_policy"] = standing["deliver_policy"]
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


async def verify(bus: Bus, contract: Contract) -> None:
    """The start-up check: raise ContractBroken when the broker lacks what a service needs."""
    _require_version(bus)
    streams = {consumer.stream.name: consumer.stream for consumer in contract.consumes}
    buckets = {bucket.name: bucket for bucket in (*contract.stores, *contract.reads)}
    work = await _changes(bus, streams.values(), buckets.values(), contract.consumes)
    wrong = [change.describe() for change, _, _ in work if change.action != "none"]
    if wrong:
        raise ContractBroken(
            f"the broker does not hold what {contract.name} needs ({' · '.join(wrong)}): "
            "run `interlock setup`, then start again"
        )
