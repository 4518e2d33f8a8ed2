"""Runs the health-monitor: ``python -m interlock_health_monitor``."""

import resource

from interlock.service import run
from interlock_health_monitor.contract import CONTRACT
from interlock_health_monitor.service import setup
from interlock_health_monitor.settings import Settings

if __name__ == "__main__":
    # A connection over SSH takes a descriptor, and there may be thousands.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    run(CONTRACT, Settings, setup)
