"""Runs the sync-mutex: ``python -m interlock_sync_mutex``."""

from interlock.service import run
from interlock_sync_mutex.contract import CONTRACT
from interlock_sync_mutex.service import setup
from interlock_sync_mutex.settings import Settings

if __name__ == "__main__":
    run(CONTRACT, Settings, setup)
