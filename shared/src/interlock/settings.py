"""How a process finds its broker. Read from the environment, prefix ``INTERLOCK_``."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from interlock.errors import SettingsInvalid
from interlock.flood import FloodPolicy

__all__ = ["ConnectionSettings", "ServiceSettings"]


_FLOOD = FloodPolicy()


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
    nats_system_user: str | None = Field(
        default=None,
        description="A user of the broker's system account, who is asked how the servers store. "
        "Only where our own account does not import $SYS.REQ.SERVER.PING.VARZ.",
    )
    nats_system_password: SecretStr | None = Field(
        default=None, description="The password of that user."
    )
    node: str | None = Field(
        default=None,
        max_length=200,
        description="This host's name in the fleet, under which locks are held and end when it is "
        "lost. Default: the host name.",
    )
    state: Path | None = Field(
        default=None,
        description="State folder of `interlock up` on this machine. "
        "Default: $XDG_STATE_HOME/interlock, else ~/.local/state/interlock.",
    )
    data: Path | None = Field(
        default=None,
        description="Folder of this host's store of artifacts, the same for its workers and its "
        "agent. Default: `store` in the state folder.",
    )
    connect_timeout_s: float = Field(
        default=10.0, gt=0, description="Seconds to wait for the first connection."
    )
    outbox_max_messages: int = Field(
        default=1_000_000, ge=1, description="Most messages that may wait in an outbox."
    )
    outbox_max_bytes: int = Field(
        default=1024**3, ge=1, description="Most bytes of messages that may wait in an outbox."
    )
    outbox_drain_s: float = Field(
        default=5.0,
        ge=0,
        description="Seconds that a closing worker goes on forwarding its outbox.",
    )


class ServiceSettings(ConnectionSettings):
    """What every service can be told on top of it."""

    concurrency: int = Field(
        default=64, ge=1, le=10_000, description="Messages handled at the same time."
    )
    flood_breaker: bool = Field(
        default=True,
        description="Pause a consumer whose handler fails for most messages.",
    )
    flood_ratio: float = Field(
        default=_FLOOD.ratio, gt=0, le=1, description="Share of failed messages that pauses it."
    )
    flood_least: int = Field(
        default=_FLOOD.least, ge=1, description="Messages below which no share is drawn."
    )
    flood_window_s: float = Field(
        default=_FLOOD.window_s, gt=0, description="Seconds for which outcomes count."
    )
    flood_consecutive: int = Field(
        default=_FLOOD.consecutive, ge=1, description="Messages failed in a row that pause it."
    )
    flood_pause_s: float = Field(
        default=_FLOOD.pause_s, gt=0, description="Seconds of the first pause; it doubles."
    )
    flood_cap_s: float = Field(
        default=_FLOOD.cap_s, gt=0, description="Seconds of the longest pause."
    )
    drain_s: float = Field(
        default=20.0, gt=0, description="Seconds that work in hand may take after SIGTERM."
    )
    connect_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds to wait for the first connection."
    )
    durability: Literal["enforce", "degrade", "strict"] = Field(
        default="enforce",
        description="When the broker is known to keep less than is declared. enforce: do not "
        "start. degrade: say so and go on. strict: do not start either when it cannot be told.",
    )

    @property
    def flood(self) -> FloodPolicy | None:
        """When a consumer is paused; None: never."""
        if not self.flood_breaker:
            return None
        return FloodPolicy(
            ratio=self.flood_ratio,
            least=self.flood_least,
            window_s=self.flood_window_s,
            consecutive=self.flood_consecutive,
            pause_s=self.flood_pause_s,
            cap_s=self.flood_cap_s,
        )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important level that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, JSON lines otherwise."
    )
