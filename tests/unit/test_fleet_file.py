"""fleet.toml: what it may say, and what is said, with line and field, where it is wrong."""

import base64
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import InterlockError
from interlock.nodes import fleet_file
from interlock.nodes.fleet_file import FleetFile, FleetFileInvalid, Problem, parse, read
from interlock.nodes.toml_lines import lines_of
from interlock_schemas.nodes import (
    FleetRecord,
    NodeLimits,
    NodeRecord,
    Recovery,
    SshAccess,
    Storage,
)

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "fleet.toml"


def key(kind: str = "ssh-ed25519", inside: str = "ssh-ed25519") -> str:
    blob = len(inside).to_bytes(4, "big") + inside.encode() + bytes(36)
    return f"{kind} {base64.b64encode(blob).decode()}"


def problems(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(FleetFileInvalid) as told:
        parse(text)
    return [(each.line, each.field, each.message) for each in told.value.problems]


def problem(text: str) -> tuple[int, str, str]:
    (only,) = problems(text)
    return only


def node(text: str) -> NodeRecord:
    (only,) = parse(text).nodes
    return only


def test_the_example_says_everything_that_can_be_said() -> None:
    found = read(EXAMPLE)
    assert [each.name for each in found.nodes] == ["gpu-a", "spot-7", "store.example.org"]
    first, spot, store = found.nodes
    assert first.labels == {"team": "games", "rack": "r7"}
    assert first.ssh is not None
    assert [hop.host for hop in first.ssh.jump] == ["gateway.example.org", "10.0.0.1"]
    assert (first.ssh.user, first.ssh.jump[1].user) == ("interlock", "jump")
    assert first.limits == NodeLimits(gpu_temperature_c=85)
    assert (spot.zone, spot.price_class, spot.ssh) == ("eu", "spot", None)
    assert (store.agent, store.evict) == (False, False)
    assert store.storage == Storage(path="/data/interlock")
    assert (first.storage.ingress_bytes_per_s, first.storage.egress_bytes_per_s) == (20e6, 50e6)
    assert first.storage.datasets == ("games", "models")
    said = msgspec.to_builtins(found.fleet)
    for what, fields in (("limits", NodeLimits), ("recovery", Recovery)):
        assert set(said[what]) == set(fields.__struct_fields__)
    text = tomllib.loads(EXAMPLE.read_text())
    told = {key for table in text["node"].values() for key in table} | set(text["defaults"])
    assert told == set(fleet_file._Node.model_fields) | set(fleet_file._Defaults.model_fields)
    storage = {key for table in text["node"].values() for key in table.get("storage", {})}
    assert storage == set(Storage.__struct_fields__)


def test_what_the_file_may_say_is_what_the_records_hold() -> None:
    def fields(struct: type[msgspec.Struct]) -> set[str]:
        return set(struct.__struct_fields__)

    assert set(fleet_file._Limits.model_fields) == fields(NodeLimits)
    assert set(fleet_file._Recovery.model_fields) == fields(Recovery)
    assert set(fleet_file._Ssh.model_fields) == fields(SshAccess)
    assert set(fleet_file._Storage.model_fields) == fields(Storage)
    marks = {"name", "source", "cordon", "drain", "retired"}
    assert set(fleet_file._Node.model_fields) == fields(NodeRecord) - marks


def test_an_empty_file_describes_nothing() -> None:
    assert parse("# nothing\n") == FleetFile(nodes=(), fleet=FleetRecord(source="fleet.toml"))


def test_every_node_is_as_the_defaults_say_unless_it_says_otherwise() -> None:
    found = node(
        "[defaults]\nzone='a'\nroles=['x']\nlabels={p='1',q='1'}\nssh={user='u',port=7}\n"
        "[node.n]\nroles=[]\nlabels={q='2'}\nssh={host='h'}\n"
    )
    assert (found.zone, found.roles, found.labels) == ("a", (), {"p": "1", "q": "2"})
    assert found.ssh == SshAccess(host="h", port=7, user="u")


def test_what_is_not_said_of_a_store_is_as_the_record_has_it() -> None:
    assert node("[node.n]\n").storage == Storage()
    found = node("[node.n.storage]\nreceives = false\negress_bytes_per_s = '0.5MB/s'\n").storage
    assert found == Storage(receives=False, egress_bytes_per_s=500_000)


def test_jump_hosts_are_passed_in_order_and_once() -> None:
    text = (
        "[jump.a]\nhost='a'\n[jump.b]\nhost='b'\njump=['a']\n[jump.c]\nhost='c'\njump=['a','b']\n"
        "[node.n]\nssh={host='n',jump=['a','c']}\n"
    )
    ssh = node(text).ssh
    assert ssh is not None
    assert [hop.host for hop in ssh.jump] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "line", "field", "message"),
    [
        ("\nx = [1\n\n", 2, "", "is no TOML"),
        ("[node.a]\nzone = 'x'\n[node.a]\n", 3, "node.a", "is described twice"),
        ("[nodes.a]\nzone='x'", 1, "nodes", "did you mean node?"),
        ("\n[node.a]\nzonne = 'x'", 3, "node.a.zonne", "did you mean zone?"),
        ("[node.a.ssh]\n\nhost = 1", 3, "node.a.ssh.host", "has to be text"),
        ("[node.a]\nssh = { port = 22 }", 2, "node.a.ssh.host", "is missing"),
        ("[node.a]\nssh = { host = 'h', ports = 2 }", 2, "node.a.ssh.ports", "mean port?"),
        ("[node.a]\nssh = { host = 'root@h' }", 2, "node.a.ssh.host", "the user in `user`"),
        ("[node.a]\nssh = { host = '-oProxyCommand=x' }", 2, "node.a.ssh.host", "neither"),
        ("[node.a.ssh]\nhost = 'h'\nport = 0", 3, "node.a.ssh.port", "1 or more"),
        ("[node.a.ssh]\nhost = 'h'\nport = '22'", 3, "node.a.ssh.port", "a whole number"),
        ("[node.a]\nprice_class = 'cheap'", 2, "node.a.price_class", "'owned', 'on_demand' or"),
        ("[node.a]\nroles = 'x'", 2, "node.a.roles", "has to be a list"),
        ("[node.a]\nroles = [\n 'x',\n 7]", 4, "node.a.roles[1]", "has to be text"),
        ("[node.a]\nlabels.x = 1", 2, "node.a.labels.x", "has to be text"),
        ("[node.a]\npaths = ['data']", 2, "node.a.paths[0]", "begins with a slash"),
        ("[node.a]\nagent = 'no'", 2, "node.a.agent", "true or false"),
        ("[node.a]\ngpus = -1", 2, "node.a.gpus", "0 or more"),
        (
            "[defaults.limits]\ndisk_used_percent = 120", 2,
            "defaults.limits.disk_used_percent", "100 or less",
        ),
        ("[node.a.limits]\nprogress_s = '5m'", 2, "node.a.limits.progress_s", "a number"),
        ("[node.a.limits]\nload_per_core = nan", 2, "node.a.limits.load_per_core", "finite"),
        ("[defaults.limits]\ndisk = 1", 2, "defaults.limits.disk", "disk_used_percent"),
        ("[node.a]\nrecovery = {reboot=''}", 2, "node.a.recovery.reboot", "1 characters"),
        ("[node.a.storage]\nslots = 0", 2, "node.a.storage.slots", "1 or more"),
        ("[node.a.storage]\npath = 'x'", 2, "node.a.storage.path", "begins with a slash"),
        ("[node.a.storage]\nhigh_percent = 70", 1, "node.a.storage", "low_percent is above"),
        (
            "[node.a.storage]\n\ningress_bytes_per_s = '20 Mbit/s'", 3,
            "node.a.storage.ingress_bytes_per_s", "no other unit",
        ),
        (
            "[node.a]\nstorage = {egress_bytes_per_s = 0}", 2,
            "node.a.storage.egress_bytes_per_s", "above 0",
        ),
        ("[node.a.storage]\ningress_mbps = 5", 2, "node.a.storage.ingress_mbps", "not known here"),
        ("[defaults.ssh]\nhost = 'h'", 2, "defaults.ssh.host", "is not known here"),
        ("[node.a]\nssh={host='h', jump=['bastoin']}\n[jump.bastion]\nhost='b'", 2,
         "node.a.ssh.jump[0]", "did you mean bastion?"),
        ("[node.a]\nssh={host='h', jump=['x']}", 2, "node.a.ssh.jump[0]", "[jump.x]"),
        ("[jump.a]\nhost='a'\njump=['b']\n\n[jump.b]\nhost='b'\njump=['a']", 3,
         "jump.a.jump", "a → b → a"),
        ("[jump.a]\nhost='a'\njump=['a']", 3, "jump.a.jump", "a → a"),
        ("[node.'a b']", 1, 'node."a b"', "is no name of a node"),
        ("[node.a.b]\nzone='x'", 1, "node.a.b", "is not known here"),
        ("[[node]]\nzone='x'", 1, "node", "write [node.NAME]"),
        ("node.a = 7", 1, "node.a", "write [node.a]"),
        ("[node.a]\nagent = false", 1, "node.a", "neither an agent nor `ssh`"),
    ],
)  # fmt: skip
def test_an_error_names_line_and_field(text: str, line: int, field: str, message: str) -> None:
    found = problem(text)
    assert found[:2] == (line, field), found
    assert message in found[2]


