"""Which broker, and as whom: the settings, else this machine's own, else the usual address."""

from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from interlock import state
from interlock.errors import ConnectFailed
from interlock.settings import ConnectionSettings

__all__ = ["SYSTEM_USER", "Endpoint", "resolve"]

#: May ask the servers of `interlock up` how they store, and nothing else. Its password is that of
#: the user who may do everything.
SYSTEM_USER = "interlock-system"

_DEFAULT_URL = "nats://127.0.0.1:4222"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where to connect."""

    url: str
    """Without credentials; several with commas between."""
    origin: str
    """Who said so, for messages."""
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: Path | None = None
    system_user: str | None = None
    """Who asks the servers how they store; None: we ourselves."""
    system_password: str | None = None


def _bare(url: str) -> tuple[str, str | None, str | None]:
    """An address without its credentials, and the credentials."""
    try:
        split = urlsplit(url if "://" in url else f"nats://{url}")
        host, port = split.hostname, split.port or 4222
    except ValueError:
        # What urlsplit says may quote a password that holds a slash.
        raise _no_address("its host or port cannot be read") from None
    if not host:
        raise _no_address("it names no host")
    if ":" in host:
        host = f"[{host}]"
    bare = urlunsplit((split.scheme, f"{host}:{port}", split.path, "", ""))
    user, password = (unquote(part) if part else None for part in (split.username, split.password))
    return bare, user, password


def _no_address(why: str) -> ConnectFailed:
    return ConnectFailed(
        f"INTERLOCK_NATS_URL is no broker address ({why}): write it as nats://host:4222"
    )


def _check_creds(path: Path) -> None:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ConnectFailed(f"INTERLOCK_NATS_CREDS: {path}: {error.strerror}") from error
    if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
        raise ConnectFailed(f"INTERLOCK_NATS_CREDS: {path} is no NATS credentials file")


def resolve(settings: ConnectionSettings) -> Endpoint:
    """Decide where to connect. Looks at the state folder only when no address is set.

    Raises ConnectFailed when the address that is set is none.
    """
    password = settings.nats_password.get_secret_value() if settings.nats_password else None
    system_password = (
        settings.nats_system_password.get_secret_value() if settings.nats_system_password else None
    )
    if settings.nats_creds is not None:
        _check_creds(settings.nats_creds)
    if settings.nats_url:
        parts = [_bare(part.strip()) for part in settings.nats_url.split(",") if part.strip()]
        if not parts:
            raise _no_address("it is empty")
        user = next((user for _, user, _ in parts if user), None)
        secret = next((secret for _, _, secret in parts if secret), None)
        # As every NATS client reads it: a name without a password is a token.
        token = user if user and not (secret or settings.nats_user or password) else None
        return Endpoint(
            url=",".join(bare for bare, _, _ in parts),
            origin="INTERLOCK_NATS_URL",
            user=None if token else settings.nats_user or user,
            password=password or secret,
            token=token,
            creds=settings.nats_creds,
            system_user=settings.nats_system_user,
            system_password=system_password,
        )
    folder = settings.state or state.default_folder()
    running = state.read_run(folder, answering=False)
    if running is not None:
        credentials = state.read_credentials(folder)
        return Endpoint(
            url=running.url,
            origin=f"`interlock up` in {folder}",
            user=credentials.user,
            password=credentials.password,
            system_user=SYSTEM_USER,
            system_password=credentials.password,
        )
    return Endpoint(
        url=_DEFAULT_URL,
        origin="the usual address; no `interlock up` is running on this machine",
        user=settings.nats_user,
        password=password,
        creds=settings.nats_creds,
        system_user=settings.nats_system_user,
        system_password=system_password,
    )
