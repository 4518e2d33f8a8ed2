"""`interlock artifact`, `interlock sync`, and what workers ask for; real agents, real routers."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest

import interlock
from interlock.artifacts.errors import ArtifactError
from interlock.blocking import connect_blocking
from interlock.bus import Bus
from interlock.cli import main
from interlock.errors import BusUnavailable, CommandFailed, NobodyThere
from interlock.fleet import Fleet
from interlock.kv import Store
from interlock.local import local_fleet
from interlock.settings import ConnectionSettings
from interlock_schemas import orders
from interlock_schemas.orders import SyncReport
from interlock_schemas.topology import ORDERS
from tests.conftest import PATIENCE_S, Up, clean_env, eventually
from tests.integration.agents import agent
from tests.integration.stand_in import artifact, stand_in


class Told(NamedTuple):
    """What a command said."""

    code: int
    stdout: str
    stderr: str


def typed(env: Mapping[str, str], *arguments: str) -> Told:
    """Run a command as `interlock` does, in this process: it is asked often."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, env, clear=True),
        mock.patch.object(sys, "argv", ["interlock", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        else:
            code = 0
    return Told(code, out.getvalue(), err.getvalue())


def typed_json(env: Mapping[str, str], *arguments: str, code: int = 0) -> Any:
    told = typed(env, *arguments, "--json")
    assert told.code == code, told.stdout + told.stderr
    return json.loads(told.stdout.splitlines()[-1])


class Host:
    """A host with a store and an agent, on which commands are typed."""

    def __init__(self, up: Up, name: str, folder: Path) -> None:
        self.up, self.name, self.folder = up, name, folder
        self.env = up.env | {"INTERLOCK_NODE": name, "INTERLOCK_STATE": str(folder)}

    def run(self, *arguments: str) -> Told:
        return typed(self.env, *arguments)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return typed_json(self.env, *arguments, code=code)

    @property
    def settings(self) -> ConnectionSettings:
        return self.up.settings.model_copy(update={"node": self.name, "state": self.folder})


@pytest.fixture(scope="module")
def hosts(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """Two hosts whose agents keep stores."""
    names = [f"{letter}-{uuid.uuid4().hex[:6]}" for letter in "ab"]
    made = [Host(up, name, tmp_path_factory.mktemp(name)) for name in names]
    with contextlib.ExitStack() as stack:
        for host in made:
            settings = {
                "state": str(host.folder),
                "agent_store": "true",
                "agent_price_class": "owned",
            }
            stack.enter_context(agent(up, host.name, host.folder / "log", **settings))
        yield made[0], made[1]


def fresh() -> str:
    return f"d{uuid.uuid4().hex[:8]}"


def test_what_is_added_is_at_the_other_host_with_a_receipt(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    a, b = hosts
    dataset = fresh()
    source = tmp_path / "games.bin"
    source.write_bytes(os.urandom(300_000))
    a.json("sync", "policy", "set", dataset, "--copies", "1")
    added = a.json(
        "artifact", "add", str(source), "--dataset", dataset, "--config", "hex8", "--value", "7"
    )
    assert added["told"] is True
    (about,) = added["artifacts"]
    assert a.json("artifact", "add", str(source), "--dataset", dataset, "--config", "hex8")[
        "artifacts"
    ] == [about]
    known = b.json("artifact", "list", "--dataset", dataset, "--config", "hex8")
    assert [each["id"] for each in known["artifacts"]] == [about["id"]]
    there = b.run("artifact", "path", about["id"])
    assert there.code == 1
    assert "not on this host" in there.stderr

    report = a.json("sync", "run", dataset, "--to", f"node:{b.name}")
    assert report["succeeded"] is True
    assert (report["verified"], report["moved"], report["moved_bytes"]) == (1, 1, 300_000)
    here = Path(b.json("artifact", "path", about["id"][:10])["path"])
    assert here.read_bytes() == source.read_bytes()
    shown = a.json("artifact", "show", about["id"][:10])
    held = {each["node"] for each in shown["copies"]}
    assert held >= {a.name, b.name}
    assert about["id"][:12] in b.run("artifact", "list", "--node", b.name).stdout
    again = a.json("sync", "run", dataset, "--to", f"node:{b.name}", "--artifact", about["id"])
    assert (again["succeeded"], again["already_there"], again.get("moved", 0)) == (True, 1, 0)

    told = a.run("sync", "history", "--dataset", dataset, "--node", b.name, "--since", "10m")
    assert re.search(rf"completed +{b.name} +{dataset} +hex8", told.stdout), told.stdout
    assert b.json("artifact", "verify")["damaged"] == {}
    here.chmod(0o644)
    here.write_bytes(b"x" * 300_000)
    found = b.json("artifact", "verify", about["id"], code=1)
    assert list(found["damaged"]) == [about["id"]]


def test_folders_logs_and_what_cannot_be_sealed(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    a, _ = hosts
    dataset = fresh()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w" * 1_000)
    (folder / "meta.json").write_text("{}")
    log = tmp_path / "games.jsonl"
    log.write_text('{"n":1}\n{"n":2}\n{"n":')
    made = a.json("artifact", "add", str(folder), "--dataset", dataset)["artifacts"]
    assert (made[0]["kind"], made[0]["files"], made[0]["bytes"]) == ("folder", 2, 1_002)
    (segment,) = a.json("artifact", "add", str(log), "--log", "--dataset", dataset)["artifacts"]
    assert (segment["kind"], segment["bytes"]) == ("segment", 16)
    assert a.run("artifact", "add", str(log), "--log", "--dataset", dataset).stdout == (
        "nothing new\n"
    )
    missing = a.json(
        "artifact", "add", str(tmp_path / "none"), str(folder), "--dataset", dataset, code=1
    )
    assert list(missing["failed"]) == [str(tmp_path / "none")]
    assert len(missing["artifacts"]) == 1
    assert a.json("artifact", "add", str(folder), "--dataset", "No Name", code=1)["failed"]
    assert "no artifact" in a.json("artifact", "show", "0" * 12, code=1)["error"]
    assert "is no id" in a.json("artifact", "path", "../../etc", code=1)["error"]


def test_adding_needs_neither_broker_nor_agent(tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"x")
    env = {"INTERLOCK_NATS_URL": "nats://127.0.0.1:1", "INTERLOCK_DATA": str(tmp_path / "store")}
    told = typed(
        clean_env() | env, "artifact", "add", str(source), "--dataset", "games", "--move", "--json"
    )
    assert told.code == 0, told.stderr
    assert json.loads(told.stdout)["told"] is False
    assert "does not know of it yet" in told.stderr
    assert not source.exists()


async def test_a_worker_adds_and_asks_at_once(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    a, b = hosts
    dataset = fresh()
    seen: list[SyncReport] = []
    async with interlock.connect(a.settings) as fleet:
        abouts = []
        for number in range(3):
            path = tmp_path / f"{number}.npz"
            path.write_bytes(os.urandom(50_000))
            abouts.append(await fleet.artifacts.add(path, dataset=dataset, games=number))
        report = await fleet.sync(
            dataset, targets=f"node:{b.name}", priority="high", on_progress=seen.append
        )
        assert interlock.succeeded(report)
        assert (report.artifacts, report.moved, report.targets) == (3, 3, (b.name,))
        assert seen[-1] == report
        assert len(seen) == len(set(seen))
        shown = await fleet.artifacts.show(abouts[0])
        assert {copy.node for copy in shown.copies} >= {a.name, b.name}
        assert shown.path is not None
        with pytest.raises(ArtifactError, match="nobody can be asked"):
            await fleet.sync("Not A Dataset")
        with pytest.raises(CommandFailed, match="no selector"):
            await fleet.sync(dataset, targets="everywhere")
    async with interlock.connect(b.settings) as other:
        assert other.artifacts.path(abouts[1]).read_bytes() == (tmp_path / "1.npz").read_bytes()


def test_a_plain_script_has_the_same(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    a, b = hosts
    path = tmp_path / "model.pt"
    path.write_bytes(os.urandom(10_000))
    dataset = fresh()
    with connect_blocking(a.settings) as fleet:
        about = fleet.artifacts.add(path, dataset=dataset)
        assert fleet.artifacts.told()
        report = fleet.sync(dataset, artifacts=[about], targets=[f"node:{b.name}"])
        assert interlock.succeeded(report)
        assert fleet.artifacts.list(dataset) == (about,)
        assert fleet.artifacts.show(about.id[:12]).artifact == about
        assert fleet.artifacts.path(about).read_bytes() == path.read_bytes()


def test_the_example_in_the_documents_runs(up: Up) -> None:
    example = Path(__file__).parents[2] / "docs" / "examples" / "artifacts.py"
    told = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        env=up.env | {"INTERLOCK_STATE": str(up.folder)},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "it is there" in told.stdout


def test_why_something_goes_where_it_goes(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    a, b = hosts
    dataset = fresh()
    path = tmp_path / "x.bin"
    path.write_bytes(os.urandom(1_000))
    paused = a.json(
        "sync", "pause", f"dataset:{dataset}", "--reason", "moving house", "--for", "1h"
    )
    assert paused["pauses"][f"dataset:{dataset}"]["reason"] == "moving house"
    (about,) = a.json("artifact", "add", str(path), "--dataset", dataset)["artifacts"]
    listed = a.run("sync", "plan", dataset, "--artifact", about["id"][:12])
    assert listed.code == 0, listed.stderr
    assert b.name in listed.stdout
    assert "paused" in a.run("sync", "status").stdout
    assert (
        a.json("sync", "resume", f"dataset:{dataset}")["pauses"].get(f"dataset:{dataset}") is None
    )
    status = a.json("sync", "status")
    assert {each["node"] for each in status["nodes"]} >= {a.name, b.name}
    missed = a.json("sync", "run", dataset, "--to", "node:nowhere", code=1)
    assert (missed["succeeded"], missed["left_out"][0]["node"]) == (False, "nowhere")
    unknown = a.json("sync", "run", fresh(), code=1)
    assert "no dataset is called" in unknown["error"]


def test_what_only_one_node_has_is_saved_before_it_goes(up: Up, tmp_path: Path) -> None:
    host = Host(up, f"spot-{uuid.uuid4().hex[:6]}", tmp_path)
    path = tmp_path / "x.bin"
    path.write_bytes(os.urandom(10_000))
    settings = {
        "state": str(tmp_path),
        "agent_store": "true",
        "agent_price_class": "spot",
    }
    with agent(up, host.name, tmp_path / "log", **settings):
        (about,) = host.json(
            "artifact", "add", str(path), "--dataset", fresh(), "--value", "3"
        )["artifacts"]  # fmt: skip
        found = host.json("sync", "evacuate", host.name, "--timeout", "60")
        assert found.get("at_risk", 0) == 0
        held = {
            each["node"]
            for each in host.json("artifact", "show", about["id"])["copies"]
            if each.get("state", "held") == "held"
        }
        assert held - {host.name}
    assert "no node is called" in host.json("sync", "evacuate", "nowhere", code=1)["error"]


def test_policies_are_set_shown_and_read_from_a_file(up: Up, tmp_path: Path) -> None:
    games, models = fresh(), fresh()
    env = clean_env() | {"INTERLOCK_STATE": str(up.folder)}
    said = typed_json(
        env, "sync", "policy", "set", games, "--copies", "3", "--target", "role:trainer",
        "--keep-last", "5", "--largest", "2 GB", "--drop-at-origin",
    )["policy"]  # fmt: skip
    assert (said["copies"], said["targets"], said["largest_bytes"]) == (3, ["role:trainer"], 2e9)
    said = typed_json(
        env, "sync", "policy", "set", games, "--target", "none", "--keep-last", "0", "--largest",
        "none", "--priority", "high",
    )["policy"]  # fmt: skip
    assert (said["copies"], said["targets"], said["largest_bytes"]) == (3, [], None)
    assert (said["keep_last"], said["priority"], said["keep_at_origin"]) == (None, "high", False)
    file = tmp_path / "sync.toml"
    file.write_text(f"[policy.{games}]\ncopies = 2\n[policy.{models}]\ntargets = ['all']\n")
    assert len(typed_json(env, "sync", "policy", "apply", str(file), "--dry-run")["changed"]) == 2
    assert len(typed_json(env, "sync", "policy", "apply", str(file))["changed"]) == 2
    assert typed_json(env, "sync", "policy", "apply", str(file))["unchanged"] == [
        *sorted((games, models))
    ]
    file.write_text(f"[policy.{games}]\n\ncopies = 0\n")
    told = typed(env, "sync", "policy", "apply", str(file), "--json")
    assert told.code == 1
    problem = json.loads(told.stdout)["problems"][0]
    assert (problem["line"], problem["field"]) == (3, f"policy.{games}.copies")
    assert typed_json(env, "sync", "policy", "set", games, "--default")["policy"] is None
    shown = typed_json(env, "sync", "policy", "show", games)
    assert (shown["policies"], shown["default"]["copies"]) == ([], 2)
    assert games not in typed(env, "sync", "policy", "show").stdout
    wrong = typed(env, "sync", "policy", "set", games, "--target", "everyone")
    assert wrong.code == 1
    assert "no selector" in wrong.stderr


async def test_a_report_comes_back_when_the_time_is_over(bus: Bus, fleet: Fleet) -> None:
    dataset, a, b = fresh(), f"s-{fresh()}", f"t-{fresh()}"
    async with stand_in(bus, a, b) as agents:
        agents.working.clear()
        await agents.sealed(artifact(dataset, "x", a))
        await eventually(lambda: known(fleet, dataset))
        report = await fleet.sync(dataset, targets=[f"node:{b}"], timeout=1.0)
        assert report.timed_out
        assert not interlock.succeeded(report)
        assert (report.asked, report.verified) == (1, 0)
        # Whoever does not want to wait any more just stops.
        waiting = asyncio.create_task(fleet.sync(dataset, targets=[f"node:{b}"]))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def known(fleet: Fleet, dataset: str) -> bool:
    """Whether the router has heard of a dataset."""
    try:
        asked = orders.Request(id=f"ask-{dataset}", dataset=dataset)
        await fleet.command(orders.PLAN, orders.AskPlan(dataset=dataset, request=asked))
    except (BusUnavailable, CommandFailed):
        return False
    return True


class RouterAlone(Up):
    def await_services(self) -> None:
        """The test waits for what it needs by itself."""


async def test_a_router_that_is_killed_meanwhile_does_no_harm(tmp_path: Path) -> None:
    up = RouterAlone(tmp_path / "state", "--only", "sync-mutex", "--only", "sync-router")
    await asyncio.to_thread(up.start)
    try:
        async with (
            interlock.connect(up.settings) as fleet,
            stand_in(fleet.bus, "a", "b") as agents,
        ):
            agents.working.clear()
            await agents.sealed(artifact("games", "x", "a"))
            await eventually(lambda: known(fleet, "games"))

            async def ordered() -> bool:
                entries = await Store(fleet.bus, ORDERS).entries()
                return any(each.key.startswith("order.b.") for each in entries)

            syncing = asyncio.create_task(fleet.sync("games", targets=["node:b"]))
            await eventually(ordered)
            os.kill(up.pids()["sync-router"], signal.SIGKILL)
            agents.working.set()
            report = await syncing
            assert interlock.succeeded(report)
            assert report.verified == 1
    finally:
        assert await asyncio.to_thread(up.stop) == 0


async def test_where_nobody_routes_one_is_told_how_to_start_it(tmp_path: Path) -> None:
    async with (
        local_fleet(tmp_path / "state", services=[]) as local,
        interlock.connect(local.settings) as fleet,
    ):
        with pytest.raises(NobodyThere, match="interlock up"):
            await fleet.sync("games", timeout=0.3)
        path = tmp_path / "x"
        path.write_bytes(b"x")
        await fleet.artifacts.add(path, dataset="games")
        with pytest.raises(ArtifactError, match="does not know yet what was sealed here"):
            await fleet.sync("games", timeout=0.3)
