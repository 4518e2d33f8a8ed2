"""Reads TOML files that people write, and tells all that is wrong with one, by line and field.

What a file may say is a pydantic model of whoever reads it. Values are not repeated in what is
told: a private key may have been pasted where a public one belongs.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError

from interlock.errors import InterlockError
from interlock.nodes.toml_lines import lines_of

__all__ = ["Place", "Problem", "Table", "Tables", "TomlInvalid", "like", "read_text"]

_LARGEST_BYTES: Final = 16 * 1024 * 1024

#: Where something stands in a document: keys, and places in lists.
Place = tuple[str | int, ...]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a file."""

    line: int
    """From 1."""
    field: str
    """For example ``node.gpu-a.ssh.port``; empty: the file as a whole."""
    message: str


class TomlInvalid(InterlockError):
    """The file cannot be used. Says everything that is wrong with it."""

    nothing_was: ClassVar[str] = "used"
    """What was done with none of it."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda each: (each.line, each.field)))
        lines = [
            f"{name}:{each.line}: {f'{each.field}: ' if each.field else ''}{each.message}"
            for each in self.problems
        ]
        nothing = f"nothing was {self.nothing_was}"
        count = f"{len(lines)} problems in {name}, {nothing}:\n" if lines[1:] else ""
        super().__init__(count + "\n".join(lines))


class Table(BaseModel):
    """What a table may say: nothing that is not declared, and no type for another."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


def read_text(path: Path, usual: str, invalid: type[TomlInvalid]) -> str:
    """The text of a file, which is usually called so.

    Raises `invalid`, and InterlockError where it cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InterlockError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > _LARGEST_BYTES:
        raise InterlockError(f"{path} has more than {_LARGEST_BYTES:,} bytes: is it a {usual}?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise invalid(
            str(path), [Problem(line=line, field="", message="is not UTF-8 text")]
        ) from error


ModelT = TypeVar("ModelT", bound=BaseModel)


class Tables:
    """One document: its tables, and everything that is wrong with them, in `problems`."""

    def __init__(self, text: str, name: str, invalid: type[TomlInvalid]) -> None:
        """Parse the text of a file that is called `name`. Raises `invalid` for what is no TOML."""
        text = text.replace("\r\n", "\n")
        try:
            self.document: Mapping[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise invalid(name, [_syntax(text, str(error))]) from error
        except RecursionError as error:
            problem = Problem(line=1, field="", message="is nested too deeply")
            raise invalid(name, [problem]) from error
        self._lines = lines_of(text)
        self.problems: list[Problem] = []

    def only(self, keys: Mapping[str, Any]) -> None:
        """Note every key of the document that is none of these."""
        for key in self.document:
            if key not in keys:
                self.note((key,), f"is no part of such a file{like(key, keys)}")

    def named(self, key: str, model: type[ModelT]) -> dict[str, ModelT | None]:
        """The tables ``[key.name]``, checked; None for those that are not valid."""
        tables = self.document.get(key, {})
        if not isinstance(tables, dict):
            self.note((key,), f"is not a table: write [{key}.NAME], one for each")
            return {}
        found: dict[str, ModelT | None] = {}
        for name, table in tables.items():
            if not isinstance(table, dict):
                self.note((key, name), f"is not a table: write [{key}.{name}]")
                continue
            found[name] = self.model(model, (key, name), table)
        return found

    def model(self, model: type[ModelT], place: Place, table: Any) -> ModelT | None:
        """A table, checked; None, with problems noted, where it is not valid."""
        try:
            return model.model_validate(table)
        except ValidationError as error:
            for each in error.errors(include_url=False, include_input=False):
                inner = tuple(part for part in each["loc"] if part != "[key]")
                self.note((*place, *inner), _message(each, _fields(model, inner[:-1])))
            return None

    def note(self, place: Place, message: str) -> None:
        """Note what is wrong at a place."""
        line = 1
        for end in range(len(place), 0, -1):
            if place[:end] in self._lines:
                line = self._lines[place[:end]]
                break
        self.problems.append(Problem(line=line, field=_spelled(place), message=message))


def _syntax(text: str, told: str) -> Problem:
    """What the parser has to say, with the line that it names."""
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", told)
    line = int(place[1]) if place and place[1] else text.rstrip("\n").count("\n") + 1
    message = told[: place.start()] if place else told
    twice = re.match(r"Cannot declare \('(\w+)', ['\"](.*)['\"]\) twice", message)
    if twice:
        return Problem(line=line, field=f"{twice[1]}.{twice[2]}", message="is described twice")
    return Problem(line=line, field="", message=f"is no TOML: {message}")


def _spelled(place: Place) -> str:
    """A field, as one would write it."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
        shown = part if bare else '"' + part.encode("unicode_escape").decode()[:100] + '"'
        text += f".{shown}" if text else shown
    return text


def _fields(model: type[BaseModel], place: Place) -> Mapping[str, Any]:
    """The fields of the table that `place` is in, below that of `model`."""
    fields: Mapping[str, Any] = model.model_fields
    for part in place:
        if part not in fields:
            return {}
        inner = [
            each
            for each in (fields[str(part)].annotation, *_arguments(fields[str(part)].annotation))
            if isinstance(each, type) and issubclass(each, BaseModel)
        ]
        fields = inner[0].model_fields if inner else {}
    return fields


def _arguments(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", ())


def like(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """A suggestion, if there is one."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {near[0]}?" if near else ""


def _message(error: Any, siblings: Mapping[str, Any]) -> str:
    """What pydantic found, in words for whoever wrote the file."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        known = f"; there are {', '.join(siblings)}" if siblings else ""
        return f"is not known here{like(name, siblings) or known}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"has to be {context['expected']}"
    wanted = _WANTED.get(kind)
    if wanted is not None:
        return f"has to be {wanted.format(**context)}"
    return str(error["msg"]).replace("Input should", "has to", 1)


_WANTED: Final = {
    "string_type": "text, in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": 'a list, such as ["a", "b"]',
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "finite_number": "a finite number",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "below {lt:g}",
    "less_than_equal": "{le:g} or less",
    "string_too_short": "{min_length} characters or more",
    "string_too_long": "{max_length} characters or fewer",
}
