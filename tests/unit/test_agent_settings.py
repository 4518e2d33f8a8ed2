"""Settings of the agent, and what it says where they make no sense."""

from pathlib import Path

import pytest

from interlock.errors import SettingsInvalid
from interlock_node_agent import pci
from interlock_node_agent.service import node_record
from interlock_node_agent.settings import Settings


def test_lists_and_labels_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_AGENT_WATCH", "/data, /var/lib")
    monkeypatch.setenv("INTERLOCK_AGENT_ROLES", "train,eval")
    monkeypatch.setenv("INTERLOCK_AGENT_LABELS", "rack=7, url=a=b")
    settings = Settings()
    assert settings.agent_watch == (Path("/data"), Path("/var/lib"))
    record = node_record(settings, "n1")
    assert record.roles == ("train", "eval")
    assert record.labels == {"rack": "7", "url": "a=b"}
    assert record.paths == ("/data", "/var/lib")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AGENT_LABELS", "rack"),
        ("AGENT_PRICE_CLASS", "cheap"),
        ("AGENT_LEASE_S", "0"),
        ("AGENT_NOTICE_PROVIDER", "nobody"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"INTERLOCK_{variable}", value)
    with pytest.raises(SettingsInvalid, match=f"INTERLOCK_{variable}"):
        Settings()


def test_a_description_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_AGENT_ROLES", "x" * 300)
    with pytest.raises(SettingsInvalid, match="roles"):
        node_record(Settings(), "n1")


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        ([], "none"),
        ([(0x8086, 0x030000), (0x10DE, 0x040300)], "none"),
        ([(0x10DE, 0x030200)], "nvidia"),
        ([(0x1002, 0x120000)], "other"),
        ([(0x1002, 0x030000), (0x10DE, 0x030000)], "nvidia"),
    ],
)
def test_the_bus_tells_what_there_is(devices: list[tuple[int, int]], found: str) -> None:
    assert pci.classify(devices) == found


def test_a_bus_that_cannot_be_looked_at_is_not_an_empty_one(tmp_path: Path) -> None:
    assert pci.look(tmp_path / "none") == "unknown"
    device = tmp_path / "0000:00:01.0"
    device.mkdir()
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    assert pci.look(tmp_path) == "nvidia"
