"""Commands on locks: who holds and who waits, take one away, run a command under one."""

import asyncio
import contextlib
import datetime
import os
import secrets
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag, StateOption
from interlock.errors import (
    BusUnavailable,
    FenceBusy,
    InterlockError,
    LockBusy,
    LockDeadlock,
    StaleToken,
)
from interlock_schemas import locks
from interlock_schemas.locks import ClaimView, LockPage, LockView

if TYPE_CHECKING:
    from interlock.fleet import Fleet
    from interlock.locks.lease import Lease
    from interlock.locks.lock_command import Outcome

__all__ = ["app"]

#: Exit codes of `run` and `guard` that are not the command's own; `interlock.locks.lock_command`
#: has the others.
_NOT_NOW = 75
_LOST = 76
_OURS = 125

_TELL_AFTER_S = 1.0

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Locks: who holds them, who waits, and commands that run under them.",
)


class Priority(StrEnum):
    """How urgent a request is; each level is worth 30 s of waiting."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
    BACKGROUND = "background"


def _name(name: str) -> str:
    try:
        return msgspec.convert(name, locks.Name)
    except (msgspec.ValidationError, UnicodeError):
        raise typer.BadParameter(
            f"{name[:200]!r} is no name of a lock: it begins with a letter or digit and goes on "
            "with those and _ . : / = @ + -, 200 characters at most"
        ) from None


NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", callback=_name, help="The lock, such as export:hex8_2p.")
]
CommandArgument = Annotated[
    list[str], typer.Argument(metavar="-- COMMAND", help="What to run, behind two dashes.")
]


@app.command("list")
def list_locks(
    prefix: Annotated[str, typer.Option(help="Only locks whose name begins so.")] = "",
    node: Annotated[str, typer.Option(help="Only locks that this host holds or waits for.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Locks on one page.")] = 200,
    after: Annotated[str, typer.Option(help="Go on behind this name.")] = "",
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """List the locks that are held or waited for, by name."""
    request = locks.ListLocks(prefix=prefix, node=node, limit=limit, after=after)
    page: LockPage = base.run(base.ask(base.settings(state), locks.LIST, request))
    if json:
        base.emit(page)
        return
    width = max((len(lock.name) for lock in page.locks), default=0)
    for lock in page.locks:
        held = [_line(each) for each in lock.holders]
        if not held:
            held = ["free, about to be handed over"]
        if lock.slots > 1:
            held[0] = f"{len(lock.holders)} of {lock.slots} slots: {held[0]}"
        if lock.waiting:
            held[0] = f"{lock.waiting} waiting, {held[0]}"
        for place, text in enumerate(held):
            sys.stdout.write(f"{'' if place else lock.name:<{width}}  {text}\n")
    more = f"; more: --after {page.next}" if page.next else ""
    sys.stdout.write(f"{len(page.locks)} of {page.total} locks{more}\n")


@app.command()
def show(name: NameArgument, state: StateOption = None, json: JsonFlag = False) -> None:
    """Show one lock: who holds it since when, under which token, and who waits."""
    view = _view(state, name)
    if json:
        base.emit(view)
        return
    if not view.holders and not view.waiting:
        sys.stdout.write(f"{name} is free: nobody holds it, nobody waits\n")
        return
    slots = f", {len(view.holders)} of {view.slots} slots taken" if view.slots > 1 else ""
    sys.stdout.write(f"{name}{slots}\n")
    for each in view.holders:
        _write_holder(each)
    if view.waiting:
        sys.stdout.write(f"waiting  {len(view.waiting)}, the next one first\n")
        _write_queue(view)


@app.command()
def queue(name: NameArgument, state: StateOption = None, json: JsonFlag = False) -> None:
    """List who waits for a lock, in the order in which they will be served."""
    view = _view(state, name)
    if json:
        waiting = [
            {"position": place, **msgspec.to_builtins(each)}
            for place, each in enumerate(view.waiting, 1)
        ]
        base.emit({"name": name, "slots": view.slots, "waiting": waiting})
        return
    if view.waiting:
        _write_queue(view)
    sys.stdout.write(f"{len(view.waiting)} waiting for {name}\n")


@app.command()
def release(
    name: NameArgument,
    reason: Annotated[str, typer.Option(help="Why; kept in the event lock.lost. Required.")],
    token: Annotated[
        int | None, typer.Option(min=1, help="Only the holder with this token. Default: every one.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who decides this. Default: you.")] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Take a lock from its holder, and hand it to whoever is next.

    The holder is told and stops; where it cannot hear, its token is refused from now on by whatever
    checks tokens.
    """
    if not reason.strip():
        raise typer.BadParameter("say why: it is what the holder and the log are told",
                                 param_hint="--reason")  # fmt: skip
    who = by or base.who()
    for option, text, most in (("--reason", reason, 500), ("--by", who, 200)):
        if len(text) > most:
            raise typer.BadParameter(f"{most} characters at most", param_hint=option)
    request = locks.EndLock(name=name, reason=reason, by=who, token=token)
    ended, view = base.run(_end(state, request))
    granted = [each for each in view.holders if 0 < ended.next_token <= each.token]
    if json:
        base.emit({**msgspec.to_builtins(ended), "granted": msgspec.to_builtins(granted)})
        return
    tokens = ", ".join(str(each) for each in ended.tokens)
    sys.stdout.write(f"{name}: token {tokens} holds no more\n")
    for each in granted:
        where = f" on {base.plain(each.node)}" if each.node else ""
        sys.stdout.write(f"handed to {_who(each)}{where} (token {each.token})\n")
    if not ended.next_token:
        sys.stdout.write("nobody waited\n")
    elif not granted:
        sys.stdout.write(f"handed on under token {ended.next_token}, which has ended since\n")


