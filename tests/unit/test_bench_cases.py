"""What the benchmark measures: the same for all, bounded, and what the ratios are read from."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.bench import cases, message
from interlock.bench.cases import RATIOS, Case, Choice, Setting, Sync
from interlock.bench.growth import BASE, needed_bytes
from interlock.bench.result import Measured, rate_of, ratios
from interlock_schemas import subjects
from interlock_schemas.training import TrainingProgressed

ALL = ("interlock", "nats_py", "faststream")
_SETTINGS = st.builds(
    Setting,
    replicas=st.sampled_from((1, 3)),
    sync=st.sampled_from(("always", "default")),
    size=st.sampled_from(cases.SIZES),
)


@given(st.integers(128, 100_000), st.integers(0, 2**63 - 1))
def test_a_body_is_an_event_of_exactly_the_size(size: int, at_ns: int) -> None:
    body = message.body(size, at_ns=at_ns)
    assert len(body) == size
    event = msgspec.json.decode(body, type=TrainingProgressed)
    assert event.config == message.KEY
    assert msgspec.json.decode(body)[message.AT_NS] == at_ns


def test_a_body_too_small_for_the_event_is_refused() -> None:
    with pytest.raises(ValueError, match="smallest"):
        message.body(127)


def test_the_message_goes_where_events_of_its_type_go() -> None:
    assert subjects.parse_event(message.SUBJECT) == TrainingProgressed.event_type
    assert message.headers("run-1", 7) == {"Nats-Msg-Id": "run-1-7"}
    assert message.headers("run-1", 7) != message.headers("run-2", 7)


@pytest.mark.parametrize("quick", [False, True])
def test_every_ratio_is_measured(quick: bool) -> None:
    groups = cases.groups(Choice(quick=quick), ALL)
    for ratio in RATIOS:
        setting = Setting(1, ratio.sync, cases.COMPARED_SIZE)
        (group,) = [g for g in groups if g.kind == ratio.kind and g.setting == setting]
        assert {ratio.ours, ratio.theirs} <= {case.name for case in group.cases}
        assert group.runs >= 3


def test_quick_is_one_size_and_one_replica() -> None:
    groups = cases.groups(Choice(quick=True), ALL)
    assert {(g.setting.size, g.setting.replicas) for g in groups} == {(256, 1)}
    assert cases.estimate_s(groups, latency_s=0, normalizer_s=15) < 60


def test_the_whole_table_is_bounded_and_complete() -> None:
    groups = cases.groups(Choice(), ALL)
    for size in cases.SIZES:
        for replicas in (1, 3):
            for sync in ("always", "default"):
                found = [g for g in groups if g.setting == Setting(replicas, sync, size)]
                assert {g.kind for g in found} == {"publish", "consume"}
    assert cases.estimate_s(groups, latency_s=120, normalizer_s=30) < 900


def test_a_choice_is_kept_to() -> None:
    choice = Choice(sizes=(1_024,), replicas=(3,), sync=("default",), parts=("consume",), runs=2)
    (group,) = cases.groups(choice, ALL)
    assert group.setting == Setting(3, "default", 1_024)
    assert (group.kind, group.runs) == ("consume", 2)


def test_groups_of_one_broker_stand_together() -> None:
    brokers = [(g.setting.replicas, g.setting.sync) for g in cases.groups(Choice(), ALL)]
    changes = sum(one != other for one, other in itertools.pairwise(brokers))
    assert changes + 1 == len(set(brokers))


def test_a_client_that_is_not_installed_is_left_out() -> None:
    groups = cases.groups(Choice(), ("interlock", "nats_py"))
    assert {case.client for g in groups for case in g.cases} == {"interlock", "nats_py"}


@given(_SETTINGS, st.floats(0.02, 60), st.floats(0.1, 1e7))
def test_no_run_is_endless(setting: Setting, run_s: float, rate: float) -> None:
    counts = [
        cases.next_count(setting, run_s, rate),
        cases.messages("publish", setting, run_s),
        cases.messages("consume", setting, run_s),
    ]
    for count in counts:
        assert 1 <= count <= 200_000
        assert count * setting.size <= 96 * 1024 * 1024


@given(_SETTINGS, st.floats(0.02, 60))
def test_a_faster_client_gets_no_fewer_messages(setting: Setting, run_s: float) -> None:
    counts = [cases.next_count(setting, run_s, rate) for rate in (10, 1_000, 100_000)]
    assert counts == sorted(counts)


def _measured(name: str, sync: Sync, rates: tuple[float, ...], *, fastest: bool = True) -> Measured:
    client, _, way = name.partition(" ")
    case = msgspec.convert({"client": client, "way": way}, Case)
    return Measured(
        kind="publish",
        setting=Setting(1, sync, 256),
        case=case,
        tuned=0,
        fastest=fastest,
        count=100,
        rates=rates,
    )


def test_ratios_are_medians_of_pairs_with_the_other_at_its_best() -> None:
    found = [
        _measured("interlock publish_soon", "always", (10, 40, 90)),
        _measured("nats_py publish_async", "always", (10, 20, 30)),
        _measured("nats_py publish_async", "always", (1, 1, 1), fastest=False),
    ]
    medians, pairs = ratios(found)
    assert pairs == {"durable_publish_vs_nats_py_async": [1, 2, 3]}
    assert medians["durable_publish_vs_nats_py_async"] == 2


def test_what_was_not_measured_has_no_ratio() -> None:
    medians, pairs = ratios([_measured("interlock publish_soon", "always", (10,))])
    assert set(medians) == {ratio.name for ratio in RATIOS}
    assert set(medians.values()) == {None}
    assert not pairs


def test_a_rate_tells_all_that_it_depends_on() -> None:
    rate = rate_of(_measured("interlock bulk", "default", (3, 1, 2)))
    assert (rate.median, rate.min, rate.max, rate.runs) == (2, 1, 3, 3)
    assert (rate.client, rate.way, rate.sync, rate.size) == ("interlock", "bulk", "default", 256)


@given(st.integers(BASE, 10**8), st.integers(1, 10**6))
def test_more_messages_need_more_disk(messages: int, more: int) -> None:
    assert needed_bytes(messages) >= messages * 256
    assert needed_bytes(messages + more) > needed_bytes(messages)
