"""Mixed data reaches every node while agents, the router and the broker are killed at random."""

import asyncio
import itertools
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from interlock.artifacts.inventory import Inventory
from interlock.bus import connected
from interlock.fleet import Fleet
from interlock.nodes.book import NodeBook
from interlock_schemas.artifacts import Copy
from interlock_schemas.nodes import NodeRecord, Storage
from tests.chaos.data_fleet import Producer, StoreAgent, Watch, hashes, kill_at_random, wrong_in
from tests.conftest import Up
from tests.sshd import needs_sshd, private_sshd

MIB = 1024 * 1024
DATASET = "mixed"


def source_tree(folder: Path, files: int) -> None:
    """A tree of real files, links and odd names in it."""
    folder.mkdir()
    source = Path(json.__file__).parents[1]
    for path in itertools.islice(sorted(source.rglob("*.py")), files):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for name in ("with space", "-n", "new\nline", "ünïcode-☃", ".hidden"):
        (folder / name).write_text(name)
    (folder / "empty").write_bytes(b"")


async def move_under_faults(
    up: Up, tmp_path: Path, *, big_bytes: int, files: int, seconds: float, timeout_s: float
) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    stores = tmp_path / "stores"
    with private_sshd(tmp_path / "sshd") as sshd:
        names = ["n1", "n2", "n3", "n4", "n5"]
        agents = [StoreAgent(up, name, stores / name, tmp_path / f"{name}.log") for name in names]
        plain = stores / "plain"
        plain.mkdir(parents=True)
        async with connected(up.settings, name="test") as bus:
            fleet = Fleet(bus, source="test")
            book = NodeBook(fleet, by="test")
            for name in names:
                # The last two are reached through the broker alone.
                ssh = sshd.access() if name in ("n1", "n2", "n3") else None
                record = NodeRecord(name=name, ssh=ssh, price_class="owned")
                await book.put(name, lambda _, record=record: record)  # type: ignore[misc]
            host = NodeRecord(
                name="plain",
                agent=False,
                ssh=sshd.access(),
                storage=Storage(path=str(plain)),
                price_class="owned",
            )
            await book.put("plain", lambda _: host)
        try:
            for agent in agents:
                agent.start()
            origin = agents[0]
            source_tree(sources / "tree", files)
            (sources / "big.bin").write_bytes(os.urandom(MIB) * (big_bytes // MIB))
            with Producer(sources) as producer, Watch([*(a.root for a in agents), plain]) as watch:
                for name in ("tree", "big.bin", "games.db"):
                    told = origin.cli("artifact", "add", str(sources / name), "--dataset", DATASET)
                    assert told.returncode == 0, told.stderr
                killing = asyncio.create_task(
                    kill_at_random(
                        up, agents, seconds, 1, ("agent", "frozen agent", "router", "broker")
                    )
                )
                while not killing.done():
                    for name, *extra in (("games.db",), ("selfplay.jsonl", "--log")):
                        told = await asyncio.to_thread(
                            origin.cli,
                            "artifact",
                            "add",
                            str(sources / name),
                            "--dataset",
                            DATASET,
                            *extra,
                        )
                        assert told.returncode == 0, told.stderr
                    await asyncio.sleep(2)
                assert sum(killing.result().values()) > 3
                await asyncio.to_thread(up.await_services)
                told = await asyncio.to_thread(
                    origin.cli,
                    *("sync", "run", DATASET, "--timeout", str(timeout_s), "--json"),
                )
                assert told.returncode == 0, told.stdout + told.stderr
                report = json.loads(told.stdout.splitlines()[-1])
                assert (report["failed"], report["pending"]) == (0, 0)
                assert report["verified"] == report["asked"] >= 6 * 4
        finally:
            for agent in agents:
                if agent.process is not None:
                    agent.kill()
        assert watch.wrong == []
        ids = {folder.name for folder in (stores / "n1").glob("artifacts/??/*")}
        assert len(ids) >= 4
        for root in (*(agent.root for agent in agents), plain):
            assert {folder.name for folder in root.glob("artifacts/??/*")} >= ids
        async with connected(up.settings, name="test") as bus:
            for name in (*names, "plain"):
                receipts = await Inventory(bus).copies(name, None)
                for id in ids:
                    check_receipt(receipts[id], stores / name / "artifacts" / id[:2] / id)
    check_content(producer, plain, ids)


def check_receipt(receipt: Copy, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert receipt.state == "held"
    assert receipt.bytes == sum(entry["size"] for entry in manifest["files"])
    assert hashes([folder / "manifest.json"]) == [receipt.id]


def check_content(producer: Producer, root: Path, ids: set[str]) -> None:
    """Databases are whole, and the log's segments are the log."""
    segments = []
    for id in sorted(ids):
        folder = root / "artifacts" / id[:2] / id
        assert wrong_in(folder) == []
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if manifest["kind"] == "sqlite":
            connection = sqlite3.connect(folder / "files" / manifest["files"][0]["path"])
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            count, last = connection.execute("SELECT count(*), max(id) FROM games").fetchone()
            assert count == (last or 0)
            connection.close()
        elif manifest["kind"] == "segment":
            path = folder / "files" / manifest["files"][0]["path"]
            segments.append((manifest["name"], path.read_bytes()))
    joined = b"".join(body for _, body in sorted(segments))
    assert joined
    assert producer.logfile.read_bytes().startswith(joined)


@needs_sshd
async def test_mixed_data_reaches_every_node_while_things_are_killed(
    own_up: Up, tmp_path: Path
) -> None:
    await move_under_faults(
        own_up, tmp_path, big_bytes=48 * MIB, files=300, seconds=9, timeout_s=90
    )


@needs_sshd
@pytest.mark.slow
@pytest.mark.timeout(1_800)
async def test_two_gigabytes(own_up: Up, tmp_path: Path) -> None:
    await move_under_faults(
        own_up, tmp_path, big_bytes=1024 * MIB, files=5_000, seconds=120, timeout_s=1_200
    )
