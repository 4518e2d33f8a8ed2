"""Commands on events: publish and tail."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from interlock.cli import base
from interlock.cli.base import JsonFlag, StateOption
from interlock.errors import InterlockError

__all__ = ["add", "assignments"]


def add(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(publish)
    app.command()(tail)


def assignments(pairs: list[str], fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """``key=value`` arguments as a payload.

    A value is read as the type's field wants it; elsewhere as JSON where it is JSON, else as text.
    """
    payload: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{pair!r} is not key=value", param_hint="KEY=VALUE")
        payload[key] = _value(text, (fields or {}).get(key))
    return payload


def _value(text: str, wanted: Any) -> Any:
    if wanted is not None:
        try:
            return msgspec.convert(text, wanted, strict=False)
        except msgspec.ValidationError:
            pass
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def publish(
    type: Annotated[str, typer.Argument(metavar="TYPE", help="For example training.completed.")],
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="The payload's fields.")
    ] = None,
    payload: Annotated[
        str | None,
        typer.Option(help="The payload as JSON, or @FILE, or - for standard input."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="End of the subject. Default: config, else node.")
    ] = None,
    id: Annotated[
        str | None, typer.Option(help="Identity of the event; published twice, it counts once.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for the acknowledgement.")
    ] = 5.0,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Publish one canonical event, and return once the broker has it on disk.

    Example: interlock publish training.completed config=hex8_2p model=v12 final_loss=0.41
    """
    from interlock_schemas import catalogue, legacy

    entry = catalogue.find(type)
    if entry is None:
        match = legacy.resolve(type)
        near = [match.type] if match else [
            m.type for n in legacy.suggest(type) if (m := legacy.resolve(n)) is not None
        ]  # fmt: skip
        hint = f" Did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
        raise InterlockError(f"there is no event type {type!r}.{hint}")
    fields = (
        {field.name: field.type for field in msgspec.structs.fields(entry.struct)}
        if entry.struct is not None
        else {}
    )
    content = _whole(payload) if payload is not None else {}
    content |= assignments(pairs or [], fields)
    try:
        entry.convert(content)
    except msgspec.ValidationError as error:
        raise InterlockError(f"not a {type}: {error}") from error
    base.run(_publish(base.settings(state), type, content, key, id, timeout, json))


def _whole(text: str) -> dict[str, Any]:
    """The payload from the option's value."""
    try:
        if text == "-":
            raw = sys.stdin.buffer.read()
        elif text.startswith("@"):
            raw = Path(text[1:]).read_bytes()
        else:
            raw = text.encode()
        content = msgspec.json.decode(raw)
    except OSError as error:
        raise InterlockError(f"cannot read the payload: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InterlockError(f"the payload is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InterlockError("the payload is not a JSON object")
    return content


async def _publish(
    settings: Any,
    type: str,
    payload: dict[str, Any],
    key: str | None,
    id: str | None,
    timeout_s: float,
    json: bool,
) -> None:
    from interlock.fleet import connect
    from interlock.publishing import encode_event
    from interlock_schemas import envelope
    from interlock_schemas.event import OpenEvent

    async with connect(settings, source=f"cli/{base.who()}") as fleet:
        subject, body, headers = encode_event(
            OpenEvent(type, payload), source=fleet.source, key=key, id=id
        )
        ack = await fleet.bus.publish(subject, body, headers, timeout_s=timeout_s)
    told = {
        "id": envelope.unescape(headers[envelope.ID]),
        "subject": subject,
        "stream": ack.stream,
        "seq": ack.seq,
        "duplicate": ack.duplicate,
    }
    if json:
        base.emit(told)
    else:
        again = " (stored before under this id)" if ack.duplicate else ""
        sys.stdout.write(f"{subject} stored as {ack.stream} {ack.seq}, id {told['id']}{again}\n")


def tail(
    filter: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILTER]",
            help="A type (training.completed), a domain (training), legacy, dead, or a subject "
            "with wildcards (events.*.failed.>). Default: every canonical event.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Begin then: 10m, 2h, 3d, a time, or all. Default: from now on."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", min=1, help="Stop after so many.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow/--no-follow", help="Go on, or stop at the end of what is there."),
    ] = True,
    state: StateOption = None,
    json: JsonFlag = False,
) -> None:
    """Print events as they come, with their payload. Ctrl-C ends it."""
    stream, subject = _where(filter)
    start: dict[str, Any] = {"deliver_policy": "new"}
    if since == "all" or (since is None and not follow):
        start = {"deliver_policy": "all"}
    elif since is not None:
        start = {"deliver_policy": "by_start_time", "opt_start_time": base.parse_since(since)}
    base.run(_tail(base.settings(state), stream, subject, start, count, follow, json))


def _where(filter: str | None) -> tuple[str, str]:
    """The stream and the subject that a filter means."""
    from interlock_schemas import catalogue, subjects
    from interlock_schemas.topology import DEAD, EVENTS, LEGACY

    if filter is None or filter in ("events", "*", ">"):
        return EVENTS.name, subjects.EVENTS
    root = filter.partition(".")[0]
    roots = {"legacy": LEGACY, "dead": DEAD, "events": EVENTS}
    known = catalogue.by_name()
    is_event = filter in known or any(entry.domain == filter for entry in known.values())
    if is_event and filter not in roots:
        return EVENTS.name, subjects.event_filter(filter)
    if root in roots:
        return roots[root].name, filter if "." in filter else f"{filter}.>"
    if filter.endswith(".*") and any(entry.domain == filter[:-2] for entry in known.values()):
        return EVENTS.name, subjects.event_filter(filter[:-2])
    from interlock_schemas import legacy

    near = legacy.suggest(filter)
    hint = f" Near it: {', '.join(near)}." if near else ""
    raise InterlockError(
        f"{filter!r} is no event type, domain or subject (events.…, legacy.…, dead.…).{hint}"
    )


async def _tail(
    settings: Any,
    stream: str,
    subject: str,
    start: dict[str, Any],
    count: int | None,
    follow: bool,
    json: bool,
) -> None:
    import contextlib

    from interlock.bus import connected
    from interlock.clock import rfc3339_ns
    from interlock.reader import Reader

    seen = 0
    async with connected(settings, name="interlock-tail") as bus:
        reader = Reader(bus, stream, (subject,), start)
        async with contextlib.aclosing(reader.records(until_end=not follow)) as records:
            async for record in records:
                seen += 1
                try:
                    payload: Any = msgspec.json.decode(record.body)
                except (msgspec.DecodeError, RecursionError):
                    payload = record.body.decode("utf-8", "backslashreplace")
                if json:
                    base.emit(
                        {
                            "subject": record.subject,
                            "seq": record.seq,
                            "time": rfc3339_ns(record.time_ns),
                            "headers": record.headers,
                            "payload": payload,
                        }
                    )
                else:
                    at = time.strftime("%H:%M:%S", time.localtime(record.time_ns / 1e9))
                    shown = (
                        msgspec.json.encode(payload).decode()
                        if isinstance(payload, dict)
                        else str(payload)
                    )
                    sys.stdout.write(f"{at} {base.plain(record.subject)} {base.plain(shown)}\n")
                    sys.stdout.flush()
                if count is not None and seen >= count:
                    return
