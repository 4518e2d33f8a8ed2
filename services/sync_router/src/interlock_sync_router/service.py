"""Runs the sync-router: what it hears becomes a world, the plan becomes orders."""

from interlock.service import Service
from interlock_sync_router.settings import Settings

__all__ = ["setup"]


async def setup(service: Service) -> None:
    """Prepare the service."""
    if not isinstance(service.settings, Settings):
        raise TypeError("the sync-router needs its own settings")
