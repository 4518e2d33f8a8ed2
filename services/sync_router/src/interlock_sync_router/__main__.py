"""Runs the sync-router: ``python -m interlock_sync_router``."""

from interlock.service import run
from interlock_sync_router.contract import CONTRACT
from interlock_sync_router.service import setup
from interlock_sync_router.settings import Settings

if __name__ == "__main__":
    run(CONTRACT, Settings, setup)
