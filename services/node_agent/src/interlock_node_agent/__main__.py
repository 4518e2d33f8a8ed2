"""Runs the node-agent: ``python -m interlock_node_agent``."""

from interlock.service import run
from interlock_node_agent.contract import CONTRACT
from interlock_node_agent.service import setup
from interlock_node_agent.settings import Settings

if __name__ == "__main__":
    run(CONTRACT, Settings, setup)
