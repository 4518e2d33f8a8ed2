"""``fleet.toml``: the nodes as people describe them, read into the records that services read.

Everything that is wrong with a file is told at once, each with its line and field. Values are not
repeated in what is told: a private key may have been pasted where a public one belongs.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from interlock.amounts import parse_rate
from interlock.nodes.toml_tables import (
    Place,
    Problem,
    Table,
    Tables,
    TomlInvalid,
    like,
    read_text,
)
from interlock_schemas.nodes import (
    FleetRecord,
    Name,
    NodeLimits,
    NodeRecord,
    Recovery,
    SshAccess,
    Storage,
)

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


class FleetFileInvalid(TomlInvalid):
    """The file cannot be used. Says everything that is wrong with it."""

    nothing_was = "imported"


class FleetFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says."""

    nodes: tuple[NodeRecord, ...]
    fleet: FleetRecord


def read(path: Path) -> FleetFile:
    """Read a file. Raises FleetFileInvalid, and InterlockError where it cannot be read at all."""
    return parse(read_text(path, SOURCE, FleetFileInvalid), str(path))


def parse(text: str, name: str = SOURCE) -> FleetFile:
    """Read the text of a file that is called `name`. Raises FleetFileInvalid."""
    check = _Check(Tables(text, name, FleetFileInvalid))
    found = check.run()
    if check.problems or found is None:
        raise FleetFileInvalid(name, check.problems)
    return found


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


def _rate(said: object) -> object:
    return parse_rate(said) if isinstance(said, str) else said


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
Rate = Annotated[Positive, BeforeValidator(_rate)]


class _Limits(Table):
    disk_used_percent: Percent | None = None
    memory_used_percent: Percent | None = None
    load_per_core: Positive | None = None
    gpu_temperature_c: Annotated[float, Field(gt=0, le=200)] | None = None
    progress_s: Positive | None = None
    checkpoint_s: Positive | None = None
    clock_skew_s: Positive | None = None
    loop_lag_s: Positive | None = None


class _Recovery(Table):
    restart_agent: Command | None = None
    restart_services: Command | None = None
    reboot: Command | None = None
    reprovision: Command | None = None
    call: Command | None = None


class _Storage(Table):
    path: Folder | None = None
    receives: bool = True
    serves: bool = True
    datasets: list[Said] | None = None
    high_percent: Percent = Storage().high_percent
    low_percent: Percent = Storage().low_percent
    ingress_bytes_per_s: Rate | None = None
    egress_bytes_per_s: Rate | None = None
    slots: Annotated[int, Field(ge=1, le=1_000)] = Storage().slots

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low_percent > self.high_percent:
            raise ValueError(
                "low_percent is above high_percent: beyond the high one, what may be dropped is, "
                "down to the low one"
            )
        return self


class _DefaultSsh(Table):
    user: User | None = None
    identity: File | None = None
    port: Port | None = None
    jump: list[str] | None = None


class _Ssh(_DefaultSsh):
    host: Host
    host_key: HostKey | None = None


class _Common(Table):
    provider: Short | None = None
    zone: Short | None = None
    price_class: Literal["owned", "on_demand", "spot"] | None = None
    roles: list[Said] | None = None
    labels: dict[Said, Short] = Field(default_factory=dict)
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
    storage: _Storage | None = None


class _File(Table):
    defaults: _Defaults | None = None
    jump: dict[str, _Ssh] = Field(default_factory=dict)
    node: dict[str, _Node] = Field(default_factory=dict)


class _Check:
    """One file: what it says, and everything that is wrong with it."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._document = tables.document
        self._note = tables.note
        self.problems = tables.problems

    def run(self) -> FleetFile | None:
        """What it says; None, or with problems noted, where it cannot be used."""
        self._tables.only(_File.model_fields)
        defaults = self._tables.model(_Defaults, ("defaults",), self._document.get("defaults", {}))
        jumps = self._tables.named("jump", _Ssh)
        nodes = self._tables.named("node", _Node)
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
                    (*place, "jump", number), f"no such jump host{like(name, names) or there}"
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
            storage=_storage(node.storage),
            evict=_first(node.evict, defaults.evict, True),
            source=SOURCE,
        )
        try:
            # As services will read it.
            return msgspec.convert(msgspec.to_builtins(record), NodeRecord)
        except msgspec.ValidationError as error:
            self._note(("node", name), str(error))
            return None


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


def _storage(said: _Storage | None) -> Storage:
    if said is None:
        return Storage()
    fields = said.model_dump()
    if said.datasets is not None:
        fields["datasets"] = tuple(said.datasets)
    return Storage(**fields)


def _first(*values: Any) -> Any:
    """The first that was said."""
    return next((value for value in values if value is not None), None)