@pytest.mark.parametrize(
    ("host_key", "message"),
    [
        ("AAAAC3NzaC1lZDI1NTE5AAAAI", "begins with its kind"),
        ("ssh-foo AAAA", "begins with its kind"),
        ("ssh-ed25519 what*is*this", "not base64"),
        ("ssh-ed25519", "the key itself does not"),
        (key(inside="ssh-rsa"), "the key itself does not"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0", "begins with its kind"),
    ],
)
def test_a_host_key_that_is_none(host_key: str, message: str) -> None:
    text = f"[node.a.ssh]\nhost = 'h'\nhost_key = '''{host_key}'''"
    line, field, told = problem(text)
    assert (line, field) == (3, "node.a.ssh.host_key")
    assert message in told


def test_a_host_key_is_kept_without_its_comment() -> None:
    found = node(f"[node.a.ssh]\nhost='h'\nhost_key='{key()}  root@somewhere'")
    assert found.ssh is not None
    assert found.ssh.host_key == key()


def test_all_that_is_wrong_is_told_at_once_and_in_order() -> None:
    text = (
        "[node.b]\nzone = 7\nfoo = 1\n[jump.x]\nhost = ''\n"
        "[node.a]\nssh = {host='h', jump=['x', 'y']}\n[defaults]\nprice_class = ''\n"
    )
    assert [(line, field) for line, field, _ in problems(text)] == [
        (2, "node.b.zone"),
        (3, "node.b.foo"),
        (5, "jump.x.host"),
        (7, "node.a.ssh.jump[1]"),
        (9, "defaults.price_class"),
    ]
    with pytest.raises(FleetFileInvalid) as told:
        parse(text, "f.toml")
    assert str(told.value).startswith("5 problems in f.toml, nothing was imported:\nf.toml:2: ")


def test_no_value_is_repeated() -> None:
    secret = "hunter2-hunter2"
    text = (
        f"[node.a]\nssh = {{host='{secret}!', user='{secret} x', host_key='{secret}', "
        f"port='{secret}'}}\n"
        f"recovery = {{reboot = ['{secret}']}}\nagent = '{secret}'\nroles = '{secret}'\n"
    )
    assert all(secret not in message for _, _, message in problems(text))
    assert len(problems(text)) == 7


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(InterlockError, match="No such file"):
        read(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"# fine\n\xff = 1\n")
    with pytest.raises(FleetFileInvalid, match=r"bad\.toml:2: is not UTF-8 text"):
        read(bad)
    bad.write_bytes(b"\xef\xbb\xbf[node.a]\r\nzone = 'x'\r\n")
    assert read(bad).nodes[0].zone == "x"
    with pytest.raises(FleetFileInvalid):
        parse("x = " + "[" * 100_000)


names = st.text("abcXYZ09-_", min_size=1, max_size=6)
keys = names | st.text(min_size=1, max_size=6).filter(
    lambda text: all(c.isprintable() and c not in '"\\' for c in text)
)
scalars = (
    st.integers(-99, 99).map(str)
    | st.sampled_from([
        "true", "1.5", "-inf", "0x1F", "1979-05-27 07:32:00Z", "07:32:00", "1979-05-27",
        '"a # b"', r'"a \" ] }"', "'[x]'", "''", '""', '"""a\nb "" c"""', '"""x\\\n  y\\""""',
        "'''\n''x''\n'''", '""""q""""', "'''''q'''''", '"""[a]\nb = 1"""',
    ])
)  # fmt: skip


def quoted(text: str) -> str:
    return text if all(c.isascii() and (c.isalnum() or c in "-_") for c in text) else f'"{text}"'


values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.tuples(
            st.lists(inner, max_size=3), st.sampled_from([",", ",\n", " # x, ]\n,", " , "])
        ).map(lambda each: "[" + each[1].join(each[0]) + "]"),
        st.dictionaries(keys, inner.filter(lambda text: "\n" not in text), max_size=3).map(
            lambda table: "{" + ", ".join(f"{quoted(k)} = {v}" for k, v in table.items()) + "}"
        ),
    ),
    max_leaves=6,
)
headers = st.tuples(st.lists(keys, min_size=1, max_size=3), st.booleans()).map(
    lambda each: ("[[{}]]" if each[1] else "[ {} ]").format(" . ".join(map(quoted, each[0])))
)
pairs = st.tuples(st.lists(keys, min_size=1, max_size=2), values).map(
    lambda each: ".".join(map(quoted, each[0])) + " = " + each[1]
)
documents = st.lists(headers | pairs | st.sampled_from(["", "# [x]", "   "]), max_size=10)


