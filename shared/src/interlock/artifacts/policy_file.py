"""``sync.toml``: policies of datasets as people write them, one table ``[policy.<dataset>]`` each.

As with ``fleet.toml``, all that is wrong is told at once, by line and field.
"""

import re
from pathlib import Path
from typing import Annotated, Final

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field

from interlock.amounts import parse_size
from interlock.nodes.toml_tables import Table, Tables, TomlInvalid, read_text
from interlock_schemas.artifacts import Transport
from interlock_schemas.orders import Policy, Priority

__all__ = ["SELECTORS", "PolicyFileInvalid", "parse", "read"]

_USUAL: Final = "sync.toml"

#: How nodes are named in policies and requests.
SELECTORS: Final = "all, role:<role>, label:<name>=<value>, zone:<zone> or node:<name>"


class PolicyFileInvalid(TomlInvalid):
    """The file cannot be used. Says everything that is wrong with it."""

    nothing_was = "applied"


def read(path: Path) -> tuple[Policy, ...]:
    """The policies of a file, by dataset. Raises PolicyFileInvalid, and InterlockError where it
    cannot be read at all."""
    return parse(read_text(path, _USUAL, PolicyFileInvalid), str(path))


def parse(text: str, name: str = _USUAL) -> tuple[Policy, ...]:
    """The policies of the text of a file that is called `name`. Raises PolicyFileInvalid."""
    tables = Tables(text, name, PolicyFileInvalid)
    tables.only(_File.model_fields)
    found = []
    for dataset, policy in tables.named("policy", _Policy).items():
        if policy is None:
            continue
        try:
            said = policy.model_dump(exclude_unset=True)
            found.append(msgspec.convert({**said, "dataset": dataset}, Policy))
        except msgspec.ValidationError:
            tables.note(
                ("policy", dataset),
                "is no name of a dataset: lower-case letters, digits, - and _, 64 at most",
            )
    if tables.problems:
        raise PolicyFileInvalid(name, tables.problems)
    return tuple(sorted(found, key=lambda each: each.dataset))


def _selector(text: str) -> str:
    if not re.fullmatch(r"all|role:.+|label:[^=]+=.*|zone:.*|node:.+", text, re.DOTALL):
        raise ValueError(f"is no selector of nodes: write {SELECTORS}")
    return text


def _size(said: object) -> object:
    return parse_size(said) if isinstance(said, str) else said


Selector = Annotated[str, Field(max_length=200), AfterValidator(_selector)]
Bytes = Annotated[int, Field(ge=0), BeforeValidator(_size)]


class _Policy(Table):
    """What is not said is as `Policy` has it."""

    copies: Annotated[int, Field(ge=1, le=1_000)] | None = None
    targets: list[Selector] | None = None
    avoid: list[Selector] | None = None
    priority: Priority | None = None
    keep_last: Annotated[int, Field(ge=1)] | None = None
    largest_bytes: Bytes | None = None
    transports: list[Transport] | None = None
    keep_at_origin: bool | None = None


class _File(Table):
    policy: dict[str, _Policy] = Field(default_factory=dict)
