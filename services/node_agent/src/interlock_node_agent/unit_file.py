"""Writes what systemd needs to run an agent: a unit without secrets, and its environment beside it.

The texts are made by pure functions; `install` writes them, the environment readable by its owner
alone.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from interlock.errors import InterlockError

__all__ = ["Installed", "environment_file", "install", "unit_file"]

#: What systemd waits on top of the workers' grace before it kills, seconds.
_FAREWELL_S: Final = 15


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    unit: str
    environment: str


def unit_file(python: str, environment: Path, *, grace_s: float) -> str:
    """The unit. Leaving as asked is no failure, so the agent then stays ended."""
    return f"""\
[Unit]
Description=Interlock agent of this node
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
EnvironmentFile={_percent(str(environment))}
ExecStart="{_percent(_escape(python))}" -m interlock agent join
Restart=on-failure
RestartSec=2
KillMode=mixed
TimeoutStopSec={int(grace_s) + _FAREWELL_S}
NoNewPrivileges=true

[Install]
WantedBy=multi-user.target
"""


def environment_file(variables: Mapping[str, str]) -> str:
    """The environment. Raises InterlockError for a value with a line break."""
    lines = []
    for name, value in sorted(variables.items()):
        if "\n" in value or "\r" in value:
            raise InterlockError(f"{name} has a line break: systemd cannot read that")
        lines.append(f'{name}="{_escape(value)}"\n')
    return "".join(lines)


def install(path: Path, variables: Mapping[str, str], *, python: str, grace_s: float) -> Installed:
    """Write both files. Raises InterlockError where one is there already, or cannot be written."""
    unit = path.expanduser().absolute()
    environment = unit.with_suffix(".env")
    if environment == unit:
        raise InterlockError(f"{unit} is the name of the environment file: end it in .service")
    for each in (unit, environment):
        if each.exists():
            raise InterlockError(f"{each} is there already: remove it first, or name another")
    written = unit_file(python, environment, grace_s=grace_s)
    _write(environment, environment_file(variables), 0o600)
    _write(unit, written, 0o644)
    return Installed(unit=str(unit), environment=str(environment))


def _write(path: Path, text: str, mode: int) -> None:
    try:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise InterlockError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(target, "w", encoding="utf-8") as file:
        file.write(text)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _percent(text: str) -> str:
    """In a unit, a percent sign begins a specifier, and a dollar sign a variable."""
    return text.replace("%", "%%").replace("$", "$$")
