"""How a process finds its broker. Read from the environment, prefix ``INTERLOCK_``."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from interlock.errors import SettingsInvalid

__all__ = ["ConnectionSettings", "ServiceSettings"]


class ConnectionSettings(BaseSettings):
    """Where the broker is and who we are to it."""

    model_config = SettingsConfigDict(env_prefix="INTERLOCK_", extra="ignore", frozen=True)

    def __init__(self, **given: Any) -> None:
        """Read the environment. Raises SettingsInvalid, which names the variable."""
        try:
            super().__init__(**given)
        except ValidationError as error:
            # Without the value and the cause: it may be a secret.
            wrong = [
                f"INTERLOCK_{str(each['loc'][0]).upper()}: {each['msg']}"
                for each in error.errors(include_input=False, include_url=False)
            ]
            raise SettingsInvalid("; ".join(wrong)) from None

    nats_url: str | None = Field(
        default=None,
        description="Broker address, or several with commas between. "
        "Default: the broker that `interlock up` runs on this machine, else nats://127.0.0.1:4222.",
    )
    nats_user: str | None = Field(
        default=None, description="User name, if the broker asks for one."
    )
    nats_password: SecretStr | None = Field(default=None, description="Its password.")
    nats_creds: Path | None = Field(
        default=None, description="A NATS credentials file, instead of user and password."
    )
    state: Path | None = Field(
        default=None,
        description="State folder of `interlock up` on this machine. "
        "Default: $XDG_STATE_HOME/interlock, else ~/.local/state/interlock.",
    )
    connect_timeout_s: float = Field(
        default=10.0, gt=0, description="Seconds to wait for the first connection."
    )


class ServiceSettings(ConnectionSettings):
    """What every service can be told on top of it."""

    concurrency: int = Field(
        default=64, ge=1, le=10_000, description="Messages handled at the same time."
    )
    drain_s: float = Field(
        default=20.0, gt=0, description="Seconds that work in hand may take after SIGTERM."
    )
    connect_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds to wait for the first connection."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important level that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, JSON lines otherwise."
    )
