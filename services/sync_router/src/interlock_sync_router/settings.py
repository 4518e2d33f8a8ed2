"""Settings of the sync-router."""

from pathlib import Path

from pydantic import Field

from interlock.settings import ServiceSettings

__all__ = ["Settings"]


class Settings(ServiceSettings):
    """What every service can be told, and what a router has to know."""

    sync_debounce_s: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="Seconds that news is gathered for before a plan is made.",
    )
    sync_sweep_s: float = Field(
        default=30.0, gt=0, le=3_600, description="Everything is planned anew so often, seconds."
    )
    sync_fleet_bytes_per_s: float | None = Field(
        default=None, gt=0, description="The most that all transfers together may move."
    )
    sync_fleet_slots: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Transfers at once in the whole fleet. Default: as many as the nodes take.",
    )
    sync_open_orders: int = Field(
        default=32, ge=1, le=10_000, description="Orders that stand for one node at a time."
    )
    sync_staging: Path | None = Field(
        default=None,
        description="Folder through which data goes to hosts that have SSH only. "
        "Default: below the state folder.",
    )
    sync_ssh_identity: Path | None = Field(
        default=None, description="Private key for such hosts, where their description names none."
    )
    sync_known_hosts: Path | None = Field(
        default=None,
        description="Host keys in OpenSSH's format, for hosts whose description has none.",
    )
