"""Starts a module as a process of a run: ``… launch --module NAME --plant BUG``.

What comes before the module's own code: its wall clock may jump, and it may have a bug put in.
"""

import argparse
import runpy
import sys

from interlock.chaos.locks import clocks
from interlock.chaos.locks.planting import Plant, plant

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--module", required=True)
    parser.add_argument("--plant", type=Plant, choices=list(Plant))
    given, rest = parser.parse_known_args()
    clocks.settle_in()
    if given.plant is not None:
        plant(given.plant)
    # A service takes no arguments, and keeps no ledger.
    own = ["--name", given.name, "--ledger", given.ledger] if rest else []
    sys.argv = [given.module, *own, *rest]
    runpy.run_module(given.module, run_name="__main__", alter_sys=True)
