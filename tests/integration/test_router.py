"""The router as its own processes with a real broker; agents are played by a stand-in."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from interlock.bus import Bus, connected
from interlock.clock import now, rfc3339
from interlock.errors import CommandFailed
from interlock.fleet import Fleet
from interlock.kv import Store
from interlock.nodes.book import NodeBook
from interlock.reader import Reader
from interlock_schemas.node import NodeLeft
from interlock_schemas.nodes import NodeRecord
from interlock_schemas.orders import (
    EVACUATE,
    PAUSE,
    PLAN,
    POLICIES,
    REPORT,
    SET_POLICY,
    STATUS,
    SYNC,
    AskEvacuation,
    AskPlan,
    AskPolicies,
    AskReport,
    AskStatus,
    AskSync,
    Failure,
    Order,
    Pause,
    Policy,
    Request,
    SetPause,
    SetPolicy,
    SyncReport,
    order_key,
)
from interlock_schemas.sync import NodeEvacuated, SyncCompleted, SyncFailed
from interlock_schemas.topology import EVENTS, ORDERS
from tests.conftest import PATIENCE_S, Up, eventually
from tests.integration.stand_in import StandIn, artifact, stand_in


class RouterProcess:
    """A router of the test's own."""

    def __init__(self, up: Up, log: Path) -> None:
        self._env = up.env | {"INTERLOCK_LOG_FORMAT": "json", "INTERLOCK_LOG_LEVEL": "debug"}
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "interlock_sync_router"],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait(PATIENCE_S)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A fleet without a router: each test starts its own. Locks are granted, nothing else runs."""
    fleet = Up(tmp_path_factory.mktemp("routed"), "--only", "sync-mutex")
    fleet.await_services = lambda: None  # type: ignore[method-assign]
    fleet.start()
    yield fleet
    assert fleet.stop() == 0


@pytest.fixture
async def bus(routed: Up) -> AsyncIterator[Bus]:
    async with connected(routed.settings, name="test") as connection:
        yield connection


@pytest.fixture
def fleet(bus: Bus) -> Fleet:
    return Fleet(bus, source="test")


@pytest.fixture
def router(routed: Up, tmp_path: Path) -> Iterator[RouterProcess]:
    process = RouterProcess(routed, tmp_path / "router.log")
    process.start()
    yield process
    # It gives its lock back, for the next one.
    process.kill(signal.SIGTERM)
    assert process.process is not None
    process.process.wait(PATIENCE_S)


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex[:8]


async def ask(fleet: Fleet, dataset: str | None, *targets: str, **fields: object) -> SyncReport:
    request = Request(id=uuid.uuid4().hex, dataset=dataset, targets=targets, by="test", **fields)  # type: ignore[arg-type]
    return await fleet.command(SYNC, AskSync(request=request), timeout_s=10, patience_s=PATIENCE_S)


async def finished(fleet: Fleet, id: str) -> SyncReport:
    async def done() -> SyncReport | None:
        told = await fleet.command(REPORT, AskReport(id=id), timeout_s=2, patience_s=PATIENCE_S)
        return told if told.done else None

    report: SyncReport = await eventually(done)
    return report


async def known(fleet: Fleet, count: int) -> None:
    """Wait until a router knows of so many artifacts."""

    async def there() -> bool:
        told = await fleet.command(STATUS, AskStatus(), timeout_s=2, patience_s=PATIENCE_S)
        return told.artifacts >= count

    await eventually(there)


async def events(bus: Bus, kind: type) -> list[tuple[str, dict[str, object]]]:
    """What was published of a type: ids and payloads."""
    subject = f"events.{kind.event_type}.>"  # type: ignore[attr-defined]
    reader = Reader(bus, EVENTS.name, (subject,), {"deliver_policy": "all"})
    return [
        (record.headers["ce-id"], msgspec.json.decode(record.body))
        async for record in reader.records(until_end=True)
    ]


async def sealed(agents: StandIn, dataset: str, origin: str, count: int, **fields: object) -> list:  # type: ignore[type-arg]
    found = [artifact(dataset, f"a{i}", origin, **fields) for i in range(count)]  # type: ignore[arg-type]
    await asyncio.gather(*(agents.sealed(each) for each in found))
    return found


@pytest.mark.usefixtures("router")
async def test_everything_reaches_every_node_and_the_report_says_so(
    bus: Bus, fleet: Fleet, key: str
) -> None:
    names = [f"{key}-{i}" for i in range(4)]
    async with stand_in(bus, *names) as agents:
        found = await sealed(agents, f"d{key}", names[0], 30)
        await known(fleet, 30)
        targets = [f"node:{name}" for name in names]
        first = await ask(fleet, f"d{key}", *targets)
        assert (first.artifacts, first.asked, first.left_out) == (30, 120, ())
        report = await finished(fleet, first.id)
        assert (report.verified, report.failed, report.pending) == (120, 0, 0)
        assert report.already_there + report.moved == 120
        assert report.already_there >= 30
        again = await ask(fleet, f"d{key}", *targets)
        assert again.done
        assert (again.already_there, again.moved) == (120, 0)

        async def told() -> bool:
            seen = {
                (event["artifact"], event["node"])
                for _, event in await events(bus, SyncCompleted)
                if event.get("dataset") == f"d{key}"
            }
            return seen == {(each.id, name) for each in found for name in names[1:]}

        await eventually(told)
        ids = [id for id, event in await events(bus, SyncCompleted)]
        assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("router")
async def test_what_cannot_be_is_said_at_once(bus: Bus, fleet: Fleet, key: str) -> None:
    async with stand_in(bus, f"{key}-a", f"{key}-b") as agents:
        await sealed(agents, f"d{key}", f"{key}-a", 1)
        await known(fleet, 1)
        with pytest.raises(CommandFailed, match=f"Known are: .*d{key}") as wrong:
            await ask(fleet, "nothing-like-it", "all")
        assert wrong.value.code == "404"
        with pytest.raises(CommandFailed, match="no selector"):
            await ask(fleet, f"d{key}", "everybody")
        book = NodeBook(fleet, by="test")
        await book.put(f"{key}-c", lambda _: NodeRecord(name=f"{key}-c"))
        report = await ask(fleet, f"d{key}", f"node:{key}-c", "node:nobody")
        assert report.done
        assert report.asked == 0
        assert {each.node for each in report.left_out} == {f"{key}-c", "nobody"}
        await fleet.command(
            SET_POLICY, SetPolicy(dataset=f"e{key}", policy=Policy(dataset=f"e{key}"))
        )
        empty = await ask(fleet, f"e{key}", "all")
        assert empty.done
        assert (empty.artifacts, empty.asked, empty.moved) == (0, 0, 0)


@pytest.mark.usefixtures("router")
async def test_a_policy_moves_what_it_says_and_a_pause_holds_it(
    bus: Bus, fleet: Fleet, key: str
) -> None:
    dataset = f"d{key}"
    async with stand_in(bus, f"{key}-a", f"{key}-b", f"{key}-c") as agents:
        await known(fleet, 0)
        paused = Pause(by="test", at=rfc3339(now()))
        status = await fleet.command(PAUSE, SetPause(scope=f"dataset:{dataset}", pause=paused))
        assert f"dataset:{dataset}" in status.pauses
        policy = Policy(dataset=dataset, copies=1, targets=(f"node:{key}-b", f"node:{key}-c"))
        page = await fleet.command(SET_POLICY, SetPolicy(dataset=dataset, policy=policy))
        assert policy in page.policies
        (one,) = await sealed(agents, dataset, f"{key}-a", 1)
        count = len((await fleet.command(STATUS, AskStatus())).nodes)
        assert count >= 3
        other = f"e{key}"
        await fleet.command(
            SET_POLICY,
            SetPolicy(
                dataset=other, policy=Policy(dataset=other, copies=1, targets=(f"node:{key}-b",))
            ),
        )
        (two,) = await sealed(agents, other, f"{key}-a", 1)

        async def arrived(id: str, node: str) -> bool:
            copy = await agents.inventory.copy(node, id)
            return copy is not None and copy.state == "held"

        await eventually(lambda: arrived(two.id, f"{key}-b"))
        assert not await arrived(one.id, f"{key}-b")
        await fleet.command(PAUSE, SetPause(scope=f"dataset:{dataset}"))
        await eventually(lambda: arrived(one.id, f"{key}-b"))
        await eventually(lambda: arrived(one.id, f"{key}-c"))
        view = await fleet.command(PLAN, AskPlan(artifact=one.id))
        assert view.moves == ()
        assert (await fleet.command(POLICIES, AskPolicies())).policies


@pytest.mark.usefixtures("router")
async def test_a_cordoned_node_is_given_nothing(bus: Bus, fleet: Fleet, key: str) -> None:
    dataset = f"d{key}"
    async with stand_in(bus, f"{key}-a", f"{key}-b", f"{key}-c") as agents:
        book = NodeBook(fleet, by="test")
        await book.cordon([f"{key}-b"])
        policy = Policy(dataset=dataset, copies=1, targets=(f"node:{key}-b", f"node:{key}-c"))
        await fleet.command(
            SET_POLICY, SetPolicy(dataset=dataset, policy=policy), patience_s=PATIENCE_S
        )
        await known(fleet, 0)
        (one,) = await sealed(agents, dataset, f"{key}-a", 1)
        await eventually(lambda: agents.inventory.copy(f"{key}-c", one.id))
        report = await ask(fleet, dataset, f"node:{key}-b", f"node:{key}-c")
        assert [each.node for each in report.left_out] == [f"{key}-b"]
        assert "cordoned" in report.left_out[0].reasons[0]
        assert await agents.inventory.copy(f"{key}-b", one.id) is None
        await book.uncordon([f"{key}-b"])
        await eventually(lambda: agents.inventory.copy(f"{key}-b", one.id))


@pytest.mark.usefixtures("router")
async def test_what_failed_is_told_and_tried_again_later(bus: Bus, fleet: Fleet, key: str) -> None:
    dataset = f"d{key}"
    async with stand_in(bus, f"{key}-a", f"{key}-b") as agents:
        agents.fails = lambda _: Failure(code="denied", text="read-only", at=rfc3339(now()))
        await sealed(agents, dataset, f"{key}-a", 1)
        await known(fleet, 1)
        report = await finished(fleet, (await ask(fleet, dataset, f"node:{key}-b")).id)
        assert (report.failed, report.moved) == (1, 0)
        (why,) = report.failures
        assert (why.code, why.text) == ("denied", "read-only")

        async def told() -> list[dict[str, object]]:
            return [e for _, e in await events(bus, SyncFailed) if e["dataset"] == dataset]

        (event,) = await eventually(told)
        assert (event["code"], event["node"]) == ("denied", f"{key}-b")


async def test_a_frozen_router_has_no_say_and_another_goes_on(
    routed: Up, bus: Bus, fleet: Fleet, router: RouterProcess, key: str, tmp_path: Path
) -> None:
    dataset = f"d{key}"
    names = [f"{key}-{i}" for i in range(3)]
    async with stand_in(bus, *names) as agents:
        await sealed(agents, dataset, names[0], 5)
        await known(fleet, 5)
        await eventually(lambda: leading(router))
        other = RouterProcess(routed, tmp_path / "other.log")
        other.start()
        try:
            agents.working.clear()
            first = await ask(fleet, dataset, *(f"node:{name}" for name in names))
            standing = await eventually(lambda: orders_of(bus, names))
            assert standing
            router.kill(signal.SIGSTOP)
            await eventually(lambda: leading(other))
            epoch = agents.epoch

            async def adopted() -> bool:
                found = await orders_of(bus, names)
                return bool(found) and all(each.token >= epoch for each in found)

            await eventually(adopted)
            router.kill(signal.SIGCONT)
            agents.working.set()
            report = await finished(fleet, first.id)
            assert (report.verified, report.failed) == (15, 0)
            assert all(order.token >= epoch for order, epoch in agents.carried)
            ids = [id for id, event in await events(bus, SyncCompleted)]
            assert len(ids) == len(set(ids))
        finally:
            other.kill()


async def leading(router: RouterProcess) -> bool:
    return '"event": "deciding"' in router.log


async def orders_of(bus: Bus, names: list[str]) -> list[Order]:
    entries = await Store(bus, ORDERS).entries()
    prefixes = tuple(order_key(name, "") for name in names)
    return [
        msgspec.json.decode(entry.value or b"", type=Order)
        for entry in entries
        if entry.key.startswith(prefixes)
    ]


@pytest.mark.slow
async def test_a_restarted_router_goes_on_with_a_request(
    bus: Bus, fleet: Fleet, router: RouterProcess, key: str
) -> None:
    dataset = f"d{key}"
    async with stand_in(bus, f"{key}-a", f"{key}-b") as agents:
        agents.working.clear()
        await sealed(agents, dataset, f"{key}-a", 200)
        await known(fleet, 200)
        first = await ask(fleet, dataset, f"node:{key}-a", f"node:{key}-b")
        await eventually(lambda: orders_of(bus, [f"{key}-b"]))
        router.kill()
        agents.working.set()
        router.start()
        report = await finished(fleet, first.id)
        assert (report.asked, report.verified, report.already_there) == (400, 400, 200)
        assert report.moved == 200


async def test_what_only_a_leaving_node_has_is_saved_first(
    bus: Bus, fleet: Fleet, router: RouterProcess, key: str
) -> None:
    spot, safe, dataset = f"{key}-spot", f"{key}-safe", f"d{key}"
    async with stand_in(bus, safe) as agents:
        await agents.join(spot, price_class="spot")
        agents.working.clear()
        found = [
            artifact(dataset, f"a{i}", spot, value=float(i), size=1_000 + i) for i in range(20)
        ]
        for each in found:
            await agents.sealed(each)
        await known(fleet, 20)
        told = await fleet.command(EVACUATE, AskEvacuation(node=spot, deadline_s=60))
        assert told.at_risk == 20
        assert told.unsaved[0] == found[-1].id

        async def critical() -> bool:
            standing = await orders_of(bus, [safe])
            return bool(standing) and all(each.priority == "critical" for each in standing)

        await eventually(critical)
        agents.working.set()

        async def all_safe() -> bool:
            told = await fleet.command(EVACUATE, AskEvacuation(node=spot, deadline_s=60))
            return told.at_risk == 0 and len(told.saved) == 20

        await eventually(all_safe)
        router.kill()
        router.start()
        await fleet.publish(NodeLeft(node=spot, reason="test"))

        async def concluded() -> list[dict[str, object]]:
            return [e for _, e in await events(bus, NodeEvacuated) if e["node"] == spot]

        (event,) = await eventually(concluded)
        assert (event["saved"], event.get("lost")) == (20, 0)
        assert event["saved_bytes"] == sum(each.bytes for each in found)


@pytest.mark.usefixtures("router")
async def test_a_copy_is_dropped_after_others_have_checked_theirs(
    bus: Bus, fleet: Fleet, key: str
) -> None:
    dataset = f"d{key}"
    names = [f"{key}-{i}" for i in range(3)]
    async with stand_in(bus, *names) as agents:
        policy = Policy(
            dataset=dataset,
            copies=2,
            targets=(f"node:{names[1]}", f"node:{names[2]}"),
            keep_at_origin=False,
        )
        await fleet.command(
            SET_POLICY, SetPolicy(dataset=dataset, policy=policy), patience_s=PATIENCE_S
        )
        (one,) = await sealed(agents, dataset, names[0], 1)

        async def dropped() -> bool:
            copy = await agents.inventory.copy(names[0], one.id)
            return copy is not None and copy.state == "dropped"

        await eventually(dropped)
        mine = [order for order, _ in agents.carried if order.artifact == one.id]
        assert [order.action for order in mine][-1] == "drop"
        drop = mine[-1]
        checked = {order.node for order in mine if order.action == "verify"}
        assert checked == set(drop.others)
        assert drop.replicas == 2
        for name in drop.others:
            copy = await agents.inventory.copy(name, one.id)
            assert copy is not None
            assert copy.verified_at > drop.issued_at
