"""The command that says what is wrong with a fleet's broker, and what to do: doctor."""

import sys
import textwrap
from typing import TYPE_CHECKING

import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag, StateOption

if TYPE_CHECKING:
    from interlock.doctor import Examination

__all__ = ["add"]

_WIDTH = 96
_INDENT = " " * 8


def add(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)


def doctor(state: StateOption = None, json: JsonFlag = False) -> None:
    """Check the broker and who uses it, and say what to do about what is wrong.

    Exit 0 when nothing is wrong, also with warnings; 1 when something is.
    """
    from interlock.discovery import contracts
    from interlock.doctor import examine

    settings = base.settings(state, timeout_s=2.0)
    sys.stderr.write("looking at the broker for about two seconds\n")
    examination = base.run(examine(settings, contracts()))
    if json:
        base.emit(
            {
                "ok": examination.ok,
                "findings": examination.findings,
                "checked": examination.checked,
            }
        )
    else:
        _show(examination)
    raise typer.Exit(0 if examination.ok else 1)


def _show(examination: "Examination") -> None:
    for finding in examination.findings:
        mark = "ERROR  " if finding.severity == "error" else "warning"
        lines = [f"{mark} {finding.check}: {finding.subject}"]
        for text in (finding.found, finding.why):
            lines += textwrap.wrap(text, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)
        # Whole, to be copied.
        lines.append(f"{_INDENT}→ {finding.remedy}")
        sys.stdout.write(base.plain("\n".join(lines)) + "\n")
    errors = sum(finding.severity == "error" for finding in examination.findings)
    warnings = len(examination.findings) - errors
    told = f"{errors} errors, {warnings} warnings" if examination.findings else "all is well"
    sys.stdout.write(f"{examination.checked} checks: {told}\n")
