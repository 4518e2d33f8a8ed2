"""`interlock nodes` and the book of nodes, and what workers ask of the fleet's health."""

import asyncio
import datetime
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from interlock.blocking import connect_blocking
from interlock.bus import Write, connected
from interlock.cli.nodes import app
from interlock.clock import now, rfc3339
from interlock.conditional import ALONE, living
from interlock.errors import InterlockError
from interlock.fleet import Fleet
from interlock.local import local_fleet
from interlock.nodes.book import NodeBook, UnknownNode
from interlock.nodes.changes import GONE_FROM_FILE
from interlock.nodes.fleet_file import parse
from interlock_schemas import health
from interlock_schemas.health import ClusterHealth, NodeHealth, Pressure
from interlock_schemas.nodes import Member, NodeRecord, member_key
from interlock_schemas.topology import HEALTH, MEMBERS, Bucket
from tests.conftest import PATIENCE_S, Up, cli_json, run_cli


def fresh(what: str) -> str:
    return f"{what}-{uuid.uuid4().hex[:8]}"


def book(fleet: Fleet) -> NodeBook:
    return NodeBook(fleet, by="anna")


async def store(fleet: Fleet, bucket: Bucket, key: str, value: Any, ttl_s: int = 0) -> None:
    headers = living(ttl_s) if ttl_s else ALONE
    write = Write(bucket.key_subject(key), msgspec.json.encode(value), headers)
    await fleet.bus.commit([write])


def events(up: Up, type: str, node: str) -> list[dict[str, Any]]:
    """What was told of a node by whoever decided; the monitor has its own to tell."""
    told = run_cli(up, "tail", type, "--since", "10m", "--no-follow", "--json")
    found = [json.loads(line) for line in told.stdout.splitlines()]
    return [
        each["payload"]
        for each in found
        if each["payload"].get("node") == node and each["headers"]["ce-source"] == "test"
    ]


