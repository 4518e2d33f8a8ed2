"""Which broker, and as whom."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from interlock.endpoint import Endpoint, resolve
from interlock.errors import ConnectFailed
from interlock.settings import ConnectionSettings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "USER", "PASSWORD", "CREDS"):
        monkeypatch.delenv(f"INTERLOCK_NATS_{name}", raising=False)


def at(url: str, user: str | None = None, password: str | None = None) -> Endpoint:
    secret = SecretStr(password) if password else None
    return resolve(ConnectionSettings(nats_url=url, nats_user=user, nats_password=secret))


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("nats://broker:4333", "nats://broker:4333"),
        ("nats://broker", "nats://broker:4222"),
        ("broker", "nats://broker:4222"),
        ("broker:4333", "nats://broker:4333"),
        ("tls://broker", "tls://broker:4222"),
        ("nats://[::1]:4333", "nats://[::1]:4333"),
        ("nats://a, b:4333 ,", "nats://a:4222,nats://b:4333"),
        ("nats://kim:secret@broker", "nats://broker:4222"),
    ],
)
def test_an_address_may_be_short(url: str, bare: str) -> None:
    assert at(url).url == bare


def test_credentials_in_the_address_are_taken_out_of_it() -> None:
    where = at("nats://kim:secret@a,nats://b")
    assert (where.user, where.password) == ("kim", "secret")
    assert "secret" not in where.url


@given(st.text(min_size=1), st.text(min_size=1))
def test_credentials_may_hold_any_character(user: str, password: str) -> None:
    spelled = [quote(part.encode(errors="replace"), safe="") for part in (user, password)]
    where = at(f"nats://{spelled[0]}:{spelled[1]}@broker:4333")
    assert where.user == user.encode(errors="replace").decode()
    assert where.password == password.encode(errors="replace").decode()
    assert where.url == "nats://broker:4333"


def test_credentials_beside_the_address_come_first() -> None:
    where = at("nats://kim:secret@broker", user="lee", password="other")
    assert (where.user, where.password) == ("lee", "other")


@pytest.mark.parametrize(
    "url",
    [
        "nats://broker:port",
        "nats://broker:99999",
        "nats://[",
        ",",
        " ",
        "nats://:4222",
        "nats://kim:secret@",
        "nats://kim:secret/s@broker",
    ],
)
def test_what_is_no_address_is_refused_naming_the_setting_and_no_secret(url: str) -> None:
    with pytest.raises(ConnectFailed, match="INTERLOCK_NATS_URL") as refused:
        at(url)
    assert "secret" not in str(refused.value)


def test_without_an_address_and_a_running_broker_it_is_the_usual_one(tmp_path: Path) -> None:
    where = resolve(ConnectionSettings(state=tmp_path, nats_user="kim"))
    assert where.url == "nats://127.0.0.1:4222"
    assert where.user == "kim"
    assert "interlock up" in where.origin
