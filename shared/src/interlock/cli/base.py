"""What the commands share: the application, output as text or JSON, and errors."""

import asyncio
import datetime
import os
import re
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import msgspec
import typer

from interlock.errors import InterlockError

if TYPE_CHECKING:
    from interlock.settings import ConnectionSettings

__all__ = [
    "JsonFlag",
    "StateOption",
    "ago",
    "app",
    "ask",
    "emit",
    "fail",
    "first",
    "parse_since",
    "parse_span",
    "run",
    "settings",
    "wants_json",
    "who",
]

T = TypeVar("T")

app = typer.Typer(
    name="interlock",
    help="Coordination for training fleets over NATS: events, dead letters, and what runs where.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="State folder of the broker on this machine. Default: INTERLOCK_STATE, else "
        "~/.local/state/interlock.",
    ),
]


def wants_json() -> bool:
    """Whether the command line asks for JSON; also where it never came to parsing it."""
    return "--json" in sys.argv


def emit(value: Any) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def fail(error: Exception, code: int = 1) -> NoReturn:
    """Say what went wrong and end."""
    if wants_json():
        emit({"error": str(error)})
    sys.stderr.write(f"error: {error}\n")
    sys.exit(code)


def first(group: BaseExceptionGroup[Any]) -> Exception:
    """The first plain error in a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else InterlockError(str(error))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part. Logs go to standard error, warnings and above."""
    from interlock import logs

    level = os.environ.get("INTERLOCK_LOG_LEVEL", "error")
    if level not in ("debug", "info", "warning", "error"):
        work.close()
        raise InterlockError("INTERLOCK_LOG_LEVEL: debug, info, warning or error")
    logs.configure(level, "console")
    return asyncio.run(work)


async def ask(settings: "ConnectionSettings", command: Any, request: Any) -> Any:
    """Ask a service one command."""
    from interlock.fleet import connect

    async with connect(settings, source=f"cli/{who()}") as fleet:
        return await fleet.command(command, request, timeout_s=30.0)


def settings(state: Path | None, *, timeout_s: float = 5.0) -> "ConnectionSettings":
    """Connection settings for a command: a named state folder wins over the environment."""
    from interlock.settings import ConnectionSettings

    found = ConnectionSettings()
    changes: dict[str, Any] = {}
    if "connect_timeout_s" not in found.model_fields_set:
        changes["connect_timeout_s"] = timeout_s
    if state is not None:
        changes |= {"state": state, "nats_url": None}
    return found.model_copy(update=changes)


def who() -> str:
    """Who gives the command, for the audit trail."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def parse_span(text: str) -> datetime.timedelta | None:
    """``30s``, ``10m``, ``2h``, ``3d``; None: it is no span. Raises BadParameter for no end."""
    span = re.fullmatch(r"(\d+)([smhd])", text.strip())
    if not span:
        return None
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[span[2]]
    try:
        return datetime.timedelta(**{unit: int(span[1])})
    except OverflowError:
        raise typer.BadParameter(f"{text} is too long") from None


def parse_since(text: str) -> str:
    """``10m``, ``2h``, ``3d`` or a time in RFC 3339, as a time in RFC 3339."""
    from interlock.clock import now, rfc3339

    span = parse_span(text)
    if span is not None:
        try:
            return rfc3339(now() - span)
        except OverflowError:
            raise typer.BadParameter(f"{text} is too long ago") from None
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a span (30s, 10m, 2h, 3d) nor a time (2026-01-31T12:00:00Z)"
        ) from None
    try:
        return rfc3339(at.replace(tzinfo=at.tzinfo or datetime.UTC))
    except OverflowError:
        raise typer.BadParameter(f"{text} is beyond all time") from None


def ago(rfc: str) -> str:
    """How long ago a time is, for a table."""
    try:
        at = datetime.datetime.fromisoformat(rfc)
    except ValueError:
        return rfc
    seconds = max(0, int((datetime.datetime.now(datetime.UTC) - at).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def plain(text: str) -> str:
    """Text from elsewhere, safe for a terminal: control characters are shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
