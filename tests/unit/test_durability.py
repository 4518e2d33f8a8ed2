"""What falls short of what is declared, given what the broker does."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock import diagnosis
from interlock.diagnosis import Backlog, Finding, Peer, Standing
from interlock.discovery import contracts
from interlock.durability import (
    LARGEST_BYTES,
    UNKNOWN,
    Account,
    Facts,
    Server,
    findings,
    of_contract,
    refused,
)
from interlock.provisioning import bucket_config, stream_config
from interlock_schemas.topology import (
    BUCKETS,
    DEAD,
    EVENTS,
    LEGACY,
    LEGACY_MAPPINGS,
    LETTERS,
    STREAMS,
    Bucket,
    Stored,
    Stream,
)

ALL: tuple[Stored, ...] = (*STREAMS, *BUCKETS)
ROOMY = 8 * 1024 * 1024

servers = st.sampled_from(["n1", "n2", "n3", "n4"])
replicas = st.integers(1, 5)


def server(name: str, **changes: Any) -> Server:
    given_: dict[str, Any] = {"max_payload_bytes": ROOMY, "sync_always": True} | changes
    return Server(name=name, **given_)


def standing(stored: Stored, *names: str, **changes: Any) -> Standing:
    config = stream_config(stored) if isinstance(stored, Stream) else bucket_config(stored)
    leader, *others = names or ("n1",)
    return Standing(
        config=config | changes,
        leader=leader,
        peers=tuple(Peer(name=name, current=True) for name in others),
    )


def facts(*known: Server, stand: dict[str, Standing] | None = None, **changes: Any) -> Facts:
    given_: dict[str, Any] = {"max_payload_bytes": ROOMY} | changes
    if stand is None:
        stand = {name(each): standing(each) for each in ALL}
    return Facts(servers={each.name: each for each in known}, standing=stand, **given_)


def name(stored: Stored) -> str:
    return stored.stream if isinstance(stored, Bucket) else stored.name


def checks(found: list[Finding]) -> list[str]:
    return [finding.check for finding in found]


def one(found: list[Finding]) -> Finding:
    (finding,) = found
    return finding


def test_what_is_as_declared_is_not_mentioned() -> None:
    assert findings(ALL, facts(server("n1"))) == []


def test_everything_is_declared_durable() -> None:
    assert {each.durability for each in ALL} == {"durable"}


@given(st.sets(servers, min_size=1), st.sets(servers), st.sets(servers))
def test_each_server_that_holds_something_durable_syncs_or_is_named(
    holding: set[str], late: set[str], silent: set[str]
) -> None:
    known = [
        server(each, sync_always=each not in late, sync_interval_s=120)
        for each in ("n1", "n2", "n3", "n4")
        if each not in silent
    ]
    found = findings([EVENTS], facts(*known, stand={"EVENTS": standing(EVENTS, *sorted(holding))}))
    assert {f.subject for f in found if f.check == "sync"} == (holding & late) - silent
    unknown = [f for f in found if f.check == UNKNOWN]
    assert {n for f in unknown for n in f.subject.split(", ")} == holding & silent
    assert {f.severity for f in unknown} <= {"warning"}
    assert len(found) == len((holding & late) - silent) + bool(holding & silent)


def test_a_late_sync_is_named_with_the_streams_and_the_line_to_write() -> None:
    late = server("n1", sync_always=False, sync_interval_s=120)
    finding = one(findings([EVENTS, LETTERS], facts(late)))
    assert finding.severity == "error"
    assert finding.found == ("sync_interval is 2m, and it stores EVENTS, letters, declared durable")
    assert "jetstream { sync_interval: always }" in finding.remedy


@given(st.lists(servers, min_size=1, max_size=4, unique=True))
def test_replicas_do_not_make_up_for_a_late_sync(names: list[str]) -> None:
    known = [server(each, sync_always=False, sync_interval_s=1) for each in names]
    stand = {"EVENTS": standing(EVENTS, *names, num_replicas=len(names))}
    assert checks(findings([EVENTS], facts(*known, stand=stand))) == ["sync"] * len(names)


@given(st.booleans(), st.sampled_from(["file", "memory"]), st.sampled_from(["async", None]))
def test_what_is_fast_may_be_kept_anyhow(sync: bool, storage: str, mode: str | None) -> None:
    fast = msgspec.structs.replace(EVENTS, durability="fast")
    stand = {"EVENTS": standing(fast, storage=storage, persist_mode=mode)}
    assert findings([fast], facts(server("n1", sync_always=sync), stand=stand)) == []
    assert findings([fast], facts(stand=stand)) == []


@pytest.mark.parametrize(
    ("changes", "check"),
    [({"storage": "memory"}, "storage"), ({"persist_mode": "async"}, "persist_mode")],
)
@pytest.mark.parametrize("stored", [EVENTS, LETTERS], ids=["stream", "bucket"])
def test_what_is_durable_is_written_to_files_before_it_is_acknowledged(
    stored: Stored, changes: dict[str, Any], check: str
) -> None:
    stand = {name(stored): standing(stored, **changes)}
    finding = one(findings([stored], facts(server("n1"), stand=stand)))
    assert (finding.check, finding.subject, finding.severity) == (check, stored.name, "error")


@given(replicas, replicas)
def test_the_declared_replicas_are_a_minimum(declared: int, stands: int) -> None:
    stream = msgspec.structs.replace(EVENTS, replicas=declared)
    stand = {"EVENTS": standing(stream, num_replicas=stands)}
    found = findings([stream], facts(server("n1"), stand=stand))
    assert checks(found) == (["replicas"] if stands < declared else [])


@given(st.integers(0, 1_200))
def test_the_duplicate_window_is_a_minimum(seconds: int) -> None:
    stand = {"EVENTS": standing(EVENTS, duplicate_window=seconds * 10**9)}
    found = findings([EVENTS], facts(server("n1"), stand=stand))
    assert checks(found) == (["duplicate_window"] if seconds < EVENTS.duplicate_window_s else [])


@given(st.integers(-1, 2 * ROOMY))
def test_a_stream_takes_the_largest_message_that_is_declared(size: int) -> None:
    stand = {"DEAD": standing(DEAD, max_msg_size=size)}
    found = findings([DEAD], facts(server("n1"), stand=stand))
    assert checks(found) == (["max_msg_size"] if 0 <= size < DEAD.max_message_bytes else [])


@given(st.integers(1, 2 * ROOMY), st.integers(1, 2 * ROOMY))
def test_every_server_takes_the_largest_message(ours: int, another: int) -> None:
    found = findings(
        [],
        facts(server("n2", max_payload_bytes=another), max_payload_bytes=ours, connected="n1"),
    )
    short = {n for n, size in (("n1", ours), ("n2", another)) if size < LARGEST_BYTES + 64}
    assert {finding.subject for finding in found} == short
    assert all(finding.remedy.startswith("in its conf") for finding in found)


@given(st.integers(0, 10**12), st.integers(1, 10**12))
def test_a_disk_without_room_for_one_message_is_an_error_and_a_nearly_full_one_a_warning(
    used: int, limit: int
) -> None:
    found = findings(
        ALL, facts(server("n1", stored_bytes=used, storable_bytes=limit), stand={})
    )  # fmt: skip
    if used + LARGEST_BYTES > limit:
        assert [f.severity for f in found] == ["error"]
    else:
        assert [f.severity for f in found] == (["warning"] if used >= limit * 0.9 else [])


def test_limits_of_the_account_count_in_each_tier() -> None:
    tiers = (
        Account(tier="R1", stored_bytes=10**12),
        Account(tier="R3", streams=19, max_streams=20, storable_bytes=0),
    )
    found = findings([], facts(server("n1"), accounts=tiers))
    assert [(f.subject, f.severity) for f in found] == [
        ("account, R3", "error"),
        ("account, R3", "warning"),
    ]


def test_a_stream_that_nobody_leads_is_unknown_not_well() -> None:
    stand = {"EVENTS": standing(EVENTS)}
    stand["EVENTS"] = msgspec.structs.replace(stand["EVENTS"], leader="")
    assert checks(findings([EVENTS], facts(server("n1"), stand=stand))) == [UNKNOWN]


def test_what_falls_short_refuses_what_is_unknown_only_when_strict() -> None:
    late = server("n1", sync_always=False, sync_interval_s=120)
    known = findings(ALL, facts(late))
    unknown = findings(ALL, facts())
    nearly_full = findings(ALL, facts(server("n1", stored_bytes=95 * 10**9, storable_bytes=10**11)))
    assert refused(known, "enforce") == refused(known, "strict") == known
    assert refused(unknown, "enforce") == []
    assert refused(unknown, "strict") == unknown
    assert nearly_full
    assert refused(nearly_full, "strict") == []
    for found in (known, unknown, nearly_full):
        assert refused(found, "degrade") == []


def test_a_service_depends_on_what_it_publishes_to_as_on_what_it_consumes() -> None:
    normalizer = next(each for each in contracts() if each.name == "event-normalizer")
    assert {each.name for each in of_contract(normalizer)} == {
        LEGACY.name, EVENTS.name, DEAD.name, LEGACY_MAPPINGS.name,
    }  # fmt: skip


def test_every_finding_says_what_to_do() -> None:
    stand = {
        name(each): standing(each, storage="memory", num_replicas=0, max_msg_size=1)
        for each in ALL
    }  # fmt: skip
    found = findings(ALL, facts(stand=stand, max_payload_bytes=1))
    assert len(found) > len(ALL)
    for finding in found:
        assert all(msgspec.structs.astuple(finding))
        assert finding.remedy in finding.describe()


# What only the doctor looks at


def test_a_copy_that_is_away_is_an_error_and_one_that_lags_a_warning() -> None:
    stream = Standing(
        config={},
        leader="n1",
        peers=(
            Peer(name="n2", current=True),
            Peer(name="n3", current=False, lag=7),
            Peer(name="n4", current=True, silent_s=9),
            Peer(name="n5", offline=True),
        ),
    )
    found = diagnosis.peers("EVENTS", stream)
    assert [f.severity for f in found] == ["warning", "error", "error"]
    assert "n3" in found[0].found
    assert diagnosis.peers("EVENTS", Standing(config={}))[0].severity == "error"


def backlog(**changes: Any) -> Backlog:
    given_: dict[str, Any] = {"pending": 0, "in_hand": 0, "pulls": 1, "delivered": 0} | changes
    return Backlog(stream="LEGACY", name="worker", **given_)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ({}, {}, None),
        ({"pending": 10}, {"pending": 900, "delivered": 5}, None),
        ({"pending": 5_000}, {"pending": 4_000, "delivered": 5}, None),
        ({"pending": 5_000}, {"pending": 6_000, "delivered": 5}, "1,000 more"),
        ({"pending": 3, "pulls": 0}, {"pending": 3, "pulls": 0}, "nobody asks"),
        ({"pending": 3, "pulls": 0}, {"pending": 3, "pulls": 0, "in_hand": 2}, None),
        ({}, {"paused_s": 60.0}, "paused"),
    ],
)
def test_a_backlog_is_told_when_it_grows_or_nobody_works_on_it(
    before: dict[str, Any], after: dict[str, Any], says: str | None
) -> None:
    found = diagnosis.backlogs([backlog(**before)], [backlog(**after)], apart_s=1)
    assert len(found) == (says is not None)
    assert all(f.severity == "warning" and str(says) in f.found for f in found)


@given(st.floats(-1e6, 1e6), st.floats(0, 30), st.floats(-1e6, 1e6))
def test_a_clock_difference_is_told_only_when_it_is_certain(
    asked: float, took: float, broker: float
) -> None:
    found = diagnosis.clock(broker_s=broker, asked_s=asked, answered_s=asked + took)
    assert bool(found) == (broker < asked - 1 or broker > asked + took + 1)


def test_a_difference_that_setup_can_mend_says_setup() -> None:
    serious = diagnosis.settings("stream", "EVENTS", [("subjects", ["a"], ["b"], False)])
    assert serious.severity == "error"
    assert "move the data away" in serious.remedy
    mild = diagnosis.settings("stream", "EVENTS", [("duplicate_window", 1, 2, True)])
    assert (mild.severity, mild.remedy) == ("warning", "interlock setup")


def test_services_that_are_silent_are_told_with_how_to_start_them() -> None:
    finding = one(diagnosis.services({"a": "module_a", "b": "module_b"}, ["b", "c"]))
    assert finding.subject == "a"
    assert "python -m module_a" in finding.remedy
