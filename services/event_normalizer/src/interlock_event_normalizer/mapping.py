"""From a legacy message to a canonical event, or to the reason why there is none. Pure.

A legacy body is JSON: an object with the name under one of the usual keys and the payload under
``payload`` or ``data`` or beside it, or a bare payload with the name in the subject. Nothing of
the payload is dropped: what a type does not declare stays in it under its own name.
"""

import datetime
import functools
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from interlock_schemas import catalogue, envelope
from interlock_schemas.event import EventType, Payload
from interlock_schemas.legacy import Match
from interlock_schemas.legacy_names import ALIASES
from interlock_schemas.letters import Code

__all__ = ["Canonical", "Refusal", "Resolver", "normalize"]

#: How a legacy name is looked up.
Resolver = Callable[[str], Match | None]

#: Where old workers put the name, most telling first.
_NAME_KEYS: Final = ("event_type", "type", "event", "name")
_PAYLOAD_KEYS: Final = ("payload", "data")
#: Folded onto every type; other aliases only onto a field that the type declares.
_UNIVERSAL: Final = ("config", "node")

_LONGEST_SHOWN: Final = 200
#: Types that take any text; what else a field may be, msgspec decides.
_TEXT: Final = (str, str | None)
_EARLIEST_S: Final = 946_684_800.0
_LATEST_S: Final = 4_102_444_800.0


