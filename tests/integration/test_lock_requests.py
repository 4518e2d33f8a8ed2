"""What others may send to the lock service: whatever makes no sense is refused by its field, with
nothing changed."""

import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from interlock.bus import Bus, connected
from interlock.errors import BusUnavailable
from interlock_schemas import envelope, locks
from interlock_schemas.contracts import Command
from interlock_schemas.topology import LOCKS
from tests.conftest import Up, eventually

COMMANDS = (
    locks.ACQUIRE, locks.RENEW, locks.KEEP, locks.RELEASE, locks.END, locks.LIST, locks.SHOW,
)  # fmt: skip

#: The fields that a valid request of each command has, beside the name.
VALID: dict[str, dict[str, Any]] = {
    "acquire": {},
    "renew": {"id": "nobody", "token": 1},
    "keep": {"id": "nobody"},
    "release": {"id": "nobody", "token": 1},
    "end": {"reason": "test"},
    "list": {},
    "show": {},
}

NAMES = ["", " ", "a b", "a.>", "a*", ">", "*", ".a", "$JS.API", "a\nb", "a\x00", "\N{ROCKET}",
         "x" * 201, "x" * 300, 1, None, True, [], {}]  # fmt: skip

WRONG: list[tuple[str, str, Any]] = [
    *((verb, "name", name) for verb in VALID if verb != "list" for name in NAMES),
    *(
        ("acquire", field, value)
        for field, values in {
            "ttl_s": [0, 0.99, -1, 86_400.5, 31_536_000, 1e300, "30", None, True, [], {}],
            "slots": [0, -1, 10_001, 1.5, "1", None, True],
            "max_age_s": [0, -1, 31_536_001, "60", True],
            "priority": ["urgent", "", 2, None, "HIGH"],
            "wait": [0, 1, "yes", None],
            "id": ["", "a.b", "a b", "*", ">", "x" * 65, 7],
            "client": ["a.b", ">", "x" * 65, 7, None],
            "owner": ["x" * 201, 7, None],
            "node": ["x" * 201, 7, None],
            "note": ["x" * 201, 7, None],
            "asked_ns": ["1", 1.5, None, True],
            "asked_seq": ["1", 1.5, None, True],
        }.items()
        for value in values
    ),
    *(
        (verb, "id", value)
        for verb in ("renew", "keep", "release")
        for value in ["", "a.b", "*", "x" * 65, 7, None]
    ),
    *(("renew", "token", value) for value in [0, -1, 1.5, "1", None, True]),
    *(("renew", "ttl_s", value) for value in [0, -1, 86_401, "30", True]),
    *(("release", "token", value) for value in [-1, 1.5, "1", None, True]),
    *(("release", "timed_out_s", value) for value in ["1", True]),
    *(("release", "at_once", value) for value in [0, 1, "yes", None]),
    *(("end", "reason", value) for value in ["", "x" * 501, 7, None]),
    *(("end", "by", value) for value in ["x" * 201, 7, None]),
    *(("end", "token", value) for value in [0, -1, 1.5, "1", True]),
    *(("list", "limit", value) for value in [0, -1, 1_001, 1.5, "1", None]),
    *(("list", "prefix", value) for value in ["x" * 201, 7, None]),
    *(("list", "node", value) for value in ["x" * 201, 7, None]),
    *(("list", "after", value) for value in ["x" * 201, 7, None]),
]

