"""GPUs through a real shared library: one that is bad, hangs, crashes, or is not there."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from interlock.bus import Bus
from interlock_node_agent.gpus import HANGS, Gpus, View
from tests.conftest import Up, eventually, running
from tests.integration.agents import agent, beats

STUB = Path(__file__).parent.parent / "data" / "nvml_stub.c"

Library = Callable[..., None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    folder = tmp_path_factory.mktemp("nvml")
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(STUB)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture
def library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Have the next child find the stub, with such settings."""

    def use(**settings: int) -> None:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
        for name, value in settings.items():
            monkeypatch.setenv(f"STUB_{name.upper()}", str(value))

    return use


async def first_view(gpus: Gpus) -> View:
    async with running(gpus.run()):
        await gpus.measured.wait()
        return gpus.view


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() or _signalled(pid)


def _signalled(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(check: Callable[[], object]) -> Awaitable[object]:
    async def asked() -> object:
        return check()

    return eventually(asked)


async def test_eight_gpus_of_which_one_is_bad(library: Library) -> None:
    library(gpus=8, lost=5, noise=1)
    view = await first_view(Gpus())
    assert view.fault is None
    assert view.gpus is not None
    assert [gpu.index for gpu in view.gpus] == list(range(8))
    bad = view.gpus[5]
    assert bad.fault is not None
    assert "GPU is lost" in bad.fault
    assert (bad.utilization_percent, bad.temperature_c, bad.memory_used_bytes) == (None, None, None)
    assert bad.name == "Stub 5"
    for gpu in view.gpus:
        if gpu is not bad:
            assert gpu.fault is None
            assert gpu.utilization_percent == 40 + gpu.index
            assert gpu.temperature_c == 50 + gpu.index
            assert gpu.memory_used_bytes == 20 << 30
            assert gpu.memory_total_bytes == 80 << 30
            assert gpu.power_w == 250.5
    # What a board does not have is absent and no fault.
    assert [gpu.ecc_uncorrected for gpu in view.gpus] == [None, 0, 12, 0, 0, 0, 0, 0]
    assert [gpu.index for gpu in view.gpus if gpu.rows_failed] == [3]
    assert [gpu.processes for gpu in view.gpus[:3]] == [0, 2, 0]


async def test_a_gpu_that_cannot_be_reached_leaves_the_others(library: Library) -> None:
    library(gpus=3, unreachable=0)
    view = await first_view(Gpus())
    assert view.gpus is not None
    assert [bool(gpu.fault) for gpu in view.gpus] == [True, False, False]


async def test_a_library_that_hangs_is_killed_and_tried_again(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(gpus=4, hangs=2)
    gpus = Gpus(deadline_s=2.0, retry_base_s=0.2)
    async with running(gpus.run()):
        await gpus.measured.wait()
        assert gpus.view == View(None, f"{HANGS}, at GPU 2")
        await until(lambda: gpus.pid is None)
        # The next child finds a library that answers.
        monkeypatch.setenv("STUB_HANGS", "-1")
        await until(lambda: gpus.view.gpus)
        assert gpus.view.fault is None
        assert gpus.pid is not None
        pid = gpus.pid
    assert not alive(pid)


async def test_a_library_that_crashes_takes_nobody_along(library: Library) -> None:
    library(gpus=4, crashes=1)
    view = await first_view(Gpus())
    assert view.gpus is None
    assert view.fault is not None
    assert "SIGSEGV" in view.fault
    assert "GPU 1" in view.fault


async def test_a_library_that_fails_is_a_fault(library: Library) -> None:
    library(init=999)
    view = await first_view(Gpus())
    assert view.gpus is None
    assert view.fault is not None
    assert "Unknown Error" in view.fault


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [("none", ()), ("unknown", None), ("other", None), ("nvidia", None)],
)
async def test_without_a_driver_it_is_said_what_is_true(
    library: Library, hardware: str, expected: tuple[()] | None
) -> None:
    library(init=9)
    view = await first_view(Gpus(look=lambda: hardware))  # type: ignore[arg-type,return-value]
    assert view.gpus == expected
    assert bool(view.fault) is (hardware == "nvidia")


async def test_a_host_without_a_library_and_a_gpu_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    gpus = Gpus(look=lambda: "none")
    async with running(gpus.run()):
        await gpus.measured.wait()
        if gpus.view.gpus:
            pytest.skip("this machine has GPUs")
        await until(lambda: gpus.pid is None)
        await asyncio.sleep(0)
        assert gpus.view == View((), None)


async def test_while_the_library_hangs_the_heart_beats_on(
    up: Up, bus: Bus, library: Library, tmp_path: Path
) -> None:
    library(gpus=8, hangs=3)
    settings = {"agent_gpus": "true", "agent_gpu_deadline_s": "1"}
    with agent(up, "gpu-hangs", tmp_path / "log", **settings):
        async with beats(bus, "gpu-hangs") as heard:
            while (beat := await heard.next()).gpu_fault is None:
                pass
    assert beat.gpus is None
    assert beat.gpu_fault == f"{HANGS}, at GPU 3"
    # It beat before, while nothing was known yet.
    assert beat.seq > 3
    assert [each.seq for each in heard.seen] == list(range(1, len(heard.seen) + 1))
