"""Commands on dead letters: list, show, replay, discard."""

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag, StateOption
from interlock_schemas import letters
from interlock_schemas.letters import Code, LetterFilter, LettersReport

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Dead letters: what could not be handled, why, and what to do about it.",
)

CodeOption = Annotated[Code | None, typer.Option(help="Only letters with this code.")]
ServiceOption = Annotated[
    str | None, typer.Option(help="Only letters that this service or worker wrote.")
]
NameOption = Annotated[
    str | None, typer.Option(help="Only this event type or legacy name, as the letter has it.")
]
SubjectOption = Annotated[
    str | None, typer.Option(help="Only letters whose original subject begins so.")
]
SinceOption = Annotated[
    str | None, typer.Option(help="Only letters that died since: 10m, 2h, 3d, or a time.")
]


def _filter(
    code: Code | None, service: str | None, name: str | None, subject: str | None, since: str | None
) -> LetterFilter:
    return LetterFilter(
        code=code,
        service=service,
        name=name,
        subject=subject,
        since=base.parse_since(since) if since else None,
    )


@app.command("list")
def list_letters(
    status: Annotated[
        str, typer.Option(help="open, replayed, resolved, discarded, or all.")
    ] = "open",
    code: CodeOption = None,
    service: ServiceOption = None,
    name: NameOption = None,
    subject: SubjectOption = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Letters on one page.")] = 50,
    after: Annotated[str | None, typer.Option(help="Go on behind this cursor.")] = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """List dead letters, newest first."""
    if status not in ("open", "replayed", "resolved", "discarded", "all"):
        raise typer.BadParameter(
            "open, replayed, resolved, discarded or all", param_hint="--status"
        )
    wanted = _filter(code, service, name, subject, since)
    if status != "all":
        wanted = msgspec.structs.replace(wanted, status=status)
    request = letters.ListLetters(filter=wanted, limit=limit, after=after)
    page = base.run(base.ask(base.settings(state), letters.LIST, request))
    if json:
        base.emit(page)
        return
    for record in page.letters:
        sys.stdout.write(
            f"{record.id}  {record.status:<9} {record.code.value:<14} {base.ago(record.last_at):>4}"
            f"  {base.plain(record.name or record.subject)[:40]:<40}  "
            f"{base.plain(record.reason)[:100]}\n"
        )
    shown = len(page.letters)
    more = f"; more: --after {page.next}" if page.next else ""
    sys.stdout.write(f"{shown} of {page.total} letters{more}\n")


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The letter's id, or its beginning.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the original body to standard output, as it is.")
    ] = False,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Show one letter: why it died, its history, its original headers and body."""
    detail = base.run(base.ask(base.settings(state), letters.SHOW, letters.ShowLetter(id=id)))
    if raw:
        sys.stdout.buffer.write(detail.body)
        sys.stdout.buffer.flush()
        return
    if json:
        base.emit(detail)
        return
    record = detail.record
    lines = [
        ("letter", f"{record.id} ({record.status})"),
        ("why", f"{record.code.value} ({record.code.failure_class}): {record.reason}"),
        ("message", f"{record.message_id} on {record.subject}"),
        ("stored", f"{record.stream} {record.stream_seq}, {record.first_at}"),
        ("failed in", f"{record.service}, consumer {record.consumer}, {record.attempts} attempts"),
        ("last", record.last_at),
    ]
    if record.suggestions:
        lines.append(("nearest", ", ".join(record.suggestions)))
    if record.traceparent:
        lines.append(("trace", record.traceparent))
    for label, value in lines:
        sys.stdout.write(f"{label:<10} {base.plain(value)}\n")
    sys.stdout.write("history\n")
    for step in record.history:
        by = f" by {step.by}" if step.by else ""
        why = f": {step.reason}" if step.reason else ""
        sys.stdout.write(f"  {step.at} {step.did} (hop {step.hop}){base.plain(by + why)}\n")
    sys.stdout.write("headers\n")
    for name, value in detail.headers.items():
        sys.stdout.write(f"  {base.plain(name)}: {base.plain(value)}\n")
    text = detail.text if detail.text is not None else repr(detail.body)
    cut = f"\n… {len(text) - 4_000} more characters: --raw" if len(text) > 4_000 else ""
    sys.stdout.write(f"body ({record.body_bytes} bytes)\n{base.plain(text[:4_000])}{cut}\n")
    if record.error:
        sys.stdout.write(f"error\n{base.plain(record.error)}\n")


@app.command()
def replay(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Letters to replay.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Every open letter.")] = False,
    code: CodeOption = None,
    service: ServiceOption = None,
    name: NameOption = None,
    subject: SubjectOption = None,
    since: SinceOption = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the letters' history.")] = "",
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Send letters back to where they came from, to the consumer that failed them.

    Replaying twice sends once. A letter that fails again is open again.
    """
    wanted = _selection(ids, all, code, service, name, subject, since)
    if wanted is None:
        request = letters.ReplayLetters(ids=tuple(ids or ()), by=base.who(), reason=reason)
    else:
        request = letters.ReplayLetters(filter=wanted, by=base.who(), reason=reason)
    _report(base.run(_repeat(state, letters.REPLAY, request)), "replayed", json)


