"""What has to happen to a stream, a bucket or a consumer, given what stands."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.provisioning import Change, bucket_config, consumer_config, plan, stream_config
from interlock_schemas.topology import BUCKETS, DEAD, EVENTS, LETTERS, STREAMS, Consumer, Stream

HOUR_NS = 3_600 * 10**9
STREAM = stream_config(EVENTS)
CONSUMER = Consumer(stream=EVENTS, name="worker", filters=("events.b.>", "events.a.>"))

ANSWERED = {"max_msgs": -1, "max_bytes": -1, "sealed": False, "metadata": {"_nats.level": "1"}}


def stream_plan(standing: dict[str, Any] | None, **declared: Any) -> Change:
    return plan("stream", "EVENTS", {**STREAM, **declared}, standing)


def changed(change: Change) -> dict[str, bool]:
    return {difference.setting: difference.safe for difference in change.differences}


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_a_stream_that_stands_as_declared_needs_nothing(stream: Stream) -> None:
    config = stream_config(stream)
    assert plan("stream", stream.name, config, config | ANSWERED).action == "none"


def test_a_bucket_that_stands_as_declared_needs_nothing() -> None:
    for bucket in BUCKETS:
        config = bucket_config(bucket)
        assert plan("bucket", bucket.name, config, config | ANSWERED).action == "none"


def test_what_is_missing_is_created() -> None:
    change = stream_plan(None)
    assert (change.action, change.differences) == ("create", ())
    assert change.describe() == "stream EVENTS: missing"


def test_the_order_of_subjects_does_not_matter() -> None:
    declared = stream_config(msgspec.structs.replace(EVENTS, subjects=("a.>", "b.>")))
    standing = declared | {"subjects": ["b.>", "a.>"]}
    assert plan("stream", "EVENTS", declared, standing).action == "none"


@pytest.mark.parametrize(
    ("setting", "stands", "declared"),
    [
        ("max_age", HOUR_NS, 2 * HOUR_NS),
        ("max_age", HOUR_NS, 0),
        ("max_msg_size", 1_024, 2_048),
        ("max_msg_size", 1_024, -1),
        ("num_replicas", 1, 3),
        ("subjects", ["a.>"], ["a.>", "b.>"]),
        ("duplicate_window", HOUR_NS, 2 * HOUR_NS),
        ("description", "old words", "new words"),
        ("allow_atomic", False, True),
        ("allow_batched", False, True),
    ],
)
def test_what_is_widened_is_updated(setting: str, stands: Any, declared: Any) -> None:
    change = stream_plan(STREAM | {setting: stands}, **{setting: declared})
    assert change.action == "update"
    assert changed(change) == {setting: True}


@pytest.mark.parametrize(
    ("setting", "stands", "declared"),
    [
        ("max_age", 2 * HOUR_NS, HOUR_NS),
        ("max_age", 0, HOUR_NS),
        ("max_msg_size", 2_048, 1_024),
        ("max_msg_size", -1, 1_024),
        ("subjects", ["a.>", "b.>"], ["a.>"]),
        ("subjects", ["a.>"], ["b.>"]),
        ("storage", "memory", "file"),
        ("retention", "workqueue", "limits"),
    ],
)
def test_what_would_shrink_or_be_made_anew_is_refused(
    setting: str, stands: Any, declared: Any
) -> None:
    change = stream_plan(STREAM | {setting: stands}, **{setting: declared})
    assert change.action == "refuse"
    assert changed(change) == {setting: False}
    assert f"{setting} is {stands!r}, declared {declared!r}" in change.describe()


def test_one_difference_that_is_not_safe_refuses_them_all() -> None:
    change = stream_plan(STREAM | {"storage": "memory", "description": "old words"})
    assert change.action == "refuse"
    assert changed(change) == {"storage": False, "description": True}


def test_a_bucket_that_keeps_more_than_the_last_value_is_refused() -> None:
    config = bucket_config(LETTERS)
    standing = config | {"max_msgs_per_subject": 5}
    assert plan("bucket", "letters", config, standing).action == "refuse"


def test_a_setting_that_the_broker_leaves_out_has_its_zero() -> None:
    config = stream_config(DEAD) | {"max_age": 0, "allow_atomic": False, "description": ""}
    standing = {
        key: value
        for key, value in config.items()
        if key not in ("max_age", "allow_atomic", "description")
    }
    assert plan("stream", "DEAD", config, standing).action == "none"


@given(st.integers(-1, 5), st.integers(-1, 5))
def test_a_limit_is_never_lowered(stands: int, declared: int) -> None:
    change = stream_plan(STREAM | {"max_msg_size": stands}, max_msg_size=declared)
    if change.action == "update":
        assert declared <= 0 or 0 < stands < declared


@given(st.integers(1, 5), st.integers(1, 5))
def test_the_declared_number_of_replicas_is_a_minimum(stands: int, declared: int) -> None:
    change = stream_plan(STREAM | {"num_replicas": stands}, num_replicas=declared)
    assert change.action == ("none" if stands >= declared else "update")


@pytest.mark.parametrize("stands", [1, 3])
def test_a_consumer_with_replicas_of_its_own_is_made_to_follow_its_stream(stands: int) -> None:
    declared = consumer_config(CONSUMER)
    change = plan("consumer", "worker", declared, declared | {"num_replicas": stands})
    assert (change.action, changed(change)) == ("update", {"num_replicas": True})


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_every_stream_takes_atomic_batches_and_fast_ingest(stream: Stream) -> None:
    config = stream_config(stream)
    assert config["allow_atomic"]
    assert config["allow_batched"]


@pytest.mark.parametrize("mode", [None, "default"])
def test_what_is_durable_is_persisted_first_whichever_way_the_broker_says_so(
    mode: str | None,
) -> None:
    standing = {k: v for k, v in STREAM.items() if k != "persist_mode"}
    if mode is not None:
        standing["persist_mode"] = mode
    assert stream_plan(standing).action == "none"
    change = stream_plan(standing | {"persist_mode": "async"})
    assert (change.action, changed(change)) == ("refuse", {"persist_mode": False})


def test_what_is_fast_may_be_persisted_later() -> None:
    fast = stream_config(msgspec.structs.replace(EVENTS, durability="fast"))
    assert plan("stream", "EVENTS", fast, fast | {"persist_mode": "async"}).action == "none"


def test_a_lone_filter_may_stand_in_either_spelling() -> None:
    declared = consumer_config(msgspec.structs.replace(CONSUMER, filters=("events.a.>",)))
    several = declared | ANSWERED
    single = {k: v for k, v in several.items() if k != "filter_subjects"}
    single["filter_subject"] = "events.a.>"
    assert plan("consumer", "worker", declared, several).action == "none"
    assert plan("consumer", "worker", declared, single).action == "none"


def test_filters_are_compared_as_a_set() -> None:
    declared = consumer_config(CONSUMER)
    standing = declared | {"filter_subjects": ["events.b.>", "events.a.>"]}
    assert plan("consumer", "worker", declared, standing).action == "none"


def test_a_consumer_may_be_filtered_and_paced_otherwise() -> None:
    declared = consumer_config(CONSUMER)
    standing = declared | {"filter_subjects": ["events.c.>"], "ack_wait": 1, "max_ack_pending": 1}
    change = plan("consumer", "worker", declared, standing)
    assert change.action == "update"
    assert changed(change).keys() == {"filter_subjects", "ack_wait", "max_ack_pending"}


@pytest.mark.parametrize(("setting", "stands"), [("ack_policy", "none"), ("deliver_policy", "new")])
def test_a_consumer_is_not_made_anew(setting: str, stands: str) -> None:
    declared = consumer_config(CONSUMER)
    assert plan("consumer", "worker", declared, declared | {setting: stands}).action == "refuse"


def test_a_consumer_is_redelivered_without_limit() -> None:
    assert consumer_config(CONSUMER)["max_deliver"] == -1


def test_planning_changes_nothing_that_it_was_given() -> None:
    declared, standing = consumer_config(CONSUMER), {"filter_subject": "events.a.>"}
    plan("consumer", "worker", declared, standing)
    assert standing == {"filter_subject": "events.a.>"}
    assert declared == consumer_config(CONSUMER)
