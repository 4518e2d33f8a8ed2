"""What imports and operators change in the records of nodes; what is said without a monitor."""

import datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from interlock.clock import rfc3339
from interlock.nodes import changes, views
from interlock.nodes.changes import GONE_FROM_FILE, plan_import
from interlock.nodes.fleet_file import SOURCE
from interlock_schemas.health import STATES, Eviction, NodeHealth
from interlock_schemas.nodes import FleetRecord, Mark, Member, NodeRecord, SshAccess

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
FLEET = FleetRecord(source=SOURCE)

names = st.sampled_from("abcdef")
marks = st.none() | st.builds(
    Mark,
    by=st.sampled_from(["anna", "bert"]),
    reason=st.sampled_from(["", "why", GONE_FROM_FILE]),
    at=st.just("2026-01-01T00:00:00.000000Z"),
    until=st.sampled_from([None, rfc3339(NOW), rfc3339(NOW + datetime.timedelta(hours=1))]),
)
labels = st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12"))
described = st.builds(
    NodeRecord,
    name=names,
    zone=st.sampled_from(["", "z"]),
    labels=labels,
    ssh=st.none() | st.builds(SshAccess, host=st.sampled_from("hk")),
    gpus=st.none() | st.integers(0, 8),
    source=st.just(SOURCE),
)
standing = st.builds(
    lambda record, source, cordon, drain, retired: msgspec.structs.replace(
        record, source=source, cordon=cordon, drain=drain, retired=retired
    ),
    described,
    st.sampled_from([SOURCE, "agent"]),
    marks,
    marks,
    marks,
)


def by_name(records: list[NodeRecord]) -> dict[str, NodeRecord]:
    return {record.name: record for record in records}


def applied(
    file: dict[str, NodeRecord], stands: dict[str, NodeRecord], *, prune: bool
) -> dict[str, NodeRecord]:
    plan = plan_import(file.values(), FLEET, stands, FLEET, prune=prune)
    after = dict(stands)
    for name in (*plan.added, *plan.changed):
        after[name] = changes.imported(file[name], stands.get(name))
    for name in plan.retired:
        after[name] = changes.marked(
            stands[name], "retired", Mark(by="test", reason=GONE_FROM_FILE)
        )
    return after


@given(st.lists(described), st.lists(standing), st.booleans())
def test_an_import_comes_to_rest_and_takes_no_decision_back(
    file: list[NodeRecord], stands: list[NodeRecord], prune: bool
) -> None:
    wanted, before = by_name(file), by_name(stands)
    plan = plan_import(wanted.values(), FLEET, before, None, prune=prune)
    said = [*plan.added, *plan.changed, *plan.unchanged]
    assert sorted(said) == sorted(wanted)
    assert not set(plan.missing) & set(wanted)
    after = applied(wanted, before, prune=prune)
    again = plan_import(wanted.values(), FLEET, after, FLEET, prune=prune)
    assert (again.added, again.changed, again.retired, again.fleet) == ((), {}, (), ())
    for name, record in before.items():
        kept = after[name]
        assert (kept.cordon, kept.drain) == (record.cordon, record.drain)
        if record.retired is not None and record.retired.reason != GONE_FROM_FILE:
            assert kept.retired == record.retired
        if name not in wanted and record.source == "agent":
            assert kept == record
    for name, record in wanted.items():
        plain = msgspec.structs.replace(after[name], cordon=None, drain=None, retired=None)
        assert plain == record


@given(standing, labels, st.lists(st.sampled_from("xyz")))
def test_a_mark_or_a_label_changes_itself_alone(
    record: NodeRecord, given_labels: dict[str, str], gone: list[str]
) -> None:
    mark = Mark(by="c", reason="r", at="2026-02-01T00:00:00.000000Z")
    marked = changes.marked(record, "cordon", mark)
    assert msgspec.structs.replace(marked, cordon=record.cordon) == record
    later = msgspec.structs.replace(mark, at="2026-02-02T00:00:00.000000Z")
    assert changes.marked(marked, "cordon", later) == marked
    assert changes.marks_of(changes.unmarked(marked)) == {}
    labelled = changes.labelled(record, given_labels, gone)
    assert msgspec.structs.replace(labelled, labels=record.labels) == record
    assert labelled.labels.items() >= given_labels.items()
    assert not (set(gone) - set(given_labels)) & set(labelled.labels)


def test_a_change_names_the_field_within() -> None:
    before = NodeRecord(name="a", ssh=SshAccess(host="h", port=2), labels={"x": "1"})
    after = NodeRecord(name="a", ssh=SshAccess(host="k", port=2), zone="z")
    told = {each.field: (each.before, each.after) for each in changes.differences(before, after)}
    assert told == {"ssh.host": ("h", "k"), "labels.x": ("1", None), "zone": (None, "z")}


times = st.sampled_from(
    [None, rfc3339(NOW - datetime.timedelta(seconds=1)), rfc3339(NOW + datetime.timedelta(1))]
)
healths = st.none() | st.builds(
    NodeHealth,
    node=st.just("a"),
    state=st.sampled_from(STATES),
    since=st.just("2026-01-01T00:00:00.000000Z"),
    reason=st.just("why"),
    expires_at=times,
    eviction=st.none()
    | st.builds(Eviction, at=st.just(""), expires_at=times.filter(lambda at: at is not None)),
)


@given(st.none() | standing, healths, st.booleans())
def test_without_a_monitor_nothing_is_well(
    record: NodeRecord | None, health: NodeHealth | None, leased: bool
) -> None:
    member = Member(node="a", instance="i") if leased else None
    found = views.view("a", record, health, member, NOW)
    assert found.state != "healthy"
    if record is not None and record.retired is not None:
        assert found.state == "retired"
    elif found.state not in ("unknown", "retired"):
        assert health is not None
        assert health.expires_at is not None
        assert health.expires_at > rfc3339(NOW)
    if found.evicted:
        assert health is not None
        assert health.eviction is not None
        assert health.eviction.expires_at > rfc3339(NOW)
    if record is not None:
        standing_until = record.cordon.until if record.cordon is not None else ""
        assert found.cordoned == (standing_until is None or standing_until > rfc3339(NOW))
    assert views.matches(found)
    assert views.matches(found, states=(found.state,), zone=found.zone, labels=found.labels)
    assert not views.matches(found, role="none such")