async def _end(state: Path | None, request: locks.EndLock) -> tuple[locks.LockEnded, LockView]:
    from interlock.fleet import connect

    async with connect(base.settings(state), source=f"cli/{base.who()}") as fleet:
        ended = await fleet.command(locks.END, request, timeout_s=30.0)
        shown = locks.ShowLock(name=request.name)
        return ended, await fleet.command(locks.SHOW, shown, timeout_s=30.0)


def _view(state: Path | None, name: str) -> LockView:
    view: LockView = base.run(base.ask(base.settings(state), locks.SHOW, locks.ShowLock(name=name)))
    return view


@app.command("run")
def run_command(
    name: NameArgument,
    command: CommandArgument,
    ttl: Annotated[
        float,
        typer.Option(min=1, max=locks.LONGEST_TTL_S, help="Seconds it stays ours if we vanish."),
    ] = 30.0,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to queue for it; 0 not at all, inf for ever.")
    ] = 60.0,
    priority: Annotated[
        Priority, typer.Option(help="A level is worth 30 s of waiting.")
    ] = Priority.NORMAL,
    slots: Annotated[
        int, typer.Option(min=1, max=10_000, help="So many may hold it; all name the same number.")
    ] = 1,
    max_age: Annotated[
        float | None, typer.Option(min=1, help="Seconds after which it ends, renewed or not.")
    ] = None,
    note: Annotated[str, typer.Option(help="What for, for those who look.")] = "",
    owner: Annotated[
        str | None,
        typer.Option(
            help="Who asks, in deadlocks. Default: the same for all that runs under a `lock run`; "
            "empty for a command that takes several locks side by side."
        ),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(min=0, max=3_600, help="Seconds between SIGTERM and SIGKILL once it is lost."),
    ] = 5.0,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Run a command while holding a lock.

    The command finds INTERLOCK_LOCK_NAME and INTERLOCK_LOCK_TOKEN in its environment. SIGINT,
    SIGTERM and SIGHUP are passed on to it, and when the lease is lost, it and what it has started
    get SIGTERM, later SIGKILL. What it writes is checked only by who is shown the token: see
    `interlock lock guard`.

    Exits with the command's own code, or: 75 the lock was not to be had, 76 it was lost, 126 and
    127 the command cannot be run, 125 anything else, for example no broker; 2 wrong usage.
    """
    from interlock.locks.lock_command import OWNER_VARIABLE, CannotRun, find

    if owner is None:
        owner = os.environ.get(OWNER_VARIABLE) or f"{base.who()[:150]}/{secrets.token_hex(8)}"
    asked: dict[str, Any] = {
        "ttl": ttl, "wait": wait, "priority": priority.value, "slots": slots,
        "max_age": max_age, "note": note or Path(command[0]).name[:200], "owner": owner,
    }  # fmt: skip
    try:
        find(command[0])
        outcome = base.run(_run(state, name, command, asked, grace))
    except CannotRun as error:
        _stop(error, error.code, json)
    except (LockBusy, LockDeadlock, BusUnavailable) as error:
        _stop(error, _NOT_NOW, json)
    except InterlockError as error:
        _stop(error, _OURS, json)
    if outcome.lost:
        sys.stderr.write(f"error: the command was ended: {outcome.lost}\n")
    if json:
        base.emit({"name": name, **msgspec.to_builtins(outcome)})
    sys.exit(outcome.code)


async def _run(
    state: Path | None, name: str, command: list[str], asked: dict[str, Any], grace_s: float
) -> "Outcome":
    from interlock.fleet import connect
    from interlock.locks.lock_command import run_locked

    async with connect(base.settings(state), source=f"cli/{base.who()}") as fleet:

        async def acquire() -> "Lease":
            telling = asyncio.get_running_loop().create_task(_tell(fleet, name))
            try:
                return await fleet.acquire_lock(name, **asked)
            finally:
                telling.cancel()

        return await run_locked(acquire, command, grace_s=grace_s, owner=asked["owner"])


async def _tell(fleet: "Fleet", name: str) -> None:
    """Say what we wait for, once it takes a while."""
    await asyncio.sleep(_TELL_AFTER_S)
    with contextlib.suppress(InterlockError):
        view = await fleet.command(locks.SHOW, locks.ShowLock(name=name))
        who = "; ".join(_line(each) for each in view.holders[:3])
        sys.stderr.write(f"waiting for {name}{f', {who}' if who else ''}\n")


@app.command()
def guard(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="The fence, on a local disk; made where missing."),
    ],
    resource: Annotated[str, typer.Argument(metavar="RESOURCE", help="What is written.")],
    token: Annotated[
        int, typer.Argument(metavar="TOKEN", help="Ours: $INTERLOCK_LOCK_TOKEN under `lock run`.")
    ],
    command: CommandArgument,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for other writers to finish.")
    ] = 10.0,
    json: JsonFlag = False,
) -> None:
    """Run a command that writes, unless a higher token has been shown for the resource.

    Needs no broker: the folder remembers. Others that write the resource wait meanwhile, so let the
    command do what takes effect (mv) and nothing that takes long.

    Exits with the command's own code, or, when nothing was run: 75 another write goes on, 76 the
    token is stale, 126 and 127 the command cannot be run, 125 the fence cannot be used; 2 wrong
    usage.
    """
    from interlock.locks.fence_command import run_guarded
    from interlock.locks.lock_command import CannotRun

    try:
        code = run_guarded(folder, resource, token, command, timeout_s=timeout)
    except StaleToken as error:
        _stop(error, _LOST, json)
    except FenceBusy as error:
        _stop(error, _NOT_NOW, json)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except InterlockError as error:
        if isinstance(error.__cause__, OSError) and str(error).startswith("cannot run"):
            _stop(error, CannotRun.by(command[0], error.__cause__).code, json)
        _stop(error, _OURS, json)
    if json:
        base.emit({"resource": resource, "token": token, "code": code})
    sys.exit(code)


def _stop(error: Exception, code: int, json: bool) -> NoReturn:
    """Say why there was nothing to run. The command's own arguments may have a --json too."""
    if json:
        base.emit({"error": str(error), "code": code})
    sys.stderr.write(f"error: {error}\n")
    sys.exit(code)


