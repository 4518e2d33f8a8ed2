"""Runs the dead-letter-queue: ``python -m interlock_dead_letter_queue``."""

from interlock.service import run
from interlock_dead_letter_queue.contract import CONTRACT
from interlock_dead_letter_queue.service import setup
from interlock_dead_letter_queue.settings import Settings

if __name__ == "__main__":
    run(CONTRACT, Settings, setup)