BODIES = [b"{", b"}", b"[]", b"null", b"7", b'"name"', b"\xff\xfe", b"not JSON",
          b'{"name":"quiet","ttl_s":NaN,"limit":NaN,"token":NaN}',
          b'{"name":1e999,"prefix":1e999}',
          b"[" * 50_000, b'{"x":' * 50_000]  # fmt: skip


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A fleet whose bucket nobody else writes."""
    fleet = Up(tmp_path_factory.mktemp("quiet"), "--only", locks.SERVICE)
    fleet.await_services = lambda: None  # type: ignore[method-assign]
    fleet.start()
    yield fleet
    assert fleet.stop() == 0


@pytest.fixture
async def line(quiet: Up) -> AsyncIterator[Bus]:
    async with connected(quiet.settings, name="test") as bus:

        async def answers() -> bool:
            with contextlib.suppress(BusUnavailable):
                await bus.request(locks.LIST.subject, b"{}", timeout_s=1)
                return True
            return False

        await eventually(answers)
        yield bus


async def send(bus: Bus, command: Command[Any, Any], body: bytes) -> tuple[str, str, Any]:
    """Code and text of the error, empty without one, and the answer."""
    reply = await bus.request(command.subject, body, timeout_s=30)
    code = envelope.lookup(reply.headers, "Nats-Service-Error-Code") or ""
    why = envelope.lookup(reply.headers, "Nats-Service-Error") or ""
    return code, why, json.loads(reply.data) if reply.data else None


async def ask(bus: Bus, command: Command[Any, Any], **fields: Any) -> tuple[str, str, Any]:
    return await send(bus, command, json.dumps(fields).encode())


async def last_write(bus: Bus) -> int:
    """The sequence of the last message that the bucket took."""
    info = await bus.api(f"STREAM.INFO.{LOCKS.stream}")
    return int(info["state"]["last_seq"])


def fresh() -> str:
    return f"raw:{uuid.uuid4().hex}"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.verb)
async def test_a_field_that_makes_no_sense_is_named_and_nothing_is_stored(
    line: Bus, command: Command[Any, Any]
) -> None:
    name = fresh()
    code, _, held = await ask(line, locks.ACQUIRE, name=name, ttl_s=600)
    assert code == ""
    before = await last_write(line)
    tried = 0
    for verb, field, value in WRONG:
        if verb == command.verb:
            tried += 1
            fields = {"name": name, **VALID[verb], field: value}
            code, why, _ = await ask(line, command, **fields)
            assert code == "400", (verb, field, value, why)
            assert field in why, (verb, field, value, why)
    assert tried
    for field in {"name": name, **VALID[command.verb]}:
        if command.verb not in ("list", "release") or field == "id":
            rest = {"name": name, **VALID[command.verb]}
            del rest[field]
            code, why, _ = await ask(line, command, **rest)
            assert code == "400", (field, why)
            assert field in why
    assert await last_write(line) == before
    shown = (await ask(line, locks.SHOW, name=name))[2]
    assert [each["token"] for each in shown["holders"]] == [held["token"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.verb)
async def test_a_body_that_is_no_request_is_refused(line: Bus, command: Command[Any, Any]) -> None:
    before = await last_write(line)
    for body in BODIES:
        code, why, _ = await send(line, command, body)
        assert code == "400", body[:40]
        assert command.request.__name__ in why
    assert await last_write(line) == before


async def test_no_body_is_a_request_without_fields(line: Bus) -> None:
    assert (await send(line, locks.LIST, b""))[0] == ""
    for command in COMMANDS:
        if command is not locks.LIST:
            assert (await send(line, command, b""))[0] == "400"


async def test_only_whoever_has_id_and_token_renews_and_releases(line: Bus) -> None:
    name = fresh()
    held = (await ask(line, locks.ACQUIRE, name=name, ttl_s=600))[2]
    id, token = held["id"], held["token"]
    before = await last_write(line)
    for command in (locks.RENEW, locks.RELEASE):
        for foreign in (token - 1, token + 1, 1, 2**63, 2**70):
            code, why, _ = await ask(line, command, name=name, id=id, token=foreign)
            assert code == "409", why
            assert str(foreign) in why
        assert (await ask(line, command, name=name, id="another", token=token))[0] == "410"
        assert (await ask(line, command, name=fresh(), id=id, token=token))[0] == "410"
    assert (await ask(line, locks.RELEASE, name=name, id=id))[0] == "409"
    assert (await ask(line, locks.KEEP, name=name, id="another"))[0] == "410"
    assert (await ask(line, locks.END, name=name, reason="test", token=token + 1))[0] == "404"
    assert (await ask(line, locks.END, name=fresh(), reason="test"))[0] == "404"
    assert await last_write(line) == before

    code, _, ended = await ask(line, locks.RELEASE, name=name, id=id, token=token)
    assert (code, ended["tokens"]) == ("", [token])
    after = await last_write(line)
    for command in (locks.RELEASE, locks.RENEW):
        code, why, _ = await ask(line, command, name=name, id=id, token=token)
        assert code == "410"
        assert "released already" in why
    assert await last_write(line) == after


async def test_what_is_held_is_refused_and_asked_twice_is_done_once(line: Bus) -> None:
    name = fresh()
    first = (await ask(line, locks.ACQUIRE, name=name, id="mine", owner="anna", ttl_s=600))[2]
    before = await last_write(line)
    code, why, _ = await ask(line, locks.ACQUIRE, name=name, id="yours")
    assert code == "423"
    assert "anna" in why
    assert str(first["token"]) in why
    again = (await ask(line, locks.ACQUIRE, name=name, id="mine", owner="anna", ttl_s=600))[2]
    assert again["token"] == first["token"]
    assert "fresh" not in again
    code, why, _ = await ask(line, locks.ACQUIRE, name=name, id="yours", slots=2)
    assert code == "409"
    assert "same number" in why
    assert await last_write(line) == before


async def test_a_wait_that_would_last_for_ever_is_refused(line: Bus) -> None:
    one, two = fresh(), fresh()
    for name, owner in ((one, "anna"), (two, "bert")):
        assert (await ask(line, locks.ACQUIRE, name=name, owner=owner, ttl_s=600))[0] == ""
    code, _, answer = await ask(line, locks.ACQUIRE, name=two, owner="anna", id="w", wait=True)
    assert (code, answer["state"], answer["position"]) == ("", "waiting", 1)
    code, why, _ = await ask(line, locks.ACQUIRE, name=one, owner="bert", wait=True)
    assert code == "508"
    assert "anna" in why
    assert "bert" in why
    assert (await ask(line, locks.RELEASE, name=two, id="w"))[0] == ""


def test_the_shared_list_covers_every_command() -> None:
    assert {command.verb for command in COMMANDS} == set(VALID) == {each[0] for each in WRONG}
