"""What systemd is handed: no secret in the unit, and nothing that it would read otherwise."""

import stat
from pathlib import Path

import pytest

from interlock.errors import InterlockError
from interlock_node_agent.unit_file import environment_file, install, unit_file

SECRET = 'pa"ss\\w%rd$x'


def test_the_secret_is_in_the_file_that_its_owner_alone_reads(tmp_path: Path) -> None:
    unit = tmp_path / "interlock-agent.service"
    written = install(
        unit,
        {"INTERLOCK_NATS_PASSWORD": SECRET, "INTERLOCK_NODE": "n1"},
        python="/opt/py thon/bin/python",
        grace_s=20,
    )
    text = unit.read_text()
    assert "pa" + '"ss' not in text
    assert "PASSWORD" not in text
    environment = Path(written.environment)
    assert stat.S_IMODE(environment.stat().st_mode) == 0o600
    assert 'INTERLOCK_NATS_PASSWORD="pa\\"ss\\\\w%rd$x"\n' in environment.read_text()
    assert f"EnvironmentFile={environment}" in text
    assert 'ExecStart="/opt/py thon/bin/python" -m interlock agent join' in text
    assert "TimeoutStopSec=35" in text


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    unit = tmp_path / "a.service"
    unit.write_text("mine")
    with pytest.raises(InterlockError, match="already"):
        install(unit, {}, python="python", grace_s=20)
    assert unit.read_text() == "mine"
    assert not unit.with_suffix(".env").exists()


def test_a_line_break_would_be_another_variable() -> None:
    with pytest.raises(InterlockError, match="line break"):
        environment_file({"INTERLOCK_NODE": "a\nLD_PRELOAD=/evil.so"})


def test_what_systemd_expands_is_written_twice() -> None:
    assert "/a%%b$$c/python" in unit_file("/a%b$c/python", Path("/x.env"), grace_s=1)
