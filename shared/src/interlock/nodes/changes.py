"""What an import or an operator changes in the records of nodes, purely: records in, records out.

An import replaces how a node is described. What operators decided about it (cordon, drain,
retirement) stays, but for a retirement by an import, which ends when the node is in the file again.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from interlock_schemas.nodes import FleetRecord, Mark, NodeRecord

__all__ = [
    "GONE_FROM_FILE",
    "Change",
    "ImportPlan",
    "MarkName",
    "labelled",
    "marked",
    "plan_import",
    "unmarked",
]

#: Why an import retired a node.
GONE_FROM_FILE: Final = "not in fleet.toml any more"

MarkName = Literal["cordon", "drain", "retired"]

_MARKS: Final[tuple[MarkName, ...]] = ("cordon", "drain", "retired")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a record, before and after, as JSON has it. None: not there."""

    field: str
    before: object = None
    after: object = None


class ImportPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What an import does."""

    added: tuple[str, ...] = ()
    changed: Mapping[str, tuple[Change, ...]] = {}
    unchanged: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Described by such a file before, and in this one no more."""
    retired: tuple[str, ...] = ()
    """Those of them that are retired for it."""
    others: tuple[str, ...] = ()
    """Not in the file, and never were: their agents described them."""
    fleet: tuple[Change, ...] = ()
    """Changes of what holds for all nodes."""


def imported(described: NodeRecord, standing: NodeRecord | None) -> NodeRecord:
    """The record after an import."""
    if standing is None:
        return described
    retired = standing.retired
    if retired is not None and retired.reason == GONE_FROM_FILE:
        retired = None
    return msgspec.structs.replace(
        described, cordon=standing.cordon, drain=standing.drain, retired=retired
    )


def missing(described: Iterable[str], standing: Mapping[str, NodeRecord], source: str) -> list[str]:
    """The nodes that such a file described, are not retired, and that it describes no more."""
    there = set(described)
    return sorted(
        name
        for name, record in standing.items()
        if name not in there and record.retired is None and record.source == source
    )


def plan_import(
    described: Iterable[NodeRecord],
    fleet: FleetRecord,
    standing: Mapping[str, NodeRecord],
    standing_fleet: FleetRecord | None,
    *,
    prune: bool,
) -> ImportPlan:
    """What an import of these records would do to those that stand."""
    records = {record.name: record for record in described}
    changes = {
        name: differences(standing[name], imported(record, standing[name]))
        for name, record in records.items()
        if name in standing
    }
    gone = missing(records, standing, fleet.source)
    return ImportPlan(
        added=tuple(sorted(set(records) - set(standing))),
        changed={name: changes[name] for name in sorted(changes) if changes[name]},
        unchanged=tuple(sorted(name for name, found in changes.items() if not found)),
        missing=tuple(gone),
        retired=tuple(gone) if prune else (),
        others=tuple(
            sorted(
                name
                for name, record in standing.items()
                if name not in records and record.retired is None and name not in gone
            )
        ),
        fleet=differences(standing_fleet or FleetRecord(), fleet),
    )


def differences(
    before: NodeRecord | FleetRecord, after: NodeRecord | FleetRecord
) -> tuple[Change, ...]:
    """Every field that differs, ``ssh.port`` for one, sorted."""
    one, other = _flat(msgspec.to_builtins(before)), _flat(msgspec.to_builtins(after))
    return tuple(
        Change(field=field, before=one.get(field), after=other.get(field))
        for field in sorted({*one, *other})
        if one.get(field) != other.get(field)
    )


def _flat(value: Mapping[str, object], above: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, each in value.items():
        if isinstance(each, dict):
            flat |= _flat(each, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = each
    return flat


def marked(record: NodeRecord, which: MarkName, mark: Mark) -> NodeRecord:
    """With a mark. One that says the same already stays as it is, with its time."""
    standing: Mark | None = getattr(record, which)
    if standing is not None and _says(standing) == _says(mark):
        return record
    changes: dict[MarkName, Mark] = {which: mark}
    return msgspec.structs.replace(record, **changes)


def _says(mark: Mark) -> tuple[str, str, str | None]:
    return mark.by, mark.reason, mark.until


def unmarked(record: NodeRecord) -> NodeRecord:
    """Without anything that keeps work away: cordon, drain, retirement."""
    return msgspec.structs.replace(record, cordon=None, drain=None, retired=None)


def marks_of(record: NodeRecord) -> dict[MarkName, Mark]:
    """What stands."""
    found = {which: getattr(record, which) for which in _MARKS}
    return {which: mark for which, mark in found.items() if mark is not None}


def labelled(
    record: NodeRecord, given: Mapping[str, str], removed: Iterable[str] = ()
) -> NodeRecord:
    """With labels set and others taken away."""
    gone = set(removed)
    labels = {key: value for key, value in record.labels.items() if key not in gone}
    return msgspec.structs.replace(record, labels={**labels, **given})
