"""``fleet.toml``: the nodes as people describe them, read into the records that services read.

Everything that is wrong with a file is told at once, each with its line and field. Values are not
repeated in what is told: a private key may have been pasted where a public one belongs.
"""

import base64
import binascii
import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from interlock.errors import InterlockError
from interlock.nodes.toml_lines import lines_of
from interlock_schemas.nodes import FleetRecord, Name, NodeLimits, NodeRecord, Recovery, SshAccess

__all__ = ["SOURCE", "FleetFile", "FleetFileInvalid", "Problem", "parse", "read"]

#: The source of the records that come from such a file.
SOURCE: Final = "fleet.toml"

#: Kinds of host keys, as in ``known_hosts``.
_KEY_TYPES: Final = frozenset(
    {
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ecdsa-sha2-nistp256@openssh.com",
        "sk-ssh-ed25519@openssh.com",
        "ssh-ed25519",
        "ssh-ed448",
        "ssh-rsa",
    }
)
_LARGEST_BYTES: Final = 16 * 1024 * 1024


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a file."""

    line: int
    """From 1."""
    field: str
    """For example ``node.gpu-a.ssh.port``; empty: the file as a whole."""
    message: str


class FleetFileInvalid(InterlockError):
    """The file cannot be used. Says everything that is wrong with it."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda each: (each.line, each.field)))
        lines = [
            f"{name}:{each.line}: {f'{each.field}: ' if each.field else ''}{each.message}"
            for each in self.problems
        ]
        count = f"{len(lines)} problems in {name}, nothing was imported:\n" if lines[1:] else ""
        super().__init__(count + "\n".join(lines))


class FleetFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says."""

    nodes: tuple[NodeRecord, ...]
    fleet: FleetRecord


def read(path: Path) -> FleetFile:
    """Read a file. Raises FleetFileInvalid, and InterlockError where it cannot be read at all."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InterlockError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > _LARGEST_BYTES:
        raise InterlockError(f"{path} has more than {_LARGEST_BYTES:,} bytes: is it a fleet.toml?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise FleetFileInvalid(
            str(path), [Problem(line=line, field="", message="is not UTF-8 text")]
        ) from error
    return parse(text, str(path))


def parse(text: str, name: str = SOURCE) -> FleetFile:
    """Read the text of a file that is called `name`. Raises FleetFileInvalid."""
    text = text.replace("\r\n", "\n")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FleetFileInvalid(name, [_syntax(text, str(error))]) from error
    except RecursionError as error:
        problem = Problem(line=1, field="", message="is nested too deeply")
        raise FleetFileInvalid(name, [problem]) from error
    check = _Check(text, document)
    found = check.run()
    if check.problems or found is None:
        raise FleetFileInvalid(name, check.problems)
    return found


def _syntax(text: str, told: str) -> Problem:
    """What the parser has to say, with the line that it names."""
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", told)
    line = int(place[1]) if place and place[1] else text.rstrip("\n").count("\n") + 1
    message = told[: place.start()] if place else told
    twice = re.match(r"Cannot declare \('(\w+)', ['\"](.*)['\"]\) twice", message)
    if twice:
        return Problem(line=line, field=f"{twice[1]}.{twice[2]}", message="is described twice")
    return Problem(line=line, field="", message=f"is no TOML: {message}")


# What a file may say


def _host_key(text: str) -> str:
    """Check a public key, and leave its comment out."""
    kind, _, rest = text.strip().partition(" ")
    encoded = rest.strip().partition(" ")[0]
    if kind not in _KEY_TYPES:
        raise ValueError(
            "is no host key: it begins with its kind, such as ssh-ed25519; take what "
            "`ssh-keyscan HOST` prints behind the host, once you have checked it"
        )
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"is no host key: what follows {kind} is not base64") from None
    name = kind.encode()
    if not blob.startswith(len(name).to_bytes(4, "big") + name) or len(blob) < len(name) + 20:
        raise ValueError(f"is no host key: it says {kind}, and the key itself does not")
    return f"{kind} {encoded}"


def _host(text: str) -> str:
    if "@" in text:
        raise ValueError("is a host alone: put the user in `user`")
    if not re.fullmatch(r"[A-Za-z0-9_.:%\[\]][A-Za-z0-9_.:%\[\]-]*", text):
        raise ValueError("is neither a host name nor an address")
    return text


def _user(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.$@\\-]*", text):
        raise ValueError("is no name of a user")
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("begins with a slash: it is a folder on the node")
    return text


