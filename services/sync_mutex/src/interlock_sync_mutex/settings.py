"""Settings of the sync-mutex."""

from pydantic import Field

from interlock.settings import ServiceSettings

__all__ = ["Settings"]


class Settings(ServiceSettings):
    """What every service can be told, and how patient this one is."""

    take_up_s: float = Field(
        default=1.0,
        ge=0.1,
        le=5.0,
        description="A waiter that is handed a lock and stays silent for so long, seconds, loses "
        "its turn.",
    )
    commit_s: float = Field(
        default=5.0,
        ge=0.5,
        le=60.0,
        description="How long the broker may take to store one step, seconds.",
    )
