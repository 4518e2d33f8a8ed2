"""Runs the event-normalizer: ``python -m interlock_event_normalizer``."""

from interlock.service import run
from interlock_event_normalizer.contract import CONTRACT
from interlock_event_normalizer.service import setup
from interlock_event_normalizer.settings import Settings

if __name__ == "__main__":
    run(CONTRACT, Settings, setup)
