"""Runs the health-monitor: ``python -m interlock_health_monitor``."""

from interlock.service import run
from interlock_health_monitor.contract import CONTRACT
from interlock_health_monitor.service import setup
from interlock_health_monitor.settings import Settings

if __name__ == "__main__":
    run(CONTRACT, Settings, setup)
