"""What a worker does with artifacts on its own host, without a broker."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.artifacts import sdk
from interlock.artifacts.errors import ArtifactError, NotSealed
from interlock.artifacts.sdk import Artifacts, one_of, succeeded
from interlock.artifacts.syncing import make_request
from interlock.errors import BusUnavailable, SettingsInvalid
from interlock.settings import ConnectionSettings
from interlock.state import store_root
from interlock_schemas.orders import LeftOut, SyncReport


def none(*_: Any) -> Any:
    raise BusUnavailable("there is no broker")


def artifacts(root: Path, node: str = "n") -> Artifacts:
    return Artifacts(node=node, root=root, bus=none, connected=none)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(1_000))
    return path


async def test_what_is_added_is_kept_and_found_without_a_broker(
    tmp_path: Path, source: Path
) -> None:
    mine = artifacts(tmp_path / "store")
    about = await mine.add(source, dataset="games", value=3)
    assert mine.path(about).read_bytes() == source.read_bytes()
    assert mine.find_here(about.id[:8].upper()) == about.id
    assert mine.untold == (about,)
    assert await mine.told(0.05) is False
    with pytest.raises(ArtifactError, match="is not on this host"):
        mine.path("0" * 64)
    with pytest.raises(ArtifactError, match="no artifact"):
        mine.find_here("0" * 12 if about.id[0] != "0" else "1" * 12)


async def test_a_growing_log_is_added_until_there_is_no_more(tmp_path: Path) -> None:
    mine = artifacts(tmp_path / "store")
    log = tmp_path / "log"
    log.write_text("one\ntwo\nthr")
    first = await mine.add_log(log, dataset="games")
    assert first is not None
    assert first.bytes == 8
    assert await mine.add_log(log, dataset="games") is None


async def test_whoever_is_cancelled_leaves_nothing_behind(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def seal(*_: Any, cancelled: threading.Event, **__: Any) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert cancelled.wait(60)
        ended.set()
        raise NotSealed("stopped")

    monkeypatch.setattr("interlock.artifacts.sealing.seal", seal)
    adding = asyncio.create_task(artifacts(tmp_path / "store").add(source, dataset="games"))
    await begun.wait()
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert ended.is_set()


async def test_a_host_without_a_proper_name_adds_nothing(tmp_path: Path, source: Path) -> None:
    with pytest.raises(SettingsInvalid, match="INTERLOCK_NODE"):
        await artifacts(tmp_path / "store", "no name").add(source, dataset="games")
    assert not (tmp_path / "store").exists()


async def test_what_is_remembered_for_a_request_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk, "_REMEMBERED", 2)
    mine = artifacts(tmp_path / "store")
    abouts = []
    for number in range(3):
        path = tmp_path / str(number)
        path.write_text(str(number))
        abouts.append(await mine.add(path, dataset="games"))
    assert mine.untold == tuple(abouts[1:])


def test_worker_and_agent_of_a_host_use_the_same_store(tmp_path: Path) -> None:
    assert store_root(ConnectionSettings(state=tmp_path)) == tmp_path / "store"
    assert store_root(ConnectionSettings(state=tmp_path, data=Path("/d"))) == Path("/d")


@given(st.lists(st.text("01", min_size=3, max_size=3), unique=True), st.text("01", min_size=1))
def test_a_prefix_stands_for_one_or_is_refused(ids: list[str], prefix: str) -> None:
    found = [id for id in ids if id.startswith(prefix)]
    if len(found) == 1:
        assert one_of(prefix, ids) == found[0]
    else:
        with pytest.raises(ArtifactError, match="begin with" if found else "no artifact"):
            one_of(prefix, ids)


@pytest.mark.parametrize("prefix", ["", "xyz", "../..", "a" * 65])
def test_what_is_no_id_is_refused(prefix: str) -> None:
    with pytest.raises(ArtifactError, match="is no id"):
        one_of(prefix, ["a" * 64])


def report(**fields: Any) -> SyncReport:
    return SyncReport(**{"id": "x", "done": True, "targets": ("a",), **fields})


def test_success_is_a_receipt_for_each_pair() -> None:
    assert succeeded(report(asked=2, verified=2))
    left_out = (LeftOut(node="b", reasons=("it is lost",)),)
    assert succeeded(report(asked=2, verified=2, left_out=left_out))
    assert succeeded(report(asked=0))
    for fields in (
        {"asked": 2, "verified": 1},
        {"asked": 2, "verified": 2, "done": False},
        {"asked": 2, "verified": 1, "failed": 1},
        {"asked": 2, "verified": 2, "timed_out": True},
        {"asked": 0, "targets": (), "left_out": left_out},
    ):
        assert not succeeded(report(**fields)), fields


def test_a_request_names_what_makes_sense() -> None:
    made = make_request("games", artifacts=["a" * 64], targets="role:trainer", by="me")
    assert (made.artifacts, made.targets) == (("a" * 64,), ("role:trainer",))
    assert made.id != make_request("games").id
    for wrong in ({"artifacts": ["x"]}, {"priority": "asap"}):
        with pytest.raises(ArtifactError, match="nobody can be asked"):
            make_request("games", **wrong)
