"""What a router makes of a node's records, of failures, of drops and of requests."""

import pytest

from interlock_schemas.artifacts import Artifact, StoreReport
from interlock_schemas.health import NodeHealth
from interlock_schemas.nodes import Leave, Mark, Member, NodeRecord, SshAccess
from interlock_schemas.orders import Asked, Failure, Pause, Request
from interlock_sync_router.dropping import Droppings
from interlock_sync_router.exclusions import Exclusions
from interlock_sync_router.facts import Known, at_of, facts_of, same_but_room
from interlock_sync_router.requests import already, report, targets_of
from interlock_sync_router.world import Move, NodeFacts

AT = "2026-01-01T00:00:00.000000Z"
NOW = at_of(AT) or 0.0
LATER = "2026-01-01T01:00:00.000000Z"


def known(**fields: object) -> Known:
    found = Known()
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def health(state: str, **fields: object) -> NodeHealth:
    return NodeHealth(node="n", state=state, since=AT, reason="test", **fields)  # type: ignore[arg-type]


MEMBER = Member(node="n", instance="i")


def test_without_a_verdict_the_lease_speaks_for_a_node() -> None:
    assert facts_of("n", known(member=MEMBER), NOW).standing == "healthy"
    assert facts_of("n", known(record=NodeRecord(name="n")), NOW).standing == "unknown"


@pytest.mark.parametrize(
    ("state", "standing"),
    [
        ("healthy", "healthy"),
        ("degraded", "degraded"),
        ("suspect", "suspect"),
        ("recovering", "suspect"),
        ("lost", "lost"),
        ("unknown", "unknown"),
    ],
)
def test_the_monitors_verdict_counts(state: str, standing: str) -> None:
    assert facts_of("n", known(member=MEMBER, health=health(state)), NOW).standing == standing


def test_a_negative_verdict_ends() -> None:
    verdict = health("suspect", expires_at=LATER)
    assert facts_of("n", known(member=MEMBER, health=verdict), NOW).standing == "suspect"
    assert facts_of("n", known(member=MEMBER, health=verdict), NOW + 3_601).standing == "healthy"
    assert facts_of("n", known(health=verdict), NOW + 3_601).standing == "unknown"


def test_marks_and_pauses_end() -> None:
    record = NodeRecord(name="n", cordon=Mark(by="x", until=LATER), drain=Mark(by="x"))
    one = known(record=record, pause=Pause(by="x", at=AT, until=LATER))
    before, after = facts_of("n", one, NOW), facts_of("n", one, NOW + 3_601)
    assert (before.cordoned, before.draining, before.paused) == (True, True, True)
    assert (after.cordoned, after.draining, after.paused) == (False, True, False)


def test_room_that_was_not_told_of_lately_is_not_known() -> None:
    store = StoreReport(node="n", instance="i", root="/d", at=AT, total_bytes=100, free_bytes=50)
    fresh = facts_of("n", known(store=store), NOW + 299)
    assert fresh.free_bytes == 50
    stale = facts_of("n", known(store=store), NOW + 301)
    assert stale.free_bytes is None
    assert not same_but_room(fresh, stale)


def test_a_node_that_nobody_described_is_not_taken_for_one_that_stays() -> None:
    assert facts_of("n", known(member=MEMBER), NOW).ephemeral
    assert facts_of("n", known(record=NodeRecord(name="n", price_class="spot")), NOW).ephemeral
    assert not facts_of("n", known(record=NodeRecord(name="n")), NOW).ephemeral


def test_ways_follow_from_ssh_and_from_the_lease() -> None:
    record = NodeRecord(name="n", ssh=SshAccess(host="h"))
    assert facts_of("n", known(record=record), NOW).transports_from == ("exec", "rsync", "sftp")
    assert not facts_of("n", known(record=record), NOW).reachable
    driven = facts_of("n", known(record=record), NOW, driven=True)
    assert driven.reachable
    assert driven.transports_from[-2:] == ("relay", "object")


def test_a_node_leaves_until_its_deadline() -> None:
    verdict = health("healthy", leaving=Leave(reason="preempted", deadline_s=60))
    one = known(member=MEMBER, health=verdict)
    assert facts_of("n", one, NOW).leaving_at == NOW + 60
    assert facts_of("n", one, NOW + 61).leaving_at is None
    one.leaving_at = NOW + 10
    assert facts_of("n", one, NOW).leaving_at == NOW + 10


def failure(code: str = "io", at: str = AT, source: str | None = None) -> Failure:
    return Failure(code=code, text="why", at=at, source=source)  # type: ignore[arg-type]


