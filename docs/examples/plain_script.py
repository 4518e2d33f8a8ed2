"""Publish from a plain script. When it has ended, everything is on the broker's disk."""

import interlock
from interlock_schemas.selfplay import SelfplayCompleted

with interlock.connect_blocking() as fleet:
    for games in (100, 250, 400):
        ack = fleet.publish(SelfplayCompleted(config="hex8_2p", node="gpu-7", games=games))
    print(f"stored as {ack.stream} {ack.seq}")