def _line(claim: ClaimView) -> str:
    """A claim in one line."""
    where = f" on {base.plain(claim.node)}" if claim.node else ""
    token = f" (token {claim.token})" if claim.token else ""
    note = f": {base.plain(claim.note)}" if claim.note else ""
    did = "held" if claim.state == "held" else "wanted"
    offered = ", not taken up yet" if claim.offered else ""
    return f"{did} for {_for(claim.since_ms)} by {_who(claim)}{where}{token}{offered}{note}"


def _who(claim: ClaimView) -> str:
    return base.plain(claim.owner or claim.id)


def _write_holder(claim: ClaimView) -> None:
    rows = [
        ("held by", _who(claim)),
        ("node", base.plain(claim.node) or "unknown"),
        ("token", f"{claim.token}{' (not taken up yet)' if claim.offered else ''}"),
        ("since", f"{_at(claim.since_ms)} ({_for(claim.since_ms)})"),
        ("renewed", f"{_for(claim.renewed_ms)} ago, lives {claim.ttl_s:g} s without"),
    ]
    if claim.max_age_s is not None:
        rows.append(("max age", f"{claim.max_age_s:g} s"))
    if claim.note:
        rows.append(("note", base.plain(claim.note)))
    for label, value in rows:
        sys.stdout.write(f"{label:<8} {value}\n")


def _write_queue(view: LockView) -> None:
    for place, each in enumerate(view.waiting, 1):
        where = f" on {base.plain(each.node)}" if each.node else ""
        note = f": {base.plain(each.note)}" if each.note else ""
        sys.stdout.write(
            f"{place:>4}  {each.priority:<10} since {_at(each.since_ms)} ({_for(each.since_ms)})  "
            f"{_who(each)}{where}{note}\n"
        )


def _at(unix_ms: int) -> str:
    """A time that the broker told, in UTC."""
    try:
        at = datetime.datetime.fromtimestamp(unix_ms / 1_000, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{unix_ms} ms"
    return at.strftime("%Y-%m-%d %H:%M:%SZ")


def _for(unix_ms: int) -> str:
    """How long that is ago, by this machine's clock."""
    now_ms = datetime.datetime.now(datetime.UTC).timestamp() * 1_000
    seconds = max(0, int(now_ms - unix_ms) // 1_000)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
