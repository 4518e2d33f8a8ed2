"""Settings of the event-normalizer."""

from pydantic import Field

from interlock.settings import ServiceSettings

__all__ = ["Settings"]


class Settings(ServiceSettings):
    """What every service can be told; more messages at a time, because each is short."""

    concurrency: int = Field(
        default=256, ge=1, le=10_000, description="Legacy messages handled at the same time."
    )