def test_each_failure_excludes_for_longer_and_every_exclusion_ends() -> None:
    exclusions = Exclusions()
    ends = []
    at = NOW
    for number in range(12):
        assert exclusions.note("n", "a", failure(at=f"{number}"), at)
        (one,) = exclusions.standing(at)
        ends.append(one.until - at)
        at = one.until
        assert exclusions.standing(at) == ()
    assert ends[0] == 5
    assert ends == sorted(ends)
    assert ends[-1] == 900


def test_a_failure_is_noted_once_and_forgotten_when_it_works() -> None:
    exclusions = Exclusions()
    assert exclusions.note("n", "a", failure(), NOW)
    assert not exclusions.note("n", "a", failure(), NOW)
    assert list(exclusions.ended(NOW, NOW + 5)) == ["a"]
    exclusions.worked("n", "a")
    assert exclusions.standing(NOW) == ()


def test_what_failed_at_a_source_excludes_the_source_alone() -> None:
    exclusions = Exclusions()
    exclusions.note("n", "a", failure("source_damaged", source="s"), NOW)
    assert exclusions.standing(NOW)[0].source == "s"


def test_a_drop_waits_for_as_many_checks_as_there_have_to_be_copies() -> None:
    move = Move(node="n", artifact="a", action="drop", priority="low", rank=0, reasons=(),
                replicas=2, others=("x", "y", "z"))  # fmt: skip
    droppings = Droppings()
    one = droppings.want(move, AT)
    assert one.to_ask(NOW, ["y"]) == ["x"]
    assert one.to_ask(NOW, ["x", "y"]) == []
    assert not droppings.verified("x", "a", AT)
    assert droppings.verified("x", "a", LATER)
    before = one.due
    droppings.not_asked("y", "a")
    assert droppings.verified("z", "a", LATER)
    assert (before, one.due) == (False, True)
    assert one.confirmed == ("x", "z")
    droppings.keep_only(set())
    assert list(droppings) == []


def node(name: str, **fields: object) -> NodeFacts:
    return NodeFacts(name=name, total_bytes=100, free_bytes=90, **fields)  # type: ignore[arg-type]


def about(id: str, size: int = 10) -> Artifact:
    return Artifact(id=id, dataset="d", name=id, bytes=size, origin="a", sealed_at=AT)


def test_a_request_names_who_takes_part_and_says_why_others_do_not() -> None:
    nodes = {each.name: each for each in (node("a"), node("b", cordoned=True), node("c"))}
    request = Request(id="r", dataset="d", targets=("node:a", "node:b", "node:nobody"))
    taking, out = targets_of(request, nodes)
    assert taking == ("a",)
    assert {each.node for each in out} == {"b", "nobody"}


def test_a_report_counts_pairs_and_ends_with_its_time() -> None:
    nodes = {each.name: each for each in (node("a"), node("b"))}
    artifacts = {each.id: each for each in (about("1"), about("2"), about("3", 95))}
    copies = {id: frozenset({"a"}) for id in artifacts}
    there, size = already(("a", "b"), artifacts, artifacts, copies)
    asked = Asked(request=Request(id="r", dataset="d"), nodes=("a", "b"),
                  already_there=there, already_bytes=size)  # fmt: skip
    exclusions = Exclusions()
    exclusions.note("b", "2", failure("denied"), NOW)
    copies["1"] = frozenset({"a", "b"})
    told = report(
        asked, artifacts, artifacts=artifacts, copies=copies, nodes=nodes, exclusions=exclusions
    )
    assert (told.asked, told.verified, told.already_there, told.moved) == (6, 4, 3, 1)
    assert told.moved_bytes == 10
    assert told.done
    assert [(each.artifact, each.code) for each in told.failures] == [
        ("2", "denied"),
        ("3", "no_space"),
    ]
    exclusions.worked("b", "2")
    left = report(
        asked, artifacts, artifacts=artifacts, copies=copies, nodes=nodes, exclusions=exclusions
    )
    assert (left.done, left.pending) == (False, 1)
    over = report(
        asked, artifacts, artifacts=artifacts, copies=copies, nodes=nodes, exclusions=exclusions,
        over=True,
    )  # fmt: skip
    assert (over.done, over.pending, over.failed, over.timed_out) == (True, 0, 2, True)


def test_nothing_asked_is_nothing_moved() -> None:
    told = report(Asked(request=Request(id="r", dataset="d"), nodes=("a",)), (), artifacts={},
                  copies={}, nodes={}, exclusions=Exclusions())  # fmt: skip
    assert (told.done, told.asked, told.moved) == (True, 0, 0)