def places(value: object, above: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    found = {(*above, key) for key, _ in inner}
    for name, each in inner:
        found |= places(each, (*above, name))
    return found


@settings(max_examples=60, deadline=None)
@given(documents)
def test_every_place_of_a_document_has_its_line(parts: list[str]) -> None:
    text = "\n".join(parts)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        # What the parser refuses nobody asks the lines of; each part alone is fine.
        for part in parts:
            assert set(lines_of(part)) == places(tomllib.loads(part))
        return
    lines = lines_of(text)
    assert set(lines) == places(document)
    number = 1
    begins = set()
    for part in parts:
        begins.add(number)
        number += part.count("\n") + 1
    assert {line for path, line in lines.items() if len(path) == 1} <= begins


def test_the_line_is_that_of_the_key() -> None:
    text = (
        "a = 1\n"
        "b.c = [1, 2,\n"
        "  3, {d = 4}]\n"
        "\n"
        "[t.u] # x\n"
        'k = """\n'
        "[no]\n"
        'v = 1"""\n'
        "l = 'x'\n"
        "[[t.v]]\n"
        "m = 1\n"
        "[[t.v]]\n"
        "m = 1\n"
        "[t.v.w]\n"
        "n = 1\n"
    )
    lines = lines_of(text)
    assert lines[("a",)] == 1
    assert lines[("b", "c", 1)] == 2
    assert lines[("b", "c", 3, "d")] == 3
    assert lines[("t", "u", "k")] == 6
    assert lines[("t", "u", "l")] == 9
    assert lines[("t", "v", 0, "m")] == 11
    assert lines[("t", "v", 1, "m")] == 13
    assert lines[("t", "v", 1, "w", "n")] == 15


vocabulary = st.sampled_from(
    ["defaults", "node", "jump", "ssh", "host", "host_key", "zone", "roles", "labels", "limits",
     "agent", "gpus", "paths", "recovery", "price_class", "a", "b", "port", "load_per_core", "x.y"]
)  # fmt: skip
words = st.sampled_from(
    [
        "'a'",
        "'b'",
        "''",
        "'/x'",
        "1",
        "-1",
        "0.5",
        "nan",
        "true",
        "2020-01-01",
        "'spot'",
        f"'{key()}'",
    ]
)
said = st.recursive(
    words,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda each: "[" + ",".join(each) + "]"),
        st.dictionaries(vocabulary, inner, max_size=4).map(
            lambda table: "{" + ", ".join(f"{quoted(k)} = {v}" for k, v in table.items()) + "}"
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["defaults", "node", "jump", "nodes"]), said))
def test_whatever_a_file_says_it_is_taken_or_told_what_is_wrong(tables: dict[str, str]) -> None:
    text = "\n".join(f"{key} = {value}" for key, value in tables.items())
    told: tuple[Problem, ...] = ()
    try:
        found = parse(text)
    except FleetFileInvalid as error:
        told = error.problems
    else:
        msgspec.json.decode(msgspec.json.encode(found), type=FleetFile)
        return
    assert told
    for each in told:
        assert 1 <= each.line <= len(tables)
        assert each.message
