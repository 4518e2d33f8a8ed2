"""Settings of the dead-letter-queue."""

from pydantic import Field

from interlock.settings import ServiceSettings

__all__ = ["Settings"]


class Settings(ServiceSettings):
    """What every service can be told, and how much one command may do."""

    page_limit: int = Field(
        default=1_000, ge=1, le=10_000, description="Most letters on one page of a list."
    )
    batch_limit: int = Field(
        default=500, ge=1, le=5_000, description="Most letters that one replay or discard touches."
    )