Short = Annotated[str, Field(max_length=200)]
Said = Annotated[str, Field(min_length=1, max_length=200)]
Command = Annotated[str, Field(min_length=1, max_length=500)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Host = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_host)]
User = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_user)]
HostKey = Annotated[
    str, AfterValidator(_host_key), Field(max_length=500, description="as in known_hosts")
]
Folder = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_absolute)]
File = Annotated[str, Field(min_length=1, max_length=500)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class _Limits(_Model):
    disk_used_percent: Percent | None = None
    memory_used_percent: Percent | None = None
    load_per_core: Positive | None = None
    gpu_temperature_c: Annotated[float, Field(gt=0, le=200)] | None = None
    progress_s: Positive | None = None
    checkpoint_s: Positive | None = None
    clock_skew_s: Positive | None = None
    loop_lag_s: Positive | None = None


class _Recovery(_Model):
    restart_agent: Command | None = None
    restart_services: Command | None = None
    reboot: Command | None = None
    reprovision: Command | None = None
    call: Command | None = None


class _DefaultSsh(_Model):
    user: User | None = None
    identity: File | None = None
    port: Port | None = None
    jump: list[str] | None = None


class _Ssh(_DefaultSsh):
    host: Host
    host_key: HostKey | None = None


class _Common(_Model):
    provider: Short | None = None
    zone: Short | None = None
    price_class: Literal["owned", "on_demand", "spot"] | None = None
    roles: list[Said] | None = None
    labels: dict[Said, Short] = {}
    paths: list[Folder] | None = None
    agent: bool | None = None
    evict: bool | None = None
    limits: _Limits | None = None
    recovery: _Recovery | None = None


class _Defaults(_Common):
    ssh: _DefaultSsh | None = None


class _Node(_Common):
    ssh: _Ssh | None = None
    gpus: Annotated[int, Field(ge=0, le=1024)] | None = None


class _File(_Model):
    defaults: _Defaults | None = None
    jump: dict[str, _Ssh] = {}
    node: dict[str, _Node] = {}


ModelT = TypeVar("ModelT", bound=BaseModel)
Place = tuple[str | int, ...]


class _Check:
    """One file: what it says, and everything that is wrong with it."""

    def __init__(self, text: str, document: Mapping[str, Any]) -> None:
        self._lines = lines_of(text)
        self._document = document
        self.problems: list[Problem] = []

    def run(self) -> FleetFile | None:
        """What it says; None, or with problems noted, where it cannot be used."""
        for key in self._document:
            if key not in _File.model_fields:
                self._note((key,), f"is no part of such a file{_like(key, _File.model_fields)}")
        defaults = self._model(_Defaults, ("defaults",), self._document.get("defaults", {}))
        jumps = self._tables("jump", _Ssh)
        nodes = self._tables("node", _Node)
        for name in nodes:
            self._check_name(("node", name), name)
        names = self._document.get("jump", {})
        names = names if isinstance(names, dict) else {}
        self._check_jumps(("defaults", "ssh"), defaults.ssh if defaults else None, names)
        for name, jump in jumps.items():
            self._check_jumps(("jump", name), jump, names)
        for name, node in nodes.items():
            self._check_jumps(("node", name, "ssh"), node.ssh if node else None, names)
        self._check_circles(jumps)
        if self.problems or defaults is None:
            return None
        for name, node in nodes.items():
            agent = _first(node.agent if node else None, defaults.agent, True)
            if node is not None and node.ssh is None and not agent:
                self._note(("node", name), "has neither an agent nor `ssh`: it cannot be asked")
        routes = _Routes(defaults, {name: jump for name, jump in jumps.items() if jump})
        records = [self._record(n, node, defaults, routes) for n, node in nodes.items() if node]
        fleet = FleetRecord(
            limits=_limits(defaults.limits) or NodeLimits(),
            recovery=_recovery(defaults.recovery),
            source=SOURCE,
        )
        return FleetFile(nodes=tuple(record for record in records if record), fleet=fleet)

    def _tables(self, key: str, model: type[ModelT]) -> dict[str, ModelT | None]:
        """The tables ``[key.name]``, checked; None for those that are not valid."""
        tables = self._document.get(key, {})
        if not isinstance(tables, dict):
            self._note((key,), f"is not a table: write [{key}.NAME], one for each")
            return {}
        found: dict[str, ModelT | None] = {}
        for name, table in tables.items():
            if not isinstance(table, dict):
                self._note((key, name), f"is not a table: write [{key}.{name}]")
                continue
            found[name] = self._model(model, (key, name), table)
        return found

    def _model(self, model: type[ModelT], place: Place, table: Any) -> ModelT | None:
        try:
            return model.model_validate(table)
        except ValidationError as error:
            for each in error.errors(include_url=False, include_input=False):
                inner = tuple(part for part in each["loc"] if part != "[key]")
                self._note((*place, *inner), _message(each, _fields(model, inner[:-1])))
            return None

    def _check_name(self, place: Place, name: str) -> None:
        try:
            msgspec.convert(name, Name)
        except msgspec.ValidationError:
            self._note(
                place,
                "is no name of a node: it begins with a letter or digit and goes on with those "
                "and _ . -, 100 characters at most",
            )

    def _check_jumps(
        self, place: Place, ssh: "_DefaultSsh | None", names: Mapping[str, Any]
    ) -> None:
        for number, name in enumerate((ssh.jump or []) if ssh else []):
            if name not in names:
                there = f": describe it in [jump.{name}]"
                self._note(
                    (*place, "jump", number), f"no such jump host{_like(name, names) or there}"
                )

    def _check_circles(self, jumps: Mapping[str, "_Ssh | None"]) -> None:
        """A host that is reached through itself cannot be reached."""
        done: set[str] = set()
        for start in jumps:
            trail: list[str] = []
            for circle in _circles(start, jumps, trail, done):
                way = " → ".join([*circle, circle[0]])
                self._note(("jump", circle[0], "jump"), f"goes round in a circle: {way}")

    def _record(
        self, name: str, node: "_Node", defaults: "_Defaults", routes: "_Routes"
    ) -> NodeRecord | None:
        record = NodeRecord(
            name=name,
            provider=_first(node.provider, defaults.provider, ""),
            zone=_first(node.zone, defaults.zone, ""),
            price_class=_first(node.price_class, defaults.price_class, "on_demand"),
            roles=tuple(_first(node.roles, defaults.roles, [])),
            labels={**defaults.labels, **node.labels},
            ssh=routes.to(node.ssh) if node.ssh else None,
            agent=_first(node.agent, defaults.agent, True),
            gpus=node.gpus,
            paths=tuple(_first(node.paths, defaults.paths, [])),
            limits=_limits(node.limits) or NodeLimits(),
            recovery=_recovery(node.recovery),
            evict=_first(node.evict, defaults.evict, True),
            source=SOURCE,
        )
        try:
            # As services will read it.
            return msgspec.convert(msgspec.to_builtins(record), NodeRecord)
        except msgspec.ValidationError as error:
            self._note(("node", name), str(error))
            return None

    def _note(self, place: Place, message: str) -> None:
        line = 1
        for end in range(len(place), 0, -1):
            if place[:end] in self._lines:
                line = self._lines[place[:end]]
                break
        self.problems.append(Problem(line=line, field=_spelled(place), message=message))


class _Routes:
    """How hosts are reached through others."""

    def __init__(self, defaults: _Defaults, jumps: Mapping[str, _Ssh]) -> None:
        self._common = defaults.ssh or _DefaultSsh()
        self._jumps = jumps

    def to(self, ssh: _Ssh) -> SshAccess:
        """The way to a node: its jump hosts in the order in which they are passed."""
        names: list[str] = []
        for name in _first(ssh.jump, self._common.jump, []):
            names += [each for each in self._way(name) if each not in names]
        hops = tuple(self._access(self._jumps[name], 22) for name in names)
        access = self._access(ssh, self._common.port or 22)
        return msgspec.structs.replace(access, jump=hops)

    def _way(self, name: str) -> list[str]:
        """What is passed up to a jump host, and that one itself."""
        before = [each for outer in self._jumps[name].jump or [] for each in self._way(outer)]
        return [*dict.fromkeys(before), name]

    def _access(self, ssh: _Ssh, port: int) -> SshAccess:
        return SshAccess(
            host=ssh.host,
            port=ssh.port or port,
            user=ssh.user or self._common.user or "root",
            host_key=ssh.host_key,
            identity=ssh.identity or self._common.identity,
        )


def _circles(
    name: str, jumps: Mapping[str, _Ssh | None], trail: list[str], done: set[str]
) -> Iterator[list[str]]:
    """The circles that begin on the way from a jump host, each once."""
    if name in trail:
        yield trail[trail.index(name) :]
        return
    jump = jumps.get(name)
    if name in done or jump is None:
        return
    trail.append(name)
    for each in dict.fromkeys(jump.jump or []):
        yield from _circles(each, jumps, trail, done)
    trail.pop()
    done.add(name)


def _limits(said: _Limits | None) -> NodeLimits | None:
    return None if said is None else NodeLimits(**said.model_dump())


def _recovery(said: _Recovery | None) -> Recovery | None:
    return None if said is None else Recovery(**said.model_dump())


def _first(*values: Any) -> Any:
    """The first that was said."""
    return next((value for value in values if value is not None), None)


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


def _like(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """A suggestion, if there is one."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {near[0]}?" if near else ""


def _message(error: Any, siblings: Mapping[str, Any]) -> str:
    """What pydantic found, in words for whoever wrote the file."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        known = f"; there are {', '.join(siblings)}" if siblings else ""
        return f"is not known here{_like(name, siblings) or known}"
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