class Canonical(msgspec.Struct, frozen=True, kw_only=True):
    """A legacy message in canonical form."""

    type: str
    payload: Payload
    body: bytes
    """The payload, encoded."""
    name: str
    """The legacy name as it was spelled."""
    origin: str
    """Who sent it, as far as the message says."""
    time: str | None
    """When it happened (RFC 3339), where the message says."""
    rule: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a legacy message has no canonical form."""

    code: Code
    reason: str
    name: str = ""


def normalize(
    subject: str, headers: Mapping[str, str], body: bytes, resolve: Resolver
) -> Canonical | Refusal:
    """Decide what a legacy message means."""
    spelled = _names_in(subject)
    named = next((match for name in spelled if (match := resolve(name)) is not None), None)
    try:
        content: Any = msgspec.json.decode(body) if body else {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = (
            " (NaN and Infinity are not JSON: send null)"
            if b"NaN" in body or b"Infinity" in body
            else ""
        )
        return Refusal(
            code=Code.UNDECODABLE,
            reason=f"the body is not JSON: {error}{hint}",
            name=named.name if named else "",
        )
    except RecursionError:
        return _too_deep(named.name if named else "")
    if not isinstance(content, dict):
        return Refusal(
            code=Code.INVALID,
            reason=f"the body is {_kind(content)}, not an object",
            name=named.name if named else "",
        )
    match, name_key = _find_name(content, named, resolve)
    if match is None:
        return _unknown(content, spelled)
    try:
        return _canonical(match, _payload_of(content, name_key), headers)
    except RecursionError:
        return _too_deep(match.name)


def _canonical(
    match: Match, payload: Payload | Refusal, headers: Mapping[str, str]
) -> Canonical | Refusal:
    if isinstance(payload, Refusal):
        return msgspec.structs.replace(payload, name=match.name[:_LONGEST_SHOWN])
    entry = catalogue.by_name()[match.type]
    for field, value in match.sets.items():
        if payload.get(field) is None:
            payload[field] = value
    _fold_aliases(payload, entry)
    _derive_config(payload)
    try:
        entry.convert(payload)
    except msgspec.ValidationError as error:
        return Refusal(
            code=Code.INVALID,
            reason=f"the payload does not fit {entry.name}: {error}",
            name=match.name[:_LONGEST_SHOWN],
        )
    return Canonical(
        type=entry.name,
        payload=payload,
        body=msgspec.json.encode(payload),
        name=match.name[:_LONGEST_SHOWN],
        origin=_origin(payload, headers)[:_LONGEST_SHOWN],
        time=_time(payload.get("timestamp")) or _time(envelope.lookup(headers, envelope.TIME)),
        rule=match.rule,
    )


def _too_deep(name: str) -> Refusal:
    return Refusal(
        code=Code.UNDECODABLE, reason="the body is nested too deeply", name=name[:_LONGEST_SHOWN]
    )


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


def _names_in(subject: str) -> tuple[str, ...]:
    """What the subject may name: all of it behind ``legacy.``, and its last part."""
    return (_remembered if len(subject) <= _LONGEST_SHOWN else _split)(subject)


def _split(subject: str) -> tuple[str, ...]:
    rest = subject.partition(".")[2]
    last = subject.rpartition(".")[2]
    return tuple(dict.fromkeys(unquote(name) for name in (rest, last) if name))


_remembered = functools.lru_cache(maxsize=4_096)(_split)


def _find_name(
    content: Payload, named: Match | None, resolve: Resolver
) -> tuple[Match | None, str | None]:
    """The name that counts, and the key it stood under (None: in the subject).

    ``event_type`` always speaks of the event. ``type``, ``event`` and ``name`` may as well be
    fields of a bare payload, so where the subject names a known event they do not overrule it.
    """
    enveloped = any(isinstance(content.get(key), dict) for key in _PAYLOAD_KEYS)
    for key in _NAME_KEYS:
        value = content.get(key)
        if not isinstance(value, str) or not value.strip():
            continue
        if named is not None and key != "event_type" and not enveloped:
            continue
        match = resolve(value)
        if match is not None:
            return match, key
    return named, None


def _unknown(content: Payload, spelled: tuple[str, ...]) -> Refusal:
    """Say which name nobody knows."""
    told = next((v for k in _NAME_KEYS if isinstance(v := content.get(k), str) and v.strip()), None)
    name = (told or (spelled[-1] if spelled else ""))[:_LONGEST_SHOWN]
    if not name:
        return Refusal(
            code=Code.UNKNOWN_NAME,
            reason="no event name: not under event_type, type, event or name, nor in the subject",
        )
    return Refusal(
        code=Code.UNKNOWN_NAME,
        reason=f"nobody knows an event {name!r}",
        name=name,
    )


def _payload_of(content: Payload, name_key: str | None) -> Payload | Refusal:
    """The payload, with what stood beside it."""
    beside = {key: value for key, value in content.items() if key != name_key}
    for key in _PAYLOAD_KEYS:
        if key not in beside:
            continue
        inner = beside[key]
        if isinstance(inner, str):
            # The predecessor's event table kept payloads as JSON text, and some senders still do.
            try:
                inner = msgspec.json.decode(inner)
            except (msgspec.DecodeError, RecursionError):
                inner = beside[key]
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            if name_key is None:
                continue
            return Refusal(code=Code.INVALID, reason=f"`{key}` is {_kind(inner)}, not an object")
        del beside[key]
        return _merged(inner, beside)
    return beside


def _merged(inner: Payload, beside: Payload) -> Payload:
    """The payload first; what stood beside it fills up, and gives way where names collide."""
    merged = dict(inner)
    for key, value in beside.items():
        if key not in merged:
            merged[key] = value
        elif not _same(merged[key], value):
            merged[_free_name(f"envelope_{key}", merged, beside)] = value
    return merged


def _same(one: object, other: object) -> bool:
    """Whether two values are the same JSON. In Python 1, 1.0 and true are equal."""
    return msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(
        other, order="deterministic"
    )


def _free_name(name: str, *taken: Payload) -> str:
    while any(name in payload for payload in taken):
        name = f"{name}_"
    return name


class _Foldable(msgspec.Struct, frozen=True):
    """A field of a type, and what else it has been called."""

    field: str
    aliases: tuple[str, ...]
    type: Any


@functools.cache
def _foldable(name: str) -> tuple[_Foldable, ...]:
    """The fields of a type of the catalogue that have aliases."""
    entry = catalogue.by_name()[name]
    declared = (
        {field.name: field.type for field in msgspec.structs.fields(entry.struct)}
        if entry.struct is not None
        else {}
    )
    return tuple(
        _Foldable(
            field,
            tuple(alias for alias in aliases if alias not in declared),
            declared.get(field, str),
        )
        for field, aliases in ALIASES.items()
        if field in declared or field in _UNIVERSAL
    )


def _fold_aliases(payload: Payload, entry: EventType) -> None:
    """Give fields their canonical names, where the value fits and none stands there yet."""
    for foldable in _foldable(entry.name):
        field = foldable.field
        for alias in foldable.aliases:
            if alias not in payload:
                continue
            value = payload[alias]
            if value is None or not _fits(value, foldable.type):
                continue
            if payload.get(field) is None:
                payload[field] = value
                del payload[alias]
            elif _same(payload[field], value):
                del payload[alias]


def _fits(value: object, wanted: Any) -> bool:
    if isinstance(value, str) and wanted in _TEXT:
        return value != ""
    try:
        msgspec.convert(value, wanted)
    except (msgspec.ValidationError, RecursionError):
        return False
    return value != ""


def _derive_config(payload: Payload) -> None:
    """Old emitters that send board and player count, and no configuration, mean this one."""
    board, players = payload.get("board_type"), payload.get("num_players")
    if (
        payload.get("config") is None
        and isinstance(board, str)
        and board
        and isinstance(players, int)
        and not isinstance(players, bool)
    ):
        payload["config"] = f"{board}_{players}p"


def _origin(payload: Payload, headers: Mapping[str, str]) -> str:
    told = envelope.lookup(headers, envelope.SOURCE)
    if told:
        return envelope.unescape(told)
    for key in ("source", "origin", "node"):
        value = payload.get(key)
        if isinstance(value, str) and value:
            return value
    return "legacy"


def _time(stamp: object) -> str | None:
    """A time that a payload gives: seconds since the epoch, or ISO 8601."""
    if isinstance(stamp, int | float) and not isinstance(stamp, bool):
        if not _EARLIEST_S <= stamp <= _LATEST_S:
            return None
        at = datetime.datetime.fromtimestamp(stamp, datetime.UTC)
    elif isinstance(stamp, str) and len(stamp) <= 40:
        try:
            at = datetime.datetime.fromisoformat(stamp)
        except ValueError:
            return None
        at = at.replace(tzinfo=at.tzinfo or datetime.UTC)
    else:
        return None
    try:
        told = at.astimezone(datetime.UTC).isoformat(timespec="microseconds")
    except (OverflowError, ValueError):
        return None
    return told.removesuffix("+00:00") + "Z"