@app.command()
def discard(
    reason: Annotated[str, typer.Option(help="Why nobody will need them. Required.")],
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Letters to discard.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Every open letter.")] = False,
    code: CodeOption = None,
    service: ServiceOption = None,
    name: NameOption = None,
    subject: SubjectOption = None,
    since: SinceOption = None,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Close letters for good. Their bytes and history stay readable."""
    wanted = _selection(ids, all, code, service, name, subject, since)
    if wanted is None:
        request = letters.DiscardLetters(ids=tuple(ids or ()), by=base.who(), reason=reason)
    else:
        request = letters.DiscardLetters(filter=wanted, by=base.who(), reason=reason)
    _report(base.run(_repeat(state, letters.DISCARD, request)), "discarded", json)


def _selection(
    ids: list[str] | None,
    all: bool,
    code: Code | None,
    service: str | None,
    name: str | None,
    subject: str | None,
    since: str | None,
) -> LetterFilter | None:
    """The filter that was asked for, or None where ids were named."""
    filtered = any(value is not None for value in (code, service, name, subject, since))
    if sum((bool(ids), filtered, all)) == 0:
        raise typer.BadParameter("name letters by id, by a filter (--code, --name, …), or --all")
    if ids and (filtered or all):
        raise typer.BadParameter("name letters by id or by a filter, not both")
    if ids:
        return None
    wanted = _filter(code, service, name, subject, since)
    return msgspec.structs.replace(wanted, status="open")


async def _repeat(state: Path | None, command: Any, request: Any) -> LettersReport:
    """Ask until nothing remains: the service does a bounded part at a time."""
    from interlock.fleet import connect

    total = LettersReport(done=(), unchanged=(), refused={}, remaining=0)
    async with connect(base.settings(state), source=f"cli/{base.who()}") as fleet:
        ids = list(request.ids)
        while True:
            if ids:
                request = msgspec.structs.replace(request, ids=tuple(ids[: request.limit]))
                del ids[: request.limit]
            part = await fleet.command(command, request, timeout_s=20.0, patience_s=120.0)
            total = LettersReport(
                done=total.done + part.done,
                unchanged=total.unchanged + part.unchanged,
                refused={**total.refused, **part.refused},
                remaining=part.remaining,
            )
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{len(total.done)} done, {part.remaining + len(ids)} to go ")
            progressed = bool(part.done)
            if not ids and (part.remaining == 0 or not progressed):
                break
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
    return total


def _report(report: LettersReport, did: str, json: bool) -> None:
    if json:
        base.emit(report)
    else:
        sys.stdout.write(f"{len(report.done)} {did}")
        if report.unchanged:
            sys.stdout.write(f", {len(report.unchanged)} were already")
        if report.refused:
            sys.stdout.write(f", {len(report.refused)} refused")
        if report.remaining:
            sys.stdout.write(f", {report.remaining} remain")
        sys.stdout.write("\n")
        for id, why in report.refused.items():
            sys.stderr.write(f"{id}: {base.plain(why)}\n")
    if report.refused or report.remaining:
        raise typer.Exit(1)