def until(check: Callable[[], Any]) -> Any:
    """Ask until the answer is true: the monitor learns of records as they come."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := check()):
        if time.monotonic() > deadline:
            pytest.fail("it never came to be")
        time.sleep(0.05)
    return answer


async def test_an_import_adds_changes_and_keeps_what_operators_decided(fleet: Fleet) -> None:
    a, b = fresh("a"), fresh("b")
    nodes = book(fleet)
    first = await nodes.import_file(parse(f"[node.{a}]\nzone='x'\n[node.{b}]\n"))
    assert set(first.added) == {a, b}
    again = await nodes.import_file(parse(f"[node.{a}]\nzone='x'\n[node.{b}]\n"))
    assert (again.added, again.changed) == ((), {})
    assert {a, b} <= set(again.unchanged)
    await nodes.cordon([a], reason="new disk")
    other = parse(f"[node.{a}]\nzone='y'\nssh={{host='h'}}\n[node.{b}]\n")
    tried = await nodes.import_file(other, dry_run=True)
    assert {change.field for change in tried.changed[a]} == {"zone", "ssh.host"}
    record = await nodes.get(a)
    assert record is not None
    assert record.zone == "x"
    await nodes.import_file(other)
    record = await nodes.get(a)
    assert record is not None
    assert record.zone == "y"
    assert record.cordon is not None
    assert record.cordon.reason == "new disk"


async def test_a_node_that_left_the_file_is_retired_on_request_and_comes_back(
    up: Up, fleet: Fleet
) -> None:
    # Another test's nodes are in the book as well: what is pruned is looked at by name.
    name, joined = fresh("gone"), fresh("joined")
    nodes = book(fleet)
    described = parse(f"[node.{name}]")
    await nodes.import_file(described)
    await nodes.put(joined, lambda _: NodeRecord(name=joined, source="agent"))
    without = parse(f"[node.{fresh('other')}]")
    plan = await nodes.import_file(without)
    assert name in plan.missing
    assert joined in plan.others
    assert plan.retired == ()
    plan = await nodes.import_file(without, prune=True)
    assert name in plan.retired
    record = await nodes.get(name)
    assert record is not None
    assert record.retired is not None
    assert record.retired.reason == GONE_FROM_FILE
    left = await nodes.get(joined)
    assert left is not None
    assert left.retired is None
    assert len(await asyncio.to_thread(events, up, "node.retired", name)) == 1
    await nodes.import_file(described)
    record = await nodes.get(name)
    assert record is not None
    assert record.retired is None
    await nodes.retire([name], reason="sold")
    await nodes.import_file(described)
    record = await nodes.get(name)
    assert record is not None
    assert record.retired is not None
    with pytest.raises(InterlockError, match="describes no node"):
        await nodes.import_file(parse(""), prune=True)


async def test_writers_at_the_same_time_take_nothing_from_one_another(fleet: Fleet) -> None:
    name = fresh("busy")
    nodes = book(fleet)
    await nodes.put(name, lambda _: NodeRecord(name=name, source="agent"))
    await asyncio.gather(
        *(nodes.label([name], {f"k{number}": str(number)}) for number in range(8)),
        nodes.cordon([name]),
        nodes.drain([name]),
    )
    record = await nodes.get(name)
    assert record is not None
    assert record.labels == {f"k{number}": str(number) for number in range(8)}
    assert record.cordon is not None
    assert record.drain is not None


async def test_a_decision_is_told_once_however_often_it_is_made(up: Up, fleet: Fleet) -> None:
    name = fresh("told")
    nodes = book(fleet)
    await nodes.put(name, lambda _: NodeRecord(name=name, source="agent"))
    until = now() + datetime.timedelta(hours=1)
    for changed in (True, False):
        (decided,) = await nodes.cordon([name], reason="why", until=until)
        assert decided.changed is changed
    (cordoned,) = await asyncio.to_thread(events, up, "node.cordoned", name)
    assert cordoned == {
        "node": name, "by": "anna", "reason": "why", "until": rfc3339(until)
    }  # fmt: skip
    for changed in (True, False):
        (decided,) = await nodes.uncordon([name])
        assert decided.changed is changed
    assert len(await asyncio.to_thread(events, up, "node.uncordoned", name)) == 1


async def test_an_unknown_node_changes_nothing(fleet: Fleet) -> None:
    name = fresh("known")
    nodes = book(fleet)
    await nodes.put(name, lambda _: NodeRecord(name=name, source="agent"))
    with pytest.raises(UnknownNode, match=f"did you mean {name}"):
        await nodes.cordon([name, f"{name}x"])
    record = await nodes.get(name)
    assert record is not None
    assert record.cordon is None


def test_an_operator_describes_and_marks_nodes(up: Up, tmp_path: Path) -> None:
    a, b = fresh("op-a"), fresh("op-b")
    file = tmp_path / "fleet.toml"
    file.write_text(
        f"[node.{a}]\nzone='z-{a}'\ngpus=8\nroles=['selfplay']\nlabels={{rack='r1'}}\n"
        f"ssh={{host='10.0.0.5', user='u'}}\n[node.{b}]\nzone='z-{a}'\n"
    )
    text = run_cli(up, "nodes", "import", str(file)).stdout
    assert f"+ {a}\n" in text
    assert "2 added, 0 changed" in text
    assert "0 added, 0 changed, 2 as before" in run_cli(up, "nodes", "import", str(file)).stdout
    zone = ("--zone", f"z-{a}")
    until(lambda: cli_json(up, "nodes", "list", *zone)["total"] == 2)
    assert "2 nodes: 2 unknown" in run_cli(up, "nodes", "list", *zone).stdout
    only = cli_json(up, "nodes", "list", "--label", "rack=r1", "--role", "selfplay", *zone)
    assert [each["node"] for each in only["nodes"]] == [a]
    done = run_cli(up, "nodes", "cordon", a, b, "--reason", "kernel", "--for", "2h")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{a}: cordoned\n{b}: cordoned\n"
    shown = run_cli(up, "nodes", "show", a)
    assert shown.returncode == 0, shown.stderr
    assert ": kernel" in shown.stdout
    assert "u@10.0.0.5 port 22" in shown.stdout
    assert run_cli(up, "nodes", "uncordon", a, b).returncode == 0
    assert cli_json(up, "nodes", "drain", a)["nodes"][0]["changed"]
    labelled = run_cli(up, "nodes", "label", a, "--set", "rack=r2", "--remove", "nothing")
    assert labelled.stdout == f"{a}: labelled\n"
    assert "the next import takes it back" in labelled.stderr
    retired = cli_json(up, "nodes", "retire", a, b, "--reason", "sold")
    assert [each["record"]["retired"]["reason"] for each in retired["nodes"]] == ["sold", "sold"]
    assert {a, b} <= {each["node"] for each in cli_json(up, "nodes")["nodes"]}


def test_what_cannot_be_done_is_said(up: Up, tmp_path: Path) -> None:
    name = fresh("typo")
    file = tmp_path / "fleet.toml"
    file.write_text(f"[node.{name}]\n")
    assert run_cli(up, "nodes", "import", str(file)).returncode == 0
    for command in ("show", "uncordon"):
        done = run_cli(up, "nodes", command, f"{name}x", "--json")
        assert done.returncode == 1, command
        assert f"did you mean {name}" in json.loads(done.stdout)["error"], command
    file.write_text(f"[node.{name}]\nzonne = 1\ngpus = 'x'\n")
    done = run_cli(up, "nodes", "import", str(file), "--json")
    assert done.returncode == 1
    assert [each["line"] for each in json.loads(done.stdout)["problems"]] == [2, 3]
    assert f"{file}:2: node.{name}.zonne: is not known here" in done.stderr


def test_wrong_usage_is_said_before_anybody_is_asked() -> None:
    for wrong in (
        ("cordon", "a", "--for", "soon"),
        ("cordon", "a", "--until", "2001-01-01T00:00:00Z"),
        ("cordon", "a", "--for", "1h", "--until", "2100-01-01"),
        ("cordon", "a", "--reason", "x" * 501),
        ("label", "a"),
        ("label", "a", "--set", "x"),
        ("list", "--is", "dead"),
    ):
        assert CliRunner().invoke(app, wrong).exit_code == 2, wrong


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[tuple[Up, Fleet]]:
    """A broker without any service: what stands there nobody else writes."""
    folder = tmp_path / "alone"
    folder.mkdir()
    async with (
        local_fleet(folder, services=[]) as running,
        connected(running.settings, name="test") as bus,
    ):
        yield Up(folder), Fleet(bus, source="test")


async def test_without_a_monitor_only_what_has_not_expired_is_known(
    alone: tuple[Up, Fleet],
) -> None:
    up, fleet = alone
    later = rfc3339(now() + datetime.timedelta(hours=1))
    before = rfc3339(now() - datetime.timedelta(hours=1))

    async def cli(*arguments: str) -> Any:
        return await asyncio.to_thread(cli_json, up, "nodes", *arguments)

    assert (await cli())["total"] == 0
    unknown = await fleet.health()
    assert (unknown.level, unknown.score) == ("unknown", None)
    assert "is it running?" in unknown.reason
    answer = await fleet.admit("a", patience_s=0.0)
    assert (answer.admitted, answer.code) == (False, "no_monitor")

    await book(fleet).import_file(parse("[node.a]\ngpus=4\n[node.b]\n[node.c]\n"))
    lost = NodeHealth(node="a", state="lost", since=before, reason="silent", expires_at=later)
    over = msgspec.structs.replace(lost, node="b", expires_at=before)
    well = NodeHealth(node="c", state="healthy", since=before, reason="beating")
    for each in (lost, over, well):
        await store(fleet, HEALTH, health.health_key(each.node), each)
    for name in ("c", "d"):
        await store(fleet, MEMBERS, member_key(name), Member(node=name, instance="i"), ttl_s=30)
    listed = await cli("list")
    assert not listed["monitor"]
    assert [(each["node"], each["state"]) for each in listed["nodes"]] == [
        ("a", "lost"), ("b", "unknown"), ("c", "unknown"), ("d", "unknown")
    ]  # fmt: skip
    assert listed["nodes"][0]["gpus"] == 4
    assert listed["nodes"][2]["detail"] == f"its lease stands; it was healthy since {before}"
    assert not listed["nodes"][3]["described"]
    shown = await asyncio.to_thread(run_cli, up, "nodes", "show", "b")
    assert "no health monitor answers" in shown.stderr
    assert "it has no lease" in shown.stdout

    verdict = ClusterHealth(level="degraded", score=70.0, reason="nodes: 1 lost", at=before)
    await store(fleet, HEALTH, health.CLUSTER_KEY, verdict)
    assert await fleet.health() == verdict
    told = await asyncio.to_thread(cli_json, up, "status")
    assert (told["health"]["level"], told["health"]["score"]) == ("degraded", 70.0)
    past = msgspec.structs.replace(verdict, expires_at=before)
    await store(fleet, HEALTH, health.CLUSTER_KEY, past)
    assert (await fleet.health()).reason == f"no health monitor has looked since {before}"
    text = await asyncio.to_thread(run_cli, up, "status")
    assert "health unknown" in text.stdout

    scope = "node.a"
    assert await fleet.pressure(scope) is None
    pressed = Pressure(scope=scope, level="high", reason="memory", expires_at=later)
    await store(fleet, HEALTH, health.pressure_key(scope), pressed, ttl_s=30)
    assert await fleet.pressure(scope) == pressed

    def in_a_script() -> Pressure | None:
        with connect_blocking(up.settings) as blocking:
            assert blocking.health().level == "unknown"
            assert not blocking.admit("a", patience_s=0.0).admitted
            return blocking.pressure(scope)

    assert await asyncio.to_thread(in_a_script) == pressed
    expired = msgspec.structs.replace(pressed, expires_at=before)
    await store(fleet, HEALTH, health.pressure_key(scope), expired, ttl_s=30)
    assert await fleet.pressure(scope) is None


async def test_a_node_that_nobody_knows_is_not_admitted(fleet: Fleet) -> None:
    answer = await fleet.admit(fresh("nobody"))
    assert (answer.admitted, answer.code) == (False, "unknown")
